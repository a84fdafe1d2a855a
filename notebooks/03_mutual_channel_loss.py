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
# # Mutual-Channel Loss
#
# Mutual-Channel Loss (MC-Loss, {footcite:t}`chang2020devil`) gives every class a few channels of the last feature map and makes them look at different
# places of the image, without adding a single weight to the network.

# %% tags=["figure", "hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import torch
from fgvc_lib.data import load
from fgvc_lib.losses.mutual_channel import group_diversity
from fgvc_study.figures import COLORS, show, style
from matplotlib.colors import to_rgb

style()


def overlay(ax, pixels, maps, shift=0.0):
    """A bird (3, H, W) in gray under its maps (ξ, h, w), a color each."""
    side = pixels.shape[-1]
    pale = {"cmap": "gray", "vmin": -350, "vmax": 255}
    ax.imshow(pixels.mean(0), extent=(0, side, side, 0), **pale)
    maps = np.asarray(maps)
    peak = maps.max((1, 2), keepdims=True)
    even = peak < 2 / maps[0].size  # the even map of a silent channel
    weight = np.where(even, 0, maps / peak)  # (ξ, h, w)
    colors = np.array([to_rgb(color) for color in COLORS[: len(maps)]])  # (ξ, 3)
    mixed = np.einsum("jhw,jc->hwc", weight, colors)
    mixed = mixed / np.maximum(weight.sum(0), 1e-6)[..., None]
    sheet = np.concatenate([mixed, 0.8 * weight.max(0)[..., None]], 2)  # with opacity
    frame = (shift, side + shift, side + shift, shift)
    ax.imshow(sheet.clip(0, 1), extent=frame, interpolation="bilinear")
    ax.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


drawn = load("birds")
example = int((torch.from_numpy(drawn.test.parts["discriminative"]) == 4).nonzero()[0])
row, column = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")


def peak_on(part):
    """A map (16, 16) with its peak in the middle of a part of the example."""
    mask = drawn.test.parts["masks"][example, drawn.part_names.index(part)]
    y, x = (float(v.mean()) / 4 for v in np.nonzero(mask))
    return 9 * torch.exp(-((row - y) ** 2 + (column - x) ** 2) / 3)


cases = {
    "three channels on one part": ["wing", "wing", "wing"],
    "three channels on three parts": ["wing", "crown", "tail"],
}
figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.8))
picture = drawn.test.images[example]
axes[0].imshow(picture.transpose(1, 2, 0))
axes[0].set(xticks=[], yticks=[])
axes[0].spines[:].set_visible(False)
axes[0].set_title("one image of a class", fontsize=10)
reached = []
for ax, (name, parts) in zip(axes[1:], cases.items(), strict=True):
    maps = torch.stack([peak_on(part) for part in parts])  # (ξ, 16, 16)
    reached.append(group_diversity(maps[None], 1).item())
    overlay(ax, picture, maps.flatten(1).softmax(1).view_as(maps))
    ax.set_title(f"{name}:\ndiversity h = {reached[-1]:.1f}", fontsize=10)
show(
    figure,
    name="fig-mc-overlap",
    caption="What MC-Loss asks of the channels of a class (a color each): to "
    "recognize the class, and to do so at different places. Its measure of "
    "diversity h is 1 where three channels coincide and approaches 3 where "
    "they do not overlap.",
    alt="A drawn bird, then the same bird twice in gray: with the maps of three "
    "channels all on the wing, and with one each on wing, crown and tail.",
)
assert reached[0] < 1.01 < 2.5 < reached[1]

# %% tags=["hide-input"]
from fgvc_study import Study
from fgvc_study.findings import difference, level, tell

CE, MC = "CE, the same head", "CE + MC"
known = Study("03_mutual_channel_loss").recorded("components", profile="quick")
gain, alone = (difference(known, variant, CE) for variant in (MC, "CE + dis"))
tell(
    "**Main finding.** On drawn birds, trained from scratch, cross-entropy with "
    "MC-Loss reaches {mc}; cross-entropy alone, with the same network and head, {ce}."
    " The difference is {d}. Its first term alone, discriminality, is {dis.word} "
    "cross-entropy ({dis}).",
    mc=level(known, MC),
    ce=level(known, CE),
    d=gain,
    dis=alone,
)

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
num_classes = (
    12  # of the data set: from scratch, the last stage has ξ channels for each
)
backbone = "small"
pretrained = False
epochs = 60
live_epochs = 30  # of the networks that the page trains and looks inside
batch_size = 32
lr = 0.1
max_steps = None
seeds = [0, 1, 2, 3, 4]
more_seeds = [5, 6, 7, 8, 9]  # of the pairs that five seeds leave open
seeds_of = {}  # row of the components: its seeds, where it has others
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
xi = 3
mu = 1.5
lam = 4.44
hidden = 128  # width of the classifier's hidden layer
xis = [1, 2, 3, 4, 6]
drops = [0.0, 0.5, 0.67]
mus = [0.1, 0.5, 1.5]
lambdas = [1.0, 4.44, 10.0]
confusion_weight = 10.0
moments = [1, 4]  # epochs at which a network in training is looked at
method_args = {}  # further arguments of MC-Loss
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "hide-input"]
import copy
import itertools
import math

import pandas as pd
import torch.nn.functional as F
from fgvc_lib.backbones import resnet
from fgvc_lib.config import Config
from fgvc_lib.data.loader import Loader
from fgvc_lib.losses.mutual_channel import (
    channel_groups,
    diversity_weights,
    mutual_channel_loss,
    paper_weights,
)
from fgvc_lib.methods.mutual_channel import MutualChannel, class_maps
from fgvc_study import Study, benchmarks, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import curve, forest, forests, show_table
from fgvc_study.findings import effects
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize
from torch import nn

study = Study("03_mutual_channel_loss", seeds=seeds, device=device, train=train)
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


def mutual_channel(xi=xi, mu=mu, **arguments):
    """Cross-entropy with MC-Loss; at μ = 0 the same network without it."""
    # a pretrained network keeps its channels, dealt to the classes as evenly as can be
    own = {} if pretrained else {"backbone_args": {"last_channels": num_classes * xi}}
    groups = {} if pretrained else {"xi": xi}
    known = groups | {"mu": mu, "lam": lam, "hidden": hidden} | method_args | arguments
    return vary(base, method="mutual_channel", method_args=known, **own)


# %% [markdown]
# ## One mark is enough for cross-entropy
#
# A classifier on pooled features may use any channel for any class. Cross-entropy never asks it to find a second mark once the first is enough,
# and nothing says which channel to look at when we ask *why* the network chose a class. Part-based methods look for several parts on purpose, and pay with part
# detectors, crops or attention modules: more weights, more passes.
#
# MC-Loss needs none of them. It uses the channels that are already there: it deals the channels of the last map to the classes, and trains
# the channels of each class with two losses in addition to cross-entropy.

# %% tags=["figure", "hide-input"]
diagram = Diagram(7.4, 3.3)
image = diagram.stack("images", at=(0.4, 1.75), count=3)
net = diagram.box("CNN", at=(2.1, 1.75), size=(0.7, 0.7), color=COLORS[0])
maps = diagram.stack("map F", at=(3.6, 1.75), count=5, color=COLORS[0])
pool = diagram.box("max over\npositions", at=(4.9, 2.9), size=(1.0, 0.5))
head = diagram.box("head", at=(6.1, 2.9), size=(0.6, 0.5), color=COLORS[0])
ce = diagram.box("$L_{CE}$", at=(7.05, 2.9), size=(0.5, 0.5))
mask = diagram.box(
    "mask, max in group,\nmean over positions", at=(5.2, 1.75), size=(1.6, 0.5)
)
dis = diagram.box("$L_{dis}$", at=(7.05, 1.75), size=(0.5, 0.5), color=COLORS[1])
soft = diagram.box(
    "softmax over positions,\nmax in group, sum", at=(5.2, 0.6), size=(1.7, 0.5)
)
div = diagram.box("$L_{div}$", at=(7.05, 0.6), size=(0.5, 0.5), color=COLORS[1])
diagram.arrow(image, net)
diagram.note("(B, 3, H, W)", at=(1.33, 1.62))
diagram.arrow(net, maps)
diagram.note("(B, c·ξ, h, w)", at=(2.87, 1.62))
diagram.arrow(maps, pool)
diagram.arrow(pool, head)
diagram.note("(B, c·ξ)", at=(5.6, 3.22))
diagram.arrow(head, ce)
diagram.note("(B, c)", at=(6.62, 3.22))
diagram.arrow(maps, mask)
diagram.arrow(mask, dis)
diagram.note("g (B, c)", at=(6.4, 1.87))
diagram.arrow(maps, soft)
diagram.arrow(soft, div)
diagram.note("h (B, c)", at=(6.42, 0.72))
show(
    diagram.figure,
    drawing=True,
    name="fig-mc-diagram",
    caption="MC-Loss sees the last map before it is pooled, in training only. The two "
    "lower branches have no weights; the deployed network is the upper one.",
    alt="Diagram: images pass a convolutional network to a map of c times ξ channels."
    " Above, the map is pooled and a head gives cross-entropy. In the middle, a "
    "mask, the maximum in each group and the mean over positions give "
    "discriminality. Below, a softmax over positions, the maximum in each group "
    "and a sum give diversity.",
)

# %% [markdown]
# ## Channels are dealt to classes
#
# Let a batch have $B$ images of $c$ classes. The last map of one image is $F \in \mathbb R^{N \times WH}$: $N$ channels of $W \times H$ positions. From scratch, the last stage
# is built with $N = c\,\xi$ channels. The first $\xi$ of them belong to class 0, the next $\xi$ to class 1, and so on:
#
# $$
# F = [F_0, F_1, \dots, F_{c-1}], \qquad F_i \in \mathbb R^{\xi \times WH} .
# $$ (eq-mc-groups)
#
# A pretrained network keeps its channels. They are dealt as evenly as they can be, into groups of two sizes:

# %% tags=["output"]
for channels, classes in ((600, 200), (2048, 200), (512, 200), (36, 12)):
    runs = [f"{n} classes × {size}" for n, size in channel_groups(channels, classes)]
    print(f"{channels:>5} channels, {classes:>3} classes: {' + '.join(runs)}")

# %% [markdown]
# ## Two losses on each group
#
# The network is trained with cross-entropy and two further terms, with weights $\mu$ and $\lambda$:
#
# $$
# L = L_{CE} + \mu\, L_{MC}, \qquad L_{MC} = L_{dis} - \lambda\, L_{div} .
# $$ (eq-mc-loss)
#
# ### Discriminality: a class must be known from its own channels
#
# Each class gets one score $g$ from its own channels alone, and these scores must classify:
#
# $$
# g(F_i) = \frac{1}{WH} \sum_{k=1}^{WH} \max_{j=1 \dots \xi} \big[ M_i F_i \big]_{j,k}, \qquad
# L_{dis} = -\log \frac{e^{g(F_y)}}{\sum_{i} e^{g(F_i)}} .
# $$ (eq-mc-dis)
#
# Here $j$ counts the channels of the group, $k$ the positions, and $y$ is the label. No weight stands between channel and score, so a channel of class $i$ can do nothing
# but speak for class $i$. $M_i \in \{0, 1\}^{\xi \times \xi}$ is a random diagonal mask that hides $\lfloor \xi/2 \rfloor$ of the group's channels at each step, so that none
# can leave the work to the others. The maximum is taken across channels, the mean over positions.
#
# ### Diversity: the channels of a class must look at different places
#
# A softmax over *positions* turns each channel into a distribution $p_j$ over the image. The diversity $h$ of a group adds up the maximum at each position:
#
# $$
# p_{j,k} = \frac{e^{F_{i,j,k}}}{\sum_{k'} e^{F_{i,j,k'}}}, \qquad
# h(F_i) = \sum_{k=1}^{WH} \max_{j=1 \dots \xi} p_{j,k}, \qquad
# L_{div} = \frac1c \sum_{i=0}^{c-1} h(F_i) .
# $$ (eq-mc-div)
#
# If all channels of a group have the same map, the maximum of ξ equal distributions is one of them, and $h = 1$: the least there is. The less they overlap, the less is lost in the
# maximum. The limit is $\min(\xi, WH)$; a softmax approaches it with ever sharper peaks and never reaches it.
#
# Two classes of two channels on four positions can be done on paper. With logarithms as activations the softmax undoes them:

# %% tags=["output"]
log = math.log
maps = torch.tensor(
    [
        [[0, 0], [0, log(5)]],  # class 0: p = ⅛ ⅛ ⅛ ⅝
        [[log(5), 0], [0, 0]],  #          p = ⅝ ⅛ ⅛ ⅛
        [[0, 0], [0, 0]],  # class 1: p = ¼ ¼ ¼ ¼
        [[0, 0], [0, 0]],  #          the same
    ]
)[None]  # (B, c·ξ, H, W) = (1, 4, 2, 2)
groups = maps.unflatten(1, (2, 2)).flatten(3)  # (B, c, ξ, WH) = (1, 2, 2, 4)
g = groups.amax(2).mean(2)  # (B, c)
h = groups.softmax(3).amax(2).sum(2)  # (B, c)
print(f"g = {g[0, 0]:.4f}, {g[0, 1]:.0f}:  (ln 5 + 0 + 0 + ln 5) / 4, and 0")
print(f"h = {h[0, 0]:.1f}, {h[0, 1]:.1f}:  5/8 + 1/8 + 1/8 + 5/8, and 4 · 1/4")

by_library = mutual_channel_loss(maps, torch.tensor([0]), 2)
torch.testing.assert_close(by_library.dis.item(), log(1 + 5**-0.5))  # ln(1 + 1/√5)
torch.testing.assert_close(by_library.div, h.mean())

# %% [markdown]
# ### The gradient is an auction
#
# Let $j^*_k$ be the channel that wins position $k$, the one with the largest $p_{j,k}$. Then
#
# $$
# \frac{\partial h}{\partial F_{i,j,k}} = p_{j,k} \Big( [j = j^*_k] - \sum_{k'} [j = j^*_{k'}]\, p_{j,k'} \Big) .
# $$ (eq-mc-gradient)
#
# The sum is the fraction of the channel's mass on positions that it wins. A channel rises where it wins and falls where it loses: each gives up what another holds more
# firmly. Two ends are flat. A channel that wins all its mass has no slope, and neither has one that wins nothing. So channels that are *exactly* equal are never parted by
# $h$; random initialization and the mask have to see to that.

# %% tags=["hide-input"]


def slope_of(channels):
    """Largest slope of h, checked against the formula; channels (ξ, H, W)."""
    channels = channels[None].requires_grad_()
    (slope,) = torch.autograd.grad(group_diversity(channels, 1).sum(), channels)
    p = channels.detach().flatten(2)[0].softmax(1)  # (ξ, HW)
    won = F.one_hot(p.argmax(0), len(p)).T  # (ξ, HW)
    formula = p * (won - (won * p).sum(1, keepdim=True))
    torch.testing.assert_close(slope.flatten(2)[0], formula, atol=1e-6, rtol=1e-4)
    return slope.abs().max().item()


alike = peak_on("wing").expand(3, -1, -1).clone()
apart = torch.stack([peak_on("wing"), peak_on("breast"), peak_on("tail")])
slopes = slope_of(alike), slope_of(0.95 * alike + 0.05 * apart)
assert slopes[0] < 1e-6 < slopes[1]
tell(
    "For three equal channels the largest slope is {equal:.4f}; with a twentieth of "
    "another map mixed into two of them it is {near:.4f}.",
    equal=slopes[0],
    near=slopes[1],
)

# %% [markdown]
# ### Diversity is a total variation
#
# Why this measure, and not the distance of each pair of channels? For two channels $h$ *is* a distance. Since $\max(a, b) = \frac12(a + b + |a - b|)$ and both distributions add up to one,
#
# $$
# \xi = 2: \qquad h = 1 + \tfrac12 \sum_k | p_{1,k} - p_{2,k} | ,
# $$ (eq-mc-tv)
#
# which is one plus the **total variation** of the two. It is bounded, where the Kullback–Leibler divergence grows without limit. For more channels it
# stays one maximum over ξ, where pairs grow as $\xi(\xi - 1)/2$.

# %% tags=["hide-input"]
(p, q), generator = torch.empty(2, 1, 1, 4, 4), torch.Generator().manual_seed(1)
p, q = p.normal_(generator=generator), q.normal_(generator=generator)
variation = 0.5 * (p.flatten().softmax(0) - q.flatten().softmax(0)).abs().sum()
torch.testing.assert_close(
    group_diversity(torch.cat([p, q], 1), 1).squeeze(), 1 + variation
)

ratios = next(iter(benchmarks.records("mutual_channel")), {})
ratios = ratios.get("diversity of ξ = 10 channels a class", {}).get(
    "over_the_maximum", {}
)
tell(
    "Is it cheaper too? Measured for ten channels a class, forward and backward: "
    "Euclidean distances pair by pair take {pairs:.1f} times as long as the maximum, "
    "Kullback–Leibler divergences {kl:.1f} times. Euclidean distances from inner "
    "products, which form no pairs of maps, take {inner:.1f} times as long. Cost "
    "alone does not decide for the maximum.",
    pairs=ratios.get("Euclidean, pair by pair"),
    kl=ratios.get("Kullback–Leibler, pair by pair"),
    inner=ratios.get("Euclidean, inner products"),
)

# %% [markdown]
# ## From scratch
#
# The whole method is one module around any network that ends in a map of $c\,\xi$ channels, after a ReLU. Its head is that of the official implementation.


# %%
class MutualChannelNet(nn.Module):
    """A network with MC-Loss: B images, c classes, ξ channels for each."""

    def __init__(self, network, c, xi, mu, lam, hidden):
        super().__init__()
        self.network, self.c, self.xi, self.mu, self.lam = network, c, xi, mu, lam
        self.head = nn.Sequential(
            nn.BatchNorm1d(c * xi),
            nn.Linear(c * xi, hidden),
            nn.BatchNorm1d(hidden),
            nn.ELU(),
            nn.Linear(hidden, c),
        )  # (B, c·ξ) → (B, c)

    def draw_mask(self, generator):
        order = torch.rand(self.c, self.xi, generator=generator).argsort(1)
        return order >= self.xi // 2  # (c, ξ), False for ⌊ξ/2⌋ of each class

    def forward(self, images, labels, keep):
        features = self.network(images)  # (B, c·ξ, h, w), not negative
        logits = self.head(features.amax((2, 3)))  # (B, c)
        groups = features.unflatten(1, (self.c, self.xi)).flatten(3)  # (B, c, ξ, hw)
        g = (groups * keep[..., None]).amax(2).mean(2)  # (B, c)
        p = groups.softmax(3)  # (B, c, ξ, hw), each channel over its positions
        h = p.amax(2).sum(2)  # (B, c), from 1 to ξ
        ce, dis = F.cross_entropy(logits, labels), F.cross_entropy(g, labels)
        return ce, self.mu * dis, -self.mu * self.lam * h.mean()


def train_from_scratch(net, batches, lr, generator):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    losses = []
    for images, labels in batches:
        keep = net.draw_mask(generator)  # a new mask at each step
        ce, dis, div = net(images, labels, keep)
        optimizer.zero_grad()
        (ce + dis + div).backward()
        optimizer.step()
        losses.append((ce.item(), dis.item(), div.item()))
    return losses


# %% [markdown]
# We train it for a few steps on drawn birds, and `fgvc_lib` from the same weights on the same batches with the same masks. All three terms must be the same at every step.

# %% tags=["output"]
c = len(drawn.classes)
loader = Loader(drawn, "train", 32, train=True, seed=0, device="cpu")
first = itertools.islice(loader.epoch(0), max_steps or 6)
batches = [(images.double(), labels) for images, labels, _ in first]

torch.manual_seed(0)
network = resnet("small", last_channels=3 * c).double()
library = MutualChannel(network, c, xi=3, mu=mu, lam=lam, hidden=hidden).double()
library.seed(0)  # of its masks


class LastMap(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return self.network(images)[self.network.last]


net = MutualChannelNet(LastMap(copy.deepcopy(network)), c, 3, mu, lam, hidden)
net.double()  # so that rounding does not grow from step to step
net.head.load_state_dict(library.head.state_dict())
ours = train_from_scratch(net, batches, 0.01, torch.Generator().manual_seed(0))

theirs = []
optimizer = torch.optim.SGD(library.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
for images, labels in batches:
    output = library(images, labels)
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    theirs.append(tuple(output.terms[name].item() for name in ("ce", "dis", "div")))
torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs))

print("step      L_CE here  library    μ L_dis here  library   −μλ L_div here  library")
for step in sorted({1, 2, len(ours)}):
    pairs = zip(ours[step - 1], theirs[step - 1], strict=True)
    print(f"{step:>4}", *(f"{a:>14.4f} {b:>8.4f}" for a, b in pairs))

# %% [markdown]
# In a training loop of your own, the library needs two lines; they are in {doc}`/book/lift`.
#
# ## A look inside: apart is not on another part
#
# The data are drawn birds of 12 classes. All classes are the same bird; each adds one mark on one part, and the place of every part is known. Two networks are trained on them on this page,
# both with cross-entropy and discriminality, one with diversity as well. The last map has three channels for each class, of $8 \times 8$ positions.

# %% tags=["experiment", "hide-input"]
pair = {
    "dis": vary(mutual_channel(parts="dis"), epochs=live_epochs),
    "dis + div": vary(mutual_channel(), epochs=live_epochs),
}
trained = study.live("pair", pair, metrics=["group_parts"])
shorter = {
    f"{row}, {count}": vary(config, epochs=count)
    for row, config in pair.items()
    for count in moments
}
young = study.live("moments", shorter, metrics=["group_parts"])

# %% tags=["figure", "hide-input"]
birds = load(dataset, **base.data_args)
telling = torch.from_numpy(birds.test.parts["discriminative"])  # (N,)


@torch.no_grad()
def channels_of(method, indices):
    """The channels of each image's true class, (B, ξ, h, w)."""
    where = next(method.parameters()).device
    pixels = torch.from_numpy(birds.test.images[list(indices)]).float() / 255
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))
    features = method.eval()(((pixels - mean) / std).to(where)).maps["features"]
    labels = birds.test.labels[list(indices)].to(where)
    return class_maps(features, labels, len(birds.classes)).cpu()


shown = [
    int((telling == birds.part_names.index(p)).nonzero()[0])
    for p in ("crown", "breast", "wing", "tail")
]
figure, axes = plt.subplots(len(trained), len(shown), figsize=(7.4, 4.2))
for line, (row, network) in zip(axes, trained.items(), strict=True):
    method = network.method
    stage = method.backbone.last
    # position (0, 0) looks at the pixel `center`, not at the middle of the first square
    shift = method.backbone.centers[stage] - method.backbone.strides[stage] / 2
    for ax, i, maps in zip(line, shown, channels_of(method, shown), strict=True):
        p = maps.flatten(1).softmax(1).view_as(maps)
        overlay(ax, birds.test.images[i], p, shift=shift)
        mask = birds.test.parts["masks"][i, telling[i]].astype(float)
        pixel = np.arange(birds.image_size) + 0.5
        ax.contour(pixel, pixel, mask, levels=[0.5], colors="black", linewidths=1.2)
        title = f"h = {group_diversity(maps[None], 1).item():.2f}"
        if row == "dis":
            title = f"{birds.classes[birds.test.labels[i]]}\n{title}"
        ax.set_title(title, fontsize=9)
    line[0].set_ylabel(row)
show(
    figure,
    name="fig-mc-channels",
    caption="The three channels of the true class of four test birds (a color each, "
    "after the softmax over positions), without diversity (top) and with it "
    "(bottom). The discriminative part is outlined in black.",
    alt="Two rows of four drawn birds in gray, each under the colored maps of three "
    "channels, with the outline of the discriminative part.",
)

# %% [markdown]
# A picture of four birds proves nothing. For the test images we ask on which part each channel of the true class peaks, and count how many **distinct parts** the three channels cover.

# %% tags=["hide-input"]
live = study.live_frame(trained)
final = {row: network.record.final for row, network in trained.items()}
own = {
    row: 3 * numbers.get("group_parts/discriminative", math.nan)
    for row, numbers in final.items()
}


def both(key):
    return {row: numbers.get(f"group_parts/{key}") for row, numbers in final.items()}


def pick(values, row):
    return None if values[row] is None else f"{values[row]:.2f}"


hs, parts = both("h"), both("parts")
if max_steps is None and hs["dis"] is not None:  # a network that is trained
    assert hs["dis + div"] - hs["dis"] > parts["dis + div"] - parts["dis"]
tell(
    "Diversity raises h from {h0} to {h1}. The number of distinct parts goes from "
    "{p0} to {p1} of three, and the channels on the discriminative part from {o0:.2f}"
    " to {o1:.2f}. So channels part from each other more than they spread over parts:"
    " h counts positions, and knows nothing of parts. Test accuracy is {a0} without "
    "diversity and {a1} with it.",
    h0=pick(hs, "dis"),
    h1=pick(hs, "dis + div"),
    p0=pick(parts, "dis"),
    p1=pick(parts, "dis + div"),
    o0=own["dis"],
    o1=own["dis + div"],
    a0=level(live, "dis"),
    a1=level(live, "dis + div"),
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.8))
for (row, network), color, mark in zip(trained.items(), COLORS, "os", strict=False):
    record = network.record
    stages = {count: young[f"{row}, {count}"].record.final for count in moments}
    stages = {
        n: f
        for n, f in (stages | {live_epochs: record.final}).items()
        if "group_parts/h" in f
    }
    for ax, key in zip(axes, ("group_parts/h", "group_parts/parts"), strict=True):
        values = [f[key] for f in stages.values()]
        ax.plot(list(stages), values, f"-{mark}", color=color, label=row)
    if "div" in record.history[0]:
        weight = pair[row].method_args["mu"] * pair[row].method_args["lam"]
        epoch, value = zip(
            *((e["epoch"], -e["div"] / weight) for e in record.history), strict=True
        )
        axes[0].plot(epoch, value, ":", color=color, label=f"{row}, while training")
axes[0].set(xlabel="epochs", title="h")
axes[1].set(xlabel="epochs", title="distinct parts")
axes[0].legend(fontsize=8)
show(
    figure,
    name="fig-mc-h",
    caption="Diversity h and distinct parts on test images after runs of growing "
    "length; dotted, h on the training images in the course of the longest "
    "run.",
    alt="Two plots over epochs: h, and the mean number of distinct parts, without and"
    " with the diversity term.",
)

# %% [markdown]
# (mc-ablations)=
# ## Ablations: what the gain needs
#
# From here on, numbers come from committed records. Every variant is compared with cross-entropy on the *same* network and head; otherwise the head's normalization and
# hidden layer would be credited to the loss.

# %% tags=["experiment", "hide-input"]
components = study.run(
    "components",
    {
        "CE, the same head": mutual_channel(mu=0.0),
        "CE + dis": mutual_channel(parts="dis"),
        "CE + div": mutual_channel(parts="div"),
        "CE + MC, no mask": mutual_channel(drop=0.0),
        "CE + MC, average instead of max": mutual_channel(cross_channel="avg"),
        "CE + MC": mutual_channel(),
    },
    metrics=["group_parts"],
    seeds=seeds_of,
)

# %% tags=["figure", "hide-input"]


def against(runs, variants, over):
    """Differences in test accuracy to one variant, for a forest plot."""
    return effects(
        {text: difference(runs, name, over) for name, text in variants.items()}
    )


names = {name: name for name in components["variant"].unique() if name != CE}
measured = study.beside_photos("components", components)
show(
    forests(
        {title: against(runs, names, CE) for title, runs in measured.items()},
        "over CE, points",
    ),
    drawing=True,
    name="fig-mc-components",
    caption="What each part of MC-Loss adds to cross-entropy: mean over seeds and 95 % "
    "interval of the difference.",
    alt="A forest plot of the difference in test accuracy to cross-entropy alone, for "
    "each term, without mask, with average pooling, and for the whole MC-Loss.",
)

# %% tags=["hide-input"]
NO_MASK, AVERAGE = "CE + MC, no mask", "CE + MC, average instead of max"
tell(
    "MC-Loss is {mc.word} cross-entropy ({mc}). Discriminality alone is {dis.word} it"
    " ({dis}), diversity alone {div.word} it ({div}). Without the mask the whole loss"
    " is {mask.word} that with it ({mask}); with the average across channels in place"
    " of the maximum it is {avg.word} that with the maximum ({avg}).",
    mc=difference(components, MC, CE),
    dis=difference(components, "CE + dis", CE),
    div=difference(components, "CE + div", CE),
    mask=difference(components, NO_MASK, MC),
    avg=difference(components, AVERAGE, MC),
)

# %% tags=["table", "hide-cell"]
PARTS = {
    "test accuracy, %": "test_accuracy",
    "distinct parts": ("group_parts/parts", 1, 2),
    "h": ("group_parts/h", 1, 2),
}
show_table(summarize(components, PARTS, "loss"), foot=study.foot(components))

# %% [markdown]
# ### How many channels, and how many of them hidden
#
# At ξ = 1 there is nothing to be diverse: $h$ is 1 with no gradient, and MC-Loss is discriminality alone. A larger ξ
# widens the last stage too, so a gain may come from width.

# %% tags=["experiment", "hide-input"]
by_xi = study.run(
    "xi",
    {str(n): mutual_channel(xi=n) for n in xis},
    metrics=["group_parts"],
    seeds=seeds + more_seeds,
)
by_mask = study.run(
    "mask",
    {f"{drop:g}": mutual_channel(drop=drop) for drop in drops},
    metrics=["group_parts"],
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.7), sharey=True)
by_xi["ξ"] = by_xi["variant"].astype(int)
by_mask["fraction"] = by_mask["variant"].astype(float)
swept = {
    "channels for each class, ξ": (by_xi, "ξ", sorted(xis)),
    "fraction of them hidden by the mask": (by_mask, "fraction", sorted(drops)),
}
for ax, (label, (runs, key, values)), color in zip(
    axes, swept.items(), COLORS, strict=False
):
    if "test_accuracy" in runs:
        curve(ax, values, runs, key, "test_accuracy", color=color)
    ax.set_xlabel(label)
axes[0].set_ylabel("test accuracy")
show(
    figure,
    name="fig-mc-xi",
    caption="Test accuracy against the number of channels for each class, and against"
    " the fraction that the mask hides; a dot is a seed, the line their mean.",
    alt="Two curves of test accuracy: over the number of channels for each class, and"
    " over the fraction of channels that the mask hides.",
)

# %% tags=["hide-input"]
few, many = str(min(xis)), str(max(xis))
tell(
    "With ξ = {few} accuracy is {one}, with ξ = {xi} it is {usual}: a step of {d}. ξ "
    "= {many} is {more.word} ξ = {xi} ({more}). Hiding two of three channels is "
    "{hide.word} hiding none ({hide}).",
    few=few,
    many=many,
    xi=xi,
    one=level(by_xi, few),
    usual=level(by_xi, str(xi)),
    d=difference(by_xi, str(xi), few),
    more=difference(by_xi, many, str(xi)),
    hide=difference(by_mask, f"{max(drops):g}", f"{min(drops):g}"),
)

# %% [markdown]
# (mc-weights)=
# ### The weights
#
# The official implementation trains from scratch with what is μ = 1.5 and λ = 4.44 in the paper's form (see below). We measure a grid around it.

# %% tags=["experiment", "hide-input"]
grid = {f"μ {m:g}, λ {w:g}": mutual_channel(mu=m, lam=w) for m in mus for w in lambdas}
by_weight = study.run("weights", grid, metrics=["group_parts"], seeds=seeds[:3])

# %% tags=["figure", "hide-input"]
cells = np.full((len(mus), len(lambdas)), np.nan)
for r, m in enumerate(mus):
    for k, w in enumerate(lambdas):
        mine = by_weight[by_weight["variant"] == f"μ {m:g}, λ {w:g}"]
        if "test_accuracy" in mine:
            cells[r, k] = 100 * mine["test_accuracy"].mean()
figure, ax = plt.subplots(figsize=(4.6, 2.8))
image = ax.imshow(cells, cmap="viridis")
for r, k in np.ndindex(cells.shape):
    if np.isfinite(cells[r, k]):
        dark = cells[r, k] < np.nanmean(cells)
        ax.text(
            k,
            r,
            f"{cells[r, k]:.1f}",
            ha="center",
            va="center",
            color="white" if dark else "black",
        )
ax.set_xticks(range(len(lambdas)), [f"{w:g}" for w in lambdas])
ax.set_yticks(range(len(mus)), [f"{m:g}" for m in mus])
ax.set(xlabel="λ, weight of diversity in MC-Loss", ylabel="μ, weight of MC-Loss")
show(
    figure,
    name="fig-mc-weights",
    caption="Test accuracy in percent over the two weights, mean over seeds.",
    alt="A heat map with numbers: test accuracy for each pair of μ and λ.",
)

# %% tags=["hide-input"]
done = np.isfinite(cells).any()
best = np.unravel_index(np.nanargmax(cells), cells.shape) if done else (0, 0)
worst = np.unravel_index(np.nanargmin(cells), cells.shape) if done else (0, 0)
names = [f"μ {mus[r]:g}, λ {lambdas[k]:g}" for r, k in (best, worst)]
tell(
    "The best of the grid is {best}, with {top}; the worst is {worst}, with {low}.",
    best=names[0].replace("μ ", "μ = ").replace("λ ", "λ = "),
    worst=names[1].replace("μ ", "μ = ").replace("λ ", "λ = "),
    top=level(by_weight, names[0]),
    low=level(by_weight, names[1]),
)

# %% [markdown]
# ### A relative, and another network
#
# Pairwise Confusion {footcite:p}`dubey2018pairwise` is a distance between softmax distributions too, with the opposite sign: over
# *classes* instead of positions, between two *images* of different classes instead of two channels of one class. It is made
# *smaller*, to keep a network from being too sure of small differences. We train it on the same network. And because the paper also uses VGG {footcite:p}`simonyan2015very`, we train MC-Loss on a narrow VGG-11.

# %% tags=["experiment", "hide-input"]
by_confusion = study.run(
    "confusion",
    {
        "CE, the same head": mutual_channel(mu=0.0),
        "CE + PC": mutual_channel(mu=0.0, confusion=confusion_weight),
        "CE + MC": mutual_channel(),
        "CE + MC + PC": mutual_channel(confusion=confusion_weight),
    },
    metrics=["group_parts"],
)
vgg = {
    "backbone": "vgg",
    "backbone_args": {
        "depth": 11,
        "blocks": 4,
        "width": 16,
        "last_channels": num_classes * xi,
    },
}
by_other = study.run(
    "vgg",
    {
        name: Config.from_dict(mutual_channel(mu=m).to_dict() | vgg)
        for name, m in {"CE, the same head": 0.0, "CE + MC": mu}.items()
    },
    metrics=["group_parts"],
    seeds=seeds + more_seeds,
)

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(7.2, 2.1))
rows = {"CE + PC": "ResNet: PC", MC: "ResNet: MC", "CE + MC + PC": "ResNet: MC and PC"}
others = against(by_other, {MC: "VGG: MC"}, CE)
forest(ax, pd.concat([against(by_confusion, rows, CE), others]))
ax.set_xlabel("test accuracy over CE, points")
show(
    figure,
    name="fig-mc-others",
    caption="Pairwise Confusion (PC) beside MC-Loss, and MC-Loss on a VGG: what each "
    "adds to cross-entropy on the same network.",
    alt="A forest plot of differences in test accuracy to cross-entropy: Pairwise "
    "Confusion, MC-Loss and both on a ResNet, and MC-Loss on a VGG.",
)

# %% tags=["hide-input"]
tell(
    "On the VGG, MC-Loss is {v.word} cross-entropy ({v}). Pairwise Confusion with a "
    "weight of {w:g} is {pc.word} cross-entropy on the ResNet ({pc}); its training "
    "accuracy is {fit}, against {fitted} with cross-entropy alone.",
    w=confusion_weight,
    fit=level(by_confusion, "CE + PC", "train_accuracy"),
    fitted=level(by_confusion, CE, "train_accuracy"),
    v=difference(by_other, MC, CE),
    pc=difference(by_confusion, "CE + PC", CE),
)

# %% [markdown]
# ## On photographs: the baseline decides
#
# The paper's table has three sets of photographs and networks pretrained on ImageNet. Its baselines come from another paper and have another head. We set effect beside effect.

# %% tags=["table", "hide-input"]
FAMILIES = {  # words in the source → what was trained
    "Table IV": "ResNet-50, pretrained; baseline of another paper",
    "ResNet-18 from scratch": "ResNet-18, from scratch",
    "Kurumi233": "ResNet-50, pretrained; the same head",
}
SETS = {"cub": "CUB", "aircraft": "Aircraft", "cars": "Cars"}
figures = [
    f
    for f in published.figures()
    if f.experiment == "03_mutual_channel_loss/components"
]


def quoted(words, data_name, variant):
    mine = (f for f in figures if words in f.source and f.variant == variant)
    return next((f.value for f in mine if f.dataset == data_name), None)


lines, gains = [], {}
for words, what in FAMILIES.items():
    for data_name in SETS:
        a, b = (quoted(words, data_name, variant) for variant in (CE, MC))
        if a is not None and b is not None:
            gains[words, data_name] = b - a
            line = {"data": SETS[data_name], "network": what, "CE, %": f"{a:.1f}"}
            lines.append(
                line | {"+ MC, %": f"{b:.1f}", "effect, points": f"{b - a:+.1f}"}
            )
photos = study.recorded("components", profile="photos")
own_photos = difference(photos, MC, CE)
if own_photos:
    network = f"{photos['backbone_args.name'].iloc[0]}, pretrained; this book"
    line = {"data": photos["data"].iloc[0], "network": network}
    line |= {"CE, %": level(photos, CE), "+ MC, %": level(photos, MC)}
    lines.append(line | {"effect, points": own_photos.numbers})
show_table(
    pd.DataFrame(lines),
    foot="Published: the paper's Table IV, and threads of its repository and of a "
    "public port. " + study.foot(photos),
)

# %% tags=["hide-input"]
table_iv = [gain for (words, _), gain in gains.items() if words == "Table IV"]
scratch, same = gains["ResNet-18 from scratch", "cub"], gains["Kurumi233", "cub"]
assert same < min(table_iv) < max(table_iv) < scratch
tell(
    "Beside the baselines that the paper cites, MC-Loss gains {low:.1f} to {high:.1f}"
    " points. Beside a baseline with the same head and settings, one user of a port "
    "finds {same:.1f}. From scratch the gain is {scratch:.1f}. So most of the "
    "difference in the published table may be the head and the recipe; the authors "
    "say themselves that the loss is not well suited to fine-tuning.",
    low=min(table_iv),
    high=max(table_iv),
    same=same,
    scratch=scratch,
)
if own_photos is None:
    tell("The same comparison on photographs has not been measured in this book yet.")
else:
    tell(
        "On our photographs, with a pretrained network and at the rate that "
        "validation chose for it, MC-Loss is {d.word} cross-entropy with the same "
        "head ({d}). Discriminality alone is {dis.word} it ({dis}), and with "
        "diversity it is {both.word} discriminality alone ({both}). One reason may "
        "be, and nothing here tests it, that ImageNet has taught the network "
        "different channels already.",
        d=own_photos,
        dis=difference(photos, "CE + dis", CE),
        both=difference(photos, MC, "CE + dis"),
    )

# %% [markdown]
# (mc-log)=
# ## Paper versus official implementation: how the published figure was measured
#
# The official repository, `PRIS-CV/Mutual-Channel-Loss`, holds the script for training from scratch (`CUB-200-2011.py`). The script for the pretrained
# ResNet-50, `MC_ResNet50.py`, and the log of its run, `MC_ResNet50.out`, were deleted in April 2020 and are still in the history. Together they tell how the paper's figure on CUB came about.
#
# The script tests after each of 300 epochs and reports the best. Its test loader shuffles and drops the last batch, so each test leaves out another 34 of the 5,794 images. And its cosine,
# taken of the epoch modulo 300, jumps back to the full learning rate in the last epoch.

# %% tags=["hide-input"]
USED, ALL = 90 * 64, 5_794
log_of = {
    word: next(
        f.value for f in figures if "released log" in f.source and word in f.source
    )
    for word in ("the best", "the last epoch", "the last ten")
}
rng = np.random.default_rng(0)


def flattery(undecided, epochs_tested=300, runs=400):
    """Best minus mean accuracy of a network that does not change, in points."""
    open_images = round(undecided * ALL)
    right = round(log_of["the last ten"] / 100 * ALL - open_images / 2)
    right = right + rng.binomial(open_images, 0.5, (runs, epochs_tested))
    right = right - rng.hypergeometric(right, ALL - right, ALL - USED)  # left out
    return 100 * float((right.max(1) - right.mean(1)).mean()) / USED


assert abs(log_of["the best"] - 100 * 5_026 / USED) < 0.01  # a whole number of images
assert log_of["the last epoch"] < log_of["the last ten"] < log_of["the best"]
tell(
    "The log has {best:.2f} % as the best epoch, {ten:.2f} % as the mean of the last "
    "ten, and {last:.2f} % for the very last, at the full rate. How much of this is "
    "choosing the best? We simulate a network that does not improve at all but "
    "decides a few test images anew at each epoch. If it decides {u:.0f} % of them "
    "anew, the best of 300 tests is {gain:.2f} points above their mean; the log's "
    "best is {real:.2f} above its last ten.",
    best=log_of["the best"],
    ten=log_of["the last ten"],
    last=log_of["the last epoch"],
    u=100 * 0.04,
    gain=flattery(0.04),
    real=log_of["the best"] - log_of["the last ten"],
)

# %% [markdown]
# The records of this book hold the **last** epoch on all test images. Three more differences change what is trained:
#
# - **The diversity term.** The paper subtracts $\lambda h$, the script adds $\beta\,(1 - h/\xi)$. The gradients of $\alpha L_{dis} + \beta(1 - h/\xi)$ and of $\mu(L_{dis} - \lambda h)$ agree for
#   $\mu = \alpha$ and $\lambda = \beta / (\alpha\,\xi)$: a λ taken from the code into the paper's formula is ξ times too large.
# - **Uneven groups.** For the pretrained ResNet-50 the script adds the mean over its 152 classes of ten channels to that over the 48 of eleven, so a class of the smaller run weighs more.
# - **The mask.** It hides 4 of 10 and 4 of 11 channels, where the paper hides half.

# %% tags=["output", "hide-input"]
paper_mu, paper_lam = paper_weights(alpha=1.5, beta=20.0, xi=3)
print(
    "α = 1.5, β = 20, ξ = 3 are "
    f"μ = {paper_mu}, λ = {paper_lam:.2f} in the paper's form"
)
weights = diversity_weights(2048, 200, weighting="released")  # (200,)
print(
    f"weight of a class of 11 channels over one of 10: {weights[-1] / weights[0]:.2f}"
)

# %% [markdown]
# The rest is in {doc}`/book/discrepancies`, and more on time and memory in {doc}`/book/performance`.
#
# ### What it costs

# %% tags=["hide-input"]
plain = MutualChannel(
    resnet("small", last_channels=3 * c), c, xi=3, mu=0.0, hidden=hidden
)
added = sum(p.numel() for p in library.parameters()) - sum(
    p.numel() for p in plain.parameters()
)
assert added == 0
step = next(iter(benchmarks.records("mutual_channel")), {}).get("training step", {})
over = step.get("over_baseline", {}).get("median")
tell(
    "No weight is added, and nothing is computed when the network is used. A training"
    " step takes {more:.1f} % longer than that of the baseline ({setting}).",
    more=None if over is None else 100 * (over - 1),
    setting=step.get("setting"),
)

# %% [markdown]
# ## What we found

# %% tags=["hide-input"]
tell(
    "1. From scratch on drawn birds, MC-Loss is {mc.word} cross-entropy with the same"
    " network and head: {mc}; on a VGG, {vgg}.\n2. Of the two terms alone, "
    "discriminality is {dis.word} cross-entropy ({dis}) and diversity {div.word} it "
    "({div}).\n3. Without the mask MC-Loss is {mask.word} MC-Loss with it ({mask}); "
    "with the average in place of the maximum it is {avg.word} MC-Loss with the "
    "maximum ({avg}).\n4. With ξ = {xi} channels for each class, accuracy is "
    "{one.word} that with {few} ({one}); with {many} it is {six.word} that with {xi} "
    "({six}).\n5. Diversity raises h from {h0} to {h1} of at most three, and distinct "
    "parts from {p0} to {p1}: channels that look at different places need not look at"
    " different parts.\n6. With a pretrained network on CUB-100, MC-Loss is "
    "{photo.word} cross-entropy with the same head: {photo}.",
    photo=own_photos,
    mc=difference(components, MC, CE),
    vgg=difference(by_other, MC, CE),
    dis=difference(components, "CE + dis", CE),
    div=difference(components, "CE + div", CE),
    mask=difference(components, NO_MASK, MC),
    avg=difference(components, AVERAGE, MC),
    xi=xi,
    few=few,
    many=many,
    one=difference(by_xi, str(xi), few),
    six=difference(by_xi, many, str(xi)),
    h0=pick(hs, "dis"),
    h1=pick(hs, "dis + div"),
    p0=pick(parts, "dis"),
    p1=pick(parts, "dis + div"),
)

# %% [markdown]
# ## When to use it today
#
# - **Use it** for training a small network from scratch on few classes, where a loss without weights is welcome and channels with a meaning are worth having.
# - **Prefer fine-tuning** of a strong pretrained network otherwise: there the published gain beside the same head is a fraction of a point.
# - **Prefer self-supervised features** (DINOv2, {footcite:t}`oquab2024dinov2`) if you want parts: their patches separate the parts of an object without a loss that asks for it.
#
# ## Exercises
#
# 1. **Code: pairs without pairs.** Write the sum of $\mathrm{KL}(p_a \Vert p_b)$ over all ordered pairs of a group without an array of pairs of maps.
#
# ```{dropdown} Solution
# ~~~python
# def divergences(p):  # (B, c, ξ, hw), each channel a distribution
#     cross = p @ p.log().mT  # (B, c, ξ, ξ)
#     own = cross.diagonal(dim1=2, dim2=3).sum(-1)  # (B, c)
#     return p.shape[2] * own - cross.sum((2, 3))  # (B, c)
# ~~~
# It is still unbounded: two channels without overlap have an infinite divergence.
# ```
#
# 2. **Code: signed maps.** `MutualChannelNet` hides a channel by setting it to zero. Show with a map of −1 everywhere that this is wrong without a ReLU, and correct it in one line.
#
# ```{dropdown} Solution
# A hidden channel's zeros win every maximum, so $g = 0$ instead of −1. Leave hidden channels out of the maximum instead:
# ~~~python
# g = groups.masked_fill(~keep[..., None], -torch.inf).amax(2).mean(2)
# ~~~
# `fgvc_lib` does so.
# ```
#
# 3. **Where is the top?** Show that $h \le \min(\xi, WH)$. What does this say about ξ = 6 on a $2 \times 2$ map?
#
# ```{dropdown} Solution
# A maximum of non-negative numbers is at most their sum, so $h \le \sum_j \sum_k p_{j,k} = \xi$; and each $p_{j,k} \le 1$, so the sum over positions is at
# most $WH$. Six channels on four positions cannot all have a position of their own: $h \le 4$.
# ```
#
# 4. **Average instead of maximum.** What is $h$ if the maximum is replaced by the mean over the group? Why then can the ablation of the maximum only be about $g$?
#
# ```{dropdown} Solution
# $\sum_k \frac1\xi \sum_j p_{j,k} = 1$ for all maps: a constant without gradient. Only in $g$ does the average make a loss to train with.
# ```
#
# 5. **Scale.** Multiply all maps by $s > 1$. What happens to $h$, and to $L_{dis}$? What might a network do if λ is very large?
#
# ```{dropdown} Solution
# The softmax over positions becomes sharper, so channels with peaks at different positions overlap less and $h$ rises towards the number of distinct peaks, with no
# change of where they look. $g$ scales by $s$, so $L_{dis}$ becomes surer of whatever it says, right or wrong. A large λ can be satisfied by sharp
# peaks anywhere, the background included.
# ```
#
# 6. **Labels.** $L_{div}$ has no labels. Over which classes is it averaged for one image, and what would change if it were asked of the true class only?
#
# ```{dropdown} Solution
# Over all $c$ classes, so the channels of absent classes are kept apart too. For the true class only, each group would be trained by
# one image in $c$; multiply λ by $c$ to give that term the same weight.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
