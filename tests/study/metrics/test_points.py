"""Attention against part points: by hand, on methods whose maps are given, and beside chance."""

import dataclasses

import numpy as np
import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.tasn import TASN
from fgvc_study.metrics import METRICS
from fgvc_study.metrics.points import group_points, point_magnification

SIZE = 32
NET = {"backbone": "resnet", "depth": "small", "width": 4, "strides": [1, 1, 1]}


def data(points, *, classes=2):
    """Images of 32 px with these points, (N, P, 2)."""
    points = np.asarray(points, np.float32)
    n = len(points)
    images = np.random.default_rng(0).integers(0, 256, (n, 3, SIZE, SIZE), np.uint8)
    split = Split(images, torch.arange(n) % classes, {"points": points})
    return ImageData(
        name="made up", fingerprint="0", classes=tuple("abc"[:classes]), train=split, val=split, test=split,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), part_names=("first", "second"),
    )  # fmt: skip


def test_groups_by_hand(with_features):
    # position (row, column) of this network looks at pixel (8 column, 8 row); a tenth of the side is 3.2 pixels
    birds = [[(0, 0), (24, 24)], [(26, 24), (np.nan, np.nan)]]
    found = group_points(with_features([(0, 0), (3, 3), (3, 3), (0, 3)]), data(birds), "cpu")
    # the first bird's class has a channel on each point; the second's one on its only visible point, one on none
    assert found["parts"] == pytest.approx((2 + 1) / 2)
    assert found["on_part"] == pytest.approx((1 + 0.5) / 2)
    # against the other bird: (24, 24) is near (26, 24), and so for both
    assert found["on_part_elsewhere"] == pytest.approx((0.5 + 0.5) / 2)
    assert group_points(with_features([None, (3, 3), (3, 3), (3, 3)]), data(birds), "cpu")["on_part"] == 0.75


def tasn(**arguments):
    attention = {"backbone": NET, "input_size": 16}
    return TASN(resnet("small", width=4), 3, attention=attention, input_size=16, **arguments).eval()


def test_magnification_is_one_without_attention_and_that_of_the_map_with_it(monkeypatch):
    birds = data([[(4, 4), (20, 28)], [(4, 4), (np.nan, np.nan)], [(20, 28), (np.nan, np.nan)]], classes=3)
    plain = point_magnification(tasn(structure="resize", detail=None), birds, "cpu")
    assert plain == dict.fromkeys(("structure", "structure_elsewhere", "detail", "detail_best"), 1.0)
    method = tasn(detail=None, sampling={"limit": None})
    # all of the map's weight lies in the left upper quarter, which is so magnified twice along each axis
    quarter = torch.zeros(3, 1, 8, 8)
    quarter[:, :, :4, :4] = 1
    output = method(torch.zeros(3, 3, SIZE, SIZE))
    maps = output.maps | {"structure_map": quarter}
    monkeypatch.setattr(TASN, "forward", lambda self, images: output._replace(maps=maps))
    found = point_magnification(method, birds, "cpu")
    assert found["structure"] == pytest.approx(((4 + 0) / 2 + 4 + 0) / 3)
    # the points of the next image: one at (4, 4); one outside; both, of which the mean counts
    assert found["structure_elsewhere"] == pytest.approx((4 + 0 + 2) / 3)


def test_registered_and_refused_elsewhere():
    birds = data([[(4, 4), (20, 28)]] * 3, classes=3)
    found = METRICS["point_magnification"](tasn(), birds, "cpu")
    assert found["detail_best"] >= found["detail"] > 0
    with pytest.raises(ValueError, match="got Baseline"):
        METRICS["group_points"](Baseline(resnet("small", width=4), 3), birds, "cpu")
    plain = dataclasses.replace(birds, test=dataclasses.replace(birds.test, parts={}))
    with pytest.raises(ValueError, match="does not know the points"):
        point_magnification(tasn(), plain, "cpu")
