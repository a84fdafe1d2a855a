"""Any folder of images with one folder per class, in the layouts that such folders usually have."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from fgvc_lib.data.files import Files, Item, data_root
from fgvc_lib.data.label_table import read_table
from fgvc_lib.data.listing import Found, counted, images_below, is_hidden, some
from fgvc_lib.data.splits import hold_out

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Name of a folder, in any case → the split that it holds."""

ByClass = Mapping[str, Sequence[tuple[Path, str]]]
"""Class → path of each image and its name inside the class."""


def folder_files(*, root: str, test_fraction: float = 0.25) -> Files:
    """A folder with one folder per class, or with ``train``, ``val`` and ``test`` that each have one folder per class.

    Or a CSV with the columns ``file``, ``label`` and, if you split, ``split``; files are relative to its folder.

    ``train`` alone will do, ``val`` may be called ``valid`` or ``validation``, in any case. Classes are the folders'
    names, sorted. Images may lie deeper inside a class. ``ImageData.summary`` says how the folder was understood, and a
    warning names the images in it that are not taken.

    Args:
        root: the folder or CSV; relative to ``FGVC_DATA`` unless absolute.
        test_fraction: of each class, held out for the test where there is neither ``test`` nor ``val``. Which images
            depends on the names of class and file only. ``val_fraction`` counts where there is no ``val``.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a layout that is none of these, with what was seen.
    """
    path, splits, found = _open(root)
    pool = splits.get("all") or splits.get("train")
    if pool is None:
        raise ValueError(f"{path} has {' and '.join(splits)} but no train: `fgvc evaluate` scores a model on it")
    classes = sorted(pool)
    for name in classes:
        if not pool[name]:
            passed = f" but {counted(found.dropped)}" if found.dropped else ""
            raise ValueError(f"class {name!r} of {path} has no images{passed}: add some or remove its folder")
    if len(classes) < 2:
        raise ValueError(f"{path} has one class, {classes[0]!r}: classes to tell apart need a folder of images each")
    for name in ("val", "test"):
        if strangers := _strangers(splits.get(name, {}), classes):
            raise ValueError(f"{path}: {name} has classes that train has not: {strangers}")
    items = {name: _items(name, by_class, classes) for name, by_class in splits.items()}
    if len(items) > 1:
        return _files(path, classes, found, "split as given", **items)
    (together,) = items.values()
    labels = torch.tensor([item.label for item in together])
    kept, held = hold_out([item.key for item in together], labels, fraction=test_fraction)
    train, test = ([together[i] for i in positions.tolist()] for positions in (kept, held))
    return _files(path, classes, found, f"{test_fraction:.0%} of each class held out for the test", train, test=test)


def cars196_crops_files() -> Files:
    """Crops of the official *training* images of Stanford Cars, 196 classes, at ``FGVC_DATA/cars196_crops``.

    Not the published benchmark, whose test images are missing here: numbers compare methods with each other under one
    budget, not with papers.
    """
    listed = folder_files(root="cars196_crops")
    return dataclasses.replace(listed, identity="cars196_crops", layout="")


def labeled_files(*, root: str, classes: Sequence[str], split: str | None = None) -> Files:
    """All labeled images of a folder, as ``test``, to score a model on.

    Args:
        root: laid out as for :func:`folder_files`; some of the classes will do.
        classes: that the model knows.
        split: which one of a folder that is split; None for ``test``, ``val`` or ``train``, the first that is there.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: classes that the model does not know, or a layout that is none of these.
    """
    path, splits, found = _open(root)
    chosen = "all" if "all" in splits else split or next(name for name in ("test", "val", "train") if name in splits)
    if chosen not in splits:
        raise ValueError(f"{path} has no {chosen}, but {' and '.join(splits)}")
    names = [unicodedata.normalize("NFC", name) for name in classes]
    if strangers := _strangers(splits[chosen], names):
        raise ValueError(f"{path} has classes that the model does not know: {strangers}; it knows {some(names)}")
    how = "all of it" if chosen == "all" else f"its {chosen}"
    return _files(path, classes, found, how, test=_items(chosen, splits[chosen], names))


def _open(root: str) -> tuple[Path, dict[str, dict[str, list[tuple[Path, str]]]], Found]:
    """The folder or table, its images by split and class, and what is passed over."""
    path = data_root(root)
    if path.is_file() and path.suffix.lower() == ".csv":
        return path, *read_table(path, SPLITS)
    if path.is_file():
        archive = path.suffix in (".7z", ".gz", ".rar", ".tar", ".tgz", ".zip")
        what = "an archive: unpack it and give" if archive else "a file: give a CSV of labels or"
        raise ValueError(f"{path} is {what} the folder that holds one folder of images per class")
    if not path.is_dir():
        raise FileNotFoundError(f"{path} is not there: give the folder that holds one folder of images per class")
    found = images_below(path)
    return path, _by_split(path, found), found


def _by_split(path: Path, found: Found) -> dict[str, dict[str, list[tuple[Path, str]]]]:
    """Split → class → images, with the one split ``all`` where the classes lie on top; drops images without a class.

    A folder named like a split is one if it holds folders of images. So a class may be called ``train`` too.
    """
    inside = [image.relative_to(path).parts for image in found.images]
    folders = {parts[0] for parts in inside if len(parts) > 1}
    named = {name for name in folders if name.casefold() in SPLITS}
    splits = sorted({parts[0] for parts in inside if len(parts) > 2} & named)
    if not folders:
        holds = "images, but no folders of images" if inside else "no images"
        passed = f" ({counted(found.dropped)})" if found.dropped else ""
        raise ValueError(
            f"{path} has {holds}{passed}: put the images of each class into a folder of its own; `fgvc predict` takes "
            "images without classes"
        )
    if not splits and folders == named:
        raise ValueError(
            f"{path} has {' and '.join(sorted(named))} with images, but no folder per class in them: put the images of "
            "each class into a folder of its own; `fgvc predict` takes images without classes"
        )
    if not splits:
        for parts in inside:
            if len(parts) > 2 and parts[1].casefold() in SPLITS:
                raise ValueError(f"{path} has {parts[0]}/{parts[1]}: put the splits on top, {parts[1]}/{parts[0]}")
        return {"all": _by_class(path, found)}
    if others := sorted(folders - named):
        raise ValueError(f"{path} has {' and '.join(splits)} and beside them {some(others)}: split folders or classes?")
    roles = [SPLITS[name.casefold()] for name in splits]
    if len(set(roles)) < len(roles):
        raise ValueError(f"{path} has {' and '.join(splits)}: keep one folder for each split")
    for name in named.difference(splits):
        found.drop(path / name, f"in {name}, which has no folder per class")
    return {role: _by_class(path / name, found) for role, name in sorted(zip(roles, splits, strict=True))}


def _by_class(place: Path, found: Found) -> dict[str, list[tuple[Path, str]]]:
    """Class → images, none for an empty folder; drops images that lie beside the class folders."""
    folders = [child for child in place.iterdir() if child.is_dir() and not is_hidden(child.name)]
    by_class: dict[str, list[tuple[Path, str]]] = {_class_name(child): [] for child in folders}
    for image in found.images:
        if image.is_relative_to(place) and image.parent != place:
            first, *rest = image.relative_to(place).parts
            by_class[_class_name(place / first)].append((image, "/".join(rest)))
    found.drop(place, f"beside the folders of the classes in {place.name}", below=False)
    return by_class


def _class_name(folder: Path) -> str:
    """The folder's name with its accents composed: file systems differ in that, and people do not see it."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name of {str(folder)!a} is not UTF-8: rename the folder") from None
    return unicodedata.normalize("NFC", folder.name)


def _strangers(by_class: ByClass, classes: Sequence[str]) -> str:
    """Classes with images that are not among ``classes``, in words."""
    return some(sorted(name for name, images in by_class.items() if images and name not in classes))


def _items(split: str, by_class: ByClass, classes: Sequence[str]) -> list[Item]:
    """Keys hold the names of split, class and file: not the folder's, so that a copy is split the same."""
    above = "" if split == "all" else f"{split}/"
    return [
        Item(image, unicodedata.normalize("NFC", f"{above}{class_name}/{name}"), label)
        for label, class_name in enumerate(classes)
        for image, name in by_class.get(class_name, ())
    ]


def _files(
    path: Path,
    classes: Sequence[str],
    found: Found,
    how: str,
    train: Sequence[Item] = (),
    val: Sequence[Item] = (),
    test: Sequence[Item] = (),
) -> Files:
    passed = f"; passed over: {counted(found.others)}" if found.others else ""
    return Files(
        path.stem if path.is_file() else path.name,
        tuple(classes),
        train,
        test,
        val,
        identity="folder",
        layout=f"{how}{passed}",
        dropped=counted(found.dropped),
    )
