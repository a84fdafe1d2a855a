"""Stages, channels and strides say the truth, whatever the depth and the width."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_sample_image
from torchvision import models
from torchvision.models.vgg import cfgs, make_layers

from fgvc_lib.backbones import Backbone, lenet_pp, resnet, timm_network, vgg, weights


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
        (timm_network, {"name": "tf_efficientnet_lite0"}, 64),
        (timm_network, {"name": "tf_efficientnet_lite0", "output_stride": 16, "conv_head": False}, 64),
        (timm_network, {"name": "mobilenetv2_050", "output_stride": 8, "in_channels": 1}, 64),
        (timm_network, {"name": "mobilenetv3_small_050"}, 64),
        (timm_network, {"name": "resnet10t", "output_stride": 16}, 64),
        (timm_network, {"name": "regnetx_002", "output_stride": 8}, 64),
        (timm_network, {"name": "convnext_atto", "output_stride": 16}, 64),
    ],
)
def test_stages_are_as_announced(make: Any, args: dict[str, Any], size: int) -> None:
    channels = args.get("in_channels", 1 if make is lenet_pp else 3)
    check(make(**args), torch.randn(2, channels, size, size))


@pytest.mark.parametrize(
    ("name", "channels", "strides"),
    [
        ("tf_efficientnet_lite0", [16, 24, 40, 112, 1280], [2, 4, 8, 16, 32]),
        ("mobilenetv3_small_050", [8, 16, 24, 288], [4, 8, 16, 32]),
        ("resnet18", [64, 128, 256, 512], [4, 8, 16, 32]),
        ("regnetx_002", [24, 56, 152, 368], [4, 8, 16, 32]),
        ("convnext_atto", [40, 80, 160, 320], [4, 8, 16, 32]),
    ],
)
def test_timm_networks_are_cut_where_their_maps_shrink(name: str, channels: list[int], strides: list[int]) -> None:
    net = timm_network(name)
    assert net.stages == tuple(f"stage{i + 1}" for i in range(len(channels)))
    assert list(net.channels.values()) == channels
    assert list(net.strides.values()) == strides


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "regnetx_002", "resnet18", "convnext_atto"])
def test_a_timm_network_computes_timms_features(name: str) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    reference = timm.create_model(name).eval()
    torch.manual_seed(0)
    net = timm_network(name).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[net.last], reference.forward_features(images))


@pytest.mark.parametrize(
    ("make", "args"),
    [
        (resnet, {"depth": "small"}),
        (vgg, {"depth": 11, "blocks": 3, "batch_norm": False, "width": 8}),
        (timm_network, {"name": "tf_efficientnet_lite0"}),
        (timm_network, {"name": "mobilenetv2_050"}),
        (timm_network, {"name": "convnext_atto"}),
    ],
)
def test_receptive_fields_are_centered_where_they_are_said_to_be(make: Any, args: dict[str, Any]) -> None:
    """With weights that are all positive every pixel of a field has a gradient; the field's middle is its center."""
    net = make(**args).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.uniform_(module.weight, 0.9 / module.weight[0].numel(), 1.1 / module.weight[0].numel())
        elif isinstance(module, torch.nn.MaxPool2d):
            module.forward = lambda x: F.avg_pool2d(x, 2)  # the maximum passes its gradient to one pixel
    stage = net.stages[1]
    images = torch.rand(1, 3, 224, 224, requires_grad=True)
    features = net(images)[stage]
    middle = features.shape[-1] // 2
    (gradient,) = torch.autograd.grad(features[0, :, middle, middle].sum(), images)
    seen = gradient.abs().sum((0, 1, 2)).nonzero()
    center = float(seen.min() + seen.max() + 1) / 2
    assert center == net.centers[stage] + middle * net.strides[stage]


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
    monkeypatch.setattr(weights.models, "get_model_weights", stored(reference.state_dict()))
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
    monkeypatch.setattr(weights.models, "get_model_weights", stored(state))
    net = vgg(11, batch_norm=batch_norm, pretrained=True).eval()
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[net.last], reference[:-1](images))  # all but the last max-pool


def imagenet_class(image: np.ndarray) -> int:
    """What the packaged EfficientNet-Lite0 says, by its backbone and the classifier beside it, of ``(H, W, 3)``."""
    path = weights.packaged("tf_efficientnet_lite0")
    assert path is not None
    *_, weight, bias = weights.read(path).values()
    net = timm_network("tf_efficientnet_lite0", pretrained=True).eval()
    net.expect((0.0,) * 3, (1.0,) * 3)  # images in [0, 1]: the network itself brings them to what it knows
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        pooled = net(F.interpolate(pixels, (224, 224), mode="bilinear", antialias=True))[net.last].mean((2, 3))
    return int((pooled @ weight.T + bias).argmax())


def test_the_pretrained_network_knows_a_daisy_and_a_ball() -> None:
    rows, columns = np.mgrid[:224, :224]
    disk = (rows - 112) ** 2 + (columns - 112) ** 2 < 80**2
    ball = np.where(disk[..., None], (230, 120, 20), (240, 240, 240)).astype(np.uint8)
    assert imagenet_class(ball) == 722  # ping-pong ball
    assert imagenet_class(load_sample_image("flower.jpg")) == 985  # daisy


@pytest.mark.skipif("FGVC_DATA" not in os.environ, reason="FGVC_DATA names no folder of real photographs")
def test_the_pretrained_network_knows_albatrosses() -> None:
    folder = Path(os.environ["FGVC_DATA"]) / "cub100" / "CUB_200_2011" / "images" / "001.Black_footed_Albatross"
    if not folder.is_dir():
        pytest.skip("FGVC_DATA has no cub100")
    found = [imagenet_class(np.asarray(Image.open(path).convert("RGB"))) for path in sorted(folder.iterdir())[:8]]
    assert found.count(146) == 8  # albatross


def test_pretrained_weights_take_images_of_any_normalization() -> None:
    net = timm_network("tf_efficientnet_lite0", pretrained=True).eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = net((images - 0.5) / 0.5)[net.last]
        mean, std = (0.1, 0.5, 0.7), (0.3, 1.0, 0.2)
        net.expect(mean, std)
        given = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
        torch.testing.assert_close(net(given)[net.last], expected, rtol=1e-4, atol=1e-4)


def test_fresh_weights_take_images_as_they_are() -> None:
    net = resnet("small", width=8)
    net.expect((0.1, 0.5, 0.7), (0.3, 1.0, 0.2))
    assert net.scale.flatten().tolist() == [1, 1, 1]
    assert net.shift.flatten().tolist() == [0, 0, 0]


def test_weights_from_a_file(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    reference = timm.create_model("resnet10t").eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    net = timm_network("resnet10t", pretrained=str(tmp_path / "weights.pth")).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[net.last], reference.forward_features(images))
    with pytest.raises(ValueError, match="does not fit timm's resnet18: it must hold that network's state_dict"):
        timm_network("resnet18", pretrained=str(tmp_path / "weights.pth"))
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pth is not there"):
        resnet(18, pretrained=str(tmp_path / "nowhere.pth"))
    (tmp_path / "damaged.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"is not a file of weights that torch\.save wrote"):
        timm_network("resnet18", pretrained=str(tmp_path / "damaged.pth"))


def test_without_a_network_one_sentence_says_what_there_is() -> None:
    def hub() -> dict[str, torch.Tensor]:
        raise ConnectionError("no route to host")

    with pytest.raises(OSError, match=r"weights of x cannot be fetched .*no route.* tf_efficientnet_lite0, which pip"):
        weights.fetch("x", hub)


def test_damaged_packaged_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = weights.PACKAGED["tf_efficientnet_lite0"]
    monkeypatch.setitem(weights.PACKAGED, "tf_efficientnet_lite0", entry._replace(sha256="0" * 64))
    with pytest.raises(ValueError, match="is damaged: its SHA-256 is not 0000"):
        timm_network("tf_efficientnet_lite0", pretrained=True)


@pytest.mark.parametrize(
    ("make", "args", "message"),
    [
        (timm_network, {"name": "resnet0815"}, "timm knows no network 'resnet0815'"),
        (timm_network, {"name": "vit_tiny_patch16_224"}, "is a VisionTransformer, which has no stages of shrinking"),
        (timm_network, {"name": "mobilenetv3_small_050", "output_stride": 16}, "another output_stride: leave it at 32"),
        (timm_network, {"name": "resnet10t", "output_stride": 4}, "output_stride must be 32, 16 or 8, got 4"),
        (timm_network, {"name": "resnet10t", "in_channels": 1, "pretrained": True}, "fit images of 3 channels"),
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
