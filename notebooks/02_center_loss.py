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
# asks them to be **compact** as well: every feature is pulled to the center of its class. One line of loss, one line
# of update, no pairs to mine.
#
# What this chapter does: derives the loss and its update, builds both in a few lines, checks them against
# `fgvc_lib`, looks at what they do to features in two dimensions, and measures what the paper claims.

# %% tags=["parameters"]
dataset = "digits"  # gray digits of 28 pixels: LeNet++ is made for them; or "mnist"
epochs = 8
batch_size = 32
lr = 0.02
max_steps = None
seeds = [0, 1, 2]
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
lam = 0.01  # λ of the runs that do not sweep it
alpha = 0.5  # α of the runs that do not sweep it
lambdas = [0.0, 0.001, 0.003, 0.01, 0.1, 1.0]
alphas = [0.01, 0.1, 0.5, 1.0]
port_batch = 128  # by which a port divides the step of the centers once more
wide_dim = 64  # numbers in the wider feature
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import math

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.losses.center import CenterLoss, center_loss, update_centers
from fgvc_lib.methods.center import Center
from fgvc_study import Study, vary
from fgvc_study.figures import COLORS, curve, scatter_2d, show, show_table, style
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize

study = Study("02_center_loss", seeds=seeds, device=device, train=train)
base = configuration(
    dataset=dataset,
    backbone="lenet_pp",
    epochs=epochs,
    batch_size=batch_size,
    lr=lr,
    max_steps=max_steps,
    settings=settings,
)


def lenet(lam=lam, alpha=alpha, dim=2):
    """Center loss on a feature of ``dim`` numbers; at λ = 0 the softmax loss alone."""
    return vary(
        base,
        method="center",
        method_args={"weight": lam, "alpha": alpha},
        backbone_args={"feature_dim": dim},
    )


METRICS = ["compactness", "verification", "fgsm", "center_drift"]
PICTURES = [*METRICS, "features_2d"]
style()

# %% [markdown]
# ## The problem
#
# Two cars of one model, photographed in rain and in sun, may be farther apart in pixels than two models side by side.
# Fine-grained recognition lives with exactly this: **large variation inside a class, small variation between classes.**
# The softmax loss
#
# $$
# L_S = -\sum_{i=1}^{m} \log \frac{e^{W_{y_i}^\top x_i + b_{y_i}}}{\sum_{j=1}^{n} e^{W_j^\top x_i + b_j}}
# $$ (eq-center-softmax)
#
# depends on differences between scores only, and it falls as long as they grow, also when $W_{y_i}^\top x_i$ is the largest
# by far. So it drives features outwards, each in the direction of its class, and does not mind how far apart they end up
# along it: a class becomes a long ray, and a feature near the root of a ray is close to all the others.
#
# Earlier remedies compare samples with each other. The contrastive loss {footcite:p}`hadsell2006dimensionality` looks at
# pairs, the triplet loss {footcite:p}`schroff2015facenet` at triples. There are many of them:


# %% tags=["output"]
def count_pairs(n: int) -> int:
    return n * (n - 1) // 2


def count_triplets(n: int, classes: int) -> int:
    """Anchor, positive, negative: n choices, the rest of its class, all others."""
    k = n // classes
    return n * (k - 1) * (n - k)


for n in (1_000, 10_000, 60_000):
    pairs, triplets = count_pairs(n), count_triplets(n, 10)
    print(f"{n:>6,} samples: {pairs:>13,} pairs, {triplets:>22,} triplets, 10 centers")

# %% [markdown]
# Pairs grow with $n^2$, triplets with $n^3$. Nobody trains on all of them, so both losses need **mining**, and results
# depend on how it is done. Center Loss replaces the other samples by one point for each class: $n$ comparisons.
#
# ## The loss
#
# For features $x_i \in \mathbb R^d$, labels $y_i$ and one center $c_j \in \mathbb R^d$ for each class,
#
# $$
# L_C = \frac12 \sum_{i=1}^{m} \lVert x_i - c_{y_i} \rVert_2^2,
# \qquad
# \frac{\partial L_C}{\partial x_i} = x_i - c_{y_i},
# \qquad
# L = L_S + \lambda L_C .
# $$ (eq-center-loss)
#
# The gradient is the vector from the center to the feature: each step of descent moves the feature straight at its
# center. The $\tfrac12$ is there so that no 2 is left over. $\lambda$ weighs the two.
#
# From scratch it is two lines. We take two classes in the plane, small enough to check by hand:

# %% tags=["output"]
centers = torch.tensor([[0.0, 0.0], [1.0, 1.0]])  # (n, d) = (2, 2)
features = torch.tensor([[3.0, 4.0], [1.0, 3.0]], requires_grad=True)  # (m, d)
labels = torch.tensor([0, 1])  # (m,)

difference = features - centers[labels]  # (m, d), each from its own center
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
# ## The centers
#
# Where should the centers be? At the means of their classes, but the means move with every step, and computing
# them takes a pass over the data. The paper moves the centers a little at each step instead, by the samples of the batch:
#
# $$
# \Delta c_j = \frac{\sum_{i=1}^{m} \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_{i=1}^{m} \delta(y_i = j)},
# \qquad c_j \leftarrow c_j - \alpha\,\Delta c_j .
# $$ (eq-center-update)
#
# This is *not* the gradient of {eq}`eq-center-loss`. The denominator counts the samples of the class, so a class that
# fills the batch does not rush ahead; and its 1 keeps the center of an absent class where it is instead of dividing
# zero by zero. With $k$ samples of mean $\bar x$ the center goes
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
# In `fgvc_lib` the centers are a *buffer* of {py:class}`fgvc_lib.losses.center.CenterLoss`: they are saved and moved to the GPU
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
    corners = 1.5 * torch.tensor([[0, 1], [0.87, -0.5], [-0.87, -0.5]])
    x = (torch.randn(120, 2, generator=g) + corners[y]).requires_grad_()
    w = torch.randn(3, 2, generator=g).requires_grad_()
    center = CenterLoss(3, 2)
    path = [center.centers.clone()]
    for _ in range(steps):
        loss = F.cross_entropy(x @ w.T, y) + weight * center(x, y)
        gx, gw = torch.autograd.grad(loss * len(y), (x, w))
        with torch.no_grad():
            x -= 0.05 * gx
            w -= 0.005 * gw
        center.update(x.detach(), y)
        path.append(center.centers.clone())
    return x.detach(), y, torch.stack(path)


def width(x, y):
    """Root mean square distance of the points to the mean of their class."""
    means = torch.stack([x[y == j].mean(0) for j in range(3)])
    return (x - means[y]).square().sum(1).mean().sqrt().item()


start, y, _ = descend(0.0, steps=0)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3))
figure.suptitle(f"Width of a class at the start: {width(start, y):.2f}", fontsize=10)
for ax, weight in zip(axes, (0.0, 0.03, 0.3), strict=True):
    x, y, path = descend(weight)
    scatter_2d(ax, x.numpy(), y.numpy(), names="ABC")
    for j in range(3):
        ax.plot(*path[:, j].T, color="black", lw=1, alpha=0.7)
    ax.set_title(f"λ = {weight:g}, width {width(x, y):.2f}")
show(
    figure,
    name="fig-center-toy",
    caption="Gradient descent on the features themselves. Without center loss the "
    "classes are driven apart and remain clouds, about half as wide as at the start; "
    "with it they contract to their centers, whose way is drawn in black.",
    alt="Three scatter plots of three classes of points. For lambda 0 the classes are "
    "clouds, for 0.03 smaller ones, for 0.3 single points on their centers.",
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
# We train it twice: with the softmax loss alone, and with center loss added.

# %% tags=["experiment"]
pair = {"softmax": lenet(lam=0.0), "softmax + center": lenet()}
trained = study.live("pair", pair, metrics=["compactness", "features_2d"])

# %% tags=["figure"]
figure, axes = plt.subplots(2, 2, figsize=(7.2, 6.4))
for column, (row, network) in zip(axes.T, trained.items(), strict=True):
    arrays = network.record.load_arrays()
    for ax, split in zip(column, ("train", "test"), strict=True):
        scatter_2d(
            ax,
            arrays[f"features_2d/{split}"],
            arrays[f"features_2d/{split}_labels"],
        )
        ax.set_title(f"{row}, {split}")
show(
    figure,
    name="fig-center-features",
    caption="Two-dimensional features of the digits, trained on this page. Softmax "
    "alone makes rays: separable, but long, and all near each other at the root. "
    "Center loss gathers each class around a point.",
    alt="Four scatter plots of features, train and test, without and with center "
    "loss. Without it each digit is a ray from the origin; with it each digit is a "
    "compact cluster.",
)

# %% tags=["table"]
DISTANCES = {
    "test accuracy, %": "test_accuracy",
    "distance to class mean": ("compactness/intra", 1, 2),
    "distance to nearest class": ("compactness/margin", 1, 2),
    "ratio": ("compactness/ratio", 1, 3),
}
live = study.live_frame(trained)
show_table(
    summarize(live, DISTANCES, "loss"),
    foot=f"Means; trained on this page. {study.foot(live)}",
)

# %% [markdown]
# The **ratio** of the two distances does not change when all features are scaled, so it is the number to compare:
# how wide a class is, measured in gaps between classes.
#
# ## How much? The sweep over λ
#
# From here on the tables and curves are drawn from records; the line under each says which data, seeds and device they
# come from. Where the same experiment has been measured on MNIST, it stands beside that on the data of this page.

# %% tags=["experiment"]
by_lambda = study.run(
    "lambda",
    {f"{value:g}": lenet(lam=value) for value in lambdas},
    metrics=PICTURES,
)

# %% tags=["figure"]
on_lambda = study.beside_photos("lambda", by_lambda)
measured = [item for item in on_lambda.items() if item[1]["measured"].any()]
name, runs = measured[0] if measured else (dataset, by_lambda)
first = {}
for record in reversed(study.records(runs)):
    first[record.config["method_args"]["weight"]] = record
weights = sorted(runs["method_args.weight"].unique())
rows = math.ceil(len(weights) / 3)
figure, axes = plt.subplots(rows, 3, figsize=(9, 3 * rows), squeeze=False)
for ax, weight in zip(axes.flat, weights, strict=False):
    arrays = first[weight].load_arrays() if weight in first else {}
    if "features_2d/test" in arrays:
        scatter_2d(ax, arrays["features_2d/test"], arrays["features_2d/test_labels"])
    ax.set_title(f"{name}, λ = {weight:g}")
for ax in axes.flat[len(weights) :]:
    ax.remove()
show(
    figure,
    name="fig-center-lambda-features",
    caption="Test features for growing λ, the paper's Figure 3. Each panel has its "
    "own scale; look at how wide a class is beside the gaps.",
    alt="Scatter plots of two-dimensional test features, one for each value of "
    "lambda. With growing lambda the rays of the classes turn into round clusters; "
    "for the largest, some classes lie on each other.",
)


# %% tags=["figure"]
def curves(ax, sources, by, value, *, color, label=""):
    """A number against a setting, a line for each data set."""
    x = sorted({v for runs in sources.values() for v in runs[by]})
    text = label
    for (name, runs), dash in zip(sources.items(), ("-", "--"), strict=False):
        if value in runs:
            curve(ax, x, runs, by, value, color=color, ls=dash, label=text or name)
            text = "_" if label else ""  # a color is listed once


figure, axes = plt.subplots(1, 3, figsize=(9.5, 3))
titles = {
    "compactness/intra": "distance to class mean",
    "compactness/margin": "distance to nearest class",
    "compactness/ratio": "ratio",
}
for ax, (value, title) in zip(axes, titles.items(), strict=True):
    curves(ax, on_lambda, "method_args.weight", value, color=COLORS[0])
    ax.set(xlabel="λ", title=title)
if measured:
    axes[0].set_yscale("log")
    axes[1].set_yscale("log")
    axes[2].legend()
show(
    figure,
    name="fig-center-lambda-distances",
    caption="Distances inside and between classes against λ; a dot is a seed, the "
    "line their mean. Center loss shrinks both, the first more than the second: the "
    "ratio falls.",
    alt="Three curves over lambda. Mean distance to the class mean and mean distance "
    "to the nearest other class fall all the way; their ratio falls too, and stops "
    "falling at the largest lambda.",
)

# %% tags=["table"]
SCORES = {
    "accuracy, %": "test_accuracy",
    "verification AUC, %": "verification/auc",
    "ratio": ("compactness/ratio", 1, 3),
}
for name, runs in on_lambda.items():
    show_table(summarize(runs, SCORES, "λ"), title=name, foot=study.foot(runs))

# %% [markdown]
# The paper's Figure 5 sweeps λ on faces and measures *verification*: 97.4 % without center loss, about 99.2 % from 0.0005 to 0.05, less at 0.1.
# The paper calls this "largely stable"; 0.003 is the value that it uses afterwards, not a peak. Here, too, accuracy hardly depends on λ up to 0.01.
# The fall at λ = 1 is one of λ *and* budget: the pull is there before the classes have parted, and six epochs do not always suffice to part them.
# On MNIST one run of three was still climbing when it ended.
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
curves(axes[0], on_lambda, by, "test_accuracy", color=COLORS[0])
for key, color, text in (
    ("verification/auc", COLORS[1], "cosine"),
    ("verification/auc_l2", COLORS[2], "Euclidean"),
):
    curves(axes[1], on_lambda, by, key, color=color, label=text)
for eps, color in zip((0.05, 0.1, 0.2), COLORS, strict=False):
    key, text = f"fgsm/eps{eps:g}", f"ε = {eps:g}"
    curves(axes[2], on_lambda, by, key, color=color, label=text)
titles = ("test accuracy", "verification AUC", "accuracy under attack")
for ax, title in zip(axes, titles, strict=True):
    ax.set(xlabel="λ", title=title)
    if measured:
        ax.legend(fontsize=8)
show(
    figure,
    name="fig-center-lambda-scores",
    caption="Accuracy, verification and accuracy under the attack, against λ.",
    alt="Three plots over lambda: test accuracy, area under the verification curve by "
    "cosine and by Euclidean distance, and accuracy under an adversarial step of "
    "three sizes.",
)

# %% [markdown]
# ## How fast? The sweep over α
#
# The centers follow the class means with a delay. How long a delay is it, and does it matter? We measure the distance of each center
# to the true mean of its class over the training set, divided by the distance of a typical sample to that mean.

# %% tags=["experiment"]
by_alpha = study.run(
    "alpha",
    {f"{value:g}": lenet(alpha=value) for value in alphas},
    metrics=PICTURES,
)

# %% tags=["figure"]
on_alpha = study.beside_photos("alpha", by_alpha)
figure, axes = plt.subplots(1, 2, figsize=(7.4, 3))
by = "method_args.alpha"
curves(axes[0], on_alpha, by, "center_drift/relative", color=COLORS[0])
curves(axes[1], on_alpha, by, "test_accuracy", color=COLORS[1])
titles = ("center's distance to the class mean", "test accuracy")
for ax, title in zip(axes, titles, strict=True):
    ax.set(xlabel="α", title=title)
    if any(runs["measured"].any() for runs in on_alpha.values()):
        ax.legend()
show(
    figure,
    name="fig-center-alpha",
    caption="Left: how far the centers are from the true class means, in units of a "
    "typical sample's distance to its mean. Right: accuracy.",
    alt="Two plots over alpha. The lag of the centers is largest at 0.01, smallest at "
    "0.1 and grows again towards 1; accuracy is lower and scattered at 0.01, and "
    "level from 0.1 on.",
)

# %% tags=["table"]
LAG = {
    "accuracy, %": "test_accuracy",
    "lag of the centers": ("center_drift/relative", 1, 3),
}
for name, runs in on_alpha.items():
    show_table(summarize(runs, LAG, "α"), title=name, foot=study.foot(runs))

# %% [markdown]
# On MNIST every α from 0.1 to 1 gives 93.8 %. At 0.01 the centers are still on their way when training ends, and accuracy is 90.4 ± 5.3 %.
#
# ## A wider feature
#
# Two dimensions make good pictures and a poor classifier. A wider feature makes a better one:

# %% tags=["experiment"]
narrow = study.run("features", pair, metrics=PICTURES)
wide = study.run(
    "wide",
    {
        "softmax": lenet(lam=0.0, dim=wide_dim),
        "softmax + center": lenet(dim=wide_dim),
    },
    metrics=METRICS,
)

# %% tags=["table"]
WIDE = SCORES | {"under attack (ε = 0.1), %": "fgsm/eps0.1"}
by_dim = {"features": narrow, "wide": wide}
both = {key: study.beside_photos(key, runs) for key, runs in by_dim.items()}
for name in both["features"]:
    lines, shown = [], []
    for key in both:
        runs = both[key].get(name)
        if runs is not None:
            shown.append(runs)
            lines.append(summarize(runs, WIDE, "loss"))
            dim = runs["backbone_args.feature_dim"].iloc[0]
            lines[-1].insert(0, "feature", f"{dim}-d")
    show_table(
        pd.concat(lines).fillna("–"),
        title=name,
        foot=study.foot(pd.concat(shown)),
    )

# %% [markdown]
# ## Paper versus official implementation
#
# Center Loss has been copied many times, and the copies differ in ways that change what is trained. We run the
# differences on one batch of 128 with 13 samples of a class, the usual count on ten classes.
#
# | implementation | loss | step of the center |
# | --- | --- | --- |
# | paper | ½ sum | {eq}`eq-center-update` times α |
# | authors' Caffe layer | ½ mean | {eq}`eq-center-update`, then through the SGD solver: the learning rate is the α, with momentum |
# | a PyTorch port, since a change in 2018 | ½ mean | {eq}`eq-center-update` divided by the batch size |
# | another PyTorch port | mean, without the ½ | derivative of the loss, times 1/λ |


# %% tags=["output"]
def one_step(kind: str, k: int = 13, batch: int = port_batch) -> float:
    """Fraction of the way to its samples' mean, at 1, that a center at 0 goes."""
    center = torch.zeros(1, requires_grad=True)
    x = torch.ones(k)
    if kind == "paper":
        delta = (center - x).sum() / (1 + k)
    elif kind == "divided by the batch":
        delta = (center - x).sum() / (1 + k) / batch
    elif kind == "derivative without ½":
        # the mean over the batch; other classes do not touch this center
        loss = (x - center).square().sum() / batch
        (delta,) = torch.autograd.grad(loss, center)
    return float(-alpha * delta.detach())


KINDS = ("paper", "divided by the batch", "derivative without ½")
steps = {kind: one_step(kind) for kind in KINDS}
for kind, step in steps.items():
    slower = steps["paper"] / step
    print(f"{kind:<22} {step:.4f} of the way   ({slower:6.1f}× slower than the paper)")
single = {kind: one_step(kind, k=1) for kind in KINDS}
print("with a single sample:")
for kind in ("paper", "derivative without ½"):
    print(f"{kind:<22} {single[kind]:.4f} of the way")

# %% [markdown]
# - **Divided by the batch.** Exactly as many times slower as the batch has samples; the table below says what it costs.
# - **The dropped ½** is only a factor: that port's λ counts double. Compare weights across papers with care.
# - **The derivative** gives frequent classes larger steps, and rare ones almost none, which the 1 + count was there to avoid.
# - **Gradient hooks and mixed precision.** Two ports move the centers through `.grad`, and mixed precision misleads both. The one that takes
#   the derivative finds it multiplied by the loss scale, unless the scaler unscales the centers' optimizer too, and by λ unless it
#   divides that out (by zero, at λ = 0). The other ignores the gradient that comes in, so its step never carries the scale, and unscaling
#   makes it smaller by that factor. A plain in-place update has none of these troubles.
# - **The bias.** The authors' MNIST network has none in its last layer; one port has. With a bias the classes need not spread
#   around the origin.


# %% tags=["output"]
def scaled_step(scale: float, weight: float) -> float:
    """Step by the derivative if nobody undoes the loss scale and the weight."""
    center = torch.zeros(1, requires_grad=True)
    loss = scale * weight * (torch.ones(13) - center).square().sum() / 128
    loss.backward()
    return float(-0.5 * center.grad)


for scale, weight in ((1, 1), (1, 0.003), (1024, 1)):
    step = scaled_step(scale, weight)
    print(f"λ = {weight:<5g}  loss scale {scale:<4}  step {step:.5g}")

# %% [markdown]
# The step that is divided by the batch, trained:

# %% tags=["experiment"]
by_port = study.run(
    "port",
    {
        f"{alpha:g}": lenet(),
        f"{alpha:g} / {port_batch}": lenet(alpha=alpha / port_batch),
    },
    metrics=PICTURES,
)

# %% tags=["table"]
for name, runs in study.beside_photos("port", by_port).items():
    show_table(summarize(runs, LAG, "α"), title=name, foot=study.foot(runs))

# %% [markdown]
# On MNIST the division costs 6.7 points: the centers are farther from the class means than most samples when training ends.
#
# ### What it costs
#
# One table of $n \times d$ numbers, one gather and one subtraction; no parameter is added to what is kept for
# inference, and nothing is computed there.

# %% tags=["output"]
method = Center(trained["softmax"].method.backbone, 10)
parameters = sum(p.numel() for p in method.parameters())
numbers = method.center_loss.centers.numel()
print(f"{parameters:,} parameters, {numbers} numbers in centers")

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
# 2. **Collapse.** Start {numref}`fig-center-toy` from centers that are all at the origin, with λ = 10. What happens in the first five
#    steps, and why can it recover? What if the centers stay where they are (α = 0)?
#
# ```{dropdown} Solution
# The classes contract to almost nothing within five steps, and the gaps between them shrink to a fifth. The softmax gradient does
# *not* vanish there: at the origin all probabilities are 1/3, and each feature is pushed by $W^\top(p - e_y)$, a direction that its whole
# class shares. The center loss opposes only motion *relative to the center*, and the centers follow: the classes part, by step 20 all
# samples are classified correctly, and the gaps grow on. With α = 0 the centers do not follow, and the gaps stay near the small
# value at which push and pull are equal.
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
# 4. **Many classes.** With 200 classes and batches of 32, how long does a center wait between two updates on average? Compare with α.
#
# ```{dropdown} Solution
# A class is absent from a batch with probability $(199/200)^{32} \approx 0.85$, so it is updated about every 6.7 steps, mostly
# with one sample: a quarter of the way at α = 0.5. A sampler of P classes × K images updates fewer centers, each with more samples.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
