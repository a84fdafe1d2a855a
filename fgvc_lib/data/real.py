"""Real sets that torchvision knows: Stanford Cars, FGVC-Aircraft, Flowers-102, Oxford-IIIT Pet, MNIST.

torchvision finds and downloads the files and knows their labels; decoding, held-out validation and the cache are the
same as for every other set. All official training images (training and validation where the authors split them) are
one pool, from which validation is held out per class.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from torchvision import datasets

from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.decoding import decode_all
from fgvc_lib.data.download import install_with
from fgvc_lib.data.files import Files, Item, Options, data_root
from fgvc_lib.data.splits import hold_out, take_per_class


def cars(*, root: str = "", **options: Unpack[Options]) -> ImageData:
    """Stanford Cars (Krause et al., 3DRR 2013): 196 classes, 8,144 training and 8,041 test images.

    Its download is gone for good, so the files must be laid out by hand as torchvision expects them.

    Args:
        root: folder that holds ``stanford_cars``; relative to ``FGVC_DATA`` unless absolute.
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(cars_files(root=root), **options)


def aircraft(*, root: str = "", download: bool = False, **options: Unpack[Options]) -> ImageData:
    """FGVC-Aircraft (Maji et al., 2013): 100 variants, 6,667 training (``trainval``) and 3,333 test images.

    Args:
        root: folder that holds ``fgvc-aircraft-2013b``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (2.8 GB) through torchvision if it is not there.
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(aircraft_files(root=root, download=download), **options)


def flowers(*, root: str = "", download: bool = False, **options: Unpack[Options]) -> ImageData:
    """Oxford Flowers-102 (Nilsback and Zisserman, ICVGIP 2008): 102 classes.

    2,040 training (``train`` and ``val``) and 6,149 test images.

    Args:
        root: folder that holds ``flowers-102``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (345 MB) through torchvision if it is not there.
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(flowers_files(root=root, download=download), **options)


def pets(*, root: str = "", download: bool = False, **options: Unpack[Options]) -> ImageData:
    """Oxford-IIIT Pet (Parkhi et al., CVPR 2012): 37 breeds, 3,680 training (``trainval``) and 3,669 test images.

    Args:
        root: folder that holds ``oxford-iiit-pet``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (800 MB) through torchvision if it is not there.
        **options: see :func:`fgvc_lib.data.decoding.decode_all`.
    """
    return decode_all(pets_files(root=root, download=download), **options)


def mnist(
    *, root: str = "", download: bool = False, per_class: int | None = None, val_share: float = 0.1, seed: int = 0
) -> ImageData:
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 test digits, grey, 28 × 28.

    Args:
        root: folder that holds ``MNIST/raw``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (11 MB) through torchvision if it is not there.
        per_class: training images to keep per class; None for all.
        val_share: share of each class's training images that is held out for validation.
        seed: of both choices.
    """
    base = data_root(root)
    train, test = _open(datasets.MNIST, base, "MNIST", ({"train": True}, {"train": False}), download=download)
    labels = train.targets.long()
    keys = [f"{i:05d}" for i in range(len(labels))]
    kept, held = hold_out(keys, labels, share=val_share, seed=seed)
    if per_class is not None:
        kept = kept[take_per_class([keys[i] for i in kept.tolist()], labels[kept], count=per_class, seed=seed)]
    splits = {
        "train": Split(train.data[kept].numpy()[:, None], labels[kept]),
        "val": Split(train.data[held].numpy()[:, None], labels[held]),
        "test": Split(test.data.numpy()[:, None], test.targets.long()),
    }
    seen = hashlib.sha256()
    for split in splits.values():
        seen.update(split.images.tobytes() + split.labels.numpy().tobytes())
    return ImageData(
        name="mnist",
        fingerprint=seen.hexdigest()[:16],
        classes=tuple(str(d) for d in range(10)),
        mean=(0.1307,),
        std=(0.3081,),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
    )


def cars_files(*, root: str = "") -> Files:
    """The listing of Stanford Cars."""
    base = data_root(root)
    folder = base / "stanford_cars"
    needed = ("devkit/cars_train_annos.mat", "cars_train", "cars_test_annos_withlabels.mat", "cars_test")
    absent = [name for name in (*needed, "devkit/cars_meta.mat") if not (folder / name).exists()]
    if absent:
        raise FileNotFoundError(
            f"Stanford Cars is no longer offered for download: lay {folder} out with {', '.join(needed)} and "
            f"devkit/cars_meta.mat (missing: {', '.join(absent)})"
        )
    train, test = (datasets.StanfordCars(str(base), split) for split in ("train", "test"))
    pairs = ([(Path(path), int(label)) for path, label in split._samples] for split in (train, test))
    return _files("cars", train.classes, folder, *pairs)


def aircraft_files(*, root: str = "", download: bool = False) -> Files:
    """The listing of FGVC-Aircraft."""
    base, name = data_root(root), "fgvc-aircraft-2013b"
    splits = ({"split": "trainval"}, {"split": "test"})
    train, test = _open(datasets.FGVCAircraft, base, name, splits, download=download)
    pairs = (list(zip(map(Path, split._image_files), split._labels, strict=True)) for split in (train, test))
    return _files("aircraft", train.classes, base / name, *pairs)


def flowers_files(*, root: str = "", download: bool = False) -> Files:
    """The listing of Flowers-102."""
    base, name = data_root(root), "flowers-102"
    splits = tuple({"split": split} for split in ("train", "val", "test"))
    train, val, test = (
        list(zip(map(Path, split._image_files), map(int, split._labels), strict=True))
        for split in _open(datasets.Flowers102, base, name, splits, download=download)
    )
    return _files("flowers", [f"flower {i + 1:03d}" for i in range(102)], base / name, train + val, test)


def pets_files(*, root: str = "", download: bool = False) -> Files:
    """The listing of Oxford-IIIT Pet."""
    base, name = data_root(root), "oxford-iiit-pet"
    splits = ({"split": "trainval"}, {"split": "test"})
    train, test = _open(datasets.OxfordIIITPet, base, name, splits, download=download)
    pairs = (list(zip(map(Path, split._images), split._labels, strict=True)) for split in (train, test))
    return _files("pets", train.classes, base / name, *pairs)


def _open(kind: Any, base: Path, folder: str, splits: Sequence[dict[str, Any]], *, download: bool) -> tuple[Any, ...]:
    """torchvision's class for every split; a download goes to a temporary folder first, so it is whole or not there."""

    def fetch(unfinished: Path) -> None:
        for split in splits:
            kind(str(unfinished), **split, download=True)

    if download:
        install_with(fetch, base / folder)
    try:
        return tuple(kind(str(base), **split) for split in splits)
    except (RuntimeError, OSError) as error:
        raise FileNotFoundError(
            f"{base / folder} is not there or not complete: lay it out as torchvision's {kind.__name__} expects it, or "
            "load with download=True"
        ) from error


def _files(
    name: str,
    classes: Sequence[str],
    folder: Path,
    train: Sequence[tuple[Path, int]],
    test: Sequence[tuple[Path, int]],
) -> Files:
    train_items, test_items = (
        [Item(path, path.relative_to(folder).as_posix(), int(label)) for path, label in split]
        for split in (train, test)
    )
    return Files(name, tuple(classes), train_items, test_items)
