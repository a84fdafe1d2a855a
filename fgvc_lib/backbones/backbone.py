"""What every method sees of a network: named stages with their channels and strides."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Statistics = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation per channel, of images scaled to [0, 1]."""


class Backbone(nn.Module):
    """An ordered dict of stages.

    Args:
        stages: name → module, applied in order.
        channels: name → channels of the stage's output.
        strides: name → input pixels per output position.
        centers: name → the pixel coordinate, from the image's edge, on which the receptive field of the first position
            is centered; that of position j lies j strides further. Default 0.5, the first pixel, where padded
            convolutions and pools of odd size put it whatever their stride.
        in_channels: of the images.
        statistics: mean and standard deviation per channel, of images scaled to [0, 1], that the weights were trained
            with; None for fresh weights, which take images as they come.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        stages: dict[str, nn.Module],
        channels: dict[str, int],
        strides: dict[str, int],
        centers: dict[str, float] | None = None,
        in_channels: int = 3,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict(stages)
        self.stages = tuple(stages)
        self.channels = dict(channels)
        self.strides = dict(strides)
        self.centers = dict.fromkeys(stages, 0.5) if centers is None else dict(centers)
        self.statistics = statistics
        self.register_buffer("scale", torch.ones(in_channels, 1, 1))  # of the images, see `expect`
        self.register_buffer("shift", torch.zeros(in_channels, 1, 1))

    @property
    def last(self) -> str:
        """Name of the last stage."""
        return self.stages[-1]

    @property
    def out_channels(self) -> int:
        """Channels of the last stage."""
        return self.channels[self.last]

    @property
    def pretrained(self) -> bool:
        """Whether the weights were trained before."""
        return self.statistics is not None

    def expect(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Take images normalized by ``mean`` and ``std`` from now on, and give the weights the ones they know.

        Pretrained weights know images of one normalization, a data set has its own; the difference is a factor and a
        summand per channel, applied to every image. They are part of the weights that are saved and exported.
        """
        if self.statistics is not None:
            given, known = (torch.tensor(pair).view(2, -1, 1, 1) for pair in ((mean, std), self.statistics))
            self.scale.copy_(given[1] / known[1])
            self.shift.copy_((given[0] - known[0]) / known[1])

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """``(B, 3, H, W)`` → the output of every stage, in order, at its own channels and stride."""
        return self._run(torch.addcmul(self.shift, images, self.scale), self.stages)

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


def initialize(module: nn.Module) -> None:
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
            if m.bias is not None:
                nn.init.zeros_(m.bias)
