"""Caltech-UCSD Birds-200-2011 (Wah et al., Caltech CNS-TR-2011-001), from its official layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np

from fgvc_lib.data.download import install
from fgvc_lib.data.files import Files, Item, data_root, select

URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
"""The sum that is widely published for ``CUB_200_2011.tgz``."""


CUB100 = Path(__file__).with_name("cub100.txt")
"""A file with the names of the 100 classes that this project measures on, one a line."""


def cub100_files(*, root: str = "", download: bool = False) -> Files:
    """Half of CUB: the boxes of 100 of its classes, 2,999 training and 2,903 test images.

    The official archive has all of it. Where ``root`` holds a folder ``cub100`` with a copy of these classes whose
    images are cropped already, that one is read: the same images and splits, with pixels that a resize to 227 × 227 and
    a second compression have changed by 2 of 255 levels in the mean. Numbers compare methods with each other, not with
    papers, which have 200 classes and no boxes.

    Args:
        root: folder that holds ``cub100/CUB_200_2011`` or ``CUB_200_2011``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch the 1.1 GB archive if neither is there.
    """
    copy = data_root(root) / "cub100"
    if (copy / "CUB_200_2011").is_dir():
        files = cub_files(root=str(copy))
    else:
        files = cub_files(root=root, download=download, crop="box")
    return dataclasses.replace(select(files, classes=str(CUB100), val_fraction=0), name="cub100")


def cub_files(*, root: str = "", download: bool = False, crop: Literal["box"] | None = None) -> Files:
    """200 bird species, 5,994 training and 5,794 test images, with 15 part points and a box of the bird.

    ``Split.parts`` holds ``points`` and ``object_boxes``, moved with crop and resize. No part is known to decide a
    class. A copy with fewer images or classes works, if its tables agree, and so does one without the boxes or the
    folder ``parts``.

    Args:
        root: folder that holds ``CUB_200_2011``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch the 1.1 GB archive if the folder is not there.
        crop: ``"box"`` to see the bird's box alone; None for the whole photograph.
    """
    folder = data_root(root) / "CUB_200_2011"
    for other in (folder / folder.name, folder.parent):  # the archive unpacked into a folder of its name, or its inside
        if not (folder / "images.txt").is_file() and (other / "images.txt").is_file():
            folder = other
    if not folder.is_dir() and download:
        install(URL, MD5, folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder} is not there: unpack CUB_200_2011.tgz so that it is, or load with download=True"
        )
    paths = dict(_rows(folder / "images.txt"))
    labels = dict(_rows(folder / "image_class_labels.txt"))
    training = dict(_rows(folder / "train_test_split.txt"))
    names = dict(_rows(folder / "classes.txt"))
    boxed = crop == "box" or (folder / "bounding_boxes.txt").is_file()
    boxes = dict(_rows(folder / "bounding_boxes.txt")) if boxed else {}
    dotted = (folder / "parts").is_dir()
    parts = dict(_rows(folder / "parts" / "parts.txt")) if dotted else {}
    index = {name: i for i, name in enumerate(names)}
    part_index = {name: i for i, name in enumerate(parts)}
    points = {image: np.full((len(parts), 2), np.nan) for image in paths}
    for image, row in _rows(folder / "parts" / "part_locs.txt") if dotted else ():
        part, column, line, visible = row.split()
        if visible == "1" and image in points:
            points[image][part_index[part]] = float(column), float(line)
    train: list[Item] = []
    test: list[Item] = []
    for image, path in paths.items():
        for table, file in ((labels, "image_class_labels"), (training, "train_test_split"), (boxes, "bounding_boxes")):
            if image not in table and (boxed or table is not boxes):
                raise ValueError(f"{folder / file}.txt has no row for image {image} ({path}): unpack the archive again")
        if labels[image] not in index or names[labels[image]] != path.split("/")[0]:
            raise ValueError(f"{folder}: image {path} does not lie in the folder of its class, number {labels[image]}")
        x, y, width, height = map(float, boxes[image].split()) if boxed else (0.0,) * 4
        cut = None
        if crop == "box":
            left, top, right, bottom = cut = int(x), int(y), int(x) + int(width), int(y) + int(height)
            x, y, width, height = 0.0, 0.0, float(right - left), float(bottom - top)
            points[image] -= left, top
        box = (x, y, x + width, y + height) if boxed else None
        dots = points[image] if dotted else None
        item = Item(folder / "images" / path, path, index[labels[image]], box, dots, cut)
        (train if training[image] == "1" else test).append(item)
    # "001.Black_footed_Albatross" → "Black footed Albatross"
    classes = tuple(name.split(".", 1)[-1].replace("_", " ") for name in names.values())
    return Files("cub", classes, train, test, part_names=tuple(parts.values()), upright=False)


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """The first word of every line and the rest."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: unpack CUB_200_2011.tgz again")
    for line in path.read_text().splitlines():
        if line.strip():
            first, _, rest = line.strip().partition(" ")
            yield first, rest
