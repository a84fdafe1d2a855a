"""Costs that can be counted by hand, and predictions that can be resampled."""

import numpy as np
import torch

from fgvc_lib.backbones import lenet_pp
from fgvc_lib.data import load
from fgvc_lib.methods.center import Center
from fgvc_study.metrics.cost import cost
from fgvc_study.metrics.predictions import correct


def test_cost_by_hand_and_leaves_the_method_as_it_was():
    method = Center(lenet_pp(feature_dim=2), 10)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method.shared_generator.manual_seed(5)
    data = load("digits")
    found = cost(method, data, "cpu")
    convs = 784 * 25 * (32 + 32 * 32) + 196 * 25 * (32 * 64 + 64 * 64) + 49 * 25 * (64 * 128 + 128 * 128)
    assert found["multiply_adds"] == convs + 1152 * 2 + 2 * 10
    assert found["parameters"] == sum(p.numel() for p in method.parameters()) == found["parameters_used"]
    assert 2 < found["train_multiply_adds"] / found["multiply_adds"] < 3.1
    assert not method.training
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert method.shared_generator.initial_seed() == 5


def test_what_is_frozen_is_read_too_and_makes_a_step_cheaper():
    data, costs = load("digits"), []
    for frozen in (False, True):
        method = Center(lenet_pp(feature_dim=2), 10)
        first = method.backbone.blocks[method.backbone.stages[0]].requires_grad_(not frozen)
        costs.append(cost(method, data, "cpu"))
        assert all(p.requires_grad != frozen for p in first.parameters())
    whole, part = costs
    assert part["parameters_used"] == whole["parameters_used"] == whole["parameters"]
    assert part["multiply_adds"] == whole["multiply_adds"]
    assert part["train_multiply_adds"] < whole["train_multiply_adds"]


def test_correct_is_one_bit_an_image():
    data = load("digits")
    found = correct(Center(lenet_pp(feature_dim=2), 10), data, "cpu")["test"]
    assert found.dtype == np.uint8
    assert len(found) == -(-len(data.test) // 8)
