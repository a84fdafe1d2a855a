"""ResNet in stages, from torchvision's blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from fgvc_lib.backbones.backbone import Backbone, initialize
from fgvc_lib.backbones.weights import load_torchvision

# depth → block, blocks per layer; "small" is for two CPU cores at 64 px
_RESNETS: dict[str, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    "small": (BasicBlock, (1, 1, 1)),
    "18": (BasicBlock, (2, 2, 2, 2)),
    "34": (BasicBlock, (3, 4, 6, 3)),
    "50": (Bottleneck, (3, 4, 6, 3)),
    "101": (Bottleneck, (3, 4, 23, 3)),
}


def resnet(
    depth: str | int = "small",
    *,
    width: int | None = None,
    strides: Sequence[int] | None = None,
    small_stem: bool | None = None,
    last_channels: int | None = None,
    in_channels: int = 3,
    pretrained: bool | str = False,
) -> Backbone:
    """A ResNet (He et al., CVPR 2016) in stages ``layer1`` … ``layer4``, from torchvision's blocks.

    Args:
        depth: ``"small"`` (three stages of one basic block: 32², 16², 8² at 64 px), 18, 34, 50 or 101.
        width: channels of the first stage, doubled by each next one; 16 for ``"small"``, else 64.
        strides: stride of each stage, default ``(1, 2, 2, 2)``. A 1 keeps the map large: TASN's attention net
            and every small-image run need it.
        small_stem: 3×3 stride-2 convolution without max-pool instead of 7×7 stride 2 with it.
            Default: only for ``"small"``.
        last_channels: planes of the last stage (times the block's expansion), for MC-Loss from scratch.
        in_channels: of the images.
        pretrained: ImageNet weights from torchvision, or from the file that is named; asks for the standard width,
            stem and last stage.
    """
    name = str(depth)
    if name not in _RESNETS:
        raise ValueError(f"no ResNet of depth {depth!r}: choose one of {', '.join(_RESNETS)}")
    block, blocks = _RESNETS[name]
    width = width or (16 if name == "small" else 64)
    small_stem = name == "small" if small_stem is None else small_stem
    strides = tuple(strides) if strides is not None else (1, 2, 2, 2)[: len(blocks)]
    if len(strides) != len(blocks):
        raise ValueError(
            f"ResNet-{name} has {len(blocks)} stages, so strides needs {len(blocks)} numbers, got {strides}"
        )
    planes = [width * 2**i for i in range(len(blocks))]
    if last_channels is not None:
        planes[-1] = last_channels

    stem: list[nn.Module]
    if small_stem:
        stem = [nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    else:
        stem = [nn.Conv2d(in_channels, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        stem.append(nn.MaxPool2d(3, 2, 1))
    stages: dict[str, nn.Module] = {}
    channels: dict[str, int] = {}
    scale: dict[str, int] = {}
    inplanes, stride = width, 2 if small_stem else 4
    for i, (n, p, s) in enumerate(zip(blocks, planes, strides, strict=True)):
        stage = _resnet_stage(block, inplanes, p, n, s)
        inplanes, stride = p * block.expansion, stride * s
        key = f"layer{i + 1}"
        stages[key] = nn.Sequential(*stem, stage) if i == 0 else stage
        channels[key], scale[key] = inplanes, stride
    backbone = Backbone(stages, channels, scale, in_channels=in_channels)
    initialize(backbone)
    if pretrained:
        if name == "small" or width != 64 or small_stem or last_channels is not None or in_channels != 3:
            raise ValueError(
                "pretrained weights fit only depths 18-101 with width 64, the 7×7 stem and 3 input channels"
            )
        load_torchvision(backbone, f"resnet{name}", pretrained)
    return backbone


def _resnet_stage(
    block: type[BasicBlock | Bottleneck], inplanes: int, planes: int, n: int, stride: int
) -> nn.Sequential:
    downsample = None
    if stride != 1 or inplanes != planes * block.expansion:
        downsample = nn.Sequential(
            nn.Conv2d(inplanes, planes * block.expansion, 1, stride, bias=False),
            nn.BatchNorm2d(planes * block.expansion),
        )
    first = block(inplanes, planes, stride, downsample)
    return nn.Sequential(first, *(block(planes * block.expansion, planes) for _ in range(n - 1)))
