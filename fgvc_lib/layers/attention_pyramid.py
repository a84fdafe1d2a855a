r"""Attention pyramid (Ding et al., AP-CNN: Weakly Supervised Attention Pyramid Convolutional Neural Network, TIP 2021).

A feature pyramid brings the coarse map's meaning down to the fine maps; a spatial and a channel gate per level
then say where to look and at which channels, and a bottom-up pathway carries the fine levels' channel gates up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork


class PooledLateral(nn.Module):
    r"""The lateral connection of the pyramid's top level, with a pooled branch.

    .. math:: P_{top} = \mathrm{ReLU}(\mathrm{BN}(W_1 B)) + \mathrm{ReLU}(\mathrm{BN}(W_2\,\mathrm{GAP}(B)))

    The second summand is one vector per image, added to every spatial position.

    Args:
        in_channels: of the backbone's last stage B.
        out_channels: of the pyramid.
        momentum: of both BatchNorms' running statistics; 0.01 officially. They then need some 500 passes to arrive;
            a run of fewer steps evaluates better with 0.1.

    Source: the official implementation; the paper's text names a plain feature pyramid.
    """

    def __init__(self, in_channels: int, out_channels: int, *, momentum: float = 0.01) -> None:
        super().__init__()

        def project() -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels, momentum=momentum),
                nn.ReLU(inplace=True),
            )

        self.local = project()
        self.pooled = project()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, in_channels, h, w)`` → ``(B, out_channels, h, w)``."""
        local: Tensor = self.local(x)  # (B, C, h, w)
        pooled: Tensor = self.pooled(x.mean((2, 3), keepdim=True))  # (B, C, 1, 1)
        return local + pooled


def feature_pyramid(in_channels: Sequence[int], out_channels: int, *, momentum: float = 0.01) -> FeaturePyramidNetwork:
    r"""torchvision's feature pyramid, its top lateral replaced by :class:`PooledLateral`.

    .. math:: P_k = W_k B_k + \mathrm{up}(P_{k+1}), \qquad F_k = \mathrm{conv}_{3\times3}(P_k)

    with nearest upsampling to the next finer map's size, whatever it is. The convolutions start as torchvision's do,
    uniform with zero biases; the official implementation draws them, and those of the channel gates, from a normal
    distribution of variance 2 / (k² C_out).

    Args:
        in_channels: channels of the stages B_k, the finest first.
        out_channels: of every F_k; 256 in the official implementation.
        momentum: of the top lateral's BatchNorms.

    Returns:
        A module from an ordered dict of stage outputs, finest first, to the dict of F_k,
        ``(B, out_channels, h_k, w_k)``.
    """
    pyramid = FeaturePyramidNetwork(list(in_channels), out_channels)
    pyramid.inner_blocks[-1] = PooledLateral(in_channels[-1], out_channels, momentum=momentum)
    return pyramid


class SpatialGate(nn.Module):
    r"""Where to look: one weight per spatial position.

    .. math:: A^s_k = \sigma(v * F_k)

    with v a 3×3 stride-1 transposed convolution to one channel, which at this stride is a convolution with the
    kernel turned by 180°.

    Args:
        channels: of F_k.

    Weights and bias start uniform within :math:`\pm 1/\sqrt{9C}`, as torch did when the code was released (0.4.1).
    Today's torch takes a transposed convolution's fan from its output channels, here one, and would start
    :math:`\sqrt C` times larger: masks of zeros and ones, with nothing to tell positions apart and no gradient.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(channels, 1, 3, padding=1)
        bound = (9 * channels) ** -0.5
        for parameter in self.conv.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` → ``(B, 1, h, w)`` in (0, 1), float32 at least."""
        logits: Tensor = self.conv(features)
        # in half precision the sigmoid of 8 and more is 1, and boxes of equal score would be drawn top left first
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


class ChannelGate(nn.Module):
    r"""Which channels to look at: one weight per channel, as in Squeeze-and-Excitation.

    .. math:: A^c_k = \sigma(W_2\,\mathrm{ReLU}(W_1\,\mathrm{GAP}(F_k)))

    Args:
        channels: of F_k.
        reduction: channels over hidden units, at least one unit stays; 16 in the official implementation.
    """

    def __init__(self, channels: int, *, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, channels, 1), nn.Sigmoid()
        )

    def forward(self, features: Tensor) -> Tensor:
        """``(B, C, h, w)`` → ``(B, C, 1, 1)`` in (0, 1)."""
        gate: Tensor = self.layers(features.mean((2, 3), keepdim=True))
        return gate


def bottom_up_pathway(gates: Sequence[Tensor]) -> list[Tensor]:
    r"""Running average of the gates from the finest level to the top.

    .. math:: \tilde A_1 = A_1, \qquad \tilde A_k = \tfrac12 (A_k + \tilde A_{k-1})

    so the top of three levels weighs the levels 1/4, 1/4, 1/2. The official implementation passes on the channel gates
    only; spatial masks differ in size and stay where they are.

    Args:
        gates: tensors of one shape, finest level first.
    """
    averaged = [gates[0]]
    for gate in gates[1:]:
        averaged.append((gate + averaged[-1]) / 2)
    return averaged


class Attended(NamedTuple):
    """What :class:`AttentionPyramid` returns, each list finest level first.

    Attributes:
        features: F'_k, ``(B, C, h_k, w_k)``.
        masks: A^s_k, ``(B, 1, h_k, w_k)``, non-negative; also where no spatial gate is applied, see there.
        gates: A^c_k after the pathway, ``(B, C, 1, 1)``; empty without channel gates.
    """

    features: list[Tensor]
    masks: list[Tensor]
    gates: list[Tensor]


class AttentionPyramid(nn.Module):
    r"""Both gates on every level, and the pathway between the channel gates.

    .. math:: F'_k = A^s_k \odot F_k + A^c_k \odot F_k

    Switching a gate off takes its summand away; without both F' is F, the plain feature pyramid.

    Args:
        channels: of F_k.
        levels: how many.
        spatial: apply the spatial gates. Without them the masks, which the ROI pyramid needs all the same, are
            :math:`\sigma(\mathrm{mean}_c F_k)`, which has no parameters.
        channel: apply the channel gates.
        pathway: average the channel gates from level to level.
        reduction: of the channel gates.
    """

    def __init__(
        self,
        channels: int,
        levels: int,
        *,
        spatial: bool = True,
        channel: bool = True,
        pathway: bool = True,
        reduction: int = 16,
    ) -> None:
        super().__init__()
        self.levels = levels
        self.pathway = pathway
        self.spatial_gates = nn.ModuleList(SpatialGate(channels) for _ in range(levels if spatial else 0))
        self.channel_gates = nn.ModuleList(
            ChannelGate(channels, reduction=reduction) for _ in range(levels if channel else 0)
        )

    def forward(self, features: Sequence[Tensor]) -> Attended:
        """``(B, C, h_k, w_k)`` per level, finest first → :class:`Attended`.

        Raises:
            ValueError: another number of levels than built for.
        """
        if len(features) != self.levels:
            raise ValueError(f"the attention pyramid was built for {self.levels} levels, got {len(features)} maps")
        if self.spatial_gates:
            masks = [gate(f) for gate, f in zip(self.spatial_gates, features, strict=True)]  # (B, 1, h_k, w_k)
        else:
            wide = (f.to(torch.promote_types(f.dtype, torch.float32)) for f in features)
            masks = [f.mean(1, keepdim=True).sigmoid() for f in wide]
        gates = [gate(f) for gate, f in zip(self.channel_gates, features, strict=False)]  # (B, C, 1, 1)
        if gates and self.pathway:
            gates = bottom_up_pathway(gates)
        if not self.spatial_gates and not gates:
            return Attended(list(features), masks, gates)
        attended = []
        for k, f in enumerate(features):
            spatial = masks[k].to(f.dtype) if self.spatial_gates else 0
            weight = spatial + gates[k] if gates else spatial  # broadcasts to (B, C, h_k, w_k)
            attended.append(weight * f)
        return Attended(attended, masks, gates)
