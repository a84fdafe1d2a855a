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
# # Center Loss
#
# *The paper:* {footcite:t}`wen2016discriminative`. A softmax classifier only asks features to be **separable**. Center Loss
# asks them to be **compact** as well: every feature is pulled to the centre of its class. One line of loss, one line
# of update, no pairs to mine.
#
# What this chapter does: derives the loss and its update, builds both in a few lines, checks them against
# `fgvc_lib`, looks at what they do to features in two dimensions, and measures what the paper claims.

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
import pandas as pd
import torch
import torch.nn.functional as F

from fgvc_lib import results
from fgvc_lib.data import load
from fgvc_lib.losses.center import CenterLoss, center_loss, update_centers
from fgvc_lib.methods.center import Center
from fgvc_lib.results import wanted
from fgvc_lib.results.plots import COLORS, curve, scatter_2d, show, show_table, style
from fgvc_lib.results.tables import provenance_line, summarise

CHAPTER = "02_center_loss"
device = None if device == "auto" else device
measure = partial(wanted.measure, profile=profile, device=device)
style()

# %% [markdown]
# ## The problem
#
# Two cars of one model, photographed in rain and in sun, may be farther apart in pixels than two models side by side.
# Fine-grained recognition lives with exactly this: **large variation inside a class, small variation between classes.**
# The softmax loss
#
# $$
# L_S = -\frac1m\sum_{i=1}^{m} \log \frac{e^{W_{y_i}^\top x_i + b_{y_i}}}{\sum_{j=1}^{n} e^{W_j^\top x_i + b_j}}
# $$ (eq-center-softmax)
#
# is content as soon as $W_{y_i}^\top x_i$ is the largest score. Any feature far out in the right direction will do, so
# a class becomes a long ray, and a feature near the root of a ray is close to all the others.
#
# Earlier remedies compare samples with each other. The contrastive loss {footcite:p}`hadsell2006dimensionality` looks at
# pairs, the triplet loss {footcite:p}`schroff2015facenet` at triples. There are many of them:


# %% tags=["output"]
def count_pairs(n: int) -> int:
    return n * (n - 1) // 2


def count_triplets(n: int, classes: int) -> int:
    """(anchor, positive, negative) with equal classes: n choices, then the rest of its class, then all others."""
    k = n // classes
    return n * (k - 1) * (n - k)


for n in (1_000, 10_000, 60_000):
    print(
        f"{n:>6,} samples of 10 classes: {count_pairs(n):>13,} pairs, {count_triplets(n, 10):>22,} triplets, 10 centres"
    )

# %% [markdown]
# Pairs grow with $n^2$, triplets with $n^3$. Nobody trains on all of them, so both losses need **mining**, and results
# depend on how it is done. Center Loss replaces the other samples by one point for each class: $n$ comparisons.
#
# ## The loss
#
# For features $x_i \in \mathbb R^d$, labels $y_i$ and one centre $c_j \in \mathbb R^d$ for each class,
#
# $$
# L_C = \frac12 \sum_{i=1}^{m} \lVert x_i - c_{y_i} \rVert_2^2,
# \qquad
# \frac{\partial L_C}{\partial x_i} = x_i - c_{y_i},
# \qquad
# L = L_S + \lambda L_C .
# $$ (eq-center-loss)
#
# The gradient is the vector from the centre to the feature: each step of descent moves the feature straight at its
# centre. The $\tfrac12$ is there so that no 2 is left over. $\lambda$ weighs the two.
#
# From scratch it is two lines. We take two classes in the plane, small enough to check by hand:

# %% tags=["output"]
centers = torch.tensor([[0.0, 0.0], [1.0, 1.0]])  # (n, d) = (2, 2)
features = torch.tensor([[3.0, 4.0], [1.0, 3.0]], requires_grad=True)  # (m, d)
labels = torch.tensor([0, 1])  # (m,)

difference = features - centers[labels]  # (m, d): each feature minus the centre of its own class
scratch = 0.5 * difference.square().sum()
scratch.backward()
print(f"L_C = ½(3² + 4²) + ½(0² + 2²) = {scratch.item()}")
print("gradient:", features.grad.tolist())

library = center_loss(features, labels, centers, reduction="sum")
torch.testing.assert_close(library, scratch)  # the library agrees

# %% [markdown]
# ```{admonition} Sum or mean?
# :class: note
# The paper writes both losses as sums over the batch; `torch` averages cross-entropy by default. If one is averaged
# and the other is not, λ silently changes by a factor of the batch size. `fgvc_lib` averages **both** by default, so
# that λ weighs them as in the paper; `reduction="sum"` gives the equations literally.
# ```
#
# ## The centres
#
# Where should the centres be? At the means of their classes, but the means move with every step, and computing
# them takes a pass over the data. The paper moves the centres a little at each step instead, by the samples of the batch:
#
# $$
# \Delta c_j = \frac{\sum_{i=1}^{m} \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_{i=1}^{m} \delta(y_i = j)},
# \qquad c_j \leftarrow c_j - \alpha\,\Delta c_j .
# $$ (eq-center-update)
#
# This is *not* the gradient of {eq}`eq-center-loss`. The denominator counts the samples of the class, so a class that
# fills the batch does not rush ahead; and its 1 keeps the centre of an absent class where it is instead of dividing
# zero by zero. With $k$ samples of mean $\bar x$ the centre goes
#
# $$
# c_j \leftarrow c_j + \alpha \frac{k}{1+k} (\bar x - c_j),
# $$ (eq-center-step)
#
# a share $\alpha k/(1+k)$ of the way to the batch mean, whatever $\lambda$, the learning rate and the batch size.


# %% tags=["output"]
def update_from_scratch(centers, features, labels, alpha=0.5):
    new = centers.clone()
    for j in range(len(centers)):
        mine = features[labels == j]  # (k, d)
        delta = (centers[j] - mine).sum(0) / (1 + len(mine))
        new[j] = centers[j] - alpha * delta
    return new


g = torch.Generator().manual_seed(0)
some_centers = torch.randn(5, 2, generator=g)
some_features = torch.randn(8, 2, generator=g)
some_labels = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3])  # classes 1 and 4 are absent
expected = update_from_scratch(some_centers, some_features, some_labels)
updated = update_centers(some_centers.clone(), some_features, some_labels, alpha=0.5)
torch.testing.assert_close(updated, expected)
print("moved by:", [round(float(v), 3) for v in (updated - some_centers).norm(dim=1)])

# %% [markdown]
# In `fgvc_lib` the centres are a *buffer* of {py:class}`fgvc_lib.losses.center.CenterLoss`: they are saved and moved to the GPU
# with the model, but no optimizer can forget them, decay them or give them momentum. In a loop of one's own:
#
# ```python
# center = CenterLoss(num_classes, feature_dim)
# loss = F.cross_entropy(logits, labels) + 0.003 * center(features, labels)
# loss.backward()
# optimizer.step()
# center.update(features, labels)
# ```
#
# ### Watch it work
#
# Before any network: let the *features themselves* be the parameters. Three classes of points, a linear classifier,
# gradient descent on {eq}`eq-center-loss`.


# %% tags=["figure"]
def descend(weight: float, steps: int = 400):
    g = torch.Generator().manual_seed(3)
    y = torch.arange(3).repeat_interleave(40)
    x = (
        torch.randn(120, 2, generator=g) + 1.5 * torch.tensor([[0, 1], [0.87, -0.5], [-0.87, -0.5]])[y]
    ).requires_grad_()
    w = torch.randn(3, 2, generator=g).requires_grad_()
    centre = CenterLoss(3, 2)
    path = []
    for _ in range(steps):
        loss = F.cross_entropy(x @ w.T, y) + weight * centre(x, y)
        gx, gw = torch.autograd.grad(loss * len(y), (x, w))
        with torch.no_grad():
            x -= 0.05 * gx
            w -= 0.005 * gw
        centre.update(x.detach(), y)
        path.append(centre.centers.clone())
    return x.detach(), y, torch.stack(path)


figure, axes = plt.subplots(1, 3, figsize=(9, 3.1))
for ax, weight in zip(axes, (0.0, 0.03, 0.3), strict=True):
    x, y, path = descend(weight)
    scatter_2d(ax, x.numpy(), y.numpy(), names="ABC")
    for j in range(3):
        ax.plot(*path[:, j].T, color="black", lw=1, alpha=0.7)
    ax.set_title(f"λ = {weight:g}")
show(
    figure,
    name="fig-center-toy",
    caption="Gradient descent on the features themselves. Without center loss the classes are driven apart and stay "
    "as wide as they were; with it they contract to their centres, whose way is drawn in black.",
    alt="Three scatter plots of three classes of points. For lambda 0 the classes are wide clouds. For larger lambda they "
    "shrink to tight clusters around their centres.",
)

# %% [markdown]
# ## A network with a two-dimensional feature
#
# The paper's LeNet++ ends in a feature of **two** numbers, which can be drawn as they are. Its last layer has no bias:
# a class then is a direction, and the classes spread around the origin.
#
# | stage | layers | output |
# | --- | --- | --- |
# | `conv1` | 2 × (5×5, 32), PReLU | 32 × 28 × 28 |
# | `conv2` | pool, 2 × (5×5, 64), PReLU | 64 × 14 × 14 |
# | `conv3` | pool, 2 × (5×5, 128), PReLU | 128 × 7 × 7 |
# | `embedding` | pool, fully connected, PReLU | $d$ = 2 |
# | classifier | linear, no bias | 10 |
#
# We train it twice on the data of this profile: with the softmax loss alone, and with center loss added.

# %%
if profile in wanted.groups()["center/live"].profiles:
    changes = {"epochs": epochs} | ({"data": data} if data else {})
    rows = wanted.groups()["center/live"].configs(profile, seeds=seeds[:1], **changes)
else:
    rows = wanted.groups()["center/features"].configs(profile)
pair = {row: configs[0] for row, configs in rows.items()}
common = pair["softmax"]
images = load(common.data, **common.data_args)
trained = {
    row: results.trained(config, profile=profile, chapter=CHAPTER, data=images, device=device)
    for row, config in pair.items()
}

# %% tags=["figure"]
figure, axes = plt.subplots(2, 2, figsize=(7.2, 6.4))
for column, (row, (_, record)) in zip(axes.T, trained.items(), strict=True):
    arrays = record.load_arrays()
    for ax, split in zip(column, ("train", "test"), strict=True):
        scatter_2d(ax, arrays[f"features_2d/{split}"], arrays[f"features_2d/{split}_labels"])
        ax.set_title(f"{row}, {split}")
show(
    figure,
    name="fig-center-features",
    caption="Two-dimensional features of the digits, trained on this page. Softmax alone makes rays: separable, but long, "
    "and all near each other at the root. Center loss gathers each class around a point.",
    alt="Four scatter plots of features, train and test, without and with center loss. Without it each digit is a ray from "
    "the origin; with it each digit is a compact cluster.",
)

# %% tags=["table"]
live = pd.DataFrame(
    {
        "loss": row,
        "test accuracy, %": round(100 * record.final["test_accuracy"], 1),
        "mean distance to class mean": round(record.final["compactness/intra"], 2),
        "mean distance to nearest other class": round(record.final["compactness/margin"], 2),
        "ratio": round(record.final["compactness/ratio"], 3),
    }
    for row, (_, record) in trained.items()
)
show_table(live, foot=provenance_line([record for _, record in trained.values()]))

# %% [markdown]
# The **ratio** of the two distances does not change when all features are scaled, so it is the number to compare:
# how wide a class is, measured in gaps between classes.
#
# ## How much? The sweep over λ
#
# From here on the tables and curves are drawn from committed records; the line under each says which profile, data,
# seeds and device they come from. While this page was built in the quick profile every row was also run for a few
# steps, to prove that it still runs.

# %%
sweep, by_lambda = measure("center/lambda")
weights = sorted(by_lambda["method_args.weight"].unique())

# %% tags=["figure"]
first = {record.config["method_args"]["weight"]: record for record in reversed(sweep) if record.arrays}
figure, axes = plt.subplots(2, 3, figsize=(9, 6))
for ax, weight in zip(axes.flat, weights, strict=True):
    if weight in first:
        arrays = first[weight].load_arrays()
        scatter_2d(ax, arrays["features_2d/test"], arrays["features_2d/test_labels"])
    ax.set_title(f"λ = {weight:g}")
show(
    figure,
    name="fig-center-lambda-features",
    caption="Test features for growing λ, the paper's Figure 3. Each panel has its own scale; look at how wide a class is "
    "beside the gaps.",
    alt="Six scatter plots of two-dimensional features, for six values of lambda from 0 to 1. Classes become more compact "
    "relative to the gaps between them as lambda grows.",
)

# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3))
for ax, (value, title) in zip(
    axes,
    [
        ("compactness/intra", "distance to class mean"),
        ("compactness/margin", "distance to nearest class"),
        ("compactness/ratio", "ratio"),
    ],
    strict=True,
):
    curve(ax, weights, by_lambda, "method_args.weight", value, color=COLORS[0])
    ax.set(xlabel="λ", title=title)
axes[0].set_yscale("log")
axes[1].set_yscale("log")
show(
    figure,
    name="fig-center-lambda-distances",
    caption="Distances inside and between classes against λ; a dot is a seed, the line their mean. Center loss shrinks "
    "both, the first more than the second: the ratio falls.",
    alt="Three curves over lambda. Mean distance to the class mean, mean distance to the nearest other class, and their "
    "ratio.",
)

# %% tags=["table"]
scores = {
    "accuracy, %": "test_accuracy",
    "verification AUC, %": "verification/auc",
    "ratio": ("compactness/ratio", 1, 3),
}
show_table(summarise(by_lambda, scores, "λ"), foot=provenance_line(sweep))

# %% [markdown]
# The paper's Figure 5 sweeps λ on faces and finds the best value near 0.003, with λ = 0 clearly worst. Ours is another data set,
# another network and a mean in place of a sum over other batch sizes; what carries over is the shape of the curve, not the place of its top.
#
# ### Is it good for more than accuracy?
#
# Two claims go with compact features. *Verification* (are these two images of one class?) uses distances between
# features directly, so it should gain more than classification does. And samples at the border of a class, natural or
# adversarial, should be fewer: an attack has to cross a wider gap. We attack with one step of the fast gradient sign
# method {footcite:p}`goodfellow2015explaining`.

# %% tags=["figure"]
figure, axes = plt.subplots(1, 3, figsize=(9.5, 3))
by = "method_args.weight"
curve(axes[0], weights, by_lambda, by, "test_accuracy", color=COLORS[0])
curve(axes[1], weights, by_lambda, by, "verification/auc", color=COLORS[1], label="cosine")
curve(axes[1], weights, by_lambda, by, "verification/auc_l2", color=COLORS[2], ls="--", label="Euclidean")
for eps, color, dash in zip((0.05, 0.1, 0.2), COLORS, ("-", "--", ":"), strict=False):
    curve(axes[2], weights, by_lambda, by, f"fgsm/eps{eps:g}", color=color, ls=dash, label=f"ε = {eps:g}")
axes[1].legend()
axes[2].legend()
for ax, title in zip(axes, ("test accuracy", "verification AUC", "accuracy under attack"), strict=True):
    ax.set(xlabel="λ", title=title)
show(
    figure,
    name="fig-center-lambda-scores",
    caption="Accuracy, verification and accuracy under the fast gradient sign method, against λ.",
    alt="Three plots over lambda: test accuracy, area under the verification curve by cosine and by Euclidean distance, and "
    "accuracy under an adversarial step of three sizes.",
)

# %% [markdown]
# ## How fast? The sweep over α
#
# The centres follow the class means with a delay. How long a delay is it, and does it matter? We measure the distance of each centre
# to the true mean of its class over the training set, divided by the distance of a typical sample to that mean.

# %%
alphas, by_alpha = measure("center/alpha")
by_alpha["alpha"] = by_alpha["method_args.alpha"]

# %% tags=["figure"]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3))
steps = sorted(by_alpha["alpha"].unique())
curve(axes[0], steps, by_alpha, "alpha", "center_drift/relative", color=COLORS[0])
curve(axes[1], steps, by_alpha, "alpha", "test_accuracy", color=COLORS[1])
for ax, title in zip(axes, ("centre's distance to the class mean", "test accuracy"), strict=True):
    ax.set(xlabel="α", title=title)
    ax.set_xticks(range(len(steps)), [f"{s:.2g}" for s in steps])
show(
    figure,
    name="fig-center-alpha",
    caption="Left: how far the centres lag behind the true class means, in units of a typical sample's distance to its "
    "mean. Right: accuracy. The leftmost point is the step of a port that divides by the batch size once more.",
    alt="Two plots over alpha. The lag of the centres falls as alpha grows; accuracy changes little.",
)

# %% tags=["table"]
lags = {"accuracy, %": "test_accuracy", "lag of the centres": ("center_drift/relative", 1, 3)}
show_table(summarise(by_alpha, lags, "α"), foot=provenance_line(alphas))

# %% [markdown]
# ## A wider feature
#
# Two dimensions make good pictures and a poor classifier. With 64 dimensions:

# %%
wide = [measure(f"center/{name}") for name in ("features", "wide")]

# %% tags=["table"]
scores |= {"under attack (ε = 0.1), %": "fgsm/eps0.1"}
lines = []
for records, table in wide:
    lines.append(summarise(table, scores, "loss"))
    lines[-1].insert(0, "feature", f"{records[0].config['backbone_args']['feature_dim']}-d")
show_table(pd.concat(lines), foot=provenance_line([r for records, _ in wide for r in records]))

# %% [markdown]
# ## Paper versus released code
#
# Center Loss has been copied many times, and the copies differ in ways that change what is trained. We run the
# differences on one batch of 128 with 13 samples of a class, the usual count on ten classes.
#
# | implementation | loss | step of the centre |
# | --- | --- | --- |
# | paper | ½ sum | {eq}`eq-center-update` times α |
# | authors' Caffe layer | ½ mean | {eq}`eq-center-update`, then through the SGD solver: the learning rate is the α, with momentum |
# | a PyTorch port, since a change in 2018 | ½ mean | {eq}`eq-center-update` divided by the batch size |
# | another PyTorch port | mean, without the ½ | derivative of the loss, times 1/λ |


# %% tags=["output"]
def one_step(kind: str, k: int = 13, batch: int = 128, alpha: float = 0.5) -> float:
    """Share of the way to the batch mean that a centre at 0 goes when its k samples lie at 1."""
    centre = torch.zeros(1, requires_grad=True)
    x = torch.ones(k)
    if kind == "paper":
        delta = (centre - x).sum() / (1 + k)
    elif kind == "divided by the batch":
        delta = (centre - x).sum() / (1 + k) / batch
    elif kind == "derivative without ½":
        loss = (x - centre).square().sum() / batch  # the mean over the batch; other classes do not touch this centre
        (delta,) = torch.autograd.grad(loss, centre)
    return float(-alpha * delta.detach())


steps = {kind: one_step(kind) for kind in ("paper", "divided by the batch", "derivative without ½")}
for kind, step in steps.items():
    print(f"{kind:<22} {step:.4f} of the way   ({steps['paper'] / step:6.1f}× slower than the paper)")
single = one_step("derivative without ½", k=1)
print(f"with a single sample:  {single:.4f} by the derivative, {one_step('paper', k=1):.4f} by the paper")

# %% [markdown]
# - **Divided by the batch.** Exactly 128 times slower. This is the row `0.5 / 128` of the sweep over α above: the
#   table there says what it costs on this data.
# - **The dropped ½** is only a factor: that port's λ counts double. Compare weights across papers with care.
# - **The derivative** gives frequent classes larger steps, and rare ones almost none, which the 1 + count was there to avoid.
# - **Gradient hooks and AMP.** Ports that move the centres through `.grad` find them multiplied by the loss scale under mixed
#   precision, and by λ unless they divide it out again (by zero, at λ = 0). A plain in-place update has neither trouble.
# - **The bias.** The authors' MNIST network has none in its last layer; one port has. With a bias the classes need not spread
#   around the origin.


# %% tags=["output"]
def scaled_step(scale: float, weight: float) -> float:
    """The derivative variant under a loss scale and a weight: what reaches the centre if nobody undoes either."""
    centre = torch.zeros(1, requires_grad=True)
    loss = scale * weight * (torch.ones(13) - centre).square().sum() / 128
    loss.backward()
    return float(-0.5 * centre.grad)


print(
    f"λ = 1, no scaling: {scaled_step(1, 1):.3f}   λ = 0.003: {scaled_step(1, 0.003):.5f}   loss scale 1024: {scaled_step(1024, 1):.1f}"
)

# %% [markdown]
# ### What it costs
#
# One table of $n \times d$ numbers, one gather and one subtraction; no parameter is added to what is kept for
# inference, and nothing is computed there.

# %% tags=["output"]
method = Center(trained["softmax"][0].backbone, 10)
print(
    f"{sum(p.numel() for p in method.parameters()):,} parameters, {method.center_loss.centers.numel()} numbers in centres"
)

# %% [markdown]
# ## Exercises
#
# 1. **The +1.** Remove the 1 from the denominator of {eq}`eq-center-update`. What happens to a class that is absent from the batch?
#    With the 1 in place, what is the fixed point of the update if a class always has the same $k$ samples?
#
# ```{dropdown} Solution
# Without the 1 an absent class gets 0/0. With it, the fixed point solves $\sum_i (c - x_i) = 0$: the mean of the samples; the 1
# slows the approach by $k/(1+k)$ but does not move its goal.
# ```
#
# 2. **Collapse.** Start {numref}`fig-center-toy` from centres that are all equal, with λ = 10. What does the joint
#    loss do first, and why can it recover?
#
# ```{dropdown} Solution
# The center loss dominates and pulls all features to one point, where the softmax gradient is small: the loss
# looks finished at chance accuracy. The softmax term still pushes the classes apart, weakly; the centres follow their classes,
# so the pull does not oppose that drift for ever.
# ```
#
# 3. **Scale.** Multiply all features by $s$ and divide $W$ by $s$. Which of $L_S$, $L_C$, ratio, cosine verification
#    change? What does this say about sweeps over λ with weight decay on $W$?
#
# ```{dropdown} Solution
# $L_S$, the ratio and cosines stay, $L_C$ scales by $s^2$. Center loss therefore prefers small features and a large $W$, and weight decay
# on $W$ resists: λ and weight decay together set the scale, so a best λ belongs to its weight decay.
# ```
#
# 4. **Many classes.** With 200 classes and batches of 32, how long does a centre wait between two updates on average? Compare with α.
#
# ```{dropdown} Solution
# A class is absent from a batch with probability $(199/200)^{32} \approx 0.85$, so it is updated about every 6.7 steps, mostly
# with one sample: a quarter of the way at α = 0.5. A sampler of P classes × K images updates fewer centres, each with more samples.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
