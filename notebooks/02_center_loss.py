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
# A softmax classifier makes classes separable; Center Loss {footcite:p}`wen2016discriminative` also makes them compact, by pulling every feature
# towards the center of its class.

# %% tags=["figure", "hide-input"]
import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from fgvc_lib.losses.center import CenterLoss
from fgvc_study.figures import scatter_2d, show, style

style()


def descend(weight, steps=400):
    """Descend on L_S + weight · L_C; the features themselves are the parameters."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(3)
    y = torch.arange(3).repeat_interleave(40)
    corners = 1.5 * torch.tensor([[0, 1], [0.87, -0.5], [-0.87, -0.5]])
    x = (torch.randn(120, 2, generator=g) + corners[y]).requires_grad_()
    w = torch.randn(3, 2, generator=g).requires_grad_()
    center = CenterLoss(3, 2, alpha=0.5)
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


def width_over_gap(x, y):
    """Mean distance to the class mean over the mean distance to the next class."""
    means = torch.stack([x[y == j].mean(0) for j in range(3)])
    gap = torch.cdist(means, means).fill_diagonal_(torch.inf).amin(1).mean()
    return float((x - means[y]).norm(dim=1).mean() / gap)


start, y, _ = descend(0.0, steps=0)
ratios = {}
figure, axes = plt.subplots(1, 2, figsize=(6.4, 3.1))
panels = {"softmax loss": 0.0, "softmax + center loss": 0.3}
for ax, (name, weight) in zip(axes, panels.items(), strict=True):
    x, y, path = descend(weight)
    ratios[name] = width_over_gap(x, y)
    ax.plot(*torch.stack([start, x]).permute(2, 0, 1), color="0.8", lw=0.5)
    scatter_2d(ax, x.numpy(), y.numpy(), names="ABC")
    if weight:
        for j in range(3):
            ax.plot(*path[:, j].T, color="black", lw=1.2)
    ax.set_title(f"{name}:\na class is {100 * ratios[name]:.1f} % as wide as the gap")
show(
    figure,
    name="fig-center-toy",
    caption="Gradient descent on the features of three classes. The softmax loss "
    "drives the classes apart and leaves each a cloud; with center loss they "
    "contract to their centers, whose way is drawn in black. Gray: the way of"
    " each feature.",
    alt="Two scatter plots of three classes of points: after the softmax loss separate "
    "clouds, after softmax and center loss a point for each class.",
)
assert ratios["softmax + center loss"] < 0.5 * ratios["softmax loss"]

# %% tags=["hide-input"]
from fgvc_study import Study
from fgvc_study.findings import difference, level, tell

best = Study("02_center_loss").recorded("wide", profile="photos")  # MNIST
with_center = (best, "softmax + center", "softmax")
tell(
    "**Main finding.** On handwritten digits (MNIST), with features of 64 numbers, "
    "center loss shrinks the width of a class from {before} to {after} of the gap "
    "between classes. Verification AUC is {d.word} that of the softmax loss alone: "
    "{d}. Classification accuracy: {a}.",
    before=level(best, "softmax", "compactness/ratio"),
    after=level(best, "softmax + center", "compactness/ratio"),
    d=difference(*with_center, "verification/auc"),
    a=difference(*with_center),
)

# %% tags=["parameters", "hide-input"]
dataset = "digits"  # gray digits of 28 pixels: LeNet++ is made for them; or "mnist"
epochs = 8
batch_size = 32
lr = 0.02
max_steps = None
seeds = [0, 1, 2, 3, 4]
seeds_of = {}  # value of λ: its seeds, where it has others
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
lam = 0.01  # λ of the runs that do not sweep it
alpha = 0.5  # α of the runs that do not sweep it
lambdas = [0.0, 0.001, 0.003, 0.01, 0.1, 1.0]
alphas = [0.01, 0.1, 0.5, 1.0]
port_batch = 128  # by which a port divides the step of the centers once more
wide_dim = 64  # numbers in the wider feature
settings = {"precision": "float32"}  # of all runs; the same on every device

# %% tags=["setup", "hide-input"]
import itertools
import math

import pandas as pd
from fgvc_lib.data import load
from fgvc_lib.data.loader import Loader
from fgvc_lib.losses.center import center_loss, update_centers
from fgvc_lib.train import build
from fgvc_study import Study, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import COLORS, curve, forest, show_table
from fgvc_study.findings import effects
from fgvc_study.protocol import configuration
from fgvc_study.tables import summarize
from torch import nn

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

# %% [markdown]
# ## Separable is not compact
#
# Two cars of one model, photographed in rain and in sun, may be farther apart in pixels than two models side by side.
# Fine-grained recognition lives with exactly this: large variation inside a class, small variation between classes.
#
# A batch has $m$ images with labels $y_i$ of $n$ classes. A network turns image $i$ into a feature $x_i \in \mathbb R^d$, and a linear
# layer with weights $W = [W_1 \dots W_n] \in \mathbb R^{d \times n}$ gives it $n$ scores. The **softmax loss** is the cross-entropy of these scores:
#
# $$
# L_S = -\sum_{i=1}^{m} \log \frac{e^{W_{y_i}^\top x_i}}{\sum_{j=1}^{n} e^{W_j^\top x_i}}
# $$ (eq-center-softmax)
#
# It depends on differences between scores only, and it keeps falling as they grow. A feature that is already on the right side of every boundary
# is still pushed outwards, in the direction of its class, and nothing says how far. So a class becomes a long ray,
# and the features near the root of one ray are close to those of all other rays. Such features are separable, but distances between them mean little.
#
# Earlier remedies compare samples with each other: the contrastive loss {footcite:p}`hadsell2006dimensionality` in
# pairs, the triplet loss {footcite:p}`schroff2015facenet` in triplets of an anchor, another image of its class and one of another class.

# %% tags=["hide-input"]
n, classes = 60_000, 10
each = n // classes
tell(
    "There are many of them: {n:,} images of {classes} classes make {pairs:.1f} "
    "billion pairs and {triplets:.0f} trillion triplets. Nobody trains on all, so "
    "both losses need **mining**, and results depend on how it is done. Center Loss "
    "compares each image with one point, the center of its class.",
    n=n,
    classes=classes,
    pairs=math.comb(n, 2) / 1e9,
    triplets=n * (each - 1) * (n - each) / 1e12,
)

# %% tags=["figure", "hide-input"]
diagram = Diagram(7.4, 2.7)
image = diagram.stack("images", at=(0.4, 1.45), count=3)
net = diagram.box("LeNet++", at=(2.3, 1.45), size=(0.9, 0.7), color=COLORS[0])
feature = diagram.box("features $x$", at=(3.9, 1.45), size=(0.95, 0.5))
linear = diagram.box("classifier $W$", at=(5.3, 2.3), size=(1.1, 0.5), color=COLORS[0])
centers = diagram.box("centers $c$", at=(5.3, 0.4), size=(1.1, 0.5), color=COLORS[1])
softmax = diagram.box("$L_S$", at=(7.0, 2.3), size=(0.5, 0.5))
pull = diagram.box("$λ L_C$", at=(7.0, 1.45), size=(0.5, 0.5), color=COLORS[1])
diagram.arrow(image, net, "   (m, 1, 28, 28)")
diagram.arrow(net, feature, "(m, d)")
diagram.arrow(feature, linear)
diagram.arrow(linear, softmax, "(m, n)")
diagram.arrow(feature, pull, "(m, d)")
diagram.arrow(centers, pull)
diagram.arrow(feature, centers, dashed=True, color=COLORS[1])
diagram.note("(n, d)", at=(5.3, 0.05))
diagram.note("of each label\n(m, d)", at=(6.75, 0.75))
diagram.note("update,\nno gradient", at=(4.1, 0.8), color=COLORS[1])
show(
    diagram.figure,
    drawing=True,
    name="fig-center-diagram",
    caption="Center loss is a second loss on the same features. Gradients of both "
    "losses train the network; the centers follow the features by a rule of "
    "their own.",
    alt="Diagram: images pass LeNet++ and become features of d numbers. A linear "
    "classifier gives the softmax loss; features and centers give the center loss; a "
    "dashed arrow says that features update the centers without a gradient.",
)

# %% [markdown]
# ## The loss pulls a feature to its center
#
# Give every class $j$ a center $c_j \in \mathbb R^d$, in the space of the features. The **center loss** is half the squared distance of each feature to the
# center of its class:
#
# $$
# L_C = \frac12 \sum_{i=1}^{m} \lVert x_i - c_{y_i} \rVert_2^2,
# \qquad
# \frac{\partial L_C}{\partial x_i} = x_i - c_{y_i},
# \qquad
# L = L_S + \lambda L_C .
# $$ (eq-center-loss)
#
# The gradient is the vector from the center to the feature. A step of descent therefore moves the feature straight at its
# center, and the pull grows with the distance. The $\tfrac12$ is there so that no 2 is left over; $\lambda$ weighs the two losses.
#
# Two features of two classes are small enough to check by hand:

# %% tags=["output"]
centers = torch.tensor([[0.0, 0.0], [1.0, 1.0]])  # (n, d) = (2, 2)
x = torch.tensor([[3.0, 4.0], [1.0, 3.0]], requires_grad=True)  # (m, d)
labels = torch.tensor([0, 1])  # (m,)

by_hand = 0.5 * (x - centers[labels]).square().sum()
by_hand.backward()
print(f"L_C = ½(3² + 4²) + ½(0² + 2²) = {by_hand.item()}")
print("gradient:", x.grad.tolist())
torch.testing.assert_close(center_loss(x, labels, centers, reduction="sum"), by_hand)

# %% [markdown]
# ```{admonition} Sum or mean?
# :class: note
# The paper writes both losses as sums over the batch; `torch` averages cross-entropy by default. If one is averaged
# and the other is not, λ changes by a factor of the batch size. `fgvc_lib` averages **both**, so
# that λ weighs them as in the paper; `reduction="sum"` gives the equations literally.
# ```
#
# ## The centers follow their classes
#
# A center should be the mean of its class. But the mean moves with every step of the network, and computing
# it takes a pass over all images. The paper moves each center a little at each step instead, by the images of the batch:
#
# $$
# \Delta c_j = \frac{\sum_{i=1}^{m} \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_{i=1}^{m} \delta(y_i = j)},
# \qquad c_j \leftarrow c_j - \alpha\,\Delta c_j .
# $$ (eq-center-update)
#
# Here $\delta(y_i = j)$ is 1 where image $i$ is of class $j$ and 0 elsewhere, and $\alpha \in [0, 1]$ sets the speed. This is *not* the gradient of
# {eq}`eq-center-loss`: the denominator counts the images of the class. With $k$ of them, of mean $\bar x$, the center goes
#
# $$
# c_j \leftarrow c_j + \alpha \frac{k}{1+k} (\bar x - c_j) .
# $$ (eq-center-step)
#
# That is a fraction $\alpha k/(1+k)$ of the way to the batch mean, whatever $\lambda$, the learning rate and the batch size. A class
# that fills the batch does not rush ahead, and the 1 leaves the center of an absent class where it is instead of dividing zero by zero.


# %% tags=["output"]
def update_by_hand(centers, x, labels, alpha=0.5):
    new = centers.clone()  # (n, d)
    for j in range(len(centers)):
        mine = x[labels == j]  # (k, d), the images of class j
        new[j] -= alpha * (centers[j] - mine).sum(0) / (1 + len(mine))
    return new


g = torch.Generator().manual_seed(0)
centers, x = torch.randn(5, 2, generator=g), torch.randn(8, 2, generator=g)
labels = torch.tensor([0, 0, 0, 2, 2, 3, 3, 3])  # classes 1 and 4 are absent
moved = update_by_hand(centers, x, labels)
torch.testing.assert_close(update_centers(centers.clone(), x, labels, alpha=0.5), moved)
print("moved by:", [round(v, 3) for v in (moved - centers).norm(dim=1).tolist()])

# %% [markdown]
# ## From scratch
#
# The whole method is one module. The paper's LeNet++ ends in a feature of $d = 2$ numbers, which can be drawn. Its classifier has no
# bias, so a class is a direction, and the classes spread around the origin.


# %%
class CenterNet(nn.Module):
    """LeNet++ with center loss: m images, n classes, features of d numbers."""

    def __init__(self, n, d, weight, alpha):
        super().__init__()
        self.weight, self.alpha = weight, alpha
        layers, inputs = [], 1
        for width in (32, 64, 128):
            for _ in range(2):
                layers += [nn.Conv2d(inputs, width, 5, padding=2), nn.PReLU()]
                inputs = width
            layers.append(nn.MaxPool2d(2))  # (m, 32, 14, 14), (m, 64, 7, 7), …
        layers += [nn.Flatten(), nn.Linear(128 * 3 * 3, d), nn.PReLU()]
        self.embed = nn.Sequential(*layers)  # (m, 1, 28, 28) → (m, d)
        self.classify = nn.Linear(d, n, bias=False)  # (m, d) → (m, n)
        self.register_buffer("centers", torch.zeros(n, d))  # no optimizer sees them

    def forward(self, images, labels):
        x = self.embed(images)  # (m, d)
        softmax = F.cross_entropy(self.classify(x), labels)  # mean over m images
        pull = 0.5 * (x - self.centers[labels]).square().sum(1).mean()
        return softmax, self.weight * pull, x.detach()

    @torch.no_grad()
    def move_centers(self, x, labels):
        member = F.one_hot(labels, len(self.centers)).to(x)  # (m, n)
        count = member.sum(0)[:, None]  # (n, 1)
        delta = (count * self.centers - member.T @ x) / (1 + count)  # (n, d)
        self.centers -= self.alpha * delta


def train_from_scratch(net, batches, lr):
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    losses = []
    for images, labels in batches:
        softmax, pull, x = net(images, labels)
        optimizer.zero_grad()
        (softmax + pull).backward()
        optimizer.step()
        net.move_centers(x, labels)  # after each step
        losses.append((softmax.item(), pull.item()))
    return losses


# %% [markdown]
# We train it for a few steps, and `fgvc_lib` from the same weights on the same batches. Both must have the same losses at every step.
# The batches are scanned digits, see below; here the feature has 64 numbers, so that the loss falls within a few steps.

# %% tags=["output"]
config = lenet(dim=wide_dim)
data = load(config.data, **config.data_args)
loader = Loader(data, "train", batch_size, train=True, seed=0, device="cpu")
first = itertools.islice(loader.epoch(0), max_steps or 10)
batches = [(images, labels) for images, labels, _ in first]

library = build(config, data).train()
net = CenterNet(len(data.classes), wide_dim, lam, alpha)
with torch.no_grad():  # the same layers in the same order
    for mine, theirs in zip(net.parameters(), library.parameters(), strict=True):
        mine.copy_(theirs)
    net.centers.copy_(library.center_loss.centers)

ours = train_from_scratch(net, batches, lr)
optimizer = torch.optim.SGD(library.parameters(), lr, momentum=0.9, weight_decay=5e-4)
theirs = []
for images, labels in batches:
    output = library(images, labels)
    optimizer.zero_grad()
    output.loss.backward()
    optimizer.step()
    library.after_step([output.state])  # moves the centers
    theirs.append((output.terms["ce"].item(), output.terms["center"].item()))
torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-3)
assert max_steps or ours[-1][0] < ours[0][0]

print("step      L_S here    library     λ L_C here    library")
for step in sorted({1, 2, len(ours) // 2, len(ours)}):
    (a, b), (c, d) = ours[step - 1], theirs[step - 1]
    print(f"{step:>4} {a:>13.4f} {c:>10.4f} {b:>14.4f} {d:>10.4f}")

# %% [markdown]
# In a training loop of your own, the library needs three lines; they are in {doc}`/book/lift`.
#
# ## A look inside: rays and clusters
#
# The data are 1,797 scanned digits of scikit-learn, enlarged to 28 × 28 pixels. The same network is trained on them twice on this page: with the softmax loss alone, and with center
# loss added.

# %% tags=["experiment", "hide-input"]
pair = {"softmax": lenet(lam=0.0), "softmax + center": lenet()}
trained = study.live("pair", pair, metrics=["compactness", "features_2d"])

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(7.2, 3.5))
for ax, (row, network) in zip(axes, trained.items(), strict=True):
    arrays = network.record.load_arrays()
    points, digits = (arrays[f"features_2d/test{end}"] for end in ("", "_labels"))
    scatter_2d(ax, points, digits)
    if row != "softmax":
        at = network.method.center_loss.centers.cpu()
        ax.plot(*at.T, "o", color="black", ms=18, mfc="none", mew=1.2)
    ax.set_title(row)
show(
    figure,
    name="fig-center-features",
    caption="Two-dimensional features of test digits. The softmax loss alone makes "
    "rays, all near each other at the root. Center loss gathers each class "
    "around its center (black rings). Each panel has its own scale.",
    alt="Two scatter plots of test features. Without center loss each digit is a ray "
    "from the origin; with it each digit is a compact cluster.",
)

# %% tags=["hide-input"]
live = study.live_frame(trained)
RATIO = "compactness/ratio"
tell(
    "To compare the two we divide the mean distance of a feature to its class mean by"
    " the distance from there to the nearest other class. This **ratio** does not "
    "change when all features are scaled. It is {before} with the softmax loss and "
    "{after} with center loss; test accuracy is {a} and {b}.",
    before=level(live, "softmax", RATIO),
    after=level(live, "softmax + center", RATIO),
    a=level(live, "softmax"),
    b=level(live, "softmax + center"),
)

# %% [markdown]
# (center-lambda)=
# ## How much pull? The sweep over λ
#
# From here on, numbers come from committed records of runs on MNIST {footcite:p}`lecun1998gradient`, with a few hundred training images for each digit. The line under each table says exactly which.

# %% tags=["experiment", "hide-input"]
by_lambda = study.run(
    "lambda",
    {f"{value:g}": lenet(lam=value) for value in lambdas},
    metrics=PICTURES,
    seeds=seeds_of,
)

# %% tags=["figure", "hide-input"]


def measured(experiment, runs):
    """The runs of an experiment by data set: those that are measured, else these."""
    both = study.beside_photos(experiment, runs)
    known = {name: r for name, r in both.items() if r["measured"].any()}
    return known or {dataset: runs}


on_lambda = measured("lambda", by_lambda)
name, runs = list(on_lambda.items())[-1]
first = {}
for record in reversed(study.records(runs)):
    first[record.config["method_args"]["weight"]] = record
weights = sorted(runs["method_args.weight"].unique())
rows = math.ceil(len(weights) / 3)
figure, axes = plt.subplots(rows, 3, figsize=(7.4, 2.5 * rows), squeeze=False)
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
    caption="Test features for growing λ, as in the paper's Figure 3. Each panel has "
    "its own scale; look at how wide a class is beside the gaps.",
    alt="Scatter plots of two-dimensional test features, one for each value of "
    "lambda, from rays at zero to round clusters; for the largest lambda some classes "
    "lie on each other.",
)

# %% [markdown]
# <div class="live" data-live="center_loss"><p class="live-why">On the book's own page a slider stands here: it moves these digits from one λ to the next.</p></div>


# %% tags=["figure", "hide-input"]
LINES = ("solid", "dashed")  # of the data sets, in their order


def curves(ax, sources, by, value, *, color, label=""):
    """A number against a setting, a line for each data set."""
    x = sorted({v for runs in sources.values() for v in runs[by]})
    text = label
    for (name, runs), dash in zip(sources.items(), LINES, strict=False):
        if value in runs:
            curve(ax, x, runs, by, value, color=color, ls=dash, label=text or name)
            text = "_" if label else ""  # a color is listed once


def dashes(sources):
    """For a caption: which data set has which line."""
    kinds = zip(sources, LINES, strict=False)
    return " (" + ", ".join(f"{name} {kind}" for name, kind in kinds) + ")"


figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.6))
titles = {
    "compactness/intra": "distance to class mean",
    "compactness/margin": "distance to nearest class",
    "compactness/ratio": "ratio",
}
for ax, (value, title) in zip(axes, titles.items(), strict=True):
    curves(ax, on_lambda, "method_args.weight", value, color=COLORS[0])
    ax.set(xlabel="λ", title=title)
    ax.tick_params(axis="x", rotation=45)
    if ax is not axes[2] and any(value in runs for runs in on_lambda.values()):
        ax.set_yscale("log")
        ticks = (0.5, 1, 2, 5, 10, 20)
        ax.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        ax.minorticks_off()
show(
    figure,
    name="fig-center-lambda-distances",
    caption="Distances inside and between classes against λ; a dot is a seed, the "
    f"line their mean{dashes(on_lambda)}. Center loss shrinks both, the first more "
    "than the second.",
    alt="Three curves over lambda: mean distance to the class mean, mean distance to "
    "the nearest other class, and their ratio.",
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.7))
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
    ax.tick_params(axis="x", rotation=45)
    if ax is not axes[0] and ax.lines:
        ax.legend(fontsize=8)
axes[2].set_ylim(0, 1.25)
show(
    figure,
    name="fig-center-lambda-scores",
    caption="Accuracy, verification and accuracy under an adversarial step of size ε "
    f"against λ, with a feature of two numbers{dashes(on_lambda)}.",
    alt="Three plots over lambda: test accuracy, area under the verification curve by "
    "cosine and by Euclidean distance, and accuracy under an adversarial step of "
    "three sizes.",
)

# %% [markdown]
# *Verification* asks whether two images are of one class, by the distance of their features; AUC is the area under the curve of true against
# false acceptances. The *attack* is one step of the fast gradient sign method {footcite:p}`goodfellow2015explaining`, which changes each pixel by ε.

# %% tags=["hide-input"]
tell(
    "At λ = 0.01 the ratio is {r1}, against {r0} at λ = 0, and accuracy is "
    "{small.word} that at λ = 0 ({small}). At λ = 0.1 the ratio is {r2} and accuracy "
    "is {large.word} that at λ = 0 ({large}); at λ = 1 it is {huge.word} it ({huge})."
    " Verification by Euclidean distance, which center loss acts on, is {verify.word}"
    " it at λ = 0.01 ({verify}).",
    small=difference(runs, "0.01", "0"),
    large=difference(runs, "0.1", "0"),
    huge=difference(runs, "1", "0"),
    verify=difference(runs, "0.01", "0", "verification/auc_l2"),
    r0=level(runs, "0", RATIO),
    r1=level(runs, "0.01", RATIO),
    r2=level(runs, "0.1", RATIO),
)

# %% [markdown]
# The fall at large λ depends on λ *and* on the length of training: the pull acts before the classes have separated, and a short training does not always suffice to separate
# them. The paper sweeps λ on faces and measures verification only, which it calls "largely stable" over a wide range; 0.003 is the value that it uses afterwards, not a peak.

# %% tags=["table", "hide-cell"]
SCORES = {
    "accuracy, %": "test_accuracy",
    "verification AUC, %": "verification/auc",
    "ratio": ("compactness/ratio", 1, 3),
}
for name, runs in on_lambda.items():
    show_table(summarize(runs, SCORES, "λ"), title=name, foot=study.foot(runs))

# %% [markdown]
# ## How fast? The sweep over α
#
# The centers follow the class means with a delay. We measure the delay as the distance of each center
# to the true mean of its class over the training set, divided by the distance of a typical training feature to that mean.

# %% tags=["experiment", "hide-input"]
by_alpha = study.run(
    "alpha", {f"{value:g}": lenet(alpha=value) for value in alphas}, metrics=PICTURES
)

# %% tags=["figure", "hide-input"]
on_alpha = measured("alpha", by_alpha)
figure, axes = plt.subplots(1, 2, figsize=(7.2, 2.7))
by = "method_args.alpha"
curves(axes[0], on_alpha, by, "center_drift/relative", color=COLORS[0])
curves(axes[1], on_alpha, by, "test_accuracy", color=COLORS[1])
titles = ("delay of the centers", "test accuracy")
for ax, title in zip(axes, titles, strict=True):
    ax.set(xlabel="α", title=title)
show(
    figure,
    name="fig-center-alpha",
    caption="Left: how far the centers are from the true class means, in units of a "
    f"typical feature's distance to its mean. Right: accuracy{dashes(on_alpha)}.",
    alt="Two plots over alpha: the delay of the centers, and test accuracy.",
)

# %% tags=["hide-input"]
name, runs = list(on_alpha.items())[-1]
DRIFT = "center_drift/relative"
tell(
    "At α = 0.01 the centers are still on their way when training ends: their delay "
    "is {slow} of a typical feature's distance, and accuracy is {a}. At 0.1 the delay"
    " is {right}. At 1 the centers jump to the last batch and the delay is {fast}. "
    "Accuracy at α = 1 is {d.word} that at 0.1 ({d}).",
    slow=level(runs, "0.01", DRIFT),
    right=level(runs, "0.1", DRIFT),
    fast=level(runs, "1", DRIFT),
    a=level(runs, "0.01"),
    d=difference(runs, "1", "0.1"),
)

# %% [markdown]
# ## Two numbers are for pictures
#
# A feature of two numbers makes good pictures and a poor classifier. The comparison that matters has a wider one:

# %% tags=["experiment", "hide-input"]
narrow = study.run("features", pair, metrics=PICTURES)
wide = study.run(
    "wide",
    {"softmax": lenet(lam=0.0, dim=wide_dim), "softmax + center": lenet(dim=wide_dim)},
    metrics=METRICS,
)

# %% tags=["figure", "hide-input"]
GAINS = {
    "test accuracy": "test_accuracy",
    "verification, cosine": "verification/auc",
    "verification, Euclidean": "verification/auc_l2",
    "accuracy under attack, ε = 0.1": "fgsm/eps0.1",
}
name, thin = list(measured("features", narrow).items())[-1]
name, thick = list(measured("wide", wide).items())[-1]
figure, axes = plt.subplots(1, 2, figsize=(7.4, 2.3), sharey=True)
for ax, runs in zip(axes, (thin, thick), strict=True):
    gain = {
        text: difference(runs, "softmax + center", "softmax", value)
        for text, value in GAINS.items()
    }
    forest(ax, effects(gain))
    dim = runs["backbone_args.feature_dim"].iloc[0]
    ax.set(xlabel="points", title=f"{name}, d = {dim}")
show(
    figure,
    name="fig-center-effects",
    caption="What center loss (λ = 0.01) changes over the softmax loss alone, in "
    "points: mean over seeds and 95 % interval. Right of zero center loss is "
    "better.",
    alt="Two forest plots of the difference that center loss makes in accuracy, "
    "verification and accuracy under attack, for features of 2 and of 64 numbers.",
)

# %% tags=["hide-input"]
tell(
    "With d = {dim}, accuracy with center loss is {acc.word} that without ({acc}), "
    "verification by cosine is {ver.word} it ({ver}), and accuracy under attack is "
    "{att.word} it ({att}). With d = 2 the same three differences are {acc2}, {ver2} "
    "and {att2}.",
    dim=wide_dim,
    acc=difference(thick, "softmax + center", "softmax"),
    ver=difference(thick, "softmax + center", "softmax", "verification/auc"),
    att=difference(thick, "softmax + center", "softmax", "fgsm/eps0.1"),
    acc2=difference(thin, "softmax + center", "softmax"),
    ver2=difference(thin, "softmax + center", "softmax", "verification/auc"),
    att2=difference(thin, "softmax + center", "softmax", "fgsm/eps0.1"),
)

# %% [markdown]
# One step is a weak attack: these numbers compare two losses and prove no robustness.
#
# ## On photographs: published on faces
#
# The paper's experiments are on photographs of faces, in three benchmarks: LFW and YTF ask whether two faces are of one person; MegaFace looks for one
# face among a million. We have digits, so only the effects can be compared, not the levels.

# %% tags=["table", "hide-input"]
PAIR = ("softmax", "softmax + center")
figures = {
    (f.dataset, f.variant): f.value
    for f in published.figures()
    if f.experiment == "02_center_loss/wide"
}
lines = []
for data_name in dict.fromkeys(where for where, _ in figures):
    before, after = (figures[data_name, variant] for variant in PAIR)
    line = {"data": data_name, "measured by": "paper", "softmax, %": f"{before:.2f}"}
    line |= {"+ center, %": f"{after:.2f}", "effect, points": f"{after - before:+.1f}"}
    lines.append(line)
for text, value in (("accuracy of pairs", "verification/accuracy"), *GAINS.items()):
    if "verification" in value:
        line = {"data": f"{name}, {text}", "measured by": "this book"}
        levels = [level(thick, row, value) or "–" for row in PAIR]
        line |= {
            f"{row}, %": text.removesuffix(" %")
            for row, text in zip(("softmax", "+ center"), levels, strict=True)
        }
        d = difference(thick, *PAIR[::-1], value)
        line["effect, points"] = d.numbers if d else "–"
        lines.append(line)
show_table(
    pd.DataFrame(lines),
    foot="Paper: Tables 2 and 3, features of 512 numbers. " + study.foot(thick),
)

# %% tags=["hide-input"]
gains = {key: figures[key, PAIR[1]] - figures[key, PAIR[0]] for key, _ in figures}
assert max(gains, key=gains.get) == "MegaFace"
assert min(gains, key=gains.get) == "LFW"
tell(
    "In the paper center loss gains {least:.1f} points where the softmax loss is "
    "already near the top (LFW) and {most:.1f} where it is far from it (MegaFace). "
    "Ours gains {d} in the accuracy of pairs. Both gain in verification; the sizes "
    "belong to the tasks.",
    least=min(gains.values()),
    most=max(gains.values()),
    d=difference(thick, *PAIR[::-1], "verification/accuracy"),
)

# %% [markdown]
# (center-port)=
# ## Paper versus official implementation: how fast the centers move
#
# The equations are short, and yet every public implementation moves the centers at another speed. The authors' own layer
# (`ydwen/caffe-face`, `src/caffe/layers/center_loss_layer.cpp`) averages the loss over the batch and hands {eq}`eq-center-update` to the solver as if it
# were a gradient: the learning rate, which decays, takes the place of α, and momentum is added. Two ports to PyTorch are used most:
#
# | implementation | loss | step of a center with $k$ images in a batch of $m$ |
# | --- | --- | --- |
# | paper | ½ sum | $\alpha k / (1 + k)$ of the way |
# | `ydwen/caffe-face` | ½ mean | $k / (1 + k)$ × learning rate, with momentum |
# | `jxgu1016/MNIST_center_loss_pytorch`, `CenterLoss.py` | ½ mean | $\alpha k / (1 + k) / m$, since October 2018 |
# | `KaiyangZhou/pytorch-center-loss`, `center_loss.py` | mean, no ½ | $2 \alpha k / m$, the derivative |


# %% tags=["output"]
def fraction_of_the_way(kind, k=13, m=port_batch):
    """How far a center at 0 goes to its k images at 1."""
    center, x = torch.zeros(1, requires_grad=True), torch.ones(k)
    delta = (center - x).sum() / (1 + k)  # the paper
    if kind == "divided by the batch":
        delta = delta / m
    elif kind == "derivative":
        loss = (x - center).square().sum() / m  # other classes do not touch it
        (delta,) = torch.autograd.grad(loss, center)
    return float(-alpha * delta.detach())


for kind in ("paper", "divided by the batch", "derivative"):
    usual, single = fraction_of_the_way(kind), fraction_of_the_way(kind, k=1)
    print(f"{kind:<21} {usual:.4f} with 13 images, {single:.4f} with one")

# %% [markdown]
# Dividing by the batch makes the centers slower by exactly the number of images in the batch. The derivative gives frequent classes large steps and rare ones almost none, which
# the denominator was meant to avoid. We train the first of these two variants:

# %% tags=["experiment", "hide-input"]
divided = f"{alpha:g} / {port_batch}"
by_port = study.run(
    "port",
    {f"{alpha:g}": lenet(), divided: lenet(alpha=alpha / port_batch)},
    metrics=PICTURES,
)

# %% tags=["hide-input"]
name, port = list(measured("port", by_port).items())[-1]
tell(
    "Divided by the batch, accuracy is {d.word} the paper's rule: {d}. When training "
    "ends the centers are {drift} of a typical feature's distance from their class "
    "means, against {usual} by the paper's rule.",
    d=difference(port, divided, f"{alpha:g}"),
    drift=level(port, divided, DRIFT),
    usual=level(port, f"{alpha:g}", DRIFT),
)

# %% tags=["table", "hide-cell"]
LAG = {"accuracy, %": "test_accuracy", "delay of the centers": (DRIFT, 1, 3)}
for name, runs in on_alpha.items():
    show_table(summarize(runs, LAG, "α"), title=name, foot=study.foot(runs))
show_table(summarize(port, LAG, "α"), foot=study.foot(port))

# %% [markdown]
# Further differences, mixed precision among them, are in {doc}`/book/discrepancies`.
#
# ### What it costs
#
# In training, one table of $n \times d$ numbers, one lookup and one subtraction. The deployed network has no extra parameters and computes nothing extra.
#
# ## What we found

# %% tags=["hide-input"]
name, sweep = list(on_lambda.items())[-1]
change = (PAIR[1], PAIR[0])
by_distance, by_class = (
    difference(thick, *change, value)
    for value in ("verification/auc_l2", "test_accuracy")
)
compact = difference(thick, *change, RATIO)
assert compact is None or compact.mean < 0
assert by_class is None or by_distance.mean > by_class.mean
tell(
    "1. Center loss makes classes compact: with d = {dim} the width of a class is "
    "{after} of the gap to the next class, against {before} with the softmax loss "
    "alone.\n2. It helps distances most: verification by Euclidean distance gains "
    "{l2}, by cosine {cos}, and the accuracy of the classifier {acc}.\n3. With a "
    "feature of two numbers, accuracy at λ = 0.01 is {small.word} that of the softmax"
    " loss ({small}); at λ = 1, in {epochs_run} epochs, it is {huge.word} it "
    "({huge}).\n4. The speed of the centers: accuracy at α = 1 is {speed.word} that at"
    " 0.1 ({speed}); with the step divided by the batch it is {port.word} that of the"
    " paper's rule ({port}).\n5. Accuracy under one adversarial step (ε = 0.1) is "
    "{wide_attack.word} that without center loss at d = {dim} ({wide_attack}) and "
    "{thin_attack.word} it at d = 2 ({thin_attack}).",
    dim=wide_dim,
    epochs_run=int(sweep["epochs"].iloc[0]),
    before=level(thick, PAIR[0], RATIO),
    after=level(thick, PAIR[1], RATIO),
    l2=by_distance,
    cos=difference(thick, *change, "verification/auc"),
    acc=by_class,
    small=difference(sweep, "0.01", "0"),
    huge=difference(sweep, "1", "0"),
    speed=difference(on_alpha[list(on_alpha)[-1]], "1", "0.1"),
    port=difference(port, divided, f"{alpha:g}"),
    wide_attack=difference(thick, *change, "fgsm/eps0.1"),
    thin_attack=difference(thin, *change, "fgsm/eps0.1"),
)

# %% [markdown]
# ## When to use it today
#
# - **Use it** where features are compared by distance (retrieval, open sets, outliers), classes are few, and every batch holds several images of each.
# - **Prefer a margin** for faces and other sets of many classes: ArcFace {footcite:p}`deng2019arcface` puts compactness into the softmax loss itself and needs no centers.
# - **Prefer supervised contrast** {footcite:p}`khosla2020supervised` where large batches fit; it compares images with each other after all, on a GPU, in one matrix product.
#
# ## Exercises
#
# 1. **Code: no loop over classes.** Write {eq}`eq-center-update` with `index_add_` instead of the loop of `update_by_hand`, without the matrix of memberships of `CenterNet`.
#
# ```{dropdown} Solution
# ~~~python
# def update(centers, x, labels, alpha=0.5):
#     steps = centers[labels] - x  # (m, d)
#     sums = torch.zeros_like(centers).index_add_(0, labels, steps)  # (n, d)
#     counts = labels.bincount(minlength=len(centers))[:, None]  # (n, 1)
#     return centers - alpha * sums / (1 + counts)
# ~~~
# Its cost grows with $md$ instead of $mnd$.
# ```
#
# 2. **Code: collapse.** Copy `descend` from the folded code of {numref}`fig-center-toy`, start all centers at the origin and set λ = 10. What happens in the first five
#    steps, and why can it recover? What if the centers stay where they are ($\alpha = 0$)?
#
# ```{dropdown} Solution
# After `center = CenterLoss(3, 2, alpha=0.5)` add `center.centers.zero_()`. The classes contract to almost nothing within five steps, and the gaps between them shrink to a fifth. The softmax gradient does
# *not* vanish there: at the origin all probabilities are 1/3, and each feature is pushed by $W^\top(p - e_y)$, a direction that its whole
# class shares. The center loss opposes only motion *relative to the center*, and the centers follow: the classes part, by step 20 all
# samples are classified correctly, and the gaps grow on. With α = 0 the centers do not follow, and the gaps stay near the small
# value at which push and pull are equal.
# ```
#
# 3. **The +1.** Remove the 1 from the denominator of {eq}`eq-center-update`. What happens to a class that is absent from the batch?
#    With the 1 in place, where does the update come to rest if a class always has the same $k$ images?
#
# ```{dropdown} Solution
# Without the 1 an absent class gets 0/0. With it, the update rests where $\sum_i (c - x_i) = 0$: at the mean of the images. The 1
# slows the approach by $k/(1+k)$ but does not move its goal.
# ```
#
# 4. **Scale.** Multiply all features by $s$ and divide $W$ by $s$. Which of $L_S$, $L_C$, ratio, cosine verification
#    change? What does this say about sweeps over λ with weight decay on $W$?
#
# ```{dropdown} Solution
# $L_S$, the ratio and cosines stay, $L_C$ scales by $s^2$. Center loss therefore prefers small features and a large $W$, and weight decay
# on $W$ resists: λ and weight decay together set the scale, so a best λ belongs to its weight decay.
# ```
#
# 5. **Many classes.** With 200 classes and batches of 32, how long does a center wait between two updates on average? Compare with α.
#
# ```{dropdown} Solution
# A class is absent from a batch with probability $(199/200)^{32} \approx 0.85$, so it is updated about every 6.7 steps, mostly
# with one image: a quarter of the way at α = 0.5. A sampler of P classes × K images updates fewer centers, each with more images.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
