"""scikit-learn's handwritten digits, which ship inside the package: the smallest real images there are."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.splits import hold_out


def digits(*, val_share: float = 0.15, test_share: float = 0.25, seed: int = 0) -> ImageData:
    """1,797 grey digits of 8 × 8 pixels (Alpaydin and Kaynak, UCI 1998), enlarged to 28 × 28 so that LeNet++ fits.

    The enlargement is bilinear in integer arithmetic, so the pixels are the same on every machine. The set has no
    official split: ``test_share`` of each class is held out first, then ``val_share`` of what remains.

    Args:
        val_share: of each class's training images, held out for validation.
        test_share: of each class, held out for the test.
        seed: of the split.
    """
    from sklearn.datasets import load_digits  # slow to import, and nothing else here needs it

    source = load_digits()
    pixels = _enlarge(source.images.astype(np.int64))[:, None]  # (N, 1, 28, 28)
    labels = torch.from_numpy(source.target.astype(np.int64))
    keys = [f"{i:04d}" for i in range(len(labels))]
    rest, test = hold_out(keys, labels, share=test_share, seed=seed)
    kept, held = hold_out([keys[i] for i in rest.tolist()], labels[rest], share=val_share, seed=seed + 1)
    splits = [Split(pixels[chosen.numpy()], labels[chosen]) for chosen in (rest[kept], rest[held], test)]
    seen = hashlib.sha256(pixels.tobytes() + b"".join(split.labels.numpy().tobytes() for split in splits))
    train = splits[0].images / 255
    return ImageData(
        name="digits",
        fingerprint=seen.hexdigest()[:16],
        classes=tuple(str(d) for d in range(10)),
        train=splits[0],
        val=splits[1],
        test=splits[2],
        mean=(round(float(train.mean()), 4),),
        std=(round(float(train.std()), 4),),
    )


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Bilinear, 8 → 28 (half-pixel centres, border repeated): integer weights over 14 per axis, 0 … 16 → 0 … 255."""
    position = np.clip(4 * np.arange(28) - 5, 0, 14 * 7)  # 14 × the source coordinate (i + ½) · 8/28 - ½
    low = np.minimum(position // 14, 6)
    weights = np.zeros((28, 8), np.int64)
    weights[np.arange(28), low] = 14 - (position - 14 * low)
    weights[np.arange(28), low + 1] = position - 14 * low
    total: np.ndarray = weights @ images @ weights.T * 255  # in units of 1 / (14 · 14 · 16)
    return ((2 * total + 14 * 14 * 16) // (2 * 14 * 14 * 16)).astype(np.uint8)
