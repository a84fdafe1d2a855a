"""Convolutional networks of timm, cut into stages."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

from torch import nn

from fgvc_lib.backbones import weights
from fgvc_lib.backbones.backbone import Backbone

FAMILIES = ("ResNet", "RegNet", "EfficientNet", "MobileNetV3", "ConvNeXt")
"""Classes of timm whose layers follow one another and whose maps shrink from stage to stage."""
_BEHIND = ("global_pool", "head", "fc", "classifier")
"""Names of what follows the last map."""


def timm_network(
    name: str = "tf_efficientnet_lite0",
    *,
    output_stride: int = 32,
    conv_head: bool = True,
    in_channels: int = 3,
    pretrained: bool | str = False,
) -> Backbone:
    """A network of timm in stages ``stage1``, ``stage2`` …, the stem in the first.

    The last stage ends where the network pools. What some networks compute on the pooled feature before their
    classifier (MobileNetV3's second head layer, ConvNeXt's LayerNorm) is left out.

    Args:
        name: timm's, of one of the :data:`FAMILIES`: ``"tf_efficientnet_lite0"``, ``"resnet26d"``, ``"regnety_002"``,
            ``"mobilenetv3_small_100"``, ``"convnext_atto"`` …
        output_stride: input pixels per position of the last map, 32, 16 or 8. With 16, the last stage keeps its map as
            large as the one below and dilates its convolutions instead; with 8, the last two.
        conv_head: keep EfficientNet's 1 × 1 convolution behind the last stage, to 1280 channels; without it the last
            stage has the channels of its blocks, 320, few enough for second-order pooling.
        in_channels: of the images.
        pretrained: ImageNet weights, from an installed package that carries them
            (:data:`fgvc_lib.backbones.weights.PACKAGED`), else from timm's hub; or from the file that is named.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not know, a network without such stages, or an output stride that the
            network cannot have.
        OSError: weights that cannot be fetched.
    """
    timm = _timm()
    if not timm.is_model(name):
        close = ", ".join(timm.list_models(f"*{name[:6]}*")[:5])
        raise ValueError(f"timm knows no network {name!r}" + f": it has {close}" * bool(close))
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 32, 16 or 8, got {output_stride}")
    if pretrained and in_channels != 3:
        raise ValueError(f"pretrained weights fit images of 3 channels, got in_channels={in_channels}")
    arguments: dict[str, Any] = {"in_chans": in_channels}
    if output_stride != 32:
        arguments["output_stride"] = output_stride
    try:
        net: Any = timm.create_model(name, **arguments)
    except TypeError:
        raise ValueError(f"timm cannot give {name} another output_stride: leave it at 32") from None
    if type(net).__name__ not in FAMILIES:
        raise ValueError(
            f"{name} is a {type(net).__name__}, which has no stages of shrinking maps to cut it into: choose a network "
            f"of timm's {', '.join(FAMILIES)}"
        )
    if pretrained:
        _load(net, name, pretrained)
    backbone = _cut(net, conv_head=conv_head, in_channels=in_channels)
    if pretrained:
        backbone.statistics = tuple(net.default_cfg["mean"]), tuple(net.default_cfg["std"])
    return backbone


def _timm() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # of progress bars that nothing shows
            return importlib.import_module("timm")  # slow to import, and not everybody needs it
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"this backbone needs the package {error.name}, which is not installed: pip install fgvc-lib[pretrained], "
            "or choose another backbone, such as resnet"
        ) from error


def _load(net: Any, name: str, pretrained: bool | str) -> None:
    """Fill ``net``, classifier included, with its ImageNet weights or those of a file."""
    path = weights.packaged(name)
    if isinstance(pretrained, str):
        source = weights.read(pretrained)
    elif path is not None:  # in the order of the network's own, under other names
        source = dict(zip(net.state_dict(), weights.read(path).values(), strict=True))
    else:
        source = weights.fetch(name, lambda: _timm().create_model(name, pretrained=True).state_dict())
    try:
        net.load_state_dict(source)
    except RuntimeError as error:
        raise ValueError(f"{pretrained} does not fit timm's {name}: it must hold that network's state_dict") from error


def _cut(net: Any, *, conv_head: bool, in_channels: int) -> Backbone:
    """The layers of ``net`` up to its pooling, a stage wherever timm says that a map is worth having."""
    layers: dict[str, nn.Module] = {}  # in order, under the names that timm's feature_info uses
    for name, layer in net.named_children():
        if name in _BEHIND:
            break
        if name in ("blocks", "stages"):
            layers |= {f"{name}.{i}": part for i, part in layer.named_children()}
        else:
            layers[name] = layer
    if not conv_head:
        layers = {name: layer for name, layer in layers.items() if name not in ("conv_head", "bn2")}
    ends = {info["module"]: info for info in net.feature_info if info["module"] not in ("act1", "bn1", "stem")}
    stages: dict[str, nn.Module] = {}
    channels: dict[str, int] = {}
    strides: dict[str, int] = {}
    part: list[nn.Module] = []
    for name, layer in layers.items():
        part.append(layer)
        if name in ends:
            stage = f"stage{len(stages) + 1}"
            stages[stage] = nn.Sequential(*part)
            channels[stage], strides[stage] = ends[name]["num_chs"], ends[name]["reduction"]
            part = []
    if part:  # what stands between the last stage and the pooling
        stages[stage].extend(part)  # type: ignore[operator]
        channels[stage] = net.num_features
    return Backbone(stages, channels, strides, _centers(net, strides), in_channels)


def _centers(net: nn.Module, strides: dict[str, int]) -> dict[str, float]:
    """Where the receptive fields of the first positions are centered, see :class:`Backbone`, for even maps."""
    if type(net).__name__ == "ConvNeXt":
        return {name: stride / 2 for name, stride in strides.items()}  # patches, unpadded
    if any(type(module).__name__ == "Conv2dSame" for module in net.modules()):
        return {name: stride - 0.5 for name, stride in strides.items()}  # TensorFlow pads at the far side first
    return dict.fromkeys(strides, 0.5)
