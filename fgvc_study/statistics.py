"""Intervals of differences: over training runs that share their seeds, and over test images."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats


def paired(a: pd.DataFrame, b: pd.DataFrame, value: str, *, confidence: float = 0.95) -> dict[str, float]:
    r"""The difference ``a - b`` of runs with the same seed, with Student's interval.

    .. math:: \bar d \pm t_{n-1}\, s_d / \sqrt n

    Args:
        a, b: a row a run, with ``seed``; runs without the number are left out.
        value: the column to compare.
        confidence: of the interval.

    Returns:
        ``mean``, ``low``, ``high`` and ``seeds``; the interval is infinite for fewer than two pairs.

    Raises:
        ValueError: no seed has the number in both.
    """
    both = a[["seed", value]].merge(b[["seed", value]], on="seed").set_index("seed").dropna()
    n = len(both)
    if n == 0:
        raise ValueError(f"no seed has both runs of {value}: measure the two sides with the same seeds")
    mean = float((both.iloc[:, 0] - both.iloc[:, 1]).mean())
    if n == 1:
        return {"mean": mean, "low": -np.inf, "high": np.inf, "seeds": 1}
    interval = stats.ttest_rel(both.iloc[:, 0], both.iloc[:, 1]).confidence_interval(confidence)
    return {"mean": mean, "low": float(interval.low), "high": float(interval.high), "seeds": n}


def over_images(a: np.ndarray, b: np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the difference in accuracy of two methods, by resampling test images.

    It says how far the difference depends on which images are in the test set, where an interval over seeds says how
    far it depends on the training run.

    Args:
        a, b: bool ``(seeds, N)``, right or wrong, of the same images.
        confidence: of the interval.

    Raises:
        ValueError: the two are not of the same runs and images.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"a and b must be (seeds, images) alike, got {a.shape} and {b.shape}")
    difference = (a.astype(float) - b.astype(float)).mean(0)  # (N,)
    found = stats.bootstrap(
        (difference,), np.mean, n_resamples=2000, confidence_level=confidence, method="percentile", rng=0
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
