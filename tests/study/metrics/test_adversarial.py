"""The attack on a linear classifier, where its outcome is known."""

import numpy as np
import pytest
import torch
from torch import nn

from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import Method, Output
from fgvc_study.metrics.adversarial import EPSILONS, fgsm


class Brighter(Method):
    """Class 1 where the mean pixel, back in [0, 1], is above a half."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images, labels=None):
        brightness = (images * 0.25 + 0.5).mean((1, 2, 3))
        return Output(torch.stack([0 * brightness, self.scale * (brightness - 0.5)], 1))


def gray(*levels):
    """Two gray images a level, dark ones of class 0, bright ones of class 1."""
    pixels = np.repeat(np.array(levels, np.uint8), 2)[:, None, None, None] * np.ones((1, 1, 4, 4), np.uint8)
    split = Split(pixels, torch.tensor([int(level > 127) for level in levels for _ in range(2)]))
    return ImageData("gray", "0", ("dark", "bright"), split, split, split, (0.5,), (0.25,))


def test_an_image_is_lost_once_the_step_reaches_the_border():
    # distances of the levels to 127.5 in units of 1: 0.00, 0.03, 0.08, 0.15, 0.5
    data = gray(128, 135, 107, 166, 255)
    found = fgsm(Brighter(), data, "cpu")
    assert list(found) == ["clean", *(f"eps{eps:g}" for eps in EPSILONS)]
    assert [found["clean"], found["eps0.02"], found["eps0.05"], found["eps0.1"], found["eps0.2"]] == pytest.approx(
        [1.0, 0.8, 0.6, 0.4, 0.2]
    )


def test_attacked_pixels_stay_in_range():
    seen = []

    class Looking(Brighter):
        def forward(self, images, labels=None):
            seen.append((images * 0.25 + 0.5).detach())
            return super().forward(images, labels)

    method = Looking().train()
    method.scale.data.neg_()  # it takes dark for bright: the attack makes black images darker still
    fgsm(method, gray(0, 255), "cpu")
    assert all(float(x.min()) >= 0 and float(x.max()) <= 1 for x in seen)
    assert not method.training
    assert method.scale.grad is None  # the weights are left alone


def test_it_stops_at_the_limit_and_keeps_every_class():
    sizes = []

    class Counting(Brighter):
        def forward(self, images, labels=None):
            sizes.append(len(images))
            return super().forward(images, labels)

    found = fgsm(Counting(), gray(*range(0, 256, 5)), "cpu", limit=10)
    assert set(sizes) == {10}
    assert found["clean"] == 1.0
