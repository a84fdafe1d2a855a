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
dataset = "birds"  # synthetic, with known parts
image_size = 64
backbone = "small"
pretrained = False
epochs = 30
batch_size = 32
lr = 0.1
max_steps = None
seeds = [0, 1, 2]
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
# instead of lr; without the norm the root is steep at small values
lrs = {"bilinear + root": 0.01, "bilinear + norm": 0.5, "bilinear + root + norm": 0.5}
# the rates that are compared
rates = {
    "average pooling": [0.02, 0.1, 0.5],
    "bilinear": [0.02, 0.1],
    "bilinear + root": [0.002, 0.01, 0.05, 0.1],
    "bilinear + root + norm": [0.1, 0.5, 1.0],
}
head_fraction = 0.0  # of the epochs, for the classifier alone
head_fractions = [0.0, 0.1, 0.5]
wider = {"width": 23}  # backbone with which one stream costs as much as two; {}: none
other = {"backbone": "vgg", "depth": 11, "width": 8, "blocks": 4}  # the unlike stream
method_args = {}  # further arguments of B-CNN
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fgvc_lib.backbones import BACKBONES, resnet, vgg
from fgvc_lib.data import load
from fgvc_lib.layers.bilinear import BilinearPool, bilinear_pool, signed_sqrt
from fgvc_study import Study, benchmarks, vary
from fgvc_study.figures import COLORS, show, show_table, style
from fgvc_study.metrics.parts import pointing_game
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize
from matplotlib.patches import Rectangle
from sklearn.svm import LinearSVC
from torch.utils.flop_counter import FlopCounterMode

pictures = 384  # test images that this page looks into; classes take turns
study = Study("04_bilinear_cnn", seeds=seeds, device=device, train=train)
base = configuration(
    dataset=dataset,
    image_size=image_size,
    backbone=backbone,
    pretrained=pretrained,
    epochs=epochs,
    batch_size=batch_size,
    lr=lr,
    max_steps=max_steps,
    settings=settings,
)
BILINEAR = (
    "bilinear",
    "bilinear + root",
    "bilinear + norm",
    "bilinear + root + norm",
)


def pooling(name="bilinear + root + norm", **arguments):
    """Average pooling, or second-order pooling that is finished as the name says."""
    rate = lrs.get(name, lr)
    if name == "average pooling":
        return vary(base, method="baseline", lr=rate)
    finish = {"root": "root" in name, "normalize": "norm" in name}
    known = {"head_fraction": head_fraction} | finish | method_args | arguments
    return vary(base, method="bcnn", method_args=known, lr=rate)


style()

# %% [markdown]
# ## The problem
#
# Four features, two places. The features say *head*, *belly*, *red*, *gray*; the places are the head and the belly of a bird. One
# bird has a red head and a gray belly, the other a gray head and a red belly. Two species, and their averages are the same:

# %% tags=["output"]
FEATURES = ("head", "belly", "red", "gray")
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
# and these are averaged over the places:
#
# $$
# \Phi(I) = \frac1L \sum_{l=1}^{L} a_l\, b_l^\top \in \mathbb R^{M \times N} .
# $$ (eq-bcnn-pool)
#
# The paper writes a sum. A mean differs by the factor $1/L$, which cancels in the division by the length below.
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
    return phi / a.shape[1]


pairs = {"red head": red_head, "red belly": red_belly}
second_order = {name: bilinear_from_scratch(x, x) for name, x in pairs.items()}
for name, x in pairs.items():
    library = bilinear_pool(x.view(1, 4, 1, 2))[0]
    torch.testing.assert_close(library, second_order[name])  # the library agrees
    red, gray = second_order[name][0, 2:]
    print(f"{name:<10} head·red = {red:g}, head·gray = {gray:g}")

# %% tags=["figure"]
figure, axes = plt.subplots(1, 4, figsize=(9, 2.7), width_ratios=(1, 2, 1, 2))
for (first, second), (name, x) in zip(axes.reshape(2, 2), pairs.items(), strict=True):
    for ax, values, title in (
        (first, x.mean(1)[:, None], "average"),
        (second, second_order[name], "$\\Phi$"),
    ):
        ax.imshow(values, cmap="Blues", vmin=0, vmax=0.8)
        for (i, j), v in np.ndenumerate(values.numpy()):
            ax.text(j, i, f"{v:g}", ha="center", va="center")
        ax.set(xticks=[], yticks=range(4), yticklabels=FEATURES)
        ax.set_title(f"{name}: {title}")
    second.set(xticks=range(4), yticks=[])
    second.set_xticklabels(FEATURES, rotation=45)
show(
    figure,
    name="fig-bcnn-toy",
    caption="Two birds whose averages are equal. Their second-order features differ "
    "in the entries that join a place with a color.",
    alt="For each of two toy birds, a column of four averaged features, the same for "
    "both, and a four by four matrix of pooled products, which differ off the "
    "diagonal.",
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
# \langle V, \Phi \rangle = \frac1L \sum_{l} a_l^\top V\, b_l ,
# $$ (eq-bcnn-quadratic)
#
# a **quadratic form at every place**, averaged. If $V = u v^\top$, it is $(u^\top a_l)(v^\top b_l)$: one detector times another, a soft
# AND. And two images are compared by comparing *every place with every place*, with one stream
#
# $$
# \langle \Phi(I), \Phi(J) \rangle = \frac1{L^2} \sum_{l} \sum_{m} \big( a_l(I)^\top a_m(J) \big)^2 .
# $$ (eq-bcnn-kernel)
#
# The square makes the good matches count and the many mediocre ones not. Both identities, and the gradient that the paper gives,
# $\partial \ell / \partial A = \frac1L B\, (\partial \ell / \partial \Phi)^\top$ for a loss $\ell$, with $A, B$ holding a row for each place, in numbers:

# %% tags=["output"]
g = torch.Generator().manual_seed(0)
# (M, L), (N, L), (M, L)
a, b, again = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (3, 5, 3))
v = torch.randn(3, 5, generator=g, dtype=torch.float64)  # (M, N)
forms = torch.stack([a[:, i] @ v @ b[:, i] for i in range(6)])  # (L,)
torch.testing.assert_close((v * (a @ b.T / 6)).sum(), forms.mean())
kernel = ((a @ a.T / 6) * (again @ again.T / 6)).sum()
torch.testing.assert_close(kernel, (a.T @ again).square().mean())

a.requires_grad_()
phi = a @ b.T / 6
upstream = torch.randn(3, 5, generator=g, dtype=torch.float64)  # ∂ℓ/∂Φ
(gradient,) = torch.autograd.grad(phi, a, upstream)
torch.testing.assert_close(gradient.T, b.T @ upstream.T / 6)  # a row a place
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
phi = bilinear_pool(scene.view(1, 2, 8, 8))[0].diagonal()  # (2,) each with itself
entries = {"average": scene.mean(1), "Φ": phi, "root of Φ": signed_sqrt(phi)}
for name, x in entries.items():
    share = x[1].square() / x.square().sum()
    print(f"{name:<9}  fraction of the bird in the squared length: {100 * share:.2f} %")

# %% [markdown]
# The square that makes so little of the bird is that of the inner product, which weighs images by products of their entries: the plain
# average has the same 0.44 %. Φ adds a square of its own, that of a feature's *strength*. The root takes one square back, and the bird
# counts by its part of the area. It keeps the **sign**, since entries of maps without a ReLU, or of two different streams, can be negative. The
# **norm** takes out the size: maps that are scaled by a factor have the same $z$. A *photograph* with twice the contrast has not quite,
# since a network does not answer it by scaling its maps.
#
# The root has a flaw: its slope at zero is infinite, and there are many zeros, the entries of all pairs of channels that never fire
# together. A PyTorch port takes $\sqrt{x + \varepsilon}$, without the sign. The library takes
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
dashes = ("-", "--", "-.")
for (name, root), color, ls in zip(roots.items(), COLORS, dashes, strict=False):
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
    caption="Three square roots near zero. The released one has no value for clearly "
    "negative entries and lifts every empty entry to √ε. The paper's has an unbounded "
    "slope at zero.",
    alt="Left, three curves near zero: two odd ones through the origin and one that "
    "starts left of zero and crosses the axis above the origin. Right, their slopes "
    "in logarithmic scale: one grows without bound towards zero, two level off.",
)

# %% tags=["output"]
pool = BilinearPool()
maps = torch.rand(2, 5, 4, 4, generator=g)
# a scale of the maps does not matter
torch.testing.assert_close(pool(maps), pool(2 * maps), atol=1e-3, rtol=0)
summed = maps[0].flatten(1) @ maps[0].flatten(1).T  # the paper's Φ; all positive here
y = summed.flatten().sqrt()
torch.testing.assert_close(pool(maps)[0], y / y.norm(), atol=1e-4, rtol=0)  # the same z
print("length of z:", pool(maps).norm(dim=1).tolist())

# %% [markdown]
# ## Training
#
# The paper trains in **two steps**: first only the classifier, on features that a network brought along from ImageNet; then everything, at
# a small rate. The reason is in {eq}`eq-bcnn-norm`: $z$ has length one, so the classifier's gradient $(p - y)\,z^\top$ is small, and a
# rate that moves it would wreck the pretrained layers below a random classifier. In `fgvc_lib` these are the two *phases* of
# the method: `head_fraction` of the epochs go to the head alone, at `head_lr_scale` times the learning rate.
#
# Here networks start from scratch, without features worth freezing: everything is trained from the start (`head_fraction=0`), and
# {ref}`one of the tables below <bcnn-phases>` asks what a first step on random features does. The length of $z$ still matters, and
# B-CNN gets a larger learning rate than the plain network.

# %% tags=["experiment"]
pair = {"average pooling": pooling("average pooling"), "B-CNN": pooling()}
trained = study.live("pair", pair)

# %%
live = study.live_frame(trained)
live_line = study.foot(live)
birds = load(dataset, **base.data_args)
plain, bcnn = (network.method for network in trained.values())
where = next(bcnn.parameters()).device
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))
some = np.arange(min(pictures, len(birds.test)))
pixels = torch.from_numpy(birds.test.images[some]).float() / 255  # (N, 3, H, W)
labels = birds.test.labels[some].to(where)


def last_map(method, images):
    """The map that is pooled, (B, M, h, w), of images with values in [0, 1]."""
    with torch.no_grad():
        return method.backbone(((images - mean) / std).to(where))[method.backbone.last]


def classify(method, features):
    """Logits from that map."""
    with torch.no_grad():
        vector = method.pool(features) if method is bcnn else features.mean((2, 3))
        return method.head(vector)


def accuracy(method, features):
    return (classify(method, features).argmax(1) == labels).float().mean().item()


pooled = {row: last_map(network.method, pixels) for row, network in trained.items()}

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
for (row, network), color in zip(trained.items(), COLORS, strict=False):
    history = network.record.history
    for ax, split in zip(axes, ("train", "val"), strict=True):
        ax.plot(
            [e["epoch"] for e in history],
            [100 * e.get(f"{split}_accuracy", np.nan) for e in history],
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
    caption="The two networks of this page, trained from scratch on the synthetic "
    "birds: the same layers, order of batches and number of epochs, another pooling.",
    alt="Accuracy over epochs on training and validation images, for both networks.",
)

# %% tags=["table"]
table = summarize(live, {"test accuracy, %": "test_accuracy"}, "network")
heads = [network.method.head for network in trained.values()]
table["numbers that are classified"] = [f"{head.in_features:,}" for head in heads]
table["weights of the classifier"] = [f"{head.weight.numel():,}" for head in heads]
show_table(table, foot=f"Trained on this page. {live_line}")

# %% [markdown]
# ## A look inside
#
# ### Where things stand does not matter
#
# {eq}`eq-bcnn-pool` is a mean over places. Shuffle the places and nothing changes: Φ is **orderless**, a texture descriptor. So is
# the average. The map's cells still look at their surroundings, so shuffling the *image* is another matter. We do both: cells of
# the last map, and tiles of the image.


# %% tags=["output"]
def tiles(images, n, seed=0):
    """Cut images into n × n tiles and lay them out in an order drawn for each image."""
    batch, channels, side, _ = images.shape
    s = side // n
    cut = images.unfold(2, s, s).unfold(3, s, s)  # (B, 3, n, n, s, s)
    cut = cut.permute(0, 2, 3, 1, 4, 5).reshape(batch, n * n, channels, s, s)
    draw = torch.Generator().manual_seed(seed)
    order = torch.rand(batch, n * n, generator=draw).argsort(1)
    cut = cut[torch.arange(batch)[:, None], order].view(batch, n, n, channels, s, s)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(images.shape)


print("largest change of a logit after shuffling the cells of the map")
for row, network in trained.items():
    cells = pooled[row].flatten(2)  # (N, M, L)
    shuffled = cells[:, :, torch.randperm(cells.shape[2], generator=g)]
    logits = classify(network.method, pooled[row])
    again = classify(network.method, shuffled.view_as(pooled[row]))
    change = (again - logits).abs().max().item()
    print(f"{row:<16} {change:.1e}")
    assert change < 1e-3

# %% tags=["figure"]
counts = (1, 2, 4, 8)
figure = plt.figure(figsize=(9, 3))
left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
for ax, n in zip(left.subplots(1, len(counts)), counts, strict=True):
    ax.imshow(tiles(pixels[:1], n)[0].permute(1, 2, 0))
    ax.set(xticks=[], yticks=[], title=f"{n} × {n}")
ax = right.subplots()
for (row, network), color, marker in zip(trained.items(), COLORS, "os", strict=False):
    maps = (last_map(network.method, tiles(pixels, n)) for n in counts)
    scores = [100 * accuracy(network.method, features) for features in maps]
    ax.plot(range(len(counts)), scores, marker=marker, color=color, label=row)
ax.axhline(100 / len(birds.classes), color="black", lw=0.8, ls=":", label="chance")
ax.set(xlabel="tiles", ylabel="accuracy, %", ylim=(0, 100))
ax.set_xticks(range(len(counts)), [f"{n}²" for n in counts])
ax.legend()
show(
    figure,
    name="fig-bcnn-tiles",
    caption="A test bird cut into tiles that are laid out anew, and the accuracy of "
    "both networks on such images. Larger tiles keep more of what a cell of the last "
    "map looks at.",
    alt="Left, one bird cut into one, four, sixteen and sixty-four shuffled tiles. "
    "Right, accuracy of both networks over the number of tiles, with a dotted line "
    "for chance.",
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
# The mean of $e_l$ over places is $\langle G, \Phi \rangle$. With the norm, the score does not change when Φ is scaled, so this is zero: the
# evidence of all places **adds up to zero**. It says which places speak for the class *more than the rest of the image does*.


# %% tags=["output"]
def evidence(row, features):
    """Evidence of each place for the true class, (B, h, w)."""
    if row == "average pooling":
        weight = plain.head.weight[labels].detach()
        return torch.einsum("bchw,bc->bhw", features, weight)
    phi = bilinear_pool(features).requires_grad_()  # (B, M, M)
    scores = bcnn.head(bcnn.pool.vector(phi)).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), phi)  # (B, M, M)
    return torch.einsum("bihw,bij,bjhw->bhw", features, gradient, features)


maps = {row: evidence(row, features).cpu() for row, features in pooled.items()}
total = maps["B-CNN"].mean((1, 2)).abs().mean() / maps["B-CNN"].abs().mean()
print(f"sum of the evidence over its absolute sum, mean over images: {total:.4f}")

# %% [markdown]
# **Where does a cell look?** Cell $i$ of eight is usually drawn over the pixels $8i$ to $8i + 8$. But a $3 \times 3$ convolution with stride 2 and a padding of
# one centers its first output on the first pixel, and each of the three such steps of this network leans the same way. The center of what moves a cell
# can be measured by the gradient with respect to the image:

# %% tags=["output"]
side, cells = birds.image_size, pooled["B-CNN"].shape[-1]
stride, middle = side / cells, cells // 2
probe = ((pixels[:32] - mean) / std).to(where).requires_grad_()
one_cell = bcnn.backbone(probe)[bcnn.backbone.last][:, :, middle, middle]
(influence,) = torch.autograd.grad(one_cell.square().sum(), probe)
influence = influence.square().sum((0, 1)).cpu()  # (H, W)
at = torch.arange(side) + 0.5
row, column = ((influence.sum(axis) @ at / influence.sum()).item() for axis in (1, 0))
drawn = (middle + 0.5) * stride
print(f"cell ({middle}, {middle}) would be drawn around pixel {drawn:g};")
print(f"it looks around row {row:.1f}, column {column:.1f};")
first = bcnn.backbone.centers[bcnn.backbone.last]  # where cell (0, 0) looks, in pixels
print(f"the library places it at pixel {first + middle * stride:g}")
low, high = first - stride / 2, first - stride / 2 + side
frame = (low, high, high, low)  # where maps are drawn below


# %% tags=["figure"]
parts = {name: torch.from_numpy(v[some]) for name, v in birds.test.parts.items()}
known = "discriminative" in parts  # photographs have no part that decides
right = classify(bcnn, pooled["B-CNN"]).argmax(1) == labels
shown = list(range(5))
if known:
    deciding = parts["discriminative"]  # (N,)
    boxes = parts["boxes"][torch.arange(len(some)), deciding]  # (N, 4)
    shown = []
    for part in ("crown", "eye", "beak", "breast", "wing"):
        mine = (deciding == birds.part_names.index(part)).nonzero().flatten()
        shown.append(int(next((i for i in mine if right[i]), mine[0])))
z = bcnn.pool(pooled["B-CNN"])  # (B, M·M)
size = bcnn.backbone.out_channels
figure, axes = plt.subplots(4, len(shown), figsize=(9, 7.4))
for column, i in zip(axes.T, shown, strict=True):
    column[0].imshow(pixels[i].permute(1, 2, 0), extent=(0, side, side, 0))
    column[1].imshow(maps["average pooling"][i], extent=frame)
    limit = maps["B-CNN"][i].abs().max()
    signed = {"cmap": "PuOr_r", "vmin": -limit, "vmax": limit}
    column[2].imshow(maps["B-CNN"][i], extent=frame, **signed)
    weight = bcnn.head.weight.detach()
    weight = weight[labels[i]] - weight.mean(0)  # against the other classes
    added = (weight * z[i]).view(size, size)  # (M, M) by each pair, to the score
    c, d = divmod(int((added + added.T).triu().argmax()), size)
    features = pooled["B-CNN"][i].cpu()
    column[3].imshow(features[c] * features[d], extent=frame)
    which = f"channels {c} and {d}" if c != d else f"channel {c}, squared"
    column[3].set_xlabel(which, fontsize=8)
    for ax, color in zip(column, ("black", "white", "black", "white"), strict=True):
        if known:
            x1, y1, x2, y2 = boxes[i].tolist()
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.6)
            ax.add_patch(box)
        ax.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    column[0].set_title(birds.classes[labels[i]], fontsize=9)
titles = ("image", "average pooling", "B-CNN", "strongest pair")
for ax, text in zip(axes[:, 0], titles, strict=True):
    ax.set_ylabel(text)
show(
    figure,
    name="fig-bcnn-evidence",
    caption="Five test birds with their deciding part in a box. Second row: evidence "
    "of the plain network for the true class, the class activation map. Third: "
    "evidence of B-CNN, orange for, purple against. Last: the product of the two "
    "channels whose entry of z adds most to the true class beyond the others.",
    alt="Four rows of five pictures: birds with a box around one part, class "
    "activation maps, signed evidence maps, and products of two channels, each with "
    "the same box.",
)


# %% tags=["table"]
def pointing(evidence_maps):
    """Peaks on the deciding part or within half a cell, and on the next image's."""
    masks = parts["masks"][torch.arange(len(some)), deciding]  # (N, H, W)
    rates = []
    for target in (masks, masks.roll(-1, 0)):
        hits = pointing_game(evidence_maps, target, tolerance=stride / 2, center=first)
        rates.append(f"{100 * hits.nanmean():.1f}")
    return rates


if known:
    found = pd.DataFrame(
        [(row, *pointing(values)) for row, values in maps.items()],
        columns=[
            "network",
            "peak on the deciding part, %",
            "on the next image's part, %",
        ],
    )
    show_table(
        found,
        foot=f"{len(some)} test images, evidence for the true class, peak on the part "
        f"or within half a cell. {live_line}",
    )

# %% [markdown]
# The second column is the control: birds tend to stand in the middle, so a peak there would often be near *some* image's deciding part.
#
# ### How many products are used?
#
# A class weighs $M^2$ products by a matrix $V$. Before root and norm, a $V$ of rank $r$ would be $r$ soft ANDs; behind them it is no
# AND any more, but its rank can still be measured. We cut $V$ of
# every class to its largest singular values and count what is still right.

# %% tags=["figure"]
weight = bcnn.head.weight.detach().view(-1, size, size)  # (classes, M, M)
# Φ of one stream is symmetric and sees only this part
symmetric = (weight + weight.mT) / 2
u, s, vt = torch.linalg.svd(symmetric)
ranks = [r for r in (1, 2, 4, 8, 16, 32, 64) if r <= size]
scores = []
for r in ranks:
    low = (u[:, :, :r] * s[:, None, :r]) @ vt[:, :r]  # (classes, M, M)
    logits = z @ low.flatten(1).T + bcnn.head.bias
    scores.append(100 * (logits.argmax(1) == labels).float().mean().item())
figure, ax = plt.subplots(figsize=(5.6, 3))
ax.plot(range(len(ranks)), scores, "o-", color=COLORS[0], label="B-CNN, cut to a rank")
ax.axhline(
    100 * accuracy(plain, pooled["average pooling"]),
    color=COLORS[1],
    ls="--",
    label="average pooling",
)
ax.set_xticks(range(len(ranks)), [f"{r}" for r in ranks])
ax.set(xlabel="rank that is kept of each class's V", ylim=(0, 100))
ax.set_ylabel("accuracy, %")
ax.legend()
show(
    figure,
    name="fig-bcnn-rank",
    caption="Accuracy on the images of this page after the classifier's matrix of "
    "every class has been cut to a small rank.",
    alt="A curve of accuracy over the rank that is kept, from one to all, with the "
    "accuracy of average pooling as a dashed line.",
)

# %% [markdown]
# ## What it costs
#
# Not arithmetic: $L M N$ multiply-adds are little beside the network. What costs is the *length* of $z$. In the paper's setting, VGG-16 at
# 448 pixels, the classifier is larger than the convolutions below it.


# %% tags=["table"]
def multiply_adds(backbone, size):
    """Of one image, and the shape of its last map; counted without any data."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        last = list(backbone(torch.zeros(1, 3, size, size)).values())[-1]
    return counter.get_total_flops() / 2, last.shape[1:]


with torch.device("meta"):
    networks = {
        ("VGG-16, 448 px", 200): (vgg(16, batch_norm=False), 448),
        ("ResNet-50, 448 px", 200): (resnet(50), 448),
        ("small ResNet, 64 px", 12): (resnet("small", width=16), 64),
    }
lines = []
for (name, classes), (below, pixels_wide) in networks.items():
    operations, (channels, h, w) = multiply_adds(below, pixels_wide)
    length = channels**2
    weights = sum(p.numel() for p in below.parameters())
    lines.append(
        {
            "network": name,
            "last map": f"{channels} × {h} × {w}",
            "length of z": f"{length:,}",
            "weights of the network": f"{weights:,}",
            "of a classifier": f"{length * classes:,} ({classes} classes)",
            "pooling over network, %": f"{100 * length * h * w / operations:.2f}",
            "outer products, MB": f"{4e-6 * length * h * w:,.0f}",
        }
    )
show_table(
    pd.DataFrame(lines),
    foot="Counted on this page: multiply-adds of pooling over those of the network; "
    "the size of all outer products of one image.",
)

# %% [markdown]
# The last column is what a literal formulation keeps for the backward pass. Measured by `benchmarks/second_order.py`, forward and
# backward of pooling, root and norm:

# %% tags=["table"]
lines, feet = [], []
ways = {"library": "one matrix product", "literal": "outer products, then their sum"}
for bench in benchmarks.records("second_order"):
    layer = bench["layers"]["bilinear pooling"]
    for way, name in ways.items():
        seconds = layer["seconds"][way]["median"]
        lines.append(
            {
                "device": bench["device"]["name"],
                "maps": " × ".join(str(n) for n in layer["shape"]),
                "formulation": name,
                "time, ms": f"{1e3 * seconds:.1f}",
                "peak memory, MB": f"{1e-6 * layer['peak_bytes'][way]:,.0f}",
            }
        )
    torch_version = bench["versions"]["torch"]
    feet.append(f"torch {torch_version}, medians of {bench['repeats']} rounds")
if lines:
    show_table(pd.DataFrame(lines), foot="; ".join(feet))

# %% [markdown]
# ## Measured
#
# From here on numbers come from records; the line under each table says which data, seeds and device. Where the same experiment has
# been measured on photographs, it stands below that on the data of this page: compare variants, not papers.
#
# ### Root and norm
#
# Average pooling against the four ways to finish Φ. The lengths of the vectors differ, and with them the gradients, so one learning rate
# cannot be fair to all. The rows have the rates in the table, and the next table says how much depends on them.

# %% tags=["experiment"]
by_component = study.run(
    "components",
    {name: pooling(name) for name in ("average pooling", *BILINEAR)},
)

# %% tags=["table"]
ACCURACY = {
    "test accuracy, %": "test_accuracy",
    "training accuracy, %": "train_accuracy",
}
for name, runs in study.beside_photos("components", by_component).items():
    table = summarize(runs, ACCURACY, "pooling")
    rate = runs.drop_duplicates("variant")["lr"]
    table.insert(1, "learning rate", [f"{value:g}" for value in rate])
    show_table(table, title=name, foot=study.foot(runs))

# %% tags=["experiment"]
grid = [(name, rate) for name, values in rates.items() for rate in values]
by_rate = study.run(
    "rates",
    {f"{name}, {rate:g}": vary(pooling(name), lr=rate) for name, rate in grid},
)

# %% tags=["table"]
VALIDATED = ACCURACY | {"validation accuracy, %": "val_accuracy"}
for name, runs in study.beside_photos("rates", by_rate).items():
    table = summarize(runs, VALIDATED, "pooling, learning rate")
    show_table(table, title=name, foot=study.foot(runs))

# %% [markdown]
# ### One stream or two?
#
# The paper's best model on birds and cars has two different networks. Two streams also have two networks' worth of weights and
# multiply-adds. So the table has a third kind of row: one stream, made wider until it costs as much.

# %% tags=["experiment"]
streams = {"one": pooling()}
if wider:
    streams["one, wider"] = vary(pooling(), backbone_args=wider)
alike = {"backbone": base.backbone, **base.backbone_args}
streams["two alike"] = pooling(second=alike)
if other:
    streams["two unlike"] = pooling(second=other)
by_stream = study.run("streams", streams)


# %% tags=["table"]
def stream_costs(config):
    """Channels of each stream's last map, and the multiply-adds of all, in millions."""
    kinds = [{"backbone": config.backbone, **config.backbone_args}]
    kinds += [config.method_args["second"]] if "second" in config.method_args else []
    sizes = []
    for kind in kinds:
        arguments = {k: v for k, v in kind.items() if k != "pretrained"}
        with torch.device("meta"):
            stream = BACKBONES[arguments.pop("backbone")](**arguments)
        sizes.append(multiply_adds(stream, image_size))
    channels = " and ".join(str(shape[0]) for _, shape in sizes)
    return channels, f"{sum(count for count, _ in sizes) / 1e6:.1f}"


table = summarize(by_stream, ACCURACY, "streams")
costs = [stream_costs(config) for config in streams.values()]
table.insert(1, "channels", [channels for channels, _ in costs])
table.insert(2, "multiply-adds, 10⁶", [count for _, count in costs])
for name, runs in study.beside_photos("streams", by_stream).items():
    if runs is not by_stream:
        table = summarize(runs, ACCURACY, "streams")
    show_table(table, title=name, foot=study.foot(runs))

# %% [markdown]
# Two maps of different size are averaged down to the smaller one; the two streams may have any numbers of channels, and Φ is then not square.
#
# (bcnn-phases)=
# ### Two steps of training
#
# With pretrained features the first step is the one that needs them. Here the features are random when they are frozen. What does a first step on them
# cost, at an equal number of epochs?

# %% tags=["experiment"]
by_phase = study.run(
    "phases",
    {f"{part:g}": pooling(head_fraction=part) for part in head_fractions},
)

# %% tags=["table"]
for name, runs in study.beside_photos("phases", by_phase).items():
    table = summarize(runs, ACCURACY, "fraction of the epochs for the head alone")
    show_table(table, title=name, foot=study.foot(runs))

# %% [markdown]
# Why the head wants a large rate can be seen from what it is fed. Its gradient is $(p - y)$ times the pooled vector, averaged over the
# batch; here is that vector's length and the length of the gradient in the networks of this page, with the true labels of other images, as at the
# start of training.

# %% tags=["output"]
wrong = labels.roll(1)
classes = len(birds.classes)
even = torch.full((len(labels), classes), 1 / classes, device=where)
# p − y of an undecided network
error = even - torch.nn.functional.one_hot(wrong, classes)
for row, vector, head in (
    ("average pooling", pooled["average pooling"].mean((2, 3)), plain.head),
    ("B-CNN", z, bcnn.head),
):
    gradient = error.T @ vector / len(labels)
    length = vector.norm(dim=1).mean().item()
    relative = (gradient.norm() / head.weight.detach().norm()).item()
    print(f"{row:<16} length {length:5.2f}   gradient over weights {relative:.4f}")

# %% [markdown]
# ### The paper's support vector machines
#
# For its final scores the paper throws the softmax classifier away, extracts $z$ and trains linear support vector machines on it
# (one against the rest, $C = 1$). On the two networks of this page:


# %% tags=["table"]
def vectors(row, images):
    images = torch.from_numpy(np.asarray(images)).float() / 255
    features = last_map(trained[row].method, images)
    pooled = bcnn.pool(features) if row == "B-CNN" else features.mean((2, 3))
    return pooled.cpu().numpy()


lines = []
for row, network in trained.items():
    machine = LinearSVC(C=1.0, dual=True, max_iter=100_000, random_state=0)
    machine.fit(vectors(row, birds.train.images), birds.train.labels.numpy())
    predicted = machine.predict(vectors(row, birds.test.images[some]))
    svm = (predicted == labels.cpu().numpy()).mean()
    softmax = accuracy(network.method, pooled[row])
    lines.append(
        {
            "network": row,
            "softmax classifier, %": f"{100 * softmax:.1f}",
            "support vector machines, %": f"{100 * svm:.1f}",
        }
    )
show_table(pd.DataFrame(lines), foot=f"{len(some)} test images. {live_line}")

# %% [markdown]
# ## Paper versus official implementation
#
# What is run by most is not the authors' MATLAB release but a PyTorch port. It differs from {eq}`eq-bcnn-pool` and {eq}`eq-bcnn-norm` in
# ways that can be run.
#
# **No sign.** The port takes $\sqrt{x + 10^{-5}}$. Without a ReLU before it, or with two streams of which one is centered, that is not a
# number:

# %% tags=["output"]
centerd = torch.randn(1, 4, 3, 3, generator=g)
phi = bilinear_pool(centerd)
print("entries of Φ that are negative:", int((phi < 0).sum()), "of", phi.numel())
print("not a number after √(x + 10⁻⁵):", int((phi + 1e-5).sqrt().isnan().sum()))
print("not a number in the library:   ", int(signed_sqrt(phi).isnan().sum()))

# %% [markdown]
# **Empty entries are lifted.** After a ReLU nothing is negative, but each empty entry becomes $\sqrt{10^{-5}} \approx 0.003$. The port divides Φ by the
# number of places, which does not matter for $z$, but makes $10^{-5}$ a larger share of it. How much of $z$ is made of that, in the network of this page?

# %% tags=["output"]
phi = bilinear_pool(pooled["B-CNN"]).flatten(1)  # (N, M²)
lifted = torch.nn.functional.normalize((phi + 1e-5).sqrt(), dim=1)
exact = torch.nn.functional.normalize(phi.sqrt(), dim=1)
empty = (phi < 1e-5).float().mean()
print(f"entries below ε:                         {100 * empty:.1f} %")
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
for row, network in trained.items():
    val = [100 * e.get("val_accuracy", np.nan) for e in network.record.history]
    gain = max(val) - val[-1]
    print(f"{row:<16} last {val[-1]:.1f} %, best {max(val):.1f} %: {gain:+.1f} points")

# %% [markdown]
# That is the choice of an epoch alone, with a schedule that ends at zero; a schedule that reacts to the test set chooses more.
#
# **Names.** The port's comments say *pool5*; the map that it takes is the ReLU after conv5-3, without the pooling. `vgg(16)` of `fgvc_lib` ends at the same
# place.
#
# Published accuracies on Caltech-UCSD Birds for one VGG-16 stream; those of the repositories are of the best epoch on test data:
#
# | source | first step | both steps |
# | --- | --- | --- |
# | paper, [D,D], without and with fine-tuning | 80.1 | 84.0 |
# | port, readme | 76.77 | 84.17 |
# | the same authors' faster port, readme | 75.47 | 84.41 |
# | a toolbox of fine-grained methods, results file | | 83.80 |
#
# The toolbox quotes 84.1 beside its number. That is the paper's [D,M], a VGG-16 *and* a VGG-M, so two different networks gain 0.1.
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
# With Φ a mean, the row and column of the constant channel are the averages of all channels: first order is a part of second order. The corner
# is 1. (With the paper's sum they are $L$ times that.)
# ```
#
# 3. **Homogeneity.** Show that the mean over places of the evidence {eq}`eq-bcnn-evidence` is zero with the norm, and half of the score (without
#    its bias) with the root alone. What does ε change?
#
# ```{dropdown} Solution
# The mean is $\langle G, \Phi \rangle$. Euler: for $f(t \Phi) = t^k f(\Phi)$, $\langle \partial f / \partial \Phi, \Phi \rangle = k f$. The norm gives $k = 0$, the root alone $k = ½$. ε breaks the homogeneity
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
# a wing bar) keep it whole; a long beak or a white tail tip, which lies at the end of a long tail, is cut more often.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
