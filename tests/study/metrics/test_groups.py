"""Parts of a class's channels: by hand, on a method whose features are given."""

import dataclasses

import numpy as np
import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.mutual_channel import MutualChannel
from fgvc_study.metrics import METRICS
from fgvc_study.metrics.groups import group_parts

SIZE = 32  # images of 32 px, maps of 4 × 4; position j of a ResNet looks at pixel 8 j


def data(n=6):
    masks = np.zeros((n, 2, SIZE, SIZE), bool)
    masks[:, 0, :4, :4] = True  # position (0, 0)
    masks[:, 1, 20:, 20:] = True  # position (3, 3)
    parts = {"masks": masks, "discriminative": np.arange(n) % 2}
    split = Split(np.zeros((n, 3, SIZE, SIZE), np.uint8), torch.arange(n) % 2, parts)
    return ImageData(
        name="made up", fingerprint="0", classes=("a", "b"), train=split, val=split, test=split,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), part_names=("first", "second"),
    )  # fmt: skip


def test_by_hand(with_features):
    # class 0: one channel on each part; class 1: one on part 1, which decides it, and one beside every part
    found = group_parts(with_features([(0, 0), (3, 3), (3, 3), (0, 3)]), data(), "cpu")
    assert found["parts"] == pytest.approx((2 + 1) / 2)
    assert found["on_part"] == pytest.approx((1 + 0.5) / 2)
    assert found["discriminative"] == pytest.approx(0.5)
    assert found["mass"] == pytest.approx(0.5)  # two cells of 1, one of them on the discriminative part
    assert found["mass_even"] == pytest.approx(1 / 16)
    e = float(np.e)
    h = (2 * e + 14) / (e + 15)  # two peaks in different cells
    assert found["h"] == pytest.approx(h)
    np.testing.assert_allclose(found["by_class"], [[1, 1, 0], [0, 1, 1]])


def test_silent_channels_and_uneven_groups_count_as_none(with_features):
    # class 0 has one channel, class 1 two, of which one is silent
    found = group_parts(with_features([(0, 0), (3, 3), None]), data(), "cpu")
    assert found["parts"] == 1
    np.testing.assert_allclose(found["by_class"], [[1, 0, 1], [0, 1, 1]])


def test_a_class_without_images_has_no_row_and_the_limit_holds(with_features):
    one = group_parts(with_features([(0, 0), (3, 3)]), data(), "cpu", limit=1)
    assert np.isnan(one["by_class"]).any(1).sum() == 1


def test_is_registered_and_runs_on_a_network():
    method = MutualChannel(resnet("small", width=4, last_channels=6), 2, xi=3)
    found = METRICS["group_parts"](method, data(), "cpu")
    assert 1 <= found["h"] <= 3
    assert 0 <= found["parts"] <= 2


def test_refuses_other_methods_and_data(with_features):
    with pytest.raises(ValueError, match="got Baseline"):
        group_parts(Baseline(resnet("small", width=4), 2), data(), "cpu")
    plain = data()
    plain = dataclasses.replace(plain, test=dataclasses.replace(plain.test, parts={}))
    with pytest.raises(ValueError, match="does not know the masks"):
        group_parts(with_features([(0, 0), (3, 3)]), plain, "cpu")
