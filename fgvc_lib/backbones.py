"""Backbones: torchvision's ResNet and VGG, and LeNet++, cut into named stages.

Every method sees a backbone through three things: ``stages`` (names in order), ``channels`` and ``strides``
(per stage), and ``forward``, which returns the map of every stage. ``resume`` runs the stages above a given
map, which a second pass over a cropped feature needs.

>>> import torch
>>> net = resnet("small", width=16)
>>> {name: tuple(x.shape[1:]) for name, x in net(torch.zeros(1, 3, 64, 64)).items()}
{'layer1': (16, 32, 32), 'layer2': (32, 16, 16), 'layer3': (64, 8, 8)}
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, Bottleneck


class Backbone(nn.Module):
    """An ordered dict of stages.

    Args:
        stages: name → module, applied in order.
        channels: name → channels of the stage's output.
        strides: name → input pixels per output position.
        centers: name → the pixel coordinate, from the image's edge, on which the receptive field of the first position
            is centered; that of position j lies j strides further. Default 0.5, the first pixel, where padded
            convolutions and pools of odd size put it whatever their stride.
    """

    def __init__(
        self,
        stages: dict[str, nn.Module],
        channels: dict[str, int],
        strides: dict[str, int],
        centers: dict[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(stages)
        self.stages = tuple(stages)
        self.channels = dict(channels)
        self.strides = dict(strides)
        self.centers = dict.fromkeys(stages, 0.5) if centers is None else dict(centers)

    @property
    def last(self) -> str:
        """Name of the last stage."""
        return self.stages[-1]

    @property
    def out_channels(self) -> int:
        """Channels of the last stage."""
        return self.channels[self.last]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` → the output of every stage, in order, at its own channels and stride."""
        return self._run(images, self.stages)

    def resume(self, stage: str, features: Tensor) -> dict[str, Tensor]:
        """The outputs of the stages above ``stage``, given ``stage``'s output."""
        if stage not in self.stages:
            raise ValueError(f"no stage {stage!r}: this backbone has {', '.join(self.stages)}")
        return self._run(features, self.stages[self.stages.index(stage) + 1 :])

    def _run(self, x: Tensor, stages: Sequence[str]) -> dict[str, Tensor]:
        outputs = {}
        for name in stages:
            outputs[name] = x = self.blocks[name](x)
        return outputs


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
    pretrained: bool = False,
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
        pretrained: ImageNet weights from torchvision; asks for the standard width, stem and last stage.
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
    backbone = Backbone(stages, channels, scale)
    _initialize(backbone)
    if pretrained:
        if name == "small" or width != 64 or small_stem or last_channels is not None or in_channels != 3:
            raise ValueError(
                "pretrained weights fit only depths 18-101 with width 64, the 7×7 stem and 3 input channels"
            )
        _load_pretrained(backbone, f"resnet{name}", {"layer1.0": "conv1", "layer1.1": "bn1", "layer1.4": "layer1"})
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
    pretrained: bool = False,
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
        pretrained: ImageNet weights from torchvision; asks for the published channels.
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
    backbone = Backbone(stages, channels, scale, {key: side / 2 for key, side in scale.items()})  # pools of 2 unpadded
    _initialize(backbone)
    if pretrained:
        if width != 64 or last_channels is not None or in_channels != 3:
            raise ValueError("pretrained weights fit only width 64, the published last block and 3 input channels")
        renamed, offset = {}, 0
        for key, stage in stages.items():
            for j in range(len(stage)):  # type: ignore[arg-type]
                renamed[f"{key}.{j}"] = f"features.{offset + j}"
            offset += len(stage)  # type: ignore[arg-type]
        _load_pretrained(backbone, f"vgg{name}" + ("_bn" if batch_norm else ""), renamed)
    return backbone


def lenet_pp(*, feature_dim: int = 2, in_channels: int = 1, image_size: int = 28) -> Backbone:
    """LeNet++ (Wen et al., ECCV 2016, Table 1): six 5×5 convolutions and a narrow embedding.

    The last stage, ``embedding``, is the fully connected feature after its PReLU, shaped ``(B, d, 1, 1)``
    so that global average pooling, which every method ends with, leaves it as it is.

    Args:
        feature_dim: d; 2 to draw the features, more to classify with them.
        in_channels: 1 for digits.
        image_size: side of the square images; fixes the size of the fully connected layer.
    """
    stages: dict[str, nn.Module] = {}
    channels: dict[str, int] = {}
    strides: dict[str, int] = {}
    inplanes, side = in_channels, image_size
    for i, planes in enumerate((32, 64, 128)):
        convs: list[nn.Module] = [nn.MaxPool2d(2)] if i else []
        for _ in range(2):
            convs += [nn.Conv2d(inplanes, planes, 5, padding=2), nn.PReLU()]
            inplanes = planes
        stages[f"conv{i + 1}"] = nn.Sequential(*convs)
        channels[f"conv{i + 1}"], strides[f"conv{i + 1}"] = planes, 2**i
        side //= 2
    if side < 1:
        raise ValueError(f"LeNet++ halves the image three times, so image_size must be at least 8, got {image_size}")
    stages["embedding"] = nn.Sequential(
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(128 * side * side, feature_dim),
        nn.PReLU(),
        nn.Unflatten(1, (feature_dim, 1, 1)),
    )
    channels["embedding"], strides["embedding"] = feature_dim, image_size
    backbone = Backbone(stages, channels, strides, {key: side / 2 for key, side in strides.items()})
    _initialize(backbone)
    return backbone


BACKBONES: dict[str, Callable[..., Backbone]] = {"resnet": resnet, "vgg": vgg, "lenet_pp": lenet_pp}
"""Name in a configuration → constructor."""


def _initialize(module: nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)


def _load_pretrained(backbone: Backbone, model: str, renamed: dict[str, str]) -> None:
    """Copy torchvision's default ImageNet weights; every backbone entry must find its source."""
    source = models.get_model_weights(model)["IMAGENET1K_V1"].get_state_dict(progress=True, check_hash=True)
    state: dict[str, Tensor] = {}
    for key in backbone.state_dict():
        path = key.removeprefix("blocks.")
        prefix = max((p for p in renamed if path.startswith(p + ".")), key=len, default=None)
        state[key] = source[path if prefix is None else renamed[prefix] + path[len(prefix) :]]
    backbone.load_state_dict(state)
