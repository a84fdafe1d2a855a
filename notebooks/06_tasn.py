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
# # Trilinear attention sampling (TASN)
#
# *The paper:* {footcite:t}`zheng2019looking`. TASN gives the pixels of a small image to the details that attention
# finds, and teaches what is seen there to a network that sees the whole bird.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 128  # of the source that is sampled from
input_size = 64  # of the nets that classify
attention_size = 32  # of the attention net's input
backbone = "small"
pretrained = False
epochs = 60
live_epochs = 30  # of the network that the page trains and looks inside
batch_size = 32
lr = 0.1
max_steps = None
seeds = [0, 1, 2, 3, 4]
seeds_of = {}  # row of the components: its seeds, where it has others
device = None  # the best there is
train = "missing"  # "all" measures everything again, "never" shows what there is
temperatures = [1.0, 3.0, 10.0, 30.0]
weights = [0.0, 1.0, 10.0, 100.0]  # λ, of the distillation
num_details = [1, 2, 4]
released_scale = 7.0  # of the official code's softmax
attention_net = {
    "backbone": "resnet",
    "depth": "small",
    "width": 16,
    "strides": [1, 1, 1],
}
dilations = [[1, 2]]
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "hide-input"]
import copy
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import resnet
from fgvc_lib.data import load
from fgvc_lib.layers.attention_sampler import (
    attention_sample,
    axis_magnification,
    sample_at,
    sampling_grid,
)
from fgvc_lib.layers.trilinear import TrilinearAttention, random_maps, unique_maps
from fgvc_lib.losses.distillation import distillation_loss
from fgvc_lib.methods.tasn import RELEASED, TASN
from fgvc_study import Study, benchmarks, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import COLORS, curve, forest, forests, show, show_table, style
from fgvc_study.findings import difference, effects_over, level, tell
from fgvc_study.metrics.parts import peaks
from fgvc_study.metrics.sampling import (
    area_magnification,
    attention_maps,
    channel_parts,
)
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

study = Study("06_tasn", seeds=seeds, device=device, train=train)
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


def tasn_with(**arguments):
    """TASN on the common backbone, with some of its arguments changed."""
    own = {
        "input_size": input_size,
        "attention": {
            "backbone": attention_net,
            "dilations": dilations,
            "input_size": attention_size,
        },
    }
    return vary(vary(base, method="tasn", method_args=own), method_args=arguments)


METRICS = ["magnification", "channel_parts", "part_net"]
style()

# %% tags=["experiment", "hide-input"]
TAUGHT = "structure + detail + distillation"  # the whole method
by_component = study.run(
    "components",
    {
        "plain resizing": tasn_with(structure="resize", detail=None),
        "uniform sampling": tasn_with(structure="uniform", detail="uniform"),
        "structure": tasn_with(detail=None),
        "structure + detail": tasn_with(distillation={"weight": 0.0}),
        TAUGHT: tasn_with(),
    },
    metrics=["magnification", "part_net"],
    seeds=seeds_of,
)

# %% tags=["figure", "hide-input"]
birds = load(dataset, **base.data_args)
SOURCE, INPUT = birds.image_size, input_size
mean = torch.tensor(birds.mean).view(3, 1, 1)
std = torch.tensor(birds.std).view(3, 1, 1)


def to_picture(image: torch.Tensor) -> np.ndarray:
    """A normalized image as matplotlib wants it."""
    return (image.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def normalized(images) -> torch.Tensor:
    """Images of bytes as a network gets them."""
    return (torch.from_numpy(np.asarray(images)).float() / 255 - mean) / std


def bare(axes) -> None:
    """Pictures need no ticks and no frame."""
    for ax in np.ravel(axes):
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)


def draw_grid(ax, image, grid, *, every: int = 4) -> None:
    """Every fourth line of the sampling points, and the last, over the image."""
    keep = [*range(0, len(grid), every), len(grid) - 1]
    lines = (grid[keep][:, keep].cpu().numpy() + 1) / 2  # (lines, lines, 2)
    ax.imshow(to_picture(image), extent=(0, 1, 1, 0))
    for line in (*lines, *lines.swapaxes(0, 1)):
        ax.plot(*line.T, color="white", lw=0.5)


def true_map(i: int, *, side: int = 16, floor: float = 0.15) -> torch.Tensor:
    """The discriminative part's outline on a coarse map, blurred, on a floor."""
    mask = torch.from_numpy(birds.test.parts["masks"][i, decides[i]]).float()
    coarse = F.adaptive_avg_pool2d(mask[None, None], side)
    blurred = F.avg_pool2d(F.pad(coarse, (1, 1, 1, 1)), 3, 1)[0, 0]
    return floor + blurred / blurred.max()


decides = birds.test.parts["discriminative"]  # which part tells the class
examples = [
    int(np.flatnonzero(decides == birds.part_names.index(part))[0])
    for part in ("eye", "wing", "tail")
]
images = normalized(birds.test.images[examples])  # (3, 3, H, W)
resized = F.interpolate(
    images, (INPUT, INPUT), mode="bilinear", align_corners=False, antialias=True
)
drawn_map = true_map(examples[0])  # (16, 16)
grid = sampling_grid(drawn_map[None], (INPUT, INPUT))
outline = torch.from_numpy(birds.test.parts["masks"][examples[0], decides[examples[0]]])
even = sampling_grid(torch.ones(1, 1, 1), (INPUT, INPUT))
pixels = [
    int((sample_at(outline[None, None].float(), points) > 0.5).sum())
    for points in (even, grid)
]
figure, axes = plt.subplots(1, 3, figsize=(8.6, 3.3))
draw_grid(axes[0], images[0], grid[0])
axes[0].imshow(drawn_map, extent=(0, 1, 1, 0), alpha=0.4, cmap="magma")
axes[0].set_title(f"source, {SOURCE} px, where to\nlook and every 4th line read")
axes[1].imshow(to_picture(resized[0]))
axes[1].set_title(f"resized to {INPUT} px:\n{pixels[0]} pixels of the part")
axes[2].imshow(to_picture(sample_at(images[:1], grid)[0]))
axes[2].set_title(f"sampled to {INPUT} px:\n{pixels[1]} pixels of the part")
bare(axes)
show(
    figure,
    name="fig-tasn-idea",
    caption="The idea. A bird whose class shows at the "
    f"{birds.part_names[decides[examples[0]]]}: resizing to {INPUT} pixels leaves "
    f"{pixels[0]} pixels of that part, and sampling by a map that points at it leaves "
    f"{pixels[1]}, at the expense of the background. Here the map is the part's known "
    "outline, blurred; TASN has to find it.",
    alt="A bird with a heat map on its eye, under a grid that is dense there; the "
    "bird resized; and the bird with its head enlarged.",
)

# %% tags=["hide-input"]
tell(
    "**Main finding.** With {size} × {size} pixels for the network that classifies, "
    "TASN reaches {tasn} on the generated birds, and the same network on plainly "
    "resized images {plain}: TASN is {d.word} plain resizing ({d}). Even sampling, "
    "with the second network and the distillation but without attention, reaches "
    "{uniform}: TASN is {e.word} even sampling ({e}).",
    size=INPUT,
    tasn=level(by_component, TAUGHT),
    plain=level(by_component, "plain resizing"),
    uniform=level(by_component, "uniform sampling"),
    d=difference(by_component, TAUGHT, "plain resizing"),
    e=difference(by_component, TAUGHT, "uniform sampling"),
)

# %% tags=["hide-input"]
tell(
    "The generated birds are drawn at {side} pixels by code, in {classes} classes, "
    "and we know where each of their {parts} parts is. All networks of this chapter "
    "train from scratch on them.",
    side=SOURCE,
    classes=len(birds.classes),
    parts=len(birds.part_names),
)

# %% [markdown]
# ## A few pixels decide

# %% tags=["hide-input"]
areas = {
    name: np.median(birds.test.parts["masks"][decides == part, part].sum((1, 2)))
    for part, name in enumerate(birds.part_names)
    if (decides == part).any()
}
share = {name: INPUT**2 * area / SOURCE**2 for name, area in areas.items()}
least, most = min(share, key=share.get), max(share, key=share.get)
tell(
    "A network with an input of {size} × {size} sees {all:,} pixels. The "
    "discriminative part, the one that tells a bird's class, has {few:.0f} ({least}) "
    "to {many:.0f} ({most}) of them, median over the test images. The source has "
    "{times:.0f} times as many pixels: the detail was there, and resizing threw it "
    "away.",
    size=INPUT,
    all=INPUT**2,
    few=share[least],
    many=share[most],
    least=least,
    most=most,
    times=(SOURCE / INPUT) ** 2,
)

# %% [markdown]
# Before TASN the remedy was to **crop**: find a few parts, cut each out at full resolution, and pass each through a
# network. That has two weaknesses.
#
# - The number of parts is fixed in advance, and every part costs a pass. So methods use two or four.
# - Parts come from the channels of a feature map. One channel often responds to one part, but it also responds
#   elsewhere, and to other things in the next image.
#
# TASN answers the first by **sampling** one of hundreds of attention maps in each training step, so the cost does not
# grow with their number. It answers the second by **trilinear attention**, in which channels vote on where to look.

# %% tags=["figure", "hide-input"]
sheet = Diagram(8.6, 3.9)
source = sheet.box("image", at=(0.55, 1.75), size=(0.8, 0.5))
look = sheet.box("attention net", at=(1.5, 3.2), color=COLORS[4])
x = sheet.stack("$X$", at=(3.0, 3.2), color=COLORS[4])
m = sheet.stack("$M$", at=(4.4, 3.2), color=COLORS[4])
own = sheet.box("classifier: CE", at=(7.85, 3.2), size=(1.25, 0.45), color=COLORS[4])
sheet.arrow(source, look)
sheet.note("(B, 3, h′, w′)", at=(0.55, 2.55))
sheet.arrow(look, x)
sheet.note("(B, c, h, w)", at=(2.3, 3.65))
sheet.arrow(x, m, "trilinear")
sheet.arrow(x, own, bend=-0.2)
made = {}
for key, y, name, left in (("master", 1.75, "s", 2.7), ("part", 0.55, "d", 4.35)):
    color = COLORS[0] if key == "master" else COLORS[2]
    sampler = sheet.box("sampler", at=(left, y), size=(0.8, 0.45), color=color)
    picture = sheet.stack(f"$I_{name}$", at=(5.6, y), color=color, count=1)
    net = sheet.box("network", at=(6.65, y), size=(0.8, 0.45), color=color)
    head = sheet.box(f"{key}: CE", at=(7.95, y), size=(1.0, 0.45), color=color)
    sheet.arrow(source, sampler, "(B, 3, H, W)" if key == "master" else "")
    sheet.arrow(sampler, picture)
    sheet.arrow(picture, net)
    sheet.arrow(net, head)
    sheet.arrow(m, sampler, dashed=True, color=color)
    made[key] = net, head
sheet.note("(B, 3, H′, W′)", at=(3.65, 1.87))
sheet.note("(B, d)", at=(7.25, 1.9))
sheet.note("$A(M)$, the average", at=(2.75, 2.45), color=COLORS[0])
sheet.note("$R(M)$, a random one", at=(5.15, 2.4), color=COLORS[2])
sheet.arrow(made["master"][0], made["part"][0], dashed=True)
sheet.note("same\nweights", at=(7.0, 1.15))
sheet.arrow(made["part"][1], made["master"][1])
sheet.note("distill", at=(8.25, 1.15))
show(
    sheet.figure,
    drawing=True,
    name="fig-tasn-architecture",
    caption="TASN. The attention net sees the small image and makes c maps of it. "
    "Their average samples the structure image, a random one of them the "
    "detail image; both are read off the large image. No gradient follows the"
    " dashed arrows to the samplers. At test the detail row is left out.",
    alt="A diagram: an image goes to an attention net, which makes features X and "
    "maps M and has a classifier of its own. The average map and a random map "
    "drive two samplers, which make a structure image and a detail image for one "
    "network with a master and a part classifier; the part classifier distills "
    "into the master.",
)

# %% [markdown]
# ## Trilinear attention lets channels vote
#
# Write the feature map of one image as a matrix $X \in \mathbb R^{c \times hw}$, with a row for each of the $c$ channels and a
# column for each of the $hw$ spatial positions. Two channels agree as far as they respond at the same positions:
#
# $$
# (X X^\top)_{ij} = \sum_{n=1}^{hw} X_{in} X_{jn}, \qquad X X^\top \in \mathbb R^{c \times c} .
# $$ (eq-tasn-relation)
#
# Multiply by $X$ once more, and the map of channel $i$ becomes a sum of *all* maps, weighted by their agreement with it:
#
# $$
# M_b(X) = (X X^\top) X, \qquad M_b(X)_i = \sum_{j=1}^{c} (X X^\top)_{ij}\, X_j \in \mathbb R^{hw} .
# $$ (eq-tasn-trilinear)
#
# A position at which channels agree adds up. One at which a single channel responds is confirmed by nobody. Three
# channels on four positions:

# %% tags=["output"]
X = torch.tensor(
    [
        [2.0, 0.0, 0.0, 0.0],  # channel 0 responds at the eye (position 0)
        [1.0, 0.0, 0.0, 1.0],  # channel 1 at the eye, and as much at a leaf (3)
        [0.0, 0.0, 3.0, 0.0],  # channel 2 at the tail (2)
    ]
)  # (c, hw) = (3, 4)
product = (X @ X.T) @ X
print("M_b =", product.tolist())
assert product[:2].tolist() == [[10, 0, 0, 2], [6, 0, 0, 2]]
before, after = torch.linalg.svdvals(X), torch.linalg.svdvals(product)
torch.testing.assert_close(after, before**3)  # the singular values are cubed

# %% [markdown]
# In channel 1 the eye and the leaf stood 1 : 1 and now stand 6 : 2, because channel 0 confirms the eye and nobody
# confirms the leaf. The vote also has a cost: channel 0, which did not respond to the leaf, now does, at 2 against 10.
#
# The singular value decomposition $X = U \Sigma V^\top$ says the same of the whole matrix:
# $(X X^\top) X = U \Sigma^3 V^\top$. The trilinear product **cubes the singular values** and leaves the vectors alone, so
# patterns that many channels share rise, and all others recede. A loud channel shares a pattern with itself: channel 2
# went from 3 to 27. The paper therefore normalizes twice,
#
# $$
# M(X) = \mathcal N\bigl(\mathcal N(X)\, X^\top\bigr)\, X \in \mathbb R^{c \times hw} .
# $$ (eq-tasn-attention)
#
# - The inner $\mathcal N$ is a softmax over the $hw$ positions of each channel. It turns how loud a channel is into where it looks. Entry
#   $(i, j)$ of the relation is then the mean response of channel $j$ where channel $i$ looks.
# - The outer $\mathcal N$ is a softmax over each row of the $c \times c$ relation. Its weights add up to 1, so each new map is an average of maps.
#
# Two things are taken from $M$. The average over the channels, $A(M)$, points at everything that any channel points at. A
# random channel, $R(M)$, drawn anew in each step, points at one thing.
#
# ## The sampler reads a running sum backwards
#
# A map says where to look. The sampler turns it into an image with more pixels there. Take one axis first. The columns
# of the map divide it into $w$ equal stretches, and the output has $w'$ pixels to lay along it, densely where the map is
# large:
#
# $$
# \begin{aligned}
# f_x(n) &= \max_{1 \le i \le h} M_{i,n}, \qquad
# F_x(n) = \frac{\sum_{m \le n} f_x(m)}{\sum_{m \le w} f_x(m)}, \\
# x_k &= F_x^{-1}\!\left(\frac{k}{w' - 1}\right), \qquad k = 0, \dots, w' - 1 .
# \end{aligned}
# $$ (eq-tasn-positions)
#
# $f_x$ is the largest value of each column. $F_x(n)$ is the part of the total up to the right end of stretch $n$; inside a
# stretch $F_x$ rises linearly, and $F_x = 0$ at the left end of the axis. Pixel $k$ is read at the point where $F_x$ reaches $k / (w' - 1)$.
# The maximum, where a sum would do as well, keeps a high and narrow part from losing to a low and wide one. The same
# holds for $y$ with the rows, and the new image is
#
# $$
# I'(i, j) = I\bigl(F_y^{-1}(i),\, F_x^{-1}(j)\bigr) ,
# $$ (eq-tasn-sampler)
#
# read between pixels by bilinear interpolation. By hand, for two columns whose largest values are 1 and 3, and five pixels:

# %% tags=["output"]
five = np.interp(np.linspace(0, 1, 5), [0, 1 / 4, 1], [0, 1 / 2, 1])  # F⁻¹
print("x =", five.round(3).tolist())
assert (five > 0.5).sum() == 3

# %% [markdown]
# Three of the five pixels fall into the right half, which holds three quarters of the total, at a third of the distance.
# In general the distance at stretch $n$ is proportional to $1 / f_x(n)$, so compared with even sampling
#
# $$
# m_x(n) = \frac{f_x(n)}{\frac1w \sum_{m \le w} f_x(m)}, \qquad m(i, n) = m_y(i)\, m_x(n)
# $$ (eq-tasn-magnification)
#
# is the magnification along an axis, and in area. Its mean along an axis is always 1: **what one part gains, the rest of
# the image loses.**

# %% tags=["figure", "hide-input"]
columns = axis_magnification(drawn_map[None])[1]
figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.7))
edges = np.linspace(0, 1, 17)
axes[0].bar((edges[1:] + edges[:-1]) / 2, columns[0], width=1 / 16, color=COLORS[5])
axes[0].axhline(1, color=COLORS[8], lw=0.8, ls=":")
axes[0].set(title="magnification $m_x$", xlabel="x in the source")
running = np.concatenate([[0], columns[0].cumsum(0) / columns[0].sum()])
axes[1].plot(edges, running, color=COLORS[0], lw=2)
for k in np.linspace(0, 1, 17):
    x = np.interp(k, running, edges)
    axes[1].plot([0, x, x], [k, k, 0], color=COLORS[1], lw=0.6)
axes[1].set(title="$F_x$, read backwards", xlim=(0, 1), ylim=(0, 1))
axes[1].set(xlabel="x in the source", ylabel="x in the output")
axes[2].imshow(to_picture(sample_at(images[:1], grid)[0]))
axes[2].set_title("sampled")
bare(axes[2])
show(
    figure,
    name="fig-tasn-sampler",
    caption="The sampler along x, for the map of the first figure. Equal steps of the"
    " output (orange) are read back through the running sum to unequal steps "
    "of the source, which lie close together where the magnification is above"
    " 1 (dotted).",
    alt="A bar chart with a peak at the bird's eye; a rising curve with lines that "
    "lead from equal heights to unequal places; the bird with an enlarged head.",
)

# %% [markdown]
# ### Two one-dimensional profiles cannot represent every map
#
# A map with two peaks magnifies the columns and the rows of both, and so also the two *other* crossings, where there was
# nothing. These **ghosts** follow from {eq}`eq-tasn-magnification`; the paper does not mention them. Nor does anything bound the
# magnification: a map with a single position that is not zero gives it the whole image. The official implementation
# clips near 4 along an axis and hands what it clipped to the rest. The library does so exactly, with `limit=4.0` as its default
# and `limit=None` for the formula.

# %% tags=["figure", "hide-input"]
two = torch.full((16, 16), 0.15)
two[3:5, 2:4] = two[11:13, 12:14] = 1.0
y, x = area_magnification(two[None], (SOURCE, SOURCE))
squares = torch.arange(SOURCE) // 8
board = ((squares[:, None] + squares) % 2).float() * 0.6 + 0.2
blobs = F.interpolate(two[None, None], (SOURCE, SOURCE), mode="nearest")[0, 0] > 0.5
checker = torch.stack([board + 0.2 * blobs, board, board - 0.15 * blobs]).clamp(0, 1)
figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.7))
axes[0].imshow(two, cmap="magma", vmin=0)
axes[0].set_title("a map with two peaks")
picture = axes[1].imshow(y[0][:, None] * x[0], cmap="magma", vmin=0)
figure.colorbar(picture, ax=axes[1], shrink=0.75)
axes[1].set_title("magnification in area")
warped = attention_sample(checker[None], two[None], (SOURCE, SOURCE))[0]
axes[2].imshow(warped.permute(1, 2, 0))
axes[2].set_title("a board, sampled")
bare(axes)
show(
    figure,
    name="fig-tasn-ghosts",
    caption="Two peaks make four enlarged regions, at the crossings of their rows and"
    " columns. The two that are meant are tinted on the board; the two ghosts"
    " are not.",
    alt="A map with two bright squares on a diagonal; its magnification with four "
    "bright squares at the corners of a rectangle; a checkerboard with four "
    "enlarged places, two of them tinted.",
)

# %% [markdown]
# ## The part net teaches the master
#
# The image sampled by $A(M)$ is *structure-preserved*, $I_s$: the whole bird, its interesting regions a little larger. The one sampled by
# $R(M)$ is *detail-preserved*, $I_d$. One network with two linear classifiers sees both: the **master** classifies $I_s$ and the
# **part net** $I_d$, with the same convolutional weights. At test the master alone predicts, so what the part net learned has to reach it.
# Shared weights do some of that. The rest is distillation {footcite:p}`hinton2015distilling`: with logits $z \in \mathbb R^K$ for $K$ classes and
# probabilities softened by a temperature $T$,
#
# $$
# q^{(i)} = \frac{\exp(z^{(i)}/T)}{\sum_{j=1}^K \exp(z^{(j)}/T)}, \qquad
# L_{soft}(q_s, q_d) = - \sum_{i=1}^K q_d^{(i)} \log q_s^{(i)} ,
# $$ (eq-tasn-soft)
#
# the master also learns to answer as the part net does, and its loss is
#
# $$
# L = L_{cls}(z_s, y) + \lambda\, L_{soft}(q_s, q_d) .
# $$ (eq-tasn-loss)
#
# The derivative of $L_{soft}$ in the master's logits is $(q_s - q_d)/T$, and for a large $T$ the difference itself shrinks as $1/T$. So **the gradient falls as
# $1/T^2$**, and Hinton et al. multiply the loss by $T^2$. The official implementation has $T = 10$ and no such factor: its $\lambda = 1$ counts a hundredth of what it
# looks like.

# %% tags=["output"]
student = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)  # the master's logits
teacher = torch.tensor([[1.0, 3.0, 0.0]])  # the part net's
pulls = {}
for T in (1.0, 10.0):
    loss = distillation_loss(student, teacher, temperature=T)
    pulls[T] = torch.autograd.grad(loss, student)[0].norm().item()
    print(f"T = {T:<4g} gradient in the master's logits {pulls[T]:.4f}")
assert 80 < pulls[1.0] / pulls[10.0] < 120

# %% [markdown]
# ## From scratch, complete
#
# All of TASN in one module. It takes two networks, one to classify and one to attend, whose last map it reads. As in the official implementation, the
# attention features pass one $3 \times 3$ kernel at two dilations, a classifier of its own trains the attention net, and **no gradient passes the sampler**
# (`detach`): the attention net never hears whether its maps helped.


# %%
class TASNFromScratch(nn.Module):
    def __init__(self, backbone, look, classes, size, small):
        super().__init__()
        d, c = backbone.out_channels, look.out_channels
        self.backbone, self.look = backbone, look
        self.widen = nn.Conv2d(c, c, 3, bias=False)
        self.norm, self.own = nn.BatchNorm2d(c), nn.Linear(c, classes)
        self.master, self.part = nn.Linear(d, classes), nn.Linear(d, classes)
        self.size, self.small, self.draw = size, small, torch.Generator()

    def trilinear(self, x):  # (B, c, h, w)
        flat = x.flatten(2)  # X: (B, c, hw)
        relation = flat.softmax(2) @ flat.mT  # N(X) Xᵀ: (B, c, c)
        return (relation.softmax(2) @ flat).view_as(x)  # M: (B, c, h, w)

    def positions(self, f):  # (B, n): the largest value of each column, or row
        total = F.pad(f.cumsum(1) / f.sum(1, keepdim=True), (1, 0))  # F: (B, n + 1)
        k = torch.linspace(0, 1, self.size).repeat(len(f), 1)  # (B, size)
        n = torch.searchsorted(total[:, 1:].contiguous(), k).clamp(max=f.shape[1] - 1)
        low, high = total.gather(1, n), total.gather(1, n + 1)  # (B, size)
        step = (k - low) / (high - low).clamp(min=1e-12)  # inside the stretch
        return 2 * (n + step) / f.shape[1] - 1  # in [-1, 1]

    def sample(self, images, m):  # (B, 3, H, W), (B, h, w)
        x, y = self.positions(m.amax(1)), self.positions(m.amax(2))  # (B, size)
        x, y = torch.broadcast_tensors(x[:, None], y[:, :, None])  # (B, size, size)
        return F.grid_sample(images, torch.stack([x, y], 3), align_corners=True)

    def forward(self, images, labels, T=10.0, weight=1.0):
        x = F.interpolate(images, self.small, mode="bilinear", antialias=True)
        x = self.look(x)["layer3"]  # (B, c, h, w)
        x = sum(F.conv2d(x, self.widen.weight, None, 1, d, d).relu() for d in (1, 2))
        own = self.own(self.norm(x).mean((2, 3)))  # (B, K)
        m = self.trilinear(x.detach())  # (B, c, h, w)
        chosen = torch.rand(m.shape[:2], generator=self.draw).argmax(1)  # (B,)
        average, random = m.mean(1), m[range(len(m)), chosen]  # (B, h, w) each
        pair = self.sample(images, average), self.sample(images, random)  # I_s, I_d
        v = self.backbone(torch.cat(pair))["layer3"].mean((2, 3))  # (2B, d)
        s, d = self.master(v[: len(m)]), self.part(v[len(m) :])  # (B, K) each
        soft = F.cross_entropy(s / T, (d.detach() / T).softmax(1))
        return [F.cross_entropy(z, labels) for z in (own, s, d)] + [weight * soft]


# %% [markdown]
# The library's {py:class}`~fgvc_lib.methods.tasn.TASN` gets the same initial weights, the same random channels and the same batches. One plain loop
# trains either:

# %%
torch.manual_seed(0)
library = TASN(
    resnet("small", width=8),
    len(birds.classes),
    input_size=INPUT,
    attention={
        "backbone": {"backbone": "resnet", "depth": "small", "width": 8},
        "dilations": [[1, 2]],
        "input_size": attention_size,
    },
    sampling={"limit": None},  # the paper's formula
)
scratch = TASNFromScratch(
    resnet("small", width=8),
    resnet("small", width=8),
    len(birds.classes),
    INPUT,
    attention_size,
)
vector_to_parameters(parameters_to_vector(library.parameters()), scratch.parameters())
scratch.draw.set_state(library.rank_generator.get_state())


def train_for(steps, model, losses_of):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        rows = torch.randint(len(birds.train), (16,), generator=order)
        batch = normalized(birds.train.images[rows.numpy()])  # (16, 3, H, W)
        losses = losses_of(model, batch, birds.train.labels[rows])
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        history.append([loss.item() for loss in losses])
    return torch.tensor(history)  # (steps, 4)


ours = train_for(6, scratch, lambda model, x, y: model(x, y))
theirs = train_for(6, library, lambda model, x, y: list(model(x, y).terms.values()))

# %% tags=["output", "hide-input"]
print("sum of the losses", *(f"step {n}" for n in range(1, len(ours) + 1)), sep="  ")
for name, values in (("from scratch", ours), ("library", theirs)):
    print(f"{name:<17}", *(f"{v:6.3f}" for v in values.sum(1).tolist()), sep="  ")
torch.testing.assert_close(ours, theirs, rtol=5e-3, atol=5e-3)

# %% [markdown]
# ## Look inside a trained network
#
# The page has trained a TASN on the birds, to look into; networks that are to be compared train longer and with several seeds, further down.

# %% tags=["experiment", "hide-input"]
network = study.live(
    "network", {"TASN": vary(tasn_with(), epochs=live_epochs)}, metrics=METRICS
)

# %% tags=["figure", "hide-input"]
method, record = network["TASN"].method, network["TASN"].record
used = next(method.parameters()).device
with torch.no_grad():
    found = attention_maps(method, images.to(used))
    raw, trilinear = (m.cpu() for m in found)  # (3, c, h, w) each
    output = method(images.to(used))
    picks = random_maps(trilinear, count=2, generator=torch.Generator().manual_seed(0))
    details = method.sample(images.to(used), picks.to(used))[0].cpu()
figure, axes = plt.subplots(3, 6, figsize=(8.6, 4.6))
for bird in range(3):
    axes[bird, 0].imshow(to_picture(resized[bird]))
    axes[bird, 0].set_ylabel(birds.part_names[decides[examples[bird]]])
    axes[bird, 1].imshow(to_picture(images[bird]), extent=(0, 1, 1, 0))
    axes[bird, 1].imshow(
        output.maps["structure_map"][bird, 0].cpu(),
        extent=(0, 1, 1, 0),
        alpha=0.5,
        cmap="magma",
    )
    draw_grid(axes[bird, 2], images[bird], output.maps["structure_grid"][bird])
    axes[bird, 3].imshow(to_picture(output.maps["structure_image"][bird]))
    for k in range(2):
        axes[bird, 4 + k].imshow(to_picture(details[bird, k]))
titles = (
    "resized",
    "$A(M)$",
    "its sampling",
    "structure $I_s$",
    "detail $I_d$",
    "another $I_d$",
)
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
bare(axes)
show(
    figure,
    name="fig-tasn-images",
    caption="Three test birds, named by their discriminative part, under the trained "
    "attention: the average map, the grid that it lays over the source, the "
    "structure image, and the detail images of two random channels. All "
    "images that the network sees have the same number of pixels.",
    alt="Three rows of birds in six panels: plainly resized, with a heat map, with "
    "the sampling grid, warped so that the bird is larger, and two further warps "
    "by single channels.",
)

# %% tags=["hide-input"]


def magnified(runs, variant, key="structure"):
    """Mean magnification of the discriminative part; None if it was not measured."""
    mine = runs[runs["variant"] == variant].get(f"magnification/{key}")
    return None if mine is None or mine.isna().all() else f"{mine.mean():.2f}"


live = study.live_frame(network)
tell(
    "After {epochs} epochs this network classifies {all} of the test birds, and its "
    "attention net alone {own}. The structure image magnifies the discriminative part"
    " {structure} times in area, a detail image {detail} times on average over the "
    "channels, and the best channel of each image {best} times.",
    epochs=record.config["epochs"],
    all=level(live, "TASN"),
    own=level(live, "TASN", "part_net/attention"),
    structure=magnified(live, "TASN"),
    detail=magnified(live, "TASN", "detail"),
    best=magnified(live, "TASN", "detail_best"),
)

# %% tags=["figure", "hide-input"]
by_part = (
    record.load_arrays()["magnification/by_part"]
    if record.arrays
    else np.full((2, len(birds.part_names)), np.nan)
)
figure, ax = plt.subplots(figsize=(6, 2.6))
place = np.arange(len(birds.part_names))
for shift, values, color, name in (
    (-0.2, by_part[0], COLORS[0], "structure image"),
    (0.2, by_part[1], COLORS[2], "detail image, mean over channels"),
):
    ax.bar(place + shift, values, 0.38, label=name, color=color)
ax.axhline(1, color=COLORS[8], lw=1, ls=":")
ax.set_xticks(place, birds.part_names)
ax.set(ylabel="magnification in area")
ax.legend(fontsize=9, loc="lower right", frameon=True)
show(
    figure,
    name="fig-tasn-magnification",
    caption="How much the trained network magnifies the discriminative part, by which"
    " part it is, mean over the test birds. The dotted line is plain "
    "resizing.",
    alt="A bar chart of magnification for crown, eye, beak, breast, wing and tail, "
    "for the structure image and for the detail image, with a dotted line at one.",
)

# %% [markdown]
# ### Do trilinear channels keep to one part?
#
# The claim that carries the method is that a channel's trilinear map points at the same part in every image. We know the parts, so we can count: the
# **agreement** is the fraction of a class's images in which a channel peaks on its most frequent part, averaged over channels and classes. Agreement alone proves
# little, since maps that are all alike agree perfectly. So we also count on how many **different parts** an image's channels peak.

# %% tags=["figure", "hide-input"]
strongest = raw.mean((0, 2, 3)).topk(5).indices
figure, axes = plt.subplots(4, 6, figsize=(8.6, 5.7))
for bird in range(2):
    for row, maps in ((2 * bird, raw), (2 * bird + 1, trilinear)):
        axes[row, 0].imshow(to_picture(images[bird]))
        axes[row, 0].set_ylabel("raw" if row % 2 == 0 else "trilinear")
        where = peaks(maps[bird : bird + 1, strongest], (SOURCE, SOURCE))[0]  # (5, 2)
        for column, channel in enumerate(strongest):
            ax = axes[row, column + 1]
            ax.imshow(maps[bird, channel], extent=(0, SOURCE, SOURCE, 0))
            ax.plot(*where[column], "+", color="red", ms=8)
            if row == 0:
                ax.set_title(f"channel {int(channel)}")
bare(axes)
show(
    figure,
    name="fig-tasn-channels",
    caption="The five channels that respond most, on two birds, before and after the "
    "trilinear product, each with its own color scale; a cross marks the "
    "peak. The product makes the maps smoother, and more like each other.",
    alt="A grid of heat maps: for each of two birds a row of five raw channels and a "
    "row of the same channels after the trilinear product, with a cross at each "
    "maximum.",
)

# %% tags=["figure", "hide-input"]
NORMS = {
    "neither": {"spatial_norm": False, "relation_norm": False},
    "spatial": {"spatial_norm": True, "relation_norm": False},
    "relation": {"spatial_norm": False, "relation_norm": True},
    "both": {"spatial_norm": True, "relation_norm": True},
}
pointing = {}
for name, norms in NORMS.items():
    twin = copy.deepcopy(method)
    twin.trilinear = TrilinearAttention(**norms)
    pointing[name] = channel_parts(twin, birds, str(used), limit=120)
both = pointing["both"]
figure, ax = plt.subplots(figsize=(6, 2.8))
draws = np.arange(1, 65)
ax.plot(draws, both["raw/coverage"], color=COLORS[8], lw=2, label="raw channels")
for (name, found), color, dashes in zip(
    pointing.items(), COLORS, ("-", "--", "-.", ":"), strict=False
):
    ax.plot(draws, found["trilinear/coverage"], color=color, ls=dashes, label=name)
ax.axhline(len(birds.part_names), color=COLORS[6], lw=0.8, ls=":")
ax.set(xlabel="detail images, one random channel each", ylabel="different parts seen")
ax.set(xscale="log", ylim=(0, None))
ax.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
ax.minorticks_off()
ax.legend(fontsize=9, loc="center left", bbox_to_anchor=(1, 0.5))
show(
    figure,
    name="fig-tasn-coverage",
    caption="Expected number of different parts, of six (dotted), that random "
    "channels of one image point at: raw channels, and trilinear maps with "
    "either softmax, with both (the paper) and with neither. All are made of "
    "the same features.",
    alt="Curves that rise with the number of detail images and flatten, one for raw "
    "channels and one for each normalization, below a dotted line at six parts.",
)

# %% tags=["hide-input"]
more = both["trilinear/agreement"] > both["raw/agreement"]
fewer = both["trilinear/parts"] < both["raw/parts"]
tell(
    "Agreement is {a:.2f} for the raw channels of this network and {b:.2f} after the "
    "trilinear product, so channels keep {more} to one part. An image's raw channels "
    "point at {p:.1f} different parts and its trilinear maps at {q:.1f}: {fewer}. "
    "With neither softmax agreement is {n:.2f} and the maps of an image point at "
    "{o:.1f} parts.",
    a=both["raw/agreement"],
    b=both["trilinear/agreement"],
    p=both["raw/parts"],
    q=both["trilinear/parts"],
    n=pointing["neither"]["trilinear/agreement"],
    o=pointing["neither"]["trilinear/parts"],
    more="more" if more else "no more",
    fewer="the vote costs variety" if fewer else "the vote costs no variety",
)

# %% [markdown]
# If a fraction $n_p / c$ of an image's channels peaks on part $p$, then after $k$ visits of the image, each with a random channel, the expected number of parts
# magnified is
#
# $$
# \mathbb E[\text{parts after } k] = \sum_p \Bigl[ 1 - \Bigl(1 - \frac{n_p}{c}\Bigr)^{k} \Bigr] .
# $$ (eq-tasn-coverage)
#
# A curve of {numref}`fig-tasn-coverage` that flattens early means that hundreds of channels are worth a few parts.
#
# (tasn-components)=
# ## Which piece does what?
#
# From here on numbers come from committed records. Each row below trains the same classifying network on the same number of pixels, and adds one piece.

# %% tags=["figure", "hide-input"]
PIECES = ("uniform sampling", "structure", "structure + detail", TAUGHT)
measured = study.beside_photos("components", by_component)
show(
    forests(
        {
            title: effects_over(runs, PIECES, "plain resizing")
            for title, runs in measured.items()
        },
        "over plain resizing, points",
    ),
    drawing=True,
    name="fig-tasn-components",
    caption="What each piece brings over plain resizing: differences over the same "
    "seeds with their 95 % intervals.",
    alt="A forest plot with four rows: uniform sampling, structure, structure and "
    "detail, and structure and detail with distillation.",
)

# %% tags=["hide-input"]
tell(
    "Plain resizing reaches {plain}, structure sampling alone {structure}, and the "
    "whole method {tasn}. The structure image magnifies the discriminative part {m} "
    "times. Structure and detail together are {d.word} even sampling of both networks"
    " ({d}), and distillation on top is {e.word} none ({e}).",
    plain=level(by_component, "plain resizing"),
    structure=level(by_component, "structure"),
    tasn=level(by_component, TAUGHT),
    m=magnified(by_component, TAUGHT),
    d=difference(by_component, "structure + detail", "uniform sampling"),
    e=difference(by_component, TAUGHT, "structure + detail"),
)

# %% tags=["table", "hide-input"]
ACCURACY = {"accuracy, %": "test_accuracy"}
MAGNIFICATION = {
    "magnified by structure": ("magnification/structure", 1, 2),
    "by detail": ("magnification/detail", 1, 2),
}
show_table(
    summarize(by_component, ACCURACY | MAGNIFICATION, "variant"),
    foot=study.foot(by_component),
)

# %% [markdown]
# (tasn-gradient)=
# ### Does it matter what the attention net learns from?
#
# Inverse sampling is differentiable almost everywhere, and so is bilinear interpolation. The gradient of the master's loss could tell the attention net to look elsewhere,
# and the official implementation stops it. The library's `sampling={"gradient": True}` lets it through. Four ways to train the attention net, the last of which is not to:

# %% tags=["experiment", "hide-input"]
through = {"gradient": True}
OWN, UNTRAINED = "its own classifier (paper)", "neither, as initialized"
by_gradient = study.run(
    "gradient",
    {
        OWN: tasn_with(),
        "its own classifier + sampling": tasn_with(sampling=through),
        "sampling alone": tasn_with(sampling=through, attention_weight=0.0),
        UNTRAINED: tasn_with(attention_weight=0.0),
    },
    metrics=["magnification", "part_net"],
)

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(7, 1.9))
others = [name for name in dict.fromkeys(by_gradient["variant"]) if name != OWN]
forest(ax, effects_over(by_gradient, others, OWN))
ax.set(xlabel="test accuracy above the paper's way, points")
show(
    figure,
    name="fig-tasn-gradient",
    caption="What the attention net learns from, beside the paper's way, its own "
    "classifier alone: differences over the same seeds with their 95 % "
    "intervals.",
    alt="A forest plot with three rows: classifier and sampling, sampling alone, and "
    "neither.",
)

# %% tags=["hide-input"]
tell(
    "With an attention net that is **never trained** TASN reaches {untrained}, and "
    "with a trained one {own}: the trained one is {d.word} the untrained ({d}). The "
    "trained net magnifies the discriminative part {m} times and the untrained {u} "
    "times. Letting the sampling train it as well gives {mixed}; the paper's way is "
    "{e.word} that ({e}).",
    untrained=level(by_gradient, UNTRAINED),
    own=level(by_gradient, OWN),
    mixed=level(by_gradient, "its own classifier + sampling"),
    d=difference(by_gradient, OWN, UNTRAINED),
    e=difference(by_gradient, OWN, "its own classifier + sampling"),
    m=magnified(by_gradient, OWN),
    u=magnified(by_gradient, UNTRAINED),
)

# %% [markdown]
# (tasn-distillation)=
# ### Distillation, its temperature and its weight

# %% tags=["experiment", "hide-input"]
by_teaching = study.run(
    "teaching",
    {
        "shared weights only": tasn_with(distillation={"weight": 0.0}),
        "concatenation": tasn_with(distillation={"weight": 0.0}, predict="concat"),
        "distillation": tasn_with(),
    },
    metrics=["magnification"],
)
squared = {"temperature": 10.0, "square_temperature": True}
by_temperature = study.run(
    "temperature",
    {f"{t:g}": tasn_with(distillation={"temperature": t}) for t in temperatures}
    | {"10, times T²": tasn_with(distillation=squared)},
    seeds=seeds[:3],
)
by_weight = study.run(
    "weight",
    {f"{w:g}": tasn_with(distillation={"weight": w}) for w in weights},
    seeds=seeds[:3],
)
by_detail = study.run(
    "details", {str(n): tasn_with(num_details=n) for n in num_details}, seeds=seeds[:3]
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 3, figsize=(8.6, 2.7), sharey=True)
for ax, runs, label in (
    (axes[0], by_temperature, "T (λ = 1)"),
    (axes[1], by_weight, "λ (T = 10)"),
    (axes[2], by_detail, "detail images in a step"),
):
    names = list(dict.fromkeys(runs["variant"]))
    runs = runs.assign(place=runs["variant"].map({n: k for k, n in enumerate(names)}))
    factor = runs["variant"].str.contains("times")
    if "test_accuracy" in runs:
        percent = runs.assign(accuracy=100 * runs["test_accuracy"])
        places = list(range(len(names)))
        curve(ax, places, percent[~factor], "place", "accuracy", color=COLORS[0])
        ax.plot(percent[factor]["place"], percent[factor]["accuracy"], "D", c=COLORS[1])
    ax.set_xticks(range(len(names)), [n.replace(", times T²", "\n· T²") for n in names])
    ax.set(xlabel=label)
axes[0].set_ylabel("test accuracy, %")
show(
    figure,
    name="fig-tasn-sweeps",
    caption="Accuracy of the master over the temperature, the weight of the "
    "distillation, and the number of detail images in a training step; a dot "
    "is a seed, the line their mean. The diamonds have the loss multiplied by"
    " T².",
    alt="Three plots of test accuracy, over temperature with separate points for the "
    "loss multiplied by T squared, over the weight lambda, and over one to four "
    "detail images.",
)

# %% tags=["hide-input"]
ends = f"{weights[0]:g}", f"{weights[1]:g}"
tell(
    "λ = {w0} reaches {first} and λ = {w1} {second}: no distillation is {d.word} the "
    "paper's weight ({d}). The concatenation of both features, which keeps the part "
    "net at test, reaches {concat} and is {c.word} distillation ({c}).",
    w0=ends[0],
    w1=ends[1],
    first=level(by_weight, ends[0]),
    second=level(by_weight, ends[1]),
    d=difference(by_weight, ends[0], ends[1]),
    concat=level(by_teaching, "concatenation"),
    c=difference(by_teaching, "concatenation", "distillation"),
)
few, many = str(num_details[0]), str(num_details[-1])
tell(
    "{n} detail images in a step cost one more pass each and reach {more}, which is "
    "{d.word} the {one} of {k} ({d}).",
    n=many,
    k=few,
    more=level(by_detail, many),
    one=level(by_detail, few),
    d=difference(by_detail, many, few),
)

# %% [markdown]
# ## What it costs
#
# Cropping costs one pass for every part. TASN needs two passes, however many channels there are. But its attention net keeps a large map up to its last layer, which is expensive.

# %% tags=["figure", "hide-input"]
WHOLE = "structure, detail, distillation"
costs = benchmarks.records("attention_sampler")
steps = [step for found in costs for step in found["steps"]]
large = [step for step in steps if step["backbone"] == "resnet 50"]
figure, ax = plt.subplots(figsize=(5.5, 2.6))
if large:
    work = large[0]["multiply_adds_per_image"]
    parts = np.arange(1, 17)
    crops = (1 + parts) * work["baseline"] / 1e9
    ax.plot(parts, crops, color=COLORS[1], ls="--", label="image and one crop a part")
    ax.axhline(work[WHOLE] / 1e9, color=COLORS[0], label="TASN, 512 channels")
    ax.legend(fontsize=9)
ax.set(xlabel="parts", ylabel="billion multiply-adds", ylim=(0, None))
show(
    figure,
    name="fig-tasn-cost",
    caption="Counted multiply-adds of a training step on one image, ResNet-50 at 224 "
    "pixels: one pass for every cropped part, against TASN with the official "
    "attention net.",
    alt="A rising dashed line for cropping parts and a flat line for TASN; they cross"
    " at a handful of parts.",
)

# %% tags=["hide-input"]
measured_on = [benchmarks.device(found) for found in costs for _ in found["steps"]]
for step, where in zip(steps, measured_on, strict=True):
    tell(
        "Measured with {net} ({size} → {input} px; {where}), a step of TASN takes "
        "{times:.1f} times as long as the baseline's at the same input; the sampler "
        "is {sampler:.1f} % of it and the trilinear product {product:.1f} %.",
        where=where,
        net="ResNet-50" if step in large else "the small ResNet",
        size=step["image_size"],
        input=step["input_size"],
        times=step["over_baseline"][WHOLE]["median"],
        sampler=100 * step["share_of_step"]["sampler"]["median"],
        product=100 * step["share_of_step"]["trilinear attention"]["median"],
    )

# %% [markdown]
# The sampler needs no compiled extension: a running sum, a search and `grid_sample`, all batched. The official one is a CUDA kernel that loops over images and no longer
# compiles with current torch.
#
# (tasn-photographs)=
# ## On photographs
#
# Published differences on CUB-200-2011 {footcite:p}`wah2011caltech` beside ours. *birds* are the generated birds from scratch; *photographs* are crops of the first 100 classes of
# CUB, 128 of 224 pixels, with a pretrained EfficientNet-Lite0.

# %% tags=["experiment", "hide-input"]
by_normalization = study.run(
    "normalization",
    {
        "neither": tasn_with(attention={"spatial_norm": False, "relation_norm": False}),
        "spatial": tasn_with(attention={"relation_norm": False}),
        "relation": tasn_with(attention={"spatial_norm": False}),
        "both": tasn_with(),
    },
    metrics=METRICS,
)

# %% tags=["table", "hide-input"]
photos = {
    name: study.recorded(name, profile="photos")
    for name in ("components", "normalization", "gradient")
}
beside = pd.concat(
    [
        published.effects(
            "06_tasn/components",
            [(TAUGHT, "plain resizing")],
            birds=by_component,
            photographs=photos["components"],
        ),
        published.effects(
            "06_tasn/normalization",
            [(name, "neither") for name in ("spatial", "relation", "both")],
            birds=by_normalization,
            photographs=photos["normalization"],
        ),
    ]
)
beside = beside.replace({re.escape(TAUGHT): "TASN"}, regex=True)
show_table(
    beside.drop(columns="source"),
    foot=f"Published: {'; '.join(beside['source'].unique())}. Ours in points, with the "
    "95 % interval over seeds.",
)

# %% tags=["hide-input"]
printed = {f.source: f.value for f in published.figures() if "Table 5" in f.source}
at_448 = [value for source, value in printed.items() if "448" in source]
tasn_224 = max(
    f.value for f in published.figures() if "Table 5 (ResNet-50, 224" in f.source
)
assert at_448[0] < tasn_224
tell(
    "The paper's strongest row is another one: a plain ResNet-50 at 448 pixels, four "
    "times the pixels, has {plain} %, less than TASN's {tasn} % at 224.",
    plain=at_448[0],
    tasn=tasn_224,
)
if photos["components"]["measured"].any():
    tell(
        "On photographs TASN reaches {tasn} and plain resizing {plain}: TASN is "
        "{d.word} it ({d}).",
        tasn=level(photos["components"], TAUGHT),
        plain=level(photos["components"], "plain resizing"),
        d=difference(photos["components"], TAUGHT, "plain resizing"),
    )
    tell(
        "How much of this is attention? Even sampling of both networks, which gives a "
        "second view of the same image with shared weights, is {u.word} plain resizing "
        "({u}). Attention in place of even sampling adds {s}, and distillation {t}.",
        u=difference(photos["components"], "uniform sampling", "plain resizing"),
        s=difference(photos["components"], "structure + detail", "uniform sampling"),
        t=difference(photos["components"], TAUGHT, "structure + detail"),
    )
    tell(
        "The softmaxes matter here. Without both, the method is {n.word} the paper's "
        "form ({n}). With the one over channels alone it is {r.word} the form without "
        "both ({r}).",
        n=difference(photos["normalization"], "neither", "both"),
        r=difference(photos["normalization"], "relation", "neither"),
    )
    tell(
        "If gradients through the sampler also train the attention net, the method is "
        "{g.word} the paper's form ({g}). With an attention net that keeps its "
        "ImageNet weights it is {i.word} the form with a trained one ({i}).",
        g=difference(photos["gradient"], "its own classifier + sampling", OWN),
        i=difference(photos["gradient"], UNTRAINED, OWN),
    )
else:
    tell("Ours on photographs has not been measured yet.")

# %% [markdown]
# (tasn-official)=
# ## Paper versus official implementation
#
# The authors released an MXNet implementation (`researchmm/tasn`, folder `tasn-mxnet`) and beside it an unfinished PyTorch port (`tasn-pytorch`). Read side by side with
# the paper they tell this story.
#
# **A hidden scale.** Features after a ReLU are of the order of 1, and a softmax over hundreds of such values is nearly flat: then $\mathcal N(X) X^\top$ hardly knows *where* a channel responds.
# The MXNet code takes the softmax of $7X$, which the paper does not say; the port takes $2X$ under a comment that still says 7.

# %% tags=["hide-input"]
spread = {}
for s in (1, 2, 7):
    p = (s * raw.flatten(2)).softmax(2)  # (3, c, hw)
    spread[s] = (-torch.special.xlogy(p, p).sum(2)).exp().mean().item()
assert spread[1] > spread[2] > spread[7]
tell(
    "On the network above, a channel's softmax spreads over {a:.0f} of {n} positions "
    "at scale 1 (the exponential of its entropy), over {b:.0f} at 2 and over {c:.0f} "
    "at 7.",
    a=spread[1],
    b=spread[2],
    c=spread[7],
    n=raw[0, 0].numel(),
)

# %% [markdown]
# **A squared map, and equal maps.** MXNet enlarges the structure map and squares it, which nearly doubles the largest magnification. It also counts channels with equal totals once, because all channels
# that a ReLU has silenced share one map. But it makes that mask in the order of the *sorted* totals and applies it to the unsorted channels:

# %% tags=["output"]
totals = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0])
in_order = totals.sort().values
mask = torch.cat([torch.tensor([True]), in_order[1:] != in_order[:-1]])
print("official mask keeps", totals[mask].tolist())  # loses the 2
print("library keeps      ", totals[unique_maps(totals.view(1, 5, 1, 1))[0]].tolist())

# %% [markdown]
# **A teacher that is taught.** Nothing stops the distillation's gradient into the part net's logits, and there is no $T^2$.
#
# **A port that is not TASN yet.** It has no distillation. It also calls `grid_sample` without
# `align_corners`, whose default changed in torch 1.3, so that it reads half a pixel beyond the border. What is each choice worth on our birds?

# %% tags=["experiment", "hide-input"]
everything = RELEASED | {"attention": RELEASED["attention"] | {"scale": released_scale}}
by_variant = study.run(
    "released",
    {
        "paper: no limit": tasn_with(sampling={"limit": None}),
        "limit 4": tasn_with(),
        "equal zoom on both axes": tasn_with(sampling={"equal_zoom": True}),
        f"scale {released_scale:g}": tasn_with(attention={"scale": released_scale}),
        "squared structure map": tasn_with(sampling={"structure_power": 2.0}),
        "all of the official code": tasn_with(**everything),
    },
    metrics=["magnification"],
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(7, 2.4))
others = [n for n in dict.fromkeys(by_variant["variant"]) if n != "limit 4"]
forest(ax, effects_over(by_variant, others, "limit 4"))
ax.set(xlabel="test accuracy above the library's defaults (limit 4), points")
show(
    figure,
    name="fig-tasn-released",
    caption="The official code's choices, one at a time, beside the library's "
    "defaults: differences over the same seeds with their 95 % intervals.",
    alt="A forest plot of the variants no limit, equal zoom, scale 7, squared "
    "structure map, and all of the official code where it has been measured.",
)

# %% tags=["hide-input"]
tell(
    "The scale of {s:g} is {d.word} none ({d}). The squared map is {e.word} the plain"
    " average ({e}), although it magnifies the discriminative part {m} times where "
    "the average does {a} times.",
    s=released_scale,
    d=difference(by_variant, f"scale {released_scale:g}", "limit 4"),
    e=difference(by_variant, "squared structure map", "limit 4"),
    m=magnified(by_variant, "squared structure map"),
    a=magnified(by_variant, "limit 4"),
)

# %% [markdown]
# All differences, with their sources and the tests that hold the library to them, are on the page of {doc}`discrepancies </book/discrepancies>`.
#
# ## What we found

# %% tags=["hide-input"]
tell(
    "1. At {n} × {n} pixels TASN reaches {tasn} on the generated birds and plain "
    "resizing {plain}; TASN is {d.word} it ({d}).",
    n=INPUT,
    tasn=level(by_component, TAUGHT),
    plain=level(by_component, "plain resizing"),
    d=difference(by_component, TAUGHT, "plain resizing"),
)
tell(
    "2. The sampler does what it promises: the structure image magnifies the "
    "discriminative part {m} times in area, and the best detail image of each bird "
    "{best} times.",
    m=magnified(by_component, TAUGHT),
    best=magnified(by_component, TAUGHT, "detail_best"),
)
tell(
    "3. The training of the attention is not clearly what helps: an attention net that "
    "is never trained reaches {untrained}, and the trained one is {d.word} it ({d})."
    if (found := difference(by_gradient, OWN, UNTRAINED)) and found.low <= 0
    else "3. Trained attention helps: an attention net that is never trained reaches "
    "{untrained}, and the trained one is {d.word} it ({d}).",
    untrained=level(by_gradient, UNTRAINED),
    d=found,
)
tell(
    "4. Distillation is {d.word} shared weights alone ({d}); λ = {w0} reaches {zero} "
    "and λ = {w1} {one}.",
    d=difference(by_teaching, "distillation", "shared weights only"),
    w0=ends[0],
    w1=ends[1],
    zero=level(by_weight, ends[0]),
    one=level(by_weight, ends[1]),
)
tell(
    "5. The trilinear vote changes the agreement of a channel on one part from "
    "{a:.2f} to {b:.2f}, and the number of parts that an image's channels point at "
    "from {p:.1f} to {q:.1f}.",
    a=both["raw/agreement"],
    b=both["trilinear/agreement"],
    p=both["raw/parts"],
    q=both["trilinear/parts"],
)
tell(
    "6. With pretrained networks on CUB-100 TASN is {d.word} plain resizing ({d}); "
    "even sampling, without attention, brings {u}, and attention in its place {s}. "
    "Without both softmaxes the method is {n.word} the paper's form ({n}).",
    d=difference(photos["components"], TAUGHT, "plain resizing"),
    u=difference(photos["components"], "uniform sampling", "plain resizing"),
    s=difference(photos["components"], "structure + detail", "uniform sampling"),
    n=difference(photos["normalization"], "neither", "both"),
)

# %% [markdown]
# ## When to use it today
#
# - Try a larger input first. It needs no second network, and recipes for large inputs have improved since the paper.
# - Where the input is bounded (a fixed encoder, memory, a phone) and details are small, attention-driven resampling is still a sound idea; today its map would come from the attention of a vision transformer,
#   such as DINO's {footcite:p}`caron2021emerging`, and need no training of its own.
# - Keep one lesson in any case: compare with sampling at random or evenly before you credit the attention {footcite:p}`wei2022fine`.
#
# ## Exercises
#
# 1. **Code: sums for maxima.** Write the marginals of {eq}`eq-tasn-positions` with sums. Take a map with one row of ones and a single 3 elsewhere. Which of the two gets more magnification along y, with maxima and with sums?
#
# ````{dropdown} Solution
# ```python
# m = torch.zeros(8, 8)
# m[2] = 1.0  # a wide part
# m[6, 4] = 3.0  # a strong one
# for f in (m.amax(1), m.sum(1)):
#     print((f / f.mean()).tolist())  # rows 2 and 6
# ```
# With maxima the row has 1 and the single position 3: the strong part wins three to one. With sums the row has 8: the wide part wins. Sums reward extent and maxima strength.
# ````
#
# 2. **Code: a limit.** Write `limited(m, L)` for one axis: clip the magnification $m$ at $L$ and hand what was clipped to all positions alike, again and again, until nothing is above $L$. Check it against `axis_magnification(…, limit=L)`.
#
# ````{dropdown} Solution
# ```python
# def limited(m, L):
#     while (m > L + 1e-6).any():
#         over = (m - L).clamp(min=0)
#         m = m - over + over.sum() / len(m)
#     return m
#
# m = torch.zeros(16)
# m[5] = 16.0
# print(limited(m, 4.0))
# ```
# It converges: each round hands out less. The one position keeps 4 of the 16 units, and the other 15 share 12, 0.8 each. The library finds the same in closed form.
# ````
#
# 3. **A ghost's price.** A map is 1 at two diagonal positions of an $N \times N$ grid and ε elsewhere. What are the magnifications at a meant position, at a ghost and elsewhere, for ε → 0?
#
# ```{dropdown} Solution
# Both marginals are 1 at two places and ε elsewhere, with mean $(2 + (N-2)\varepsilon)/N$, so each of the two columns has magnification → $N/2$. In area the two meant positions and the two ghosts all have $N^2/4$, and everything
# else goes to 0. Half of the output shows ghosts.
# ```
#
# 4. **One channel.** What is $M(X)$ for $c = 1$, with and without the normalizations? Where does the strength of the product come from?
#
# ```{dropdown} Solution
# Without: $(x^\top x)\,x$, the same map, scaled. With both: the relation is a softmax over a single number, 1, so $M = X$. One channel cannot be improved: everything comes from agreement between channels.
# ```
#
# 5. **λ and T.** You double $T$. By how much must λ change for the gradient into the master to stay about the same? When is the answer wrong?
#
# ```{dropdown} Solution
# By 4, from $1/T^2$. It holds where logits are small against $T$, so that $q$ is linear in $z/T$. For logits far above $T$ the probabilities are saturated, and the gradient falls more slowly than $1/T^2$.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
