"""Image files → :class:`~fgvc_lib.data.dataset.ImageData`: decoded once, into the cache."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fgvc_lib.data.augment import AUGMENTATIONS
from fgvc_lib.data.cache import cached, create_array, open_array
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.files import Classes, Files, Item, select
from fgvc_lib.data.images import BadImage, read_image, square
from fgvc_lib.data.listing import some

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which pretrained weights expect."""


def decode_all(
    files: Files,
    *,
    image_size: int = 224,
    resize: int | None = None,
    letterbox: bool = False,
    classes: Classes | None = None,
    per_class: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    skip_bad: bool = False,
    augment: Sequence[str] = ("crop", "flip"),
) -> ImageData:
    """Decode a set into the cache, or take it from there.

    Args:
        files: the set's listing.
        image_size: side of the square images that a method sees.
        resize: side to which the files are resized; None for ``image_size``. If larger, training crops at random from
            it and evaluation takes the center, the usual 512 → 448 protocol.
        letterbox: keep the files' proportions, between gray bars, instead of resizing both axes on their own.
        classes, per_class, val_fraction, seed: see :func:`fgvc_lib.data.files.select`.
        skip_bad: leave files that cannot be read out and name them in ``ImageData.skipped``, instead of an error.
        augment: names of :data:`fgvc_lib.data.augment.AUGMENTATIONS`. ``ImageData.augment`` takes transforms of your
            own too.

    Raises:
        ValueError: a file that cannot be read (its name and the reason), a class without a training image, or a
            setting out of range.
    """
    resize = image_size if resize is None else resize
    if not 1 <= image_size <= resize:
        raise ValueError(f"resize must be at least image_size, got resize={resize} and image_size={image_size}")
    unknown = [name for name in augment if name not in AUGMENTATIONS]
    if unknown:
        raise ValueError(f"no augmentation {', '.join(unknown)}: choose from {', '.join(AUGMENTATIONS)}")
    chosen = select(files, classes=classes, per_class=per_class, val_fraction=val_fraction, seed=seed)
    items = {"train": chosen.train, "val": chosen.val, "test": chosen.test}
    ends = {name: _ends(split) for name, split in items.items()}
    settings = {"image_size": image_size, "resize": resize, "skip_bad": skip_bad}
    settings |= {"letterbox": True} if letterbox else {}
    fingerprint = _fingerprint(chosen, ends, settings)

    def build(folder: Path) -> None:
        skipped = {}
        for name, split in items.items():
            side = resize if name == "train" else image_size
            load = partial(load_square, resize=resize, side=side, upright=files.upright, letterbox=letterbox)
            skipped[name] = _decode_split(folder, name, split, load, side=side, skip_bad=skip_bad)
        (folder / "skipped.json").write_text(json.dumps(skipped))

    folder = cached(f"{files.name}-{fingerprint}", build)
    skipped: Mapping[str, list[int]] = json.loads((folder / "skipped.json").read_text())
    splits, left_out = {}, []
    for name, split in items.items():
        bad = set(skipped[name])
        left_out += [split[i].key for i in sorted(bad)]
        good = [item for i, item in enumerate(split) if i not in bad]
        offset = 0 if name == "train" else (resize - image_size) // 2
        labels = torch.tensor([item.label for item in good], dtype=torch.long)
        sizes = np.load(folder / f"{name}_sizes.npy")
        parts = _parts(good, sizes, resize=resize, offset=offset, letterbox=letterbox)
        keys = tuple(item.key for item in good)
        splits[name] = Split(open_array(folder / f"{name}_images.npy"), labels, parts, keys)
    missing = set(range(len(chosen.classes))) - set(splits["train"].labels.tolist())
    if missing and files.train:
        name = chosen.classes[min(missing)]
        raise ValueError(f"class {name!r} of {files.name} has no training image: add some or leave the class out")
    if files.layout:
        _warn(chosen, ends)
    return ImageData(
        name=files.name,
        fingerprint=fingerprint,
        classes=chosen.classes,
        mean=MEAN,
        std=STD,
        augment=tuple(augment),
        part_names=files.part_names,
        skipped=tuple(left_out),
        layout=files.layout,
        **splits,
    )


def _warn(files: Files, ends: Mapping[str, Sequence[bytes]]) -> None:
    """Say what makes the scores of somebody's own folder mean less than they seem to."""
    if files.dropped:
        warnings.warn(f"{files.name}: images passed over: {files.dropped}", stacklevel=4)
    if not files.train:
        return
    tested = {item.label for item in files.test}
    if files.test and (untested := [name for label, name in enumerate(files.classes) if label not in tested]):
        warnings.warn(f"{files.name}: no test image of {some(untested)}, so the test says nothing of it", stacklevel=4)
    known = {end: item.key for item, end in zip(files.train, ends["train"], strict=True)}
    held = [pair for name in ("val", "test") for pair in zip(getattr(files, name), ends[name], strict=True)]
    copies = [f"{item.key} of {known[end]}" for item, end in held if end in known and any(end)]
    if copies:
        warnings.warn(
            f"{files.name}: {len(copies)} images that are held out are copies of training images "
            f"({some(copies, most=2)}), which flatters the scores: remove one of each",
            stacklevel=4,
        )


def load_square(
    item: Item, *, resize: int, side: int, upright: bool, letterbox: bool = False
) -> tuple[Image.Image, tuple[int, int]]:
    """The image resized to a square of ``resize``, cut to its center of ``side``; and the width and height it had."""
    image = read_image(item.path, upright=upright)
    if item.crop is not None:
        image = image.crop(item.crop)
    return square(image, resize, crop=side, letterbox=letterbox), image.size


def _fingerprint(files: Files, ends: Mapping[str, Sequence[bytes]], settings: dict[str, int | bool]) -> str:
    """Hash of the names, splits, labels, annotations, sizes and the first and last 4 KiB of every file, and settings.

    Head and tail hold an image's header and the end of its data, so another or re-encoded image shows, at a small part
    of the cost of reading everything. Times of change are left out: a copy on another machine is the same set.
    """
    name = files.identity or files.name
    seen = hashlib.sha256(json.dumps([name, files.classes, settings, files.upright], sort_keys=True).encode())
    for split, digests in ends.items():
        for item, end in zip(getattr(files, split), digests, strict=True):
            points = b"" if item.points is None else item.points.tobytes()
            crop = "" if item.crop is None else f"{item.crop}\0"
            text = f"{split}\0{item.key}\0{item.label}\0{item.box}\0{crop}"
            seen.update(text.encode("utf8", "surrogateescape") + points + end)
    return seen.hexdigest()[:16]


def _ends(items: Sequence[Item]) -> list[bytes]:
    """Digests of each file's size, first and last 4 KiB; zeros of a file that cannot be opened."""

    def digest(item: Item) -> bytes:
        try:
            with item.path.open("rb") as file:
                head = file.read(4096)
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - 4096))
                return hashlib.sha256(head + file.read() + str(size).encode()).digest()
        except OSError:
            return bytes(32)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(digest, items))


def _decode_split(
    folder: Path,
    name: str,
    items: Sequence[Item],
    load: Callable[[Item], tuple[Image.Image, tuple[int, int]]],
    *,
    side: int,
    skip_bad: bool,
) -> list[int]:
    """Decode ``items`` into ``folder``; the positions of those left out."""
    path = folder / f"{name}_images.npy"
    images = create_array(path, np.uint8, (len(items), 3, side, side))
    sizes = np.zeros((len(items), 2), np.int64)
    bad: list[int] = []

    def decode(i: int) -> None:
        try:
            image, sizes[i] = load(items[i])
            images[i] = np.asarray(image).transpose(2, 0, 1)
        except BadImage as error:
            if not skip_bad:
                raise BadImage(f"{error}; remove it, or set skip_bad to leave such files out") from error
            bad.append(i)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # the first error stops what has not begun
        list(pool.map(decode, range(len(items))))
    good = np.setdiff1d(np.arange(len(items)), bad)
    if bad:
        whole, images = images, create_array(folder / "good.npy", np.uint8, (len(good), *images.shape[1:]))
        for new, old in enumerate(good):  # one by one: a set need not fit into memory
            images[new] = whole[old]
        (folder / "good.npy").replace(path)
    images.flush()  # type: ignore[attr-defined]
    np.save(folder / f"{name}_sizes.npy", sizes[good])
    return sorted(bad)


def _parts(
    items: Sequence[Item], sizes: np.ndarray, *, resize: int, offset: int, letterbox: bool
) -> dict[str, np.ndarray]:
    """Boxes and points moved with the resize and the center crop, float32, in pixels of the stored image."""
    parts: dict[str, np.ndarray] = {}
    scale = resize / np.maximum(sizes, 1)  # (N, 2), x y
    if letterbox:
        scale = scale.min(1, keepdims=True)  # (N, 1)
    shift = ((resize - sizes * scale) / 2 - offset)[:, None]  # (N, 1, 2), of the bars and the crop
    if items and all(item.box is not None for item in items):
        boxes = np.array([item.box for item in items], np.float64).reshape(-1, 2, 2)
        parts["object_boxes"] = (boxes * scale[:, None] + shift).reshape(-1, 4).astype(np.float32)
    if items and all(item.points is not None for item in items):
        points = np.stack([np.asarray(item.points, np.float64) for item in items])  # (N, P, 2)
        parts["points"] = (points * scale[:, None] + shift).astype(np.float32)
    return parts
