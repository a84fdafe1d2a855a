"""LeNet++, the network of Center Loss for digits."""

from __future__ import annotations

from torch import nn

from fgvc_lib.backbones.backbone import Backbone, initialize


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
    centers = {key: side / 2 for key, side in strides.items()}
    backbone = Backbone(stages, channels, strides, centers, in_channels)
    initialize(backbone)
    return backbone
