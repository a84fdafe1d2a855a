"""Real sets that torchvision knows: Stanford Cars, FGVC-Aircraft, Flowers-102, Oxford-IIIT Pet.

torchvision finds and downloads the files and knows their labels; decoding, held-out validation and the cache are the
same as for every other set. All official training images (training and validation where the authors split them) are
one pool, from which validation is held out per class.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torchvision import datasets

from fgvc_lib.data.cache import build_once
from fgvc_lib.data.files import Files, Item, data_root


def cars_files(*, root: str = "") -> Files:
    """Stanford Cars (Krause et al., 3DRR 2013): 196 classes, 8,144 training and 8,041 test images.

    Its download is gone for good, so the files must be laid out by hand as torchvision expects them.

    Args:
        root: folder that holds ``stanford_cars``; relative to ``FGVC_DATA`` unless absolute.
    """
    base = data_root(root)
    folder = base / "stanford_cars"
    for name in ("cars_train", "cars_test"):
        if (folder / name / name).is_dir():  # as Kaggle's copy is packed
            raise FileNotFoundError(f"{folder / name} holds another {name}: move its images one folder up")
    needed = ("devkit/cars_train_annos.mat", "cars_train", "cars_test_annos_withlabels.mat", "cars_test")
    absent = [name for name in (*needed, "devkit/cars_meta.mat") if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(
            f"Stanford Cars is no longer offered for download: lay {folder} out with {', '.join(needed)} and "
            f"devkit/cars_meta.mat (missing: {', '.join(absent)})"
        )
    train, test = (datasets.StanfordCars(str(base), split) for split in ("train", "test"))
    return _files("cars", train.classes, folder, train._samples, test._samples)


def aircraft_files(*, root: str = "", download: bool = False) -> Files:
    """FGVC-Aircraft (Maji et al., 2013): 100 variants, 6,667 training (``trainval``) and 3,333 test images.

    Args:
        root: folder that holds ``fgvc-aircraft-2013b``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (2.8 GB) through torchvision if it is not there.
    """
    base, name = data_root(root), "fgvc-aircraft-2013b"
    splits = ({"split": "trainval"}, {"split": "test"})
    train, test = open_torchvision("FGVCAircraft", base, name, splits, download=download)
    pairs = (zip(split._image_files, split._labels, strict=True) for split in (train, test))
    return _files("aircraft", train.classes, base / name, *pairs)


def flowers_files(*, root: str = "", download: bool = False, official_val: bool = False) -> Files:
    """Oxford Flowers-102 (Nilsback and Zisserman, ICVGIP 2008): 102 classes.

    2,040 training (``train`` and ``val``) and 6,149 test images.

    Args:
        root: folder that holds ``flowers-102``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (345 MB) through torchvision if it is not there.
        official_val: train on the 1,020 images of the official ``train`` alone and validate on the 1,020 of ``val``.
    """
    base, name = data_root(root), "flowers-102"
    splits = tuple({"split": split} for split in ("train", "val", "test"))
    sets = open_torchvision("Flowers102", base, name, splits, download=download)
    train, val, test = (list(zip(split._image_files, split._labels, strict=True)) for split in sets)
    classes = [f"flower {i + 1:03d}" for i in range(102)]
    if official_val:
        return _files("flowers", classes, base / name, train, test, val)
    return _files("flowers", classes, base / name, train + val, test)


def pets_files(*, root: str = "", download: bool = False) -> Files:
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): 37 breeds, 3,680 training (``trainval``) and 3,669 test images.

    Args:
        root: folder that holds ``oxford-iiit-pet``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (800 MB) through torchvision if it is not there.
    """
    base, name = data_root(root), "oxford-iiit-pet"
    splits = ({"split": "trainval"}, {"split": "test"})
    train, test = open_torchvision("OxfordIIITPet", base, name, splits, download=download)
    pairs = (zip(split._images, split._labels, strict=True) for split in (train, test))
    return _files("pets", train.classes, base / name, *pairs)


def open_torchvision(
    kind: str, base: Path, folder: str, splits: Sequence[dict[str, Any]], *, download: bool
) -> tuple[Any, ...]:
    """torchvision's class ``kind`` for every split; what it downloads to ``base / folder`` is whole or not there."""
    dataset = getattr(datasets, kind)

    def fetch(unfinished: Path) -> None:
        for split in splits:
            dataset(str(unfinished), **split, download=True)

    if download:
        build_once(base / folder, fetch, inside=folder)
    try:
        return tuple(dataset(str(base), **split) for split in splits)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{base / folder} is not there or not complete: lay it out as torchvision's {kind} expects it, or "
            "load with download=True"
        ) from error


def _files(name: str, classes: Sequence[str], folder: Path, *splits: Iterable[tuple[str | Path, int]]) -> Files:
    """The listing from the paths and labels of the training, the test and, where official, the validation images."""
    train, test, *val = (
        [Item(Path(path), Path(path).relative_to(folder).as_posix(), int(label)) for path, label in split]
        for split in splits
    )
    return Files(name, tuple(classes), train, test, val[0] if val else ())
