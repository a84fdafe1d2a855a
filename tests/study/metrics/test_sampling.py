"""TASN's measures: by hand, against the sampled grid, and on a small method."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import Backbone, resnet
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.layers.attention_sampler import sampling_grid
from fgvc_lib.layers.trilinear import trilinear_attention
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.tasn import TASN
from fgvc_study.metrics import parts, sampling
from fgvc_study.metrics.sampling import (
    area_magnification,
    attention_maps,
    channel_parts,
    consistency,
    expected_parts,
    magnification,
    nearest_points,
    part_net,
)

NET = {"backbone": "resnet", "depth": "small", "width": 4, "strides": [1, 1, 1]}


def tasn(*, attention=None, **arguments):
    attention = {"backbone": NET, "input_size": 16, **(attention or {})}
    return TASN(resnet("small", width=4), 3, attention=attention, input_size=16, **arguments).eval()


def data(n=12, size=32, known=("masks", "discriminative")):
    rng = np.random.default_rng(0)
    masks = np.zeros((n, 2, size, size), bool)
    masks[:, 0, 4:12, 4:12] = True
    masks[:, 1, 18:26, 10:28] = True
    points = np.tile(np.float32([[8, 8], [19, 22]]), (n, 1, 1))
    every = {"masks": masks, "points": points, "discriminative": np.arange(n) % 3 % 2}
    images = rng.integers(0, 256, (n, 3, size, size), np.uint8)
    split = Split(images, torch.arange(n) % 3, {name: every[name] for name in known})
    return ImageData(
        name="made up", fingerprint="0", classes=("a", "b", "c"), train=split, val=split, test=split,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), part_names=("first", "second"),
    )  # fmt: skip


def test_area_magnification_by_hand():
    maps = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]])  # (1, 4, 2): rows 1 0 3 0, columns 3 0
    y, x = area_magnification(maps, (8, 5))
    assert y[0].tolist() == [1, 1, 0, 0, 3, 3, 0, 0]
    # five columns at 0, ¼, ½, ¾, 1 of the width; the second cell begins at ½
    assert x[0].tolist() == [2, 2, 0, 0, 0]


def test_area_magnification_is_that_of_the_sampled_grid():
    maps = torch.rand(3, 8, 8) + 0.1
    masks = torch.zeros(3, 64, 64, dtype=torch.bool)
    masks[:, 20:31, 33:50] = True
    y, x = area_magnification(maps, (64, 64), limit=2.0)
    expected = (y[:, 20:31].mean(1) * x[:, 33:50].mean(1)).tolist()
    grid = sampling_grid(maps, (1024, 1024), limit=2.0)
    seen = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=True).mean((1, 2, 3))
    assert (seen / (11 * 17 / 63**2)).tolist() == pytest.approx(expected, rel=0.05)


def test_consistency_by_hand():
    # class 0: channel 0 always at part 1, channel 1 at part 0 and at none; class 1: one image
    pointed = torch.tensor([[1, 0], [1, -1], [-1, -1]])
    agreement, entropy = consistency(pointed, torch.tensor([0, 0, 1]), count=2)
    assert agreement == pytest.approx((1 + 0.5 + 0 + 0) / 4)
    assert entropy == pytest.approx(1 / 4, abs=1e-6)  # one bit, in one of four


def test_expected_parts_by_hand_and_by_drawing():
    pointed = torch.tensor([[0, 0, 1, -1]])
    seen = expected_parts(pointed, count=2, draws=40)
    assert seen[0, 0] == pytest.approx(0.75)
    assert seen[0, 1] == pytest.approx((1 - 0.25) + (1 - 0.75**2))
    assert seen[0, -1] == pytest.approx(2, abs=1e-3)
    drawn = pointed[0][torch.randint(4, (4000, 2))]  # two channels, 4000 times
    mean = sum((drawn == p).any(1).double().mean() for p in (0, 1))
    assert float(seen[0, 1]) == pytest.approx(float(mean), abs=0.03)


def test_nearest_points_are_visible_and_within_reach():
    points = torch.tensor([[[2.0, 2.0], [math.nan, math.nan], [10.0, 2.0]]])
    where = torch.tensor([[[3.0, 2.0], [8.0, 2.0], [6.0, 2.0], [2.0, 6.0]]])
    assert nearest_points(where, points, reach=3.0).tolist() == [[0, 2, -1, -1]]
    nobody = torch.full_like(points, math.nan)
    assert nearest_points(where, nobody, reach=3.0).tolist() == [[-1, -1, -1, -1]]


def test_attention_maps_are_what_goes_in_and_what_comes_out():
    method = tasn()
    raw, made = attention_maps(method, torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(trilinear_attention(raw), made)
    assert not method.trilinear._forward_pre_hooks


def test_magnification_is_one_without_attention_and_that_of_the_maps_with_it():
    for arguments in ({"structure": "resize", "detail": None}, {"structure": "uniform", "detail": "uniform"}):
        found = magnification(tasn(**arguments), data(), "cpu")
        assert [found[k] for k in ("structure", "detail", "detail_best")] == [1, 1, 1]
        assert found["by_part"].tolist() == [[1, 1], [1, 1]]
    method, small = tasn(), data(n=6)
    found = magnification(method, small, "cpu")
    images = (torch.from_numpy(small.test.images).float() / 255 - 0.5) / 0.25
    maps = method(images).maps
    expected = []
    for i, part in enumerate(small.test.parts["discriminative"]):
        y, x = area_magnification(maps["structure_map"][i], (32, 32), limit=method.sampling.limit)
        expected.append((y[0][:, None] * x[0])[torch.from_numpy(small.test.parts["masks"][i, part])].mean())
    assert found["structure"] == pytest.approx(float(torch.stack(expected).mean()), rel=1e-4)
    assert found["detail_best"] >= found["detail"] > 0


def test_a_limit_keeps_every_class_where_classes_take_turns():
    method = tasn(structure="resize", detail=None)
    small = data(n=24)
    small.test.parts["discriminative"][:] = np.arange(24) % 2
    assert not np.isnan(magnification(method, small, "cpu", limit=12)["by_part"]).any()


def test_channel_parts_finds_channels_that_point():
    """An attention net whose features peak where the images are brightest."""
    method = tasn(attention={"scale": 7.0})
    small = data()
    small.test.images[:] = 0
    small.test.images[:, :, 8:12, 8:12] = 255  # on the first part

    class Brightest(torch.nn.Module):
        backbone = Backbone({"only": torch.nn.Identity()}, {"only": 2}, {"only": 4}, {"only": 2.0})

        def forward(self, images):
            return F.avg_pool2d(images, 4)[:, :2] + 1, images.new_zeros(len(images), 3)

    method.attention_net = Brightest()
    found = channel_parts(method, small, "cpu")
    for name in ("raw", "trilinear"):
        assert found[f"{name}/agreement"] == found[f"{name}/on_part"] == found[f"{name}/parts"] == 1
        assert found[f"{name}/entropy"] == pytest.approx(0, abs=1e-6)
        assert found[f"{name}/discriminative"] == pytest.approx(float((small.test.parts["discriminative"] == 0).mean()))
        assert found[f"{name}/coverage"].tolist() == [1] * 64
    of_points = channel_parts(method, data(known=("points",)), "cpu")
    assert "raw/discriminative" not in of_points
    assert 0 <= of_points["raw/agreement"] <= 1


def test_the_maps_of_a_resized_image_look_where_the_net_looked(monkeypatch):
    """A ResNet looks at 0.5 px of its 16 px input, and so at 1 px of the image of 32."""
    centers = []

    def seen(maps, masks, *, tolerance, center):
        centers.append(center)
        return parts.peak_parts(maps, masks, tolerance=tolerance, center=center)

    monkeypatch.setattr(sampling, "peak_parts", seen)
    channel_parts(tasn(), data(), "cpu")
    monkeypatch.setattr(
        sampling, "peaks", lambda maps, size, *, center: centers.append(center) or maps.flatten(2)[..., :2]
    )
    channel_parts(tasn(), data(known=("points",)), "cpu")
    assert centers == [1.0] * 4


def test_part_net_takes_the_nets_apart_and_leaves_the_method_as_it_was():
    method, small = tasn(), data()
    before = copy.deepcopy(method.state_dict())
    found = part_net(method, small, "cpu")
    assert set(found) == {"master", "part", "both", "attention"}
    assert method.predict == "master"
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert not method.attention_net._forward_hooks
    images, labels = (torch.from_numpy(small.test.images).float() / 255 - 0.5) / 0.25, small.test.labels
    for name, logits in (("master", method(images).logits), ("attention", method.attend(images)[1])):
        assert found[name] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    with torch.no_grad():
        method.part_head.weight.copy_(method.master_head.weight)
        method.part_head.bias.copy_(method.master_head.bias)
    found = part_net(method, small, "cpu")  # at test the part net's map is the structure's: the same net twice
    assert found["master"] == found["part"] == found["both"]
    assert set(part_net(tasn(structure="resize", detail=None), small, "cpu")) == {"master"}


def test_wrong_use_is_refused():
    with pytest.raises(ValueError, match="use method 'tasn'"):
        magnification(Baseline(resnet("small", width=4), 3), data(), "cpu")
    with pytest.raises(ValueError, match="does not know the masks"):
        magnification(tasn(), data(known=("points",)), "cpu")
    with pytest.raises(ValueError, match="needs an attention net"):
        channel_parts(tasn(structure="resize", detail=None), data(), "cpu")
    with pytest.raises(ValueError, match="has a classifier on both"):
        part_net(tasn(predict="concat"), data(), "cpu")
