"""Intervals of differences, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from fgvc_study.statistics import over_images, paired


def runs(values, seeds=None):
    return pd.DataFrame({"seed": range(len(values)) if seeds is None else seeds, "accuracy": values})


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.3027, half width 4.3027 / √3."""
    found = paired(runs([11.0, 13.0, 15.0]), runs([10.0, 11.0, 12.0]), "accuracy")
    assert found["mean"] == pytest.approx(2.0)
    assert found["seeds"] == 3
    assert found["high"] - found["mean"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found["low"] == pytest.approx(2.0 - 4.302653 / math.sqrt(3), rel=1e-6)
    assert found["p"] == pytest.approx(0.0742, abs=1e-4)  # t = 2 √3 with two degrees of freedom
    assert found["without_one"] == pytest.approx(1.5)  # of 1 and 2


def test_only_common_seeds_are_paired_and_order_does_not_matter():
    found = paired(runs([1.0, 5.0], seeds=[7, 2]), runs([4.0, 0.0], seeds=[2, 9]), "accuracy")
    nothing = {"low": -math.inf, "high": math.inf, "p": 1.0, "without_one": 0.0}
    assert found == {"mean": 1.0, "seeds": 1} | nothing
    with pytest.raises(ValueError, match="no seed has both runs of accuracy"):
        paired(runs([1.0], seeds=[0]), runs([1.0], seeds=[1]), "accuracy")


def test_a_run_that_has_no_number_is_no_pair():
    assert paired(runs([1.0, math.nan, 3.0]), runs([0.0, 0.0, 1.0]), "accuracy")["seeds"] == 2


def test_images_are_resampled_with_both_methods_together():
    """300 images, 60 of which only a gets right: 0.2 ± 1.96 √(0.2 · 0.8 / 300) = 0.2 ± 0.045."""
    a, b = np.ones((2, 300), bool), np.ones((2, 300), bool)
    b[:, :60] = False
    low, high = over_images(a, b)
    assert (low, high) == pytest.approx((0.155, 0.245), abs=0.01)
    assert over_images(a, a) == (0, 0)
    with pytest.raises(ValueError, match=r"must be \(seeds, images\) alike"):
        over_images(a, b[:, 1:])
