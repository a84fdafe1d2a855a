"""What every data set becomes: three splits of decoded images, with a fingerprint.

Fine-grained sets are small, so images are decoded once (into memory or a memory-mapped cache) and
normalized, cropped and flipped in batches on the training device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.listing import some


@dataclass(frozen=True)
class Split:
    """Images and labels, in a fixed order.

    Attributes:
        images: uint8 ``(N, C, H, W)``, an array or a memory map.
        labels: int64 ``(N,)``.
        parts: what is known about parts, by name, each with N rows; empty where nothing is known. Names in use:
            ``masks`` bool ``(N, P, H, W)``, ``boxes`` float32 ``(N, P, 4)`` as x1 y1 x2 y2 in pixels,
            ``points`` float32 ``(N, P, 2)`` as x y in pixels (NaN where not visible),
            ``discriminative`` int64 ``(N,)``, the part that decides the image's class,
            ``object_boxes`` float32 ``(N, 4)``, the whole object.
        keys: names of the image files inside the set, one each; empty where the images are no files.
    """

    images: np.ndarray
    labels: Tensor
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    keys: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != np.uint8 or len(shape) != 4 or shape[2] != shape[3]:
            raise ValueError(f"images must be uint8 (N, C, S, S), got {self.images.dtype} of shape {shape}")
        if self.labels.dtype != torch.int64 or self.labels.shape != shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({shape[0]},), got {self.labels.dtype} of {tuple(self.labels.shape)}"
            )
        for name, value in {**self.parts, **({"keys": self.keys} if self.keys else {})}.items():
            if len(value) != shape[0]:
                raise ValueError(f"{name} must have a row per image, expected {shape[0]}, got {len(value)}")


@dataclass(frozen=True)
class ImageData:
    """A data set ready to train on.

    Attributes:
        name: the set's name.
        fingerprint: hash of the pixels' source and of every setting that changes them, hex.
        classes: class names; ``labels`` index them.
        train, val, test: the splits; ``val`` is held out of the official training images.
        mean, std: per channel, of images scaled to [0, 1]; what normalization subtracts and divides by.
        augment: the training augmentations, applied in order: names, or functions of one image ``(C, H, W)`` in [0, 1],
            such as a ``torchvision.transforms.v2`` transform, which is slower and not part of a run's configuration.
        part_names: names of the parts in ``Split.parts``.
        skipped: files that could not be read and were left out, where that was asked for.
        layout: how somebody's own folder was understood.
    """

    name: str
    fingerprint: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: tuple[str | Callable[[Tensor], Tensor], ...] = ()
    part_names: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    layout: str = ""

    @property
    def summary(self) -> str:
        """How many classes and images there are, and how a folder was understood, in one line."""
        counts = ((self.train, "training"), (self.val, "validation"), (self.test, "test"))
        images = ", ".join(f"{len(split):,} {word}" for split, word in counts if len(split))
        skipped = f"; {len(self.skipped)} unreadable files left out: {some(self.skipped)}" if self.skipped else ""
        layout = f"; {self.layout}" if self.layout else ""
        classes = f"{len(self.classes)} classes ({some(self.classes)})"
        return f"{self.name}: {classes}, {images} images{layout}{skipped}"

    @property
    def image_size(self) -> int:
        """Side in pixels of the square images a method sees; training images may be stored larger, to be cropped."""
        return int(self.test.images.shape[-1])
