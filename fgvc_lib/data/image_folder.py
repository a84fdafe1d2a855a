"""Any folder of images with one folder per class."""

from __future__ import annotations

from pathlib import Path
from typing import Unpack

import torch

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.decoding import decode_all
from fgvc_lib.data.files import Files, Item, Options, data_root
from fgvc_lib.data.splits import hold_out

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Files with other endings, and hidden ones, are no images and are passed over."""


def folder(*, root: str, test_fraction: float = 0.25, **options: Unpack[Options]) -> ImageData:
    """A folder with one folder per class, or with ``train`` and ``test`` that each have one folder per class.

    Classes are the folders' names, sorted. Images may lie deeper inside a class.

    Args:
        root: the folder; relative to ``FGVC_DATA`` unless absolute.
        test_fraction: of each class, held out for the test where there is no ``test`` folder.
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(folder_files(root=root, test_fraction=test_fraction), **options)


def cars196_crops(**options: Unpack[Options]) -> ImageData:
    """Crops of the official *training* images of Stanford Cars, 196 classes, at ``FGVC_DATA/cars196_crops``.

    Not the published benchmark, whose test images are missing here: numbers compare methods with each other under one
    budget, not with papers.

    Args:
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(folder_files(root="cars196_crops"), **options)


def folder_files(*, root: str, test_fraction: float = 0.25) -> Files:
    """The listing of such a folder."""
    path = data_root(root)
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not there: give the folder that holds one folder of images per class")
    split = (path / "train").is_dir() and (path / "test").is_dir()
    classes = _class_folders(path / "train" if split else path)
    if split:
        strangers = sorted(set(_class_folders(path / "test")) - set(classes))
        if strangers:
            raise ValueError(f"{path / 'test'} has a class {strangers[0]!r} that {path / 'train'} has not")
        train, test = (_items(path / name, classes, must=name == "train") for name in ("train", "test"))
    else:
        items = _items(path, classes, must=True)
        labels = torch.tensor([item.label for item in items])
        kept, held = hold_out([item.key for item in items], labels, fraction=test_fraction)
        train, test = [items[i] for i in kept.tolist()], [items[i] for i in held.tolist()]
    return Files(path.name, tuple(classes), train, test)


def images_below(path: Path) -> list[Path]:
    """The image files anywhere in a folder, sorted; hidden ones are left out."""
    files = (f for f in path.rglob("*") if f.suffix.lower() in EXTENSIONS and not f.name.startswith("."))
    return sorted(file for file in files if file.is_file())


def _class_folders(path: Path) -> list[str]:
    names = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    if not names:
        raise ValueError(f"{path} has no folders: put the images of each class into a folder of its own")
    return names


def _items(path: Path, classes: list[str], *, must: bool) -> list[Item]:
    items: list[Item] = []
    for label, name in enumerate(classes):
        files = images_below(path / name)
        if must and not files:
            raise ValueError(f"{path / name} has no images ({' '.join(EXTENSIONS)}): add some or remove the folder")
        items += [Item(file, file.relative_to(path.parent).as_posix(), label) for file in files]
    return items
