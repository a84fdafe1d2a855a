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
# # A primer on fine-grained recognition
#
# A glance at the whole picture tells a daisy from a palace. Which of two sparrows you see can depend on a few pixels around the eye: that is
# **fine-grained** recognition. This chapter measures what makes it hard and introduces the data, above all synthetic birds whose discriminative part is
# known. It then trains the plain network that every method of this book has to beat, and shows how to read results, here and in papers.

# %% tags=["parameters", "hide-input"]
dataset = "birds"  # synthetic, with known parts
image_size = 64
backbone = "small"
pretrained = False
epochs = 30
batch_size = 32
lr = 0.1
max_steps = None
seeds = [0, 1, 2]
device = None  # the best there is
train = "missing"  # what has no record; "all": everything again; "never": nothing
hidden = 128  # width of the BN-ELU head
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import itertools
import math
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fgvc_lib.backbones import weights
from fgvc_lib.data import Loader, load
from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.images import square
from fgvc_lib.data.synthetic import mask_boxes
from fgvc_lib.train import build, fit, predict
from fgvc_study import Study, published, vary
from fgvc_study.diagrams import Diagram
from fgvc_study.figures import COLORS, show, show_table, style
from fgvc_study.findings import difference, level, tell
from fgvc_study.protocol import configuration
from fgvc_study.statistics import paired
from fgvc_study.tables import plus_minus, summarize
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_images
from torch import nn
from torchvision.models import ResNet18_Weights

INPUT_SCALE = ("backbone.scale", "backbone.shift")  # for pretrained weights only
threads = [1, 1, 2]  # of one run, repeated
thread_steps = max_steps or 90
assumed = 0.9  # true accuracy, for standard errors and expected maxima
looks = [10, 100, 300]  # at a test set
equals = 300  # networks to choose from that are equally good
study = Study("01_primer", seeds=seeds, device=device, train=train)
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
style()

# %% tags=["experiment", "hide-input"]
heads = {
    "linear head": base,
    "BN-ELU head, max pool": vary(
        base, method_args={"head": "bn_elu", "hidden": hidden, "pool": "max"}
    ),
}
by_head = study.run("baseline", heads)
if dataset == "birds":
    crops = {
        "whole image": base,
        "oracle crop of the discriminative part": vary(base, data="birds_oracle"),
    }
    by_input = study.run("oracle", crops)

# %% tags=["hide-input"]
NETWORK = "tf_efficientnet_lite0"


def recognizer():
    """A network trained on the 1.3 million photographs of ImageNet, and its names."""
    with warnings.catch_warnings():  # of progress bars that nothing shows
        warnings.simplefilter("ignore")
        import timm
    net = timm.create_model(NETWORK)
    found = weights.read(weights.packaged(NETWORK)).values()
    net.load_state_dict(dict(zip(net.state_dict(), found, strict=True)))
    return net.eval(), ResNet18_Weights.IMAGENET1K_V1.meta["categories"]


@torch.no_grad()
def first_guesses(net, picture, names, count=3):
    """The most probable of ImageNet's 1,000 classes, a line for each."""
    pixels = np.array(square(picture, 224), np.float32)  # (224, 224, 3)
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 127.5 - 1  # (1, 3, 224, 224)
    return "\n".join(names[i] for i in net(x)[0].topk(count).indices.tolist())


# %% tags=["figure", "hide-input"]
net, names = recognizer()
large = load("birds", image_size=224, per_class=2, val_per_class=1, test_per_class=1)
siblings = [large.classes.index(name) for name in ("white eye ring", "eye line")]
photos = map(Image.fromarray, load_sample_images().images)
shown = dict(zip(("a temple", "flowers"), photos, strict=True))
for c in siblings:
    one = large.train.images[int((large.train.labels == c).nonzero()[0])]
    shown[large.classes[c]] = Image.fromarray(one.transpose(1, 2, 0))
figure, axes = plt.subplots(1, 4, figsize=(9.6, 3.3))
for ax, (title, drawn) in zip(axes, shown.items(), strict=True):
    ax.imshow(square(drawn, 224))
    ax.set(title=title, xticks=[], yticks=[])
    ax.set_xlabel(first_guesses(net, drawn, names), fontsize=9)
    ax.spines[:].set_visible(False)
for ax, c in zip(axes[2:], siblings, strict=True):
    i = int((large.train.labels == c).nonzero()[0])
    mark = large.train.parts["masks"][i, large.train.parts["discriminative"][i]]
    ax.contour(mark, levels=[0.5], colors="white", linewidths=2.4)
    ax.contour(mark, levels=[0.5], colors="black", linewidths=1.0)
show(
    figure,
    name="fig-primer-idea",
    caption="Coarse and fine. Under each picture are the three best guesses of a "
    "network trained on ImageNet. Left, two photographs: the whole picture gives the "
    "class away. Right, birds of two classes of this book: only the mark on the "
    "outlined part tells them apart. The photographs come with scikit-learn.",
    alt="Four pictures with three words under each: a temple by a lake, a flower with "
    "an insect, and two drawn birds with the region around the eye outlined.",
)

# %% tags=["output", "hide-input"]
tell(
    "**Main finding.** The plain network of this book, trained on class labels alone, "
    "classifies **{plain}** of the test birds correctly.",
    plain=level(by_head, "linear head"),
)
if dataset == "birds":
    cropped = "oracle crop of the discriminative part"
    tell(
        "The same network, shown only the discriminative part, reaches **{crop}**: "
        "{gain}. So much could be gained by looking in the right place.",
        crop=level(by_input, cropped),
        gain=difference(by_input, cropped, "whole image"),
    )

# %% [markdown]
# ## What makes it fine-grained
#
# Write image $i$ as a vector $x_i$ of its pixels, with class $y_i$. Let $\mu$ be the mean of all $N$ images, and $\mu_c$ the mean of the $N_c$ images of class $c$. The
# scatter of a data set splits into two parts:
#
# $$
# \underbrace{\sum_i \lVert x_i - \mu\rVert^2}_{\text{total}}
# = \underbrace{\sum_i \lVert x_i - \mu_{y_i}\rVert^2}_{\text{within classes}}
# + \underbrace{\sum_c N_c \lVert \mu_c - \mu\rVert^2}_{\text{between classes}} .
# $$ (eq-primer-scatter)
#
# Recognition is **fine-grained** where the first part is large and the second small: pose, light and background change
# an image much, and its class changes it little. The word describes this ratio, whatever the pictures show.
#
# How small is small? Class means differ by chance too: shuffled labels leave on average the fraction $(C-1)/(N-1)$ of the scatter between $C$ classes,
# and this is the value to compare with. By hand, with two classes of two numbers:

# %% tags=["output"]


def fraction_between(x: torch.Tensor, y: torch.Tensor) -> float:
    """Fraction of the scatter of x (N, D) that lies between the classes y (N,)."""
    total = (x - x.mean(0)).square().sum()
    within = sum((x[y == c] - x[y == c].mean(0)).square().sum() for c in y.unique())
    return float(1 - within / total)


x, y = torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1])
# total (9 + 1 + 1 + 9) = 20; within 2 + 2 = 4; between 2·(1 − 3)² + 2·(5 − 3)² = 16
torch.testing.assert_close(fraction_between(x, y), 16 / 20)
print(f"between the classes: {fraction_between(x, y):.2f} of the scatter")

# %% [markdown]
# Now the synthetic birds, which the next section shows: twelve classes that differ in one small mark. We take them whole, and
# cropped to the part that bears the mark, and ask the pixels three questions. How much of the scatter lies between the classes?
# How often does the nearest training image of a test image have the same class? And how far away is the nearest training image of the same class,
# compared with the nearest of any other class?

# %%
drawing = base.data_args if dataset == "birds" else {}
birds = load("birds", **drawing)
oracle = load("birds_oracle", **drawing)
classes, part_names = birds.classes, birds.part_names


def pixels(split) -> torch.Tensor:
    images = torch.from_numpy(np.asarray(split.images))
    return images.flatten(1).float() / 255  # (N, 3·S·S)


def in_pixels(name: str, images: ImageData) -> dict[str, object]:
    train, test = pixels(images.train), pixels(images.test)
    distance = torch.cdist(test, train)  # (test, train)
    same = images.test.labels[:, None] == images.train.labels
    nearest = same.gather(1, distance.argmin(1, keepdim=True)).float().mean()
    own = distance.masked_fill(~same, torch.inf).amin(1)
    other = distance.masked_fill(same, torch.inf).amin(1)
    c, n = len(images.classes), len(train)
    between = fraction_between(train, images.train.labels)
    return {
        "images": name,
        "scatter between classes, %": f"{100 * between:.1f}",
        "by chance, %": f"{100 * (c - 1) / (n - 1):.1f}",
        "nearest has the class, %": f"{100 * float(nearest):.1f}",
        "at random, %": f"{100 / c:.1f}",
        "distance to same / other class": f"{float((own / other).mean()):.2f}",
    }


# %% tags=["table", "hide-input"]
of_pixels = [
    in_pixels("handwritten digits, a coarse task", load("digits")),
    in_pixels("birds, whole", birds),
    in_pixels("birds, discriminative part only", oracle),
]
show_table(pd.DataFrame(of_pixels))

# %% tags=["hide-input"]
SCATTER, NEAREST, RATIO = list(of_pixels[0])[1::2]
digits_row, whole_row, crop_row = of_pixels
if max_steps is None:  # as many birds as there are
    assert float(digits_row[SCATTER]) > 3 * float(whole_row[SCATTER])
    assert float(whole_row[NEAREST]) < float(crop_row[NEAREST])
tell(
    "Digits are coarse: {digits[0]} % of their scatter lies between the classes, and "
    "the nearest image has the right class in {digits[1]} % of the cases. For whole "
    "birds the two numbers are {whole[0]} % and {whole[1]} %. A ratio above 1 in the "
    "last column, such as the {whole[2]} of whole birds, means that the nearest image "
    "of *another* class looks more alike than the nearest of the same class. Cropped "
    "to the discriminative part, the nearest image is right in {crop[1]} %, although "
    "nothing has been learned: somebody said where to look. Most of this book is about "
    "learning that from class labels alone.",
    **{
        name: [row[key] for key in (SCATTER, NEAREST, RATIO)]
        for name, row in zip(("digits", "whole", "crop"), of_pixels, strict=True)
    },
)

# %% [markdown]
# ## The data
#
# ### Synthetic birds with known parts
#
# A photograph does not say *why* it has its label. So most chapters train on drawn birds. All classes share one body plan,
# and each class has **one mark on one part**, its *discriminative* part. Everything else varies in the same way in all classes: pose, direction, size, plumage, light, background,
# berries in the colors of the marks, and leaves in front of the bird. Leaves may hide any part except the discriminative one.

# %% tags=["output"]
print(f"{len(classes)} classes, {birds.image_size} × {birds.image_size} pixels")
print(f"parts: {', '.join(part_names)}")
for name in ("train", "val", "test"):
    split = getattr(birds, name)
    shapes = ", ".join(f"{k} {tuple(v.shape)}" for k, v in split.parts.items())
    print(f"{name:>5}: {len(split):>5,} images; {shapes}")

# %% tags=["figure", "hide-input"]
parts = birds.train.parts
pairs = zip(birds.train.labels.tolist(), parts["discriminative"].tolist(), strict=True)
discriminative_of = dict(pairs)  # class → part
# classes of one part side by side
order = sorted(range(len(classes)), key=lambda c: (discriminative_of[c], c))


def picture(split, i: int) -> np.ndarray:
    return np.asarray(split.images[i]).transpose(1, 2, 0)


def outline(ax, mask: np.ndarray) -> None:
    ax.contour(mask, levels=[0.5], colors="white", linewidths=2.2)
    ax.contour(mask, levels=[0.5], colors="black", linewidths=0.9)


figure, axes = plt.subplots(4, 6, figsize=(9.6, 7.2))
for position, c in enumerate(order):
    block, column = position % 2, position // 2
    i = int((birds.train.labels == c).nonzero()[1])
    top, below = axes[2 * block, column], axes[2 * block + 1, column]
    top.imshow(picture(birds.train, i))
    outline(top, birds.train.parts["masks"][i, discriminative_of[c]])
    top.set_title(classes[c], fontsize=9)
    below.imshow(picture(oracle.train, i))
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
show(
    figure,
    name="fig-primer-classes",
    caption="A bird of each class with its discriminative part outlined, and below it "
    "the oracle crop. The two classes of a column share the discriminative part and "
    "differ in the mark on it. The outline shows where the mark is, not its shape.",
    alt="Twelve small drawn birds in varied poses and colors before varied "
    "backgrounds, each with one outlined part: crown, eye, beak, breast, wing or "
    "tail. Under each bird is the outlined part enlarged.",
)

# %% [markdown]
# Every image comes with a mask, a box and a center point for each part, and with the number of its discriminative part, all in `Split.parts`. The
# **oracle crop** is a square around the box of the discriminative part, half as large again, resized to the size of the image. It is what a perfect
# localizer would hand to the classifier. Accuracy on oracle crops says how hard the marks themselves are, and so how much
# of a network's error could come from looking in the wrong place. The crop is generous: it also reveals *which* part matters, and with it the two classes
# that are left to choose from.

# %% tags=["figure", "hide-input"]
i = int((birds.train.labels == order[4]).nonzero()[3])
parts = {name: np.asarray(value[i]) for name, value in birds.train.parts.items()}
figure, axes = plt.subplots(1, 4, figsize=(9.6, 2.8))
for ax, title in zip(
    axes, ("image", "masks", "boxes and points", "oracle crop"), strict=True
):
    ax.imshow(picture(oracle.train if title == "oracle crop" else birds.train, i))
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
for p, name in enumerate(part_names):
    if not parts["masks"][p].any():
        continue  # hidden by leaves
    tint = np.zeros((*parts["masks"][p].shape, 4))
    tint[parts["masks"][p]] = (*plt.matplotlib.colors.to_rgb(COLORS[p]), 0.85)
    axes[1].imshow(tint)
    x1, y1, x2, y2 = parts["boxes"][p] - 0.5  # imshow draws pixel k from k − ½ to k + ½
    wide = 2.6 if p == parts["discriminative"] else 1.2
    axes[2].add_patch(
        plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec="white", lw=wide + 1.6)
    )
    axes[2].add_patch(
        plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, ec=COLORS[p], lw=wide)
    )
    axes[2].plot(*(parts["points"][p] - 0.5), "o", ms=4, mfc=COLORS[p], mec="white")
    axes[1].plot([], [], "s", color=COLORS[p], label=name)
figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=6)
show(
    figure,
    name="fig-primer-parts",
    caption="What is known of one image: a mask, a box and a point for each visible "
    "part. The thick box belongs to the discriminative part; the oracle crop "
    "on the right is cut around it.",
    alt="Four pictures of one drawn bird: the image, colored masks on its parts, "
    "colored boxes with center points, and the discriminative part cropped and "
    "enlarged.",
)

# %% [markdown]
# A box is the first and last row and column of a mask. From scratch, and compared with the library:

# %%
mask = parts["masks"][parts["discriminative"]]  # (S, S)
rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
corners = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]  # x1 y1 x2 y2
scratch = np.array(corners, np.float32)
np.testing.assert_array_equal(mask_boxes(mask[None, None])[0, 0], scratch)
np.testing.assert_array_equal(parts["boxes"][parts["discriminative"]], scratch)

# %% [markdown]
# How small is the discriminative part? For each part, the fraction of the image that it covers, over the test images in which it is the discriminative one:

# %% tags=["table", "hide-input"]
test_parts = birds.test.parts
visible = np.asarray(test_parts["masks"]).any((2, 3))  # (N, P)
side = birds.image_size // 8  # of the last feature map of the small network
rows = []
for p, name in enumerate(part_names):
    mine = np.asarray(test_parts["discriminative"]) == p
    if mine.any():
        seen = 100 * visible[~mine, p].mean()
        area = 100 * np.asarray(test_parts["masks"])[mine, p].mean((1, 2))
        rows.append(
            {
                "discriminative part": name,
                "marks": ", ".join(
                    classes[c] for c in order if discriminative_of[c] == p
                ),
                "mean fraction of the image, %": f"{area.mean():.2f}",
                "smallest to largest, %": f"{area.min():.2f} to {area.max():.2f}",
                f"positions of {side} × {side}": f"{side**2 * area.mean() / 100:.1f}",
                "visible in other classes, %": f"{seen:.0f}",
            }
        )
show_table(
    pd.DataFrame(rows),
    foot=f"Computed from the masks of {len(birds.test):,} test images.",
)

# %% tags=["hide-input"]
covered = {row["discriminative part"]: row for row in rows}
AREA = "mean fraction of the image, %"
least, most = (f(covered, key=lambda p: float(covered[p][AREA])) for f in (min, max))
tell(
    "The smallest part, the {least}, covers {a} % of the image, {p} of the {all} "
    "positions of the last map; the largest, the {most}, {b} %. Global average pooling "
    "gives every position the same weight. So this is also about the fraction of the "
    "pooled feature that the discriminative part makes up, unless the channels have "
    "learned to be silent elsewhere.",
    least=least,
    most=most,
    a=covered[least][AREA],
    b=covered[most][AREA],
    p=covered[least][f"positions of {side} × {side}"],
    all=side**2,
)

# %% [markdown]
# ### Photographs
#
# The field's benchmarks are CUB-200-2011 {footcite:p}`wah2011caltech`, Stanford Cars {footcite:p}`krause2013object` and FGVC-Aircraft
# {footcite:p}`maji2013fine`. The library also reads Oxford Flowers-102 {footcite:p}`nilsback2008automated` and Oxford-IIIT Pet
# {footcite:p}`parkhi2012cats`. A network of true accuracy $p$ that is tested on $n$ images has a measured accuracy $\hat p$, a mean of $n$ zeros and ones. Its standard error is
#
# $$
# \sigma_n = \sqrt{p (1 - p) / n} .
# $$ (eq-primer-se)

# %% tags=["table", "hide-input"]
PUBLISHED = {  # official sizes: classes, training (and validation) images, test images
    "CUB-200-2011": (200, 5_994, 5_794),
    "Stanford Cars": (196, 8_144, 8_041),
    "FGVC-Aircraft, variants": (100, 6_667, 3_333),
    "Flowers-102": (102, 2_040, 6_149),
    "Oxford-IIIT Pet": (37, 3_680, 3_669),
}
sizes = PUBLISHED | {
    "synthetic birds": (len(classes), len(birds.train), len(birds.test))
}


def standard_error(p: float, n: int) -> float:
    return float(np.sqrt(p * (1 - p) / n))


show_table(
    pd.DataFrame(
        {
            "data set": name,
            "classes": c,
            "training": f"{train:,}",
            "a class": round(train / c),
            "test": f"{n:,}",
            "one image, points": f"{100 / n:.3f}",
            f"error at {assumed:.0%}": f"{100 * standard_error(assumed, n):.2f}",
        }
        for name, (c, train, n) in sizes.items()
    ),
    foot="Official training and validation images together; sizes as published, "
    "the other columns computed; standard errors in points.",
)

# %% [markdown]
# Remember the last column when you read a single accuracy: a few tenths of a point are within its noise. The standard error of a *difference* is another one.
# Two networks that are tested on the same images find mostly the same images hard. If exactly one of them is right on the fraction $d$ of the images, and
# their accuracies differ by $\Delta$, the difference has the standard error
#
# $$
# \sigma_\Delta = \sqrt{(d - \Delta^2) / n} ,
# $$ (eq-primer-paired-se)
#
# which is less than $\sqrt 2\,\sigma_n$ when they err on the same images. {ref}`primer-read` computes both for two networks.
#
# - **CUB** has 15 part points and a box for each image. Most methods, and all in this book, train on the class label alone. The photographs of this
#   book's records are `"cub100"`: the boxes of 100 of its 200 classes, 2,999 training and 2,903 test images of the official split. Results on them compare
#   methods with each other, and cannot be compared with papers. CUB is for non-commercial research and education. Some of its images are also in ImageNet, which pretrained
#   networks were trained on.
# - **Cars**: the original download is gone. `"cars196_crops"` are crops from its official *training* images, so again results
#   compare methods with each other and not with papers. They are for non-commercial research and education.
# - **Aircraft** is published as three sets of similar size. The usual protocol trains on two of them, `trainval`; code that reads only `train` trains on half of the images.
# - **Flowers**: the official split has fewer training and validation images than test images. `official_val=True` trains on the 1,020
#   training images alone. The set is for research.
#
# `fgvc_lib.data.load("cub")`, `"cub100"`, `"cars"`, `"aircraft"`, `"flowers"`, `"pets"` and `"folder"` return the same
# {py:class}`fgvc_lib.data.dataset.ImageData` as the birds. Where there is no official validation set, some training images of each class are held out.
#
# ## Four families
#
# Nearly all methods start from one pipeline: a backbone $F$, a pooling over the positions $(u, v)$ of its last map, a classifier $h$, and a loss (CE is cross-entropy),
#
# $$
# \hat y = h\Bigl(\operatorname{pool}_{u,v} F(x)_{:,u,v}\Bigr), \qquad L = \mathrm{CE}(\hat y, y),
# $$ (eq-primer-pipeline)
#
# and differ in the symbol they change.
#
# | family | changes | idea | in this book | relatives |
# | --- | --- | --- | --- | --- |
# | **losses** | $L$ | same network, more demanding training: compact classes, or channels that belong to a class and look at different positions | Center Loss {footcite:p}`wen2016discriminative`, MC-Loss {footcite:p}`chang2020devil` | pairwise confusion {footcite:p}`dubey2018pairwise` |
# | **higher-order features** | $\operatorname{pool}$ | pool products of channels, not channels: *which features occur together at one position* | Bilinear CNN {footcite:p}`lin2015bilinear` | its compact and normalized forms {footcite:p}`lin2018bilinear` |
# | **interaction** | $F$, before pooling | let channels, positions or two images look at each other | CIN {footcite:p}`gao2020channel` | squeeze-and-excitation {footcite:p}`hu2018squeeze`, non-local {footcite:p}`wang2018nonlocal` |
# | **localization** | $x$ | find the part by attention, enlarge it, look again | TASN {footcite:p}`zheng2019looking`, AP-CNN {footcite:p}`ding2021apcnn` | NTS-Net {footcite:p}`yang2018learning`, WS-DAN {footcite:p}`hu2019better` |
#
# The borders are soft: TASN also distills, AP-CNN also changes $F$, and CIN adds a loss over pairs. {footcite:t}`wei2022fine`
# survey the field and group it differently. Losses cost nothing after training, pooled products cost memory, and a second look
# costs a second pass. Where the parts are known, one can measure whether a method does what its idea says.
#
# ## The baseline
#
# The plain network is {eq}`eq-primer-pipeline` itself. Here is all of it: a small ResNet {footcite:p}`he2016deep`, global average pooling,
# one linear layer.

# %% tags=["figure", "hide-input"]
diagram = Diagram(9.2, 1.5)
image = diagram.box("image", at=(0.7, 0.8), size=(0.9, 0.6))
maps = [
    diagram.stack(name, at=(x, 0.8), size=(side, side), color=COLORS[0])
    for name, x, side in (("stem", 2.2, 0.8), ("block 1", 3.7, 0.8))
]
maps += [
    diagram.stack("block 2", at=(5.2, 0.8), size=(0.6, 0.6), color=COLORS[0]),
    diagram.stack("block 3", at=(6.7, 0.8), size=(0.42, 0.42), color=COLORS[0]),
]
head = diagram.box("linear", at=(8.4, 0.8), size=(0.9, 0.6), color=COLORS[1])
shapes = ("3, 64²", "16, 32²", "16, 32²", "32, 16²", "64, 8² → 64")
chain = [image, *maps, head]
for (start, end), shape in zip(itertools.pairwise(chain), shapes, strict=True):
    diagram.arrow(start, end, shape)
show(
    diagram.figure,
    name="fig-primer-plain",
    caption="The plain network, with channels and size of each map. The mean over the "
    "last 8 × 8 positions is the feature that the linear layer classifies.",
    alt="A chain of boxes: image, stem, three residual blocks whose maps get smaller "
    "and deeper, and a linear layer.",
    drawing=True,
)


# %%
class Block(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut."""

    def __init__(self, inputs, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = nn.Sequential()
        if stride > 1:
            fitted = nn.Conv2d(inputs, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(fitted, nn.BatchNorm2d(channels))

    def forward(self, x):  # (B, inputs, H, W) → (B, channels, H/stride, W/stride)
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (y + self.shortcut(x)).relu()


class Plain(nn.Module):
    """Backbone, pooling, classifier."""

    def __init__(self, classes, width=16):
        super().__init__()
        stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())
        self.blocks = nn.Sequential(
            Block(width, width, 1),
            Block(width, 2 * width, 2),
            Block(2 * width, 4 * width, 2),
        )
        self.head = nn.Linear(4 * width, classes)

    def forward(self, images):  # (B, 3, 64, 64)
        features = self.blocks(self.stem(images))  # (B, 64, 8, 8)
        return self.head(features.mean((2, 3)))  # (B, classes)


# %% [markdown]
# And all of its training: cross-entropy, stochastic gradient descent with momentum, a learning rate that rises for a tenth of the steps
# and then falls to zero as a cosine. The other chapters use this loop with other losses.


# %%
def train_plainly(net, loss_of, loader, *, epochs, lr):
    """The loss at every step; ``loss_of(images, labels)`` computes it."""
    optimizer = torch.optim.SGD(net.parameters(), lr, momentum=0.9, weight_decay=5e-4)
    total = epochs * len(loader)

    def rate(t):
        return min(10 * (t + 1) / total, (1 + math.cos(math.pi * t / total)) / 2)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    losses = []
    net.train()
    for epoch in range(epochs):
        for images, labels, _ in loader.epoch(epoch):  # (B, 3, 64, 64), (B,)
            loss = loss_of(images, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
    return losses


# %% [markdown]
# The library's baseline, given the same weights and the same batches, has the same losses:

# %% tags=["output"]
of_birds = configuration(dataset="birds", backbone="small", batch_size=batch_size)
library = build(of_birds, birds).train()
mine = [v for k, v in library.state_dict().items() if k not in INPUT_SCALE]
plain = Plain(len(birds.classes))
plain.load_state_dict(dict(zip(plain.state_dict(), mine, strict=True)))
batches = Loader(birds, "train", batch_size, train=True, seed=0, device="cpu")
plain_epochs = 1 if max_steps else 2
from_scratch = train_plainly(
    plain,
    lambda images, labels: F.cross_entropy(plain(images), labels),
    batches,
    epochs=plain_epochs,
    lr=lr,
)
from_library = train_plainly(
    library,
    lambda images, labels: library(images, labels).loss,
    batches,
    epochs=plain_epochs,
    lr=lr,
)
np.testing.assert_allclose(from_scratch[:5], from_library[:5], rtol=1e-4)
for step in sorted({0, len(from_scratch) // 2, len(from_scratch) - 1}):
    print(f"step {step + 1:>3}: {from_scratch[step]:.5f}, {from_library[step]:.5f}")

# %% [markdown]
# The library now trains two networks on this page for the full number of epochs: this one, whose errors we look at below, and the same
# backbone with another head.

# %% tags=["experiment"]
trained = study.live("networks", heads)

# %%
images = birds if dataset == "birds" else load(dataset, **base.data_args)
method, record = trained["linear head"].method, trained["linear head"].record
where = next(method.parameters()).device
known_parts = "discriminative" in images.test.parts


# %% [markdown]
# We read the trained network the same way: the mean of each channel, a matrix and a bias give the logits.


# %% tags=["output"]
@torch.no_grad()
def test_features() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of the test images: pooled features (N, C), logits (N, classes), labels (N,)."""
    features, logits, labels = [], [], []
    loader = Loader(images, "test", 256, train=False, seed=0, device=where)
    for x, y, _ in loader.epoch(0):
        maps = method.backbone(x)[method.backbone.last]  # (B, C, h, w)
        features.append(maps.mean((2, 3)).cpu())
        logits.append(method(x).logits.cpu())
        labels.append(y.cpu())
    return torch.cat(features), torch.cat(logits), torch.cat(labels)


features, logits, labels = test_features()
weight = method.head.weight.detach().cpu()  # (classes, C)
bias = method.head.bias.detach().cpu()  # (classes,)
torch.testing.assert_close(features @ weight.T + bias, logits, rtol=1e-3, atol=1e-3)
accuracy = float((logits.argmax(1) == labels).float().mean())
print(f"{sum(p.numel() for p in method.parameters()):,} parameters")
print(f"features {tuple(features.shape)}")
print(f"test accuracy of this page's network: {100 * accuracy:.1f} %")
print(f"by chance: {100 / len(images.classes):.1f} %")

# %% [markdown]
# ### Two heads
#
# The official implementations of MC-Loss and AP-CNN have a larger classifier, the **BN-ELU head**: batch normalization, a linear layer, batch normalization, ELU (a smooth relative of the ReLU) and a last linear
# layer. If a method with this head is compared with a network that has a linear one, it gets credit for the head. So there are
# **two baselines**, and tables say which head a row has. The second baseline also pools by the maximum, as the official implementation of MC-Loss does.

# %% tags=["hide-input"]
ACCURACY = {
    "training accuracy, %": "train_accuracy",
    "validation, %": "val_accuracy",
    "test accuracy, %": "test_accuracy",
}

# %% tags=["table", "hide-input"]
show_table(summarize(by_head, ACCURACY, "network"), foot=study.foot(by_head))

# %% [markdown]
# ### How far could one get?
#
# Where the discriminative part is known, the same network can be trained with the same budget on images cropped to it:

# %% tags=["table", "hide-input"]
if dataset == "birds":
    show_table(summarize(by_input, ACCURACY, "network"), foot=study.foot(by_input))

# %% [markdown]
# The gap between whole images and oracle crops is what *looking in the right place* could bring with this budget. It bounds the gain of localization only: a better
# classifier could read the marks better. And part of the gap is the hint that the choice of the part gives.

# %% tags=["hide-input"]
on_photos = study.recorded("baseline", profile="photos")
if on_photos["measured"].any():
    show_table(
        summarize(on_photos, ACCURACY, "network"),
        title="The two heads on photographs",
        foot=study.foot(on_photos),
    )

# %% [markdown]
# ### Where does it err?
#
# On the birds there are two kinds of error. The network may look at the right part and misread the mark, or look elsewhere and see a mark that is not
# there. The discriminative part of the *predicted* class tells the two apart. (On data without known parts, the figure shows the twelve classes with the most errors.)

# %% tags=["figure", "hide-input"]
predicted = logits.argmax(1)
count = len(images.classes)
confusion = np.zeros((count, count), int)
np.add.at(confusion, (labels.numpy(), predicted.numpy()), 1)
errors = confusion.sum(1) - confusion.diagonal()
worst = np.argsort(-errors, kind="stable")[:12]
drawn = order if known_parts else sorted(worst.tolist())
fraction = 100 * confusion[np.ix_(drawn, drawn)] / confusion.sum(1)[drawn][:, None]
figure, ax = plt.subplots(figsize=(7.6, 6.4))
image = ax.imshow(fraction, cmap="cividis", vmin=0, vmax=100)
for (r, c), value in np.ndenumerate(fraction):
    if value >= 0.5:
        ink = "black" if value > 55 else "white"
        ax.text(c, r, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
names = [images.classes[c] for c in drawn]
if known_parts:
    for edge in range(1, len(drawn)):
        if discriminative_of[drawn[edge]] != discriminative_of[drawn[edge - 1]]:
            ax.axhline(edge - 0.5, color="white", lw=1)
            ax.axvline(edge - 0.5, color="white", lw=1)
    names = [f"{classes[c]} ({part_names[discriminative_of[c]]})" for c in drawn]
ax.set_xticks(range(len(drawn)), names, rotation=45, ha="right", fontsize=8)
ax.set_yticks(range(len(drawn)), names, fontsize=8)
ax.set(xlabel="predicted", ylabel="true")
figure.colorbar(image, label="% of the true class", shrink=0.8)
show(
    figure,
    name="fig-primer-confusion",
    caption="Confusions of the network trained on this page, in percent of the true "
    "class. Where parts are known, white lines bound the blocks of classes "
    "that share their discriminative part: an error inside a block is a "
    "misread mark, one outside is a mark seen on the wrong part.",
    alt="Confusion matrix of up to twelve classes; those of the birds are ordered by "
    "discriminative part and divided into six blocks of two classes.",
)

# %% tags=["table", "hide-input"]
part_of = torch.tensor([discriminative_of[c] for c in range(len(classes))])
true_part, seen_part = (part_of[y] if known_parts else y for y in (labels, predicted))
rows = []
for p, name in enumerate(part_names if known_parts else ()):
    mine = true_part == p
    if mine.any():
        wrong = mine & (predicted != labels)
        elsewhere = wrong & (seen_part != p)
        most = torch.bincount(seen_part[elsewhere], minlength=len(part_names))

        def rate(which: torch.Tensor, mine: torch.Tensor = mine) -> str:
            return f"{100 * float(which.sum() / mine.sum()):.1f}"

        rows.append(
            {
                "discriminative part": name,
                "right, %": rate(mine & ~wrong),
                "other mark, same part, %": rate(wrong & ~elsewhere),
                "mark of another part, %": rate(elsewhere),
                "most often of": part_names[most.argmax()] if elsewhere.any() else "",
            }
        )
live = study.live_frame(trained)
if rows:
    show_table(
        pd.DataFrame(rows), foot=study.foot(live[live["variant"] == "linear head"])
    )
    wrong = predicted != labels
    misread = 100 * float((seen_part == true_part)[wrong].float().mean())
    rights = {row["discriminative part"]: float(row["right, %"]) for row in rows}
    tell(
        "Of the {n} errors of this network, {same:.0f} % confuse the two marks of one "
        "part and {other:.0f} % see a mark of another part. It is best at marks on the "
        "{best} ({a:.0f} % right) and worst at marks on the {worst} ({b:.0f} %).",
        n=int(wrong.sum()),
        same=misread,
        other=100 - misread,
        best=max(rights, key=rights.get),
        worst=min(rights, key=rights.get),
        a=max(rights.values()),
        b=min(rights.values()),
    )

# %% [markdown]
# (primer-read)=
# ## How to read the results
#
# **What was measured.** Accuracy on the *whole* test set, with the weights of the **last** epoch. Nothing is chosen on test images, and each run evaluates the test set
# once. Each run leaves a record: configuration, data fingerprint, versions, device, threads, history. Tables are made from records. Where a run
# has no record yet, the table has a dash and the line under it says so.
#
# **± is a spread, not an interval.** `61.3 ± 0.4` is the mean and the standard deviation over seeds. The folded table has the seeds one by one.

# %% tags=["table", "hide-cell"]
known = by_head.assign(accuracy=by_head.get("test_accuracy", np.nan))
rows = [
    {"seed": seed} | {r.variant: plus_minus([r.accuracy]) for r in same.itertuples()}
    for seed, same in known.groupby("seed")
]
rows.append(
    {"seed": "mean ± standard deviation"}
    | {name: plus_minus(group["accuracy"]) for name, group in known.groupby("variant")}
)
show_table(pd.DataFrame(rows), foot="Test accuracy, %. " + study.foot(by_head))

# %% [markdown]
# **The seed does not decide everything.** The result of a run also depends on the configuration, the data, the versions of the packages, and the
# number of threads of the CPU: *the same seed gives other numbers with another number of threads.* Threads split the sums
# inside a convolution, and floating-point addition is not associative, so the last digits differ, and training enlarges the difference step by step. We repeat one
# short run of the small network on the birds:

# %% tags=["output"]
assert (0.1 + 0.2) + 0.3 != 0.1 + (0.2 + 0.3)  # the order of a sum matters
short = configuration(
    dataset="birds",
    backbone="small",
    lr=lr,
    batch_size=batch_size,
    max_steps=thread_steps,
)
before = torch.get_num_threads()
for number in threads:
    torch.set_num_threads(number)
    run = fit(short, data=birds, device="cpu")
    loss = f"loss {run.history[0]['loss']:.7f} … {run.history[-1]['loss']:.7f}"
    print(f"threads {number}: {loss}, test {100 * run.final['test_accuracy']:.2f} %")
torch.set_num_threads(before)

# %% [markdown]
# Runs with the same number of threads agree to the last digit, and runs with another number drift apart. Neither is more correct: the difference is part of the same spread as that over
# seeds. So compare runs with the same thread count, which the line under each table names.
#
# **Differences are paired.** Runs with the same seed share the order of the batches, and the initial weights wherever they have the same layers. So their difference is
# often steadier than the accuracy of either. For the differences $d_1, \dots, d_n$ of $n$ seeds, with mean $\bar d$ and standard deviation $s_d$, we give Student's interval
#
# $$
# \bar d \pm t_{n-1,\,0.975}\; s_d / \sqrt n ,
# $$ (eq-primer-interval)
#
# where $t_{n-1,\,0.975}$ is the 97.5 % quantile of Student's distribution with $n - 1$ degrees of freedom. In 95 of 100 experiments such an interval holds the true mean.
#
# An example with invented numbers: three seeds, of which the second is lucky for both methods.

# %% tags=["output"]
a = np.array([0.62, 0.68, 0.63])
b = np.array([0.60, 0.665, 0.605])
seed_gaps = a - b
half = stats.t.ppf(0.975, len(a) - 1) * seed_gaps.std(ddof=1) / np.sqrt(len(a))
library = paired(
    pd.DataFrame({"seed": range(3), "accuracy": a}),
    pd.DataFrame({"seed": range(3), "accuracy": b}),
    "accuracy",
)
np.testing.assert_allclose(
    [library["low"], library["high"]],
    [seed_gaps.mean() - half, seed_gaps.mean() + half],
)
loose = stats.ttest_ind(a, b).confidence_interval(0.95)
gap = 100 * seed_gaps.mean()
low, high = 100 * library["low"], 100 * library["high"]
print(f"paired:   {gap:+.1f} points, interval [{low:+.1f}, {high:+.1f}]")
low, high = 100 * loose.low, 100 * loose.high
print(f"unpaired: {gap:+.1f} points, interval [{low:+.1f}, {high:+.1f}]")
for n in (2, 3, 5, 10):
    width = stats.t.ppf(0.975, n - 1) / np.sqrt(n)
    print(f"{n:>2} seeds: ± {width:.2f} standard deviations of the differences")

# %% [markdown]
# An interval that contains 0 does not show that two methods are equal. It shows that these seeds cannot tell them apart. With one seed there is no interval at
# all. For the tables above:


# %% tags=["table", "hide-input"]
def contrast(runs: pd.DataFrame, better: str, worse: str) -> dict[str, object]:
    line: dict[str, object] = {"difference": f"{better} − {worse}"}
    if "test_accuracy" not in runs:
        return line | {"points": "not measured", "95 % interval": "", "seeds": 0}
    one, other = (runs[runs["variant"] == name] for name in (better, worse))
    both = set(one.dropna(subset="test_accuracy")["seed"])
    if not both & set(other.dropna(subset="test_accuracy")["seed"]):
        return line | {"points": "not measured", "95 % interval": "", "seeds": 0}
    gap = paired(one, other, "test_accuracy")
    ends = f"[{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
    return line | {
        "points": f"{100 * gap['mean']:+.1f}",
        "95 % interval": ends if gap["seeds"] > 1 else "none with one seed",
        "seeds": int(gap["seeds"]),
    }


gaps = [contrast(by_head, "BN-ELU head, max pool", "linear head")]
if dataset == "birds":
    gaps.append(
        contrast(by_input, "oracle crop of the discriminative part", "whole image")
    )
show_table(pd.DataFrame(gaps), foot=study.foot(by_head))

# %% [markdown]
# There are two uncertainties. The interval over seeds asks: *would other training runs say the same, on these test images?*
# {eq}`eq-primer-paired-se` asks: *would other test images say the same?* A small gain has to pass both tests. For the two networks of this page:

# %% tags=["output"]
right_of = [predict(network.method, images, "test") for network in trained.values()]
a, b = ((z.argmax(1) == y).double().numpy() for z, y in right_of)  # (N,) right or wrong
delta, d, n = b.mean() - a.mean(), float((a != b).mean()), len(a)
by_formula = np.sqrt((d - delta**2) / n)
np.testing.assert_allclose(by_formula, (b - a).std() / np.sqrt(n), rtol=1e-9)
alone = np.sqrt(a.var() / n + b.var() / n)  # as if each had test images of its own
print(f"difference {100 * delta:+.2f} points on {n:,} images")
print(f"only one network is right on {100 * d:.1f} % of them")
print(f"standard error of the difference:       {100 * by_formula:.2f} points")
print(f"if each had had test images of its own: {100 * alone:.2f} points")

# %% [markdown]
# (primer-trap)=
# ## The trap: choosing on the test set
#
# Many released training scripts evaluate on the test set after every epoch and report the best epoch. No test image enters a gradient, and yet the number is too
# good. Suppose the network is equally good in all $k$ epochs, with true accuracy $p$. Each measurement $\hat p_e$ of an epoch $e$ is $p$ plus noise of size $\sigma_n$, and the maximum picks
# the luckiest noise:
#
# $$
# \mathbb E\Bigl[\max_{e \le k} \hat p_e\Bigr] = \frac1n \sum_{s=0}^{n-1} \bigl(1 - B_{n,p}(s)^k\bigr)
# \;\approx\; p + m_k\, \sigma_n,
# $$ (eq-primer-max)
#
# for independent epochs, where $B_{n,p}$ is the distribution function of the binomial distribution and $m_k$ the expected maximum of $k$ standard normal numbers. We compare the sum with a plain simulation, and
# the approximation with both:


# %% tags=["output"]
def expected_max(p: float, n: int, k: int) -> float:
    return float((1 - stats.binom.cdf(np.arange(n), n, p) ** k).sum() / n)


def normal_max(k: int) -> float:
    """m_k, the mean of the largest of k, as the integral of [z > 0] − Φ(z)^k."""
    z = np.linspace(-9, 9, 18_001)
    return float(((z > 0) - stats.norm.cdf(z) ** k).sum() * (z[1] - z[0]))


rng = np.random.default_rng(0)
n = PUBLISHED["CUB-200-2011"][2]
for k in (1, *looks):
    simulated = float((rng.binomial(n, assumed, (20_000, k)) / n).max(1).mean())
    exact, normal = (
        expected_max(assumed, n, k),
        assumed + normal_max(k) * standard_error(assumed, n),
    )
    np.testing.assert_allclose(simulated, exact, atol=1e-4)
    print(f"k = {k:>3}: simulated {100 * simulated:.2f} %", end=", ")
    print(f"exact {100 * exact:.2f} %, approximated {100 * normal:.2f} %")

# %% [markdown]
# The epochs of one run are not independent: an image that is hard today is hard tomorrow. If the measurements of two epochs correlate with $\rho$, they share
# part of their noise, and choosing cannot gain from that part. The gain shrinks to $m_k \sigma_n \sqrt{1 - \rho}$, but it does not vanish:


# %% tags=["table", "hide-input"]
def gained(n: int, k: int) -> float:
    return 100 * (expected_max(assumed, n, k) - assumed)


def correlated(n: int, k: int, rho: float = 0.9) -> float:
    return 100 * normal_max(k) * standard_error(assumed, n) * np.sqrt(1 - rho)


show_table(
    pd.DataFrame(
        {
            "test set": name,
            "images": f"{n:,}",
            **{f"best of {k}, independent": f"+{gained(n, k):.2f}" for k in looks},
            f"best of {looks[-1]}, ρ = 0.9": f"+{correlated(n, looks[-1]):.2f}",
        }
        for name, (_, _, n) in sizes.items()
    ),
    foot="Points of accuracy gained by choice alone, from nothing but n, k and a true "
    f"accuracy of {100 * assumed:.0f} % in every epoch.",
)

# %% [markdown]
# ### On our own runs
#
# The library never looks at the test set during training. So we play the same game on the validation images: what would "best epoch" report, and what does the last epoch say?

# %% tags=["hide-input"]
shown = [record, *(r for r in study.records(by_head) if r.history)]
names = dict(zip(by_head["id"], by_head["variant"], strict=True))
rows = []
for position, run in enumerate(shown):
    val = np.array([epoch["val_accuracy"] for epoch in run.history])
    rows.append(
        {
            "run": names[run.id] if position else "on this page: linear head",
            "seed": run.seed,
            "last epoch, %": f"{100 * val[-1]:.1f}",
            "best epoch, %": f"{100 * val.max():.1f}",
            "which": f"{int(val.argmax()) + 1} of {len(val)}",
            "gained by choice, points": f"{100 * (val.max() - val[-1]):+.1f}",
            "test, last epoch, %": f"{100 * run.final['test_accuracy']:.1f}",
        }
    )

# %% tags=["figure", "hide-input"]
train_curve = 100 * np.array([epoch["train_accuracy"] for epoch in record.history])
val_curve = 100 * np.array([epoch["val_accuracy"] for epoch in record.history])
steps = np.arange(1, len(val_curve) + 1)
figure, ax = plt.subplots(figsize=(6.6, 3.4))
ax.plot(steps, train_curve, "--", color=COLORS[6], label="training")
ax.plot(steps, val_curve, "o-", ms=3.5, color=COLORS[0], label="validation")
best = int(val_curve.argmax())
ax.plot(
    steps[best],
    val_curve[best],
    "*",
    ms=15,
    color=COLORS[1],
    mec="white",
    label="best epoch",
)
ax.plot(
    steps[-1], val_curve[-1], "s", ms=8, mfc="none", mec="black", label="last epoch"
)
ax.set(xlabel="epoch", ylabel="accuracy, %")
ax.legend(loc="lower right")
show(
    figure,
    name="fig-primer-epochs",
    caption="Accuracy by epoch of the network trained on this page. The star marks the "
    "best validation epoch and the square the last one; before them, validation swings "
    "by tens of points from epoch to epoch.",
    alt="Training and validation accuracy over the epochs of one run, with the best "
    "validation epoch and the last epoch marked.",
)

# %% tags=["table", "hide-cell"]
show_table(pd.DataFrame(rows), foot=study.foot(pd.concat([live.iloc[:1], by_head])))

# %% tags=["hide-input"]
flattered = [float(row["gained by choice, points"]) for row in rows]
tell(
    "Over {n} runs, the best epoch is {mean:.1f} points above the last on average, and "
    "{most:.1f} at most. It is never below: that is the trap in one sentence. A "
    "validation accuracy that was chosen in this way is too good as well, but there "
    "the test set is still untouched and can say what the choice was worth.",
    n=len(flattered),
    mean=float(np.mean(flattered)),
    most=max(flattered),
)

# %% [markdown]
# ### Choosing among equals
#
# A sharper experiment uses the trained network. We make many variants of it by small random changes of the last layer, which nobody would call a method. We choose the best
# variant on half of the test images, and ask the *other* half how good it is. The variants err on nearly the same images. So we measure their correlation $\rho$, the mean over pairs of variants, and
# compare the result with $m_k \sigma_n \sqrt{1 - \rho}$.

# %% tags=["output"]
g = torch.Generator().manual_seed(0)
SPLITS = 200
right = []  # (V, N)
for _ in range(equals):
    noise = 0.05 * weight.std() * torch.randn(weight.shape, generator=g)
    right.append(((features @ (weight + noise).T + bias).argmax(1) == labels).double())
right = torch.stack(right)
chosen, honest, average = [], [], []
for _ in range(SPLITS):
    half_a, half_b = torch.randperm(len(labels), generator=g).chunk(2)
    on_a, on_b = right[:, half_a].mean(1), right[:, half_b].mean(1)  # (V,)
    winner = int(on_a.argmax())
    chosen.append(float(on_a[winner]))
    honest.append(float(on_b[winner]))
    average.append(float(on_b.mean()))
print(f"{equals} variants, {len(half_a)} images to choose on; {SPLITS} random halvings")
print(f"accuracy of the winner where it was chosen: {100 * np.mean(chosen):.2f} %")
print(f"accuracy of the winner on the other half:   {100 * np.mean(honest):.2f} %")
print(f"accuracy of all variants on the other half: {100 * np.mean(average):.2f} %")
some = right[:40].numpy()
rho = np.corrcoef(some)[np.triu_indices(len(some), 1)].mean()
noise = standard_error(np.mean(average), len(half_a)) * np.sqrt(1 - rho)
noise *= normal_max(equals)
too_much, real = np.mean(chosen) - np.mean(honest), np.mean(honest) - np.mean(average)
print(f"reported too much by choosing: {100 * too_much:.2f} points")
print(f"really gained by choosing:     {100 * real:.2f} points")
print(f"by the formula with ρ = {rho:.2f}:  {100 * noise:.2f} points")

# %% tags=["figure", "hide-input"]
figure, ax = plt.subplots(figsize=(6.6, 3.4))
values = 100 * np.array([chosen, honest, average]).T
for position, (value, color) in enumerate(zip(values.T, COLORS, strict=False)):
    jitter = np.random.default_rng(position).uniform(-0.18, 0.18, len(value))
    ax.plot(value, position + jitter, ".", ms=4, alpha=0.5, color=color)
    ax.plot([value.mean()] * 2, [position - 0.32, position + 0.32], color="black", lw=2)
ax.set_yticks(
    range(3),
    ["winner,\nchosen here", "winner,\nother half", "all variants,\nother half"],
)
ax.invert_yaxis()
ax.set(xlabel="accuracy, %")
show(
    figure,
    name="fig-primer-choice",
    caption="A dot is a random halving of the test images, and the bar is their mean. "
    "Top: what one would report for the best of many equal variants. Middle: what the "
    "same winner scores on images that had no say. Bottom: the average variant.",
    alt="Three rows of dots: accuracy of the chosen variant on the half it was chosen "
    "on, its accuracy on the other half, and the mean accuracy of all variants there.",
)

# %% [markdown]
# ## Paper versus official implementation
#
# A real log shows how the protocol of a paper and that of its code can differ. The authors of MC-Loss {footcite:p}`chang2020devil` released, and later removed from the repository, the log of a ResNet-50 on CUB: 300 epochs, with the test
# set evaluated after each. The script tests with `drop_last=True` in batches of 64.

# %% tags=["output"]
logged = [f for f in published.figures() if "released log" in f.source]
LOG = {
    name: next(f.value for f in logged if words in f.source)
    for name, words in {
        "best of 300 epochs": "the best",
        "mean of the last ten": "the last ten",
        "last epoch": "the last epoch",
    }.items()
}  # percent
n, batch = PUBLISHED["CUB-200-2011"][2], 64
tested = n // batch * batch
print(f"test images {n:,}; in whole batches {tested:,}; never tested {n - tested}")
best = LOG["best of 300 epochs"] / 100
count = round(best * tested)
print(f"{count:,} / {tested:,} = {100 * count / tested:.4f} %, the best in the log")
for name, value in LOG.items():
    above = value - LOG["last epoch"]
    print(f"{name:<22} {value:7.2f} %   ({above:+.2f} to the last epoch)")
p = LOG["mean of the last ten"] / 100
independent = expected_max(p, tested, 300) - p
dependent = normal_max(300) * standard_error(p, tested) * np.sqrt(0.1)
print("expected from choice alone,")
print(f"  300 independent epochs: {100 * independent:+.2f} points")
print(f"  the same with ρ = 0.9:  {100 * dependent:+.2f} points")

# %% [markdown]
# - **The published figure is the best epoch**, on the test images that fill whole batches. In this log it is a few tenths of a point to one point above
#   the figures that were not chosen on test images.
# - **The last epoch can mislead too.** This schedule restarts its learning rate at the very end, so the mean of the last epochs is the fairer figure. *Fix the rule before the
#   run*; which rule it is matters less.
# - **`drop_last` in testing** leaves out images, and with shuffling it leaves out other ones each time. Here an evaluation counts every sample once, even over several processes.
# - **Schedules that watch the test set** also choose on it. One example is a rule that lowers the learning rate when test accuracy stalls; a public PyTorch port of Bilinear CNN has it, and keeps the best epoch as well.
# - **Copied baselines.** Published accuracies of a plain ResNet-50 on CUB range over several points, depending on resolution, head and schedule.
#   A method has to be compared with a baseline that has the same head, input, budget and seeds. The two baselines of this chapter serve that purpose.
#
# A checklist for any table, in this book or elsewhere:
#
# 1. Which images were used for training, which for testing, and was every test image counted once?
# 2. Which epoch is reported, by which rule, chosen on which images?
# 3. Do both rows have the same backbone, weights, resolution, head, schedule and budget?
# 4. How many seeds are there, are they paired, and is the difference larger than its interval?
# 5. How many settings were tried on the images that the number is reported on?
#
# ## What we found

# %% tags=["hide-input"]
head_gain = difference(by_head, "BN-ELU head, max pool", "linear head")
tell(
    "1. The birds are fine-grained: {within:.1f} % of their scatter lies within "
    "classes, and the nearest training image of a test image has its class in {near} % "
    "of the cases ({digits} % for handwritten digits).",
    within=100 - float(whole_row[SCATTER]),
    near=whole_row[NEAREST],
    digits=digits_row[NEAREST],
)
if dataset == "birds":
    tell(
        "2. What looking in the right place could bring: the plain network reaches "
        "{plain} on whole images and {crop} on oracle crops, a difference of {gain}.",
        plain=level(by_input, "whole image"),
        crop=level(by_input, cropped),
        gain=difference(by_input, cropped, "whole image"),
    )
tell(
    "3. The BN-ELU head with maximum pooling is {d.word} the linear head on these "
    "birds ({d}), and on photographs {p.word} it ({p}). A method that brings a head "
    "has to be compared with a baseline that has the same one.",
    d=head_gain,
    p=difference(on_photos, "BN-ELU head, max pool", "linear head"),
)
tell(
    "4. If you choose the best of {k} equal variants on {n} images, you report "
    "{much:.2f} points too much and really gain {real}.",
    k=equals,
    n=len(half_a),
    much=100 * too_much,
    real=f"{100 * real:.2f}".replace("-", "−"),
)
tell(
    "5. The best epoch is {mean:.1f} points above the last, on average over {runs} "
    "runs of this chapter. In the released log of MC-Loss it is {log:.1f} above.",
    mean=float(np.mean(flattered)),
    runs=len(flattered),
    log=LOG["best of 300 epochs"] - LOG["last epoch"],
)

# %% [markdown]
# ## Exercises
#
# 1. **Code: chance scatter.** Show that shuffled labels leave on average the fraction $(C-1)/(N-1)$ of {eq}`eq-primer-scatter` between the classes. Check it with
#    `fraction_between` on the training images.
#
# ````{dropdown} Solution
# Draw $N_c$ of $N$ images without replacement. With total scatter $T$, the variance of their mean around $\mu$ is
# $\frac{T}{N N_c}\cdot\frac{N - N_c}{N - 1}$. Times $N_c$, summed over classes: $\frac{T}{N(N-1)}\sum_c (N - N_c) = T\,\frac{C-1}{N-1}$.
#
# ```python
# x, y = pixels(birds.train), birds.train.labels
# shuffled = [fraction_between(x, y[torch.randperm(len(y))]) for _ in range(20)]
# print(np.mean(shuffled), (len(classes) - 1) / (len(y) - 1))
# ```
# ````
#
# 2. **Code: seeds.** The differences of two methods scatter with a standard deviation of half a point. Compute how many paired seeds it takes until the interval is no wider than ± 0.3 points.
#
# ````{dropdown} Solution
# ```python
# min(n for n in range(2, 100) if stats.t.ppf(0.975, n - 1) * 0.5 / n**0.5 <= 0.3)
# ```
#
# It takes 14. The normal rule $(1.96 \cdot 0.5 / 0.3)^2 \approx 10.7$ forgets that $s_d$ is estimated too.
# ````
#
# 3. **A larger test set.** By what factor does the gain of choosing shrink if the test set is four times as large? And if one looks at 30 epochs instead of 300?
#
# ```{dropdown} Solution
# $\sigma_n$ halves, so the gain halves. From 300 to 30 epochs it falls only from $m_{300} \approx 2.88$ to $m_{30} \approx 2.04$, by less than a third: the maximum grows
# like $\sqrt{2 \ln k}$. Even a few looks cost something.
# ```
#
# 4. **Is the oracle crop a bound?** Name a way in which a network on whole images could beat the network on oracle crops.
#
# ```{dropdown} Solution
# A crop is enlarged by interpolation, which adds no detail. It also shows each part at its own scale and without the rest of the bird, and how *long* a beak is can be seen better next to its head. With few
# training images that may cost more than looking in the wrong place.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
