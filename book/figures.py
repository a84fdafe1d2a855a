"""Draws the pictures of the book's prose pages: `python book/figures.py FOLDER`.

Nothing is read but the library: the birds are drawn from numbers, the same ones every time.
"""

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from fgvc_lib.data import birds
from fgvc_study.figures import COLORS, style


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


if __name__ == "__main__":
    style()
    sheet(Path(sys.argv[1]))
