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
# *The paper:* {footcite:t}`zheng2019looking`. What tells two birds apart may be a ring around the eye: a few pixels, and
# fewer still once the photograph has been shrunk to what a network takes. TASN **resamples** the image instead of
# shrinking it evenly. One network finds attention maps, hundreds of them; a map decides which regions get more pixels;
# and what is seen in the enlarged details is taught to a network that sees the whole.
#
# What this chapter does: builds the three pieces (trilinear attention, the attention sampler, distillation) from scratch,
# checks them against `fgvc_lib`, trains them on birds whose deciding part is known, and measures whether that part
# really is found and magnified, and whether it helps.

# %% tags=["parameters"]
dataset = "birds"  # synthetic, with known parts
image_size = 128  # of the source that is sampled from
input_size = 64  # of the nets that classify
attention_size = 32  # of the attention net's input
backbone = "small"
pretrained = False
epochs = 30
live_epochs = 12  # of the network that the page trains and looks inside
batch_size = 32
lr = 0.1
max_steps = None
seeds = [0, 1, 2]
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
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import time

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
    sampling_positions,
)
from fgvc_lib.layers.trilinear import (
    average_map,
    random_maps,
    trilinear_attention,
    unique_maps,
)
from fgvc_lib.losses.distillation import distillation_loss
from fgvc_lib.methods.tasn import RELEASED, TASN
from fgvc_study import Study, benchmarks, vary
from fgvc_study.figures import COLORS, curve, show, show_table, style
from fgvc_study.metrics.parts import peaks
from fgvc_study.metrics.sampling import area_magnification, attention_maps, consistency
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize

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

# %% [markdown]
# ## The problem
#
# We look at the synthetic birds at 128 pixels, for a network that takes 64: the source has four times the pixels
# that the network will see, as a photograph of 448 pixels has for a network of 224 (one of 512 has 5.2 times). How much of the image is the
# part that decides the class?

# %%
birds = load(dataset, **base.data_args)
SOURCE, INPUT = birds.image_size, input_size
mean = torch.tensor(birds.mean).view(3, 1, 1)
std = torch.tensor(birds.std).view(3, 1, 1)


def to_picture(image: torch.Tensor) -> np.ndarray:
    """A normalized image as matplotlib wants it."""
    return (image.cpu() * std + mean).clamp(0, 1).permute(1, 2, 0).numpy()


def normalized(rows) -> torch.Tensor:
    """Test images as a network gets them."""
    return (
        torch.from_numpy(np.asarray(birds.test.images[rows])).float() / 255 - mean
    ) / std


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


def plainly_resized(images: torch.Tensor) -> torch.Tensor:
    return F.interpolate(
        images, (INPUT, INPUT), mode="bilinear", align_corners=False, antialias=True
    )


# %% tags=["figure"]
deciding = birds.test.parts["discriminative"]
examples = [
    int(np.flatnonzero(deciding == birds.part_names.index(part))[0])
    for part in ("eye", "wing", "tail")
]
images = normalized(examples)  # (3, 3, 128, 128)
small = plainly_resized(images)
boxes = np.stack([birds.test.parts["boxes"][i, deciding[i]] for i in examples])
figure, axes = plt.subplots(2, 6, figsize=(9, 3.2))
for column, (i, box) in enumerate(zip(examples, boxes, strict=True)):
    x0, y0 = (box[:2] + box[2:]) / 2 - 14
    for row, (picture, scale) in enumerate(
        ((images[column], 1.0), (small[column], INPUT / SOURCE))
    ):
        whole, close = axes[row, 2 * column : 2 * column + 2]
        whole.imshow(to_picture(picture))
        whole.add_patch(
            plt.Rectangle(
                (x0 * scale - 0.5, y0 * scale - 0.5),
                28 * scale,
                28 * scale,
                fill=False,
                ec="red",
                lw=1.2,
            )
        )
        close.imshow(to_picture(picture))
        close.set(
            xlim=(x0 * scale - 0.5, (x0 + 28) * scale - 0.5),
            ylim=((y0 + 28) * scale - 0.5, y0 * scale - 0.5),
        )
    axes[0, 2 * column].set_title(
        f"{birds.classes[birds.test.labels[i]]}", fontsize=8, loc="left"
    )
bare(axes)
axes[0, 0].set_ylabel(f"source, {SOURCE} px", fontsize=8)
axes[1, 0].set_ylabel(f"resized, {INPUT} px", fontsize=8)
show(
    figure,
    name="fig-tasn-problem",
    caption="Three birds and, beside each, a close look at the part that decides its class: in the source, and after the plain resizing that a network is usually given.",
    alt="Two rows of three birds with enlarged crops of the eye, the wing and the tail. In the lower row, resized to half, the details are made of a few blocks.",
)

# %% tags=["output"]
for part, name in enumerate(birds.part_names):
    area = (
        birds.test.parts["masks"][deciding == part, part].sum((1, 2))
        if (deciding == part).any()
        else None
    )
    if area is not None:
        share = np.median(area) / SOURCE**2
        print(
            f"{name:<7} {100 * share:5.1f} % of the image: about {share * INPUT**2:3.0f} of the {INPUT**2} pixels that the network gets"
        )

# %% [markdown]
# The remedy before TASN was to *crop*: find a few parts, cut each out at full resolution, and give each to a network of its own
# or to one more pass. Two things are wrong with that.
#
# - **The number of parts is fixed** before anything is known of the data, and every part costs a whole pass. So there are few: two, four.
# - **The parts come from channels.** A convolutional channel often responds to a part, so its map can serve as an attention map. But a raw
#   channel also responds elsewhere, is noisy, and what it points at changes from image to image.
#
# TASN answers the first by sampling, in each training step, *one* of hundreds of maps, so the cost does not depend on how many
# there are; and the second by **trilinear attention**, which lets channels vote on where each of them should look.
#
# ## Trilinear attention
#
# Write the last feature map of an image as a matrix $X \in \mathbb R^{c \times hw}$: a row for each channel, a column for each cell. Then
#
# $$
# (X X^\top)_{ij} = \sum_{n=1}^{hw} X_{in} X_{jn}
# $$ (eq-tasn-relation)
#
# says how much channels $i$ and $j$ respond at the same places. Multiplied by $X$ once more,
#
# $$
# M_b(X) = (X X^\top) X, \qquad M_b(X)_i = \sum_{j=1}^{c} (X X^\top)_{ij} X_j ,
# $$ (eq-tasn-trilinear)
#
# the map of channel $i$ is a sum of *all* channels' maps, weighted by their agreement with $i$. A place where channels agree
# adds up; a stray response, with which no other channel agrees, is left behind. Three channels on four cells:

# %% tags=["output"]
X = torch.tensor(
    [
        [2.0, 0.0, 0.0, 0.0],  # channel 0 responds at the eye (cell 0)
        [1.0, 0.0, 0.0, 1.0],  # channel 1 at the eye, and as much at a leaf (cell 3)
        [0.0, 0.0, 3.0, 0.0],  # channel 2 at the tail (cell 2)
    ]
)  # (c, hw) = (3, 4)
relation = X @ X.T
scratch = relation @ X
print("X Xᵀ =", relation.tolist())
print("M_b  =", scratch.tolist())

library = trilinear_attention(
    X.view(1, 3, 2, 2), spatial_norm=False, relation_norm=False
)
torch.testing.assert_close(library.view(3, 4), scratch)  # the library agrees

# %% [markdown]
# Channel 1 no longer looks at the leaf as much as at the eye: 1 : 1 has become 6 : 2, since channel 0 confirmed the eye and
# nobody the leaf. Another way to see it: with the singular value decomposition $X = U \Sigma V^\top$,
#
# $$
# (X X^\top) X = U \Sigma^3 V^\top .
# $$ (eq-tasn-cubes)
#
# The trilinear product **cubes the singular values** and leaves the vectors alone. The patterns that many channels share are raised, the rest recedes.

# %% tags=["output"]
before = torch.linalg.svdvals(X)
after = torch.linalg.svdvals(scratch)
torch.testing.assert_close(after, before**3)
print("singular values of X: ", [round(v, 2) for v in before.tolist()])
print("and of the product:   ", [round(v, 2) for v in after.tolist()])

# %% [markdown]
# The same cube lets loud channels drown quiet ones: channel 2 above ends at 27. So the paper normalizes twice,
#
# $$
# M(X) = \mathcal N\bigl(\mathcal N(X)\, X^\top\bigr)\, X .
# $$ (eq-tasn-attention)
#
# - The inner $\mathcal N$ is a softmax over the $hw$ cells of each channel: it turns "how loud" into "where". Entry $(i, j)$ of the relation then
#   is the mean response of channel $j$ where channel $i$ looks.
# - The outer $\mathcal N$ is a softmax over the second dimension of the $c \times c$ relation: the weights of each row add up to 1, and each map becomes an average of maps.
#
# Either can be left out, which gives four variants to compare below. As loops, and against the library:


# %%
def trilinear_by_loops(X, spatial_norm: bool, relation_norm: bool):
    c, cells = X.shape
    where = torch.stack([X[i].softmax(0) if spatial_norm else X[i] for i in range(c)])
    relation = torch.zeros(c, c)
    for i in range(c):
        for j in range(c):
            relation[i, j] = sum(where[i, n] * X[j, n] for n in range(cells))
    if relation_norm:
        relation = torch.stack([row.softmax(0) for row in relation])
    maps = torch.zeros(c, cells)
    for i in range(c):
        for n in range(cells):
            maps[i, n] = sum(relation[i, j] * X[j, n] for j in range(c))
    return maps


VARIANTS = {
    "neither": {"spatial_norm": False, "relation_norm": False},
    "spatial": {"spatial_norm": True, "relation_norm": False},
    "relation": {"spatial_norm": False, "relation_norm": True},
    "both": {"spatial_norm": True, "relation_norm": True},
}
features = torch.rand(
    1, 5, 2, 3, generator=torch.Generator().manual_seed(0)
)  # a map that is not square
for norms in VARIANTS.values():
    expected = trilinear_by_loops(features.view(5, 6), **norms)
    torch.testing.assert_close(
        trilinear_attention(features, **norms).view(5, 6), expected
    )

# %% [markdown]
# Two maps are taken from $M$. Their **average** over the channels, $A(M)$, points at everything that any part points at. A **random** one, $R(M)$, drawn anew
# in each step, points at one.
#
# ## The attention sampler
#
# A map says where to look; the sampler turns that into an image. Think of one axis first. The output has a fixed number of pixels, to be laid on
# the axis densely where the map is large. That is sampling from a distribution at equal steps of its **cumulative**, read backwards:
#
# $$
# \begin{aligned}
# f_x(n) &= \max_{1 \le i \le h} M_{i,n}, \qquad
# F_x(n) = \frac{\sum_{m \le n} f_x(m)}{\sum_m f_x(m)}, \\
# x_k &= F_x^{-1}\!\left(\frac{k}{w' - 1}\right), \quad k = 0, \dots, w' - 1,
# \end{aligned}
# $$ (eq-tasn-positions)
#
# and the same for $y$ with the maxima of the rows. The marginals are maxima, not sums: a part that is high and narrow should not lose to one that is low and wide.
# The new image is
#
# $$
# I'(i, j) = I\bigl(F_y^{-1}(i),\, F_x^{-1}(j)\bigr),
# $$ (eq-tasn-sampler)
#
# read between pixels by bilinear interpolation. By hand, with two cells whose marginals are 1 and 3, and five output pixels:


# %% tags=["output"]
def positions_from_scratch(marginal: np.ndarray, size: int) -> np.ndarray:
    """Inverse transform sampling: the cumulative as a broken line, its axes swapped, read at equal steps."""
    cumulative = np.concatenate([[0], np.cumsum(marginal)]) / marginal.sum()
    edges = np.linspace(0, 1, len(marginal) + 1)
    return np.interp(np.linspace(0, 1, size), cumulative, edges)


marginal = np.array([1.0, 3.0])
print(
    "F at the edges 0, ½, 1:", [0.0, *(np.cumsum(marginal) / marginal.sum()).tolist()]
)
print("five points:           ", positions_from_scratch(marginal, 5).round(3).tolist())
torch.testing.assert_close(
    sampling_positions(torch.from_numpy(marginal)[None], 5)[0],
    torch.from_numpy(positions_from_scratch(marginal, 5)),
)

# %% [markdown]
# One point at the start, one in the middle, and the three others in the right half, which holds three quarters of the mass. Steps there
# are a third as long: it is **magnified**. In general a step at cell $n$ has the length $\propto 1/f(n)$, so
#
# $$
# m_x(n) = \frac{f_x(n)}{\frac1w \sum_m f_x(m)}, \qquad m(i, n) = m_y(i)\, m_x(n)
# $$ (eq-tasn-magnification)
#
# is by how much cell $(i, n)$ is enlarged, along an axis and in area, compared with plain resizing. The mean along an axis is always 1: **whatever one part gains, the rest of
# the image loses.** The whole sampler from scratch, for one image:


# %%
def sample_from_scratch(
    image: torch.Tensor, attention: torch.Tensor, size: int
) -> torch.Tensor:
    """``(C, H, W)`` and ``(h, w)`` → ``(C, size, size)``, with an explicit bilinear interpolation."""
    height, width = image.shape[1:]
    y = torch.from_numpy(
        positions_from_scratch(attention.amax(1).double().numpy(), size)
    ) * (height - 1)
    x = torch.from_numpy(
        positions_from_scratch(attention.amax(0).double().numpy(), size)
    ) * (width - 1)
    top, left = y.long().clamp(max=height - 2), x.long().clamp(max=width - 2)
    v, u = (y - top)[:, None].float(), (x - left)[None].float()
    rows, below = image[:, top], image[:, top + 1]  # (C, size, W)
    upper = (1 - u) * rows[:, :, left] + u * rows[:, :, left + 1]
    lower = (1 - u) * below[:, :, left] + u * below[:, :, left + 1]
    return (1 - v) * upper + v * lower


some_maps = (
    torch.rand(3, 7, 9, generator=torch.Generator().manual_seed(1)) + 0.05
)  # maps of any size
expected = torch.stack(
    [sample_from_scratch(i, m, INPUT) for i, m in zip(images, some_maps, strict=True)]
)
torch.testing.assert_close(
    attention_sample(images, some_maps, (INPUT, INPUT)), expected, atol=1e-3, rtol=0
)

# a map that is the same everywhere is plain resizing, and so is one that is zero everywhere
plain = F.interpolate(images, (INPUT, INPUT), mode="bilinear", align_corners=True)
for value in (0.0, 1.0):
    uniform = attention_sample(images, torch.full((3, 7, 9), value), (INPUT, INPUT))
    torch.testing.assert_close(uniform, plain, atol=1e-4, rtol=0)

# %% [markdown]
# ### In pictures
#
# To see the sampler alone we give it a map that we know to be right: the deciding part's true outline, blurred. What a trained
# network finds comes later. Follow one axis: the map's marginal, its running sum, and the sum read
# backwards at equal steps.


# %%
def true_map(i: int, *, cells: int = 16, floor: float = 0.15) -> torch.Tensor:
    """The deciding part's mask in cells, blurred, on a floor."""
    mask = torch.from_numpy(birds.test.parts["masks"][i, deciding[i]]).float()[
        None, None
    ]
    coarse = F.adaptive_avg_pool2d(mask, cells)
    blurred = F.avg_pool2d(F.pad(coarse, (1, 1, 1, 1)), 3, 1)[0, 0]
    return floor + blurred / blurred.max()


# %% tags=["figure"]
chosen = 1
shown = true_map(examples[chosen])  # (16, 16)
rows, columns = axis_magnification(shown[None])
grid = sampling_grid(shown[None], (INPUT, INPUT))
figure, axes = plt.subplots(
    1, 6, figsize=(12, 2.4), width_ratios=[1, 1.2, 1.2, 1, 1, 1]
)
axes[0].imshow(to_picture(images[chosen]), extent=(0, 1, 1, 0))
axes[0].imshow(shown, extent=(0, 1, 1, 0), alpha=0.55, cmap="magma")
axes[0].set_title("map over the image")
edges = np.linspace(0, 1, 17)
axes[1].bar(
    (edges[1:] + edges[:-1]) / 2, columns[0], width=1 / 16, color=COLORS[0], alpha=0.4
)
axes[1].axhline(1, color=COLORS[8], lw=0.8, ls=":")
axes[1].set_title("$f_x$ over its mean")
axes[1].set_xlabel("x in the source", fontsize=8)
cumulative = np.concatenate([[0], columns[0].cumsum(0) / columns[0].sum()])
axes[2].plot(edges, cumulative, color=COLORS[0], lw=2)
for k in np.linspace(0, 1, 17):
    x = np.interp(k, cumulative, edges)
    axes[2].plot([0, x, x], [k, k, 0], color=COLORS[1], lw=0.6)
axes[2].set(title="$F_x$, and its inverse", xlim=(0, 1), ylim=(0, 1))
axes[2].set_xlabel("x in the source", fontsize=8)
axes[2].set_ylabel("x in the output", fontsize=8)
for ax in axes[1:3]:
    ax.set_xticks([0, 0.5, 1], ["0", "½", "1"])
    ax.tick_params(labelsize=8)
draw_grid(axes[3], images[chosen], grid[0])
axes[3].set_title("every fourth line")
axes[4].imshow(to_picture(sample_at(images[chosen : chosen + 1], grid)[0]))
axes[4].set_title("sampled")
axes[5].imshow(to_picture(small[chosen]))
axes[5].set_title("plainly resized")
bare(axes[[0, 3, 4, 5]])
show(
    figure,
    name="fig-tasn-sampler",
    caption="The sampler step by step. A map; the largest value of each column, in units of their mean; its running sum, where equal steps on the vertical axis (orange) are read back to the horizontal one; the grid of sampling points; the image read off there, beside the plainly resized one of as many pixels.",
    alt="Six panels: a bird with a heat map on its wing; a bar chart with a peak; a rising curve with lines that lead from equal heights to unequal places; a grid drawn over the bird, dense at the wing; the bird with an enlarged wing; the bird as it was.",
)

# %% [markdown]
# ### Ghosts, and a limit
#
# Two marginals hold less than the plane. If a map has two peaks, both of their columns and both of their rows are enlarged, and so the two *other* crossings
# are enlarged too, where there was nothing: **ghost regions**. The paper does not mention them; they follow from {eq}`eq-tasn-magnification`.
#
# And nothing bounds the magnification: a map with a single cell that is not zero gives that cell the whole image. The official
# implementation clips at 4 along an axis and hands what it clipped to all cells, five times; only the first round clips at 4, the later ones
# at the smaller axis's peak, so it settles a little above. The library takes 4 as its default, and never exceeds it (`limit=None` is the formula).

# %% tags=["figure"]
two = torch.full((16, 16), 0.15)
two[3:5, 2:4] = two[11:13, 12:14] = 1.0
y, x = area_magnification(two[None], (SOURCE, SOURCE))
board = (
    (torch.arange(SOURCE)[:, None] // 8 + torch.arange(SOURCE) // 8) % 2
).float() * 0.6 + 0.2
blobs = F.interpolate(two[None, None], (SOURCE, SOURCE), mode="nearest")[0, 0]
checker = torch.stack(
    [board + 0.2 * (blobs > 0.5), board, board - 0.15 * (blobs > 0.5)]
).clamp(0, 1)
one_cell = torch.zeros(1, 16, 16)
one_cell[0, 5, 6] = 1
figure, axes = plt.subplots(1, 4, figsize=(10, 2.7))
axes[0].imshow(two, cmap="magma", vmin=0)
axes[0].set_title("a map with two peaks")
picture = axes[1].imshow(y[0][:, None] * x[0], cmap="magma", vmin=0)
figure.colorbar(picture, ax=axes[1], shrink=0.75)
axes[1].set_title("magnification in area")
axes[2].imshow(
    attention_sample(checker[None], two[None], (SOURCE, SOURCE))[0].permute(1, 2, 0)
)
axes[2].set_title("a board, sampled")
limited = sample_at(images[:1], sampling_grid(one_cell, (INPUT, INPUT), limit=4.0))
axes[3].imshow(to_picture(limited[0]))
axes[3].set_title("one cell, limit 4")
bare(axes)
show(
    figure,
    name="fig-tasn-ghosts",
    caption="Two peaks make four enlarged regions: the crossings of their rows and columns. On a board of equal squares the two meant ones are tinted, the two ghosts are not. Right: a map of one cell with magnification limited to 4 on each axis.",
    alt="Four panels: a map with two bright squares on a diagonal; its magnification with four bright squares at the corners of a rectangle; a checkerboard with four enlarged places, two of them tinted; a bird enlarged four times at one cell.",
)

# %% tags=["output"]
for limit in (None, 4.0):
    rows, columns = axis_magnification(one_cell, limit=limit)
    print(
        f"limit {limit}: the one cell is magnified {rows.max():.0f} × {columns.max():.0f}, the others {rows.min():.1f} × {columns.min():.1f}"
    )
torch.testing.assert_close(
    axis_magnification(one_cell, limit=4.0)[0].amax(), torch.tensor(4.0)
)

# %% [markdown]
# ## Distillation
#
# The image sampled by $A(M)$ is called *structure-preserved*, $I_s$: the whole bird with its interesting regions a little larger. The one sampled by $R(M)$ is
# *detail-preserved*, $I_d$. Two nets classify them, with the **same** convolutional weights and a classifier each: the *master net* sees $I_s$,
# the *part net* $I_d$. At test only the master is used, so what the part net learned of details has to reach it. Shared weights do some of that; the rest is
# {footcite:t}`hinton2015distilling`'s distillation. With softened probabilities
#
# $$
# q^{(i)} = \frac{\exp(z^{(i)}/T)}{\sum_j \exp(z^{(j)}/T)}, \qquad
# L_{soft}(q_s, q_d) = - \sum_i q_d^{(i)} \log q_s^{(i)} ,
# $$ (eq-tasn-soft)
#
# the master is also trained to answer as the part net does:
#
# $$
# L = L_{cls}(q_s, y) + \lambda L_{soft}(q_s, q_d) .
# $$ (eq-tasn-loss)

# %% tags=["output"]
student = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)  # the master's logits
teacher = torch.tensor([[1.0, 3.0, 0.0]])  # the part net's


def soften(logits, T):
    weights = (logits / T).exp()
    return weights / weights.sum()


for T in (1.0, 3.0, 10.0):
    scratch = -(soften(teacher, T) * soften(student, T).log()).sum()
    library = distillation_loss(student, teacher, temperature=T)
    torch.testing.assert_close(library, scratch)
    (gradient,) = torch.autograd.grad(library, student)
    print(
        f"T = {T:<4g} target {[round(v, 2) for v in soften(teacher, T)[0].tolist()]}   loss {scratch.item():.3f}   gradient {gradient.norm():.4f}"
    )

# %% [markdown]
# The derivative is $(q_s - q_d)/T$, and for large T the difference itself shrinks as $1/T$: **the gradient falls as $1/T^2$.** Hinton et al. therefore multiply the loss by $T^2$. The official implementation
# of TASN uses T = 10 and does not, so its λ = 1 is about a hundredth of what it looks like. The library has the factor as an option, off by default, and the sweeps below
# move λ and T apart.
#
# ## All together
#
# | piece | sees | learns from |
# | --- | --- | --- |
# | attention net | the image, resized | its own classifier |
# | master net | $I_s = S(I, A(M))$ | labels, and the part net's answers |
# | part net, the master's convolutions | $I_d = S(I, R(M))$ | labels |
#
# In the official implementation no gradient passes the sampler: **the attention net never hears whether its maps helped.** We ask below whether it should. The test-time forward pass from scratch, against
# {py:class}`fgvc_lib.methods.tasn.TASN`:

# %%
tasn = TASN(
    resnet("small", width=8), len(birds.classes), **tasn_with().method_args
).eval()
with torch.no_grad():
    small_view = (
        attention_size,
    ) * 2  # the attention net may take a smaller image still
    resized = F.interpolate(
        images, small_view, mode="bilinear", align_corners=False, antialias=True
    )
    features = tasn.attention_net(resized)[0]  # (B, c, h, w)
    maps = trilinear_attention(features)  # M(X)
    structure = attention_sample(images, maps.mean(1), (INPUT, INPUT), limit=4.0)  # I_s
    logits = tasn.master_head(tasn.backbone(structure)["layer3"].mean((2, 3)))
torch.testing.assert_close(tasn(images).logits, logits)

# %% [markdown]
# ## Trained
#
# We train TASN on this page, on birds drawn at 128 pixels, with the network of 64-pixel input that all chapters use as master and part net, and a narrower one for
# attention. This network is for looking into; the comparison with a plain network, trained for as long and with several seeds, is {ref}`further down <tasn-components>`.

# %% tags=["experiment"]
network = study.live(
    "network", {"TASN": vary(tasn_with(), epochs=live_epochs)}, metrics=METRICS
)

# %%
method, record = network["TASN"].method, network["TASN"].record
used = next(method.parameters()).device

# %% tags=["table"]
line = {
    "epochs": record.config["epochs"]
    if record.config["max_steps"] is None
    else "a few steps",
    "test accuracy, %": round(100 * record.final["test_accuracy"], 1),
    "its attention net alone, %": round(100 * record.final["part_net/attention"], 1),
    "deciding part magnified": f"{record.final['magnification/structure']:.2f} ×",
}
show_table(pd.DataFrame([line]), foot=study.foot(study.live_frame(network)))

# %% [markdown]
# ### Channels, raw and trilinear
#
# Five channels of the attention net, the ones that respond most, on three birds: the features as they are, and after {eq}`eq-tasn-attention`.

# %% tags=["figure"]
with torch.no_grad():
    raw, trilinear = (
        m.cpu() for m in attention_maps(method, images.to(used))
    )  # (3, c, h, w) each
strongest = raw.mean((0, 2, 3)).topk(5).indices
figure, axes = plt.subplots(6, 6, figsize=(8, 8))
for bird in range(3):
    for row, maps in ((2 * bird, raw), (2 * bird + 1, trilinear)):
        axes[row, 0].imshow(to_picture(images[bird]))
        axes[row, 0].set_ylabel("raw" if row % 2 == 0 else "trilinear", fontsize=8)
        for column, channel in enumerate(strongest):
            ax = axes[row, column + 1]
            ax.imshow(maps[bird, channel], extent=(0, SOURCE, SOURCE, 0))
            ax.plot(
                *peaks(maps[bird : bird + 1, channel : channel + 1], (SOURCE, SOURCE))[
                    0, 0
                ],
                "+",
                color="red",
                ms=7,
            )
            if row == 0:
                ax.set_title(f"channel {int(channel)}", fontsize=8)
bare(axes)
show(
    figure,
    name="fig-tasn-channels",
    caption="The channels that respond most, before and after the trilinear product, each with its own color scale; a cross marks the peak. Compare a column across birds: does the channel point at the same part?",
    alt="A grid of heat maps: for each of three birds a row of five raw channels and a row of the same channels after the trilinear product, with a cross at each maximum.",
)

# %% [markdown]
# ### Structure and detail
#
# The trained attention at work. The structure image comes from the average map, a detail image from one channel's.

# %% tags=["figure"]
with torch.no_grad():
    output = method(images.to(used))
    picks = random_maps(trilinear, count=3, generator=torch.Generator().manual_seed(0))
    details, detail_grids = (
        t.cpu() for t in method.sample(images.to(used), picks.to(used))
    )
figure, axes = plt.subplots(3, 7, figsize=(10, 4.6))
for bird in range(3):
    axes[bird, 0].imshow(to_picture(small[bird]))
    axes[bird, 1].imshow(to_picture(images[bird]), extent=(0, 1, 1, 0))
    axes[bird, 1].imshow(
        output.maps["structure_map"][bird, 0].cpu(),
        extent=(0, 1, 1, 0),
        alpha=0.5,
        cmap="magma",
    )
    draw_grid(axes[bird, 2], images[bird], output.maps["structure_grid"][bird])
    axes[bird, 3].imshow(to_picture(output.maps["structure_image"][bird]))
    for k in range(3):
        axes[bird, 4 + k].imshow(to_picture(details[bird, k]))
for ax, title in zip(
    axes[0],
    (
        "resized",
        "average map",
        "its sampling",
        "structure $I_s$",
        "detail $I_d$",
        "another",
        "another",
    ),
    strict=True,
):
    ax.set_title(title, fontsize=8)
bare(axes)
show(
    figure,
    name="fig-tasn-images",
    caption="Each bird resized plainly, with the average attention of the trained net, the grid that it lays over the source, the image read off there, and images by three random channels. All images that a network sees have the same number of pixels.",
    alt="Three rows of birds in seven panels: plainly resized, with a heat map, with the sampling grid, warped so that attended regions are larger, and three further warps by single channels.",
)

# %% [markdown]
# ### How much is the deciding part magnified?
#
# Each test bird's deciding part is known, so {eq}`eq-tasn-magnification` can be averaged over its pixels. 1 is plain resizing; below 1 the sampling took pixels *away* from what decides.

# %% tags=["figure"]
by_part = (
    record.load_arrays()["magnification/by_part"]
    if record.arrays
    else np.full((2, len(birds.part_names)), np.nan)
)
figure, ax = plt.subplots(figsize=(6, 2.8))
place = np.arange(len(birds.part_names))
ax.bar(place - 0.2, by_part[0], 0.38, label="structure image", color=COLORS[0])
ax.bar(
    place + 0.2,
    by_part[1],
    0.38,
    label="detail image, mean over channels",
    color=COLORS[4],
    hatch="//",
    edgecolor="white",
)
ax.axhline(1, color=COLORS[8], lw=1, ls=":")
ax.set_xticks(place, birds.part_names)
ax.set(ylabel="magnification in area")
ax.legend(fontsize=8)
show(
    figure,
    name="fig-tasn-magnification",
    caption="Mean magnification of the deciding part on the test birds, by which part decides, for the network trained on this page. The dotted line is plain resizing.",
    alt="A bar chart of magnification for crown, eye, beak, breast, wing and tail, for the structure image and for the detail image, with a dotted line at one.",
)

# %% [markdown]
# (tasn-components)=
# ## Which piece does what?
#
# From here on tables are drawn from committed records; the line under each says which data, seeds and device they come from.
#
# The rows add one piece at a time. *Uniform sampling* has all the machinery, two nets, distillation, and no attention: what it gains is not
# due to looking anywhere. All rows give the classifying net the same number of pixels.


# %%
ACCURACY = {"accuracy, %": "test_accuracy"}
MAGNIFICATION = {
    "magnification by structure": ("magnification/structure", 1, 2),
    "by detail": ("magnification/detail", 1, 2),
    "by the best channel": ("magnification/detail_best", 1, 2),
}
NETS = {
    "master, %": "part_net/master",
    "part net, %": "part_net/part",
    "both, %": "part_net/both",
    "attention net, %": "part_net/attention",
}

# %% tags=["experiment"]
by_component = study.run(
    "components",
    {
        "plain resizing": tasn_with(structure="resize", detail=None),
        "uniform sampling": tasn_with(structure="uniform", detail="uniform"),
        "structure": tasn_with(detail=None),
        "structure + detail": tasn_with(distillation={"weight": 0.0}),
        "structure + detail + distillation": tasn_with(),
    },
    metrics=["magnification", "part_net"],
)

# %% tags=["table"]
show_table(
    summarize(by_component, ACCURACY | MAGNIFICATION, "birds"),
    foot=study.foot(by_component),
)

# %% [markdown]
# Published for the real benchmark: the notes of the official code state 87.0 % on CUB {footcite:p}`wah2011caltech` at 224 pixels and 88.0 % at 336, with ResNet-50. Ours is
# another network, trained from random weights.
#
# ## Does the trilinear product make channels consistent?
#
# The claim that carries the method is that a channel's trilinear map points at the *same part in every image*. With the true parts it can be measured. For each class and channel,
# take the part that the map's peak falls on in each image:
#
# - **agreement**: the share of images in which it is the channel's most frequent part;
# - **entropy** of the part, in bits; lower is more consistent;
# - **parts**: on how many different parts an image's channels peak, all together.
#
# The third keeps the first two honest. If all maps became one map they would agree perfectly, and there would be one part. By hand:

# %% tags=["output"]
pointed = torch.tensor(
    [[0, 1], [0, 1], [0, -1], [0, 2]]
)  # four images of a class × two channels: which part, -1 for none
agreement, entropy = consistency(pointed, torch.zeros(4, dtype=torch.long), count=3)
print(
    f"channel 0 always at part 0, channel 1 at part 1 in two of four: agreement {agreement} = (1 + ½) / 2"
)
print(f"entropy {entropy} = (0 + 1½) / 2 bits")

# %% [markdown]
# Because nothing flows back from the sampler, **the attention net is trained by its own classifier alone, whatever the normalization**: in the next table the rows' raw
# features differ by no more than the order of sums, and what is made of them differs.

# %%
CONSISTENCY = {
    "agreement, raw": ("channel_parts/raw/agreement", 1, 3),
    "agreement": ("channel_parts/trilinear/agreement", 1, 3),
    "entropy, raw": ("channel_parts/raw/entropy", 1, 2),
    "entropy": ("channel_parts/trilinear/entropy", 1, 2),
    "parts, raw": ("channel_parts/raw/parts", 1, 2),
    "parts": ("channel_parts/trilinear/parts", 1, 2),
}

# %% tags=["experiment"]
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

# %% tags=["table"]
show_table(
    summarize(by_normalization, CONSISTENCY, "normalization"),
    foot=study.foot(by_normalization),
)

# %% tags=["table"]
show_table(
    summarize(by_normalization, ACCURACY | MAGNIFICATION, "normalization"),
    foot=study.foot(by_normalization),
)

# %% [markdown]
# The two tables belong together: a map that is nearly flat may peak in the same place in every image, and magnifies nothing.
#
# ## How many parts does a random channel see?
#
# One channel is drawn for each visit of an image, with replacement. If a share $n_p / c$ of an image's channels peaks on part $p$, then after $k$ visits the expected number of
# different parts that were magnified is
#
# $$
# \mathbb E[\text{parts after } k] = \sum_p 1 - \Bigl(1 - \frac{n_p}{c}\Bigr)^{k} .
# $$ (eq-tasn-coverage)

# %% tags=["figure"]
figure, ax = plt.subplots(figsize=(6, 3.2))
draws = np.arange(1, 65)
named = {
    variant: study.records(group)[0]
    for variant, group in by_normalization.groupby("variant", sort=False)
    if study.records(group)
}
for (row, found), color, dashes in zip(
    named.items(), COLORS, ("-", "--", "-.", ":"), strict=False
):
    arrays = found.load_arrays()
    if "channel_parts/trilinear/coverage" in arrays:
        ax.plot(
            draws,
            arrays["channel_parts/trilinear/coverage"],
            color=color,
            ls=dashes,
            label=row,
        )
arrays = named["both"].load_arrays() if "both" in named else {}
if "channel_parts/raw/coverage" in arrays:
    ax.plot(
        draws,
        arrays["channel_parts/raw/coverage"],
        color=COLORS[8],
        lw=1,
        label="raw channels",
    )
ax.axhline(len(birds.part_names), color=COLORS[6], lw=0.8, ls=":")
ax.set(
    xlabel="visits of an image, with one random channel each",
    ylabel="different parts seen",
    xscale="log",
)
ax.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
ax.minorticks_off()
if ax.get_legend_handles_labels()[0]:
    ax.legend(fontsize=8)
show(
    figure,
    name="fig-tasn-coverage",
    caption="Expected number of different parts, of the six that a synthetic bird has (dotted), that the detail images of one bird have enlarged after so many epochs, for each normalization and for raw channels.",
    alt="Curves that rise with the number of visits, one for each normalization and one for raw channels, below a dotted line at six parts.",
)

# %% [markdown]
# A curve that flattens early means that hundreds of channels are worth a few parts. More than one detail image in a step buys coverage faster, at the price of one more pass each:

# %% tags=["experiment"]
by_detail = study.run(
    "details",
    {str(n): tasn_with(num_details=n) for n in num_details},
    seeds=seeds[:2],
)

# %% tags=["table"]
show_table(
    summarize(by_detail, ACCURACY, "detail images in a step"),
    foot=study.foot(by_detail),
)

# %% [markdown]
# ## Distillation against its alternatives
#
# *Shared weights only* trains both nets and lets nothing else pass between them. *Concatenation* classifies both features together and so needs the part net at test. The columns on the right
# take the trained nets apart: the master alone (what the paper tests), the part net alone, the average of both. At test the part net's map is the average of all channels, equal ones included, as in the official
# implementation: for the part net it is a new kind of image.

# %% tags=["experiment"]
by_teaching = study.run(
    "teaching",
    {
        "shared weights only": tasn_with(distillation={"weight": 0.0}),
        "concatenation": tasn_with(distillation={"weight": 0.0}, predict="concat"),
        "distillation": tasn_with(),
    },
    metrics=["magnification"],
)

# %% tags=["table"]
show_table(
    summarize(by_teaching, ACCURACY | NETS, "the two nets"),
    foot=study.foot(by_teaching),
)

# %% [markdown]
# The PyTorch port of the official implementation reports, for CUB, 85.5 % for the master alone and 86.2 % together with the part net, both without distillation.
#
# ### Temperature and weight

# %% tags=["experiment"]
squared = {"temperature": 10.0, "square_temperature": True}
by_temperature = study.run(
    "temperature",
    {f"{t:g}": tasn_with(distillation={"temperature": t}) for t in temperatures}
    | {"10, times T²": tasn_with(distillation=squared)},
    seeds=seeds[:2],
)
by_weight = study.run(
    "weight",
    {f"{w:g}": tasn_with(distillation={"weight": w}) for w in weights},
    seeds=seeds[:2],
)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(8, 3), sharey=True)
for ax, table, label in (
    (axes[0], by_temperature, "T (λ = 1)"),
    (axes[1], by_weight, "λ (T = 10)"),
):
    labels = list(dict.fromkeys(table["variant"]))
    table = table.assign(
        place=table["variant"].map({row: place for place, row in enumerate(labels)})
    )
    swept = table[~table["variant"].str.contains("times")]
    if "test_accuracy" in table:
        places = list(range(len(labels)))
        curve(ax, places, swept, "place", "test_accuracy", color=COLORS[0])
    other = table[table["variant"].str.contains("times")]
    if "test_accuracy" in other:
        ax.plot(other["place"], other["test_accuracy"], "D", ms=5, color=COLORS[1])
    ax.set_xticks(
        range(len(labels)), [row.replace(", times T²", " · T²") for row in labels]
    )
    ax.set(xlabel=label)
axes[0].set_ylabel("test accuracy")
show(
    figure,
    name="fig-tasn-sweeps",
    caption="Accuracy of the master over the temperature and over the weight of the distillation; a dot is a seed, the line their mean. The diamonds have the loss multiplied by T².",
    alt="Two plots of test accuracy, over temperature with separate points for the loss multiplied by T squared, and over the weight lambda.",
)

# %% tags=["table"]
both = pd.concat(
    [
        summarize(by_temperature, ACCURACY, "setting").assign(
            setting=lambda t: "T = " + t["setting"]
        ),
        summarize(by_weight, ACCURACY, "setting").assign(
            setting=lambda t: "λ = " + t["setting"]
        ),
    ]
)
show_table(both, foot=study.foot(pd.concat([by_temperature, by_weight])))

# %% [markdown]
# ## Should the sampler have a gradient?
#
# $x_k = F^{-1}(\cdot)$ is a differentiable function of the map almost everywhere, and so is bilinear interpolation of where it reads. The gradient is there for the taking: the master's loss could tell the attention net
# to look elsewhere. The official implementation stops it. The library's `sampling={"gradient": True}` lets it through; we compare four ways to train the attention net.

# %% tags=["output"]
for passes in (False, True):
    probe = TASN(
        resnet("small", width=8),
        len(birds.classes),
        **tasn_with(sampling={"gradient": passes}, attention_weight=0.0).method_args,
    )
    terms = probe(images, birds.test.labels[examples]).terms
    (terms["ce_master"] + terms["ce_part"]).backward()
    size = (
        sum(
            float(p.grad.square().sum())
            for p in probe.attention_net.parameters()
            if p.grad is not None
        )
        ** 0.5
    )
    print(
        f"gradient={passes!s:<5}: the classifying nets move the attention net with a gradient of norm {size:.4f}"
    )

# %% tags=["experiment"]
through = {"gradient": True}
by_gradient = study.run(
    "gradient",
    {
        "its own classifier (paper)": tasn_with(),
        "its own classifier + sampling": tasn_with(sampling=through),
        "sampling alone": tasn_with(sampling=through, attention_weight=0.0),
        "neither, as initialized": tasn_with(attention_weight=0.0),
    },
    metrics=["magnification", "part_net"],
)

# %% tags=["table"]
LEARNS = {"attention net, %": NETS["attention net, %"]} | MAGNIFICATION
show_table(
    summarize(by_gradient, ACCURACY | LEARNS, "the attention net learns from"),
    foot=study.foot(by_gradient),
)

# %% [markdown]
# ## What it costs
#
# "Hundreds of parts at the cost of one" has two sides. Against cropping the cost is constant indeed: a step passes two images through the net, however many channels there are. But the
# attention net is itself expensive: it keeps a large map to the end.

# %% tags=["figure"]
WHOLE = "structure, detail, distillation"
measured_costs = benchmarks.records("attention_sampler")
published = [
    step
    for found in measured_costs
    for step in found["steps"]
    if step["backbone"] == "resnet 50"
]
figure, ax = plt.subplots(figsize=(5.5, 3))
if published:
    work = published[0]["multiply_adds_per_image"]
    parts = np.arange(1, 17)
    ax.plot(
        parts,
        (1 + parts) * work["baseline"] / 1e9,
        color=COLORS[1],
        ls="--",
        label="the image and one crop for each part",
    )
    ax.plot(
        parts,
        [work[WHOLE] / 1e9] * len(parts),
        color=COLORS[0],
        label="TASN, 512 channels",
    )
    ax.legend(fontsize=8)
ax.set(xlabel="parts", ylabel="billion multiply-adds", ylim=(0, None))
show(
    figure,
    name="fig-tasn-cost",
    caption="Multiply-adds of a training step on one image with ResNet-50 at 224 pixels and TASN's attention net, counted: one pass for every cropped part, against TASN.",
    alt="A rising dashed line for cropping parts and a flat line for TASN; they cross at a handful of parts.",
)

# %% [markdown]
# The trilinear product does grow with the number of channels, as $c^2 hw$. Here it is beside the sampling itself, timed on the machine that built this page, with maps of 28 × 28:


# %% tags=["output"]
def milliseconds(function, *arguments, repeats: int = 3) -> float:
    function(*arguments)
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        taken.append(time.perf_counter() - start)
    return 1e3 * min(taken)


def two_samples(sources, maps, generator):
    """The structure and the detail image of each source."""
    for m in (average_map(maps), random_maps(maps, generator=generator)):
        attention_sample(sources, m[:, 0], (224, 224), limit=4.0)


sources, choice = torch.rand(4, 3, 512, 512), torch.Generator().manual_seed(0)
for channels in (8, 64, 512):
    features = torch.rand(4, channels, 28, 28)
    product = milliseconds(trilinear_attention, features) / 4
    sampling = (
        milliseconds(two_samples, sources, trilinear_attention(features), choice) / 4
    )
    print(
        f"{channels:>3} channels: {product:6.2f} ms an image for the maps, {sampling:5.2f} ms for the two samples, 512 → 224 px"
    )

# %% tags=["table"]
lines, feet = [], []
for found in measured_costs:
    sampler = found["sampler, 64 images, 512 → 224 px"]
    for step in found["steps"]:
        lines.append(
            {
                "training step": f"{step['backbone']}, {step['image_size']} → {step['input_size']} px, batch {step['batch']}",
                "device": found["device"]["type"],
                "sampler's share of it, %": f"{100 * step['share_of_step']['sampler']['median']:.1f}",
                "over the baseline's": f"{step['over_baseline'][WHOLE]['median']:.1f}",
                "multiply-adds over the baseline's": f"{step['multiply_adds_over_baseline'][WHOLE]:.1f}",
            }
        )
    feet.append(
        f"{found['device']['name']}, torch {found['versions']['torch']}: 64 images 512 → 224 px in "
        f"{1e3 * sampler['seconds']['batched']['median']:.0f} ms, "
        f"{sampler['times_faster_than']['literal']['median']:.0f} times faster than the operator in plain loops, "
        f"{sampler['times_faster_than']['per image']['median']:.1f} times faster than NumPy image by image"
    )
show_table(
    pd.DataFrame(lines, columns=None if lines else ["training step"]),
    foot="benchmarks/attention_sampler.py. "
    + ("; ".join(feet) or "Not measured yet")
    + ".",
)

# %% [markdown]
# The sampler needs no compiled extension: a running sum, a search, and `grid_sample`, all batched. The official implementation loops over images inside a CUDA kernel of its own, which no longer compiles with current torch.
#
# ## Paper versus official implementation
#
# The authors released an MXNet implementation, and an unfinished PyTorch port. They differ from the paper, and from each other. {py:data}`fgvc_lib.methods.tasn.RELEASED` holds the MXNet code's
# choices as arguments.
#
# | | paper | MXNet | PyTorch port |
# | --- | --- | --- | --- |
# | inside the spatial softmax | $X$ | $7X$ | $2X$, under a comment that says 7 |
# | attention net | | pre-activation ResNet-18; dilated convolutions with biases, no BatchNorm between them; ReLU after the last BatchNorm | |
# | structure map | average | sum over channels with different totals, enlarged with corners aligned, squared | sum |
# | detail map | random channel | random in training, sum of all at test | random channel at test too, plus 0.01 |
# | largest magnification | none | five rounds of clipping, the first at 4, the others at the smaller axis's peak: settles above 4 | |
# | distillation | part net → master | gradient into the teacher too, T = 10, no $T^2$ | none |
# | corners of the grid | | aligned | whatever `grid_sample` does by default |
#
# **Sum or average** is no difference: the sampler sees ratios within a map only. **Squaring** is one.

# %% tags=["output"]
with torch.no_grad():
    attention = method.attend(images.to(used))[0].cpu()
averaged, summed = attention.mean(1), attention.sum(1)
for a, b in zip(axis_magnification(averaged), axis_magnification(summed), strict=True):
    torch.testing.assert_close(a, b)
for name, map_ in (("average", averaged), ("squared", averaged**2)):
    rows, columns = axis_magnification(map_)
    print(
        f"{name:<8} largest magnification: {(rows.amax(1) * columns.amax(1)).mean():.1f} in area, mean over three birds"
    )

# %% [markdown]
# **The hidden scale.** Features after a ReLU are of the size of 1, and a softmax over hundreds of cells of such values is nearly flat. Then $\mathcal N(X) X^\top$ hardly knows *where* channels respond. How many
# cells does the softmax of a channel effectively spread over ($e^{\text{entropy}}$)?

# %% tags=["output"]
x = raw.flatten(2)  # (3, c, hw)
for s in (1, 2, 7):
    p = (s * x).softmax(2)
    effective = (-(p * p.clamp(min=1e-12).log()).sum(2)).exp()
    print(f"scale {s}: {effective.mean():6.1f} of {x.shape[2]} cells")

# %% [markdown]
# **Equal maps.** Channels that a ReLU has silenced have one and the same trilinear map; a random choice would fall on it again and again. The official implementation counts maps of equal total once. But it makes its mask in
# the order of the *sorted* totals and, for the structure map, applies it to the unsorted channels:

# %% tags=["output"]
twins = torch.tensor([3.0, 1.0, 2.0, 1.0, 1.0]).view(1, 5, 1, 1)
ordered = twins.flatten().sort().values
mask_in_sorted_order = torch.cat([torch.tensor([True]), ordered[1:] != ordered[:-1]])
print("totals:            ", twins.flatten().tolist())
print("released mask keeps", twins.flatten()[mask_in_sorted_order].tolist())
print("library keeps      ", twins.flatten()[unique_maps(twins)[0]].tolist())

# %% [markdown]
# **The edges.** The released operator drops the first bin of the sum and reads it at $k / w'$ rather than $k / (w' - 1)$, so the far edge of the image is never reached. With a uniform map:

# %% tags=["output"]
size = 8
ours = sampling_positions(torch.ones(1, 16), size)[0]
print("library:          ", [round(v, 3) for v in ours.tolist()])
print("read at k / size: ", [round(k / size, 3) for k in range(size)])

# %% [markdown]
# **Corners.** The port calls `grid_sample` without `align_corners`. That meant *aligned* when it was written, and means *not aligned* since torch 1.3: the same positions now reach
# half a pixel past the border, where zeros are mixed in.

# %% tags=["output"]
line = torch.arange(4.0).expand(1, 1, 4, 4)
ends = torch.tensor([-1.0, 1.0])
corner_grid = torch.stack(torch.meshgrid(ends, ends, indexing="xy"), 2)[None]
for aligned in (True, False):
    print(
        f"align_corners={aligned!s:<5}: a row 0 1 2 3 read at its two ends is",
        F.grid_sample(line, corner_grid, align_corners=aligned)[0, 0, 0].tolist(),
    )

# %% [markdown]
# **The teacher learns too.** Nothing in the official implementation stops the gradient into the part net's softened answers, so the part net is also trained to say what the master will.

# %% tags=["output"]
part_logits = teacher.clone().requires_grad_()
for detached in (True, False):
    loss = distillation_loss(student, part_logits, detach_teacher=detached)
    (into,) = torch.autograd.grad(loss, part_logits, allow_unused=True)
    print(
        f"detach_teacher={detached!s:<5}: gradient into the teacher {0.0 if into is None else float(into.norm()):.5f}"
    )

# %% [markdown]
# What the differences are worth, one at a time and all together:

# %% tags=["experiment"]
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
    seeds=seeds[:2],
)

# %% tags=["table"]
show_table(
    summarize(by_variant, ACCURACY | MAGNIFICATION, "variant"),
    foot=study.foot(by_variant),
)

# %% [markdown]
# ## Exercises
#
# 1. **Sum instead of maximum.** Give a map one row of ones and one cell of 3 elsewhere. Compute both marginals along y with maxima and with sums. Which part wins?
#
# ```{dropdown} Solution
# With maxima the row has 1 and the cell's row has 3: the cell wins three to one. With sums the row has $w$ and the cell's row 3: for $w > 3$ the row wins. Sums reward extent, maxima reward strength.
# ```
#
# 2. **A ghost's price.** A map is 1 on two diagonal cells of an $N \times N$ grid and ε elsewhere. What are the magnifications at a meant cell, at a ghost, and elsewhere, for ε → 0?
#
# ```{dropdown} Solution
# Both marginals are 1 at two places and ε elsewhere, so with mean $(2 + (N-2)\varepsilon)/N$ each of the two columns has magnification → $N/2$. In area the two meant cells and the two ghosts all have $N^2/4$,
# everything else goes to 0. Half of the output shows ghosts.
# ```
#
# 3. **Trilinear on one channel.** What is $M(X)$ for $c = 1$, with and without the normalizations? What does that say about where the strength of the product comes from?
#
# ```{dropdown} Solution
# Without: $(x^\top x)\,x$, the same map, scaled. With both: the relation is a softmax over a single number, 1, so $M = X$. One channel cannot be improved: all comes from agreement between channels.
# ```
#
# 4. **λ and T.** You double T. By how much must λ change for the gradient into the master to stay about the same? When is the answer wrong?
#
# ```{dropdown} Solution
# By 4, from $1/T^2$. It holds where logits are small against T, so that $q$ is linear in $z/T$. For logits far above T the probabilities are saturated and the gradient falls more slowly than $1/T^2$.
# ```
#
# 5. **Limit and mean.** An axis of 16 cells has marginal 1 in one cell and 0 elsewhere, and the limit is 4. What magnification do the others get after the clipped mass is handed to all cells alike?
#
# ```{dropdown} Solution
# The clipped cell keeps 4 of the 16 units, the other 15 share 12: 0.8 each. `axis_magnification` says so above.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
