"""Trilinear attention: one attention map per channel, from how the channels relate (Zheng et al., CVPR 2019)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def trilinear_attention(
    features: Tensor, *, spatial_norm: bool = True, relation_norm: bool = True, scale: float = 1.0
) -> Tensor:
    r"""Trilinear attention maps :math:`M(X) = \mathcal N_r(\mathcal N_s(s X)\, X^\top)\, X`.

    ``X`` is the feature map of an image with its positions in a row, ``(C, hw)``. :math:`\mathcal N_s` is a softmax
    over the ``hw`` positions of each channel, :math:`\mathcal N_r` a softmax over the second dimension of the
    ``(C, C)`` relation. Row i of the relation says how strongly every channel fires where channel i fires, so row i
    of M is the sum of the feature maps, weighted by how much they agree with channel i.

    ======================= ==================== ======= ==============================================
    symbol                  argument             default source
    ======================= ==================== ======= ==============================================
    X                       ``features``                 paper
    :math:`\mathcal N_s`    ``spatial_norm``     True    paper; off is the identity
    :math:`\mathcal N_r`    ``relation_norm``    True    paper; off is the identity
    s                       ``scale``            1       the formula has none; the official implementation has 7
    ======================= ==================== ======= ==============================================

    With both norms off this is the plain trilinear product :math:`(X X^\top) X`. Computed in float32 at least, inside
    autocast too: the exponentials and the sums over positions leave the range of float16.

    Args:
        features: ``(B, C, h, w)``. Non-negative ones (after a ReLU) give non-negative maps.
        spatial_norm: normalize every channel over space before relating the channels.
        relation_norm: normalize every row of the relation.
        scale: factor on X inside the spatial softmax, which sharpens it; nothing else is scaled. The official MXNet
            code has a 7 that the paper does not mention, its PyTorch port a 2.

    Returns:
        ``(B, C, h, w)`` attention maps, float32 (float64 for float64 features).

    Raises:
        ValueError: ``features`` is not ``(B, C, h, w)``, or ``scale`` is set where no softmax uses it.
    """
    if features.ndim != 4:
        raise ValueError(f"features must be (B, C, h, w), got shape {tuple(features.shape)}")
    if not spatial_norm and scale != 1.0:
        raise ValueError(f"scale acts inside the spatial softmax only: with spatial_norm=False leave it 1, got {scale}")
    with torch.autocast(device_type=features.device.type, enabled=False):
        x = features.flatten(2)  # (B, C, hw)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        where = F.softmax(scale * x, dim=2) if spatial_norm else x  # (B, C, hw)
        relation = where @ x.transpose(1, 2)  # (B, C, C)
        if relation_norm:
            relation = F.softmax(relation, dim=2)
        return (relation @ x).view(features.shape)  # (B, C, h, w)


class TrilinearAttention(nn.Module):
    """Module twin of :func:`trilinear_attention`, with its arguments."""

    def __init__(self, *, spatial_norm: bool = True, relation_norm: bool = True, scale: float = 1.0) -> None:
        super().__init__()
        self.spatial_norm = spatial_norm
        self.relation_norm = relation_norm
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        return trilinear_attention(
            features, spatial_norm=self.spatial_norm, relation_norm=self.relation_norm, scale=self.scale
        )


def average_map(maps: Tensor, *, unique: bool = False) -> Tensor:
    """A(M), the average over the maps: what all parts together point at.

    Args:
        maps: ``(B, C, h, w)``.
        unique: count equal maps once, see :func:`unique_maps`.

    Returns:
        ``(B, 1, h, w)``.
    """
    if not unique:
        return maps.mean(1, keepdim=True)
    keep = unique_maps(maps)[:, :, None, None]  # (B, C, 1, 1)
    return (maps * keep).sum(1, keepdim=True) / keep.sum(1, keepdim=True)


def random_maps(maps: Tensor, *, count: int = 1, unique: bool = False, generator: torch.Generator) -> Tensor:
    """R(M), different maps of each image at random: one part each.

    Args:
        maps: ``(B, C, h, w)``.
        count: K, how many of each image, at most C; the paper has 1.
        unique: choose equal maps only when there are no others left, see :func:`unique_maps`.
        generator: on the CPU; every image gets a choice of its own.

    Returns:
        ``(B, K, h, w)``.

    Raises:
        ValueError: ``count`` is not between 1 and C.
    """
    if not 1 <= count <= maps.shape[1]:
        raise ValueError(f"count must be between 1 and the number of maps, {maps.shape[1]}, got {count}")
    keys = torch.rand(maps.shape[:2], generator=generator).to(maps.device)  # (B, C)
    if unique:
        keys = keys.masked_fill(~unique_maps(maps), -1)
    chosen = keys.topk(count, dim=1).indices  # (B, K)
    return maps.gather(1, chosen[:, :, None, None].expand(-1, -1, *maps.shape[2:]))


def unique_maps(maps: Tensor) -> Tensor:
    """Which maps of an image to keep so that equal ones count once, as the official implementation does.

    Channels that a ReLU has silenced everywhere have the same relation to all others and so the same trilinear map;
    without this a random choice of map falls on that one map in proportion to the number of silent channels. Two
    maps are equal where their totals are, bit for bit. Not in the paper.

    Deviation from the official implementation: there the mask is made in the order of the sorted totals and, for the
    structure map, applied to the unsorted channels; here it is brought back to the channels' order.

    Args:
        maps: ``(B, C, h, w)``.

    Returns:
        ``(B, C)`` booleans, True for the first channel of each set of equal maps.
    """
    totals, order = maps.flatten(2).sum(2).sort(dim=1, stable=True)  # (B, C) each
    first = torch.ones_like(totals, dtype=torch.bool)
    first[:, 1:] = totals[:, 1:] != totals[:, :-1]
    return torch.zeros_like(first).scatter(1, order, first)
