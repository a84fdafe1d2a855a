"""Stages, channels and strides say the truth, whatever the depth and the width."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from fgvc_lib import backbones
from fgvc_lib.backbones import Backbone, lenet_pp, resnet, vgg


def check(backbone: Backbone, images: torch.Tensor) -> None:
    """Every stage has the shape that it announces, and ``resume`` goes on where ``forward`` was."""
    outputs = backbone.eval()(images)
    assert tuple(outputs) == backbone.stages == tuple(backbone.channels) == tuple(backbone.strides)
    for name, x in outputs.items():
        side = images.shape[-1] // backbone.strides[name]
        assert x.shape == (len(images), backbone.channels[name], side, side), name
        for later, y in backbone.resume(name, x).items():
            torch.testing.assert_close(y, outputs[later])
    assert backbone.out_channels == outputs[backbone.last].shape[1]


@pytest.mark.parametrize(
    ("make", "args", "size"),
    [
        (resnet, {"depth": "small"}, 64),
        (resnet, {"depth": "small", "width": 8, "strides": (1, 1, 2), "last_channels": 30}, 32),
        (resnet, {"depth": 18, "width": 8}, 64),
        (resnet, {"depth": 50, "width": 8, "strides": (1, 2, 1, 1), "small_stem": True, "last_channels": 6}, 32),
        (vgg, {"depth": 11, "width": 8}, 32),
        (vgg, {"depth": 16, "width": 8, "blocks": 3, "batch_norm": False, "last_channels": 9, "in_channels": 1}, 16),
        (lenet_pp, {}, 28),
        (lenet_pp, {"feature_dim": 5, "in_channels": 3, "image_size": 16}, 16),
    ],
)
def test_stages_are_as_announced(make: Any, args: dict[str, Any], size: int) -> None:
    channels = args.get("in_channels", 1 if make is lenet_pp else 3)
    check(make(**args), torch.randn(2, channels, size, size))


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 6), st.lists(st.sampled_from([1, 2]), min_size=3, max_size=3), st.booleans())
def test_any_width_and_stride(width: int, strides: list[int], small_stem: bool) -> None:
    check(resnet("small", width=width, strides=strides, small_stem=small_stem), torch.randn(1, 3, 32, 32))


def test_the_small_net_has_the_maps_that_the_methods_need() -> None:
    maps = resnet("small", width=16)(torch.zeros(1, 3, 64, 64))
    assert {name: tuple(x.shape[1:]) for name, x in maps.items()} == {
        "layer1": (16, 32, 32),
        "layer2": (32, 16, 16),
        "layer3": (64, 8, 8),
    }


def stored(state: dict[str, torch.Tensor]) -> Any:
    """Stands in for ``torchvision.models.get_model_weights``: these weights, whatever the name."""
    return lambda name: {"IMAGENET1K_V1": SimpleNamespace(get_state_dict=lambda **_: state)}


@pytest.mark.parametrize("depth", [18, 50])
def test_pretrained_resnets_are_torchvisions(depth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = models.get_model(f"resnet{depth}", weights=None).eval()
    monkeypatch.setattr(backbones.models, "get_model_weights", stored(reference.state_dict()))
    net = resnet(depth, pretrained=True).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        stem = torch.nn.Sequential(reference.conv1, reference.bn1, reference.relu, reference.maxpool)
        expected = reference.layer4(reference.layer3(reference.layer2(reference.layer1(stem(images)))))
        torch.testing.assert_close(net(images)[net.last], expected)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_pretrained_vggs_are_torchvisions(batch_norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = make_layers(cfgs["A"], batch_norm=batch_norm).eval()
    state = {f"features.{name}": value for name, value in reference.state_dict().items()}
    monkeypatch.setattr(backbones.models, "get_model_weights", stored(state))
    net = vgg(11, batch_norm=batch_norm, pretrained=True).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[net.last], reference[:-1](images))  # all but the last max-pool


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (resnet, {"depth": 19}, "no ResNet of depth 19: choose one of small, 18"),
        (resnet, {"depth": 18, "strides": (1, 2)}, r"ResNet-18 has 4 stages, so strides needs 4 numbers, got \(1, 2\)"),
        (resnet, {"depth": 18, "width": 16, "pretrained": True}, "pretrained weights fit only"),
        (vgg, {"depth": 12}, "no VGG of depth 12"),
        (vgg, {"depth": 11, "blocks": 6}, "blocks must be 1 to 5, got 6"),
        (vgg, {"depth": 11, "width": 32, "pretrained": True}, "pretrained weights fit only"),
        (lenet_pp, {"image_size": 7}, "image_size must be at least 8, got 7"),
    ],
)
def test_what_does_not_exist_is_refused(make: Any, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**args)


def test_resume_names_the_stages_it_has() -> None:
    with pytest.raises(ValueError, match="no stage 'top': this backbone has layer1, layer2, layer3"):
        resnet("small", width=8).resume("top", torch.zeros(1, 2, 4, 4))
