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
#   records: [08_evidence]
# ---

# %% [markdown]
# # Bilinear CNN
#
# *The paper:* {footcite:t}`lin2015bilinear`, extended in {footcite:t}`lin2018bilinear`. A bilinear CNN (B-CNN) averages
# **products of features** instead of features, so its classifier knows which features occur together.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
backbone = "small"
pretrained = False
epochs = 60
live_epochs = 30  # of the networks that the page trains and looks inside
batch_size = 32
lr = 0.5
max_steps = None
seeds = [0, 1, 2, 3, 4]
seeds_of = {  # the rows of a pair that five seeds leave open
    "bilinear": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    "bilinear + root + norm": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
}
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
# instead of lr, where validation prefers another of the rates below
lrs = {"bilinear": 0.1, "bilinear + root": 0.05}
changes = {}  # of the settings of single rows
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
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "experiment", "hide-input"]
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import BACKBONES, resnet, vgg
from fgvc_lib.data import Loader, load
from fgvc_lib.data.bird_drawing import DRAWS, PLAIN, RED, YELLOW, draw_birds
from fgvc_lib.layers.bilinear import bilinear_pool, signed_sqrt
from fgvc_lib.train.model import build
from fgvc_study import Study, benchmarks, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import COLORS, forest, forests, show, show_table, style
from fgvc_study.findings import difference, effects, effects_over, level, tell
from fgvc_study.metrics.parts import pointing_game
from fgvc_study.protocol import configuration
from matplotlib.patches import Rectangle
from sklearn.svm import LinearSVC
from torch import nn
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
BILINEAR = ("bilinear", "bilinear + root", "bilinear + norm", "bilinear + root + norm")
ROOT, FULL = BILINEAR[1], BILINEAR[-1]


def pooling(name=FULL, **arguments):
    """Average pooling, or second-order pooling that is finished as the name says."""
    rate = lrs.get(name, lr)
    if name == "average pooling":
        config = vary(base, method="baseline", lr=rate)
    else:
        finish = {"root": "root" in name, "normalize": "norm" in name}
        known = {"head_fraction": head_fraction} | finish | method_args | arguments
        config = vary(base, method="bcnn", method_args=known, lr=rate)
    return vary(config, **changes.get(name, {}))


style()

by_component = study.run(
    "components",
    {name: pooling(name) for name in ("average pooling", *BILINEAR)},
    seeds=seeds_of,
)

# %% tags=["figure", "hide-input"]
FEATURES = ("crown", "wing", "red", "yellow")
red_crown = torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]])  # (M, L)
red_wing = torch.tensor([[1.0, 0], [0, 1], [0, 1], [1, 0]])
toys = {"red crown, yellow wing": red_crown, "yellow crown, red wing": red_wing}
looks = {name: np.repeat(np.array([value]), 2, 0) for name, value in PLAIN.items()}
looks |= {"cap": np.ones(2), "bar": np.full(2, 0.06)}
looks |= {"cap_color": np.array([RED, YELLOW]), "bar_color": np.array([YELLOW, RED])}
pose = np.random.default_rng(8).random((1, DRAWS), np.float32).repeat(2, 0)
drawn = draw_birds(pose, looks, np.zeros(2, int), size=160).images
figure, axes = plt.subplots(2, 3, figsize=(6.6, 4.5), width_ratios=(2, 0.9, 2))
for row, (name, x), bird in zip(axes, toys.items(), drawn, strict=True):
    row[0].imshow(bird.transpose(1, 2, 0))
    row[0].set(xticks=[], yticks=[], xlabel=name)
    for ax, values in ((row[1], x.mean(1)[:, None]), (row[2], x @ x.T / 2)):
        ax.imshow(values, cmap="Blues", vmin=0, vmax=0.8)
        for (i, j), v in np.ndenumerate(values.numpy()):
            ax.text(j, i, f"{v:g}", ha="center", va="center")
        ax.set(xticks=[], yticks=range(4), yticklabels=FEATURES)
    row[2].set(xticks=range(4), yticks=[])
    row[2].set_xticklabels(FEATURES, rotation=30)
axes[0, 1].set_title("average")
axes[0, 2].set_title("products, averaged")
show(
    figure,
    name="fig-bcnn-toy",
    caption="Two birds with the same features and the same average. Only the products "
    "say which color is on which part.",
    alt="Two drawn birds, one with a red crown and a yellow wing bar, one with the "
    "colors exchanged. Beside each stand four averaged features, the same for both, "
    "and a four by four matrix of averaged products, which differ.",
)

# %% tags=["hide-input"]
AVERAGE, PRODUCTS = "plain, linear head", "Bilinear CNN"  # as chapter 8 names them
at_best = Study("08_evidence").recorded("compare", profile="quick")
tell(
    "**Main finding.** On our generated birds, each at the learning rate that "
    "validation prefers, the same small network reaches {average} with average pooling "
    "and {bcnn} as a B-CNN. B-CNN is {d.word} average pooling: {d} (mean ± standard "
    "deviation over seeds; difference with its 95 % interval; the runs are those of "
    "chapter 8).",
    average=level(at_best, AVERAGE),
    bcnn=level(at_best, PRODUCTS),
    d=difference(at_best, PRODUCTS, AVERAGE),
)

# %% [markdown]
# ## An average forgets which features belong together
#
# Take four features, *crown*, *wing*, *red* and *yellow*, at two spatial positions of an image: the crown and the wing of a
# bird. One species has a red crown and a yellow wing, the other a yellow crown and a red wing. Each feature fires at exactly
# one position in both birds, so both have the same average.

# %% tags=["output"]
average_a, average_b = red_crown.mean(1), red_wing.mean(1)  # (M,)
product_a = (red_crown[0] * red_crown[2]).mean()  # crown · red, averaged
product_b = (red_wing[0] * red_wing[2]).mean()
assert torch.equal(average_a, average_b)
print("averages:", average_a.tolist(), "and", average_b.tolist())
print("crown · red:", product_a.item(), "and", product_b.item())

# %% [markdown]
# No classifier on the average can separate the two. The product of *crown* and *red*, taken at each position before the
# average, can. A deeper network can learn one channel for "red crown", one for "yellow crown", and so on; products offer
# all pairs at once.
#
# B-CNN takes these products from the last maps of two networks, or from one network used twice:

# %% tags=["figure", "hide-input"]
diagram = Diagram(6.6, 3.45)
image = diagram.box("image", at=(0.55, 2.45), size=(0.8, 0.5))
f_a = diagram.box("network $f_A$", at=(2.3, 2.95), color=COLORS[0])
f_b = diagram.box("network $f_B$", at=(2.3, 1.95), color=COLORS[1])
map_a = diagram.stack("$a_l$", at=(4.1, 2.95), size=(0.5, 0.45), color=COLORS[0])
map_b = diagram.stack("$b_l$", at=(4.1, 1.95), size=(0.5, 0.45), color=COLORS[1])
outer = diagram.box(
    "outer product\nat each position,\naveraged", at=(5.85, 2.45), size=(1.3, 0.75)
)
phi = diagram.box("$\\Phi$", at=(5.85, 0.6), size=(0.8, 0.8), color=COLORS[2])
root = diagram.box("signed\nroot", at=(4.15, 0.6), size=(0.75, 0.6))
norm = diagram.box("length\none", at=(2.55, 0.6), size=(0.75, 0.6))
head = diagram.box("linear\nclassifier", at=(0.6, 0.6), size=(0.9, 0.6))
diagram.arrow(image, f_a)
diagram.arrow(image, f_b)
diagram.note("$(B, 3, H, W)$", at=(0.55, 2.05))
diagram.arrow(f_a, map_a, "$(B, M, h, w)$")
diagram.arrow(f_b, map_b, "$(B, N, h, w)$")
diagram.arrow(map_a, outer)
diagram.arrow(map_b, outer)
diagram.arrow(outer, phi)
diagram.note("$(B, M, N)$", at=(5.3, 1.5))
diagram.arrow(phi, root, "$(B, MN)$")
diagram.arrow(root, norm, "$y$")
diagram.arrow(norm, head, "$z$, $(B, MN)$")
show(
    diagram.figure,
    drawing=True,
    name="fig-bcnn-architecture",
    caption="Bilinear CNN. Two networks see the same image; every channel of one is "
    "multiplied with every channel of the other, position by position.",
    alt="An image goes into two networks; their maps are combined by an outer product "
    "at each position and averaged to the matrix Phi, which goes through a signed "
    "root and a division by its length into a linear classifier.",
)

# %% [markdown]
# ## From products to a quadratic form
#
# ### The outer product holds every pair
#
# The last map of $f_A$ has $M$ channels at $L = h \cdot w$ spatial positions. Write $a_l \in \mathbb R^M$ for its features at
# position $l$, and $b_l \in \mathbb R^N$ for those of $f_B$. Their outer product $a_l b_l^\top$ is a matrix with every product of
# one feature of each network. B-CNN averages it over the positions:
#
# $$
# \Phi(I) = \frac1L \sum_{l=1}^{L} a_l\, b_l^\top \in \mathbb R^{M \times N} .
# $$ (eq-bcnn-pool)
#
# Entry $\Phi_{ij}$ is large when feature $i$ of one network and feature $j$ of the other fire *at the same positions*. The
# paper sums over positions; the mean differs by the factor $1/L$, which the normalization below removes. The paper's first
# motivation is a division of labor: if one network says *which part* is at a position and the other *what it looks like*,
# $\Phi$ is a table of parts and looks. Nothing enforces this division, since both are trained on the class alone.
#
# ### What a linear classifier can say about Φ
#
# A class with weights $V \in \mathbb R^{M \times N}$ gives $\Phi$ the score
#
# $$
# \langle V, \Phi \rangle = \frac1L \sum_{l} a_l^\top V\, b_l ,
# $$ (eq-bcnn-quadratic)
#
# a **quadratic form at every position**, averaged. With $V = u v^\top$ it is the mean of $(u^\top a_l)(v^\top b_l)$: one detector
# times another, a soft *and*. (The root and the norm below change this; it is exact for $\Phi$ itself.)
#
# How similar are two images $I$ and $J$ to such a classifier? With one network,
#
# $$
# \langle \Phi(I), \Phi(J) \rangle = \frac1{L^2} \sum_{l, m} \big( a_l(I)^\top a_m(J) \big)^2 .
# $$ (eq-bcnn-kernel)
#
# Every position of one image is compared with every position of the other, and the square makes a few good matches count more
# than many mediocre ones. No position has to be matched with *itself*: the representation ignores where things are.
#
# Training needs the gradient. For a loss $\ell$, with the positions as rows of $A \in \mathbb R^{L \times M}$ and
# $B \in \mathbb R^{L \times N}$, it is $\partial \ell / \partial A = \frac1L B\, (\partial \ell / \partial \Phi)^\top$: forward and backward are
# matrix products, and the $L$ outer products are never stored. We check both identities and the gradient on random numbers:

# %% tags=["output"]
g = torch.Generator().manual_seed(0)
a, b, again = (torch.randn(n, 6, generator=g, dtype=torch.float64) for n in (3, 5, 3))
v = torch.randn(3, 5, generator=g, dtype=torch.float64)  # V, (M, N); L = 6
forms = torch.stack([a[:, i] @ v @ b[:, i] for i in range(6)])  # (L,)
torch.testing.assert_close((v * (a @ b.T / 6)).sum(), forms.mean())
kernel = ((a @ a.T / 6) * (again @ again.T / 6)).sum()
torch.testing.assert_close(kernel, (a.T @ again).square().mean())

phi = a.requires_grad_() @ b.T / 6  # Φ, (M, N)
upstream = torch.randn(3, 5, generator=g, dtype=torch.float64)  # ∂ℓ/∂Φ
(gradient,) = torch.autograd.grad(phi, a, upstream)  # (M, L)
torch.testing.assert_close(gradient.T, b.T @ upstream.T / 6)
print("quadratic form, kernel and gradient agree")

# %% [markdown]
# ### The root takes the square back
#
# Vectorize $x = \mathrm{vec}\,\Phi \in \mathbb R^{MN}$. B-CNN applies a **signed square root** to each entry and divides by the
# **length**:
#
# $$
# y = \mathrm{sign}(x)\sqrt{|x|}, \qquad z = \frac{y}{\lVert y \rVert_2} .
# $$ (eq-bcnn-norm)
#
# Why a root? Consider an image with sixty positions of grass and four of bird, and two features that fire on one of them each.
# The classifier compares images by inner products, so what counts is the fraction of the squared length:

# %% tags=["output"]
scene = torch.zeros(2, 64)  # features "grass" and "bird" at 64 positions
scene[0, :60], scene[1, 60:] = 1, 1
phi = (scene @ scene.T / 64).diagonal()  # (2,)
entries = {"average": scene.mean(1), "Φ": phi, "root of Φ": signed_sqrt(phi)}
fraction = {name: (x[1] ** 2 / (x**2).sum()).item() for name, x in entries.items()}
for name, value in fraction.items():
    print(f"fraction of the bird, {name:<9} {100 * value:.2f} %")
assert fraction["average"] < 0.005 < 4 / 64 - 1e-3 < fraction["root of Φ"]

# %% [markdown]
# In an inner product a feature counts with the *square* of its area, for the average as for $\Phi$: the large background
# drowns the small bird. The root undoes this square, and the bird counts in proportion to its area. In $\Phi$ it also undoes a
# second square, that of the strength of a feature that meets itself. The root keeps the **sign**, because entries can be negative
# when a map has not passed a ReLU.
#
# Dividing by the length removes the overall size: maps that are scaled by a factor have the same $z$. (A photograph with
# twice the contrast does not: a network does not answer it by scaling its maps.)
#
# The slope of the root at zero is infinite, and many entries *are* zero: those of channels that never fire together. So the
# library computes
#
# $$
# y = \frac{x}{\sqrt{|x| + \varepsilon}}, \qquad \frac{dy}{dx} \le \frac{1}{\sqrt\varepsilon} ,
# $$ (eq-bcnn-root)
#
# with $\varepsilon = 10^{-5}$: odd, zero at zero, and close to the paper's root for $|x| \gg \varepsilon$.

# %% tags=["figure", "hide-input"]
EPS = 1e-5
x = torch.linspace(-1e-4, 1e-4, 401, dtype=torch.float64)
small = torch.logspace(-8, 0, 200, dtype=torch.float64)
roots = {
    "paper: sign(x)√|x|": lambda t: t.sign() * t.abs().sqrt(),
    "port: √(x + ε)": lambda t: (t + EPS).sqrt(),
    "here: x / √(|x| + ε)": lambda t: signed_sqrt(t, eps=EPS),
}
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.9))
dashes = ("-", "--", "-.")
for (name, function), color, ls in zip(roots.items(), COLORS, dashes, strict=False):
    axes[0].plot(x * 1e4, function(x), label=name, color=color, ls=ls)
    t = small.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(t).sum(), t)
    axes[1].loglog(small, slope, color=color, ls=ls)
axes[0].set(xlabel="x, 10⁻⁴", title="root")
axes[0].legend()
axes[1].set(xlabel="x", title="slope")
show(
    figure,
    name="fig-bcnn-root",
    drawing=True,
    caption="Three square roots near zero. Only the third is odd and has a bounded "
    "slope; the port's lifts every empty entry to √ε and is undefined below −ε.",
    alt="Left, three curves near zero: two odd ones through the origin and one that "
    "starts left of zero and crosses the axis above the origin. Right, their slopes "
    "in logarithmic scale: one grows without bound towards zero, two level off.",
)

# %% [markdown]
# ### Training in two steps
#
# Because $z$ has length one, the classifier's gradient $(p - t)\,z^\top$, with predicted probabilities $p$ and the true class $t$
# as a one-hot vector, is small. The classifier needs a large learning rate, and that rate would destroy pretrained layers below
# a random classifier. So the paper trains in **two steps**: first the classifier alone, on frozen features, then
# everything, at a small rate.
#
# ## The whole method fits in one module
#
# It takes the networks as arguments and pools the last map of each.


# %%
class BilinearFromScratch(nn.Module):
    """One or two networks, second-order pooling, and a linear classifier."""

    def __init__(self, backbone, classes, second=None, eps=1e-5):
        super().__init__()
        self.backbone, self.second, self.eps = backbone, second, eps
        m = backbone.out_channels
        n = m if second is None else second.out_channels
        self.head = nn.Linear(m * n, classes)

    def forward(self, images):  # (B, 3, H, W)
        a = self.backbone(images)[self.backbone.last]  # (B, M, h, w)
        b = a
        if self.second is not None:
            b = self.second(images)[self.second.last]  # (B, N, h, w)
        a, b = a.flatten(2), b.flatten(2)  # (B, M, L), (B, N, L)
        phi = a @ b.mT / a.shape[2]  # Φ, (B, M, N)
        x = phi.flatten(1)  # (B, M·N)
        y = x / (x.abs() + self.eps).sqrt()  # (B, M·N)
        z = y / y.norm(dim=1, keepdim=True)  # (B, M·N), length one
        return self.head(z)  # (B, classes)


def descend(model, loss_of, batches, rate, frozen=0):
    """Losses of the two steps of training: `frozen` batches for the head alone."""
    losses = []
    for n, (images, labels) in enumerate(batches):
        if n in (0, frozen):  # a step of training begins
            moving = model.head if n < frozen else model
            faster = 10 if n < frozen else 1
            optimizer = torch.optim.SGD(moving.parameters(), faster * rate, 0.9)
        model.train()
        model.backbone.train(n >= frozen)  # frozen features stand still
        loss = loss_of(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# We train it for a few steps on the generated birds, and give the method of `fgvc_lib` the same weights and the same batches:

# %% tags=["output"]
birds = load(dataset, **base.data_args)
library = build(pooling(), birds)
scratch = BilinearFromScratch(copy.deepcopy(library.backbone), len(birds.classes))
scratch.head.load_state_dict(library.head.state_dict())  # the same weights

scratch, library = scratch.double(), library.double()  # rounding cannot hide an error

loader = Loader(birds, "train", batch_size, train=True, seed=0, device="cpu")
batches = [(x.double(), y) for epoch in (0, 1) for x, y, _ in loader.epoch(epoch)][:20]
run = {"batches": batches, "rate": pooling().lr, "frozen": len(batches) // 4}


def scratch_loss(images, labels):
    smooth = base.label_smoothing  # 0 here
    return F.cross_entropy(scratch(images), labels, label_smoothing=smooth)


ours = descend(scratch, scratch_loss, **run)
theirs = descend(library, lambda x, y: library(x, y).loss, **run)
assert np.allclose(ours, theirs, rtol=1e-6)
print("step     ", *(f"{n:>7}" for n in range(0, len(ours), 4)))
print("scratch  ", *(f"{loss:7.4f}" for loss in ours[::4]))
print("fgvc_lib ", *(f"{loss:7.4f}" for loss in theirs[::4]))

# %% [markdown]
# The losses agree step by step, through both steps of training. A run to the end needs hundreds of steps, which the library
# takes with warm-up, a cosine schedule and augmentation. The networks of this chapter start from random weights, so there are
# no features worth freezing, and everything trains from the start ({ref}`below <bcnn-phases>` we ask what a first step on random
# features costs).

# %% tags=["experiment"]
pair = {
    "average pooling": vary(pooling("average pooling"), epochs=live_epochs),
    "B-CNN": vary(pooling(), epochs=live_epochs),
}
trained = study.live("pair", pair)

# %% tags=["hide-input"]
live = study.live_frame(trained)
live_line = study.foot(live)
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

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(5.6, 2.9))
for (row, network), color in zip(trained.items(), COLORS, strict=False):
    history = network.record.history
    for split, ls, label in (("train", ":", None), ("val", "-", row)):
        values = [100 * e.get(f"{split}_accuracy", np.nan) for e in history]
        ax.plot([e["epoch"] for e in history], values, color=color, ls=ls, label=label)
ax.set(xlabel="epoch", ylabel="accuracy, %")
ax.legend(title="validation; dotted: training", title_fontsize=9)
show(
    figure,
    drawing=True,
    name="fig-bcnn-training",
    caption="The two networks that we look into, trained on this page: the same "
    "layers, batches and epochs, another pooling.",
    alt="Accuracy over epochs on training and validation images, for both networks.",
)

# %% tags=["hide-input"]
tell(
    "After {epochs} epochs the plain network classifies {plain} of the test images "
    "correctly, and B-CNN {bcnn} (one seed). Its classifier is {times:.0f} times as "
    "large: {many:,} weights instead of {few:,}.",
    epochs=live_epochs,
    plain=level(live, "average pooling"),
    bcnn=level(live, "B-CNN"),
    many=bcnn.head.weight.numel(),
    few=plain.head.weight.numel(),
    times=bcnn.head.weight.numel() / plain.head.weight.numel(),
)

# %% [markdown]
# ## A look inside
#
# ### B-CNN does not know where things are
#
# {eq}`eq-bcnn-pool` is a mean over positions. Shuffle the positions of the last map and no logit changes: $\Phi$ is **orderless**,
# a descriptor of texture, and so is the average. Each position still sees its surroundings in the *image*, so shuffling tiles of
# the image is another matter. We do both.


# %% tags=["hide-input"]
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


for row, network in trained.items():
    positions = pooled[row].flatten(2)  # (N, M, L)
    shuffled = positions[:, :, torch.randperm(positions.shape[2], generator=g)]
    logits = classify(network.method, pooled[row])
    moved = classify(network.method, shuffled.view_as(pooled[row]))
    assert (moved - logits).abs().max() < 1e-3  # the map's order does not matter

# %% tags=["figure", "hide-input"]
counts = (1, 2, 4, 8)
figure = plt.figure(figsize=(7.4, 2.6))
left, right = figure.subfigures(1, 2, width_ratios=(1.35, 1))
for ax, n in zip(left.subplots(1, len(counts)), counts, strict=True):
    ax.imshow(tiles(pixels[:1], n)[0].permute(1, 2, 0))
    ax.set(xticks=[], yticks=[], title=f"{n} × {n}")
ax = right.subplots()
torn = {}
for (row, network), color, marker in zip(trained.items(), COLORS, "os", strict=False):
    maps = (last_map(network.method, tiles(pixels, n)) for n in counts)
    torn[row] = [100 * accuracy(network.method, features) for features in maps]
    ax.plot(range(len(counts)), torn[row], marker=marker, color=color, label=row)
ax.axhline(100 / len(birds.classes), color="black", lw=0.8, ls=":", label="chance")
ax.set(xlabel="tiles", ylabel="accuracy, %", ylim=(0, 100))
ax.set_xticks(range(len(counts)), [f"{n}²" for n in counts])
ax.legend(fontsize=8)
show(
    figure,
    name="fig-bcnn-tiles",
    caption="A test bird cut into tiles that are laid out anew, and the accuracy of "
    "both networks on such images.",
    alt="Left, one bird cut into one, four, sixteen and sixty-four shuffled tiles. "
    "Right, accuracy of both networks over the number of tiles, with a dotted line "
    "for chance.",
)

# %% tags=["hide-input"]
tell(
    "On images torn into 4, 16 and 64 tiles, B-CNN is right on {b[1]:.0f}, {b[2]:.0f}"
    " and {b[3]:.0f} % ({b[0]:.0f} % on whole images), the plain network on "
    "{a[1]:.0f}, {a[2]:.0f} and {a[3]:.0f} % ({a[0]:.0f} %). With 16 tiles, {less} "
    "loses less.",
    a=torn["average pooling"],
    b=torn["B-CNN"],
    less=min(torn, key=lambda row: torn[row][0] - torn[row][2]).replace(
        "average pooling", "the plain network"
    ),
)

# %% [markdown]
# For birds, ignoring positions is a strength, since they sit, fly and hang in all poses. It is also a limit: a single position of the map has to see that a
# ring is *around the eye*, or nothing in Φ says so.
#
# ### Which positions speak for the class?
#
# With average pooling the score of a class is a sum over positions, $\sum_l w^\top a_l$, and drawing the summands gives a class
# activation map. In B-CNN the root and the norm stand between. To first order, however, the evidence of position $l$ is a
# quadratic form with the gradient of the score in place of $V$:
#
# $$
# e_l = a_l^\top G\, a_l, \qquad G = \frac{\partial\, \text{score}}{\partial \Phi} \in \mathbb R^{M \times M} .
# $$ (eq-bcnn-evidence)
#
# The mean of $e_l$ over positions is $\langle G, \Phi \rangle$. It is zero, because scaling $\Phi$ does not change the score: the
# evidence says which positions speak for the class *more than the rest of the image does*.


# %% tags=["hide-input"]
def evidence(row, features):
    """Evidence of each position for the true class, (B, h, w)."""
    if row == "average pooling":
        weight = plain.head.weight[labels].detach()
        return torch.einsum("bchw,bc->bhw", features, weight)
    phi = bilinear_pool(features).requires_grad_()  # (B, M, M)
    scores = bcnn.head(bcnn.pool.vector(phi)).gather(1, labels[:, None])
    (gradient,) = torch.autograd.grad(scores.sum(), phi)  # (B, M, M)
    return torch.einsum("bihw,bij,bjhw->bhw", features, gradient, features)


maps = {row: evidence(row, features).cpu() for row, features in pooled.items()}
total = maps["B-CNN"].mean((1, 2)).abs().mean() / maps["B-CNN"].abs().mean()
assert total < 0.05  # up to ε
side, cells = birds.image_size, pooled["B-CNN"].shape[-1]
stride = side / cells
# where position (0, 0) looks, in pixels: padding moves it by half a stride
first = bcnn.backbone.centers[bcnn.backbone.last]
low, high = first - stride / 2, first - stride / 2 + side
frame = (low, high, high, low)  # where maps are drawn

# %% tags=["figure", "hide-input"]
parts = {name: torch.from_numpy(v[some]) for name, v in birds.test.parts.items()}
known = "discriminative" in parts  # photographs do not say which part it is
right = classify(bcnn, pooled["B-CNN"]).argmax(1) == labels
shown = list(range(4))
if known:
    discriminative = parts["discriminative"]  # (N,)
    boxes = parts["boxes"][torch.arange(len(some)), discriminative]  # (N, 4)
    shown = []
    for part in ("crown", "beak", "breast", "wing"):
        mine = (discriminative == birds.part_names.index(part)).nonzero().flatten()
        shown.append(int(next((i for i in mine if right[i]), mine[0])))
z = bcnn.pool(pooled["B-CNN"])  # (B, M·M)
size = bcnn.backbone.out_channels
figure, axes = plt.subplots(4, len(shown), figsize=(6.6, 6.8))
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
    column[3].set_xlabel(f"channels {c} · {d}" if c != d else f"channel {c}²")
    for ax, color in zip(column, ("black", "white", "black", "white"), strict=True):
        if known:
            x1, y1, x2, y2 = boxes[i].tolist()
            box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=color, lw=1.6)
            ax.add_patch(box)
        ax.set(xticks=[], yticks=[], xlim=(0, side), ylim=(side, 0))
    column[0].set_title(birds.classes[labels[i]], fontsize=10)
titles = ("image", "average pooling", "B-CNN", "strongest pair")
for ax, text in zip(axes[:, 0], titles, strict=True):
    ax.set_ylabel(text)
show(
    figure,
    name="fig-bcnn-evidence",
    caption="Test birds, the discriminative part in a box. Second row: class "
    "activation map of the plain network. Third: evidence of B-CNN, orange for the "
    "class, purple against. Last: product of the two channels that add most to the "
    "true class beyond the others.",
    alt="Four rows of pictures: birds with a box around one part, class activation "
    "maps, signed evidence maps, and products of two channels, each with the box.",
)


# %% tags=["hide-input"]
def pointing(evidence_maps):
    """Peaks on the discriminative part and on the next image's, to half a stride."""
    masks = parts["masks"][torch.arange(len(some)), discriminative]  # (N, H, W)
    hits = (
        pointing_game(evidence_maps, target, tolerance=stride / 2, center=first)
        for target in (masks, masks.roll(-1, 0))
    )
    return [100 * hit.nanmean().item() for hit in hits]


if known:
    tell(
        "The evidence of the plain network peaks on the discriminative part in "
        "{a[0]:.0f} % of {n} test images, that of B-CNN in {b[0]:.0f} %. Birds tend "
        "to stand in the middle, so part of this is luck: on the part of the *next* "
        "image, the peaks lie in {a[1]:.0f} and {b[1]:.0f} %.",
        a=pointing(maps["average pooling"]),
        b=pointing(maps["B-CNN"]),
        n=len(some),
    )

# %% [markdown]
# ### A class needs few of the products
#
# A class weighs $M^2$ products with its matrix $V$. For one network $\Phi$ is symmetric and sees only the symmetric part of
# $V$. We cut that part to its $r$ largest singular values and count what is still classified correctly.

# %% tags=["figure", "hide-input"]
weight = bcnn.head.weight.detach().view(-1, size, size)  # (classes, M, M)
u, s, vt = torch.linalg.svd((weight + weight.mT) / 2)
ranks = [r for r in (1, 2, 4, 8, 16, 32, 64) if r <= size]
by_rank = {}
for r in ranks:
    cut = (u[:, :, :r] * s[:, None, :r]) @ vt[:, :r]  # (classes, M, M)
    logits = z @ cut.flatten(1).T + bcnn.head.bias
    by_rank[r] = 100 * (logits.argmax(1) == labels).float().mean().item()
figure, ax = plt.subplots(figsize=(5.6, 2.7))
ax.plot(range(len(ranks)), by_rank.values(), "o-", label="B-CNN, cut to a rank")
whole = 100 * accuracy(plain, pooled["average pooling"])
ax.axhline(whole, color=COLORS[1], ls="--", label="average pooling")
ax.set_xticks(range(len(ranks)), [f"{r}" for r in ranks])
ax.set(xlabel="rank kept of each class's V", ylabel="accuracy, %", ylim=(0, 100))
ax.legend()
show(
    figure,
    drawing=True,
    name="fig-bcnn-rank",
    caption="Accuracy after the classifier's matrix of every class has been cut to a "
    "small rank.",
    alt="A curve of accuracy over the rank that is kept, from one to all, with the "
    "accuracy of average pooling as a dashed line.",
)

# %% tags=["hide-input"]
full_rank = 100 * accuracy(bcnn, pooled["B-CNN"])
enough = next((r for r in ranks if by_rank[r] > full_rank - 1), size)
tell(
    "With rank 1, {one:.0f} % are right; with rank {enough} of {size}, the accuracy "
    "is within one point of the full {full:.0f} %. A class needs few of its products, "
    "which fits that compact variants of B-CNN work.",
    one=by_rank[1],
    enough=enough,
    size=size,
    full=full_rank,
)

# %% [markdown]
# ## The classifier is the expensive part
#
# The pooling itself costs $L M N$ multiply-adds, little beside the network. The length of $z$ is what costs:


# %% tags=["table", "hide-input"]
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
lines, sizes = [], {}
for (name, classes), (below, pixels_wide) in networks.items():
    operations, (channels, h, w) = multiply_adds(below, pixels_wide)
    length = channels**2
    weights = sum(p.numel() for p in below.parameters())
    sizes[name] = (length * classes / weights, 100 * length * h * w / operations)
    lines.append(
        {
            "network": name,
            "last map": f"{channels} × {h} × {w}",
            "weights, 10⁶": f"{weights / 1e6:.2f}",
            "of the classifier, 10⁶": f"{length * classes / 1e6:.2f}",
            "pooling over network": f"{100 * length * h * w / operations:.1f} %",
        }
    )
show_table(
    pd.DataFrame(lines),
    foot="Counted on this page: weights, and multiply-adds of the pooling over those "
    "of the network. 200 classes for the first two, 12 for the last.",
)
timed = benchmarks.records("second_order")
layer = timed[0]["layers"]["bilinear pooling"] if timed else None
ways = ("literal", "library")
tell(
    "In the paper's network the classifier has {times:.1f} times the weights of all "
    "convolutions below it, while pooling adds {share:.1f} % to their multiply-adds. "
    "The outer products must not be stored: on maps of {shape}, forward and backward "
    "take {seconds[0]:,.0f} ms and {memory[0]:,.0f} MB with them, {seconds[1]:,.0f} "
    "ms and {memory[1]:,.0f} MB as one matrix product (`benchmarks/second_order.py`, "
    "{device}).",
    times=sizes["VGG-16, 448 px"][0],
    share=sizes["VGG-16, 448 px"][1],
    shape=layer and " × ".join(map(str, layer["shape"])),
    seconds=layer and [1e3 * layer["seconds"][way]["median"] for way in ways],
    memory=layer and [1e-6 * layer["peak_bytes"][way] for way in ways],
    device=benchmarks.device(timed[0]) if timed else None,
)

# %% [markdown]
# ## Ablations
#
# All networks train from scratch on 64-pixel birds (12 classes, 40 training images each), with the seeds
# named below each figure. Compare variants, not papers.
#
# ### What the root and the norm bring
#
# Average pooling against the four ways to finish $\Phi$. The vectors differ in length, and with them the gradients, so each
# row has its own learning rate, chosen on validation images; {numref}`fig-bcnn-rates` shows how much depends on it.

# %% tags=["figure", "hide-input"]
measured = study.beside_photos("components", by_component)
show(
    forests(
        {
            title: effects_over(runs, BILINEAR, "average pooling")
            for title, runs in measured.items()
        },
        "over average pooling, points",
    ),
    drawing=True,
    name="fig-bcnn-components",
    caption="Test accuracy of four ways to finish Φ, minus that of average pooling: "
    f"mean difference and 95 % interval. {study.foot(by_component)}",
    alt="Four differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "With the root and the norm, B-CNN reaches {full}; with neither, {none}: the two "
    "together bring {both}. The norm alone reaches {norm}, the root alone {root}.",
    full=level(by_component, FULL),
    none=level(by_component, "bilinear"),
    both=difference(by_component, FULL, "bilinear"),
    norm=level(by_component, "bilinear + norm"),
    root=level(by_component, "bilinear + root"),
)
full = by_component[by_component["variant"] == FULL].sort_values("test_accuracy")
others = full["test_accuracy"].iloc[1:]
if others.count() > 3 and full["test_accuracy"].min() < others.min() - 0.1:
    lost = full.iloc[:1]  # a run far below all others
    (record,) = study.records(lost)
    right = [100 * epoch["train_accuracy"] for epoch in record.history]
    tell(
        "One of the {n} runs with both loses late what it had learned: seed {seed} "
        "classified {best:.0f} % of its training images after {epoch} epochs, "
        "{last:.0f} % at the end, and {test:.1f} % of the test images. Without this "
        "seed the two bring {rest}: at a rate of {lr:g} B-CNN trains close to the "
        "edge.",
        n=full["test_accuracy"].count(),
        seed=lost["seed"].item(),
        best=max(right),
        epoch=right.index(max(right)) + 1,
        last=right[-1],
        test=100 * lost["test_accuracy"].item(),
        rest=difference(
            by_component[by_component["seed"] != lost["seed"].item()], FULL, "bilinear"
        ),
        lr=lr,
    )

# %% [markdown]
# ### The learning rate matters as much as the pooling

# %% tags=["experiment"]
grid = [(name, rate) for name, values in rates.items() for rate in values]
by_rate = study.run(
    "rates",
    {f"{name}, {rate:g}": vary(pooling(name), lr=rate) for name, rate in grid},
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
known_rates = by_rate[by_rate["measured"] & ~by_rate["diverged"]]
figure, ax = plt.subplots(figsize=(6.6, 3))
best = {}
for (name, values), color, marker in zip(rates.items(), COLORS, "osD^", strict=False):
    mine = {r: known_rates[known_rates["variant"] == f"{name}, {r:g}"] for r in values}
    mine = {r: runs for r, runs in mine.items() if len(runs)}
    if mine:
        scores = {r: 100 * runs["test_accuracy"].mean() for r, runs in mine.items()}
        best[name] = max(mine, key=lambda r: mine[r]["val_accuracy"].mean())
        ax.semilogx(list(scores), list(scores.values()), color=color, label=name)
        for r, runs in mine.items():
            dots = 100 * runs["test_accuracy"]
            ax.plot([r] * len(runs), dots, marker, ms=4, color=color, alpha=0.7)
ax.set(xlabel="learning rate", ylabel="test accuracy, %", ylim=(0, 100))
if best:
    ax.legend(fontsize=8, loc="lower right")
show(
    figure,
    drawing=True,
    name="fig-bcnn-rates",
    caption=f"Accuracy over the learning rate; a dot is a seed. {study.foot(by_rate)}",
    alt="Lines of accuracy over the learning rate, one for each pooling, which peak at "
    "different rates.",
)

# %% tags=["hide-input"]
one = max(set.intersection(*map(set, rates.values())), default=lr)  # rate of all rows
tell(
    "By validation accuracy, average pooling does best at {a:g}, the root alone at "
    "{r:g}, and root with norm at {f:g}; these are the rates of the figure before. At "
    "one rate for all of them, {one:g}, average pooling would reach {plain}, the root "
    "alone {rooted}, and root with norm {slow}. Such a comparison says as much about "
    "the rate as about the pooling.",
    a=best.get("average pooling"),
    r=best.get(ROOT),
    f=best.get(FULL),
    one=one,
    plain=level(by_rate, f"average pooling, {one:g}"),
    rooted=level(by_rate, f"{ROOT}, {one:g}"),
    slow=level(by_rate, f"{FULL}, {one:g}"),
)

# %% tags=["hide-input"]
wrong = labels.roll(1)
classes = len(birds.classes)
even = torch.full((len(labels), classes), 1 / classes, device=where)
error = even - F.one_hot(wrong, classes)  # p − t of an undecided network
steps = {}
for row, vector, head in (
    ("plain", pooled["average pooling"].mean((2, 3)), plain.head),
    ("bcnn", z, bcnn.head),
):
    gradient = error.T @ vector / len(labels)
    relative = (gradient.norm() / head.weight.detach().norm()).item()
    steps[row] = (vector.norm(dim=1).mean().item(), relative)
tell(
    "Why does a B-CNN take a larger rate? In the networks of this page the pooled "
    "vector has length {plain[0]:.1f} in the plain network and {bcnn[0]:.1f} in B-CNN, "
    "and the gradient of the classifier, relative to its weights, is {plain[1]:.4f} "
    "and {bcnn[1]:.4f}.",
    **steps,
)

# %% [markdown]
# ### A second network, of the same kind or another
#
# The paper's best model on birds has two different networks. Two networks also cost twice as much, so we add one network
# that is widened until it costs as much as two.

# %% tags=["experiment"]
streams = {"one": pooling()}
if wider:
    streams["one, wider"] = vary(pooling(), backbone_args=wider)
alike = {"backbone": base.backbone, **base.backbone_args}
streams["two alike"] = pooling(second=alike)
if other:
    streams["two unlike"] = pooling(second=other)
by_stream = study.run("streams", streams)


# %% tags=["figure", "hide-input"]
def stream_cost(config):
    """Multiply-adds of all networks of a B-CNN, in millions."""
    kinds = [{"backbone": config.backbone, **config.backbone_args}]
    kinds += [config.method_args["second"]] if "second" in config.method_args else []
    total = 0
    for kind in kinds:
        arguments = {k: v for k, v in kind.items() if k != "pretrained"}
        with torch.device("meta"):
            stream = BACKBONES[arguments.pop("backbone")](**arguments)
        total += multiply_adds(stream, image_size)[0]
    return total / 1e6


costs = {name: stream_cost(config) for name, config in streams.items()}
figure, ax = plt.subplots(figsize=(6.2, 2))
gains = {
    f"{name} ({costs[name] / costs['one']:.1f} × cost)": difference(
        by_stream, name, "one"
    )
    for name in streams
    if name != "one"
}
forest(ax, effects(gains))
ax.set_xlabel("over one network, points")
show(
    figure,
    drawing=True,
    name="fig-bcnn-streams",
    caption="B-CNN with two networks, and with one wider one, minus B-CNN with one. "
    f"{study.foot(by_stream)}",
    alt="Differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "Two unlike networks reach {unlike}, {d.word} one network ({d}); two of the same "
    "kind reach {alike} and the wider one {wide}.",
    unlike=level(by_stream, "two unlike"),
    d=difference(by_stream, "two unlike", "one"),
    alike=level(by_stream, "two alike"),
    wide=level(by_stream, "one, wider"),
)

# %% [markdown]
# Two maps of different size are averaged down to the smaller one. The two networks may have any numbers of channels; then $\Phi$ is
# not square.
#
# (bcnn-phases)=
# ### The first step of training, on random features
#
# The first step of training needs features worth freezing. Here they are random, and we ask what a first step on them costs at
# an equal number of epochs.

# %% tags=["experiment"]
by_phase = study.run(
    "phases",
    {f"{part:g}": pooling(head_fraction=part) for part in head_fractions},
    seeds=seeds[:3],
)

# %% tags=["hide-input"]
shares = [f"{part:g}" for part in head_fractions]
tell(
    "With {some} of the epochs for the head alone, accuracy is {low} instead of "
    "{none}: {d}.",
    some=f"{100 * head_fractions[-1]:.0f} %",
    low=level(by_phase, shares[-1]),
    none=level(by_phase, shares[0]),
    d=difference(by_phase, shares[-1], shares[0]),
)


# %% tags=["hide-input"]
def vectors(row, images):
    images = torch.from_numpy(np.asarray(images)).float() / 255
    features = last_map(trained[row].method, images)
    vector = bcnn.pool(features) if row == "B-CNN" else features.mean((2, 3))
    return vector.cpu().numpy()


machines = {}
for row in trained:
    machine = LinearSVC(C=1.0, dual=True, max_iter=100_000, random_state=0)
    machine.fit(vectors(row, birds.train.images), birds.train.labels.numpy())
    predicted = machine.predict(vectors(row, birds.test.images[some]))
    machines[row] = 100 * (predicted == labels.cpu().numpy()).mean()
tell(
    "For its final scores the paper replaces the softmax classifier by linear support"
    " vector machines on z. On the networks of this page they change accuracy from "
    "{a:.1f} to {b:.1f} % for average pooling and from {c:.1f} to {d:.1f} % for B-CNN"
    " ({n} test images).",
    a=whole,
    b=machines["average pooling"],
    c=full_rank,
    d=machines["B-CNN"],
    n=len(some),
)

# %% [markdown]
# ## On photographs
#
# The paper compares B-CNN with the fully connected layers of the same network and with a Fisher vector of the same features, never with
# average pooling of the same map. That comparison is ours. Effects beside effects, on Caltech-UCSD Birds (CUB) for the
# paper; our photographs are small crops of 100 of its classes, with a pretrained EfficientNet-Lite0:

# %% tags=["table", "hide-input"]
quoted = {
    f.variant: f.value
    for f in reversed(published.figures())
    if f.dataset == "cub" and f.experiment.startswith(study.chapter)
}
photos = {n: study.recorded(n, profile="photos") for n in ("components", "streams")}


def gain(runs, name, over):
    return str(difference(runs, name, over) or "not measured yet")


def paper(name, over):
    return (
        f"{quoted[name]} − {quoted[over]} = {quoted[name] - quoted[over]:+.1f}".replace(
            "-", "−"
        )
    )


UNLIKE = "two unlike"
rows = [
    (
        "B-CNN over fully connected layers",
        paper(FULL, "fully connected layers"),
        "",
        "",
    ),
    ("B-CNN over a Fisher vector", paper(FULL, "Fisher vector"), "", ""),
    (
        "B-CNN over average pooling",
        "",
        gain(photos["components"], FULL, "average pooling"),
        gain(by_component, FULL, "average pooling"),
    ),
    (
        "root and norm over neither",
        "",
        gain(photos["components"], FULL, "bilinear"),
        gain(by_component, FULL, "bilinear"),
    ),
    (
        "two unlike networks over one",
        paper(UNLIKE, FULL),
        gain(photos["streams"], UNLIKE, "one"),
        gain(by_stream, UNLIKE, "one"),
    ),
    ("both steps over the first alone", paper(FULL, "first step alone"), "", ""),
]
show_table(
    pd.DataFrame(
        rows, columns=["comparison", "paper, points", "our photographs", "our birds"]
    ),
    foot="Paper: Table 1 of the conference version, VGG-16 at 448 pixels, fine-tuned, "
    "no bounding boxes (data/published.yaml). Empty: not compared there.",
)
tell(
    "In the paper, a second, *different* network adds {two:+.1f} points on birds, and"
    " both steps of training add {steps:+.1f} over the first alone; even without "
    "fine-tuning B-CNN ({first} %) beats fine-tuned fully connected layers ({fc} %). "
    "On our photographs, B-CNN minus average pooling is {d}.",
    two=quoted[UNLIKE] - quoted[FULL],
    steps=quoted[FULL] - quoted["first step alone"],
    first=quoted["first step alone"],
    fc=quoted["fully connected layers"],
    d=gain(photos["components"], FULL, "average pooling"),
)

# %% [markdown]
# (bcnn-port)=
# ## Paper versus official implementation
#
# The authors' release is in MATLAB; what most people run is a PyTorch port, `HaoMood/bilinear-cnn`. Its forward pass in
# `src/bilinear_cnn_all.py` is six lines and differs from {eq}`eq-bcnn-norm` in one of them: the root is `sqrt(x + 1e-5)`, without a
# sign. After the ReLU of VGG nothing is negative, so nobody notices. On a map without a ReLU the loss is not a number, and even
# with one, every empty entry is lifted to $\sqrt{10^{-5}} \approx 0.003$. How much does this change?

# %% tags=["output"]
centered = torch.randn(1, 4, 3, 3, generator=g)  # a map without a ReLU
phi = bilinear_pool(centered)  # (1, 4, 4)
lost = int((phi + 1e-5).sqrt().isnan().sum())
print(f"not a number: {lost} of {phi.numel()} entries in the port,", end=" ")
print(int(signed_sqrt(phi).isnan().sum()), "here")

phi = bilinear_pool(pooled["B-CNN"]).flatten(1)  # (N, M²), after a ReLU
port = F.normalize((phi + 1e-5).sqrt(), dim=1)
exact = F.normalize(phi.sqrt(), dim=1)  # the paper's z
print(f"entries below ε: {100 * (phi < 1e-5).float().mean():.0f} %")
print(f"cosine with the paper's z: {(port * exact).sum(1).mean():.6f} port,", end=" ")
print(f"{(z * exact).sum(1).mean():.6f} here")

# %% [markdown]
# So the shortcut is harmless behind a ReLU and fatal without one. The literal $\mathrm{sign}(x)\sqrt{|x|}$ is no way out:
# its gradient at zero is not a number, and the first pair of channels that never fires together stops the training.
#
# A second difference is in the same file: the learning rate drops when *test* accuracy stalls, and the best epoch by test accuracy is
# what is reported. The rest (sum or mean, the name of the pooled layer, support vector machines, the rates of the two steps) is on
# the page of {doc}`all discrepancies </book/discrepancies>`.

# %% tags=["hide-input"]
port = next(f.value for f in published.figures() if "HaoMood" in f.source)
tell(
    "So the {port} % that the port's readme gives for CUB, beside the paper's {paper}"
    " %, is the best of all epochs by test accuracy.",
    port=port,
    paper=quoted[FULL],
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
tell(
    "1. With the learning rates that validation prefers, B-CNN is {d.word} average "
    "pooling on the generated birds: {bcnn} against {plain}, {d}. In this chapter's "
    "own runs, with fewer seeds, the difference is {here}.",
    d=difference(at_best, PRODUCTS, AVERAGE),
    bcnn=level(at_best, PRODUCTS),
    plain=level(at_best, AVERAGE),
    here=difference(by_component, FULL, "average pooling"),
)
tell(
    "2. The root and the norm together bring {both} over neither. The root alone "
    "reaches {root}.",
    both=difference(by_component, FULL, "bilinear"),
    root=level(by_component, ROOT),
)
FAST = f"{lrs.get(FULL, lr):g}"
tell(
    "3. The learning rate matters as much as the pooling: from {slow:g} to {fast}, "
    "B-CNN changes by {b}, average pooling by {a}, and the root alone from {slow:g} to "
    "{r:g} by {c}. So compare poolings at rates of their own.",
    slow=one,
    fast=FAST,
    b=difference(by_rate, f"{FULL}, {FAST}", f"{FULL}, {one:g}"),
    a=difference(by_rate, f"average pooling, {FAST}", f"average pooling, {one:g}"),
    c=difference(by_rate, f"{ROOT}, {lrs.get(ROOT, lr):g}", f"{ROOT}, {one:g}"),
    r=lrs.get(ROOT, lr),
)
tell(
    "4. A second, different network brings {d}; a single network of the same cost "
    "brings {wide}.",
    d=difference(by_stream, "two unlike", "one"),
    wide=difference(by_stream, "one, wider", "one"),
)
tell(
    "5. B-CNN still classifies {torn:.0f} % of the images that are torn into 16 tiles "
    "(average pooling: {plain:.0f} %), and a rank of {enough} of {size} is enough for "
    "each class.",
    torn=torn["B-CNN"][2],
    plain=torn["average pooling"][2],
    enough=enough,
    size=size,
)
tell(
    "6. With a pretrained network on CUB-100, B-CNN reaches {bcnn} and average pooling "
    "{plain}: {d}. There the norm on top of the root brings {norm}, and the root on "
    "top of the norm {root}.",
    bcnn=level(photos["components"], FULL),
    plain=level(photos["components"], "average pooling"),
    d=difference(photos["components"], FULL, "average pooling"),
    norm=difference(photos["components"], FULL, ROOT),
    root=difference(photos["components"], FULL, "bilinear + norm"),
)

# %% [markdown]
# ## When to use it today
#
# - Use second-order pooling when classes differ in local combinations (texture, color *on* a part). With a pretrained network and small
#   photographs it gained more than any other method of this book ({doc}`/notebooks/08_evidence`), for a longer classifier and nothing else.
# - Do not copy the long $z$: the matrix square root of iSQRT-COV {footcite:p}`li2018towards` is the better root, and a compact
#   sketch {footcite:p}`gao2016compact` needs a small fraction of the numbers.
# - With a pretrained vision transformer, whose attention already multiplies features {footcite:p}`oquab2024dinov2`, try a linear classifier
#   on its features first.
#
# ## Exercises
#
# 1. **Half of it is a copy.** Show that for one network a classifier on $M(M+1)/2$ numbers can do all that one on $M^2$ can. What must
#    change in the vector so that inner products stay the same?
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
# 3. **Homogeneity.** Show that the mean over positions of the evidence {eq}`eq-bcnn-evidence` is zero with the norm, and half of the score (without
#    its bias) with the root alone. What does ε change?
#
# ```{dropdown} Solution
# The mean is $\langle G, \Phi \rangle$. Euler: for $f(t \Phi) = t^k f(\Phi)$, $\langle \partial f / \partial \Phi, \Phi \rangle = k f$. The norm gives $k = 0$, the root alone
# $k = ½$. ε breaks the homogeneity of the smallest entries.
# ```
#
# 4. **Code: a compact sketch.** Draw $r$ pairs of random sign vectors $(p_k, q_k)$ and pool $(p_k^\top a_l)(q_k^\top b_l)$ instead of Φ. Show that inner
#    products are kept in expectation, and write it as a module that replaces the pooling in `BilinearFromScratch`.
#
# ````{dropdown} Solution
# $\mathbb E\big[(p^\top a)(p^\top a')(q^\top b)(q^\top b')\big] = (a^\top a')(b^\top b')$, so {eq}`eq-bcnn-kernel` is kept in expectation, with a
# variance that falls as $1/r$. The classifier has $r$ inputs instead of $MN$.
#
# ```python
# class Sketch(nn.Module):
#     def __init__(self, m, n, r):
#         super().__init__()
#         self.register_buffer("p", torch.randint(0, 2, (r, m)) * 2.0 - 1)
#         self.register_buffer("q", torch.randint(0, 2, (r, n)) * 2.0 - 1)
#
#     def forward(self, a, b):  # (B, M, L), (B, N, L)
#         pairs = (self.p @ a) * (self.q @ b)  # (B, r, L)
#         return pairs.mean(2) / len(self.p) ** 0.5  # (B, r)
# ```
# ````
#
# 5. **Code: the matrix root.** The elementwise root treats every entry alone. Replace it by the matrix square root of a symmetric Φ, by five
#    steps of the Newton–Schulz iteration, and check that its square is Φ.
#
# ````{dropdown} Solution
# ```python
# def matrix_root(phi, steps=5):  # (B, M, M), positive semidefinite
#     trace = phi.diagonal(dim1=1, dim2=2).sum(1).view(-1, 1, 1)
#     eye = torch.eye(phi.shape[1]).expand_as(phi)
#     y, w = phi / trace, eye  # eigenvalues in [0, 1], so that it converges
#     for _ in range(steps):
#         t = (3 * eye - w @ y) / 2
#         y, w = y @ t, t @ w
#     return y * trace.sqrt()
# ```
#
# After ten steps the square of the root is Φ to six digits where no eigenvalue is tiny; five steps suffice in training. The root evens out *eigenvalues* instead of entries.
# ````
#
# 6. **Texture or object?** {numref}`fig-bcnn-tiles` shuffles tiles at test time only. What do you expect of networks that are *trained* on shuffled tiles, and
#    which classes of the generated birds should suffer least?
#
# ```{dropdown} Solution
# Borders of tiles stop being a surprise, so both lose less than they do here. Classes whose mark is smaller than a tile (a ring, a cap,
# a wing bar) keep it whole; a long beak or a white tail tip, which lies at the end of a long tail, is cut more often.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
