"""Multi-dilation convolutions and the attention net."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fgvc_lib.backbones import resnet
from fgvc_lib.layers.attention_net import AttentionNet, MultiDilationConv


def test_each_dilation_reads_the_same_weight_at_its_own_distance():
    x, layer = torch.zeros(1, 1, 7, 7), MultiDilationConv(1, 1, dilations=(1, 3))
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        x[0, 0, 3, 3], layer.weight[0, 0, 1, 2] = 1, 2  # the weight looks one step to the right
    expected = torch.zeros(1, 1, 7, 7)
    expected[0, 0, 3, 2] = expected[0, 0, 3, 0] = 2
    assert torch.equal(layer(x), expected)


def test_the_relu_comes_before_the_sum():
    layer = MultiDilationConv(2, 3, dilations=(1, 2, 3))
    x = torch.randn(2, 2, 5, 4)
    expected = sum(F.conv2d(x, layer.weight, padding=d, dilation=d).relu() for d in (1, 2, 3))
    torch.testing.assert_close(layer(x), expected)
    assert layer(x).shape == (2, 3, 5, 4)


def test_gradcheck():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    layer = MultiDilationConv(2, 2).double()
    assert torch.autograd.gradcheck(lambda x, _: layer(x), (x, layer.weight))


@pytest.mark.parametrize("dilations", [((1, 2), (1, 2, 3)), ((1,),), ()])
def test_features_are_non_negative_on_a_large_map_and_every_parameter_learns(dilations):
    net = AttentionNet(resnet("small", width=8, strides=(1, 1, 2)), 5, dilations=dilations)
    features, logits = net(torch.randn(2, 3, 16, 24))
    assert features.shape == (2, 32, 4, 6)
    assert (features >= 0).all()
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    assert all(p.grad.any() for name, p in net.named_parameters() if "weight" in name and "blocks" not in name)


def test_dilations_of_zero_are_refused():
    with pytest.raises(ValueError, match=r"positive integers, got \(0, 1\)"):
        MultiDilationConv(2, 2, dilations=(0, 1))
    with pytest.raises(ValueError, match=r"one or more positive integers, got \(\)"):
        MultiDilationConv(2, 2, dilations=())
