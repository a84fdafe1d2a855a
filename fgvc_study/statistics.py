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
        ``mean``, ``low``, ``high`` and ``seeds``; ``p`` of the two-sided test of no difference; ``without_one``, the
        mean over all seeds but that one whose absence speaks most against the sign of ``mean``. With one pair the
        interval is infinite, ``p`` is 1 and ``without_one`` is 0.

    Raises:
        ValueError: no seed has the number in both.
    """
    both = a[["seed", value]].merge(b[["seed", value]], on="seed").set_index("seed").dropna()
    n = len(both)
    if n == 0:
        raise ValueError(f"no seed has both runs of {value}: measure the two sides with the same seeds")
    differences = (both.iloc[:, 0] - both.iloc[:, 1]).to_numpy()
    mean = float(differences.mean())
    if n == 1:
        return {"mean": mean, "low": -np.inf, "high": np.inf, "seeds": 1, "p": 1.0, "without_one": 0.0}
    test = stats.ttest_rel(both.iloc[:, 0], both.iloc[:, 1])
    interval = test.confidence_interval(confidence)
    others = (differences.sum() - differences) / (n - 1)  # (n,), each without one seed
    return {
        "mean": mean,
        "low": float(interval.low),
        "high": float(interval.high),
        "seeds": n,
        "p": 1.0 if np.isnan(test.pvalue) else float(test.pvalue),  # NaN where no seed differs at all
        "without_one": float(others.min() if mean >= 0 else others.max()),
    }


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
