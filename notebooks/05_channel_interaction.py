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
# # Channel Interaction Networks
#
# *The paper:* {footcite:t}`gao2020channel`. Channel Interaction Networks (CIN) give every channel the channels that it is *least*
# correlated with, and in training compare **two images** by the relations that only one of them has.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
backbone = "small"
pretrained = False
epochs = 60
live_epochs = 30  # of the networks that the page trains and looks inside
batch_size = 40  # two of P × K
lr = 0.1
max_steps = None
seeds = [0, 1, 2, 3, 4]
seeds_of = {  # the rows of a pair that five seeds leave open
    "B-CNN": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    "B-CNN + SCI + CCI": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
}
device = None  # the best there is
train = "missing"  # "all" measures everything again, "never" shows what there is
embedding = 64  # r, the length of h
scales = ["positions", "none"]  # the factor s is 1/l, or 1
alphas = [0.1, 0.5, 2.0, 8.0]
margins = [0.1, 0.5, 1.0, 2.0]
deeper = {"depth": 18, "width": 16, "small_stem": True, "strides": [1, 2, 2, 1]}
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "experiment", "hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import resnet
from fgvc_lib.data import Loader, load
from fgvc_lib.data.bird_drawing import DRAWS, PLAIN, RED, draw_birds
from fgvc_lib.layers.channel_interaction import (
    ContrastiveChannelInteraction,
    SelfChannelInteraction,
    channel_relation,
    self_channel_interaction,
    suppress,
)
from fgvc_lib.losses.contrastive import contrastive_loss
from fgvc_lib.losses.pairs import disjoint_pairs
from fgvc_lib.methods.cin import CIN
from fgvc_lib.train.model import build
from fgvc_study import Study, benchmarks, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import COLORS, curve, forest, forests, show, show_table, style
from fgvc_study.findings import difference, effects, effects_over, level, lost, tell
from fgvc_study.metrics.channels import channel_parts_of
from fgvc_study.protocol import configuration
from matplotlib.patches import Rectangle
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

study = Study("05_channel_interaction", seeds=seeds, device=device, train=train)
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


def interaction(block="sci", contrast="none", **arguments):
    """The common network with a block behind its last stage, and a contrast."""
    own = {"block": block, "contrast": contrast, "embedding": embedding}
    return vary(base, method="cin", method_args=own | arguments)


VARIANTS = {
    "baseline": interaction("none"),
    "φ alone": interaction("phi"),
    "mean map": interaction("mean"),
    "SE": interaction("se"),
    "non-local": interaction("non_local"),
    "Pos-SCI": interaction("pos_sci"),
    "SCI": interaction(),
    "SCI + Cont": interaction(contrast="features"),
    "SCI + CCI": interaction(contrast="cci"),
}
style()

by_component = study.run(
    "components", VARIANTS, metrics=["complements"], seeds=seeds_of
)

# %% tags=["figure", "hide-input"]
looks = {name: np.array([value]) for name, value in PLAIN.items()}
looks |= {"cap": np.ones(1), "cap_color": np.array([RED]), "bar": np.full(1, 0.06)}
pose = np.random.default_rng(8).random((1, DRAWS), np.float32)
drawn = draw_birds(pose, looks, np.zeros(1, int), size=160)
names = ("crown", "eye", "wing", "tail")
toy = torch.from_numpy(drawn.masks[0, [0, 1, 4, 5]].astype(np.float32))  # (4, 160, 160)
toy = F.avg_pool2d(toy, 20)  # X, one channel for each part, (4, 8, 8)
toy = 1.5 * toy / toy.flatten(1).norm(dim=1).view(-1, 1, 1)
toy_w = channel_relation(toy[None], scale="none")[0]  # (4, 4)
toy_y = torch.einsum("j,jhw->hw", toy_w[0], toy)  # Y of the crown
figure, axes = plt.subplots(2, 3, figsize=(5.6, 4))
panels = [
    ("the channel of the crown", toy[0]),
    ("what it receives, Y", toy_y),
    *(
        (f"{name}, weight {toy_w[0, k]:.2f}", toy[k])
        for k, name in enumerate(names)
        if k
    ),
]
axes.flat[0].imshow(drawn.images[0].transpose(1, 2, 0))
axes.flat[0].set_title("image", fontsize=10)
for ax, (title, values) in zip(axes.flat[1:], panels, strict=True):
    ax.imshow(values, vmin=0)
    ax.set_title(title, fontsize=10)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
show(
    figure,
    name="fig-cin-idea",
    caption="Self-channel interaction on four ideal channels. The crown's channel "
    "takes most from channels that fire elsewhere, so what it receives covers"
    " the rest of the bird.",
    alt="A drawn bird with a red crown, four maps that each cover one of its parts, "
    "with the weights that the crown's channel gives them, and their weighted "
    "sum.",
)

# %% tags=["hide-input"]
tell(
    "**Main finding.** On our generated birds SCI, the block that mixes complementary "
    "channels, is {sci.word} the same network without it ({sci}), and the whole of CIN "
    "is {cin.word} it ({cin}). A control keeps SCI's convolution and drops the "
    "interaction; SCI is {own.word} this control ({own}; mean difference and 95 % "
    "interval over seeds).",
    sci=difference(by_component, "SCI", "baseline"),
    cin=difference(by_component, "SCI + CCI", "baseline"),
    own=difference(by_component, "SCI", "φ alone"),
)

# %% [markdown]
# ## One channel is a hint, two channels are a species
#
# A channel of a trained network often responds to one part of a bird. A red crown is a hint, a white wing bar is another; together
# they name the species. But the average over the map, which the classifier reads, treats each channel alone.
#
# Blocks that let features interact differ in what they relate. Squeeze-and-excitation {footcite:p}`hu2018squeeze` gives each channel a
# factor computed from all averages. A non-local block {footcite:p}`wang2018nonlocal` mixes *positions* that are *alike*. **Self-channel
# interaction** (SCI) mixes *channels* that are *unlike*: likeness finds more of what is there already, unlikeness brings in what is
# missing. **Contrastive channel interaction** (CCI) then compares the mixtures of two images, in training only.

# %% tags=["figure", "hide-input"]
diagram = Diagram(6.9, 3.7)
image = diagram.box("image A", at=(0.5, 3.1), size=(0.8, 0.5))
net = diagram.box("network", at=(1.75, 3.1), size=(0.8, 0.5), color=COLORS[0])
stack = diagram.stack("$X_A$", at=(3.0, 3.05), size=(0.45, 0.45), color=COLORS[0])
relation = diagram.box(
    "$W_A = $ softmax\n$(-s\\,X_A X_A^T)$",
    at=(4.45, 3.1),
    size=(1.25, 0.6),
    color=COLORS[2],
)
mixed = diagram.box(
    "$Z_A = \\varphi(W_A X_A)$\n$+ X_A$",
    at=(6.15, 3.1),
    size=(1.3, 0.6),
    color=COLORS[2],
)
head = diagram.box("average,\nlinear classifier", at=(6.15, 1.9), size=(1.3, 0.55))
other = diagram.box(
    "$W_B$ of\nimage B", at=(1.75, 1.9), size=(0.9, 0.6), color=COLORS[3]
)
both = diagram.box(
    "$W_{AB} =$\n$|W_A - \\eta\\,W_B|$",
    at=(4.45, 1.9),
    size=(1.25, 0.6),
    color=COLORS[3],
)
left = diagram.box(
    "$Z'_A = \\varphi(W_{AB} X_A)$\n$+ X_A$",
    at=(4.45, 0.6),
    size=(1.4, 0.6),
    color=COLORS[3],
)
far = diagram.box(
    "$h$: distance to $Z'_B$,\n$L_{cont}$",
    at=(1.95, 0.6),
    size=(1.4, 0.6),
    color=COLORS[3],
)
diagram.arrow(image, net)
diagram.arrow(net, stack)
diagram.note("$(B, c, h, w)$", at=(3.05, 3.58))
diagram.arrow(stack, relation)
diagram.arrow(relation, mixed)
diagram.note("$(B, c, c)$", at=(4.45, 3.52))
diagram.note("$(B, c, h, w)$", at=(6.15, 3.52))
diagram.arrow(mixed, head)
diagram.arrow(relation, both, dashed=True, color=COLORS[3])
diagram.arrow(other, both, "$(N, c, c)$", dashed=True, color=COLORS[3])
diagram.arrow(both, left, dashed=True, color=COLORS[3])
diagram.arrow(left, far, "$(N, r)$", dashed=True, color=COLORS[3])
show(
    diagram.figure,
    drawing=True,
    name="fig-cin-architecture",
    caption="CIN. Solid: SCI, all that a prediction needs. Dashed: CCI, in training "
    "only, on N pairs of the B images of a batch.",
    alt="An image goes through a network to a map X, whose relation W mixes its "
    "channels to Z for the classifier. Dashed, the relations of two images are "
    "subtracted, and mixtures of both are compared by a distance.",
)

# %% [markdown]
# ## SCI: attention between unlike channels
#
# Write the map of one image as a matrix $X \in \mathbb R^{c \times l}$: a row for each of $c$ channels, a column for each of the
# $l = h \cdot w$ spatial positions. $(XX^\top)_{ij}$ is large where channels $i$ and $j$ fire at the same positions. SCI takes the softmax of its
# **negative**:
#
# $$
# \begin{aligned}
# W_{ij} &= \frac{\exp\big(-s\,(XX^\top)_{ij}\big)}{\sum_{k=1}^{c} \exp\big(-s\,(XX^\top)_{ik}\big)}, \\
# Y &= W X, \qquad Z = \varphi(Y) + X .
# \end{aligned}
# $$ (eq-cin-sci)
#
# Row $i$ of $W \in \mathbb R^{c \times c}$ says how much channel $i$ takes from every channel, and sums to one. $Y$ and $Z$ have the
# shape of $X$; $\varphi$ is a $3 \times 3$ convolution from $c$ to $c$ channels. In the paper the scale $s$ is 1. Three channels at two
# positions:

# %% tags=["output"]
CHANNELS = ("crown", "tail", "both")
X = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])  # (c, l)
relation = X @ X.T
W = torch.exp(-relation)
W = W / W.sum(1, keepdim=True)  # (c, c)
Y = W @ X  # (c, l)
for name, products, weights, y in zip(
    CHANNELS, relation.tolist(), W.tolist(), Y.tolist(), strict=True
):
    rounded = [[round(v, 2) for v in values] for values in (weights, y)]
    print(f"{name:<6} XXᵀ {products}  W {rounded[0]}  Y {rounded[1]}")

image = X.view(1, 3, 1, 2)  # (B, c, h, w)
torch.testing.assert_close(channel_relation(image, scale="none")[0], W)
mixed = self_channel_interaction(image, scale="none")
torch.testing.assert_close(mixed.view(3, 2), Y)  # the library agrees

# %% [markdown]
# *Crown* takes most from *tail*, so its $Y$ is larger at the tail's position. SCI is a non-local block turned by 90 degrees: a channel is a token,
# its map the embedding, keys and values are $X$, and the queries $-X$. So torch's fused attention computes it without holding all
# $2048^2$ entries of $W$ that a ResNet-50 has for each image:

# %% tags=["output"]
attention = F.scaled_dot_product_attention(-X, X, X, scale=1.0)
torch.testing.assert_close(attention, Y)
print("softmax(−XXᵀ) X is attention with query −X, key X and value X")

# %% [markdown]
# ### The scale decides whether SCI chooses or averages
#
# The entries of $XX^\top$ are sums over $l$ positions, and after a ReLU none is negative. So the largest entries of $-XX^\top$ are zeros, and a zero has
# two causes: two channels that fire at *different* positions, the complements that SCI is after, or a channel that is **silent
# everywhere**. The softmax cannot tell the two apart. We draw 512 channels of random numbers, silence 20 of them, and add up what a
# row gives to the silent ones.

# %% tags=["figure", "hide-input"]
sides = (1, 2, 3, 4, 5, 7, 10, 14)
silent = 20
g = torch.Generator().manual_seed(0)
given = {scale: [] for scale in ("none", "positions")}
used = {scale: [] for scale in given}
for side in sides:
    x = torch.randn(1, 512, side, side, generator=g).abs()
    x[:, :silent] = 0
    for scale in given:
        w = channel_relation(x, scale=scale)[
            0, silent:
        ]  # (492, 512): rows of the channels that fire
        given[scale].append(100 * w[:, :silent].sum(1).mean().item())
        used[scale].append(
            100 * torch.exp(-torch.special.xlogy(w, w).sum(1)).mean().item() / 512
        )
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.8))
for ax, values, title in (
    (axes[0], given, "weight on the silent channels, %"),
    (axes[1], used, "channels that a row mixes, %"),
):
    for (scale, label), color, marker in zip(
        {"none": "s = 1, the paper", "positions": "s = 1/l"}.items(),
        COLORS,
        "os",
        strict=False,
    ):
        ax.plot(
            [side**2 for side in sides],
            values[scale],
            marker=marker,
            color=color,
            label=label,
        )
    ax.set(xscale="log", xlabel="positions l", title=title, ylim=(-3, 103))
    ax.set_xticks([1, 4, 16, 49, 196], ["1", "4", "16", "49", "196"])
    ax.minorticks_off()
axes[0].axhline(100 * silent / 512, color="black", lw=0.8, ls=":", label="their number")
axes[0].legend()
show(
    figure,
    drawing=True,
    name="fig-cin-scale",
    caption="512 random channels that all overlap, 20 of them silent. With s = 1 the "
    "silent channels take over as maps grow (left) and a row mixes a handful "
    "(right); with s = 1/l it mixes nearly all.",
    alt="Two curves over the number of positions for the two scales. Unscaled, the "
    "weight on silent channels rises to one hundred percent and the fraction of "
    "channels mixed falls to a few percent; scaled, both stay nearly flat.",
)

# %% tags=["hide-input"]
tell(
    "At 196 positions, the size of a ResNet-50 at 448 pixels, the silent channels get"
    " {none:.0f} % of a row with s = 1 and {mean:.1f} % with s = 1/l; they are "
    "{number:.1f} % of the channels. The price: with s = 1/l a row mixes {used:.0f} %"
    " of all channels, close to a plain mean.",
    none=given["none"][-1],
    mean=given["positions"][-1],
    number=100 * silent / 512,
    used=used["positions"][-1],
)

# %% [markdown]
# `fgvc_lib` divides by $l$ by default, which makes the entries mean products and the block independent of the map's size; `scale="none"` is the
# paper's formula. {ref}`The records <cin-softmax>` say which of the two trains better.
#
# ## CCI: what only one of two images has
#
# Two images $A$ and $B$ have two relations $W_A$ and $W_B$. What both have in common cannot tell them apart. CCI keeps the difference:
#
# $$
# \begin{aligned}
# W_{AB} &= |W_A - \eta\, W_B|, & \eta &= \psi([Y_A, Y_B]), \\
# W_{BA} &= |W_B - \gamma\, W_A|, & \gamma &= \psi([Y_B, Y_A]),
# \end{aligned}
# $$ (eq-cin-cci)
#
# where $\psi$ is one fully connected layer from $2c$ averages to one number. From there it goes on as SCI does: $Z'_A = \varphi(W_{AB} X_A) + X_A$. An
# example with two channels:

# %% tags=["output"]
W_A = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
W_B = torch.tensor([[0.2, 0.8], [0.1, 0.9]])
for eta in (0.0, 0.5, 1.0):
    W_AB = (W_A - eta * W_B).abs()
    library = suppress(torch.stack([W_A, W_B]), torch.tensor([eta, 0.0]).view(2, 1, 1))
    torch.testing.assert_close(library[0], W_AB)
    rounded = [[round(v, 2) for v in row] for row in W_AB.tolist()]
    print(f"η = {eta:.1f}   W_AB = {rounded}")

# %% [markdown]
# With $\eta = 1$ the first row, the same in both images, is gone. The second, in which they differ, stays. The rows of $W_{AB}$ do not sum to one.
#
# Both sides are projected by a linear layer $h$ to $r$ numbers and compared by a **contrastive loss** {footcite:p}`hadsell2006dimensionality` over
# $N$ pairs:
#
# $$
# \begin{aligned}
# L &= L_{CE}(Z) + \alpha L_{cont}, \\
# L_{cont} &= \frac1N \sum_{n} \begin{cases} d_n^2 & \text{same class} \\ \max(0, \beta - d_n)^2 & \text{else,} \end{cases} \\
# d_n &= \lVert h(Z'_A) - h(Z'_B) \rVert_2 .
# \end{aligned}
# $$ (eq-cin-loss)
#
# Pairs of one class are pulled together, all the way. Pairs of two classes are pushed apart until their distance is $\beta$, and then left alone. The
# classifier reads $Z$, never $Z'$, so a prediction needs one image and no CCI.
#
# A batch of random images of 200 classes has almost no pair of one class. So a batch consists of $P$ classes × $K$ images, and the images are
# paired at random, half of the pairs within a class. Pairing the first half of such a batch with the second, as a public port does, gives no
# pair of one class at all:

# %% tags=["output"]
batch = torch.arange(4).repeat_interleave(5)  # 4 classes × 5 images, as sampled
a, b = disjoint_pairs(batch, generator=torch.Generator().manual_seed(0))
drawn_pairs, halves = (
    int((batch[a] == batch[b]).sum()),
    int((batch[:10] == batch[10:]).sum()),
)
print("pairs of one class:", drawn_pairs, "of 10 here,", halves, "of 10 by halves")
assert (drawn_pairs, halves) == (5, 0)

# %% [markdown]
# ## The whole method fits in one module
#
# SCI, CCI and both losses, with the two normalizations that {ref}`the diagnosis <cin-diagnosis>` below asks for: $\varphi / \sqrt c$, and $h$ of
# length one.


# %%
class InteractionFromScratch(nn.Module):
    """Channel Interaction Network: SCI, CCI and both losses."""

    def __init__(self, backbone, c, classes, r, alpha=2.0, beta=0.5):
        super().__init__()
        self.backbone, self.alpha, self.beta = backbone, alpha, beta
        self.phi = nn.Conv2d(c, c, 3, padding=1)
        self.psi = nn.Linear(2 * c, 1)
        self.h = nn.Linear(c, r)
        self.head = nn.Linear(c, classes)

    def mix(self, w, x):  # (B, c, c), (B, c, h, w)
        y = (w @ x.flatten(2)).view_as(x)  # Y = WX, (B, c, h, w)
        return y, self.phi(y) / x.shape[1] ** 0.5 + x  # Y and Z

    def embed(self, z):  # (N, c, h, w)
        return F.normalize(self.h(z.mean((2, 3))), dim=1)  # (N, r), length one

    def forward(self, images, labels=None, pairs=None):
        x = self.backbone(images)[self.backbone.last]  # X, (B, c, h, w)
        flat = x.flatten(2)  # (B, c, l)
        w = (-flat @ flat.mT / flat.shape[2]).softmax(2)  # W, (B, c, c)
        y, z = self.mix(w, x)
        logits = self.head(z.mean((2, 3)))  # (B, classes)
        if labels is None:
            return logits  # a prediction ends here
        a, b = pairs  # (N,) positions in the batch
        y_a, y_b = y[a].mean((2, 3)), y[b].mean((2, 3))  # (N, c)
        eta = self.psi(torch.cat([y_a, y_b], 1)).unsqueeze(2)  # (N, 1, 1)
        gamma = self.psi(torch.cat([y_b, y_a], 1)).unsqueeze(2)  # (N, 1, 1)
        z_a = self.mix((w[a] - eta * w[b]).abs(), x[a])[1]  # Z'_A, (N, c, h, w)
        z_b = self.mix((w[b] - gamma * w[a]).abs(), x[b])[1]  # Z'_B
        d = (self.embed(z_a) - self.embed(z_b)).norm(dim=1)  # (N,)
        push = (self.beta - d).clamp_min(0) ** 2
        contrast = torch.where(labels[a] == labels[b], d**2, push).mean()
        return F.cross_entropy(logits, labels) + self.alpha * contrast


def descend(model, loss_of, batches, rate):
    """The losses of plain stochastic gradient descent with momentum."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    losses = []
    for images, labels in batches:
        loss = loss_of(images, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# We train it for a few steps on the generated birds. The method of `fgvc_lib` gets the same weights, the same batches and the same pairs:

# %% tags=["output"]
birds = load(dataset, **base.data_args)
same = {"label_smoothing": 0.0}  # as above
library = build(vary(VARIANTS["SCI + CCI"], **same), birds).double()
start = build(vary(base, method="baseline"), birds).double().backbone  # the same seed
channels = start.out_channels
scratch = InteractionFromScratch(
    start, channels, len(birds.classes), embedding
).double()
for mine, theirs in (
    (scratch.phi, library.attached.block.phi),
    (scratch.psi, library.cci.psi),
    (scratch.h, library.project),
    (scratch.head, library.base.head),
):
    mine.load_state_dict(theirs.state_dict())  # the same weights

g = torch.Generator()
g.set_state(library.rank_generator.get_state())  # the same pairs


def scratch_loss(images, labels):
    return scratch(images, labels, disjoint_pairs(labels, generator=g))


loader = Loader(
    birds,
    "train",
    batch_size,
    train=True,
    seed=0,
    device="cpu",
    sampler=library.sampler,
)
batches = [(x.double(), y) for epoch in (0, 1) for x, y, _ in loader.epoch(epoch)][:20]
ours = descend(scratch, scratch_loss, batches, lr / 5)
theirs = descend(library, lambda x, y: library(x, y).loss, batches, lr / 5)
assert np.allclose(ours, theirs, rtol=1e-6)
print("step     ", *(f"{n:>7}" for n in range(0, len(ours), 4)))
print("scratch  ", *(f"{loss:7.4f}" for loss in ours[::4]))
print("fgvc_lib ", *(f"{loss:7.4f}" for loss in theirs[::4]))

# %% [markdown]
# The losses agree step by step. The library takes a shortcut on the way: $h$ reads averages over positions, and $\varphi$ is linear, so nine shifted
# averages of each channel go through $W_{AB}$ and $\varphi$ instead of whole maps. For the rest of the page we train two networks to the end, the plain
# one and CIN.

# %% tags=["experiment"]
looked_at = {
    "average pooling": vary(base, method="baseline", batch_size=32, epochs=live_epochs),
    "SCI + CCI": vary(VARIANTS["SCI + CCI"], epochs=live_epochs),
}
trained = study.live("pair", looked_at)

# %% tags=["hide-input"]
plain, cin = (network.method for network in trained.values())
sci = cin.attached.block
where = next(cin.parameters()).device
shown = study.live_frame(trained)
live_line = study.foot(shown)
cin_line = study.foot(shown[shown["variant"] == "SCI + CCI"])
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))
some = np.arange(min(360, len(birds.test)))  # test images; classes take turns
pixels = torch.from_numpy(birds.test.images[some]).float() / 255  # (360, 3, 64, 64)
masks = torch.from_numpy(birds.test.parts["masks"][some])  # (360, P, 64, 64)
labels = birds.test.labels[some]
discriminative = torch.from_numpy(birds.test.parts["discriminative"][some])
with torch.no_grad():
    maps = {
        name: value.cpu()
        for name, value in cin(((pixels - mean) / std).to(where)).maps.items()
    }
x, z = maps["block_input"], maps["block_output"]  # (360, c, h, w) each
sci_cpu = sci.cpu()
with torch.no_grad():
    w = sci_cpu.relation(x)  # (360, c, c)
    y = torch.bmm(w, x.flatten(2)).view_as(x)
    torch.testing.assert_close(z, sci_cpu.combine(x, y), rtol=1e-3, atol=1e-3)
center = plain.backbone.centers[
    plain.backbone.last
]  # where cell (0, 0) looks, in pixels
# (360, c): the part that a channel lies on, or -1
parts = channel_parts_of(x, masks, center=center)

# %% tags=["hide-input"]
tell(
    "After {epochs} epochs the plain network classifies {plain} of the test images "
    "correctly and CIN {cin} (one seed each, so the difference says little; the "
    "records below have several).",
    epochs=live_epochs,
    plain=level(shown, "average pooling"),
    cin=level(shown, "SCI + CCI"),
)

# %% [markdown]
# ## A look inside: which channels complement which?
#
# We sort the channels of one image by the part of the bird that they lie on, the part on which their map peaks. If complementary
# channels are different parts, $XX^\top$ should have blocks, and $W$ the opposite of these blocks.

# %% tags=["figure", "hide-input"]
c = x.shape[1]
NAMES = [*birds.part_names, "beside"]
probe = int((parts >= 0).sum(1).argmax())  # the image with the most channels on parts
where_on = torch.where(parts[probe] < 0, len(birds.part_names), parts[probe])
strength = x[probe].flatten(1).norm(dim=1)
order = np.lexsort((-strength.numpy(), where_on.numpy()))
edges = np.flatnonzero(np.diff(where_on.numpy()[order])) + 0.5
one = x[probe][None]
panels = {
    "$XX^\\top / l$": torch.bmm(one.flatten(2), one.flatten(2).mT)[0]
    / one[0, 0].numel(),
    "SCI: $cW - 1$": c * channel_relation(one)[0] - 1,
    "Pos-SCI: $cW - 1$": c * channel_relation(one, positive=True)[0] - 1,
}
figure, axes = plt.subplots(2, 2, figsize=(6.2, 4.8))
axes = axes.flat
axes[0].imshow(pixels[probe].permute(1, 2, 0))
axes[0].set(xticks=[], yticks=[], title=birds.classes[labels[probe]])
for ax, (title, values) in zip(axes[1:], panels.items(), strict=True):
    values = values[order][:, order]
    limit = float(values.abs().quantile(0.99)) or 1.0
    signed = float(values.min()) < 0
    drawn = ax.imshow(
        values,
        cmap="PuOr_r" if signed else "viridis",
        vmin=-limit if signed else 0,
        vmax=limit,
    )
    figure.colorbar(drawn, ax=ax, shrink=0.7)
    for edge in edges:
        ax.axhline(edge, color="black" if signed else "white", lw=0.6)
        ax.axvline(edge, color="black" if signed else "white", lw=0.6)
    ax.set(xticks=[], yticks=[], title=title)
groups = where_on.numpy()[order]
wide = [
    p for p in np.unique(where_on) if (groups == p).mean() > 0.05
]  # room for a name
middle = [np.flatnonzero(groups == p).mean() for p in wide]
axes[1].set_yticks(middle, [NAMES[p] for p in wide])
show(
    figure,
    name="fig-cin-relation",
    caption="One test bird and the relations of its channels, sorted by part (lines). "
    "In the two lower panels 0 is an even weight, orange more and purple less.",
    alt="A bird and three square matrices with lines between groups of channels: "
    "mean products, and relative weights of SCI and of Pos-SCI, which have opposite "
    "signs.",
)

# %% tags=["hide-input"]
fires = x.flatten(2).amax(2) > 0
mean_map = x.mean(1, keepdim=True).expand_as(y)
cosine = F.cosine_similarity(y.flatten(2), mean_map.flatten(2), dim=2)[fires].mean()
alike = {}
upstream = torch.randn(x[:32].shape, generator=torch.Generator().manual_seed(0))
for kind in ("positions", "none"):
    some_x = x[:32].clone().requires_grad_()
    out = self_channel_interaction(some_x, scale=kind)
    (gradient,) = torch.autograd.grad(out, some_x, upstream)
    unit = F.normalize(gradient.flatten(2), dim=2)  # (32, c, l)
    alike[kind] = (unit @ unit.mT)[:, ~torch.eye(c, dtype=torch.bool)].mean().item()
tell(
    "How much does the network of this page choose? The cosine between what a channel"
    " receives, Y, and the plain mean of all channels is {cosine:.2f}, and a weight "
    "is at most {most:.1f} times the even one. The block changes its input by "
    "{size:.0f} % (‖φ(Y)‖/‖X‖). The gradients that reach two channels through Y have "
    "a cosine of {even:.2f} with s = 1/l and of {sharp:.2f} with s = 1: a nearly even"
    " W also treats all channels nearly alike in training.",
    cosine=cosine.item(),
    most=(c * w).max().item(),
    size=100 * ((z - x).norm() / x.norm()).item(),
    even=alike["positions"],
    sharp=alike["none"],
)

# %% [markdown]
# Now the maps: a strong channel on the discriminative part and the three channels on parts that have the largest weights in its row.

# %% tags=["figure", "hide-input"]
shown = []
for part in ("crown", "breast", "wing"):
    mine = discriminative == birds.part_names.index(part)
    on = mine[:, None] & (parts == discriminative[:, None])  # (360, c)
    score = torch.where(on, x.flatten(2).amax(2), -1)
    best = int(score.max(1).values.argmax())
    shown.append((best, int(score[best].argmax())))
titles = ("image", "channel", *(f"complement {n}" for n in (1, 2, 3)), "$Y = WX$")
low = center - 64 / x.shape[-1] / 2
frame = (low, low + 64, low + 64, low)  # where the cells of a map look
figure, axes = plt.subplots(len(shown), len(titles), figsize=(7.4, 4.6))
for row, (i, k) in zip(axes, shown, strict=True):
    ranked = [
        j for j in w[i, k].argsort(descending=True).tolist() if j != k
    ]  # the most complementary first
    chosen = [j for j in ranked if parts[i, j] >= 0][:3]
    row[0].imshow(pixels[i].permute(1, 2, 0), extent=(0, 64, 64, 0))
    x1, y1, x2, y2 = birds.test.parts["boxes"][some[i], discriminative[i]]
    row[0].add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="black", lw=1.6)
    )
    row[0].set_xlabel(birds.classes[labels[i]], fontsize=8)
    for ax, j in zip(row[1:5], (k, *chosen), strict=True):
        ax.imshow(x[i, j], extent=frame, vmin=0)
        rank = "" if j == k else f", rank {ranked.index(j) + 1}"
        ax.set_xlabel(
            f"{birds.part_names[parts[i, j]]}{rank}\nmax. {x[i, j].max():.2g}",
            fontsize=8,
        )
    for ax, values in ((row[5], y[i, k]),):
        ax.imshow(values, extent=frame)
        ax.set_xlabel(f"{values.min():.2g} … {values.max():.2g}", fontsize=8)
    for ax in row:
        ax.set(xticks=[], yticks=[], xlim=(0, 64), ylim=(64, 0))
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
show(
    figure,
    name="fig-cin-complements",
    caption="The strongest channel on the discriminative part (box), its three most "
    "complementary channels among those on parts, with part, rank among all "
    "and largest value, and its mixture Y.",
    alt="Three rows of six pictures: a bird, a channel that fires at one part, three "
    "complementary channels, and the mixture Y.",
)

# %% [markdown]
# Look at the largest values. A product is small if two channels fire at different positions, and *also* if one of them hardly fires at all.
#
# ### Do complementary channels lie on other parts?
#
# The parts of the generated birds are known, so this can be counted. For each channel on a part, take the three channels that it chooses; of
# those that lie on a part, how many lie on **another** one? The control is the network trained *without* SCI, whose channels we rank by the
# same products: two maps that peak at different positions *have* a smaller product, trained or not.

# %% tags=["experiment"]
by_untrained = study.run(
    "parts",
    {"SCI, not trained": vary(VARIANTS["SCI"], lr=0.0, epochs=2)},
    metrics=["complements"],
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
KINDS = {
    "chance": "chance",
    "alike": "different_alike",
    "weighted by W": "different_mixed",
    "complementary": "different",
    "lowest cosine": "different_cosine",
}
rows = ["SCI, not trained", "baseline", "Pos-SCI", "SCI", "SCI + CCI"]
runs = pd.concat([by_untrained, by_component])
figure, ax = plt.subplots(figsize=(6.6, 2.7))
for (name, key), color, marker in zip(KINDS.items(), COLORS, "oXsD^", strict=False):
    column = f"complements/{key}"
    if column in runs:
        means = 100 * runs.groupby("variant")[column].mean().reindex(rows)
        ax.plot(means, range(len(rows)), marker, color=color, label=name)
ax.set_yticks(range(len(rows)), rows)
ax.invert_yaxis()
ax.set(xlabel="chosen channels that lie on another part, %", xlim=(0, 100))
if ax.lines:
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
show(
    figure,
    drawing=True,
    name="fig-cin-parts",
    caption="Of the channels that a channel chooses, those on another part, by the "
    "kind of choice. "
    f"{study.foot(runs[runs['variant'].isin(rows)])}",
    alt="For five networks, dots for five kinds of choice: alike channels lie on "
    "other parts least often, complementary ones most often.",
)

# %% tags=["hide-input"]
different = "complements/different"
tell(
    "In the network trained with SCI, {sci} of the complementary channels that lie on"
    " a part lie on another part than the channel that chose them; in the same "
    "network trained without SCI, {plain}. The difference is {d}, {d.word} zero: so "
    "much is due to SCI, and the rest of the distance to chance ({chance}) is "
    "arithmetic.",
    sci=level(by_component, "SCI", different),
    plain=level(by_component, "baseline", different),
    d=difference(by_component, "SCI", "baseline", different),
    chance=level(by_component, "baseline", "complements/chance"),
)

# %% tags=["hide-input"]
strength, mixed = (
    by_component[by_component["variant"] == "SCI"]
    .get(f"complements/{key}", pd.Series())
    .mean()
    for key in ("strength", "mixed")
)
measured = not np.isnan(strength)
tell(
    "The complements are also weak channels: the norm of their maps is {strength:.2f}"
    " times the mean. And Y hardly depends on the three chosen ones, because a row of"
    " W mixes {mixed:.0f} % of all channels: weighted by W, {weighted} lie on another"
    " part, against {chance} by chance.",
    strength=strength if measured else None,
    mixed=100 * mixed if measured else None,
    weighted=level(by_component, "SCI", "complements/different_mixed"),
    chance=level(by_component, "SCI", "complements/chance"),
)

# %% [markdown]
# ### What CCI suppresses
#
# We ask CIN for its $\eta$ and for the distances before and after suppression, on three kinds of pairs of test images: of the **same** class, of
# **similar** classes (whose marks are on the same part), and of **different** ones. If CCI adapted to the pair, $\eta$ would depend on its kind.


# %% tags=["hide-input"]
@torch.no_grad()
def interact(a, b):
    """η, W_AB and distances of pairs of images, with and without suppression."""
    cci, project = cin.cci.cpu(), cin.project.cpu()
    taken = []
    hook = cci.psi.register_forward_hook(lambda _module, _in, out: taken.append(out))
    left, right = cci(sci_cpu, x, a, b)  # Z'_A, Z'_B
    hook.remove()
    factors = taken[0].unsqueeze(2)  # (2N, 1, 1)
    n = len(a)
    kept = suppress(torch.cat([w[a], w[b]]), factors)[:n]  # (N, c, c)

    def distance(one, another):
        h = [F.normalize(project(v.mean((2, 3))), dim=1) for v in (one, another)]
        return (h[0] - h[1]).norm(dim=1)

    return {
        "η": factors[:n].flatten(),
        "distance of h(Z)": distance(z[a], z[b]),
        "distance of h(Z′)": distance(left, right),
    }, kept


same_class = labels[:, None] == labels[None, :]
same_part = discriminative[:, None] == discriminative[None, :]
kinds = {
    "same class": same_class & ~torch.eye(len(labels), dtype=torch.bool),
    "similar": ~same_class & same_part,
    "different": ~same_part,
}
pairs = {}
for kind, allowed in kinds.items():
    rows, columns = allowed.nonzero().unbind(1)
    pick = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:200]
    pairs[kind] = (rows[pick], columns[pick])
found = {kind: interact(*pair) for kind, pair in pairs.items()}

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(3, 5, figsize=(7.4, 4.6))
for row, (kind, (_, kept)) in zip(axes, found.items(), strict=True):
    i, j = (int(side[0]) for side in pairs[kind])
    for ax, n in zip(row[:2], (i, j), strict=True):
        ax.imshow(pixels[n].permute(1, 2, 0))
        ax.set_xlabel(birds.classes[labels[n]], fontsize=8)
    shared = np.argsort(-x[[i, j]].flatten(2).norm(dim=2).mean(0).numpy())[
        :24
    ]  # the strongest channels of both
    panels = [c * m[shared][:, shared] for m in (w[i], w[j], kept[0])]
    top = max(float(panel.max()) for panel in panels)
    for ax, values in zip(row[2:], panels, strict=True):
        drawn = ax.imshow(values, vmin=0, vmax=top)
    figure.colorbar(drawn, ax=row[4], shrink=0.8)
    row[0].set_ylabel(kind.split(":")[0])
    for ax in row:
        ax.set(xticks=[], yticks=[])
for ax, title in zip(axes[0], ("A", "B", "$cW_A$", "$cW_B$", "$cW_{AB}$"), strict=True):
    ax.set_title(title)
show(
    figure,
    name="fig-cin-pairs",
    caption="A pair of each kind and the relations of the 24 channels that are "
    "strongest in the two: of A, of B, and what is left of A's after "
    "suppression by B's; 1 is an even weight.",
    alt="Three rows: two birds and three matrices each, the relations of both images "
    "and what is left of the first after the second is taken away.",
)

# %% tags=["hide-input"]
mean_of = {
    kind: {k: v.mean().item() for k, v in n.items()} for kind, (n, _) in found.items()
}
eta, before, after = (
    [mean_of[kind][key] for kind in mean_of]
    for key in ("η", "distance of h(Z)", "distance of h(Z′)")
)
tell(
    "For the same, similar and different classes the mean η is {e[0]:.2f}, {e[1]:.2f}"
    " and {e[2]:.2f}; within a kind it varies by ± {spread:.2f}. So η {verdict}. The "
    "distances of h are {b[0]:.2f}, {b[1]:.2f} and {b[2]:.2f} before suppression and "
    "{a[0]:.2f}, {a[1]:.2f} and {a[2]:.2f} after it: different classes are {rb:.1f} "
    "and {ra:.1f} times as far apart as one class.",
    e=eta,
    spread=found["same class"][0]["η"].std().item(),
    verdict="depends on the kind of pair"
    if max(eta) - min(eta) > found["same class"][0]["η"].std()
    else "hardly depends on the kind of pair: every pair loses about the same",
    b=before,
    a=after,
    rb=before[2] / before[0],
    ra=after[2] / after[0],
)

# %% [markdown]
# ## Ablations
#
# All networks have the same batches of 4 classes × 5 images, the same head, learning rate and number of epochs. They train from scratch on 64-pixel birds (12
# classes, 40 training images each). Compare variants, not papers.
#
# ### SCI against its rivals and against itself without interaction
#
# Two controls are not in the paper: *φ alone* is the convolution without any channel interaction ($W = I$), and the *mean map* gives every channel
# the same ($W = 1/c$). What SCI adds beyond them is due to its relation.

# %% tags=["figure", "hide-input"]
measured = study.beside_photos("components", by_component)
others = [name for name in VARIANTS if name != "baseline"]
show(
    forests(
        {
            title: effects_over(runs, others, "baseline")
            for title, runs in measured.items()
        },
        "over the baseline, points",
    ),
    drawing=True,
    name="fig-cin-ablation",
    caption="Test accuracy minus that of the same network without a block: mean "
    "difference and "
    f"95 % interval. {study.foot(by_component)}",
    alt="Eight differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "SCI is {sci.word} the baseline ({sci}), and CIN, with the contrast, is "
    "{cin.word} it ({cin}). The control without any interaction, φ alone, is "
    "{phi.word} the baseline ({phi}); SCI is {own.word} this control ({own}). So the "
    "gain that complementary channels could explain is this last difference.",
    sci=difference(by_component, "SCI", "baseline"),
    cin=difference(by_component, "SCI + CCI", "baseline"),
    phi=difference(by_component, "φ alone", "baseline"),
    own=difference(by_component, "SCI", "φ alone"),
)

# %% [markdown]
# (cin-diagnosis)=
# ### A diagnosis: φ trains at $c$ times the learning rate
#
# The paper prints $Z = \varphi(WX) + X$, without the factor $1/\sqrt c$ of our module. With $s = 1/l$ the rows of $W$ are nearly even, so
# $\varphi$ sees about the same map $c$ times. Its $c$ input slices get the same gradient $g$ and act through their sum $S$. A step of size λ moves
# each slice by $-\lambda g$, and so $S$ by $-c\,\lambda g$: this direction learns at $c$ times the rate of the network, and no normalization stands
# behind it. Divided by $\sqrt c$, $\varphi$ acts through $S/\sqrt c$, each slice's gradient becomes $g/\sqrt c$, and a step moves $S/\sqrt c$ by
# $-\lambda g$, the rate of the network at every width. (The rival non-local block has a BatchNorm in this position.)
#
# The contrast has a scale of its own. On an $h$ of any length, growing features soon exceed a distance of β = 0.5, and the term pulls ever harder.
# `fgvc_lib` gives $h$ unit length; the paper does not say.

# %% tags=["experiment"]
as_printed = {"block_args": {"normalize": False}}
by_scale = study.run(
    "scale",
    {
        "SCI, φ/√c": VARIANTS["SCI"],
        "SCI, as printed": interaction(**as_printed),
        "SCI + CCI, φ/√c, unit h": VARIANTS["SCI + CCI"],
        "SCI + CCI, φ/√c, h of any length": interaction(
            contrast="cci", normalize=False
        ),
        "SCI + CCI, as printed": interaction(
            contrast="cci", normalize=False, **as_printed
        ),
    },
    metrics=["complements"],
)
by_softmax = study.run(
    "softmax",
    {
        "s = " + {"positions": "1/l", "none": "1"}[scale]: interaction(
            block_args={"scale": scale}
        )
        for scale in scales
    },
    metrics=["complements"],
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(6.4, 2.6))
scaled = by_scale["variant"].unique()
beside = pd.concat([by_component[by_component["variant"] == "baseline"], by_scale])
forest(ax, effects_over(beside, scaled, "baseline"))
ax.set_xlabel("over the baseline, points")
show(
    figure,
    drawing=True,
    name="fig-cin-diagnosis",
    caption="SCI and CIN as printed and with each normalization, minus the baseline; "
    "variants "
    f"that have not been measured are left out. {study.foot(by_scale)}",
    alt="Differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "As printed, SCI reaches {printed}; with φ divided by √c, {scaled}: a difference "
    "of {d} from one factor. The whole of CIN goes from {raw} to {unit} with both "
    "normalizations, and {lost} of its runs as printed diverge.",
    printed=level(by_scale, "SCI, as printed"),
    scaled=level(by_scale, "SCI, φ/√c"),
    d=difference(by_scale, "SCI, φ/√c", "SCI, as printed"),
    raw=level(by_scale, "SCI + CCI, as printed"),
    unit=level(by_scale, "SCI + CCI, φ/√c, unit h"),
    lost=lost(by_scale, "SCI + CCI, as printed"),
)

# %% [markdown]
# (cin-softmax)=
# ### The scale of the softmax

# %% tags=["hide-input"]
tell(
    "With s = 1/l SCI reaches {ours}, and with the paper's s = 1 {paper}: s = 1/l is "
    "{d.word} s = 1 ({d}). We divide so that the block does not depend on the size of "
    "the map, and not for accuracy.",
    ours=level(by_softmax, "s = 1/l"),
    paper=level(by_softmax, "s = 1"),
    d=difference(by_softmax, "s = 1/l", "s = 1"),
)

# %% [markdown]
# ### Which comparison of images?
#
# All on SCI's features: the contrastive loss with and without CCI, the triplet loss {footcite:p}`schroff2015facenet`, and pairwise confusion
# {footcite:p}`dubey2018pairwise`. The last does the opposite of pushing apart: it holds the *predictions* for different classes together, against
# overconfidence.

# %% tags=["experiment"]
by_loss = study.run(
    "losses",
    {
        "none": VARIANTS["SCI"],
        "contrastive": VARIANTS["SCI + Cont"],
        "contrastive, of CCI": VARIANTS["SCI + CCI"],
        "triplet": interaction(contrast="triplet", margin=0.2),
        "pairwise confusion": interaction(contrast="confusion", alpha=10.0),
    },
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(6.2, 2))
losses = [name for name in by_loss["variant"].unique() if name != "none"]
forest(ax, effects_over(by_loss, losses, "none"))
ax.set_xlabel("over SCI without an added loss, points")
show(
    figure,
    drawing=True,
    name="fig-cin-losses",
    caption="Losses that compare images, added to SCI; those that have not been "
    "measured are "
    f"left out. {study.foot(by_loss)}",
    alt="Differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "The contrastive loss alone changes SCI by {cont}, with CCI by {cci}; CCI over "
    "the plain contrast is {own}.",
    cont=difference(by_loss, "contrastive", "none"),
    cci=difference(by_loss, "contrastive, of CCI", "none"),
    own=difference(by_loss, "contrastive, of CCI", "contrastive"),
)

# %% [markdown]
# ### Where else it can stand
#
# SCI keeps the shape of a map, so it can follow any stage of any method; `CIN(base=…)` puts it there, with CCI and its loss. Each row below is the accuracy of a
# method with SCI + CCI minus that of the same method without, on the same batches: a deeper network, one stage lower, a {doc}`Bilinear CNN
# <04_bilinear_cnn>`, and {doc}`Center Loss <02_center_loss>`.

# %% tags=["experiment"]
by_depth = study.run(
    "depth",
    {
        f"{depth}: {name}": vary(
            VARIANTS[name], backbone="resnet", backbone_args=arguments
        )
        for depth, arguments in {"small": base.backbone_args, "deeper": deeper}.items()
        for name in ("baseline", "SCI", "SCI + CCI")
    },
    seeds=seeds[:3],
)
bilinear = {"base": "bcnn", "base_args": {"head_fraction": 0.0}}
plugged = {
    "average pooling": VARIANTS["baseline"],
    "average pooling + SCI + CCI": VARIANTS["SCI + CCI"],
    "average pooling + SCI + CCI, one stage lower": interaction(
        contrast="cci", stage="layer2"
    ),
    "B-CNN": vary(interaction("none", **bilinear), lr=5 * lr),
    "B-CNN + SCI + CCI": vary(interaction(contrast="cci", **bilinear), lr=5 * lr),
    "Center Loss": interaction("none", base="center"),
    "Center Loss + SCI + CCI": interaction(contrast="cci", base="center"),
}
by_plug = study.run("plug", plugged, seeds=dict.fromkeys(plugged, seeds[:3]) | seeds_of)


# %% tags=["figure", "hide-input"]
POOLED = "average pooling"
with_cin = {
    POOLED: difference(by_plug, f"{POOLED} + SCI + CCI", POOLED),
    "one stage lower": difference(
        by_plug, f"{POOLED} + SCI + CCI, one stage lower", POOLED
    ),
    "deeper network": difference(by_depth, "deeper: SCI + CCI", "deeper: baseline"),
    "B-CNN": difference(by_plug, "B-CNN + SCI + CCI", "B-CNN"),
    "Center Loss": difference(by_plug, "Center Loss + SCI + CCI", "Center Loss"),
}
figure, ax = plt.subplots(figsize=(6.2, 2.3))
forest(ax, effects(with_cin))
ax.set_xlabel("SCI + CCI over the same method without, points")
show(
    figure,
    drawing=True,
    name="fig-cin-plug",
    caption="SCI + CCI added to other methods; those that have not been measured are "
    "left out. "
    f"{study.foot(pd.concat([by_plug, by_depth]))}",
    alt="Differences with their intervals around a line at zero.",
)

# %% tags=["hide-input"]
tell(
    "In a B-CNN, SCI + CCI changes accuracy by {bcnn}, and in the deeper network by "
    "{deeper}.",
    bcnn=with_cin["B-CNN"],
    deeper=with_cin["deeper network"],
)

# %% [markdown]
# ### The weight α and the margin β

# %% tags=["experiment"]
by_alpha = study.run(
    "alpha",
    {f"{a:g}": interaction(contrast="cci", alpha=a) for a in alphas},
    seeds=seeds[:3],
)
by_margin = study.run(
    "margin",
    {f"{m:g}": interaction(contrast="cci", margin=m) for m in margins},
    seeds=seeds[:3],
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(6.6, 2.6), sharey=True)
for ax, swept, key, color, label in (
    (axes[0], by_alpha, "alpha", COLORS[0], "α"),
    (axes[1], by_margin, "margin", COLORS[1], "β"),
):
    column = f"method_args.{key}"
    if "test_accuracy" in swept:
        swept = swept.assign(accuracy=100 * swept["test_accuracy"])
        curve(
            ax, sorted(swept[column].unique()), swept, column, "accuracy", color=color
        )
    ax.set(xlabel=label)
axes[0].set_ylabel("test accuracy, %")
show(
    figure,
    drawing=True,
    name="fig-cin-sweeps",
    caption="Accuracy over the weight α (with β = 0.5) and the margin β (with α = 2);"
    " a dot is a "
    f"seed. {study.foot(pd.concat([by_alpha, by_margin]))}",
    alt="Two plots of test accuracy, over the weight alpha and over the margin beta.",
)

# %% tags=["hide-input"]
ends = [
    (level(runs, f"{values[0]:g}"), level(runs, f"{values[-1]:g}"))
    for runs, values in ((by_alpha, alphas), (by_margin, margins))
]
tell(
    "Accuracy is {a} at α = {alphas[0]:g} and {b} at α = {alphas[1]:g}; {c} at β = "
    "{margins[0]:g} and {d} at β = {margins[1]:g}.",
    a=ends[0][0],
    b=ends[0][1],
    c=ends[1][0],
    d=ends[1][1],
    alphas=(alphas[0], alphas[-1]),
    margins=(margins[0], margins[-1]),
)

# %% [markdown]
# ## One stage, but not for free
#
# The paper stresses that CIN, unlike methods that crop parts and look again, predicts in **one stage**: SCI is one block, and a prediction does not use CCI.
# Counted for one image of 448 pixels with the paper's ResNet-50:


# %% tags=["table", "hide-input"]
def counted(size, depth, **arguments):
    """Multiply-adds of a prediction, and parameters that it reads."""
    # fused kernels hide products from the counter; the plain formula does not
    with (
        FakeTensorMode(),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        method = CIN(resnet(depth), 200, **arguments).eval()
        with torch.no_grad():
            method(torch.zeros(1, 3, size, size))
    read = sum(
        p.numel()
        for n, p in method.named_parameters()
        if not n.startswith(("cci", "project"))
    )
    return counter.get_total_flops() / 2, read


rows = {
    "baseline": {"block": "none", "contrast": "none"},
    "SE": {"block": "se", "contrast": "none"},
    "non-local": {"block": "non_local", "contrast": "none"},
    "SCI": {"contrast": "none"},
    "SCI + CCI": {},
}
lines = []
bare, _ = counted(448, 50, **rows["baseline"])
for row, arguments in rows.items():
    count, read = counted(448, 50, **arguments)
    lines.append(
        {
            "network": row,
            "multiply-adds, 10⁹": f"{count / 1e9:.2f}",
            "× baseline": f"{count / bare:.2f}",
            "parameters, 10⁶": f"{read / 1e6:.1f}",
        }
    )
show_table(
    pd.DataFrame(lines),
    foot="Counted on this page: one prediction by a ResNet-50 at 448 pixels, 200 "
    "classes.",
)

timed = benchmarks.records("second_order")
largest = timed[0]["steps"][-1] if timed else None
over = largest and largest["over_baseline"]
tell(
    "Nearly all that SCI adds is φ, 9c² weights. A training step at {size} pixels "
    "takes {sci:.2f} times the baseline's with SCI, {cci:.2f} times with CCI computed"
    " from averages, and {maps:.2f} times with CCI as written "
    "(`benchmarks/second_order.py`, {device}).",
    size=largest and largest["image_size"],
    sci=over and over["SCI"]["median"],
    cci=over and over["SCI + CCI"]["median"],
    maps=over and over["SCI + CCI, as written"]["median"],
    device=benchmarks.device(timed[0]) if timed else None,
)

# %% [markdown]
# ## On photographs
#
# The paper's Table 1 reports CIN on Caltech-UCSD Birds (CUB) with a pretrained ResNet-50 at 448 pixels. Our photographs are small crops of 100 of its
# classes, with a pretrained EfficientNet-Lite0. Effects beside effects:

# %% tags=["table", "hide-input"]
photos = study.recorded("components", profile="photos")
PAIRS = [(name, "baseline") for name in ("SE", "non-local", "Pos-SCI", "SCI")]
PAIRS += [("SCI + Cont", "SCI"), ("SCI + CCI", "SCI"), ("SCI + CCI", "NTS-Net")]
PAIRS += [("SCI", "CGNL"), ("SCI", "MAMC")]
ours = {"our photographs": photos, "our birds": by_component}
table = published.effects(f"{study.chapter}/components", PAIRS, **ours)
table = table[table["data"] == "cub"].drop(columns=["data", "source"])
rivals = table["comparison"].str.contains("NTS-Net|CGNL|MAMC")
table.loc[rivals, list(ours)] = ""  # methods that this book does not have
show_table(
    table,
    foot="Paper: Table 1, ResNet-50 (data/published.yaml). Ours in points, with the "
    "95 % interval over seeds. Empty: methods that are not in this book.",
)
quoted = {
    f.variant: f.value
    for f in reversed(published.figures())
    if f.experiment.startswith(study.chapter)
    and f.dataset == "cub"
    and "ResNet-50" in f.source
}
tell(
    "In the paper, SCI brings {sci:+.1f} points over the baseline, CCI another "
    "{cci:+.1f}. The step over the best rival block is small: {cgnl:+.1f} over CGNL, "
    "another non-local block; CIN ties NTS-Net, which crops and looks again, at {nts}"
    " %, and added to it reaches {both} %. {photos}",
    sci=quoted["SCI"] - quoted["baseline"],
    cci=quoted["SCI + CCI"] - quoted["SCI"],
    cgnl=quoted["SCI"] - quoted["CGNL"],
    nts=quoted["NTS-Net"],
    both=quoted["NTS-Net + CIN"],
    photos=""
    if photos["measured"].any()
    else "Our photographs have not been measured yet.",
)
if photos["measured"].any():
    tell(
        "On our photographs SCI is {sci.word} the baseline ({sci}), and CIN "
        "{cin.word} it ({cin}). SE, a gate for each channel, is {se.word} it ({se}). "
        "With the sign turned, so that similar channels are added (Pos-SCI), the block "
        "is {pos.word} SCI ({pos}).",
        sci=difference(photos, "SCI", "baseline"),
        cin=difference(photos, "SCI + CCI", "baseline"),
        se=difference(photos, "SE", "baseline"),
        pos=difference(photos, "Pos-SCI", "SCI"),
    )

# %% [markdown]
# (cin-port)=
# ## Paper versus official implementation
#
# The authors released nothing. The one public port that we know of is `Hawkeye-FineGrained/Hawkeye`. Its `model/methods/CIN.py` divides $XX^\top$ by the number
# of positions, as we do. Its `model/loss/CIN_loss.py` has three defects: the labels of half a batch are compared with *one* label (a colon is missing),
# the term of the negative pairs is overwritten by the square of the other, and pairs are summed. We write these into a **deliberately wrong** loss and
# hold it against checks that the library passes:


# %% tags=["table", "hide-input"]
def right_loss(a, b, labels, margin=0.5):
    """Pair n is (a[n], b[n]), of images n and N + n."""
    n = len(a)
    return contrastive_loss(a, b, labels[:n] == labels[n:], margin=margin)


def wrong_loss(a, b, labels, margin=0.5):
    """Three defects on purpose. Do not use."""
    n = len(a)
    same = (
        labels[:n] == labels[n]
    ).float()  # defect: one label of the second half (a colon is missing)
    distance = (a - b).norm(dim=1)
    pull = same * distance.square()
    push = (1 - same) * (margin - distance).clamp_min(0).square()
    push = pull.square()  # defect: overwrites the term of the negative pairs
    return (pull + push).sum()  # defect: a sum over pairs


def embeddings(*distances):
    """Pairs at given distances along the first of two axes."""
    a = torch.zeros(len(distances), 2)
    b = torch.tensor([[float(d), 0.0] for d in distances])
    return a.requires_grad_(), b


def check_labels(loss):
    """Each pair's own two labels decide whether it is pulled."""
    a, b = embeddings(0.3, 0.3)
    labels = torch.tensor([0, 1, 0, 1])  # two pairs, both of one class
    (gradient,) = torch.autograd.grad(loss(a, b, labels), a)
    assert (gradient[:, 0] < 0).all(), "a pair of one class is not pulled together"


def check_push(loss):
    """Pairs of two classes nearer than the margin are pushed apart."""
    a, b = embeddings(0.3)
    (gradient,) = torch.autograd.grad(loss(a, b, torch.tensor([0, 1])), a)
    assert gradient[0, 0] > 0, "a pair of two classes gets no push"


def check_stop(loss):
    """Beyond the margin nothing happens."""
    a, b = embeddings(0.9)
    (gradient,) = torch.autograd.grad(loss(a, b, torch.tensor([0, 1])), a)
    assert gradient.abs().max() == 0, "a pair beyond the margin is moved"


def check_mean(loss):
    """A batch twice over has the same loss."""
    a, b = embeddings(0.3, 0.4)
    once = loss(a, b, torch.tensor([0, 0, 0, 0]))
    twice = loss(
        torch.cat([a, a]), torch.cat([b, b]), torch.zeros(8, dtype=torch.int64)
    )
    assert torch.isclose(once, twice), f"{once.item():.2f} becomes {twice.item():.2f}"


def outcome(check, loss):
    try:
        check(loss)
    except AssertionError as error:
        return f"fails: {error}"
    return "passes"


checks = (check_labels, check_push, check_stop, check_mean)
verdicts = {
    loss.__name__: [outcome(check, loss) for check in checks]
    for loss in (right_loss, wrong_loss)
}
assert verdicts["right_loss"] == ["passes"] * len(checks)
assert [v.split(":")[0] for v in verdicts["wrong_loss"]] == [
    "fails",
    "fails",
    "passes",
    "fails",
]
show_table(
    pd.DataFrame(
        {
            "check": [check.__doc__.rstrip(".") for check in checks],
            "the library's loss": verdicts["right_loss"],
            "the wrong loss": verdicts["wrong_loss"],
        }
    )
)

# %% [markdown]
# The third check passes for the wrong loss as well: a term that is dead everywhere is dead beyond the margin, too. A test has to ask for the push itself.
# This is what the defects do to points that are free to move:


# %% tags=["figure", "hide-input"]
def roll(loss, steps=12):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(20)
    points = 0.12 * torch.randn(60, 2, generator=g)
    start = points.clone()
    for _ in range(steps):
        a, b = disjoint_pairs(labels, generator=g)
        points.requires_grad_()
        value = loss(points[a], points[b], torch.cat([labels[a], labels[b]]))
        (gradient,) = torch.autograd.grad(value, points)
        scale = len(a) if loss is right_loss else 1  # of the mean: one rate for both
        points = (points - 0.1 * scale * gradient).detach()
    return start, points, labels


figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.7), sharex=True, sharey=True)
start, right_points, point_labels = roll(right_loss)
panels = {
    "start": start,
    "the library's loss": right_points,
    "the wrong loss": roll(wrong_loss)[1],
}
for ax, (title, points) in zip(axes, panels.items(), strict=True):
    ax.plot(*start.T, ".", ms=3, color="#bbbbbb")
    for k, marker in enumerate("o^s"):
        mine = points[point_labels == k]
        ax.plot(
            *mine.T, marker, ms=5, color=COLORS[k], label=f"class {k + 1}", alpha=0.75
        )
    ax.set(title=title, aspect="equal")
axes[0].legend(fontsize=8)
show(
    figure,
    drawing=True,
    name="fig-cin-port",
    caption="Points of three classes under the contrastive loss alone (β = 0.5). The "
    "wrong loss knows only one direction: together.",
    alt="Three scatter plots of three classes of points. At the start they overlap; "
    "with the library's loss they form separate clusters; with the wrong loss "
    "they do not separate.",
)

# %% tags=["hide-input"]
torch.manual_seed(0)
fresh = {}
with torch.no_grad():
    features = plain.backbone(((pixels - mean) / std).to(where))[plain.backbone.last]
    features, head = features.cpu(), plain.head.cpu()

    def scored(maps):
        return 100 * (head(maps.mean((2, 3))).argmax(1) == labels).float().mean().item()

    for normalize in (False, True):
        block = SelfChannelInteraction(features.shape[1], normalize=normalize)
        fresh[normalize] = scored(block(features))
hidden = {}
for map_size in (None, (14, 14)):
    with torch.device("meta"):
        psi = ContrastiveChannelInteraction(2048, map_size=map_size).psi
    hidden[map_size] = psi.in_features // 2 * 512  # of h, from as many numbers
tell(
    "The port also lets h see whole maps, which fixes the size of the images and "
    "gives h {flat:.0f} million weights in a ResNet-50 at 448 pixels, instead of "
    "{mean:.1f} million on averages. And it initializes φ like any convolution. In "
    "front of the head of this page's plain network ({none:.1f} % on {n} images) a "
    "fresh block leaves {printed:.1f} % as printed and {ours:.1f} % with φ/√c.",
    flat=hidden[14, 14] / 1e6,
    mean=hidden[None] / 1e6,
    none=scored(features),
    n=len(some),
    printed=fresh[False],
    ours=fresh[True],
)

# %% [markdown]
# The page of {doc}`all discrepancies </book/discrepancies>` has the rest: ψ on $\varphi(Y)$ instead of $Y$, batches of one, momentum that is not passed on, and a figure for Aircraft that lists get wrong.
#
# ## What we found

# %% tags=["hide-input"]
different = "complements/different"
tell(
    "1. SCI is {d.word} the baseline: {d}. Against the convolution alone, without "
    "interaction, it is {own}.",
    d=difference(by_component, "SCI", "baseline"),
    own=difference(by_component, "SCI", "φ alone"),
)
tell(
    "2. The whole of CIN is {cin.word} the baseline ({cin}); CCI over SCI alone is "
    "{cci}.",
    cin=difference(by_component, "SCI + CCI", "baseline"),
    cci=difference(by_component, "SCI + CCI", "SCI"),
)
tell(
    "3. Of the channels that SCI calls complementary, {sci} lie on another part "
    "({chance} by chance). In a network trained without SCI, {plain} do: SCI accounts "
    "for {d}, and the arithmetic of products for the rest.",
    chance=level(by_component, "SCI", "complements/chance"),
    sci=level(by_component, "SCI", different),
    plain=level(by_component, "baseline", different),
    d=difference(by_component, "SCI", "baseline", different),
)
rivals = by_component[by_component["variant"].isin(["SE", "non-local", "Pos-SCI"])]
means = rivals.groupby("variant")["test_accuracy"].mean().dropna()
best = means.idxmax() if len(means) else None
tell(
    "4. The best of the rival blocks is {best}, with {level}: SCI minus this block is"
    " {d}.",
    best={"SE": "squeeze-and-excitation", "non-local": "the non-local block"}.get(
        best, best
    ),
    level=best and level(by_component, best),
    d=best and difference(by_component, "SCI", best),
)
tell(
    "5. In the network that we looked into, η is {e[0]:.2f} for one class and "
    "{e[2]:.2f} for different classes, and what a channel receives has a cosine of "
    "{cosine:.2f} with the plain mean of all.",
    e=eta,
    cosine=cosine.item(),
)
tell(
    "6. With a pretrained network on CUB-100, SCI is {sci.word} the baseline ({sci}) "
    "and the whole of CIN {cin.word} it ({cin}). The contrastive loss on SCI's "
    "features, worth {paper:+.1f} in the paper, is {cont.word} SCI without it: {cont}. "
    "The same loss on what CCI leaves of them is {cci.word} that ({cci}); why it helps "
    "on the one and not on the other is an open question.",
    sci=difference(photos, "SCI", "baseline"),
    cin=difference(photos, "SCI + CCI", "baseline"),
    paper=quoted["SCI + Cont"] - quoted["SCI"],
    cont=difference(photos, "SCI + Cont", "SCI"),
    cci=difference(photos, "SCI + CCI", "SCI + Cont"),
)

# %% [markdown]
# ## When to use it today
#
# - SCI is one block behind the last stage; if you try it, divide $\varphi$ by $\sqrt c$ and run *φ alone* beside it.
# - For the comparison of images, supervised contrastive learning {footcite:p}`khosla2020supervised` uses all pairs of a batch and needs no margin.
# - A vision transformer already mixes channels and positions in every layer; start from its pretrained features {footcite:p}`oquab2024dinov2`.
#
# ## Exercises
#
# 1. **A dead channel.** Channel $j$ is zero everywhere. What is column $j$ of $W$, relative to the rest of a row, for SCI and Pos-SCI, with $s = 1$? What if
#    $X$ could be negative?
#
# ```{dropdown} Solution
# Its products are zero, so its weight is $1 / \sum_k \exp(\mp (XX^\top)_{ik})$. After a ReLU all products are at least zero: in SCI no weight of
# the row is larger, in Pos-SCI none is smaller. With negative values, products below zero are more complementary than silence.
# ```
#
# 2. **Code: cosines.** Write `cosine_relation(x, tau)`, which replaces $XX^\top$ by the cosines of the channels' maps. Between which bounds does $cW$ lie
#    at τ = 1, and what does a smaller τ do?
#
# ````{dropdown} Solution
# ```python
# def cosine_relation(x, tau):  # (B, c, h, w)
#     unit = F.normalize(x.flatten(2), dim=2)  # (B, c, l)
#     return (-unit @ unit.mT / tau).softmax(2)  # (B, c, c)
# ```
#
# Cosines of maps without negative values lie in [0, 1], so at τ = 1 $cW$ lies between $1/e$ and $e$: a nearly plain mean, as with $s = 1/l$ on small
# features. A smaller τ sharpens the choice without preferring weak channels, except silent ones, whose cosines are all zero.
# ````
#
# 3. **η = 1 and the same image twice.** What is $Z'_A$ if $A = B$ and $\eta = 1$? What are the distance and the gradient of the loss?
#
# ```{dropdown} Solution
# $W_{AB} = 0$, so $Z'_A = X_A$ plus φ's bias, as for $B$. The distance is zero, the pair is of one class, and both loss and gradient vanish (the library takes the gradient
# of the distance at zero as zero; a literal √ has 0/0 there).
# ```
#
# 4. **What the margin means.** Leave $h$ linear and unconstrained. Show that for any network with $L_{cont} > 0$ from negative pairs alone, scaling $h$ lowers
#    the loss. Why can that not go on with positive pairs in the batch?
#
# ```{dropdown} Solution
# Distances scale with $h$: multiply until every negative pair is beyond β. Distances of positive pairs grow alike and cost $d^2$. So the loss fixes the *ratio* of the two
# kinds of distances, in units of β. The library's $h$ of length one fixes the scale instead, and β means the same for every network.
# ```
#
# 5. **Code: symmetry.** Swapping $A$ and $B$ should swap $Z'_A$ and $Z'_B$. Check it on `InteractionFromScratch` by its loss. Which property of ψ
#    guarantees it?
#
# ````{dropdown} Solution
# ```python
# scratch.eval()
# images, labels = batches[0]
# a, b = disjoint_pairs(labels, generator=torch.Generator().manual_seed(0))
# assert torch.isclose(scratch(images, labels, (a, b)), scratch(images, labels, (b, a)))
# ```
#
# One ψ, applied to $[Y_A, Y_B]$ and to $[Y_B, Y_A]$. With two layers for η and γ the loss would depend on which image is called A, and each would see
# half of the orders in training.
# ````
#
# ## References
#
# ```{footbibliography}
# ```
