# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Bilinear CNN
#
# *The paper:* {footcite:t}`lin2015bilinear`, extended in {footcite:t}`lin2018bilinear`. A classifier on averaged features
# knows *that* there is red and *that* there is a cap. It does not know whether the cap is red. B-CNN pools **products of features**
# instead of features: what is averaged over the image is what fires **together**.
#
# What this chapter does: shows what the average forgets, builds second-order pooling in a few lines, checks it against
# `fgvc_lib`, trains it beside the plain network, looks for the pairs of channels that decide, and measures what the signed
# root, the norm and a second network bring.

# %% tags=["parameters"]
profile = "quick"
seeds = [0]
epochs = 8
train_limit = None
data = ""
device = "auto"

# %%
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from sklearn.svm import LinearSVC
from torch.utils.flop_counter import FlopCounterMode

from fgvc_lib import results
from fgvc_lib.backbones import BACKBONES, resnet, vgg
from fgvc_lib.data import load
from fgvc_lib.layers.bilinear import BilinearPool, bilinear_pool, signed_sqrt
from fgvc_lib.measures.parts import pointing_game
from fgvc_lib.results import benchmarks, wanted
from fgvc_lib.results.plots import COLORS, show, show_table, style
from fgvc_lib.results.tables import plus_minus, provenance_line, summarise

CHAPTER = "04_bilinear_cnn"
device = None if device == "auto" else device
measure = partial(wanted.measure, profile=profile, device=device)
style()

# %% [markdown]
# ## The problem
#
# Four features, two places. The features say *head*, *belly*, *red*, *grey*; the places are the head and the belly of a bird. One
# bird has a red head and a grey belly, the other a grey head and a red belly. Two species, and their averages are the same:

# %% tags=["output"]
FEATURES = ("head", "belly", "red", "grey")
red_head = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])  # (M, L): features × places
red_belly = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
print("average, red head: ", red_head.mean(1).tolist())
print("average, red belly:", red_belly.mean(1).tolist())

# %% [markdown]
# No classifier on the average can tell them apart. What is missing is *head **and** red, at the same place*: a product of two
# features, taken before the places are averaged. A deeper network can learn a channel for "red head", but it has to spend one on
# each combination. Products give all of them at once.
#
# ## Second-order pooling
#
# Two networks (or one, used twice) see the image $I$. At each of $L$ places $l$ of their last maps they give $a_l \in \mathbb R^M$ and
# $b_l \in \mathbb R^N$. The **outer product** holds every product of a feature of the one with a feature of the other,
# and these are pooled over the places:
#
# $$
# \Phi(I) = \sum_{l=1}^{L} a_l\, b_l^\top \in \mathbb R^{M \times N} .
# $$ (eq-bcnn-pool)
#
# Then a **signed square root** and a division by the **length** make the vector that a linear classifier reads:
#
# $$
# x = \mathrm{vec}\,\Phi, \qquad y = \mathrm{sign}(x)\sqrt{|x|}, \qquad z = \frac{y}{\lVert y \rVert_2} .
# $$ (eq-bcnn-norm)
#
# From scratch, with a loop over the places:


# %% tags=["output"]
def bilinear_from_scratch(a, b):
    """Φ of maps (M, L) and (N, L)."""
    phi = torch.zeros(len(a), len(b))
    for l in range(a.shape[1]):  # noqa: E741 - the paper's letter
        phi += torch.outer(a[:, l], b[:, l])
    return phi


pairs = {"red head": red_head, "red belly": red_belly}
second_order = {name: bilinear_from_scratch(x, x) for name, x in pairs.items()}
for name, x in pairs.items():
    library = bilinear_pool(x.view(1, 4, 1, 2))[0]  # the library averages over the places
    torch.testing.assert_close(library * x.shape[1], second_order[name])
    print(f"{name:<10} head·red = {second_order[name][0, 2]:g}, head·grey = {second_order[name][0, 3]:g}")

# %% tags=["figure"]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), width_ratios=(1, 2, 1, 2))
for (first, second), (name, x) in zip(axes.reshape(2, 2), pairs.items(), strict=True):
    for ax, values, title in ((first, x.mean(1)[:, None], "average"), (second, second_order[name], "$\\Phi$")):
        ax.imshow(values, cmap="Blues", vmin=0, vmax=1.6)
        for (i, j), v in np.ndenumerate(values.numpy()):
            ax.text(j, i, f"{v:g}", ha="center", va="center")
        ax.set(yticks=range(4), yticklabels=FEATURES, xticks=[], title=f"{name}: {title}")
    second.set(xticks=range(4), yticks=[])
    second.set_xticklabels(FEATURES, rotation=45)
show(
    figure,
    name="fig-bcnn-toy",
    caption="Two birds whose averages are equal. Their second-order features differ in the entries that join a place with a "
    "colour.",
    alt="For each of two toy birds, a column of four averaged features, the same for both, and a four by four matrix of pooled "
    "products, which differ off the diagonal.",
)

# %% [markdown]
# The products of the paper's "what" and "where" are its first motivation: if one network says *which part is here* and the other
# *what it looks like*, their outer product is a table of parts and looks. Nothing tells the networks to share the work like that; they are
# trained on the class alone.
#
# ### What a linear classifier on Φ is
#
# A class with weights $V \in \mathbb R^{M \times N}$ scores (before root and norm)
#
# $$
# \langle V, \Phi \rangle = \sum_{l} a_l^\top V\, b_l ,
# $$ (eq-bcnn-quadratic)
#
# a **quadratic form at every place**, summed. If $V = u v^\top$, it is $(u^\top a_l)(v^\top b_l)$: one detector times another, a soft
# AND. And two images are compared by comparing *every place with every place*, with one stream
#
# $$
# \langle \Phi(I), \Phi(J) \rangle = \sum_{l} \sum_{m} \big( a_l(I)^\top a_m(J) \big)^2 .
# $$ (eq-bcnn-kernel)
#
# The square makes the good matches count and the many mediocre ones not. Both identities, and the gradient that the paper gives,
# $\partial L / \partial A = B\, (\partial L / \partial \Phi)^\top$ with $A, B$ holding a row for each place, in numbers:

# %% tags=["output"]
g = torch.Generator().manual_seed(0)
a, b, other = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (3, 5, 3))  # (M, L), (N, L), (M, L)
v = torch.randn(3, 5, generator=g, dtype=torch.float64)  # (M, N)
torch.testing.assert_close((v * (a @ b.T)).sum(), sum(a[:, i] @ v @ b[:, i] for i in range(6)))
torch.testing.assert_close(((a @ a.T) * (other @ other.T)).sum(), (a.T @ other).square().sum())

a.requires_grad_()
phi = a @ b.T
upstream = torch.randn(3, 5, generator=g, dtype=torch.float64)  # ∂L/∂Φ
(gradient,) = torch.autograd.grad(phi, a, upstream)
torch.testing.assert_close(gradient.T, b.T @ upstream.T)  # a row a place
print("quadratic form, kernel and gradient agree")

# %% [markdown]
# So forward and backward are matrix products of the size of the maps. The $L$ outer products themselves, $L \cdot M \cdot N$ numbers, need
# never be written down, and the library does not.
#
# ## Why the root and the norm?
#
# **Burstiness.** A feature that fires at many places fires with *itself* at all of them, so its entry of Φ grows with its area. Sixty
# cells of grass and four of bird:

# %% tags=["output"]
scene = torch.zeros(2, 64)  # features "grass" and "bird", 8 × 8 places
scene[0, :60], scene[1, 60:] = 1, 1
phi = bilinear_pool(scene.view(1, 2, 8, 8))[0]


def bird_share(x):
    """Share of the bird's entry in the squared length, which is what inner products weigh by."""
    return float(x[1, 1].square() / x.square().sum())


print(f"share of the bird in ‖Φ‖²: {100 * bird_share(phi):.2f} %")
print(f"after the root:            {100 * bird_share(signed_sqrt(phi)):.2f} %, its share of the area")

# %% [markdown]
# The root takes back the square that the product brought in. It keeps the **sign**, since entries of maps without a
# ReLU, or of two different streams, can be negative. The **norm** takes out the size: a bird photographed with
# twice the contrast has the same $z$.
#
# The root has a flaw: its slope at zero is infinite, and there are many zeros, the entries of all pairs of channels that never fire
# together. Released code takes $\sqrt{x + \varepsilon}$, without the sign. The library takes
#
# $$
# y = \frac{x}{\sqrt{|x| + \varepsilon}}, \qquad \frac{dy}{dx} \le \frac{1}{\sqrt\varepsilon},
# $$ (eq-bcnn-root)
#
# which is odd, zero at zero, and the paper's root for all $|x| \gg \varepsilon = 10^{-5}$.

# %% tags=["figure"]
EPS = 1e-5
x = torch.linspace(-1e-4, 1e-4, 401, dtype=torch.float64)
small = torch.logspace(-8, 0, 200, dtype=torch.float64)
roots = {
    "paper: sign(x)√|x|": lambda t: t.sign() * t.abs().sqrt(),
    "released: √(x + ε)": lambda t: (t + EPS).sqrt(),
    "library": lambda t: signed_sqrt(t, eps=EPS),
}
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
for (name, root), color, ls in zip(roots.items(), COLORS, ("-", "--", "-."), strict=False):
    axes[0].plot(x * 1e4, root(x), label=name, color=color, ls=ls)
    t = small.clone().requires_grad_()
    (slope,) = torch.autograd.grad(root(t).sum(), t)
    axes[1].loglog(small, slope, color=color, ls=ls)
axes[0].set(xlabel="x, 10⁻⁴", title="root")
axes[0].legend()
axes[1].set(xlabel="x", title="slope")
show(
    figure,
    name="fig-bcnn-root",
    caption="Three square roots near zero. The released one has no value for clearly negative entries and lifts every empty "
    "entry to √ε. The paper's has an unbounded slope at zero.",
    alt="Left, three curves near zero: two odd ones through the origin and one that starts left of zero and crosses the axis above "
    "the origin. Right, their slopes in logarithmic scale: one grows without bound towards zero, two level off.",
)

# %% tags=["output"]
pool = BilinearPool()
maps = torch.rand(2, 5, 4, 4, generator=g)
torch.testing.assert_close(pool(maps), pool(2 * maps), atol=1e-3, rtol=0)  # contrast does not matter
y = bilinear_from_scratch(maps[0].flatten(1), maps[0].flatten(1)).flatten().sqrt()  # all entries positive here
torch.testing.assert_close(pool(maps)[0], y / y.norm(), atol=1e-4, rtol=0)  # the sum gives the same z as the mean
print("length of z:", pool(maps).norm(dim=1).tolist())

# %% [markdown]
# ## Training
#
# The paper trains in **two steps**: first only the classifier, on features that a network brought along from ImageNet; then everything, at
# a small rate. The reason is in {eq}`eq-bcnn-norm`: $z$ has length one, so the classifier's gradient $(p - y)\,z^\top$ is small, and a
# rate that moves it would wreck the pretrained layers below a random classifier. In `fgvc_lib` these are the two *phases* of
# the method: `head_share` of the epochs go to the head alone, at `head_lr_scale` times the learning rate.
#
# Here networks start from scratch, without features worth freezing: everything is trained from the start (`head_share=0`), and
# {ref}`one of the tables below <bcnn-phases>` asks what a first step on random features does. The length of $z$ still matters, and
# B-CNN gets a larger learning rate than the plain network.

# %%
configs = {
    "average pooling": wanted.groups()["birds/baseline"].configs(profile)["linear head"][0],
    "B-CNN": wanted.groups()["bcnn/live"].configs(profile)["B-CNN"][0],
}
trained = {
    row: results.trained(config, profile=profile, chapter=CHAPTER, device=device) for row, config in configs.items()
}
birds = load(configs["B-CNN"].data, **configs["B-CNN"].data_args)
plain, bcnn = (method for method, _ in trained.values())
where = next(bcnn.parameters()).device
live_line = provenance_line([record for _, record in trained.values()])
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))
some = np.arange(384)  # test images that this page looks at; classes take turns
pixels = torch.from_numpy(birds.test.images[some]).float() / 255  # (384, 3, 64, 64)
labels = birds.test.labels[some].to(where)


def last_map(method, images):
    """The map that is pooled, (B, M, h, w), of images with values in [0, 1]."""
    with torch.no_grad():
        return method.backbone(((images - mean) / std).to(where))[method.backbone.last]


def classify(method, features):
    """Logits from that map."""
    with torch.no_grad():
        return method.head(method.pool(features) if method is bcnn else features.mean((2, 3)))


def accuracy(method, features):
    return (classify(method, features).argmax(1) == labels).float().mean().item()


pooled = {row: last_map(method, pixels) for row, (method, _) in trained.items()}

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for (row, (_, record)), color in zip(trained.items(), COLORS, strict=False):
    for ax, split in zip(axes, ("train", "val"), strict=True):
        ax.plot(
            [e["epoch"] for e in record.history],
            [100 * e[f"{split}_accuracy"] for e in record.history],
            color=color,
            marker="o",
            ms=2.5,
            label=row,
        )
for ax, title in zip(axes, ("training images", "validation images"), strict=True):
    ax.set(xlabel="epoch", ylabel="accuracy, %", title=title)
axes[0].legend()
show(
    figure,
    name="fig-bcnn-training",
    caption="The two networks of this page, trained from scratch on the synthetic birds: the same layers, order of batches "
    "and number of epochs, another pooling.",
    alt="Accuracy over epochs on training and validation images, for average pooling and for B-CNN.",
)

# %% tags=["table"]
live = [
    {
        "network": row,
        "test accuracy, %": plus_minus([record.final["test_accuracy"]]),
        "numbers that are classified": f"{method.head.in_features:,}",
        "weights of the classifier": f"{method.head.weight.numel():,}",
    }
    for row, (method, record) in trained.items()
]
show_table(pd.DataFrame(live), foot=live_line)

# %% [markdown]
# ## A look inside
#
# ### Where things stand does not matter
#
# {eq}`eq-bcnn-pool` is a sum over places. Shuffle the places and nothing changes: Φ is **orderless**, a texture descriptor. So is
# the average. The map's cells still look at their surroundings, so shuffling the *image* is another matter. We do both: cells of
# the last map, and tiles of the image.


# %% tags=["output"]
def tiles(images, n, seed=0):
    """Cut images into n × n tiles and lay them out in an order drawn for each image."""
    batch, channels, side, _ = images.shape
    s = side // n
    cut = images.unfold(2, s, s).unfold(3, s, s)  # (B, 3, n, n, s, s)
    cut = cut.permute(0, 2, 3, 1, 4, 5).reshape(batch, n * n, channels, s, s)
    order = torch.rand(batch, n * n, generator=torch.Generator().manual_seed(seed)).argsort(1)
    cut = cut[torch.arange(batch)[:, None], order].view(batch, n, n, channels, s, s)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


places = torch.randperm(64, generator=g)
for row, (method, _) in trained.items():
    shuffled = pooled[row].flatten(2)[:, :, places].view_as(pooled[row])
    change = (classify(method, shuffled) - classify(method, pooled[row])).abs().max().item()
    print(f"{row:<16} largest change of a logit after shuffling the cells of the map: {change:.1e}")
    assert change < 1e-3

# %% tags=["figure"]
counts = (1, 2, 4, 8)
figure = plt.figure(figsize=(9, 3))
left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
for ax, n in zip(left.subplots(1, len(counts)), counts, strict=True):
    ax.imshow(tiles(pixels[:1], n)[0].permute(1, 2, 0))
    ax.set(xticks=[], yticks=[], title=f"{n} × {n}")
ax = right.subplots()
for (row, (method, _)), color, marker in zip(trained.items(), COLORS, "os", strict=False):
    scores = [100 * accuracy(method, last_map(method, tiles(pixels, n))) for n in counts]
    ax.plot(range(len(counts)), scores, marker=marker, color=color, label=row)
ax.axhline(100 / len(birds.classes), color="black", lw=0.8, ls=":", label="chance")
ax.set(xlabel="tiles", ylabel="accuracy, %", ylim=(0, 100))
ax.set_xticks(range(len(counts)), [f"{n}²" for n in counts])
ax.legend()
show(
    figure,
    name="fig-bcnn-tiles",
    caption="A test bird cut into tiles that are laid out anew, and the accuracy of both networks on such images. Larger tiles "
    "keep more of what a cell of the last map looks at.",
    alt="Left, one bird cut into one, four, sixteen and sixty-four shuffled tiles. Right, accuracy of both networks over the number of "
    "tiles, with a dotted line for chance.",
)

# %% [markdown]
# For birds this is a strength (they sit, fly and hang in all poses) and a limit: that the ring is *around the eye* has to be
# seen by one cell, or it is not seen.
#
# ### Which places and which pairs decide?
#
# With average pooling the score of a class is a sum over places, $\sum_l w^\top a_l$, and drawing the summands gives a class activation
# map. For B-CNN, root and norm stand between. But Φ is a mean over places, so to first order the evidence of place $l$ is a
# quadratic form, with the gradient of the score in place of $V$:
#
# $$
# e_l = a_l^\top G\, a_l, \qquad G = \frac{\partial\, \text{score}}{\partial \Phi} .
# $$ (eq-bcnn-evidence)
#
# With the norm, the score does not change when Φ is scaled, so $\langle G, \Phi \rangle = 0$: the evidence of all places **adds up to
# zero**. It says which places speak for the class *more than the rest of the image does*.


# %% tags=["output"]
def evidence(row, features):
    """Evidence of each place for the true class, (B, h, w)."""
    if row == "average pooling":
        return torch.einsum("bchw,bc->bhw", features, plain.head.weight[labels].detach())
    phi = bilinear_pool(features).requires_grad_()  # (B, M, M)
    scores = bcnn.head(bcnn.pool.vector(phi)).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), phi)  # (B, M, M)
    return torch.einsum("bihw,bij,bjhw->bhw", features, gradient, features)


maps = {row: evidence(row, features).cpu() for row, features in pooled.items()}
total = maps["B-CNN"].mean((1, 2)).abs().mean() / maps["B-CNN"].abs().mean()
print(f"sum of the evidence over its absolute sum, mean over images: {total:.4f}")

# %% [markdown]
# **Where does a cell look?** Cell $i$ of eight is usually drawn over the pixels $8i$ to $8i + 8$. But a $3 \times 3$ convolution with stride 2 and a padding of
# one centres its first output on the first pixel, and each of the three such steps of this network leans the same way. The centre of what moves a cell
# can be measured by the gradient with respect to the image:

# %% tags=["output"]
probe = ((pixels[:32] - mean) / std).to(where).requires_grad_()
(influence,) = torch.autograd.grad(bcnn.backbone(probe)[bcnn.backbone.last][:, :, 4, 4].square().sum(), probe)
influence = influence.square().sum((0, 1)).cpu()  # (64, 64)
centre = [((influence.sum(axis) * (torch.arange(64) + 0.5)).sum() / influence.sum()).item() for axis in (1, 0)]
print(f"cell (4, 4) would be drawn around pixel 36; it looks around row {centre[0]:.1f}, column {centre[1]:.1f}")
offset = -(8 - 1) / 2  # what three steps of ½, 1 and 2 pixels add up to
frame = (offset, 64 + offset, 64 + offset, offset)  # where maps are drawn on this page


# %% tags=["figure"]
deciding = torch.from_numpy(birds.test.parts["deciding"][some])
boxes = torch.from_numpy(birds.test.parts["boxes"][some])[torch.arange(len(some)), deciding]  # (384, 4)
right = classify(bcnn, pooled["B-CNN"]).argmax(1) == labels
shown = []
for part in ("crown", "eye", "beak", "breast", "wing"):
    mine = (deciding == birds.part_names.index(part)).nonzero().flatten()
    shown.append(int(next((i for i in mine if right[i]), mine[0])))
z = bcnn.pool(pooled["B-CNN"])  # (B, M·M)
size = bcnn.backbone.out_channels
figure, axes = plt.subplots(4, len(shown), figsize=(9, 7.4))
for column, i in zip(axes.T, shown, strict=True):
    column[0].imshow(pixels[i].permute(1, 2, 0), extent=(0, 64, 64, 0))
    column[1].imshow(maps["average pooling"][i], extent=frame)
    limit = maps["B-CNN"][i].abs().max()
    column[2].imshow(maps["B-CNN"][i], extent=frame, cmap="PuOr_r", vmin=-limit, vmax=limit)
    weight = (bcnn.head.weight[labels[i]] - bcnn.head.weight.mean(0)).detach()  # against the other classes
    pair = (weight * z[i]).view(size, size)  # (M, M) what each pair adds to the score
    c, d = divmod(int((pair + pair.T).triu().argmax()), size)
    features = pooled["B-CNN"][i].cpu()
    column[3].imshow(features[c] * features[d], extent=frame)
    column[3].set_xlabel(f"channels {c} and {d}" if c != d else f"channel {c}, squared", fontsize=8)
    x1, y1, x2, y2 = boxes[i].tolist()
    for ax, color in zip(column, ("black", "white", "black", "white"), strict=True):
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.6))
        ax.set(xticks=[], yticks=[], xlim=(0, 64), ylim=(64, 0))
    column[0].set_title(birds.classes[labels[i]], fontsize=9)
for ax, text in zip(axes[:, 0], ("image", "average pooling", "B-CNN", "strongest pair"), strict=True):
    ax.set_ylabel(text)
show(
    figure,
    name="fig-bcnn-evidence",
    caption="Five test birds with their deciding part in a box. Second row: evidence of the plain network for the true class, the "
    "class activation map. Third: evidence of B-CNN, orange for, purple against. Last: the product of the two channels "
    "whose entry of z adds most to the true class beyond the others.",
    alt="Four rows of five pictures: birds with a box around one part, class activation maps, signed evidence maps, and products of two "
    "channels, each with the same box.",
)


# %% tags=["table"]
def pointing(evidence_maps):
    """Share of images whose evidence peaks on the deciding part or within half a cell, and on the next image's."""
    masks = torch.from_numpy(birds.test.parts["masks"][some, deciding.numpy()])  # (384, H, W)
    masks = masks.roll((3, 3), (1, 2))  # the maps' offset, in whole pixels; no part is near the border
    own, elsewhere = (pointing_game(evidence_maps, m, tolerance=4) for m in (masks, masks.roll(-1, 0)))
    return f"{100 * own.nanmean():.1f}", f"{100 * elsewhere.nanmean():.1f}"


found = {row: pointing(values) for row, values in maps.items()}
show_table(
    pd.DataFrame(
        {"network": row, "peak on the deciding part, %": own, "on the next image's part, %": elsewhere}
        for row, (own, elsewhere) in found.items()
    ),
    foot=f"{len(some)} test images, evidence for the true class, peak on the part or within half a cell. {live_line}",
)

# %% [markdown]
# The second column is the control: birds tend to stand in the middle, so a peak there would often be near *some* image's deciding part.
#
# ### How many products are used?
#
# A class weighs $M^2$ products by a matrix $V$. If a class is a few soft ANDs, then $V$ is close to a matrix of low rank. We cut $V$ of
# every class to its largest singular values and count what is still right.

# %% tags=["figure"]
weight = bcnn.head.weight.detach().view(-1, size, size)  # (classes, M, M)
symmetric = (weight + weight.mT) / 2  # Φ of one stream is symmetric and sees only this part
u, s, vt = torch.linalg.svd(symmetric)
ranks = [r for r in (1, 2, 4, 8, 16, 32, 64) if r <= size]
scores = []
for r in ranks:
    low = (u[:, :, :r] * s[:, None, :r]) @ vt[:, :r]  # (classes, M, M)
    logits = z @ low.flatten(1).T + bcnn.head.bias
    scores.append(100 * (logits.argmax(1) == labels).float().mean().item())
figure, ax = plt.subplots(figsize=(5.6, 3))
ax.plot(range(len(ranks)), scores, "o-", color=COLORS[0], label="B-CNN, cut to a rank")
ax.axhline(100 * accuracy(plain, pooled["average pooling"]), color=COLORS[1], ls="--", label="average pooling")
ax.set_xticks(range(len(ranks)), [f"{r}" for r in ranks])
ax.set(xlabel="rank that is kept of each class's V", ylabel="accuracy, %", ylim=(0, 100))
ax.legend()
show(
    figure,
    name="fig-bcnn-rank",
    caption="Accuracy on the images of this page after the classifier's matrix of every class has been cut to a small rank.",
    alt="A curve of accuracy over the rank that is kept, from one to all, with the accuracy of average pooling as a dashed line.",
)

# %% [markdown]
# ## What it costs
#
# Not arithmetic: $L M N$ multiply-adds are little beside the network. What costs is the *length* of $z$. In the paper's setting, VGG-16 at
# 448 pixels, the classifier is larger than the convolutions below it.


# %% tags=["table"]
def multiply_adds(backbone, size):
    """Of one image, and the shape of its last map; counted on tensors that hold no data."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        last = list(backbone(torch.zeros(1, 3, size, size)).values())[-1]
    return counter.get_total_flops() / 2, last.shape[1:]


with torch.device("meta"):
    settings = {
        ("VGG-16, 448 px", 200): (vgg(16, batch_norm=False), 448),
        ("ResNet-50, 448 px", 200): (resnet(50), 448),
        ("small ResNet, 64 px", 12): (resnet("small", width=16), 64),
    }
lines = []
for (name, classes), (backbone, side) in settings.items():
    below, (channels, h, w) = multiply_adds(backbone, side)
    length = channels**2
    lines.append(
        {
            "network": name,
            "last map": f"{channels} × {h} × {w}",
            "length of z": f"{length:,}",
            "weights of the network": f"{sum(p.numel() for p in backbone.parameters()):,}",
            "of a classifier": f"{length * classes:,} ({classes} classes)",
            "multiply-adds, pooling / network, %": f"{100 * length * h * w / below:.2f}",
            "all outer products of an image, MB": f"{4e-6 * length * h * w:,.0f}",
        }
    )
show_table(pd.DataFrame(lines), foot="Counted on this page.")

# %% [markdown]
# The last column is what a literal formulation keeps for the backward pass. Measured by `benchmarks/second_order.py`, forward and
# backward of pooling, root and norm:

# %% tags=["table"]
lines, feet = [], []
for bench in benchmarks.records("second_order"):
    layer = bench["layers"]["bilinear pooling"]
    for way, name in (("library", "one matrix product"), ("literal", "outer products, then their sum")):
        lines.append(
            {
                "device": bench["device"]["name"],
                "maps": " × ".join(str(n) for n in layer["shape"]),
                "formulation": name,
                "time, ms": f"{1e3 * layer['seconds'][way]['median']:.1f}",
                "peak memory, MB": f"{1e-6 * layer['peak_bytes'][way]:,.0f}",
            }
        )
    feet.append(f"torch {bench['versions']['torch']}, {bench['repeats']} rounds in turn, medians")
show_table(
    pd.DataFrame(lines, columns=None if lines else ["device"]), foot="; ".join(feet) or "Nothing has been measured yet."
)

# %% [markdown]
# ## Measured
#
# From here on numbers come from committed records; the line under each table says which profile, data, seeds and device. While this page
# was built in the quick profile, every row was also run for two steps to prove that it still runs. A table without numbers has not been measured yet.

# %%
ACCURACY = {"test accuracy, %": "test_accuracy", "training accuracy, %": "train_accuracy"}
components, by_component = measure("bcnn/components")

# %% [markdown]
# ### Root and norm
#
# Average pooling against the four ways to finish Φ. The lengths of the vectors differ, and with them the gradients, so one learning rate
# cannot be fair to all. The rows have the rates in the table, and the next table says how much depends on them.

# %% tags=["table"]
rates = {row: configs[0].lr for row, configs in wanted.groups()["bcnn/components"].configs("quick").items()}
table = summarise(by_component, ACCURACY, "pooling")
table.insert(1, "learning rate", [f"{rates[row]:g}" for row in table["pooling"]])
show_table(table, foot=provenance_line(components))

# %%
by_rates, by_rate = measure("bcnn/rates")

# %% tags=["table"]
show_table(
    summarise(by_rate, ACCURACY | {"validation accuracy, %": "val_accuracy"}, "pooling, learning rate"),
    foot=provenance_line(by_rates),
)

# %% [markdown]
# The same on real images: crops of part of Stanford Cars {footcite:p}`krause2013object`, 196 classes, from scratch on one GPU, with a $z$ of
# 262,144 numbers as in the paper. It is not the published benchmark: compare rows, not papers.

# %%
cars, by_car = measure("bcnn/cars")

# %% tags=["table"]
show_table(summarise(by_car, ACCURACY, "pooling"), foot=provenance_line(cars))

# %% [markdown]
# ### One stream or two?
#
# The paper's best model has two different networks. Two streams also have two networks' worth of weights and multiply-adds. So the table has a third
# kind of row: one stream, made wider until it costs as much.

# %%
streams, by_stream = measure("bcnn/streams")
car_streams, by_car_stream = measure("bcnn/cars_streams")

# %% tags=["table"]
costs = {}
for row, configs in wanted.groups()["bcnn/streams"].configs("quick").items():
    config = configs[0]
    nets = [BACKBONES[config.backbone](**config.backbone_args)]
    if second := config.method_args.get("second"):
        nets.append(BACKBONES[second["backbone"]](**{k: v for k, v in second.items() if k != "backbone"}))
    sizes = [multiply_adds(net.to("meta"), 64) for net in nets]
    costs[row] = (" and ".join(str(shape[0]) for _, shape in sizes), sum(count for count, _ in sizes) / 1e6)
table = summarise(by_stream, ACCURACY, "streams")
table.insert(1, "channels", [costs[row][0] for row in table["streams"]])
table.insert(2, "multiply-adds, 10⁶", [f"{costs[row][1]:.1f}" for row in table["streams"]])
show_table(table, foot=provenance_line(streams))

# %% tags=["table"]
show_table(summarise(by_car_stream, ACCURACY, "streams, cars"), foot=provenance_line(car_streams))

# %% [markdown]
# Two maps of different size are averaged down to the smaller one; the two streams may have any numbers of channels, and Φ is then not square.
#
# (bcnn-phases)=
# ### Two steps of training
#
# With pretrained features the first step is the one that needs them. Here the features are random when they are frozen. What does a first step on them
# cost, at an equal number of epochs?

# %%
phases, by_phase = measure("bcnn/phases")

# %% tags=["table"]
show_table(summarise(by_phase, ACCURACY, "share of the epochs for the head alone"), foot=provenance_line(phases))

# %% [markdown]
# Why the head wants a large rate can be seen from what it is fed. Its gradient is $(p - y)$ times the pooled vector, averaged over the
# batch; here is that vector's length and the length of the gradient in the networks of this page, with the true labels of other images, as at the
# start of training.

# %% tags=["output"]
wrong = labels.roll(1)
for row, vector, head in (
    ("average pooling", pooled["average pooling"].mean((2, 3)), plain.head),
    ("B-CNN", z, bcnn.head),
):
    even = torch.full((len(labels), len(birds.classes)), 1 / len(birds.classes), device=where)
    error = even - torch.nn.functional.one_hot(wrong, len(birds.classes))  # p − y of an undecided network
    gradient = error.T @ vector / len(labels)
    share = (gradient.norm() / head.weight.detach().norm()).item()
    print(f"{row:<16} length of the vector {vector.norm(dim=1).mean().item():5.2f}   gradient over weights {share:.4f}")

# %% [markdown]
# ### The paper's support vector machines
#
# For its final scores the paper throws the softmax classifier away, extracts $z$ and trains linear support vector machines on it
# (one against the rest, $C = 1$). On the two networks of this page:


# %% tags=["table"]
def vectors(row, images):
    features = last_map(trained[row][0], torch.from_numpy(np.asarray(images)).float() / 255)
    return (bcnn.pool(features) if row == "B-CNN" else features.mean((2, 3))).cpu().numpy()


lines = []
for row, (method, _) in trained.items():
    machine = LinearSVC(C=1.0, dual=True, max_iter=100_000, random_state=0)
    machine.fit(vectors(row, birds.train.images), birds.train.labels.numpy())
    right = machine.predict(vectors(row, birds.test.images[some])) == labels.cpu().numpy()
    lines.append(
        {
            "network": row,
            "softmax classifier, %": f"{100 * accuracy(method, pooled[row]):.1f}",
            "support vector machines, %": f"{100 * right.mean():.1f}",
        }
    )
show_table(pd.DataFrame(lines), foot=f"{len(some)} test images. {live_line}")

# %% [markdown]
# ## Paper versus released code
#
# What is run by most is not the authors' MATLAB release but a PyTorch port. It differs from {eq}`eq-bcnn-pool` and {eq}`eq-bcnn-norm` in
# ways that can be run.
#
# **No sign.** The port takes $\sqrt{x + 10^{-5}}$. Without a ReLU before it, or with two streams of which one is centred, that is not a
# number:

# %% tags=["output"]
centred = torch.randn(1, 4, 3, 3, generator=g)
phi = bilinear_pool(centred)
print("entries of Φ that are negative:", int((phi < 0).sum()), "of", phi.numel())
print("not a number after √(x + 10⁻⁵):", int((phi + 1e-5).sqrt().isnan().sum()))
print("not a number in the library:   ", int(signed_sqrt(phi).isnan().sum()))

# %% [markdown]
# **Empty entries are lifted.** After a ReLU nothing is negative, but each empty entry becomes $\sqrt{10^{-5}} \approx 0.003$. The port divides Φ by the
# number of places, which does not matter for $z$, but makes $10^{-5}$ a larger share of it. How much of $z$ is made of that, in the network of this page?

# %% tags=["output"]
phi = bilinear_pool(pooled["B-CNN"]).flatten(1)  # (384, M²)
lifted = torch.nn.functional.normalize((phi + 1e-5).sqrt(), dim=1)
exact = torch.nn.functional.normalize(phi.sqrt(), dim=1)
print(f"entries below ε:                         {100 * (phi < 1e-5).float().mean():.1f} %")
print(f"cosine of the port's z and the paper's:  {(lifted * exact).sum(1).mean():.6f}")
print(f"cosine of the library's and the paper's: {(z * exact).sum(1).mean():.6f}")

# %% [markdown]
# **The root without anything.** A literal $\mathrm{sign}(x)\sqrt{|x|}$ trains until two channels never fire together in one image:

# %% tags=["output"]
x = torch.tensor([0.0, 0.25], requires_grad=True)
(gradient,) = torch.autograd.grad((x.sign() * x.abs().sqrt()).sum(), x)
(ours,) = torch.autograd.grad(signed_sqrt(x).sum(), x)
print("slope at 0 and at ¼, literal:", gradient.tolist())
print("library:                     ", [round(v, 4) for v in ours.tolist()])

# %% [markdown]
# **Half precision.** A sum over 28 × 28 places of products of strong features does not fit into 16 bits:

# %% tags=["output"]
strong = torch.full((1, 2, 28, 28), 12.0)
flat = strong.half().flatten(2)[0]
print("28 · 28 · 12² in float16:", (flat @ flat.T)[0, 0].item())
with torch.autocast("cpu", torch.float16):
    print("the library, as a mean: ", bilinear_pool(strong.half())[0, 0, 0].item())

# %% [markdown]
# **The test set steers.** The port lowers the learning rate when *test* accuracy stalls, and reports the best epoch by it. How much is in choosing
# an epoch? On the validation images of the runs of this page:

# %% tags=["output"]
for row, (_, record) in trained.items():
    val = [100 * e["val_accuracy"] for e in record.history]
    print(
        f"{row:<16} last epoch {val[-1]:.1f} %, best epoch {max(val):.1f} %, {max(val) - val[-1]:+.1f} points for nothing"
    )

# %% [markdown]
# That is the choice of an epoch alone, with a schedule that ends at zero; a schedule that reacts to the test set chooses more.
#
# **Names.** The port's comments say *pool5*; the map that it takes is the ReLU after conv5-3, without the pooling. `vgg(16)` of `fgvc_lib` ends at the same
# place.
#
# Published accuracies on Caltech-UCSD Birds for one VGG-16 stream, as the repositories state them, all with the best epoch on test data:
#
# | source | first step | both steps |
# | --- | --- | --- |
# | port, readme | 76.77 | 84.17 |
# | the same authors' faster port, readme | 75.47 | 84.41 |
# | a toolbox of fine-grained methods, results file | | 83.80, beside 84.1 quoted from the paper |
#
# ## Exercises
#
# 1. **Half of it is a copy.** Show that for one stream a classifier on $M(M+1)/2$ numbers can do all that one on $M^2$ can. What must be changed in
#    the vector so that inner products stay the same?
#
# ```{dropdown} Solution
# Φ is symmetric, so $\langle V, \Phi \rangle = \langle (V + V^\top)/2, \Phi \rangle$. Keep the diagonal and the upper triangle; off-diagonal
# entries count twice in an inner product, so multiply them by $\sqrt 2$. With the signed root in between, multiply after it.
# ```
#
# 2. **Average pooling inside.** Add a channel that is 1 everywhere. What does Φ hold now?
#
# ```{dropdown} Solution
# The row and column of the constant channel are the averages of all channels: first order is a part of second order. The corner is 1.
# ```
#
# 3. **Homogeneity.** Show that the evidence {eq}`eq-bcnn-evidence` adds up to zero with the norm, and to half of the score (without its bias)
#    with the root alone. What does ε change?
#
# ```{dropdown} Solution
# Euler: for $f(t \Phi) = t^k f(\Phi)$, $\langle \partial f / \partial \Phi, \Phi \rangle = k f$. The norm gives $k = 0$, the root alone $k = ½$. ε breaks the homogeneity
# of the smallest entries; the printed share above is what that amounts to, with rounding.
# ```
#
# 4. **A random shortcut.** Draw $r$ pairs of sign vectors $(p_k, q_k)$ and pool $(p_k^\top a_l)(q_k^\top b_l)$ instead of Φ. What is the expectation
#    of the inner product of two such vectors? Which matrix product becomes cheaper?
#
# ```{dropdown} Solution
# $\mathbb E\big[(p^\top a)(p^\top a')(q^\top b)(q^\top b')\big] = (a^\top a')(b^\top b')$, so the inner products of {eq}`eq-bcnn-kernel` are kept in expectation, with a variance
# that falls as $1/r$. The classifier has $r$ inputs in place of $MN$. Compact bilinear pooling does this with a cheaper projection.
# ```
#
# 5. **Texture or object?** {numref}`fig-bcnn-tiles` shuffles tiles at test time only. What do you expect of networks that are *trained* on shuffled tiles, and
#    which classes of the synthetic birds should suffer least?
#
# ```{dropdown} Solution
# Cells at tile borders stop being a surprise, so both lose less than they do here. Classes whose mark is smaller than a tile (a ring, a cap,
# a wing bar) keep it whole; a long beak or a forked tail is cut.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
