"""Handwritten digits: scikit-learn's, which ship inside the package, and MNIST."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.files import data_root
from fgvc_lib.data.real import open_torchvision
from fgvc_lib.data.splits import hold_out, take_per_class

CLASSES = tuple("0123456789")


def digits(*, val_fraction: float = 0.15, test_fraction: float = 0.25, seed: int = 0) -> ImageData:
    """1,797 gray digits of 8 × 8 pixels (Alpaydin and Kaynak, UCI 1998), enlarged to 28 × 28 so that LeNet++ fits.

    The enlargement is bilinear in integer arithmetic, so the pixels are the same on every machine. The set has no
    official split: ``test_fraction`` of each class is held out first, then ``val_fraction`` of what remains.

    Args:
        val_fraction: of each class's training images, held out for validation.
        test_fraction: of each class, held out for the test.
        seed: of the split.
    """
    from sklearn.datasets import load_digits  # slow to import, and nothing else here needs it

    source = load_digits()
    pixels = _enlarge(source.images.astype(np.int64))[:, None]  # (N, 1, 28, 28)
    labels = torch.from_numpy(source.target.astype(np.int64))
    keys = [f"{i:04d}" for i in range(len(labels))]
    rest, test = hold_out(keys, labels, fraction=test_fraction, seed=seed)
    kept, held = hold_out([keys[i] for i in rest.tolist()], labels[rest], fraction=val_fraction, seed=seed + 1)
    train, val, tested = (Split(pixels[chosen.numpy()], labels[chosen]) for chosen in (rest[kept], rest[held], test))
    seen = hashlib.sha256(pixels.tobytes() + b"".join(split.labels.numpy().tobytes() for split in (train, val, tested)))
    scaled = train.images / 255
    mean, std = round(float(scaled.mean()), 4), round(float(scaled.std()), 4)
    return ImageData("digits", seen.hexdigest()[:16], CLASSES, train, val, tested, (mean,), (std,))


def mnist(
    *, root: str = "", download: bool = False, per_class: int | None = None, val_fraction: float = 0.1, seed: int = 0
) -> ImageData:
    """MNIST (LeCun et al., 1998): 60,000 training and 10,000 test digits, gray, 28 × 28.

    Args:
        root: folder that holds ``MNIST/raw``; relative to ``FGVC_DATA`` unless absolute.
        download: fetch it (11 MB) through torchvision if it is not there.
        per_class: training images to keep per class; None for all.
        val_fraction: of each class's training images, held out for validation.
        seed: of both choices.
    """
    splits = ({"train": True}, {"train": False})
    official, test = open_torchvision("MNIST", data_root(root), "MNIST", splits, download=download)
    labels: Tensor = official.targets.long()
    keys = [f"{i:05d}" for i in range(len(labels))]
    kept, held = hold_out(keys, labels, fraction=val_fraction, seed=seed)
    if per_class is not None:
        kept = kept[take_per_class([keys[i] for i in kept.tolist()], labels[kept], count=per_class, seed=seed)]
    train, val = (Split(official.data[chosen].numpy()[:, None], labels[chosen]) for chosen in (kept, held))
    tested = Split(test.data.numpy()[:, None], test.targets.long())
    seen = hashlib.sha256()
    for split in (train, val, tested):
        seen.update(split.images.tobytes() + split.labels.numpy().tobytes())
    return ImageData("mnist", seen.hexdigest()[:16], CLASSES, train, val, tested, (0.1307,), (0.3081,))


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Bilinear, 8 → 28 (half-pixel centers, border repeated): integer weights over 14 per axis, 0 … 16 → 0 … 255."""
    position = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)  # 14 × the source coordinate (i + ½) · 8/28 - ½
    low = np.minimum(position // 14, 6)
    weights = np.zeros((28, 8), np.int64)
    weights[np.arange(28), low] = 14 - (position - 14 * low)
    weights[np.arange(28), low + 1] = position - 14 * low
    total: np.ndarray = weights @ images @ weights.T * 255  # in units of 1 / (14 · 14 · 16)
    return ((2 * total + 14 * 14 * 16) // (2 * 14 * 14 * 16)).astype(np.uint8)
