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
# # AP-CNN
#
# *The paper:* {footcite:t}`ding2021apcnn`. AP-CNN asks every level of a feature pyramid where to look, puts boxes
# there, and runs the upper layers a second time on a fine feature map, cropped to the boxes and enlarged.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
backbone = "small"
pretrained = False
epochs = 60
live_epochs = 30  # of the network that the page trains and looks inside
batch_size = 32
lr = 0.006  # eight cross-entropies are summed, and at larger rates the masks saturate
plain_lr = 0.1  # of the network without a pyramid, which has one
max_steps = None
seeds = [0, 1, 2]
seeds_of = {}  # row of components or gates: its seeds, where it has others
device = None  # the best there is
train = "missing"  # "all" measures everything again, "never" shows what there is
channels = 32  # of the pyramid
gate_reduction = 4
momentum = 0.1  # of the BatchNorms in the pyramid's top
hidden = 128  # width of the heads
border = 0.125  # fraction of a mask that is struck out at each side
levels = [1, 2, 3]  # how many, from the last stage down
drop_rates = [[0.3, 0.3, 0.0], [0.3, 0.4, 0.0], [0.5, 0.5, 0.0], [0.3, 0.3, 0.4]]
borders = [0.0, 0.1, 0.125, 0.2]
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "hide-input"]
import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import resnet
from fgvc_lib.data import load
from fgvc_lib.layers.attention_pyramid import SpatialGate
from fgvc_lib.layers.head import bn_elu_head
from fgvc_lib.layers.roi_drop import roi_drop
from fgvc_lib.layers.roi_pyramid import ROIPyramid, roi_boxes
from fgvc_lib.layers.roi_zoom import roi_zoom, union_box
from fgvc_lib.methods.ap_cnn import APCNN
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.train import build
from fgvc_study import Study, benchmarks, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.estimate import Shape, step
from fgvc_study.figures import COLORS, forest, forests, show, show_table, style
from fgvc_study.findings import difference, effects_over, level, tell
from fgvc_study.metrics.parts import box_area, box_recall
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize
from matplotlib.patches import Rectangle
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torchvision.ops import nms

study = Study("07_ap_cnn", seeds=seeds, device=device, train=train)
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


def ap_cnn(**arguments):
    """AP-CNN on the common backbone, with some of its arguments changed."""
    pyramid = {
        "channels": channels,
        "gate_reduction": gate_reduction,
        "momentum": momentum,
    }
    own = {"pyramid": pyramid, "boxes": {"border": border}, "hidden": hidden}
    return vary(vary(base, method="ap_cnn", method_args=own), method_args=arguments)


METRICS = ["stages", "roi_parts"]
plain = vary(
    base,
    method="baseline",
    lr=plain_lr,
    method_args={"head": "bn_elu", "hidden": hidden},
)
style()

# %% tags=["experiment", "hide-input"]
PLAIN, UNTRAINED = "plain, the same head", "two stages, not trained"
by_component = study.run(
    "components",
    {
        PLAIN: plain,
        "one stage": ap_cnn(stages=1),
        "two stages, drop only": ap_cnn(zoom=None),
        "two stages, zoom only": ap_cnn(drop=None),
        "two stages": ap_cnn(),
        UNTRAINED: vary(ap_cnn(), lr=0.0, epochs=2),
    },
    metrics=METRICS,
    seeds=seeds_of,
)

# %% tags=["figure", "hide-input"]
LEVELS = ("level3", "level4", "level5")
LEVEL_COLOR = dict(zip(LEVELS, (COLORS[1], COLORS[5], COLORS[2]), strict=True))
birds = load(dataset, **base.data_args)
SIDE = birds.image_size
truth = torch.from_numpy(birds.test.parts["boxes"])  # (N, 6, 4), x1 y1 x2 y2
decides = torch.from_numpy(birds.test.parts["discriminative"])  # (N,)
part_box = truth[torch.arange(len(truth)), decides]  # (N, 4)


def picture(ax, pixels):
    """An image (3, H, W) of bytes, its pixel grid from 0 to its side."""
    height, width = pixels.shape[1:]
    ax.imshow(pixels.transpose(1, 2, 0), extent=(0, width, height, 0))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def heatmap(ax, values, border=0.0):
    """A map (h, w) over the image, dark to bright over its range inside the border."""
    cut = int(border * len(values))
    inner = values[cut : len(values) - cut, cut : len(values) - cut]
    low, high = float(inner.min()), float(inner.max())
    ax.imshow(values, extent=(0, SIDE, SIDE, 0), cmap="gray", vmin=low, vmax=high)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def outline(ax, box, **line):
    """A box x1 y1 x2 y2 in pixels; one of NaN is not there."""
    x1, y1, x2, y2 = (float(v) for v in box)
    if x1 == x1:
        style = {"lw": 1.6} | line
        ax.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, **style))


def zoomed_picture(i, box):
    """Image i of the test set, cropped to a box (4,) and enlarged, as bytes."""
    pixels = torch.from_numpy(birds.test.images[[i]]).float()
    return roi_zoom(pixels, box[None], (SIDE, SIDE))[0].round().byte().numpy()


bird = int((decides == birds.part_names.index("eye")).nonzero()[0])
mask = torch.from_numpy(birds.test.parts["masks"][bird]).any(0).float()[None, None]
eye = torch.from_numpy(birds.test.parts["masks"][bird, decides[bird]]).float()
wanted = []  # masks as they should be: high on parts, highest on the discriminative one
for stride in (2, 4, 8):
    both = F.avg_pool2d(mask, stride) + 2 * F.avg_pool2d(eye[None, None], stride)
    wanted.append(F.avg_pool2d(F.pad(both, (1, 1, 1, 1)), 3, 1) + 0.01)
pyramid_of = ROIPyramid(border=border)
ideal = pyramid_of(wanted, (SIDE, SIDE))
union = union_box(torch.cat(ideal, 1), (SIDE, SIDE))[0]
figure, axes = plt.subplots(1, 5, figsize=(8.6, 2.2))
picture(axes[0], birds.test.images[bird])
outline(axes[0], part_box[bird], color="black", lw=2)
axes[0].set_title("image")
for ax, name, values, boxes in zip(axes[1:4], LEVELS, wanted, ideal, strict=True):
    heatmap(ax, values[0, 0])
    for box in boxes[0]:
        outline(ax, box, color=LEVEL_COLOR[name])
        outline(axes[0], box, color=LEVEL_COLOR[name], lw=1.2)
    ax.set_title(f"level {name[-1]}")
outline(axes[0], union, color="white", ls="--")
picture(axes[4], zoomed_picture(bird, union))
axes[4].set_title("second look")
show(
    figure,
    name="fig-ap-idea",
    caption="The idea. Masks of three levels say where to look, boxes of three sizes "
    "are put on their peaks, and a second look goes to the union of all boxes (white, "
    f"dashed), here {100 * box_area(union[None, None], (SIDE, SIDE)).item():.0f} % of "
    "the image. The masks are drawn from the known parts, the discriminative one (the "
    f"{birds.part_names[decides[bird]]}, black box) brightest; AP-CNN has to learn "
    "them.",
    alt="A bird with small, medium and large boxes and a dashed box around all; three"
    " masks of growing coarseness with their boxes; and the bird inside the "
    "dashed box, enlarged.",
)

# %% tags=["hide-input"]
tell(
    "**Main finding.** On the generated birds AP-CNN reaches {two} with two stages "
    "and {one} when it is trained with one: two stages are {d.word} one ({d}). The "
    "plain network with the same head reaches {plain}; two stages are {e.word} it "
    "({e}).",
    two=level(by_component, "two stages"),
    one=level(by_component, "one stage"),
    plain=level(by_component, PLAIN),
    d=difference(by_component, "two stages", "one stage"),
    e=difference(by_component, "two stages", PLAIN),
)

# %% tags=["hide-input"]
tell(
    "The generated birds are drawn at {side} pixels by code, in {classes} classes, "
    "and we know where each of their {parts} parts is. All networks of this chapter "
    "train from scratch on them. AP-CNN and the plain network need different learning "
    "rates, {ours:g} and {theirs:g}, so a difference between the two compares whole "
    "recipes.",
    side=SIDE,
    classes=len(birds.classes),
    parts=len(birds.part_names),
    ours=base.lr,
    theirs=plain.lr,
)

# %% [markdown]
# ## The top of a network has lost where things are

# %% tags=["hide-input"]
network = resnet("small", width=16)
area = (part_box[:, 2:] - part_box[:, :2]).prod(1).float()  # (N,) pixels
strides = list(network.strides.values())
covered = [(area / s**2).median().item() for s in strides]
assert covered[0] > covered[1] > covered[2]
tell(
    "A network's last stage encodes what is in the image and has lost where. In the "
    "small ResNet of this book a spatial position of the last stage is {s} pixels "
    "wide, and the box of the discriminative part covers {c:.1f} of them (median over"
    " the test birds), mixed with what surrounds it. Two stages earlier it covers "
    "{a:.0f}, but a channel there cannot tell the ring around an eye from a berry.",
    s=strides[-1],
    c=covered[2],
    a=covered[0],
)

# %% [markdown]
# AP-CNN combines the two. A **feature pyramid** brings what the top knows down to the fine maps. An **attention pyramid** asks
# every level where to look. An **ROI pyramid** (regions of interest) turns the answers into boxes. And a **second stage** sees the fine map again, cropped to the boxes.
# The levels carry the paper's numbers: level 5 is the last stage of any backbone, 4 the one below, and 3 the next.

# %% tags=["figure", "hide-input"]
sheet = Diagram(8.6, 4.5)
image = sheet.box("image", at=(0.6, 3.9), size=(0.8, 0.42))
ends = {}
for row, (name, shape) in enumerate(
    (("3", "(B, C₃, h, w)"), ("4", "(B, C₄, h/2, w/2)"), ("5", "(B, C₅, h/4, w/4)"))
):
    y, color = 3.35 - 1.05 * row, list(LEVEL_COLOR.values())[row]
    side = (0.62, 0.48, 0.34)[row]
    b = sheet.stack("", at=(1.6, y), size=(side, side))
    f = sheet.stack("", at=(3.55, y), size=(side, side), color=color)
    sheet.note(f"$B_{name}$", at=(1.6, y))
    sheet.note(f"$F_{name}$", at=(3.55, y))
    gate = sheet.box("gates", at=(4.75, y), size=(0.65, 0.4), color=color)
    head = sheet.box(f"head {name}: CE", at=(6.15, y), size=(1.1, 0.4), color=color)
    sheet.arrow(b, f)
    sheet.note(shape, at=(2.7, y + 0.12))
    sheet.arrow(f, gate)
    sheet.arrow(gate, head)
    sheet.note("$F'$" + f"$_{name}$", at=(5.32, y + 0.13))
    ends[name] = b, f, gate
sheet.arrow(image, ends["3"][0])
for low, high in (("3", "4"), ("4", "5")):
    sheet.arrow(ends[low][0], ends[high][0])
    sheet.arrow(ends[high][1], ends[low][1])
    sheet.arrow(ends[low][2], ends[high][2], dashed=True)
concat = sheet.box("head of all: CE", at=(6.15, 0.45), size=(1.2, 0.4))
sheet.arrow(ends["5"][1], concat, bend=0.15)
sheet.note("$[F_3, F_4, F_5]$, pooled", at=(4.55, 0.35))
rois = sheet.box("boxes", at=(7.75, 3.35), size=(0.8, 0.4))
refine = sheet.box("drop, zoom", at=(7.75, 2.1), size=(1.0, 0.4))
second = sheet.box("all again\nfrom $B_3$ on", at=(7.75, 0.95), size=(1.1, 0.55))
sheet.arrow(ends["3"][2], rois, "", bend=-0.35, dashed=True, color=COLORS[1])
sheet.note("masks $A^s_3, A^s_4, A^s_5$", at=(6.2, 4.15), color=COLORS[1])
sheet.arrow(rois, refine)
sheet.note("(B, 9, 4)", at=(8.15, 2.75))
sheet.arrow(refine, second)
sheet.note("(B, C₃, h, w)", at=(8.15, 1.55))
show(
    sheet.figure,
    drawing=True,
    name="fig-ap-architecture",
    caption="AP-CNN. The pyramid passes what the top knows down (arrows upward), and "
    "the pathway passes the channel gates up (dashed). The masks of all "
    "levels give nine boxes, without a gradient; the fine map $B_3$, cropped "
    "to their union, goes through the same weights a second time.",
    alt="A diagram: an image passes three stages B3, B4, B5; each feeds a pyramid "
    "level F3, F4, F5 with gates and a head; a fourth head reads all levels. "
    "Masks lead to boxes, to drop and zoom, and to a second pass.",
)

# %% [markdown]
# ## From a feature pyramid to an attention pyramid
#
# Let $B_k \in \mathbb R^{C_k \times h_k \times w_k}$ be the backbone's output at level $k$. A **feature pyramid** {footcite:p}`lin2017feature` walks back from the top. Each level is its own stage, projected by a $1 \times 1$
# convolution $W_k$ to a common number $C$ of channels, plus the level above, enlarged to its size:
#
# $$
# P_k = W_k B_k + \mathrm{up}(P_{k+1}), \qquad F_k = \mathrm{conv}_{3 \times 3}(P_k) \in \mathbb R^{C \times h_k \times w_k} .
# $$ (eq-ap-pyramid)
#
# Now the fine maps have heard from the top. AP-CNN adds two gates to every level. The **spatial gate** $A^s_k \in (0, 1)^{h_k \times w_k}$ is one number for each position, from a
# $3 \times 3$ transposed convolution with kernel $v_k$. The **channel gate** $A^c_k \in (0, 1)^C$ is one for each channel, as in squeeze-and-excitation {footcite:p}`hu2018squeeze`, where $\mathrm{GAP}$ is the
# average over all positions:
#
# $$
# A^s_k = \sigma(v_k * F_k), \qquad A^c_k = \sigma\big(W_{k,2}\,\mathrm{ReLU}(W_{k,1}\,\mathrm{GAP}(F_k))\big) .
# $$ (eq-ap-gates)
#
# The spatial gate says *where*, the channel gate says *what*. A **bottom-up pathway** hands the channel gates of the fine levels up, as a running average, and both gates act
# on the level:
#
# $$
# \tilde A^c_3 = A^c_3, \qquad \tilde A^c_k = \tfrac12\big(A^c_k + \tilde A^c_{k-1}\big), \qquad
# F'_k = A^s_k \odot F_k + \tilde A^c_k \odot F_k .
# $$ (eq-ap-attend)
#
# So the top level's gate is a half its own, a quarter level 4's and a quarter level 3's. Each level gets a classifier on its pooled $F'_k$, and a fourth reads the pooled, *ungated* $F_k$ side by side. Four cross-entropies train; the mean of
# the four logits is the prediction of **stage one**.
#
# ## The ROI pyramid puts boxes on the peaks of the masks
#
# No part is labeled. The spatial masks multiply features that classify, so one may hope that they are high where the image tells classes apart. AP-CNN puts boxes there, as a
# detector's region proposals are, with the mask as the score. For each level:
#
# 1. one square **anchor** for each position, of side $s_k$ = 1/7, 2/7, 4/7 of the image for levels 3, 4, 5, scored by the mask;
# 2. positions at the **border** score zero;
# 3. scores above the **mean** stay;
# 4. **non-maximum suppression**: take the best, strike out all that overlap it (intersection over union above 0.05), and again;
# 5. the best 5, 3 and 1 are the level's boxes.
#
# In code, for one mask, with boxes as fractions of the image:


# %% tags=["output"]
def boxes_of(mask, side, top_k, border):  # (h, h) → at most (top_k, 4): x1 y1 x2 y2
    h, cut = len(mask), int(border * len(mask) + 1e-6)
    scores = torch.zeros_like(mask)
    scores[cut : h - cut, cut : h - cut] = mask[cut : h - cut, cut : h - cut]
    middle = (torch.arange(h).to(mask) + 0.5) / h
    y, x = torch.meshgrid(middle, middle, indexing="ij")  # (h, h) each
    half = torch.tensor([-side, -side, side, side]).to(mask) / 2
    anchors = (torch.stack([x, y, x, y], 2) + half).clamp(0, 1).flatten(0, 1)
    on = scores.flatten() > scores.mean() * (1 + 1e-6)  # (h²,)
    best = nms(anchors[on], scores.flatten()[on], 0.05)[:top_k]
    return anchors[on][best]


toy = torch.ones(6, 6)
toy[0, 0], toy[1, 2], toy[2, 2], toy[2, 1], toy[3, 4] = 9.0, 8.0, 7.0, 2.0, 5.0
by_hand = boxes_of(toy, 1 / 3, 3, border=0.2)
print((60 * by_hand).round().tolist())  # of an image of 60 pixels
library = roi_boxes(toy[None, None], (60, 60), size=1 / 3, top_k=3, border=0.2)
torch.testing.assert_close(library[0], 60 * by_hand)  # the library agrees

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 3, figsize=(8.6, 3))
inner = torch.zeros_like(toy)
inner[1:-1, 1:-1] = 1
panels = {
    "mask": toy,
    "border zeroed": toy * inner,
    "above the mean, and boxes": (toy * inner > (toy * inner).mean()).float(),
}
for ax, (title, values) in zip(axes, panels.items(), strict=True):
    dark = float(values.max()) * 2.5
    ax.imshow(values, extent=(0, 60, 60, 0), cmap="Greys", vmin=0, vmax=dark)
    for i in range(6):
        for j in range(6):
            ax.text(
                10 * j + 5, 10 * i + 5, f"{values[i, j]:g}", ha="center", va="center"
            )
    ax.set(title=title, xticks=range(0, 61, 20), yticks=range(0, 61, 20))
for rank, box in enumerate(60 * by_hand, start=1):
    outline(axes[2], box, color=COLORS[1], lw=2)
    x, y = float(box[0]) + 1, float(box[1]) + 1
    axes[2].text(x, y, rank, color=COLORS[1], weight="bold", va="top")
show(
    figure,
    name="fig-ap-nms",
    caption="From a mask to boxes. The 9 in the corner is the largest score and lies "
    "in the border, so it does not count. The box of the 8 strikes out the 7 "
    "and the 2. The third box is of a score of 1, the lowest there is: the "
    "border's zeros pull the mean below it.",
    alt="Three six by six grids of numbers: the mask, the mask with a zeroed border, "
    "and the positions above the mean with three numbered square boxes.",
)

# %% [markdown]
# That the border's zeros count in the mean is the official implementation's choice; `mean_with_border=False` leaves two boxes here. The library has no loop over images: it takes the best box of every image and strikes out its
# neighbors, `top_k` times, with the same result.
#
# ## The second stage drops one box and zooms into all
#
# **Zoom.** Let $U$ be the smallest box around *all* boxes of all levels. The low-level map $B_3$ is cropped to $U$ and resized bilinearly back to its own size. In a row of $w$ positions, with $U$ from $x_1$ to $x_2$ (in positions),
# column $j$ of the result is read at
#
# $$
# x_1 + \big(j + \tfrac12\big)\,\frac{x_2 - x_1}{w} - \tfrac12 .
# $$ (eq-ap-zoom)
#
# Cropping the feature rather than the image saves the lower stages of the second pass.
#
# **Drop.** A network that has found one telling part may stop looking. So in training one of the boxes, $D$, is hidden before the zoom: a DropBlock {footcite:p}`ghiasi2018dropblock` whose block is not random but what was
# attended to. With $1_D$ the map that is 1 inside $D$ and 0 elsewhere, and $|\cdot|$ a number of positions,
#
# $$
# B_3' = \frac{|U|}{|U \setminus D|}\; B_3 \odot (1 - 1_D) .
# $$ (eq-ap-drop)
#
# The factor keeps the expected sum over $U$. A level is drawn first, 3 and 4 with probability 0.3 each and none with 0.4, and then one of its boxes. Both in code, for one image:


# %% tags=["output"]
def drop(b, dropped, union):  # (C, h, h), boxes as fractions of the image
    middle = (torch.arange(b.shape[1]) + 0.5) / b.shape[1]

    def inside(box):  # (h, h): the positions whose center is in the box
        x, y = ((middle >= low) & (middle < high) for low, high in box.view(2, 2).T)
        return y[:, None] & x

    seen, hidden = inside(union), inside(dropped)
    kept = (seen & ~hidden).sum()
    if kept < 0.1 * seen.sum():  # a guard: nearly nothing would be left
        return b
    return b * ~hidden * (seen.sum() / kept)


def union_of(boxes):  # one (n, 4) for each level
    every = torch.cat(boxes)
    return torch.cat([every[:, :2].amin(0), every[:, 2:].amax(0)])  # (4,)


def zoom(b, union):  # (C, h, h)
    x1, y1, x2, y2 = union.tolist()
    crop = torch.tensor([[[x2 - x1, 0, x1 + x2 - 1], [0, y2 - y1, y1 + y2 - 1]]]).to(b)
    grid = F.affine_grid(crop, (1, *b.shape), align_corners=False)  # (1, h, h, 2)
    return F.grid_sample(b[None], grid, padding_mode="border", align_corners=False)[0]


row = torch.arange(8.0).expand(1, 8, 8)
window, hole = torch.tensor([2.0, 0, 6, 4]) / 8, torch.tensor([3.0, 1, 5, 3]) / 8
print("zoomed: ", zoom(row, window)[0, 0].tolist())
print("dropped:", [round(v, 2) for v in drop(row, hole, window)[0, 1].tolist()])
boxes = 8 * window[None], 8 * hole[None]
torch.testing.assert_close(zoom(row, window), roi_zoom(row[None], boxes[0], (8, 8))[0])
torch.testing.assert_close(
    drop(row, hole, window), roi_drop(row[None], boxes[1], boxes[0], (8, 8))[0]
)

# %% [markdown]
# **Stage two** is the same network from $B_3$ on, with the *same weights*. The loss is the sum of eight cross-entropies, and the prediction the mean over both stages. With $z^s_k \in \mathbb R^K$ the logits of head $k$ in stage $s$ for $K$ classes,
#
# $$
# \begin{aligned}
# L &= \sum_{s=1}^{2} \Big( L^s_{\text{concat}} + \sum_{k=3}^{5} L^s_k \Big), \\
# z &= \tfrac12 \big( \bar z^1 + \bar z^2 \big), \qquad \bar z^s = \tfrac14 \Big( z^s_{\text{concat}} + \sum_{k=3}^5 z^s_k \Big) .
# \end{aligned}
# $$ (eq-ap-loss)
#
# No gradient passes the positions of the boxes. The masks learn because they multiply features in {eq}`eq-ap-attend`; that boxes then lie well is a by-product.
#
# ## From scratch, complete
#
# With `boxes_of`, `drop`, `union_of` and `zoom` from above, this is all of AP-CNN. As in the official implementation, the top of the pyramid adds a pooled branch: one vector for each image, added at every position.


# %%
def three(make):
    return nn.ModuleList(make() for _ in range(3))


def projection(c5, c):
    norm = nn.BatchNorm2d(c, momentum=0.1)
    return nn.Sequential(nn.Conv2d(c5, c, 1, bias=False), norm, nn.ReLU())


def channel_gate(c, r):
    squeeze, excite = nn.Conv2d(c, c // r, 1), nn.Conv2d(c // r, c, 1)
    return nn.Sequential(squeeze, nn.ReLU(), excite, nn.Sigmoid())


class APCNNFromScratch(nn.Module):
    def __init__(self, backbone, classes, c=32, r=4, hidden=128, border=0.125):
        super().__init__()
        c3, c4, c5 = backbone.channels.values()
        self.backbone, self.border, self.draw = backbone, border, torch.Generator()
        self.lateral = nn.ModuleList([nn.Conv2d(c3, c, 1), nn.Conv2d(c4, c, 1)])
        self.top, self.pooled = projection(c5, c), projection(c5, c)
        self.smooth = three(lambda: nn.Conv2d(c, c, 3, padding=1))
        self.where = three(lambda: nn.ConvTranspose2d(c, 1, 3, padding=1))
        self.what = three(lambda: channel_gate(c, r))
        heads = (bn_elu_head(n, classes, hidden=hidden) for n in (c, c, c, 3 * c))
        self.heads = nn.ModuleList(heads)  # BN → FC → BN → ELU → FC, each

    def stage(self, b3, b4, b5):
        p5 = self.top(b5) + self.pooled(b5.mean((2, 3), True))  # (B, C, h/4, w/4)
        p4 = self.lateral[1](b4) + F.interpolate(p5, scale_factor=2)  # (B, C, h/2, w/2)
        p3 = self.lateral[0](b3) + F.interpolate(p4, scale_factor=2)  # (B, C, h, w)
        f = [self.smooth[k](p) for k, p in enumerate((p3, p4, p5))]
        masks = [self.where[k](f[k]).sigmoid() for k in range(3)]  # (B, 1, h, w), …
        a = [self.what[k](f[k].mean((2, 3), True)) for k in range(3)]  # (B, C, 1, 1)
        a = [a[0], (a[1] + a[0]) / 2, a[2] / 2 + a[1] / 4 + a[0] / 4]  # the pathway
        pooled = [((masks[k] + a[k]) * f[k]).mean((2, 3)) for k in range(3)]  # (B, C)
        pooled.append(torch.cat([x.mean((2, 3)) for x in f], 1))  # (B, 3C)
        return [self.heads[k](x) for k, x in enumerate(pooled)], masks  # four (B, K)

    def refine(self, b, masks, u, v):  # of one image: (C, h, w), and two random numbers
        sizes = ((1 / 7, 5), (2 / 7, 3), (4 / 7, 1))
        boxes = [boxes_of(masks[k], *sizes[k], self.border) for k in range(3)]
        level = boxes[int(u >= 0.3)]  # 3 or 4
        if u < 0.6:
            b = drop(b, level[int(v * len(level))], union_of(boxes))
        return zoom(b, union_of(boxes))  # (C, h, w)

    def forward(self, images, labels):
        b3, b4, b5 = self.backbone(images).values()
        first, masks = self.stage(b3, b4, b5)
        draws = torch.rand(2, len(images), generator=self.draw).T  # (B, 2)
        seen = [[m[i, 0].detach() for m in masks] for i in range(len(images))]
        low = [self.refine(b, seen[i], *draws[i]) for i, b in enumerate(b3)]
        low = torch.stack(low)  # (B, C₃, h, w), the second stage's B_3
        second, _ = self.stage(low, *self.backbone.resume("layer1", low).values())
        return [F.cross_entropy(z, labels) for z in first + second]


# %% [markdown]
# The library's {py:class}`~fgvc_lib.methods.ap_cnn.APCNN` gets the same initial weights, the same random numbers and the same batches. Both compute in double precision, because a rounding error can flip the choice of a box. One plain loop trains either:

# %%
torch.manual_seed(0)
library = APCNN(
    resnet("small", width=8),
    len(birds.classes),
    pyramid={"channels": 32, "gate_reduction": 4, "momentum": 0.1},
    boxes={"border": 0.125},
    hidden=128,
)
scratch = APCNNFromScratch(resnet("small", width=8), len(birds.classes))
vector_to_parameters(parameters_to_vector(library.parameters()), scratch.parameters())
scratch.draw.set_state(library.rank_generator.get_state())
library, scratch = library.double(), scratch.double()  # no box flips
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))


def train_for(steps, model, losses_of):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.006, momentum=0.9)
    order = torch.Generator().manual_seed(0)
    history = []
    for _ in range(steps):
        rows = torch.randint(len(birds.train), (16,), generator=order)
        pixels = torch.from_numpy(birds.train.images[rows.numpy()])  # (16, 3, H, W)
        x = ((pixels / 255 - mean) / std).double()
        losses = losses_of(model, x, birds.train.labels[rows])
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        history.append([loss.item() for loss in losses])
    return torch.tensor(history)  # (steps, 8)


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
# The page has trained an AP-CNN on the birds, to look into, and another for a single epoch. Networks that are to be compared train longer and with several seeds, {ref}`further down <ap-components>`.

# %% tags=["experiment", "hide-input"]
whole = vary(ap_cnn(), epochs=live_epochs)
looked_at = study.live("network", {"two stages": whole}, metrics=METRICS)
young = study.live("moments", {"one epoch": vary(whole, epochs=1)})

# %% tags=["figure", "hide-input"]
method, record = looked_at["two stages"].method, looked_at["two stages"].record
where = next(method.parameters()).device


def normalized(indices):
    """Test images by position, as the network wants them: (B, 3, H, W)."""
    pixels = torch.from_numpy(birds.test.images[list(indices)])
    return ((pixels / 255 - mean) / std).to(where)


with torch.no_grad():
    probe = range(min(240, len(birds.test)))
    looked = {k: v.cpu() for k, v in method.eval()(normalized(probe)).maps.items()}
union_area = box_area(looked["union_box"], (SIDE, SIDE))  # (240,)
shown = []  # the bird of each part whose union is smallest
for part in ("eye", "breast", "wing"):
    mine = (decides[: len(probe)] == birds.part_names.index(part)).nonzero()[:, 0]
    shown.append(int(mine[union_area[mine].argmin()]) if len(mine) else 0)
maps = {k: v[shown] for k, v in looked.items()}
figure, axes = plt.subplots(len(shown), 5, figsize=(8.6, 5.3))
for r, (row, i) in enumerate(zip(axes, shown, strict=True)):
    picture(row[0], birds.test.images[i])
    outline(row[0], part_box[i], color="black", lw=2.4)
    for ax, name in zip(row[1:4], LEVELS, strict=True):
        heatmap(ax, maps[f"mask_{name}"][r, 0], method.rois.border)
        outline(ax, part_box[i], color=COLORS[4], lw=1.6, ls=":")
        for box in maps[f"boxes_{name}"][r]:
            outline(ax, box, color=LEVEL_COLOR[name])
            outline(row[0], box, color=LEVEL_COLOR[name], lw=1.3)
    outline(row[0], maps["union_box"][r, 0], color="white", ls="--")
    picture(row[4], zoomed_picture(i, maps["union_box"][r, 0]))
    row[0].set_ylabel(birds.part_names[decides[i]])
titles = ("image", "mask 3", "mask 4", "mask 5", "union, zoomed")
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
show(
    figure,
    name="fig-ap-boxes",
    caption="Three test birds, named by their discriminative part (black, and dotted "
    "in orange): of each part the bird whose union is smallest. In the image "
    "the boxes of level 3 (vermilion), 4 (sky blue) and 5 (green), and their "
    "union (white, dashed). A mask is drawn from its lowest (black) to its "
    "highest value (white) inside the border. Right: the union of the image; "
    "the network zooms the feature.",
    alt="Three birds in five panels: the image with small, medium and large boxes and"
    " a dashed box around all; three masks with their boxes; and the image inside"
    " the dashed box, enlarged.",
)

# %% tags=["hide-input"]
live = study.live_frame(looked_at)
fraction = union_area.median().item()
tell(
    "After {epochs} epochs this network classifies {all} of the test birds, {one} by "
    "its first stage alone and {two} by its second. The union of its boxes takes "
    "{area:.0f} % of the image (median), so the second look enlarges by only "
    "{times:.2f} along an axis: each of nine boxes can stretch the union to any side.",
    epochs=record.config["epochs"],
    all=level(live, "two stages"),
    one=level(live, "two stages", "stages/stage1"),
    two=level(live, "two stages", "stages/stage2"),
    area=100 * fraction,
    times=fraction**-0.5,
)

# %% [markdown]
# (ap-recall)=
# ### Do the boxes find the discriminative part?
#
# **Recall** is the fraction of test images in which *one* box covers at least half of the discriminative part's box. Birds stand in the middle and large boxes cover much, so some recall comes for nothing. The control asks the same of the
# discriminative part of the *next* image, a bird of another class: only what is above it has been found.

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(6.2, 2.7))
names = [*LEVELS, "all", "union"]
for shift, key, color, label in (
    (-0.2, "recall", COLORS[0], "its own part"),
    (0.2, "recall_elsewhere", COLORS[6], "control"),
):
    keys = [f"roi_parts/{name}/{key}" for name in names]
    heights = 100 * live.reindex(columns=keys).iloc[0]
    ax.bar([k + shift for k in range(5)], heights, 0.38, color=color, label=label)
ax.set_xticks(range(5), ["level 3", "level 4", "level 5", "all boxes", "union"])
ax.set(ylabel="recall, %", ylim=(0, 100))
ax.legend(fontsize=9)
show(
    figure,
    name="fig-ap-recall",
    caption="How often a box of the network trained on this page covers the "
    "discriminative part, and how often the same box would cover the part of "
    "the next image, by level. The small boxes of level 3 cannot cover half "
    "of a large part.",
    alt="A bar chart with two bars for each of level 3, level 4, level 5, all boxes "
    "and their union.",
)


# %% tags=["hide-input"]
def gap(name):
    """Recall minus its control, in points, of the live network; None without it."""
    keys = [f"roi_parts/{name}/{key}" for key in ("recall", "recall_elsewhere")]
    if not set(keys) <= set(live.columns):
        return None
    return f"{100 * (live[keys[0]] - live[keys[1]]).iloc[0]:+.0f}".replace("-", "−")


tell(
    "In this one network all boxes together cover the discriminative part in {all} of"
    " the images and the control in {other}: {gap} points. At levels 3, 4 and 5 the "
    "gap is {g3}, {g4} and {g5} points.",
    all=level(live, "two stages", "roi_parts/all/recall"),
    other=level(live, "two stages", "roi_parts/all/recall_elsewhere"),
    gap=gap("all"),
    g3=gap("level3"),
    g4=gap("level4"),
    g5=gap("level5"),
)

# %% [markdown]
# Nothing in the loss says that a mask must be *high* on the part. Each head begins with BatchNorm, so a mask that is small everywhere and one that is large everywhere predict the same; only differences between positions count. And where a
# feature map is near zero off the bird, a mask may be closed on the bird and open beside it at no loss.
#
# ### The boxes through training

# %% tags=["figure", "hide-input"]
untrained = build(whole, birds).to(where)
for layer in untrained.modules():
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        layer.momentum = 1.0  # one batch is to give all statistics
with torch.no_grad():
    first = range(min(64, len(birds.test)))
    untrained.train()(normalized(first), birds.test.labels[: len(first)].to(where))
moments = {
    "not trained": untrained.eval(),
    "one epoch": young["one epoch"].method.eval(),
    "the end": method,
}
found = {}
figure, axes = plt.subplots(1, 4, figsize=(8.6, 2.4))
picture(axes[0], birds.test.images[shown[0]])
outline(axes[0], part_box[shown[0]], color="black", lw=2.4)
axes[0].set_title("image")
for ax, (moment, network_then) in zip(axes[1:], moments.items(), strict=True):
    with torch.no_grad():
        then = {k: v.cpu() for k, v in network_then(normalized(probe)).maps.items()}
    picture(ax, birds.test.images[shown[0]])
    for name in LEVELS:
        for box in then[f"boxes_{name}"][shown[0]]:
            outline(ax, box, color=LEVEL_COLOR[name], lw=1.4)
    outline(ax, then["union_box"][shown[0], 0], color="white", ls="--")
    ax.set_title(moment)
    every = torch.cat([then[f"boxes_{name}"] for name in LEVELS], 1)
    found[moment] = (
        100 * box_recall(every, part_box[: len(probe)]).nanmean().item(),
        100 * box_area(then["union_box"], (SIDE, SIDE)).median().item(),
    )
show(
    figure,
    name="fig-ap-training",
    caption="The boxes on one bird before training, after one epoch (a run of its "
    "own) and at the end; colors as above. Random convolutions respond to "
    "edges, so even the first boxes are no coin flip.",
    alt="A bird with a black box around its discriminative part, and the same bird "
    "three times with boxes of three sizes and a dashed box around all.",
)

# %% tags=["hide-input"]
tell(
    "The recall of all boxes on {n} test birds is {a[0]:.0f} % before training, "
    "{b[0]:.0f} % after one epoch and {c[0]:.0f} % at the end, with a union of "
    "{a[1]:.0f} %, {b[1]:.0f} % and {c[1]:.0f} % of the image.",
    n=len(probe),
    a=found["not trained"],
    b=found["one epoch"],
    c=found["the end"],
)

# %% [markdown]
# (ap-components)=
# ## What does each component bring?
#
# From here on numbers come from committed records.

# %% tags=["figure", "hide-input"]
others = (PLAIN, "two stages, drop only", "two stages, zoom only", "two stages")
measured = study.beside_photos("components", by_component)
show(
    forests(
        {
            title: effects_over(runs, others, "one stage")
            for title, runs in measured.items()
        },
        "over one stage, points",
    ),
    drawing=True,
    name="fig-ap-components",
    caption="What the second stage brings over the first, whole and with one of its "
    "halves, and the plain network at its own learning rate: differences over"
    " the same seeds with their 95 % intervals.",
    alt="A forest plot with four rows: plain network, two stages with drop only, with"
    " zoom only, and with both.",
)

# %% tags=["hide-input"]
tell(
    "Two stages reach {two} and one stage {one}: two are {d.word} one ({d}). Without "
    "the drop two stages reach {zoom}; dropping is {e.word} not dropping ({e}). "
    "Without the zoom they reach {drop}; zooming is {f.word} not zooming ({f}).",
    two=level(by_component, "two stages"),
    one=level(by_component, "one stage"),
    zoom=level(by_component, "two stages, zoom only"),
    drop=level(by_component, "two stages, drop only"),
    d=difference(by_component, "two stages", "one stage"),
    e=difference(by_component, "two stages", "two stages, zoom only"),
    f=difference(by_component, "two stages", "two stages, drop only"),
)

# %% tags=["table", "hide-input"]
STAGES = {
    "both stages, %": "test_accuracy",
    "stage one, %": "stages/stage1",
    "stage two, %": "stages/stage2",
    "disagree, %": "stages/changed",
}
trained_rows = by_component[by_component["variant"] != UNTRAINED]
show_table(
    summarize(trained_rows, STAGES, "network"),
    foot="Disagree: images for which the two stages of one network differ. "
    + study.foot(trained_rows),
)

# %% [markdown]
# (ap-ablations)=
# ### The gates, the levels, the drop rates and the border
#
# Each panel changes one thing. Without gates, in one stage, the network is a feature pyramid with four heads. Fewer levels mean fewer boxes and fewer heads. Drop rates are the probabilities of levels 3, 4 and 5; the official ResNet-50
# code has 0.3, 0.3, 0, and 0.3, 0.4, 0 is the VGG-19 code's. The border is a fraction of the mask at each side.

# %% tags=["experiment", "hide-input"]
shut, no_pathway = {"spatial_gate": False}, {"pathway": False}
by_gate = study.run(
    "gates",
    {
        "feature pyramid": ap_cnn(stages=1, pyramid=shut | {"channel_gate": False}),
        "spatial gates": ap_cnn(stages=1, pyramid={"channel_gate": False}),
        "channel gates": ap_cnn(stages=1, pyramid=shut | no_pathway),
        "channel gates, pathway": ap_cnn(stages=1, pyramid=shut),
        "both, no pathway": ap_cnn(stages=1, pyramid=no_pathway),
        "both, pathway": ap_cnn(stages=1),
        PLAIN: plain,
    },
    metrics=METRICS,
    seeds=seeds_of,
)
by_levels = study.run(
    "levels",
    {", ".join("345"[-n:]): ap_cnn(pyramid={"levels": n}) for n in levels},
    metrics=METRICS,
)
by_drop = study.run(
    "drop",
    {"none": ap_cnn(drop=None)}
    | {
        ", ".join(f"{r:g}" for r in rates): ap_cnn(drop={"rates": rates})
        for rates in drop_rates
    },
    metrics=METRICS,
    seeds=seeds[:3],
)
by_border = study.run(
    "border",
    {f"{b:g}": ap_cnn(boxes={"border": b}) for b in borders},
    metrics=METRICS,
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(2, 2, figsize=(8.6, 4.6))
most = ", ".join("345"[-levels[-1] :])
for ax, runs, over, title in (
    (axes[0, 0], by_gate, "feature pyramid", "gates, above a feature pyramid"),
    (axes[0, 1], by_levels, most, f"levels, above {most}"),
    (axes[1, 0], by_drop, "none", "drop rates, above none"),
    (axes[1, 1], by_border, f"{borders[0]:g}", f"border, above {borders[0]:g}"),
):
    others = [name for name in dict.fromkeys(runs["variant"]) if name != over]
    forest(ax, effects_over(runs, others, over))
    ax.set_title(title)
for ax in axes[1]:
    ax.set(xlabel="test accuracy, points")
show(
    figure,
    name="fig-ap-ablations",
    caption="Differences in test accuracy over the same seeds, with their 95 % "
    "intervals. The gates are compared in one stage, all others in two.",
    alt="Four forest plots: gates against a feature pyramid, numbers of levels, drop "
    "rates and border widths.",
)

# %% tags=["hide-input"]
tell(
    "The gates do not clearly pay here: a feature pyramid without gates reaches "
    "{pyramid} and the gated one {gated}, which is {d.word} it ({d}); the pathway is "
    "{p.word} none ({p})."
    if (d := difference(by_gate, "both, pathway", "feature pyramid")) and d.low <= 0
    else "A feature pyramid without gates reaches {pyramid} and the gated one {gated}, "
    "which is {d.word} it ({d}); the pathway is {p.word} none ({p}).",
    pyramid=level(by_gate, "feature pyramid"),
    gated=level(by_gate, "both, pathway"),
    d=d,
    p=difference(by_gate, "both, pathway", "both, no pathway"),
)
rates = ", ".join(f"{r:g}" for r in drop_rates[0])
fewer = ", ".join("345"[-levels[-2:][0] :])
tell(
    "Levels {fewer} reach {few} and {most} {all}: fewer are {d.word} more ({d}). A "
    "drop with rates {rates} is {e.word} none ({e}), and a border of {b} is {f.word} "
    "none ({f}).",
    fewer=fewer,
    most=most,
    few=level(by_levels, fewer),
    all=level(by_levels, most),
    d=difference(by_levels, fewer, most),
    rates=rates,
    e=difference(by_drop, rates, "none"),
    b=f"{borders[-1]:g}",
    f=difference(by_border, f"{borders[-1]:g}", f"{borders[0]:g}"),
)

# %% [markdown]
# ### Is it the attention?
#
# The second stage looks again and the loss adds four more terms, whatever the boxes are. Controls take one thing away each: boxes of the same sizes and number at *random* positions, a crop of the union's size at the *center*, and the *mean* of the eight
# cross-entropies in place of their sum, at the same learning rate and at eight times it.

# %% tags=["experiment", "hide-input"]
by_control = study.run(
    "controls",
    {
        "two stages": ap_cnn(),
        "random boxes": ap_cnn(boxes={"random": True}),
        "center crop": ap_cnn(zoom="center"),
        "mean of the losses": ap_cnn(reduction="mean"),
        "mean of the losses, 8 × rate": vary(ap_cnn(reduction="mean"), lr=8 * lr),
    },
    metrics=METRICS,
)

# %% tags=["hide-input"]
for name, what in (
    ("random boxes", "Boxes at random positions"),
    ("center crop", "A center crop"),
    ("mean of the losses, 8 × rate", "The mean of the losses at eight times the rate"),
):
    if (d := difference(by_control, name, "two stages")) is None:
        tell(f"{what}: not measured yet.")
    else:
        tell(
            "{what}: {a}, {d.word} the {b} of the boxes from the masks ({d}).",
            what=what,
            a=level(by_control, name),
            b=level(by_control, "two stages"),
            d=d,
        )

# %% [markdown]
# (ap-cost)=
# ## What the second stage costs
#
# Nothing in weights, since both stages share them. What a training step computes can be counted on tensors that have a shape and no values ({py:func}`fgvc_study.estimate.step`), so the paper's setting needs no GPU to be counted.

# %% tags=["hide-input"]
SETTINGS = {
    "ResNet-50 at 448 px": (
        "50",
        Shape(196, 16, 16, image_size=448),
        256,
        {"channels": 256},
    ),
    "the small ResNet at 64 px": (
        "small",
        Shape(12, 16, 16, image_size=64),
        128,
        {"channels": 32, "gate_reduction": 4},
    ),
}
timings = benchmarks.records("roi_pyramid")[:1]  # of one device
measured = [s for found in timings for s in found["settings"]]
for (title, (depth, shape, width, pyramid)), size in zip(
    SETTINGS.items(), ("resnet 50", "resnet small"), strict=True
):
    with FakeTensorMode():
        alone = Baseline(resnet(depth), shape.classes, head="bn_elu", hidden=width)
        flop = {0: step(alone, shape, 16)[1]}
        for stages in (1, 2):
            staged = APCNN(
                resnet(depth),
                shape.classes,
                hidden=width,
                stages=stages,
                pyramid=pyramid,
            )
            flop[stages] = step(staged, shape, 16)[1]
    timed = [s for s in measured if s["backbone"] == size]
    tell(
        "With {title}, one stage takes {one:.2f} and two stages {two:.2f} times the "
        "operations of the plain network. Measured ({where}), two stages take {time} "
        "times as long; boxes, drop and zoom are {share} % of a step.",
        title=title,
        one=flop[1] / flop[0],
        two=flop[2] / flop[0],
        where=benchmarks.device(timings[0]) if timings else None,
        time=f"{timed[0]['step_over_baseline']['two stages']:.1f}" if timed else None,
        share=f"{100 * timed[0]['roi_stage_share_of_step']['batched']:.0f}"
        if timed
        else None,
    )

# %% [markdown]
# In the paper's setting the pyramid is small compared with ResNet-50; in ours it is the larger part of the network. With `inference_stages=1` a network that was trained in two stages predicts with the first alone.
#
# ## A close relative: WS-DAN
#
# WS-DAN {footcite:p}`hu2019better` has the same two ideas, **attention crop** and **attention drop**, and spends them elsewhere:
#
# | | AP-CNN | WS-DAN |
# | --- | --- | --- |
# | attention | one mask per level of a pyramid | M maps of one level, kept apart by a center loss |
# | region | union of boxes | box around all of one map above a threshold |
# | cropped and dropped | a low-level *feature* | the *image* |
# | second look costs | the upper stages | the whole network, once for each augmented image |
# | in training | drop, then zoom, in one second pass | crop and drop are two augmented images |
#
# The threshold sets the zoom in WS-DAN. In AP-CNN one stray box at a corner is enough to make the union the whole image.
#
# ## On photographs
#
# Published differences beside ours. *birds* are the generated birds from scratch; *photographs* are crops of the first 100 classes of CUB-200-2011 {footcite:p}`wah2011caltech` at 128 pixels, with a pretrained EfficientNet-Lite0. The paper's
# baseline, 84.1 % on CUB, was not trained by its authors: thread 3 of their repository says that it is another paper's.

# %% tags=["table", "hide-input"]
photos = {
    name: study.recorded(name, profile="photos")
    for name in ("components", "gates", "levels", "controls")
}
beside = pd.concat(
    [
        published.effects(
            "07_ap_cnn/components",
            [("two stages", "one stage"), ("two stages", PLAIN)],
            birds=by_component,
            photographs=photos["components"],
        ),
        published.effects(
            "07_ap_cnn/gates",
            [
                ("both, pathway", "both, no pathway"),
                ("both, pathway", "feature pyramid"),
            ],
            birds=by_gate,
            photographs=photos["gates"],
        ),
    ]
)
beside = beside.replace({", the same head": ""}, regex=True)
show_table(
    beside.drop(columns="source"),
    foot=f"Published: {'; '.join(beside['source'].unique())}. Ours in points, with the "
    "95 % interval over seeds.",
)

# %% tags=["hide-input"]
printed = {
    (f.variant, f.source): f.value
    for f in published.figures()
    if f.experiment.startswith("07") and f.dataset == "cub"
}
(bare,) = (v for (name, _), v in printed.items() if name == "feature pyramid")
(alone,) = (v for (name, t), v in printed.items() if name == PLAIN and "VI" in t)
(two,) = (v for (name, t), v in printed.items() if name == "two stages" and "VI" in t)
assert bare - alone > (two - alone) / 2
tell(
    "In the paper the bare feature pyramid has {bare} % on CUB and the plain network "
    "{alone} %: it brings {a:.1f} of the {b:.1f} points that all of AP-CNN brings.",
    bare=bare,
    alone=alone,
    a=bare - alone,
    b=two - alone,
)
if photos["components"]["measured"].any():
    tell(
        "On photographs two stages reach {two} and one stage {one}: two are {d.word} "
        "one ({d}). A second stage with the drop alone is {drop.word} one with both "
        "({drop}), with the zoom alone it is {zoom.word} one with both ({zoom}).",
        two=level(photos["components"], "two stages"),
        one=level(photos["components"], "one stage"),
        d=difference(photos["components"], "two stages", "one stage"),
        drop=difference(photos["components"], "two stages, drop only", "two stages"),
        zoom=difference(photos["components"], "two stages, zoom only", "two stages"),
    )
    tell(
        "Three levels are {l.word} the last alone ({l}), and the gated pyramid with "
        "its pathway is {g.word} the bare one ({g}). Boxes that follow the attention "
        "are {b.word} as many boxes at random ({b}), and the network with them "
        "{c.word} one that zooms into the center ({c}).",
        l=difference(photos["levels"], "3, 4, 5", "5"),
        g=difference(photos["gates"], "both, pathway", "feature pyramid"),
        b=difference(photos["controls"], "two stages", "random boxes"),
        c=difference(photos["controls"], "two stages", "center crop"),
    )
else:
    tell("Ours on photographs has not been measured yet.")

# %% [markdown]
# ## Paper versus official implementation
#
# The authors' repository is `PRIS-CV/AP-CNN_Pytorch-master`. It holds a file for ResNet-50 and one for VGG-19, and they are two algorithms: one averages logits and the other probabilities, one has its fourth head on the pyramid and the other on the last convolution.
#
# **A data set of 200 classes is special.** `num_classes == 200` chooses the border (0.2, else 0.1) and, in the ResNet file, the heads' width (512, else 256). A set of 196 classes silently gets other hyperparameters.
#
# **Boxes that changed three times.** The history has plain suppression, then one that merges boxes, then plain again. The journal's text describes a merging one; the published checkpoints go with the plain. The reported accuracy is the best over the epochs *on the test set*.
#
# **Anchors lie on corners.** The anchor of position $(i, j)$ is centered on $(j, i) \times$ stride, the top left corner of its square. That is where a ResNet's position looks; for VGG it is the center.
#
# **A drop that divides by zero.** If the dropped box is all of the union, the scale of {eq}`eq-ap-drop` is $|U| / 0$. This happens in an image with a single box. The library drops nothing there.
#
# **A mask that starts saturated.** The code ran on torch 0.4.1. Since then torch takes the initial range of a transposed convolution from its *output* channels, here one, and the same line of code starts $\sqrt C$ times larger. The library keeps the old range:

# %% tags=["output"]
torch.manual_seed(0)
features = torch.randn(4, 256, 14, 14).relu()
with torch.no_grad():
    now = nn.ConvTranspose2d(256, 1, 3, padding=1)(features).sigmoid()
    then = SpatialGate(256)(features)
extreme = [((m < 0.01) | (m > 0.99)).float().mean().item() for m in (now, then)]
print(f"below 0.01 or above 0.99: today {extreme[0]:.0%}, torch 0.4.1 {extreme[1]:.0%}")
assert extreme[0] > 10 * extreme[1]

# %% [markdown]
# **`children()[:7]`.** For birds the code trains "the first seven children" at a tenth of the learning rate: the stem and stages 1 to 3 of its ResNet-50. In its VGG-19 the first seven children are every module with a weight, and the full rate trains nothing.
#
# All differences, with their sources and the tests that hold the library to them, are on the page of {doc}`discrepancies </book/discrepancies>`.
#
# ## What we found

# %% tags=["hide-input"]
tell(
    "1. Two stages reach {two} on the generated birds and one stage {one}; two are "
    "{d.word} one ({d}).",
    two=level(by_component, "two stages"),
    one=level(by_component, "one stage"),
    d=difference(by_component, "two stages", "one stage"),
)
tell(
    "2. Of the second stage's halves the zoom is {f.word} no zoom ({f}), and the drop"
    " {e.word} no drop ({e}).",
    e=difference(by_component, "two stages", "two stages, zoom only"),
    f=difference(by_component, "two stages", "two stages, drop only"),
)
tell(
    "3. Both gates with the pathway are {d.word} the bare feature pyramid ({d}), and "
    "the pathway {p.word} none ({p}).",
    d=difference(by_gate, "both, pathway", "feature pyramid"),
    p=difference(by_gate, "both, pathway", "both, no pathway"),
)
tell(
    "4. In the network on this page the union of the boxes takes {area:.0f} % of the "
    "image, a zoom of {times:.2f}, and its boxes cover the discriminative part in "
    "{recall:.0f} % of the images; the boxes of the same network before training do "
    "so in {before:.0f} %.",
    area=100 * fraction,
    times=fraction**-0.5,
    recall=found["the end"][0],
    before=found["not trained"][0],
)
tell(
    "5. The mean of both stages is {m.word} the first alone ({m}) and {n.word} the "
    "second alone ({n}), read from the same networks.",
    m=difference(
        stages := pd.concat(
            by_component[by_component["variant"] == "two stages"].assign(
                variant=key, accuracy=lambda t, key=key: t.get(f"stages/{key}")
            )
            for key in ("logits", "stage1", "stage2")
        ),
        "logits",
        "stage1",
        "accuracy",
    ),
    n=difference(stages, "logits", "stage2", "accuracy"),
)
tell(
    "6. With a pretrained network on CUB-100, two stages are {d.word} the plain "
    "network with the same head ({d}); boxes from attention are {b.word} boxes at "
    "random ({b}), and one level of the pyramid is {l.word} three ({l}).",
    d=difference(photos["components"], "two stages", PLAIN),
    b=difference(photos["controls"], "two stages", "random boxes"),
    l=difference(photos["levels"], "5", "3, 4, 5"),
)

# %% [markdown]
# ## When to use it today
#
# - Try a feature pyramid with a head on every level first: it is the cheapest part of AP-CNN, and more than half of the published gain over the plain network.
# - Where details decide and the input is bounded, a second look at a crop is a sound idea; a vision transformer's own attention gives the crop without masks that have to be learned (TransFG {footcite:p}`he2022transfg`, DINO {footcite:p}`caron2021emerging`).
# - Whatever chooses the boxes, run it against random boxes and a center crop of the same size before you credit the attention {footcite:p}`wei2022fine`.
#
# ## Exercises
#
# 1. **Code: random boxes.** Write a control that keeps sizes and number of an image's boxes and puts each anywhere in the image. How large is the union of 5, 3 and 1 boxes of sides 1/7, 2/7 and 4/7, on average?
#
# ````{dropdown} Solution
# ```python
# side = torch.tensor([1 / 7] * 5 + [2 / 7] * 3 + [4 / 7])  # (9,)
# low = torch.rand(10000, 9, 2) * (1 - side)[:, None]
# high = low + side[:, None]
# union = (high.amax(1) - low.amin(1)).prod(1)
# print(union.mean())
# ```
# About 0.7 of the image. A union that large is nearly no zoom, whoever chose the boxes.
# ````
#
# 2. **Code: regions by a threshold.** Write WS-DAN's region: the box around all positions of a mask above θ of its range. Compare the area for θ = 0.5 and 0.8 on a mask with two peaks.
#
# ````{dropdown} Solution
# ```python
# def region(mask, theta):  # (h, w) → x1 y1 x2 y2, in positions
#     low, high = mask.min(), mask.max()
#     y, x = (mask >= low + theta * (high - low)).nonzero().unbind(1)
#     return x.min(), y.min(), x.max() + 1, y.max() + 1
#
# m = torch.rand(16, 16) * 0.3
# m[3, 3], m[12, 12] = 1.0, 0.7
# print(region(m, 0.5), region(m, 0.8))
# ```
# At 0.5 both peaks count and the region spans them; at 0.8 only the higher one is left, one position. The threshold trades recall for zoom.
# ````
#
# 3. **How small can the union be?** Level 5 gives one box of side 4/7. What is the least area of the union? Why is it rarely that small?
#
# ```{dropdown} Solution
# At least $(4/7)^2 \approx 0.33$, if the box is not cut at the image's edge and all others lie inside it. Suppression keeps the boxes of a level apart, so the five best positions of level 3 are spread over those above the mean, and each stray one
# stretches the union.
# ```
#
# 4. **Where do masks learn?** Suppose the spatial gate did not multiply the features, and served the boxes only. Which of its parameters would change in training?
#
# ```{dropdown} Solution
# Only weight decay would move them, towards zero: no term of the loss would depend on $v$. The mask becomes 1/2 everywhere, nothing is above its mean, and stage two sees the whole map.
# ```
#
# 5. **One BatchNorm, two stages.** In training each pass is normalized by its own batch, in evaluation by running statistics of both. When does that hurt? Propose a change that costs no parameters.
#
# ```{dropdown} Solution
# When the statistics of whole and zoomed maps differ, so that neither is near the mixture: an enlarged bird with little background has other means than the scene. Keep two sets of running statistics, one for each stage, with shared scale and shift. It costs
# buffers and no parameters.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
