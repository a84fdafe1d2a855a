"""Draws the pictures of the book's prose pages: `python book/figures.py FOLDER`.

The birds are drawn from numbers, the same ones every time; the charts of the performance page from the records of the
benchmarks.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fgvc_lib.data import birds
from fgvc_study.benchmarks import device, records
from fgvc_study.figures import COLORS, style

PARTS = ("data", "forward", "backward", "optimizer", "after step")  # of a training step


def sheet(folder: Path, *, columns: int = 6, size: int = 192) -> None:
    """One bird of each of the first six classes, and below it the same bird with the part that decides marked."""
    data = birds(classes=columns, per_class=2, val_per_class=1, test_per_class=1, image_size=size)
    split = data.train
    figure, axes = plt.subplots(2, columns, figsize=(9, 3.25))
    for column, (above, below) in enumerate(axes.T):
        picture = split.images[column].transpose(1, 2, 0)  # (S, S, 3)
        mask = split.parts["masks"][column, split.parts["discriminative"][column]]  # (S, S)
        faded = np.where(mask[..., None], picture, (0.35 * picture + 0.65 * 255).astype(np.uint8))
        for axis, shown in ((above, picture), (below, faded)):
            axis.imshow(shown, interpolation="lanczos")
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        below.contour(mask, levels=[0.5], colors=[COLORS[1]], linewidths=1.6)
        above.set_title(data.classes[int(split.labels[column])], fontsize=9)
    axes[0, 0].set_ylabel("what is seen", fontsize=9)
    axes[1, 0].set_ylabel("what decides", fontsize=9)
    figure.savefig(folder / "birds.png", dpi=130)
    plt.close(figure)


def steps(folder: Path) -> None:
    """Where the time of a training step goes: a bar for each method, a panel for each device."""
    found = records("step")
    figure, axes = plt.subplots(1, len(found), figsize=(9, 3.2), sharey=True, squeeze=False)
    for axis, record in zip(axes.flat, found, strict=True):
        left = np.zeros(len(record["methods"]))
        for part, color in zip(PARTS, COLORS, strict=False):
            taken = np.array([1e3 * row[part] / row["batch"] for row in record["methods"].values()])  # ms an image
            axis.barh(list(record["methods"]), taken, left=left, color=color, label=part)
            left += taken
        axis.set(title=device(record), xlabel="milliseconds an image")
    axes[0, 0].invert_yaxis()
    axes[0, 0].legend(loc="upper right", fontsize=9)
    figure.savefig(folder / "step.svg", metadata={"Date": None})
    plt.close(figure)


def growth(folder: Path) -> None:
    """The exponent of time with its lowest and highest, for all that was made to grow, on each device."""
    found = records("growth")
    names = [f"{row['what']}: {row['variable']}" for row in found[0]["growth"]]
    figure, axis = plt.subplots(figsize=(9, 0.9 + 0.3 * len(names)))
    for n, record in enumerate(found):
        slopes = [row["exponent"] for row in record["growth"]]
        y = np.arange(len(names)) + 0.25 * (n - (len(found) - 1) / 2)
        axis.hlines(y, [s["lowest"] for s in slopes], [s["highest"] for s in slopes], color=COLORS[n], lw=2)
        axis.plot([s["median"] for s in slopes], y, "os"[n % 2], color=COLORS[n], label=device(record))
    for exponent in (0, 1, 2):
        axis.axvline(exponent, color="#BBBBBB", lw=0.8, zorder=0)
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xlabel="exponent s of time ∝ size$^s$")
    axis.legend(loc="lower right", fontsize=9)
    figure.savefig(folder / "growth.svg", metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    style()
    plt.rcParams["svg.hashsalt"] = "book"  # the same records, the same bytes
    for draw in (sheet, steps, growth):
        draw(Path(sys.argv[1]))
