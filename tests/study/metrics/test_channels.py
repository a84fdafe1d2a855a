"""Complementary channels and parts: by hand, against a slow loop, and on a small method."""

import numpy as np
import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.layers.channel_interaction import channel_relation
from fgvc_lib.methods import CIN, Baseline
from fgvc_study.metrics.channels import channel_parts_of, compare_channels, complements

IMAGE = 32


def data(n=12, parts=True):
    rng = np.random.default_rng(0)
    masks = np.zeros((n, 2, IMAGE, IMAGE), bool)
    masks[:, 0, :16] = True  # the upper and the lower half: every channel lies on one of them
    masks[:, 1, 16:] = True
    images = rng.integers(0, 256, (n, 3, IMAGE, IMAGE), np.uint8)
    split = Split(images, torch.arange(n) % 3, {"masks": masks} if parts else {})
    return ImageData(
        name="made up", fingerprint="0", classes=("a", "b", "c"), train=split, val=split, test=split,
        mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), part_names=("upper", "lower"),
    )  # fmt: skip


def quotients(counts):
    return {name: float(count[0] / count[1]) for name, count in counts.items()}


def test_by_hand():
    # four channels on two cells; 0 and 1 on part 0, 2 on part 1, 3 silent
    x = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 4.0], [0.0, 0.0]]).view(1, 4, 1, 2)
    parts = torch.tensor([[0, 0, 1, -1]])
    found = quotients(compare_channels(x, parts, chosen=2))
    # others on a part: of 0 {1, 2}, of 1 {0, 2}, of 2 {0, 1}: on another part 1 + 1 + 2 of 6
    assert found["chance"] == pytest.approx(4 / 6)
    # most complementary two: of 0 {2, 3}, of 1 {2, 3}, of 2 two of {0, 1, 3}, all of them with product zero
    assert found["different"] == 1
    assert found["different_cosine"] == pytest.approx(4 / 6)  # the silent one has no direction, so {1, 2} {0, 2} {0, 1}
    assert found["silent_chance"] == 0.25


def test_mixed_counts_the_channels_that_a_row_uses():
    even = torch.zeros(1, 5, 2, 2)
    parts = torch.zeros(1, 5, dtype=torch.int64)
    assert quotients(compare_channels(even, parts))["mixed"] == pytest.approx(1)
    # every channel but the first has a huge product with all others: unscaled, a row is the first channel alone
    x = torch.full((1, 5, 2, 2), 30.0)
    x[:, 0] = 0
    found = quotients(compare_channels(x, torch.tensor([[-1, 0, 0, 0, 0]]), scale="none"))
    assert found["mixed"] == pytest.approx(1 / 5)
    assert found["silent_chance"] == pytest.approx(1 / 5)
    assert found["silent"] == pytest.approx(1 / 3)  # one of the three chosen


def test_equals_a_slow_loop():
    g = torch.Generator().manual_seed(0)
    x = torch.rand(3, 7, 2, 3, generator=g)  # no channel is silent, so no products tie
    parts = torch.randint(-1, 3, (3, 7), generator=g)
    found = quotients(compare_channels(x, parts, chosen=2))
    w = channel_relation(x)
    chance, mixed, weights, different, alike, strength = [], [], [], [], [], []
    for b in range(3):
        flat = x[b].flatten(1)
        norms = flat.norm(dim=1)
        for i in range(7):
            if parts[b, i] < 0:
                continue
            others = [j for j in range(7) if j != i]
            for j in others:
                if parts[b, j] >= 0:
                    chance.append(float(parts[b, j] != parts[b, i]))
                    mixed.append(float(w[b, i, j] * (parts[b, j] != parts[b, i])))
                    weights.append(float(w[b, i, j]))
            ranked = sorted(others, key=lambda j: float(flat[i] @ flat[j]))
            different += [float(parts[b, j] != parts[b, i]) for j in ranked[:2] if parts[b, j] >= 0]
            alike += [float(parts[b, j] != parts[b, i]) for j in ranked[-2:] if parts[b, j] >= 0]
            strength += [float(norms[j] / norms.mean()) for j in ranked[-2:]]
    assert found["chance"] == pytest.approx(np.mean(chance))
    assert found["different_mixed"] == pytest.approx(sum(mixed) / sum(weights), rel=1e-5)
    assert found["different_alike"] == pytest.approx(np.mean(alike))
    assert found["strength_alike"] == pytest.approx(np.mean(strength), rel=1e-5)
    assert found["different"] == pytest.approx(np.mean(different))


def test_channels_of_one_part_each_are_told_apart_and_random_places_are_at_chance():
    # 30 channels, each a blob on one of three cells: the complementary ones are elsewhere, the alike ones never
    cell = torch.arange(30) % 3
    x = torch.zeros(1, 30, 1, 3)
    x[0, torch.arange(30), 0, cell] = 1
    found = quotients(compare_channels(x, cell[None]))
    assert found["different"] == 1
    assert found["different_alike"] == 0
    assert found["chance"] == pytest.approx(20 / 29)
    assert found["different_mixed"] > found["chance"]
    shuffled = cell[torch.randperm(30, generator=torch.Generator().manual_seed(0))]
    assert quotients(compare_channels(x, shuffled[None]))["different"] < 0.9


def test_a_channel_lies_where_it_peaks_and_a_silent_one_nowhere():
    masks = torch.zeros(1, 2, 8, 8, dtype=torch.bool)
    masks[:, 0, :4], masks[:, 1, 4:, 4:] = True, True
    x = torch.zeros(1, 4, 2, 2)
    x[0, 0, 0, 1], x[0, 1, 1, 1], x[0, 2, 1, 0] = 1, 1, 1
    assert channel_parts_of(x, masks).tolist() == [[0, 1, -1, -1]]


@pytest.mark.parametrize(
    "arguments", [{}, {"block": "none", "contrast": "none"}, {"block": "pos_sci"}, {"block_args": {"scale": "none"}}]
)
def test_measures_x_of_every_row(arguments):
    torch.manual_seed(0)
    method = CIN(resnet("small", width=4), 3, embedding=8, **arguments).eval()
    made = data()
    found = complements(method, made, "cpu")
    images = (torch.from_numpy(made.test.images).float() / 255 - 0.5) / 0.25
    x = method(images).maps["block_input"]
    parts = channel_parts_of(x, torch.from_numpy(made.test.parts["masks"]), center=0.5)  # a ResNet's
    scale = "none" if "block_args" in arguments else "positions"
    expected = quotients(compare_channels(x, parts, scale=scale))
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-4, nan_ok=True)
    assert 0 < found["on_part"] <= 1


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="got Baseline"):
        complements(Baseline(resnet("small", width=4), 3), data(), "cpu")
    with pytest.raises(ValueError, match="does not know the masks"):
        complements(CIN(resnet("small", width=4), 3, embedding=8), data(parts=False), "cpu")
    x = torch.rand(2, 4, 3, 3)
    with pytest.raises(ValueError, match=r"\(2, 4\), got \(2, 5\)"):
        compare_channels(x, torch.zeros(2, 5, dtype=torch.int64))
    with pytest.raises(ValueError, match="c - 1 = 3, got 4"):
        compare_channels(x, torch.zeros(2, 4, dtype=torch.int64), chosen=4)
