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
# *The paper:* {footcite:t}`gao2020channel`. A channel often responds to one part. Looked at alone, a red crown and a white wing
# bar are two hints; together they are a species. CIN gives every channel the channels that **complement** it, the ones that
# it is least correlated with, and in training compares *two images* by what the one complements and the other does not.
#
# What this chapter does: builds self-channel interaction (SCI) and contrastive channel interaction (CCI) by hand, checks them
# against `fgvc_lib`, looks at which channels are called complementary and whether they really are other parts, measures the
# paper's ablation, and runs the defects of a public port as failing checks.

# %% tags=["parameters"]
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
device = None  # the best there is
train = "missing"  # "all" measures everything again, "never" shows what there is
embedding = 64  # r, the length of h
scales = ["positions", "none"]  # the factor s is 1/l, or 1
alphas = [0.1, 0.5, 2.0, 8.0]
margins = [0.1, 0.5, 1.0, 2.0]
deeper = {"depth": 18, "width": 16, "small_stem": True, "strides": [1, 2, 2, 1]}
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import resnet
from fgvc_lib.data import load
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
from fgvc_study import Study, benchmarks, vary
from fgvc_study.figures import COLORS, curve, show, show_table, style
from fgvc_study.findings import difference, level, lost, tell
from fgvc_study.metrics.channels import channel_parts_of, compare_channels
from fgvc_study.protocol import configuration
from fgvc_study.statistics import paired
from fgvc_study.tables import plus_minus, summarize
from matplotlib.patches import Rectangle
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
    """The common network with a block behind its last stage, and a comparison of pairs."""
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

# %% [markdown]
# ## The problem
#
# The last map of a network has $c$ channels. Its average is a list of $c$ numbers that know nothing of each other. Blocks that
# let features interact exist, and differ in what they relate:
#
# | block | relates | by | gives |
# | --- | --- | --- | --- |
# | squeeze-and-excitation {footcite:p}`hu2018squeeze` | a channel with all averages | two small layers | a factor for each channel |
# | non-local {footcite:p}`wang2018nonlocal` | places with places | likeness | a mixture of places |
# | self-channel interaction | channels with channels | *un*likeness | a mixture of channels |
#
# Likeness finds more of what is there already. Unlikeness brings in what is missing: to the channel of the crown, the channel of
# the tail.
#
# ## Self-channel interaction
#
# Write the map as a matrix $X \in \mathbb R^{c \times l}$, a row for each channel, a column for each of the $l = h \cdot w$ places.
# $(XX^\top)_{ij}$ is large where channels $i$ and $j$ fire at the same places. SCI takes the softmax of its **negative**:
#
# $$
# W_{ij} = \frac{\exp\big(-s\,(XX^\top)_{ij}\big)}{\sum_{k=1}^{c} \exp\big(-s\,(XX^\top)_{ik}\big)}, \qquad
# Y = W X, \qquad Z = \varphi(Y) + X .
# $$ (eq-cin-sci)
#
# Row $i$ of $W$ says how much channel $i$ takes from every other one, and sums to one. $\varphi$ is a $3 \times 3$ convolution.
# In the paper $s = 1$; why there is an $s$ here we will see. Three channels on two places:

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
    print(
        f"{name:<6} XXᵀ {products}  W {[round(v, 2) for v in weights]}  Y {[round(v, 2) for v in y]}"
    )

image = X.view(1, 3, 1, 2)  # (B, c, h, w)
torch.testing.assert_close(channel_relation(image, scale="none")[0], W)
torch.testing.assert_close(
    self_channel_interaction(image, scale="none").view(3, 2), Y
)  # the library agrees

# %% [markdown]
# *Crown* takes most from *tail*, and so its $Y$ is larger at the tail's place.
#
# It is a non-local block turned by 90 degrees: attention in which a channel is a token, its map the embedding, keys and values are
# $X$ and the queries $-X$. So torch's fused attention computes it, without ever holding the whole $W$, which has $2048^2$ entries
# for each image in a ResNet-50:

# %% tags=["output"]
attention = F.scaled_dot_product_attention(-X, X, X, scale=1.0)
torch.testing.assert_close(attention, Y)
print("softmax(−XXᵀ) X is attention with query −X, key X and value X")

# %% [markdown]
# ### The scale of XXᵀ
#
# A softmax is not indifferent to the size of what it is given. The entries of $XX^\top$ are sums over $l$ places, and after a ReLU none is
# negative. So the largest of $-XX^\top$ are the zeros: **the products with a channel that is silent everywhere**. The more places, the more
# the silent channels take. We draw 512 channels of half-normal numbers, silence 20 of them, and add up what a row gives to those.

# %% tags=["figure"]
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
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
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
    ax.set(xscale="log", xlabel="places l", title=title, ylim=(-3, 103))
    ax.set_xticks([1, 4, 16, 49, 196], ["1", "4", "16", "49", "196"])
    ax.minorticks_off()
axes[0].axhline(100 * silent / 512, color="black", lw=0.8, ls=":", label="their number")
axes[0].legend()
show(
    figure,
    name="fig-cin-scale",
    caption="512 random channels, 20 of them silent. Left: with s = 1 the silent channels take over as maps grow. Right: the "
    "exponentiated entropy of a row, as a share of all channels: with s = 1 a row ends up with a handful, with s = 1/l it stays close "
    "to a plain mean of all.",
    alt="Two curves over the number of places for the two scales. Unscaled, the weight on silent channels rises to one hundred percent and the "
    "share of channels mixed falls to a few percent; scaled, both stay nearly flat.",
)

# %% [markdown]
# When silent channels have all the weight, $Y$ is empty and the block is a detour. Dividing by $l$ makes the entries *mean* products, free of
# the map's size; it is the default of `fgvc_lib`, and `scale="none"` gives the paper's formula. But it has a price, on the right: entries
# of the size of one make an almost even softmax. To first order in $s$,
#
# $$
# \begin{aligned}
# W_{ij} &\approx \frac1c \Big( 1 - s\,\big( (XX^\top)_{ij} - \overline{(XX^\top)_i} \big) \Big), \\
# Y_i &\approx \bar X - \frac sc \sum_{j} \big( (XX^\top)_{ij} - \overline{(XX^\top)_i} \big)\, X_j ,
# \end{aligned}
# $$ (eq-cin-first-order)
#
# the **mean of all channels, minus a little of what is like channel $i$**. The subtracted part is the trilinear product $XX^\top X$ of
# {doc}`TASN <06_tasn>`, centered. We will see which of the two regimes a trained network is in.
#
# ## Training
#
# The plain network of the whole book, and the same network with SCI behind its last stage and CCI in training, which is derived below.

# %% tags=["experiment"]
looked_at = {
    "average pooling": vary(base, method="baseline", batch_size=32, epochs=live_epochs),
    "SCI + CCI": vary(VARIANTS["SCI + CCI"], epochs=live_epochs),
}
trained = study.live("pair", looked_at)

# %%
birds = load(dataset, **base.data_args)
plain, cin = (network.method for network in trained.values())
sci = cin.attached.block
where = next(cin.parameters()).device
shown = study.live_frame(trained)
live_line = study.foot(shown)
cin_line = study.foot(shown[shown["variant"] == "SCI + CCI"])
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (birds.mean, birds.std))
some = np.arange(
    min(360, len(birds.test))
)  # test images that this page looks at; classes take turns
pixels = torch.from_numpy(birds.test.images[some]).float() / 255  # (360, 3, 64, 64)
masks = torch.from_numpy(birds.test.parts["masks"][some])  # (360, P, 64, 64)
labels = birds.test.labels[some]
deciding = torch.from_numpy(birds.test.parts["discriminative"][some])
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


# %% tags=["table"]
def predicting(method):
    """Number of parameters that a prediction reads: all but those of the comparison."""
    compared = ("cci", "project")
    return sum(
        p.numel() for n, p in method.named_parameters() if not n.startswith(compared)
    )


show_table(
    pd.DataFrame(
        {
            "network": row,
            "test accuracy, %": plus_minus([network.record.final["test_accuracy"]]),
            "training accuracy, %": plus_minus(
                [network.record.final["train_accuracy"]]
            ),
            "parameters at inference": f"{predicting(network.method):,}",
            "training, s": f"{network.record.timing['train_seconds']:.0f}",
        }
        for row, network in trained.items()
    ),
    foot=live_line,
)

# %% [markdown]
# ## A look inside: which channels complement which?
#
# We sort the channels of one image by the part of the bird that they lie on, the part on which their map peaks. If complementary
# channels are different parts, $XX^\top$ should have blocks, and $W$ the opposite of these blocks.

# %% tags=["figure"]
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
figure, axes = plt.subplots(1, 4, figsize=(11, 3.2), width_ratios=(0.8, 1, 1, 1))
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
middle = [
    np.flatnonzero(where_on.numpy()[order] == p).mean() for p in np.unique(where_on)
]
axes[1].set_yticks(middle, [NAMES[p] for p in np.unique(where_on)], fontsize=8)
show(
    figure,
    name="fig-cin-relation",
    caption="One test bird, and the relations of its channels, sorted by the part that they lie on (lines) and by strength. "
    "In the two right panels 0 is an even share, orange is more and purple less.",
    alt="A bird and three square matrices with lines between groups of channels: mean products, and relative weights of SCI and of Pos-SCI, which "
    "have opposite signs.",
)

# %% tags=["output"]
mean_map = x.mean(1, keepdim=True)
product = torch.bmm(x.flatten(2), x.flatten(2).mT)  # (360, c, c)
centered = product - product.mean(2, keepdim=True)
s = 1 / x[0, 0].numel()
approximate = mean_map - s / c * torch.bmm(centered, x.flatten(2)).view_as(x)
fires = x.flatten(2).amax(2) > 0


def cosine(a, b):
    return F.cosine_similarity(a.flatten(2), b.flatten(2), dim=2)[fires].mean().item()


print(
    f"cosine of Y with the mean of all channels:        {cosine(y, mean_map.expand_as(y)):.3f}"
)
print(f"cosine of Y with its first-order approximation:   {cosine(y, approximate):.3f}")
print(f"largest of c · W − 1 over all images:             {(c * w - 1).max():.2f}")
print(
    f"size of φ(Y) beside X:                            {((z - x).norm() / x.norm()).item():.2f}"
)

# %% [markdown]
# These lines say which regime of {eq}`eq-cin-first-order` the network is in. A cosine near 1 in the first means that $Y$ is, for every channel, hardly
# more than the average map, and that what is particular to a channel must come from small differences.
#
# It matters for learning, too. Backward through $Y = WX$, channel $j$ gets $\sum_i W_{ij}\, \partial L / \partial Y_i$ and a term through the softmax. If all $W_{ij}$ are $1/c$, that is **the same
# for every channel**, and $\varphi$ is given $c$ copies of one map. We send a random gradient through both scales and compare what the channels get:

# %% tags=["output"]
some_x = x[:32].clone().requires_grad_()
upstream = torch.randn(some_x.shape, generator=torch.Generator().manual_seed(0))
for label, scale in (("s = 1/l", "positions"), ("s = 1", "none")):
    (gradient,) = torch.autograd.grad(
        self_channel_interaction(some_x, scale=scale), some_x, upstream
    )
    unit = F.normalize(gradient.flatten(2), dim=2)  # (32, c, l)
    alike = (unit @ unit.mT)[:, ~torch.eye(c, dtype=torch.bool)].mean().item()
    print(f"{label:<8} mean cosine of the gradients of two channels: {alike:.2f}")

# %% [markdown]
# Now the maps themselves: a strong channel on the deciding part; of the channels that lie on a part, the three with the largest weights in its
# row; and the channel after SCI. Their rank among all channels is written below: what ranks before them is silent, or peaks beside the bird.

# %% tags=["figure"]
shown = []
for part in ("crown", "breast", "wing", "tail"):
    mine = deciding == birds.part_names.index(part)
    on = mine[:, None] & (parts == deciding[:, None])  # (360, c)
    score = torch.where(on, x.flatten(2).amax(2), -1)
    best = int(score.max(1).values.argmax())
    shown.append((best, int(score[best].argmax())))
titles = (
    "image",
    "channel",
    *(f"complement {n}" for n in (1, 2, 3)),
    "$Y = WX$",
    "after SCI, $Z$",
)
low = center - 64 / x.shape[-1] / 2
frame = (low, low + 64, low + 64, low)  # where the cells of a map look
figure, axes = plt.subplots(len(shown), len(titles), figsize=(10, 6.2))
for row, (i, k) in zip(axes, shown, strict=True):
    ranked = [
        j for j in w[i, k].argsort(descending=True).tolist() if j != k
    ]  # the most complementary first
    chosen = [j for j in ranked if parts[i, j] >= 0][:3]
    row[0].imshow(pixels[i].permute(1, 2, 0), extent=(0, 64, 64, 0))
    x1, y1, x2, y2 = birds.test.parts["boxes"][some[i], deciding[i]]
    row[0].add_patch(
        Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="black", lw=1.6)
    )
    row[0].set_xlabel(birds.classes[labels[i]], fontsize=8)
    for ax, j in zip(row[1:5], (k, *chosen), strict=True):
        ax.imshow(x[i, j], extent=frame, vmin=0)
        rank = "" if j == k else f", rank {ranked.index(j) + 1}"
        ax.set_xlabel(
            f"{birds.part_names[parts[i, j]]}{rank}\nat most {x[i, j].max():.2g}",
            fontsize=8,
        )
    for ax, values in ((row[5], y[i, k]), (row[6], z[i, k])):
        ax.imshow(values, extent=frame)
        ax.set_xlabel(f"{values.min():.2g} … {values.max():.2g}", fontsize=8)
    for ax in row:
        ax.set(xticks=[], yticks=[], xlim=(0, 64), ylim=(64, 0))
for ax, title in zip(axes[0], titles, strict=True):
    ax.set_title(title)
show(
    figure,
    name="fig-cin-complements",
    caption="For four birds: the strongest channel on the deciding part (box); the three most complementary of the channels that lie on a part, with "
    "that part, their rank among all channels and their largest value; Y and Z of the first channel. Every map has a scale of its own.",
    alt="Four rows of seven pictures: a bird, a channel that fires at one part, three complementary channels, the mixture Y, and the channel after the "
    "block. Below each channel stand the part it lies on and its largest value.",
)

# %% [markdown]
# Look at the largest values, too. A product is small where two channels fire at different places, and *also* where one of them
# hardly fires at all.
#
# ### Are complementary channels other parts?
#
# On the synthetic birds the place of every part is known, so this can be counted. For each channel on a part, take the three channels that it chooses; of
# those that lie on a part, how many lie on **another** one? Beside it stands the same for three channels chosen at random, for the most alike channels (as
# Pos-SCI ranks them), for a ranking by cosine, which the strength of a channel cannot move, and for all channels weighted by $W$, which is what $Y$ is made of.

# %% tags=["table"]
KINDS = {
    "chance, %": "chance",
    "complementary, %": "different",
    "alike, %": "different_alike",
    "by cosine, %": "different_cosine",
    "weighted by W, %": "different_mixed",
}
HOW = {
    "strength of the complementary": "strength",
    "of the alike": "strength_alike",
    "silent among the complementary": "silent",
    "channels mixed": "mixed",
}
counts = {name: float(v[0] / v[1]) for name, v in compare_channels(x, parts).items()}
line = {"network": "SCI + CCI, this page"} | {
    title: f"{100 * counts[key]:.1f}" for title, key in KINDS.items()
}
line |= {title: f"{counts[key]:.2f}" for title, key in HOW.items()}
show_table(pd.DataFrame([line]), foot=f"{len(some)} test images. {cin_line}")


# %% [markdown]
# From here on numbers come from committed records; the line under each table says which data, seeds and device.

# %% tags=["experiment"]
by_component = study.run("components", VARIANTS, metrics=["complements"])
by_untrained = study.run(
    "parts",
    {"SCI, not trained": vary(VARIANTS["SCI"], lr=0.0, epochs=2)},
    metrics=["complements"],
    seeds=seeds[:3],
)

# %% tags=["table"]
both = pd.concat([by_untrained, by_component])
both = both[
    both["variant"].isin(
        ["SCI, not trained", "baseline", "Pos-SCI", "SCI", "SCI + CCI"]
    )
]
columns = {title: f"complements/{key}" for title, key in KINDS.items()}
columns |= {title: (f"complements/{key}", 1, 2) for title, key in HOW.items()}
show_table(summarize(both, columns, "network"), foot=study.foot(both))

# %% [markdown]
# - **baseline** is the control that matters: the same network trained without SCI, whose channels are ranked by the same products. Two maps that
#   peak at different positions *have* a smaller product, so some distance between *complementary* and *chance* is arithmetic, not learning.
# - **strength** is the norm of the chosen channels' maps over the mean norm in the image. Far below 1, channels are chosen for being weak rather than for being
#   elsewhere; the ranking *by cosine* is free of that.
# - **channels mixed** is the share of all channels that a row of $W$ effectively averages. Near 1, the choice of three that the other columns look at hardly
#   shows in $Y$, and *weighted by W* is close to *chance*.

# %% tags=["hide-input"]
different = "complements/different"
tell(
    "In the network trained with SCI, {sci} of the complementary channels that lie on a part "
    "lie on another part than the channel that chose them; in the same network trained "
    "without SCI, {plain}. The difference is {d}, {d.word} zero: so much is due to SCI, "
    "and the rest of the distance to chance ({chance}) is arithmetic.",
    sci=level(by_component, "SCI", different),
    plain=level(by_component, "baseline", different),
    d=difference(by_component, "SCI", "baseline", different),
    chance=level(by_component, "baseline", "complements/chance"),
)

# %% [markdown]
# ## Contrastive channel interaction
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
# with one fully connected layer $\psi$ to one number, and goes on as SCI does, $Z'_A = \varphi(W_{AB} X_A) + X_A$. Two channels:

# %% tags=["output"]
W_A = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
W_B = torch.tensor([[0.2, 0.8], [0.1, 0.9]])
for eta in (0.0, 0.5, 1.0):
    W_AB = (W_A - eta * W_B).abs()
    library = suppress(torch.stack([W_A, W_B]), torch.tensor([eta, 0.0]).view(2, 1, 1))
    torch.testing.assert_close(library[0], W_AB)
    print(
        f"η = {eta:.1f}   W_AB = {[[round(v, 2) for v in row] for row in W_AB.tolist()]}"
    )

# %% [markdown]
# With $\eta = 1$ the first row, the same in both images, is gone. The second, in which they differ, stays. Rows of $W_{AB}$ do not sum to one.
#
# Then the two sides are compared, after a projection $h$ to $r$ numbers, by a **contrastive loss** {footcite:p}`hadsell2006dimensionality` over $N$ pairs:
#
# $$
# \begin{aligned}
# L &= L_{CE}(Z) + \alpha L_{cont}, \\
# L_{cont} &= \frac1N \sum_{n} \begin{cases} d_n^2 & \text{same class} \\ \max(0, \beta - d_n)^2 & \text{else,} \end{cases} \\
# d_n &= \lVert h(Z'_A) - h(Z'_B) \rVert_2 .
# \end{aligned}
# $$ (eq-cin-loss)
#
# Pairs of one class are pulled together, all the way; pairs of two classes are pushed apart until $\beta$, and then left alone. CCI exists in training only: the
# classifier reads $Z$, never $Z'$, and a prediction needs one image.

# %% tags=["output"]
e_a = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)  # (N, r)
e_b = torch.tensor([[0.3, 0.0], [0.3, 0.0], [0.9, 0.0]])
same = torch.tensor([True, False, False])
loss = contrastive_loss(e_a, e_b, same, margin=0.5)
torch.testing.assert_close(loss, torch.tensor((0.3**2 + (0.5 - 0.3) ** 2 + 0) / 3))
(gradient,) = torch.autograd.grad(loss, e_a)
for kind, grad in zip(
    ("same class, d = 0.3", "other class, d = 0.3", "other class, d = 0.9"),
    gradient,
    strict=True,
):
    print(
        f"{kind:<21} step of descent on the left one: {[round(v, 3) for v in (-grad).tolist()]}"
    )

# %% [markdown]
# **What a pair costs.** $h$ reads averages over locations, and an average needs no maps. $\varphi$ is linear: at the average location, each of its nine taps meets the average
# of $Y$ over the map moved by that tap, with zeros coming in at the border, and these are $W_{AB}$ times those of $X$:
#
# $$
# \begin{aligned}
# \frac1l \sum_p Z'_p &= \frac1l \sum_p X_p + b_\varphi + \sum_{i,j} \varphi_{ij}\, W_{AB}\, M_{ij}(X), \\
# M_{ij}(X) &= \frac1l \sum_p X_{p + (i,\,j)}, \quad i, j \in \{-1, 0, 1\} .
# \end{aligned}
# $$ (eq-cin-averages)
#
# So nine numbers a channel go through $W_{AB}$ and $\varphi$ instead of $l$; at $14 \times 14$ that is $196$. It is the same $h(Z')$, and what the loss trains is the same:

# %% tags=["output"]
sci_small, cci_small = (
    SelfChannelInteraction(6).double(),
    ContrastiveChannelInteraction(6).double(),
)
maps = torch.rand(4, 6, 5, 7, dtype=torch.float64)  # (B, c, h, w)
pairs_small = torch.tensor([0, 1]), torch.tensor([2, 3])
z_a, _ = cci_small(sci_small, maps, *pairs_small)  # Z'_A as maps, (N, c, h, w)
a_of_features, _ = cci_small.features(sci_small, maps, *pairs_small)  # (N, c)
torch.testing.assert_close(a_of_features, z_a.mean((2, 3)))
weights = list(sci_small.parameters())
for short, long in zip(
    torch.autograd.grad(a_of_features.square().sum(), weights),
    torch.autograd.grad(z_a.mean((2, 3)).square().sum(), weights),
    strict=True,
):
    torch.testing.assert_close(short, long)
print(
    f"{maps[0, 0].numel()} numbers a channel by the maps, 9 by their averages; features and gradients agree"
)

# %% [markdown]
# **Which pairs?** A batch of random images of 200 classes has almost no pair of one class. So batches are $P$ classes × $K$ images, and each image is in one pair:

# %% tags=["output"]
batch = torch.arange(4).repeat_interleave(
    5
)  # a batch of 4 classes × 5 images, in the sampler's order
a, b = disjoint_pairs(batch, generator=torch.Generator().manual_seed(0))
print(
    "pairs of classes:",
    [(int(i), int(j)) for i, j in zip(batch[a], batch[b], strict=True)],
)
print("of one class:", int((batch[a] == batch[b]).sum()), "of", len(a))
print(
    "first half against second half:",
    int((batch[:10] == batch[10:]).sum()),
    "of one class",
)

# %% [markdown]
# The last line is what pairing the halves of a sorted batch gives, and a public port does: no pair of one class at all.
#
# ### What is suppressed?
#
# For three kinds of pairs of test images (of the **same** class; of **similar** classes, whose marks are on the same part; of **different** ones), we ask the network of
# this page for its $\eta$, for how much of the relation is left, and for the distances before and after.


# %%
@torch.no_grad()
def interact(a, b):
    """η and W_AB of pairs of the images of this page, and their distances with and without suppression."""
    cci, project = cin.cci.cpu(), cin.project.cpu()
    taken = []
    hook = cci.psi.register_forward_hook(
        lambda _module, _inputs, out: taken.append(out)
    )
    left, right = cci(sci_cpu, x, a, b)  # Z'_A, Z'_B
    hook.remove()
    factors = taken[0].unsqueeze(2)  # (2N, 1, 1)
    n = len(a)
    kept = suppress(torch.cat([w[a], w[b]]), factors)[:n]  # (N, c, c)
    return {
        "η": factors[:n].flatten(),
        "W_A and W_B differ by, %": 100
        * (w[a] - w[b]).abs().sum((1, 2))
        / w[a].sum((1, 2)),
        "left of W_A, %": 100 * kept.sum((1, 2)) / w[a].sum((1, 2)),
        "distance of h(Z)": (
            project(z[a].mean((2, 3))) - project(z[b].mean((2, 3)))
        ).norm(dim=1),
        "distance of h(Z′)": (
            project(left.mean((2, 3))) - project(right.mean((2, 3)))
        ).norm(dim=1),
    }, kept


same_class = labels[:, None] == labels[None, :]
same_part = deciding[:, None] == deciding[None, :]
kinds = {
    "same class": same_class & ~torch.eye(len(labels), dtype=torch.bool),
    "similar: the same part decides": ~same_class & same_part,
    "different": ~same_part,
}
pairs = {}
for kind, allowed in kinds.items():
    rows, columns = allowed.nonzero().unbind(1)
    pick = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))[:200]
    pairs[kind] = (rows[pick], columns[pick])
found = {kind: interact(*pair) for kind, pair in pairs.items()}

# %% tags=["table"]
show_table(
    pd.DataFrame(
        {"pairs": kind}
        | {
            name: plus_minus(v.tolist(), scale=1, digits=2)
            for name, v in numbers.items()
        }
        for kind, (numbers, _) in found.items()
    ),
    foot=f"Mean ± standard deviation over pairs. {cin_line}",
)

# %% tags=["figure"]
figure, axes = plt.subplots(3, 5, figsize=(9.6, 5.8))
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
    caption="A pair of each kind, and the relations of the 24 channels that are strongest in the two: of A, of B, and what is left of "
    "A's after suppression by B's, in one scale for each row; 1 is an even share.",
    alt="Three rows: two birds and three matrices each, the relations of both images and what is left of the first after the second is taken away.",
)

# %% [markdown]
# The purpose of CCI would show here as an $\eta$ that depends on the kind of pair, and as distances after suppression that are small in the first row of the table and
# larger in the others, more clearly than those before. The table says how far that is so in this small network.
#
# ## The ablation
#
# The paper's rows, all with the same batches of 4 classes × 5 images, the same head, learning rate and budget. Two controls are not in the paper: *φ alone*
# is the convolution without any channel interaction ($W = I$), and the *mean map* gives every channel the same ($W = 1/c$). What SCI adds beyond them is
# due to its relation.

# %% tags=["table"]
ACCURACY = {
    "test accuracy, %": "test_accuracy",
    "training accuracy, %": "train_accuracy",
}
table = summarize(by_component, ACCURACY, "network")
first = by_component[by_component["variant"] == "baseline"]
gains = []
for _, group in by_component.groupby("variant", sort=False):
    known = "test_accuracy" in group and group["test_accuracy"].notna().any()
    if not known or group["variant"].iloc[0] == "baseline":
        gains.append("")
        continue
    gain = paired(group, first, "test_accuracy")
    low, high = 100 * gain["low"], 100 * gain["high"]
    gains.append(f"{100 * gain['mean']:+.1f} [{low:+.1f}, {high:+.1f}]")
table.insert(len(table.columns) - 1, "over the baseline, points", gains)
show_table(table, foot=study.foot(by_component))

# %% tags=["hide-input"]
tell(
    "SCI is {sci.word} the baseline ({sci}), and CIN, with the contrast, is {cin.word} it "
    "({cin}). The control without any interaction, φ alone, is {phi.word} the baseline "
    "({phi}); SCI is {own.word} this control ({own}). So the gain that could be due to "
    "complementary channels is that last difference.",
    sci=difference(by_component, "SCI", "baseline"),
    cin=difference(by_component, "SCI + CCI", "baseline"),
    phi=difference(by_component, "φ alone", "baseline"),
    own=difference(by_component, "SCI", "φ alone"),
)

# %% [markdown]
# ### A diagnosis: SCI trains only at the right scale
#
# Built as it is printed, $Z = \varphi(WX) + X$, SCI does worse than no block at all. The reason is a scale. With $s = 1/l$ the rows of $W$ are nearly even,
# so $\varphi$ sees about the same map $c$ times, the mean of all channels. Its $c$ input slices then get one and the same gradient, and act through
# their sum $S$. A step of size λ moves each slice by $-\lambda g$, and so $S$ by $-c\,\lambda g$: this direction learns at $c$ times the rate of the network,
# and no normalization stands behind it. Divided by $\sqrt c$, $\varphi$ acts through $S/\sqrt c$; each slice's gradient becomes $g/\sqrt c$, and a step moves
# $S/\sqrt c$ by $-\lambda g$, the rate of the network at every width. The non-local block of the table has a BatchNorm in this place.
#
# The contrast has a scale of its own. On an $h$ of any length, a distance of β = 0.5 is soon exceeded by growing features, and at α = 2 the term pulls hard enough to make
# runs diverge. `fgvc_lib` gives $h$ unit length, as the triplet row has it; the paper does not say.

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

# %% tags=["table"]
show_table(summarize(by_scale, ACCURACY, "network"), foot=study.foot(by_scale))

# %% tags=["hide-input"]
tell(
    "As printed, SCI reaches {printed}; with φ divided by √c, {scaled}: a difference of {d} "
    "from one factor. The whole of CIN goes from {raw} to {unit} with both normalizations, "
    "and {lost} of its runs as printed diverge.",
    printed=level(by_scale, "SCI, as printed"),
    scaled=level(by_scale, "SCI, φ/√c"),
    d=difference(by_scale, "SCI, φ/√c", "SCI, as printed"),
    raw=level(by_scale, "SCI + CCI, as printed"),
    unit=level(by_scale, "SCI + CCI, φ/√c, unit h"),
    lost=lost(by_scale, "SCI + CCI, as printed"),
)

# %% [markdown]
# The paper reports on Caltech-UCSD Birds, with a pretrained ResNet-50 (its Table 1): 84.9 for the baseline, 87.1 with
# SCI, 87.2 with SCI and the contrastive loss on SCI's features, 87.5 with SCI and CCI. The step from the baseline to SCI is large, the
# step that the contrast adds is small. Of its rivals it gives SE 85.7, Pos-SCI 86.1 and the non-local block 86.6.
#
# ### The scale of the softmax

# %% tags=["table"]
columns = ACCURACY | {
    "channels mixed": ("complements/mixed", 1, 2),
    "silent among the complementary": ("complements/silent", 1, 2),
    "silent channels": ("complements/silent_chance", 1, 2),
}
show_table(summarize(by_softmax, columns, "SCI with"), foot=study.foot(by_softmax))

# %% [markdown]
# ### Which comparison of images?
#
# All on SCI's features: the contrastive loss with and without CCI, the triplet loss {footcite:p}`schroff2015facenet`, and pairwise confusion
# {footcite:p}`dubey2018pairwise`, which does the opposite of pushing apart: it holds the *predictions* for different classes together, against over-confidence.

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

# %% tags=["table"]
show_table(summarize(by_loss, ACCURACY, "added loss"), foot=study.foot(by_loss))

# %% [markdown]
# ### Two depths
#
# Does a deeper network, whose channels have interacted more often already, gain less?

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

# %% tags=["table"]
show_table(summarize(by_depth, ACCURACY, "network"), foot=study.foot(by_depth))

# %% [markdown]
# ### Plug and play
#
# SCI keeps the shape of a map, so it can stand behind any stage of any method; `CIN(base=…)` puts it there, with CCI and its loss. Here: behind the last
# stage and the one below it of the plain network, inside a {doc}`Bilinear CNN <04_bilinear_cnn>`, and inside {doc}`Center Loss <02_center_loss>`. Every method
# stands beside itself, with the same batches.

# %% tags=["experiment"]
bilinear = {"base": "bcnn", "base_args": {"head_fraction": 0.0}}
by_plug = study.run(
    "plug",
    {
        "average pooling": VARIANTS["baseline"],
        "average pooling + SCI + CCI": VARIANTS["SCI + CCI"],
        "average pooling + SCI + CCI, one stage lower": interaction(
            contrast="cci", stage="layer2"
        ),
        "B-CNN": vary(interaction("none", **bilinear), lr=5 * lr),
        "B-CNN + SCI + CCI": vary(interaction(contrast="cci", **bilinear), lr=5 * lr),
        "Center Loss": interaction("none", base="center"),
        "Center Loss + SCI + CCI": interaction(contrast="cci", base="center"),
    },
    seeds=seeds[:3],
)

# %% tags=["table"]
show_table(summarize(by_plug, ACCURACY, "method"), foot=study.foot(by_plug))

# %% [markdown]
# ### α and β

# %% tags=["experiment"]
by_alpha = study.run(
    "alpha",
    {f"{a:g}": interaction(contrast="cci", alpha=a) for a in alphas},
    seeds=seeds[:2],
)
by_margin = study.run(
    "margin",
    {f"{m:g}": interaction(contrast="cci", margin=m) for m in margins},
    seeds=seeds[:2],
)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(7.6, 3), sharey=True)
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
    name="fig-cin-sweeps",
    caption="Accuracy over the weight α (with β = 0.5) and the margin β (with α = 2); a dot is a seed, the line their mean.",
    alt="Two plots of test accuracy, over the weight alpha and over the margin beta of the contrastive loss.",
)

# %% tags=["table"]
sweeps = [summarize(runs, ACCURACY, "α, β") for runs in (by_alpha, by_margin)]
sweeps[0]["α, β"] = [f"{row}, 0.5" for row in sweeps[0]["α, β"]]
sweeps[1]["α, β"] = [f"2, {row}" for row in sweeps[1]["α, β"]]
show_table(pd.concat(sweeps), foot=study.foot(pd.concat([by_alpha, by_margin])))

# %% [markdown]
# ## One stage: what it costs
#
# The paper's claim is that CIN, unlike methods that crop parts and look again, predicts in **one stage**: SCI is one block, and CCI is not there. Counted for one image of 448
# pixels with the paper's ResNet-50, without computing anything:


# %% tags=["table"]
def counted(size, depth, **arguments):
    """Multiply-adds of a prediction, and parameters that it reads."""
    # the plain formula of attention has the products that fused kernels hide from the counter
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
base, _ = counted(448, 50, **rows["baseline"])
for row, arguments in rows.items():
    count, read = counted(448, 50, **arguments)
    lines.append(
        {
            "network": row,
            "multiply-adds, 10⁹": f"{count / 1e9:.2f}",
            "× baseline": f"{count / base:.2f}",
            "parameters, 10⁶": f"{read / 1e6:.1f}",
        }
    )
show_table(
    pd.DataFrame(lines),
    foot="Counted on this page: one prediction by a ResNet-50 at 448 pixels, 200 classes.",
)

# %% [markdown]
# Nearly all that SCI adds is $\varphi$, $9 c^2$ weights. Training also pays for CCI: written with maps, for $\varphi$ a second time; by {eq}`eq-cin-averages`, for little more than
# the relations. Measured by `benchmarks/second_order.py`: the time of a training step over the baseline's, beside the ratio of their multiply-adds.

# %% tags=["table"]
lines, feet = [], []
for bench in benchmarks.records("second_order"):
    for setting in bench["steps"]:
        name = f"{setting['backbone']}, {setting['image_size']} px, batch {setting['batch']}, {bench['device']['type']}"
        for row, over in setting["over_baseline"].items():
            lines.append(
                {
                    "setting": name,
                    "network": row,
                    "time of a step, × baseline": f"{over['median']:.2f}",
                    "multiply-adds, × baseline": f"{over['multiply_adds']:.2f}",
                }
            )
    feet.append(
        f"{bench['device']['name']}, torch {bench['versions']['torch']}, {bench['repeats']} rounds in turn, medians"
    )
show_table(
    pd.DataFrame(lines, columns=None if lines else ["setting"]),
    foot="; ".join(feet) or "Nothing has been measured yet.",
)

# %% [markdown]
# ## Paper versus official implementation
#
# The authors released nothing. The one public port that we know of reaches 85.34 on Caltech-UCSD Birds at 224 pixels (its results file), beside 87.5 in the paper at 448. It
# differs from the formulae in its loss. We write its defects into a **deliberately wrong** loss, and hold it against checks that the library passes.


# %% tags=["table"]
def right_loss(a, b, labels, margin=0.5):
    """Pair n is (a[n], b[n]), of images n and N + n."""
    n = len(a)
    return contrastive_loss(a, b, labels[:n] == labels[n:], margin=margin)


def wrong_loss(a, b, labels, margin=0.5):
    """Three defects on purpose. Do not use."""
    n = len(a)
    same = (
        labels[:n] == labels[n]
    ).float()  # defect: one label of the second half instead of all (a colon is missing)
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
# The third check is green for the wrong loss as well: a term that is dead everywhere is dead beyond the margin, too. A test has to ask for the push itself. What the defects do to
# points that are free to move, three classes in the plane, contrast alone:


# %% tags=["figure"]
def descend(loss, steps=12):
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(20)
    points = 0.12 * torch.randn(60, 2, generator=g)
    start = points.clone()
    for _ in range(steps):
        a, b = disjoint_pairs(labels, generator=g)
        points.requires_grad_()
        value = loss(points[a], points[b], torch.cat([labels[a], labels[b]]))
        (gradient,) = torch.autograd.grad(value, points)
        scale = (
            len(a) if loss is right_loss else 1
        )  # as if it were the mean's N: the same rate for both
        points = (points - 0.1 * scale * gradient).detach()
    return start, points, labels


figure, axes = plt.subplots(1, 3, figsize=(9, 3.1), sharex=True, sharey=True)
start, right_points, point_labels = descend(right_loss)
panels = {
    "start": start,
    "the library's loss": right_points,
    "the wrong loss": descend(wrong_loss)[1],
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
    name="fig-cin-port",
    caption="Points of three classes under the contrastive loss alone (β = 0.5), by gradient descent on pairs that are drawn anew in every "
    "step. The wrong loss knows only one direction: together.",
    alt="Three scatter plots of three classes of points. At the start they overlap; with the library's loss they form separate clusters; with the wrong "
    "loss they do not separate.",
)

# %% [markdown]
# More differences:
#
# - **Batches of one.** The port drops all dimensions of length one after pooling. With one image that takes the batch's dimension too:

# %% tags=["output"]
pooled = torch.zeros(1, 64, 1, 1)
print(
    "squeeze():",
    tuple(pooled.squeeze().shape),
    "  flatten(1):",
    tuple(pooled.flatten(1).shape),
)
with torch.no_grad():
    print(
        "logits of one image in the library:",
        tuple(plain(torch.zeros(1, 3, 64, 64, device=where)).logits.shape),
    )

# %% [markdown]
# - **Flattened maps.** In the port $h$ and $\psi$ see whole maps, which fixes the size of the images. Here both see averages by default, and `map_size` flattens:

# %% tags=["output"]
for name, map_size in {
    "averaged": None,
    "flattened, 7 × 7": (7, 7),
    "flattened, 14 × 14": (14, 14),
}.items():
    places = 1 if map_size is None else map_size[0] * map_size[1]
    with torch.device("meta"):
        psi = ContrastiveChannelInteraction(2048, map_size=map_size).psi
        project = torch.nn.Linear(2048 * places, 512)
    count = {
        k: sum(p.numel() for p in layer.parameters())
        for k, layer in {"ψ": psi, "h": project}.items()
    }
    print(f"{name:<19} ψ {count['ψ']:>9,} parameters, h {count['h']:>12,}")

# %% [markdown]
# - **Y or φ(Y).** The port gives $\psi$ the map $\varphi(Y)$; the formula as quoted says $Y$, and so does the library.
# - **A fresh φ.** Initialized like any convolution, it changes what a trained network has learned to read. We put a fresh block in front of the head of the
#   plain network of this page:

# %% tags=["output"]
torch.manual_seed(0)
with torch.no_grad():
    features = plain.backbone(((pixels - mean) / std).to(where))[
        plain.backbone.last
    ].cpu()
    head = plain.head.cpu()

    def scored(maps):
        return 100 * (head(maps.mean((2, 3))).argmax(1) == labels).float().mean().item()

    print(f"no block:                    {scored(features):.1f} %")
    for normalize, name in ((False, "as printed"), (True, "φ/√c")):
        block = SelfChannelInteraction(features.shape[1], normalize=normalize)
        out = block(features)
        change = ((out - features).norm() / features.norm()).item()
        print(
            f"fresh block, {name:<12}    {scored(out):.1f} %, ‖Z − X‖ / ‖X‖ = {change:.2f}"
        )

# %% [markdown]
# ## Exercises
#
# 1. **A dead channel.** Channel $j$ is zero everywhere. What is column $j$ of $W$, relative to the rest of a row, for SCI and Pos-SCI, with $s = 1$? What if $X$ could be negative?
#
# ```{dropdown} Solution
# Its products are zero, so its weight is $1 / \sum_k \exp(\mp (XX^\top)_{ik})$. After a ReLU all products are at least zero: in SCI that is the largest weight
# of the row, in Pos-SCI the smallest. With negative values, products below zero are more complementary than silence, and the trouble goes away.
# ```
#
# 2. **Cosines.** Replace $XX^\top$ by the cosines of the channels' maps. Which of the two regimes of {numref}`fig-cin-scale` are you in, and what would a
#    temperature do?
#
# ```{dropdown} Solution
# Cosines of non-negative maps lie in [0, 1], so without a temperature $cW$ lies between $1/e$ and $e$: a nearly plain mean, as with $s = 1/l$ on small features. A temperature
# $\tau < 1$, $\exp(-\cos / \tau)$, sharpens the choice without preferring weak channels.
# ```
#
# 3. **η = 1 and the same image twice.** What is $Z'_A$ if $A = B$ and $\eta = 1$? What are the distance and the gradient of the loss?
#
# ```{dropdown} Solution
# $W_{AB} = 0$, so $Z'_A = X_A$ plus φ's bias, as for $B$. The distance is zero, the pair is of one class, and both loss and gradient vanish (the library takes the gradient
# of the distance at zero as zero; a literal √ has 0/0 there).
# ```
#
# 4. **What the margin means.** Leave $h$ linear and unconstrained, as the paper has it. Show that for any network with $L_{cont} > 0$ from negative pairs alone, scaling $h$ lowers the loss. Why
#    can that not go on with positive pairs in the batch?
#
# ```{dropdown} Solution
# Distances scale with $h$: multiply until every negative pair is beyond β. Distances of positive pairs grow alike and cost $d^2$. So the loss fixes the *ratio* of the two
# kinds of distances, in units of β. The library's $h$ of length one fixes the scale instead, and β means the same for every network.
# ```
#
# 5. **Symmetry.** Swapping $A$ and $B$ swaps $Z'_A$ and $Z'_B$. Which property of ψ guarantees it, and what would two different layers for η and γ cost?
#
# ```{dropdown} Solution
# One ψ, applied to $[Y_A, Y_B]$ and to $[Y_B, Y_A]$. With two layers the loss would depend on which image is called A, and each would see half of the orders in training.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
