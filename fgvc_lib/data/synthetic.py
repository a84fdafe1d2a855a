"""Synthetic birds: a fine-grained set whose discriminative part is known for every image.

All classes are one and the same small bird; each class adds one mark on one part. Everything else varies from image
to image in the same way in all classes: pose, direction, size, place, plumage, color cast, background, berries in
the colors of the marks, leaves in front.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from fgvc_lib.data import bird_drawing, shapes
from fgvc_lib.data.bird_drawing import BLACK, DRAWS, PARTS, PLAIN, RED, YELLOW, draw_birds
from fgvc_lib.data.cache import cached, create_array, open_array
from fgvc_lib.data.dataset import ImageData, Split

# part → class name → the parameters that differ from a plain bird
MARKS: dict[str, dict[str, dict[str, Any]]] = {
    "crown": {
        "black cap": {"cap": 1, "cap_color": BLACK},
        "red cap": {"cap": 1, "cap_color": RED},
    },
    "eye": {
        "white eye ring": {"ring": 1},
        "eye line": {"eyeline": 1},
    },
    "beak": {
        "long beak": {"beak_length": 0.48, "beak_width": 0.08},
        "thick beak": {"beak_length": 0.30, "beak_width": 0.16},
    },
    "breast": {
        "black breast spot": {"spot": 1},
        "streaked breast": {"streaks": 1},
    },
    "wing": {
        "two white wing bars": {"bar": 0.035, "bar2": 0.035},
        "one yellow wing bar": {"bar": 0.045, "bar_color": YELLOW},
    },
    "tail": {
        "white tail tip": {"tail_from": 0.42, "tail_to": 0.9},
        "black tail band": {"tail_from": 0.26, "tail_to": 0.42, "tail_color": BLACK},
    },
}

CLASSES: tuple[tuple[str, str], ...] = tuple(
    (part, list(MARKS[part])[i]) for i in range(len(MARKS["crown"])) for part in PARTS
)
"""Part and mark of every class, the first mark of each of the six parts, then the second of each."""


def birds(
    *,
    classes: int = 12,
    per_class: int = 40,
    val_per_class: int = 20,
    test_per_class: int = 100,
    image_size: int = 64,
    seed: int = 0,
) -> ImageData:
    """Birds that differ in one mark on one part, with the ground truth of every part.

    The *discriminative* part of an image is the part its class has a mark on. It alone decides: no other class has that
    mark, and all other parts look as in every class that has no mark there. So the class can be read off the
    discriminative part without the rest (:func:`birds_oracle`), and with that part covered nothing remains but the
    knowledge that the other parts bear no mark. Leaves never hide it; they may hide the other parts.

    The defaults are few images of few classes, on purpose: a plain net learns them by heart and has to find out which
    of all that varies is the mark. The fingerprint of the default set is fixed by a test.

    ``Split.parts`` holds ``masks``, ``boxes``, ``points`` (the center of the visible pixels; NaN, as the box, where
    none is) and ``discriminative``. A part's mask covers the place where its marks are, also on birds without one.

    Args:
        classes: number of classes, 2 to 12.
        per_class: training images per class.
        val_per_class: validation images per class.
        test_per_class: test images per class.
        image_size: side of the images in pixels; the same seed draws the same birds at every size.
        seed: another one draws other birds.

    Raises:
        ValueError: a count or a size out of range.
    """
    if not 2 <= classes <= len(CLASSES):
        raise ValueError(f"there are 2 to {len(CLASSES)} classes of birds, got classes={classes}")
    counts = {"train": per_class, "val": val_per_class, "test": test_per_class}
    if min(counts.values()) < 1 or image_size < 16:
        raise ValueError(
            f"birds need at least 1 image per class and split and 16 pixels, got {counts} and image_size={image_size}"
        )
    settings = {"classes": classes, "image_size": image_size, "seed": seed, **counts}
    source = b"".join(Path(file).read_bytes() for file in (__file__, bird_drawing.__file__, shapes.__file__))
    key = hashlib.sha256(json.dumps(settings).encode() + source).hexdigest()[:16]

    def build(folder: Path) -> None:
        hashes = {}
        for i, (name, count) in enumerate(counts.items()):
            hashes[name] = _draw_split(folder, name, count * classes, classes, image_size, (seed, i))
        (folder / "hashes.json").write_text(json.dumps(hashes))

    folder = cached(f"birds-{key}", build)
    splits: dict[str, Any] = {}
    for name, count in counts.items():
        labels = np.arange(count * classes) % classes
        parts = {part: open_array(folder / f"{name}_{part}.npy") for part in ("masks", "boxes", "points")}
        parts["discriminative"] = _marked_part(labels)
        splits[name] = Split(open_array(folder / f"{name}_images.npy"), torch.from_numpy(labels), parts)
    mean, std = channel_statistics(splits["train"].images)
    return ImageData(
        name="birds",
        fingerprint=hashlib.sha256((folder / "hashes.json").read_bytes()).hexdigest()[:16],
        classes=tuple(mark for _, mark in CLASSES[:classes]),
        mean=mean,
        std=std,
        augment=("flip",),
        part_names=PARTS,
        **splits,
    )


def birds_oracle(*, margin: float = 0.5, **options: Any) -> ImageData:
    """The very images of :func:`birds`, each cropped to its discriminative part: the upper bound for finding the part.

    Args:
        margin: extension of the box's longer side, as a fraction of it; the crop is a square around the box's center,
            resized to the image's size by bilinear interpolation.
        **options: of :func:`birds`.
    """
    data = birds(**options)
    splits: dict[str, Any] = {}
    for name in ("train", "val", "test"):
        split: Split = getattr(data, name)
        boxes = split.parts["boxes"][np.arange(len(split)), split.parts["discriminative"]]  # (N, 4)
        splits[name] = Split(
            crop_to_boxes(split.images, torch.from_numpy(boxes), data.image_size, margin), split.labels
        )
    key = f"{data.fingerprint} oracle crop {margin}"
    mean, std = channel_statistics(splits["train"].images)
    return dataclasses.replace(
        data,
        name=f"{data.name} oracle crop",
        fingerprint=hashlib.sha256(key.encode()).hexdigest()[:16],
        mean=mean,
        std=std,
        part_names=(),
        **splits,
    )


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of images scaled to [0, 1], from exact integer sums."""
    levels = np.arange(256)
    counts = np.stack([np.bincount(images[:, c].ravel(), minlength=256) for c in range(images.shape[1])])  # (C, 256)
    total = counts.sum(1)
    mean = (counts * levels).sum(1) / total
    variance = (counts * levels**2).sum(1) / total - mean**2
    return tuple(np.round(mean / 255, 4).tolist()), tuple(np.round(np.sqrt(variance) / 255, 4).tolist())


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """The box around each mask, x1 y1 x2 y2: bool ``(N, P, H, W)`` → float32 ``(N, P, 4)``, NaN where empty."""
    boxes: np.ndarray = np.empty((*masks.shape[:2], 4), np.float32)
    for axis, low in ((2, 0), (3, 1)):  # columns, then rows
        along = np.asarray(masks.any(axis))  # (N, P, W) or (N, P, H)
        boxes[..., low] = along.argmax(-1)
        boxes[..., low + 2] = along.shape[-1] - along[..., ::-1].argmax(-1)
    boxes[~masks.any((2, 3))] = np.nan
    return boxes


def mask_points(masks: np.ndarray) -> np.ndarray:
    """The center of each mask's pixels, x y: bool ``(N, P, H, W)`` → float32 ``(N, P, 2)``, NaN where empty."""
    area = masks.sum((2, 3))
    x = (masks.sum(2) * np.arange(masks.shape[3])).sum(2)
    y = (masks.sum(3) * np.arange(masks.shape[2])).sum(2)
    with np.errstate(invalid="ignore"):
        points: np.ndarray = (np.stack([x, y], -1) / area[..., None] + 0.5).astype(np.float32)
    return points


def _marked_part(labels: np.ndarray) -> np.ndarray:
    part: np.ndarray = np.array([PARTS.index(part) for part, _ in CLASSES])[labels]
    return part


def _draw_split(folder: Path, name: str, n: int, classes: int, size: int, seed: tuple[int, int]) -> str:
    """Draw ``n`` images into ``folder``; the SHA-256 of pixels and masks."""
    labels = np.arange(n) % classes
    # raw integers: NumPy promises this stream for ever, unlike those of its distributions
    raw = np.random.PCG64(np.random.SeedSequence(seed)).random_raw((n, DRAWS))
    uniform = (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    marks = [MARKS[part][mark] for part, mark in CLASSES]
    looks = {
        key: np.array([mark.get(key, plain) for mark in marks], np.float32)[labels] for key, plain in PLAIN.items()
    }
    discriminative = _marked_part(labels)
    sizes = {"images": (n, 3, size, size), "masks": (n, len(PARTS), size, size)}
    arrays = {
        key: create_array(folder / f"{name}_{key}.npy", np.uint8 if key == "images" else np.bool_, shape)
        for key, shape in sizes.items()
    }

    def draw(start: int) -> None:
        rows = slice(start, start + step)
        part_looks = {key: value[rows] for key, value in looks.items()}
        drawing = draw_birds(uniform[rows], part_looks, discriminative[rows], size=size)
        arrays["images"][rows], arrays["masks"][rows] = drawing.images, drawing.masks

    step = max(1, 8 * 64 * 64 // size**2)  # a chunk's planes stay in the processor's cache
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(draw, range(0, n, step)))
    np.save(folder / f"{name}_boxes.npy", mask_boxes(arrays["masks"]))
    np.save(folder / f"{name}_points.npy", mask_points(arrays["masks"]))
    digest = hashlib.sha256(arrays["images"].tobytes() + np.packbits(arrays["masks"]).tobytes()).hexdigest()
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    return digest


def crop_to_boxes(images: np.ndarray, boxes: torch.Tensor, size: int, margin: float) -> np.ndarray:
    """Square crops around ``boxes``, resized: uint8 ``(N, C, H, W)`` → ``(N, C, size, size)``."""
    n, channels, height, width = images.shape
    extent = torch.tensor([width, height], dtype=torch.float32)
    center = (boxes[:, :2] + boxes[:, 2:]) / extent - 1  # (N, 2), x y in [-1, 1]
    side = (boxes[:, 2:] - boxes[:, :2]).amax(1, keepdim=True) * (1 + margin) / extent  # (N, 2)
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1], theta[:, :, 2] = side[:, 0], side[:, 1], center
    crops = np.empty((n, channels, size, size), np.uint8)
    for start in range(0, n, 256):
        rows = slice(start, start + 256)
        pixels = torch.from_numpy(images[rows]).float()
        grid = F.affine_grid(theta[rows], [len(pixels), channels, size, size], align_corners=False)
        crops[rows] = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False).round().byte().numpy()
    return crops
