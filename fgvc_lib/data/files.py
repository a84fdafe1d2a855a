"""What a set of image files is before anything is decoded: which file is which class, and trains or tests.

:func:`select` holds out the validation images, and :func:`fgvc_lib.data.decoding.decode_all` decodes them all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch

from fgvc_lib.data.splits import hold_out, take_per_class


@dataclass(frozen=True)
class Item:
    """One image file.

    Attributes:
        path: where it is.
        key: its name inside the set, the same on every machine.
        label: class index.
        box: x1 y1 x2 y2 of the object in pixels of the file.
        points: ``(P, 2)`` x y of the part points in pixels of the file, NaN where not visible.
    """

    path: Path
    key: str
    label: int
    box: tuple[float, float, float, float] | None = None
    points: np.ndarray | None = None


@dataclass(frozen=True)
class Files:
    """The files of a set: ``train`` and ``test`` as its authors split them, ``val`` empty until :func:`select`.

    ``upright`` says whether EXIF orientation is applied, ``part_names`` names the points.
    """

    name: str
    classes: tuple[str, ...]
    train: Sequence[Item]
    test: Sequence[Item]
    val: Sequence[Item] = ()
    part_names: tuple[str, ...] = ()
    upright: bool = True


class Options(TypedDict, total=False):
    """What every set of image files understands, explained at :func:`fgvc_lib.data.decoding.decode_all`."""

    image_size: int
    resize: int | None
    classes: int | None
    per_class: int | None
    val_fraction: float
    seed: int
    skip_bad: bool
    augment: Sequence[str]


def data_root(root: str | Path = "") -> Path:
    """``root`` itself if absolute, else below the folder that the environment variable ``FGVC_DATA`` names."""
    path = Path(root).expanduser()
    if path.is_absolute():
        return path
    base = os.environ.get("FGVC_DATA")
    if not base:
        raise FileNotFoundError(
            "set the environment variable FGVC_DATA to the folder that holds the data sets, or give an absolute root"
        )
    return Path(base).expanduser() / path


def select(
    files: Files, *, classes: int | None = None, per_class: int | None = None, val_fraction: float = 0.1, seed: int = 0
) -> Files:
    """Hold validation images out of the training images, and cut the set down for small runs.

    Args:
        files: the whole set.
        classes: keep the first so many classes; None for all.
        per_class: training images to keep per class, after validation is held out; None for all.
        val_fraction: of each class's training images to hold out, see :func:`fgvc_lib.data.splits.hold_out`.
        seed: of both choices.
    """
    count = len(files.classes)
    if classes is not None and not 1 <= classes <= count:
        raise ValueError(f"{files.name} has {count} classes, got classes={classes}")
    count = count if classes is None else classes
    train = [item for item in files.train if item.label < count]
    keys, labels = [item.key for item in train], torch.tensor([item.label for item in train], dtype=torch.long)
    kept, held = hold_out(keys, labels, fraction=val_fraction, seed=seed)
    val = [train[i] for i in held.tolist()]
    train = [train[i] for i in kept.tolist()]
    if per_class is not None:
        chosen = take_per_class([item.key for item in train], labels[kept], count=per_class, seed=seed)
        train = [train[i] for i in chosen.tolist()]
    test = [item for item in files.test if item.label < count]
    return dataclasses.replace(files, classes=files.classes[:count], train=train, val=val, test=test)
