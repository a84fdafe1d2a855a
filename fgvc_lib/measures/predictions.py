"""Which test images a method gets right, kept so that images can be resampled later."""

from __future__ import annotations

import numpy as np

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.methods.base import Method
from fgvc_lib.train import predict


def correct(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Array ``test``: one bit for each test image in order, packed by ``numpy.packbits``; 1 where it is right."""
    logits, labels = predict(method, data, "test", device=device)
    return {"test": np.packbits((logits.argmax(1) == labels).numpy())}


def bootstrap(a: np.ndarray, b: np.ndarray, *, draws: int = 2_000, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference in accuracy of two methods, by resampling test images.

    It says how far the difference depends on which images are in the test set, where an interval over seeds says how
    far it depends on the training run.

    Args:
        a, b: bool ``(seeds, N)``, right or wrong, of the same images.
        draws: resamples.
        confidence: of the interval.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must be (seeds, images) alike, got {a.shape} and {b.shape}")
    difference = (a.astype(float) - b.astype(float)).mean(0)  # (N,)
    rng = np.random.default_rng(0)
    means = [difference[rng.integers(len(difference), size=len(difference))].mean() for _ in range(draws)]
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
