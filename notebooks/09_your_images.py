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
# # Your own images
#
# You have a folder of pictures, sorted into classes that look much alike. This chapter turns it into a file that names the class of a
# new picture. On the way it checks the folder, trains, scores the network fairly, looks at what is confused with what and why, decides when to abstain, and
# exports the network. Every step is one call of `fgvc_lib`, in Python or on the command line.
#
# On this page the pictures are drawn: a folder of synthetic birds, with the faults that real folders have. Set `images` below to a folder of your own,
# and leave everything else as it is. The network is pretrained on ImageNet, so few pictures are enough to tune it, in minutes on two CPU cores.
# With a GPU, raise `image_size` to 224 or more.
#
# The chapter trains again whenever a setting or the folder has changed. Otherwise it loads what it has trained before.

# %% tags=["parameters"]
images = ""  # your folder, absolute or below FGVC_DATA; empty: drawn birds
image_size = 128  # side of the squares that the network sees
backbone = "tf_efficientnet_lite0"
pretrained = True  # start from ImageNet weights
epochs = 10
scratch_epochs = 30  # of a small network trained from scratch; 0: none
batch_size = 32
lr = 0.1  # of new layers; pretrained ones learn at a tenth of it
max_steps = None
seeds = [0]  # the first one's network is used after the comparison
device = None  # the best there is
train = "missing"  # "all" trains again what this folder was trained on before
methods = ["baseline", "mutual_channel"]  # to compare, the simplest first
method_args = {"mutual_channel": {"mu": 0.005, "lam": 10.0, "hidden": 128}}
per_class = None  # training images of each class, for a first, small try
val_fraction = 0.2  # of the training images, held out to choose with
settings = {}  # further settings of all runs

# %% tags=["setup", "hide-input"]
import json
import math
import os
import random
import re
import shutil
import warnings
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import yaml
from fgvc_lib.cli import app
from fgvc_lib.config import Config
from fgvc_lib.data import Split, load
from fgvc_lib.data.files import select
from fgvc_lib.data.image_folder import folder_files
from fgvc_lib.data.images import read_image, square
from fgvc_lib.export import export
from fgvc_lib.fine_tuning import fine_tuning
from fgvc_lib.report import confusion, confusion_figure
from fgvc_lib.train import Predictor, load_trained, predict
from fgvc_lib.train.inference import overlay
from fgvc_study import Study, vary
from fgvc_study.figures import COLORS, show, show_table, style
from fgvc_study.findings import tell
from fgvc_study.protocol import network
from fgvc_study.tables import summarize
from PIL import Image, ImageEnhance

drawn = not images
root = images or "my_birds"
limit = {} if per_class is None else {"per_class": per_class}
splits = {"val_fraction": val_fraction, "seed": seeds[0], "skip_bad": True}
base = fine_tuning(root, pretrained=pretrained)
if backbone != base.backbone_args["name"]:
    base = base.replace(**network(backbone, pretrained=pretrained))
base = base.replace(epochs=epochs, batch_size=batch_size, lr=lr, max_steps=max_steps)
base = vary(base, data_args={"image_size": image_size} | splits | limit)
base = vary(base, **settings)
options = base.data_args
least = 0.97  # similarity from which two images are taken for one
wanted = 0.95  # right answers among those given, when the network may abstain
drawn_per_class = 8 if max_steps else 72  # birds in the folder that is drawn
style()

# %% [markdown]
# ## The folder
#
# Make one folder for each class, with the name of the class. Images may lie deeper inside, in any common format and size. The loader reports
# what it leaves out.
#
# ```text
# my_birds/
#     red cap/      IMG_0001.jpg  IMG_0002.jpg  …
#     yellow eye/   IMG_0107.jpg  …
#     notes.txt
# ```
#
# A quarter of each class is held out for the test. A hash of the names chooses them, so the split stays the same when you add a class. If
# images belong together (one bird in ten frames, one plant from all sides), **you** must split, because no hash can know that. Make `my_birds/train/` and
# `my_birds/test/` with a folder for each class in both, and keep what belongs together on one side.
#
# For this page we write such a folder. We add a file that is cut off, as after a full memory card. And we add some pictures a second time: saved again, a
# little brighter and a little cropped, as they come back from an editing program or a website.

# %% tags=["hide-input"]
if drawn:
    os.environ["FGVC_DATA"] = str(Path.cwd())  # relative names of folders start there
    for old in ("my_birds", "strangers", "looked"):
        shutil.rmtree(old, ignore_errors=True)
    birds = load("birds", image_size=image_size)
    mine = [
        0,
        1,
        2,
        3,
        6,
        7,
        8,
        9,
    ]  # two marks on each of four parts; the other classes will be strangers
    for c, name in enumerate(birds.classes):
        place = Path("my_birds" if c in mine else "strangers") / name
        place.mkdir(parents=True)
        mine_here = (birds.test.labels == c).nonzero().flatten()[:drawn_per_class]
        for i in mine_here.tolist():
            Image.fromarray(birds.test.images[i].transpose(1, 2, 0)).save(
                place / f"bird {i:04d}.png"
            )
    folders = sorted(Path("my_birds").iterdir())
    (folders[0] / "cut off.png").write_bytes(
        next(folders[0].glob("*.png")).read_bytes()[:900]
    )
    (Path("my_birds") / "notes.txt").write_text("The red ones are from Tuesday.")
    for path in random.Random(0).sample(
        sorted(Path("my_birds").glob("*/bird*.png")), 12
    ):
        picture = Image.open(path).convert("RGB")
        picture = picture.crop((1, 1, picture.width - 1, picture.height - 1)).resize(
            picture.size
        )
        ImageEnhance.Brightness(picture).enhance(1.1).save(
            path.with_name(f"{path.stem} edited.jpg"), quality=85
        )

# %% [markdown]
# ## What to check first
#
# **Can all files be read?** The loader decodes every file once. It stops at the first one that it cannot read, and names it.

# %% tags=["output"]
try:
    load("folder", **{**options, "skip_bad": False})
    print("every image can be read")
except ValueError as error:
    print(f"{type(error).__name__}: {str(error).replace(str(Path.cwd()), '…')}")
with warnings.catch_warnings(record=True) as told:  # of what is left out, for example
    warnings.simplefilter("always")
    photos = load("folder", **options)  # leaves such files out, and lists them
print(photos.summary)
for warning in told:
    print(warning.message)
warnings.filterwarnings("ignore", re.escape(f"{photos.name}: "))  # once is enough

# %% [markdown]
# **How many images does each class have?** Validation images choose the method, the epochs and a threshold. Test images only measure, once, at the end. So
# neither may be among the training images.


# %% tags=["table", "hide-input"]
def counts(photos):
    splits = {name: getattr(photos, name).labels for name in ("train", "val", "test")}
    return pd.DataFrame(
        {
            "class": name,
            **{split: int((labels == c).sum()) for split, labels in splits.items()},
        }
        for c, name in enumerate(photos.classes)
    )


show_table(counts(photos))

# %% [markdown]
# How many images are enough? For training nobody knows beforehand; a learning curve tells (exercise 1). For the *test* it is arithmetic. With
# $n$ test images, the 95 % interval of an accuracy near $p$ is about $\pm 1.96 \sqrt{p(1-p)/n}$ ({eq}`eq-primer-se`):

# %% tags=["output"]
for n in sorted({20, 50, 100, 200, 500, 1000, len(photos.test)}):
    mark = "  ← this folder" if n == len(photos.test) else ""
    half = 196 * math.sqrt(0.9 * 0.1 / n)
    print(f"{n:>5,} test images: 90 % ± {half:4.1f} points{mark}")

# %% [markdown]
# **Is one picture in two splits?** Then the test repeats what training has shown. A checksum finds exact copies but no edited ones. A simple check
# that survives brightness, compression and a small crop compares thumbnails. Shrink images $a$ and $b$ to $16 \times 16$ gray values $t$, subtract the mean $\bar t$, scale to
# length one, and take the inner product as the similarity $s$:
#
# $$
# u = \frac{t - \bar t}{\lVert t - \bar t\rVert}, \qquad s(a, b) = \max\bigl(u_a^\top u_b,\; u_a^\top u_{b'}\bigr) \le 1,
# $$ (eq-own-similarity)
#
# where $b'$ is $b$ mirrored. Brightness and contrast drop out: $u$ of $\alpha t + \beta$ is $u$ of $t$.


# %%
def thumbnails(split, *, mirrored=False, side=16):
    pixels = torch.from_numpy(np.asarray(split.images)).float()  # (N, 3, S, S)
    gray = pixels.mean(1, keepdim=True)  # (N, 1, S, S)
    seen = gray.flip(3) if mirrored else gray
    small = F.adaptive_avg_pool2d(seen, side).flatten(1)  # (N, side²)
    return F.normalize(small - small.mean(1, keepdim=True), dim=1)


def paths(photos, options):
    """The files behind each split, in order."""
    known = ("val_fraction", "seed", "per_class")
    chosen = {key: options[key] for key in known if key in options}
    listing = select(folder_files(root=options["root"]), **chosen)
    return {
        name: [i.path for i in getattr(listing, name) if i.key not in photos.skipped]
        for name in ("train", "val", "test")
    }


def short(path):
    return os.path.relpath(path) if drawn else str(path)


def across_splits(photos, files, *, least):
    """Pairs of files in different splits that look alike, the most alike first."""
    found = []
    for one, other in (("train", "val"), ("train", "test"), ("val", "test")):
        a, b = getattr(photos, one), getattr(photos, other)
        s = torch.maximum(
            thumbnails(a) @ thumbnails(b).T,
            thumbnails(a) @ thumbnails(b, mirrored=True).T,
        )
        alike = (s >= least).nonzero().tolist()
        found += [(float(s[i, j]), files[one][i], files[other][j]) for i, j in alike]
    return sorted(found, reverse=True)


changed = torch.rand(3, 3, 32, 32)
exposures = (changed, 0.5 * changed + 0.1)
twice = [Split((255 * x).byte().numpy(), torch.zeros(3).long()) for x in exposures]
likeness = (thumbnails(twice[0]) * thumbnails(twice[1])).sum(1)
assert likeness.min() > 0.999  # another exposure, the same thumbnail

files = paths(photos, options)
for name, found in files.items():
    assert len(found) == len(getattr(photos, name))
pairs = across_splits(photos, files, least=least)

# %% tags=["figure", "hide-input"]
# with pairs below the limit, to see what it divides
closest = across_splits(photos, files, least=0.8)
shown = [*closest[:3], *[pair for pair in closest if pair[0] < least][:3]] or closest
figure, axes = plt.subplots(2, max(len(shown), 2), figsize=(9.4, 3.6), squeeze=False)
for column, (similarity, *both) in zip(axes.T, shown, strict=False):
    for ax, path in zip(column, both, strict=True):
        ax.imshow(square(read_image(path), image_size))
        split = next(name for name, here in files.items() if path in here)
        ax.set_xlabel(split, fontsize=9)
    column[0].set_title(f"s = {similarity:.3f}", fontsize=10)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
show(
    figure,
    name="fig-own-duplicates",
    caption="Pairs of images from different splits, one above the other. Left, the "
    "most similar of all; right, the most similar below the limit. The limit has to "
    "separate the same picture from the same kind of picture: look, then set it.",
    alt="Six columns of two drawn birds each, with their similarity above. In the "
    "left three columns the two are the same picture; in the right three they are "
    "different pictures with similar backgrounds.",
)

# %% [markdown]
# The check proposes, and you decide. Here we delete the edited copies and split again. For a folder of your own the cell only lists
# what it found.

# %% tags=["output"]
print(f"{len(pairs)} pairs across splits with s ≥ {least}")
if drawn:
    for path in {path for pair in pairs for path in pair[1:] if path.suffix == ".jpg"}:
        path.unlink()
    photos = load("folder", **options)
    files = paths(photos, options)
    print(f"after cleaning: {len(across_splits(photos, files, least=least))}")
else:
    for similarity, a, b in pairs[:20]:
        print(f"{similarity:.3f}  {short(a)}  {short(b)}")
base = base.replace(batch_size=min(batch_size, len(photos.train)))

# %% tags=["figure", "hide-input"]
some = list(range(min(len(photos.classes), 8)))
figure, axes = plt.subplots(3, len(some), figsize=(9.4, 3.9), squeeze=False)
for c, column in zip(some, axes.T, strict=True):
    for ax, i in zip(
        column, (photos.train.labels == c).nonzero().flatten().tolist(), strict=False
    ):
        ax.imshow(photos.train.images[i].transpose(1, 2, 0))
    column[0].set_title(photos.classes[c], fontsize=8)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
show(
    figure,
    name="fig-own-classes",
    caption="Training images of each class as the network gets them: squares, with "
    "width and height resized independently. Can you tell the classes apart at this "
    "size? If not, raise `image_size` before anything else.",
    alt="Three training images of each class in columns, with the class's name above.",
)

# %% [markdown]
# ## Which method, which settings
#
# Start with the plain network: it is what any method has to beat *on your images*. Then try one method that suits your images.
#
# | What you have | Try | Chapter |
# | --- | --- | --- |
# | a need to know *where* the network sees each class | MC-Loss: every class has maps of its own, and the network gets no extra weights | {doc}`/notebooks/03_mutual_channel_loss` |
# | images much larger than the network's input | TASN: more pixels for the regions that matter | {doc}`/notebooks/06_tasn` |
# | small discriminative parts, and time for two passes | AP-CNN: boxes, and a second look inside | {doc}`/notebooks/07_ap_cnn` |
# | textures, or features that matter in combination | Bilinear CNN: products of channels | {doc}`/notebooks/04_bilinear_cnn` |
# | pairs to compare, new classes to come | Center Loss: distances between features mean something | {doc}`/notebooks/02_center_loss` |
#
# {doc}`/notebooks/08_evidence` says what each of them gained in our measurements, and where it gained nothing. Here we compare the plain network with MC-Loss, weighted as in its
# official implementation for pretrained networks {footcite:p}`chang2020devil`. `methods` takes any name that `fgvc methods` lists, and `method_args` the settings of each.
#
# All of them start from {py:func}`~fgvc_lib.fine_tuning.fine_tuning`: a pretrained network, new layers that learn ten times as fast as the pretrained ones, and the first
# three stages, half of the computation, frozen. What is pretraining worth? To find out we also train a small network from scratch, on images of half
# the size and for more epochs, which takes about as long.

# %% tags=["experiment"]
variants = {}
for name in methods:
    variants[name] = vary(base, method=name, method_args=method_args.get(name, {}))
if pretrained and scratch_epochs:
    fresh = fine_tuning(root, pretrained=False)
    fresh = fresh.replace(**network("small"), epochs=scratch_epochs, lr=lr)
    fresh = fresh.replace(data_args=base.data_args, max_steps=max_steps)
    half = {"image_size": image_size // 2}
    variants["from scratch"] = vary(fresh, batch_size=base.batch_size, data_args=half)
networks, frames = {}, []
for seed in seeds:
    study = Study("09_your_images", seeds=[seed], device=device, train=train)
    networks[seed] = study.live(f"seed {seed}", variants)
    frames.append(study.live_frame(networks[seed]))

# %% tags=["table", "hide-input"]
number = len(photos.classes)
trained = networks[seeds[0]]
columns = {"training accuracy, %": "train_accuracy", "validation, %": "val_accuracy"}
show_table(
    summarize(pd.concat(frames), columns, "method"),
    foot=f"Trained on this page with {len(photos.train)} images; {len(photos.val)} are "
    "held out to choose with."
    + " Mean ± standard deviation over seeds."
    * (len(seeds) > 1),
)

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(
    1, len(trained), figsize=(9.2, 3.1), sharey=True, squeeze=False
)
axes = axes[0]
for ax, (name, live) in zip(axes, trained.items(), strict=True):
    history = live.record.history
    steps = [epoch["epoch"] for epoch in history]
    val = 100 * np.array([epoch["val_accuracy"] for epoch in history])
    error = 100 * np.sqrt(val / 100 * (1 - val / 100) / len(photos.val))
    ax.plot(
        steps,
        [100 * epoch["train_accuracy"] for epoch in history],
        "--",
        color=COLORS[6],
        label="training, augmented",
    )
    ax.plot(
        steps, val, "o-", ms=3, color=COLORS[0], label="validation ± standard error"
    )
    ax.fill_between(steps, val - error, val + error, color=COLORS[0], alpha=0.2, lw=0)
    ax.set(xlabel="epoch", title=name, ylim=(0, 102))
axes[0].set_ylabel("accuracy, %")
axes[-1].legend(loc="lower right", fontsize=9)
show(
    figure,
    name="fig-own-curves",
    caption="Accuracy during training. If training is near the top and validation far "
    "below it, add images or augmentation. If both still rise, train longer. If both "
    "are low and flat, try another learning rate or larger images.",
    alt="Accuracy over epochs for each method: a training and a validation curve.",
)

# %% [markdown]
# Which one should you take? All methods answered for the *same* validation images. So count the images on which exactly one of two methods is right: $b$ images for one method and
# $c$ for the other. If the methods were equally good, each of these images would be the toss of a coin (McNemar's test {footcite:p}`mcnemar1947note`). Unless a split as uneven as this is
# unlikely by chance, these images cannot tell the two apart, and we take the simpler one.


# %% tags=["output"]
def coin(b, c):
    """Chance of at least so uneven a split of b + c tosses."""
    n = b + c
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n)


assert coin(0, 5) == 2 / 32  # by hand: all five heads or all five tails
right = {}
for name, live in trained.items():
    same = load("folder", **variants[name].data_args)  # at the network's own size
    logits, labels = predict(live.method, same, "val")
    right[name] = logits.argmax(1) == labels
    count = int(right[name].sum())
    print(f"{name:<14} {count:>4} of {len(labels)} validation images right")
choice, *others = trained
for name in others:
    b = int((right[name] & ~right[choice]).sum())
    c = int((right[choice] & ~right[name]).sum())
    chance = coin(b, c)
    print(f"only {name} / only {choice}: {b} / {c}; chance of that: {chance:.3f}")
    if b > c and chance < 0.05:
        choice = name
print(f"chosen: {choice}")
if "from scratch" in right:
    first = methods[0]
    gain = 100 * float(
        right[first].float().mean() - right["from scratch"].float().mean()
    )
    print(f"{first}, pretrained, minus from scratch: {gain:+.1f} points of validation")

# %% [markdown]
# The rest of the chapter uses the method that this rule chose. The test images had no say in it.
#
# ## One new picture
#
# `model.pt` in the folder of a run holds weights, classes, sizes and normalization: all that a new picture needs. From scratch the steps are: read,
# resize to a square, normalize, network, softmax. Reading is more than decoding. A phone stores a picture as the sensor saw it and notes in its EXIF data how to rotate it.
# Other files have transparent pixels, a palette or 16 bits. Training and use must treat them alike, so both share one function, `Predictor.prepare`.

# %% tags=["output"]
photos = load("folder", **variants[choice].data_args)  # at the chosen network's size
record = trained[choice].record
home = f"{choice}-{record.id[:6]}-{photos.fingerprint[:6]}"
# checkpoints and model.pt
shutil.copytree(record.path.parents[1], home, dirs_exist_ok=True)
method, info = load_trained(home)
file = files["test"][0]

predictor = Predictor(method, info)
picture = predictor.prepare(file)
pixels = torch.from_numpy(np.array(picture))  # (S, S, 3), 0 … 255
pixels = pixels.permute(2, 0, 1)[None] / 255  # (1, 3, S, S), 0 … 1
mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (info.mean, info.std))
with torch.no_grad():
    output = method((pixels - mean) / std)
scratch = output.logits.softmax(1)[0]  # (classes,)

(found,) = predictor(file)  # the library
torch.testing.assert_close(found.probabilities, scratch, rtol=1e-4, atol=1e-5)
best = scratch.topk(min(3, number))
named = zip(best.values.tolist(), best.indices.tolist(), strict=True)
print(f"{short(file)}: {', '.join(f'{info.classes[c]} {p:.1%}' for p, c in named)}")

# %% [markdown]
# The same picture as a phone would store it, on its side and with a note:

# %%
stored = read_image(file).transpose(Image.Transpose.ROTATE_90)
note = Image.Exif()
note[0x0112] = 6  # orientation: turn by 90° clockwise to show
stored.save("phone.png", exif=note)
(turned,) = predictor("phone.png")
np.testing.assert_array_equal(np.asarray(turned.image), np.asarray(found.image))
torch.testing.assert_close(turned.probabilities, found.probabilities)

# %% [markdown]
# ## The test, once
#
# Everything is chosen; now the test images may speak.

# %% tags=["output"]
logits, labels = predict(method, photos, "test")
predicted = logits.argmax(1)
accuracy = float((predicted == labels).float().mean())
test_error = math.sqrt(accuracy * (1 - accuracy) / len(labels))
print(
    f"{100 * accuracy:.1f} % of {len(labels)} images, ± {196 * test_error:.1f} points"
)
print(f"at random {100 / number:.1f} %")

# %% tags=["figure", "hide-input"]
counts_of = confusion(labels, predicted, number)  # (true, predicted)
assert counts_of.sum() == len(labels)
assert counts_of.diagonal().sum() == (predicted == labels).sum()
figure = confusion_figure(counts_of, info.classes)
show(
    figure,
    name="fig-own-confusion",
    caption="Which class is taken for which: test images by true and predicted class. "
    "A bright pair on both sides of the diagonal is a pair of classes that needs more "
    "images, larger images, or one common name.",
    alt="A matrix of counts, true classes in rows and predicted classes in columns, "
    "with most of the counts on the diagonal.",
)

# %% [markdown]
# ## Where did it look?
#
# At which positions $(u, v)$ of the last map $F$, of shape `(C, h, w)`, does the logit $z_c$ of a class $c$ get its evidence? The question makes sense for every method. The gradient says how much the
# logit would grow with each value of the map. Gradient times value, summed over the channels $k$, is what each position contributed.
# This is HiResCAM {footcite:p}`draelos2020hirescam`. Grad-CAM {footcite:p}`selvaraju2017gradcam` averages the gradient over the positions first, which blurs the map of a network that pools by the maximum.
#
# $$
# M_c(u, v) = \operatorname{ReLU}\Bigl(\sum_k \frac{\partial z_c}{\partial F_{k,u,v}}\, F_{k,u,v}\Bigr) .
# $$ (eq-own-evidence)
#
# First, pictures that were classified correctly, with the map of their class:

# %%
test_pixels = torch.from_numpy(np.asarray(photos.test.images))  # (N, 3, S, S) uint8


def maps_of(index, classes):
    """Map (h, w) for each of ``classes`` on a test image, and the image."""
    kept = []
    last = method.backbone.blocks[method.backbone.last]
    hook = last.register_forward_hook(lambda _, inputs, output: kept.append(output))
    image = (test_pixels[index][None] / 255 - mean) / std  # (1, 3, S, S)
    logits = method(image).logits[0]  # (classes,)
    hook.remove()
    features = kept[-1]  # (1, C, h, w)
    maps = []
    for c in classes:
        (gradient,) = torch.autograd.grad(logits[c], features, retain_graph=True)
        maps.append((gradient * features).sum(1)[0].relu().detach())  # (h, w)
    return maps, Image.fromarray(test_pixels[index].permute(1, 2, 0).numpy())


probability = logits.softmax(1)  # (N, classes)
confidence = probability.amax(1)  # (N,)
sure = confidence.argsort(descending=True)
hits = [
    next((int(i) for i in sure if labels[i] == predicted[i] == c), None)
    for c in some  # the surest right answer of each class
]

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(2, len(some), figsize=(9.4, 2.9), squeeze=False)
for column, i in zip(axes.T, hits, strict=True):
    if i is not None:
        (heat,), picture = maps_of(i, [int(predicted[i])])
        column[0].imshow(picture)
        column[1].imshow(overlay(picture, heat))
        column[0].set_title(info.classes[predicted[i]], fontsize=8)
        column[1].set_xlabel(f"{confidence[i]:.0%}", fontsize=8)
for ax in axes.flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
show(
    figure,
    name="fig-own-overlays",
    caption="The most confident right answer of each class, and the map of that class "
    "over it, each map on its own scale from dark to bright. Is the bright spot on the "
    "discriminative part, or on the background?",
    alt="A test image of each class, and below each the same image tinted by the map "
    "of its class, with the predicted probability.",
)

# %% [markdown]
# A map says where the last layer found evidence for a class, on a coarse grid. It does not say what the network saw there, or whether it would have missed it elsewhere. The pictures to study are the
# **most confident mistakes**. For each of them we show the map of the predicted class beside the map of the true class.

# %% tags=["figure", "hide-input"]
wrong = [int(i) for i in sure if labels[i] != predicted[i]][:4]
figure, axes = plt.subplots(
    max(len(wrong), 1),
    4,
    figsize=(9.4, 2.1 * max(len(wrong), 1)),
    squeeze=False,
    width_ratios=[1, 1, 1, 1.5],
)
for row, i in zip(axes, wrong, strict=False):
    both = [int(predicted[i]), int(labels[i])]
    heats, picture = maps_of(i, both)
    top = max(float(heat.max()) for heat in heats)
    row[0].imshow(picture)
    row[0].set_ylabel(f"is {info.classes[labels[i]]}", fontsize=8)
    for ax, heat, c, word in zip(
        row[1:3], heats, both, ("taken for", "is"), strict=True
    ):
        ax.imshow(picture.convert("L"), cmap="gray", extent=(0, 1, 1, 0))
        ax.imshow(
            heat,
            vmin=0,
            vmax=max(top, 1e-6),
            alpha=0.6,
            extent=(0, 1, 1, 0),
            interpolation="bilinear",
        )
        ax.set_title(f"{word} {info.classes[c]}", fontsize=8)
    best = probability[i].topk(min(3, number))
    names = [info.classes[c] for c in best.indices.tolist()][::-1]
    row[3].barh(
        names,
        best.values.flip(0),
        color=[COLORS[1] if n == names[-1] else COLORS[6] for n in names],
    )
    row[3].set(xlim=(0, 1))
    row[3].tick_params(labelsize=8)
for ax in axes[:, :3].flat:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
show(
    figure,
    name="fig-own-mistakes",
    caption="The most confident mistakes on the test images: the image, the map of "
    "the class it was taken for and of the class it is (one scale for both, image in "
    "gray below), and the largest probabilities.",
    alt="A row for each mistake: the image, two maps over it in gray, and a bar chart "
    "of the three largest probabilities.",
)

# %% tags=["output"]
for i in wrong:
    taken = info.classes[predicted[i]]
    print(f"{short(files['test'][i])}: taken for {taken} at {confidence[i]:.0%}")

# %% [markdown]
# Open the files in this list before you tune anything. In real folders you find wrong labels among them, two objects in one picture, crops that lost the discriminative part, and classes that should be one.
#
# ## How sure is it, and when should it abstain?
#
# A network that says 90 % is not always right in 90 % of such cases. **Temperature scaling** {footcite:p}`guo2017calibration` divides the logits $z$ by one number $T$, fitted on the validation images $x_i$ with their labels $y_i$:
#
# $$
# p_T = \operatorname{softmax}(z / T), \qquad T = \arg\min_T \; -\!\!\sum_{i \in \text{val}} \log p_T(y_i \mid x_i) .
# $$ (eq-own-temperature)
#
# It changes no prediction. $T > 1$ means that the network was *over*confident, surer than it was right, and pulls the probabilities together. $T < 1$ means that it was *under*confident,
# less sure than it was right, and pushes them apart. The left of {numref}`fig-own-calibration` shows test images before and after. With few validation images $T$ is itself uncertain: if the gap on
# new images does not shrink, keep $T = 1$. With probabilities that can be trusted one can **abstain**: answer only above a threshold $\tau$, and send the rest to a human. We take the lowest
# threshold that gives the `wanted` fraction of right answers *on validation images*, and see what it does on test images.

# %% tags=["output"]
val_logits, val_labels = predict(method, photos, "val")
temperatures = torch.logspace(-1, 1, 201)
losses = torch.stack(
    [F.cross_entropy(val_logits / t, val_labels) for t in temperatures]
)
temperature = float(temperatures[losses.argmin()])
direction = "over" if temperature > 1 else "under"
print(f"T = {temperature:.2f}: {direction}confident on the validation images")


def answered(logits, labels):
    """For each threshold: confidence, fraction answered, fraction of those right."""
    p, guess = (logits / temperature).softmax(1).max(1)
    order = p.argsort(descending=True)
    count = torch.arange(1, len(p) + 1)
    return p[order], count / len(p), (guess == labels)[order].cumsum(0) / count


taus, _, kept_right = answered(val_logits, val_labels)
good = (kept_right >= wanted).nonzero().flatten()
tau = float(taus[good[-1]]) if len(good) else 1.0

# %% tags=["figure", "hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(9.2, 3.6))
for t, color, mark, name in (
    (1.0, COLORS[1], "s--", "as trained"),
    (temperature, COLORS[0], "o-", "scaled"),
):
    p, guess = (logits / t).softmax(1).max(1)
    bins = p.argsort().chunk(6)  # equal counts
    x = [float(p[b].mean()) for b in bins]
    y = np.array([float((guess == labels)[b].float().mean()) for b in bins])
    gap = sum(abs(a - b) * len(c) for a, b, c in zip(x, y, bins, strict=True)) / len(p)
    error = [math.sqrt(v * (1 - v) / len(b)) for v, b in zip(y, bins, strict=True)]
    label = f"{name}, T = {t:.2f}: mean gap {100 * gap:.1f} points"
    axes[0].errorbar(x, y, error, fmt=mark, ms=5, color=color, capsize=2, label=label)
axes[0].plot([0, 1], [0, 1], color="black", lw=0.8)
axes[0].set(
    xlabel="confidence", ylabel="fraction that is right", xlim=(0, 1.02), ylim=(0, 1.05)
)
axes[0].legend(fontsize=8, loc="upper left")
p, given, is_right = answered(logits, labels)
axes[1].plot(100 * given, 100 * is_right, color=COLORS[0])
at = int((p >= tau).sum()) - 1
if at >= 0:
    axes[1].plot(
        100 * given[at],
        100 * is_right[at],
        "*",
        ms=14,
        color=COLORS[1],
        mec="white",
        label=f"τ = {tau:.2f}",
    )
    axes[1].legend(loc="lower left")
axes[1].axhline(100 * wanted, color="black", lw=0.8, ls=":")
axes[1].set(
    xlabel="test images answered, %", ylabel="right among them, %", xlim=(0, 102)
)
show(
    figure,
    name="fig-own-calibration",
    caption="Left: confidence against the fraction that is right, for six groups of "
    "equally many test images, with standard errors. On the line the confidence is "
    "correct. Right: answering only the surest images. The star is the threshold "
    "chosen on validation images, and the dotted line the goal it was chosen for.",
    alt="Two plots. Left, a reliability diagram before and after temperature scaling "
    "beside the diagonal. Right, accuracy among answered images against the fraction "
    "answered, with the chosen threshold marked.",
)

# %% [markdown]
# A threshold does *not* notice pictures that belong to no class. A softmax gives all of its probability to the classes it knows. So we show it some strangers: on this
# page, birds of the four classes that were left out of the folder.

# %% tags=["output"]
shown_to, trusted = {"test images": files["test"]}, {}
if drawn:
    strangers = sorted(Path("strangers").glob("*/*.png"))
    shown_to["strangers"] = strangers[:: max(1, drawn_per_class // 16)]
for name, these in shown_to.items():
    p = torch.stack([x.probabilities for x in predictor.stream(these)])
    p = (p.log() / temperature).softmax(1).amax(1)
    trusted[name] = float((p >= tau).float().mean())
    print(f"{name:<12} {len(these):>4}: {trusted[name]:.0%} answered", end=", ")
    print(f"mean p {p.mean():.2f}")

# %% [markdown]
# If you expect strangers, give them a class: a folder `none of these` with whatever else your camera will see.
#
# ## A file that runs without this library
#
# {py:func}`fgvc_lib.export.export` writes the prediction as a graph, with the normalization inside. It takes any number of images with pixels in $[0, 1]$ and returns logits. `export` opens the file again
# and keeps it only if it computes the same as the method. We check it once more, on test images.

# %% tags=["output"]
batches = [test_pixels[:n].float() / 255 for n in (1, 2, 5)]  # any number of images
with torch.no_grad():
    expected = [method((batch - mean) / std).logits for batch in batches]

export(method, info, "birds.pt2")
notes = {"info.json": ""}
program = torch.export.load("birds.pt2", extra_files=notes).module()
for batch, logits_of in zip(batches, expected, strict=True):
    torch.testing.assert_close(program(batch), logits_of, rtol=1e-4, atol=1e-4)
size = Path("birds.pt2").stat().st_size / 1e6
print(f"birds.pt2, {size:.2f} MB: equal to the method for 1, 2 and 5 images")
print(f"classes: {', '.join(json.loads(notes['info.json'])['classes'])}")

# %% [markdown]
# A `.pt2` file needs torch. An **ONNX** file does not: it runs in ONNX Runtime, on phones, in browsers and from other languages. The packages that write and run it are an extra,
# `pip install fgvc-lib[export]`. Without them the next cell says so, and the chapter continues.

# %% tags=["output"]
try:
    export(method, info, "birds.onnx")
    import onnxruntime

    session = onnxruntime.InferenceSession(
        "birds.onnx", providers=["CPUExecutionProvider"]
    )
    for batch, logits_of in zip(batches, expected, strict=True):
        (got,) = session.run(["logits"], {"images": batch.numpy()})
        torch.testing.assert_close(
            torch.from_numpy(got), logits_of, rtol=1e-4, atol=1e-4
        )
    size = Path("birds.onnx").stat().st_size / 1e6
    print(f"birds.onnx, {size:.2f} MB: equal to the method for 1, 2 and 5 images")

    # a program without torch: fgvc_lib/data/images.py needs Pillow and NumPy alone
    names = json.loads(session.get_modelmeta().custom_metadata_map["info"])
    picture = square(read_image(file), names["resize"], crop=names["image_size"])
    x = np.asarray(picture, np.float32).transpose(2, 0, 1)[None] / 255  # (1, 3, S, S)
    z = session.run(["logits"], {"images": x})[0][0]  # (classes,)
    p = np.exp(z - z.max()) / np.exp(z - z.max()).sum()
    np.testing.assert_allclose(p, scratch.numpy(), rtol=1e-3, atol=1e-4)
    print(f"{short(file)}: {names['classes'][p.argmax()]} {p.max():.1%}, as above")
except ModuleNotFoundError as missing:
    print(missing)

# %% [markdown]
# ## The same on the command line
#
# All of this also works without a line of Python. With a folder of photographs you begin with `fgvc train my_birds`, which does what this page did with its first method, for a few more epochs.
# Any other settings go into a YAML file. Whatever it leaves out has the library's defaults.

# %% tags=["output"]
defaults = Config().to_dict()
config = variants[choice].replace(seed=seeds[0])
changed = {k: value for k, value in config.to_dict().items() if value != defaults[k]}
Path("run.yaml").write_text(
    yaml.safe_dump(changed, sort_keys=False, allow_unicode=True)
)
assert Config.from_yaml("run.yaml") == config
print(Path("run.yaml").read_text())

# %% [markdown]
# `fgvc train` finds the finished run in the copy of its folder, so here it only has to evaluate. `fgvc` below is the command of that name, called from within the notebook. `train` and
# `evaluate` print JSON for programs to read; `predict` does so with `--format json`. `evaluate` also writes a **report**: one HTML file with the worst classes, the pairs that are confused most,
# with their pictures, and the calibration. `neighbors` shows which training images the network finds most like a new one, which often explains an answer.


# %% tags=["output"]
def fgvc(*arguments):
    print("$ fgvc", *(f'"{a}"' if " " in str(a) else a for a in arguments))
    app([str(a) for a in arguments], standalone_mode=False)
    print()


on = [] if device is None else ["--device", device]
fgvc("train", "--config", "run.yaml", "--folder", home, "--quiet", *on)
fgvc("evaluate", home, "--split", "val", *on)
fgvc(
    "predict",
    home,
    *map(short, files["test"][:3]),
    "--top",
    2,
    "--overlay",
    "looked",
    *on,
)
fgvc("neighbors", home, short(files["test"][0]), "--count", 3, *on)
fgvc("export", home, "birds.pt2")
assert len(list(Path("looked").glob("*.png"))) >= len(files["test"][:3])

# %% [markdown]
# `report-…` in the run's folder opens in a browser. `looked/` holds the three pictures with the method's own map over them: the mean of its attention maps, or of the last features if it has none. Several GPUs, mixed precision, other methods and other data sets are
# settings of the same command; see `fgvc train --help`, `fgvc methods` and `fgvc datasets`.
#
# | You want | Say in the file, or after `--set` |
# | --- | --- |
# | rare classes to count as much as frequent ones | `class_weights: balanced`, or `balanced_batches: true` |
# | the best epoch, and a stop when nothing improves | `keep: best`, `patience: 5` |
# | more epochs of a finished run, or its weights for other classes | `start: run` |
# | pictures that keep their proportions instead of being squeezed into squares | `data_args.letterbox: true` |
# | pictures turned or upside down | `rotation`, `vertical_flip` in `data_args.augment` |
# | every layer to learn, the lower ones more slowly | `frozen_stages: 0`, `layer_decay: 0.8` |
# | AdamW | `optimizer: adamw`, `lr: 0.001` |
# | training from scratch | `fgvc train my_birds --no-pretrained` |
#
# From Python, `augment` also takes transforms of your own, such as torchvision's: `fit(config, data=dataclasses.replace(data, augment=("flip", my_transform)))`.
#
# ## Before you rely on it
#
# 1. Test on images from **another day, camera, place or person** than the training images. A random split of one session promises too much.
# 2. Look at every class by itself. Frequent classes hide the accuracy of rare ones ({numref}`fig-own-confusion`, row by row).
# 3. Go through the mistakes by eye. Then look for right answers with a wrong reason: maps on the background, on a watermark, on the photographer's hand.
# 4. Know how often the threshold abstains, and what happens then.
# 5. Prepare pictures in the same way in training and use. Here the export contains the normalization, and resizing to the square is left to you.
#
# ## What we found

# %% tags=["hide-input"]
tell(
    "1. The check of thumbnails found {pairs} pairs of pictures across splits at a "
    "similarity of {least} or more.",
    pairs=len(pairs),
    least=least,
)
if "from scratch" in right:
    tell(
        "2. On the validation images the pretrained network is {gain:.1f} points "
        "{word} a small network that was trained from scratch for about as long.",
        gain=abs(gain),
        word="above" if gain > 0 else "below",
    )
tell(
    "3. The rule chose `{choice}`, which classifies {accuracy:.1f} % of {n} test "
    "images correctly, ± {error:.1f} points; guessing would give {chance:.1f} %.",
    choice=choice,
    accuracy=100 * accuracy,
    n=len(labels),
    error=196 * test_error,
    chance=100 / number,
)
tell(
    "4. The best temperature on the validation images is {t:.2f}, so the network is "
    "{direction}confident there.",
    t=temperature,
    direction=direction,
)
tell(
    "5. With a threshold that gives {wanted:.0f} % right answers on validation images, "
    "the network answers for {given:.0f} % of the test images and is right on "
    "{kept:.0f} % of these.",
    wanted=100 * wanted,
    given=100 * trusted["test images"],
    kept=100 * float(is_right[at]) if at >= 0 else None,
)
if "strangers" in trusted:
    tell(
        "6. It also answers for {given:.0f} % of the pictures whose class it has never "
        "seen: a threshold does not detect strangers.",
        given=100 * trusted["strangers"],
    )

# %% [markdown]
# ## Exercises
#
# 1. **Code: a learning curve.** Train with `per_class` of 5, 10, 20 and all images. Plot validation accuracy against the number of images on a logarithmic axis. What does the curve promise for twice as many images?
#
# ````{dropdown} Solution
# ```python
# for n in (5, 10, 20, None):
#     few = {} if n is None else {"per_class": n}
#     run = study.live(f"{n} a class", {"baseline": vary(base, data_args=few)})
#     print(n, run["baseline"].record.history[-1]["val_accuracy"])
# ```
#
# The validation and test images stay the same. A line that still rises at its right end promises
# more from more images; a flat one says that something else is missing. One seed for each point is noisy, so take three.
# ````
#
# 2. **Leakage, on purpose.** Keep the edited copies, and write 200 more. What happens to test accuracy, and what to accuracy on the images without a copy?
#
# ```{dropdown} Solution
# The first rises, because a copied test image was in the training set. The second hardly moves. The difference is what the leak is worth, and nobody who sees only the first number
# can know it.
# ```
#
# 3. **Code: maps in the file.** Export a model that returns the maps of the predicted class as well.
#
# ````{dropdown} Solution
# ```python
# class WithMaps(torch.nn.Module):
#     def __init__(self, method):
#         super().__init__()
#         self.method = method.eval()
#
#     def forward(self, images):  # (B, 3, S, S)
#         out = self.method(images)
#         return out.logits, out.maps["attention"]  # (B, classes), (B, ξ, h, w)
#
#
# batch = {0: torch.export.Dim("batch")}
# program = torch.export.export(WithMaps(method), (images,), dynamic_shapes=(batch,))
# ```
#
# Methods without attention maps, such as the plain network, have `out.maps["features"]` instead. `torch.onnx.export(program, dynamo=True)` turns the program into ONNX.
# ````
#
# 4. **Why not choose τ on the test images?** Do it on 200 random halves of them, and measure on the other half.
#
# ```{dropdown} Solution
# On the half that chose τ, the wanted 95 % are reached by construction. On the other half they are missed about every second time, and by more the fewer images there are. It is
# {ref}`the trap of the primer <primer-trap>` again.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
