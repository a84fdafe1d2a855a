"""The network that TASN takes its attention from: a backbone with a large last map and wide receptive fields."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone


class MultiDilationConv(nn.Module):
    r"""One 3×3 convolution at several dilations with the same weight, summed after the ReLU.

    .. math:: Y = \sum_{d} \mathrm{ReLU}(W *_d X)

    It looks at several extents at once without shrinking the map and without further weights.

    Args:
        in_channels: C, of X.
        out_channels: C', of Y.
        dilations: the d's.

    Raises:
        ValueError: no dilation, or one below 1.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dilations: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        if not dilations or min(dilations) < 1:
            raise ValueError(f"dilations must be one or more positive integers, got {tuple(dilations)}")
        self.dilations = tuple(dilations)
        self.weight = nn.Conv2d(in_channels, out_channels, 3, bias=False).weight
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` → ``(B, C', h, w)``, non-negative."""
        responses = [F.relu(F.conv2d(features, self.weight, padding=d, dilation=d)) for d in self.dilations]
        total = responses[0]
        for response in responses[1:]:
            total = total + response
        return total


class AttentionNet(nn.Module):
    """Backbone, multi-dilation convolutions with BatchNorm between them, and a classifier of its own.

    The attention is read off the sum that the last of these convolutions makes (before its BatchNorm), so it is
    non-negative; the classifier is BatchNorm, global average pooling and a linear layer. Training that classifier
    is what makes the channels point at parts: no other loss reaches this network unless a gradient through the
    sampling is asked for.

    Deviations from the official MXNet net: its backbone is a pre-activation ResNet-18, this one whatever comes in; it
    has biases in the multi-dilation convolutions, no BatchNorm between them, and a ReLU after the last BatchNorm.

    Args:
        backbone: with the later strides removed, so that the last map is large: the official net's is 28×28 at
            224 px, here ``resnet(18, strides=(1, 1, 2, 1))``.
        num_classes: of its classifier.
        dilations: of each multi-dilation convolution; the official two by default, none for ``()``.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        dilations: Sequence[Sequence[int]] = ((1, 2), (1, 2, 3)),
    ) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.out_channels
        layers: list[nn.Module] = []
        for i, each in enumerate(dilations):
            if i:
                layers.append(nn.BatchNorm2d(channels))
            layers.append(MultiDilationConv(channels, channels, dilations=each))
        self.widen = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(channels)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, 3, H, W)`` → the features to take attention from, ``(B, C, h, w)``, and logits ``(B, num_classes)``."""
        features = self.widen(self.backbone(images)[self.backbone.last])  # (B, C, h, w)
        logits = self.head(self.norm(features).mean((2, 3)))  # (B, num_classes)
        return features, logits
