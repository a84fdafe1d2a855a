"""What a set of image files is before anything is decoded: which file is which class, and trains or tests.

:func:`select` holds out the validation images, and :func:`fgvc_lib.data.decoding.decode_all` decodes them all.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
        box: x1 y1 x2 y2 of the object in pixels of the file, or of ``crop``.
        points: ``(P, 2)`` x y of the part points in pixels of the file, or of ``crop``, NaN where not visible.
        crop: x1 y1 x2 y2, whole pixels, of the part of the file that is used; None for all of it.
    """

    path: Path
    key: str
    label: int
    box: tuple[float, float, float, float] | None = None
    points: np.ndarray | None = None
    crop: tuple[int, int, int, int] | None = None


@dataclass(frozen=True)
class Files:
    """The files of a set as its authors split them; ``val``, where they did not, is empty until :func:`select`.

    Attributes:
        name: for people.
        classes: their names, which ``Item.label`` indexes.
        train, test, val: the splits.
        part_names: of the points.
        upright: whether EXIF orientation is applied.
        identity: what the fingerprint calls the set: its name, unless a folder of that kind may be renamed.
        layout: how somebody's own folder was understood; empty for a published set.
        dropped: images in it that are not taken, counted by the reason.
    """

    name: str
    classes: tuple[str, ...]
    train: Sequence[Item]
    test: Sequence[Item]
    val: Sequence[Item] = ()
    part_names: tuple[str, ...] = ()
    upright: bool = True
    identity: str = ""
    layout: str = ""
    dropped: str = ""


Classes = int | str | Sequence[str]
"""Which classes to keep, as the first so many, a list of names, or a file with a name a line."""


def data_root(root: str | Path = "") -> Path:
    """``root`` itself if absolute, else below the folder that the environment variable ``FGVC_DATA`` names."""
    path, base = Path(root).expanduser(), os.environ.get("FGVC_DATA")
    if path.is_absolute():
        return path
    if not base:
        raise FileNotFoundError(
            "set the environment variable FGVC_DATA to the folder that holds the data sets, or give an absolute root"
        )
    return Path(base).expanduser() / path


def select(
    files: Files,
    *,
    classes: Classes | None = None,
    per_class: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
) -> Files:
    """Hold validation images out of the training images, and cut the set down for small runs.

    Args:
        files: the whole set; validation images that its authors chose stay as they are.
        classes: keep these only, in the order of the set: the first so many, a list of names, or the name of a file
            with one of them a line; None for all.
        per_class: training images to keep per class, after validation is held out; None for all.
        val_fraction: of each class's training images to hold out where the set has no validation images of its own,
            see :func:`fgvc_lib.data.splits.hold_out`.
        seed: of both choices.

    Raises:
        ValueError: classes that the set does not have.
        FileNotFoundError: the file of classes is not there.
    """
    chosen = range(len(files.classes)) if classes is None else _positions(files, classes)
    label = {old: new for new, old in enumerate(chosen)}

    def keep(items: Sequence[Item]) -> list[Item]:
        return [dataclasses.replace(item, label=label[item.label]) for item in items if item.label in label]

    train, val, test = keep(files.train), keep(files.val), keep(files.test)
    keys, labels = [item.key for item in train], torch.tensor([item.label for item in train], dtype=torch.long)
    if not val:
        kept, held = hold_out(keys, labels, fraction=val_fraction, seed=seed)
        val = [train[i] for i in held.tolist()]
        train = [train[i] for i in kept.tolist()]
        labels = labels[kept]
    if per_class is not None:
        few = take_per_class([item.key for item in train], labels, count=per_class, seed=seed)
        train = [train[i] for i in few.tolist()]
    return dataclasses.replace(files, classes=tuple(files.classes[i] for i in chosen), train=train, val=val, test=test)


def _positions(files: Files, classes: Classes) -> list[int]:
    """The places of ``classes`` in ``files.classes``, ascending."""
    count = len(files.classes)
    if isinstance(classes, int):
        if not 1 <= classes <= count:
            raise ValueError(f"{files.name} has {count} classes, got classes={classes}")
        return list(range(classes))
    if isinstance(classes, str):
        path = Path(classes).expanduser()
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} is not there: classes must be a number, a list, or a file with a class a line"
            )
        classes = [line.strip() for line in path.read_text(encoding="utf8").splitlines() if line.strip()]
    place = {name: i for i, name in enumerate(files.classes)}
    unknown = [wanted for wanted in classes if wanted not in place]
    if unknown or not classes:
        raise ValueError(
            f"{files.name} has no class {unknown[0]!r}: its classes are {', '.join(files.classes[:3])} …"
            if unknown
            else f"classes must name at least one class of {files.name}, got an empty list"
        )
    return sorted({place[wanted] for wanted in classes})
