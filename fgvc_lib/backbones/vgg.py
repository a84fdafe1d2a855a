"""VGG in stages."""

from __future__ import annotations

from torch import nn

from fgvc_lib.backbones.backbone import Backbone, initialize
from fgvc_lib.backbones.weights import load_torchvision

# channels of the five blocks of convolutions
_VGGS: dict[str, tuple[tuple[int, int], ...]] = {
    "11": ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)),
    "16": ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    "19": ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}


def vgg(
    depth: str | int,
    *,
    batch_norm: bool = True,
    width: int = 64,
    blocks: int = 5,
    last_channels: int | None = None,
    in_channels: int = 3,
    pretrained: bool | str = False,
) -> Backbone:
    """A VGG (Simonyan and Zisserman, ICLR 2015) in stages ``block1`` … ``block5``, without the last max-pool.

    Each stage ends after its last ReLU, and the next one begins with the pool, so ``block5`` of VGG-16 is
    ``relu5_3`` at stride 16, the map that Bilinear CNN pools.

    Args:
        depth: 11, 16 or 19.
        batch_norm: BatchNorm after each convolution.
        width: channels of the first block; 64 is the published net.
        blocks: how many of the five blocks to keep; fewer give a larger map on small images.
        last_channels: channels of the last convolution, for MC-Loss from scratch.
        in_channels: of the images.
        pretrained: ImageNet weights from torchvision, or from the file that is named; asks for the published channels.
    """
    name = str(depth)
    if name not in _VGGS:
        raise ValueError(f"no VGG of depth {depth!r}: choose one of {', '.join(_VGGS)}")
    if not 1 <= blocks <= 5:
        raise ValueError(f"VGG has 5 blocks, so blocks must be 1 to 5, got {blocks}")
    stages: dict[str, nn.Module] = {}
    channels: dict[str, int] = {}
    inplanes = in_channels
    for i, (planes, n) in enumerate(_VGGS[name][:blocks]):
        planes = planes * width // 64
        layers: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
        for j in range(n):
            if last_channels is not None and i == blocks - 1 and j == n - 1:
                planes = last_channels
            layers.append(nn.Conv2d(inplanes, planes, 3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(planes))
            layers.append(nn.ReLU(inplace=True))
            inplanes = planes
        stages[f"block{i + 1}"] = nn.Sequential(*layers)
        channels[f"block{i + 1}"] = inplanes
    scale = {key: 2**i for i, key in enumerate(stages)}
    centers = {key: side / 2 for key, side in scale.items()}  # pools of 2, unpadded
    backbone = Backbone(stages, channels, scale, centers, in_channels)
    initialize(backbone)
    if pretrained:
        if width != 64 or last_channels is not None or in_channels != 3:
            raise ValueError("pretrained weights fit only width 64, the published last block and 3 input channels")
        load_torchvision(backbone, f"vgg{name}" + ("_bn" if batch_norm else ""), pretrained)
    return backbone
