r"""Non-local block (Wang, Girshick, Gupta, He; CVPR 2018): attention between the locations of a map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class NonLocalBlock(nn.Module):
    r"""The embedded Gaussian version.

    .. math:: y_i = \sum_j \mathrm{softmax}_j(\theta(x_i)^\top \varphi(x_j))\, g(x_j), \qquad z_i = W_z y_i + x_i

    θ, φ, g are 1×1 convolutions to c / ``reduction`` channels, W_z one back to c, followed by BatchNorm, whose weight
    starts at zero, so that z = x, as in the paper. Where channel interaction relates channels, this relates locations.

    Differences from the paper:
        Keys and values are not sub-sampled by max-pooling.

    Args:
        channels: c, of the map.
        reduction: of the width inside; 2 in the paper.
    """

    def __init__(self, channels: int, *, reduction: int = 2) -> None:
        super().__init__()
        inner = max(1, channels // reduction)
        self.theta, self.phi, self.g = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        self.out = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        nn.init.zeros_(self.out[1].weight)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(B, c, h, w)`` → the same shape."""
        query, key, value = (conv(x).flatten(2).mT.unsqueeze(1) for conv in (self.theta, self.phi, self.g))
        y = F.scaled_dot_product_attention(query, key, value, scale=1.0)  # (B, 1, h·w, inner)
        y = y.squeeze(1).mT.reshape(len(x), y.shape[3], *x.shape[2:])  # (B, inner, h, w)
        z: Tensor = x + self.out(y)
        return z
