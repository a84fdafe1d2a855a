"""Attention sampling: resize an image so that what a map points at gets more pixels (Zheng et al., CVPR 2019).

A map of any size lies over the image: its cells divide each axis, from the center of the first pixel to the center of
the last, into equal stretches. Along each axis the map gives a *magnification* per cell (mean 1), whose running sum
says which fraction of the output's pixels lies before a point of the image. Reading that sum backwards at equal steps
gives the points to sample.

Everything is batched plain torch, on any device. Forward is deterministic, except that torch lists ``cumsum`` of CUDA
floats as not guaranteed to be, and refuses it under ``torch.use_deterministic_algorithms(True)`` (with
``warn_only=True`` it runs). The gradient through the positions also passes ``grid_sample``, whose CUDA backward adds
atomically: not deterministic. On a CPU all of it is.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def limit_magnification(magnification: Tensor, limit: float | Tensor) -> Tensor:
    r"""Clip at the limit and hand what was clipped to all cells alike, until nothing is above the limit.

    The result is :math:`\min(m_n + c, L)` with the one :math:`c \ge 0` that keeps the mean at 1. With the cells in
    ascending order and :math:`P_k` the sum of the k smallest, c is

    .. math:: c = \max_{1 \le k \le N} \frac{N - (N - k) L - P_k}{k}

    because :math:`\sum_n \min(m_n + c, L)` is the smallest, over k, of "the N − k largest clipped, the rest raised by
    c".

    The official implementation instead clips and redistributes five times. Only its first round clips at L; the
    later ones clip at the smaller of the two axes' current peaks, so what is handed back stays, and the peak settles
    between L and L + 1 (4.06 to 4.36 for L = 4 on squared blobs, 512 → 224). Here nothing is ever above L.

    Args:
        magnification: ``(B, N)``, non-negative, mean 1 in every row.
        limit: L, at least 1, a number or ``(B, 1)``.

    Returns:
        ``(B, N)``, mean 1, nowhere above the limit.
    """
    cells = magnification.shape[1]
    smallest = magnification.sort(dim=1).values.cumsum(1)  # (B, N): P_1 … P_N
    k = torch.arange(1, cells + 1, device=magnification.device, dtype=magnification.dtype)  # (N,)
    raised = ((cells - (cells - k) * limit - smallest) / k).amax(1, keepdim=True).clamp(min=0)  # (B, 1): c
    return (magnification + raised).clamp(max=limit)


def axis_magnification(maps: Tensor, *, limit: float | None = None, equal_zoom: bool = False) -> tuple[Tensor, Tensor]:
    r"""How much each row and each column of cells is magnified, relative to plain resizing.

    The marginals are maxima, :math:`f_x(n) = \max_i M_{i,n}` and :math:`f_y(n) = \max_j M_{n,j}`, each divided by its
    mean. The magnification of cell (i, j) in area is the product of its row's and its column's. A map whose values
    are all equal, zero included, magnifies nothing: 1 everywhere.

    Two marginals cannot say where in the plane the mass is: two blobs also magnify the two other crossings of their
    rows and columns.

    Args:
        maps: ``(B, h, w)``; negative values count as 0. Only ratios within a map matter.
        limit: the largest magnification along an axis, at least 1; None for none, which is the paper. The official
            implementation has 4 in its first round (1.75 output pixels per pixel at 512 → 224).
        equal_zoom: also clip both axes at the smaller of their two largest magnifications, as officially, so that the
            most magnified cell keeps its aspect ratio.

    Returns:
        ``(B, h)`` and ``(B, w)``, mean 1 in every row, float32 at least.

    Raises:
        ValueError: ``maps`` is not ``(B, h, w)``, or ``limit`` is below 1.
    """
    if maps.ndim != 3 or not maps.is_floating_point():
        raise ValueError(f"maps must be a float tensor (B, h, w), got {maps.dtype} of shape {tuple(maps.shape)}")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 (the mean magnification is always 1), got {limit}")
    with torch.autocast(device_type=maps.device.type, enabled=False):
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32)).clamp(min=0)
        y, x = _mean_one(maps.amax(2)), _mean_one(maps.amax(1))  # (B, h), (B, w)
        if equal_zoom:
            cap = torch.minimum(y.amax(1, keepdim=True), x.amax(1, keepdim=True)).clamp(min=1, max=limit)  # (B, 1)
            return limit_magnification(y, cap), limit_magnification(x, cap)
        if limit is not None:
            return limit_magnification(y, limit), limit_magnification(x, limit)
        return y, x


def _mean_one(marginal: Tensor) -> Tensor:
    """Divide each row ``(B, N)`` by its mean, after its maximum so that tiny values survive; a zero row becomes 1."""
    peak = marginal.amax(1, keepdim=True)
    marginal = torch.where(peak > 0, marginal, 1) / torch.where(peak > 0, peak, 1)
    return marginal / marginal.mean(1, keepdim=True)


def sampling_positions(magnification: Tensor, size: int) -> Tensor:
    r"""Points at equal steps of the cumulative: :math:`x_k = F^{-1}\left(k / (\mathrm{size} - 1)\right)`.

    F rises linearly through each cell by that cell's fraction of the magnification, from F(0) = 0 to F(1) = 1. Where F
    is flat its inverse is the left end of the flat stretch, except that the last point is always 1.

    Deviation: the official implementation drops the first bin and never reaches the far edge (it reads the table at
    k / size); here the first point is the first pixel's center and the last the last pixel's.

    Args:
        magnification: ``(B, N)``, non-negative, not all zero in any row.
        size: number of points.

    Returns:
        ``(B, size)``, non-decreasing from 0 to 1. Differentiable in the magnification.
    """
    if size < 1:
        raise ValueError(f"size must be at least 1, got {size}")
    cells = magnification.shape[1]
    total = magnification.cumsum(1)  # (B, N)
    upper = total / total[:, -1:]  # F at the right end of each cell; the last is exactly 1
    lower = F.pad(upper, (1, 0))[:, :-1]  # F at the left end
    steps = torch.linspace(0, 1, size, device=upper.device, dtype=upper.dtype)
    steps = steps.expand(upper.shape[0], size).contiguous()  # (B, size)
    # the first cell whose right end reaches the step; clamped so that a NaN cannot index beyond the last cell
    cell = torch.searchsorted(upper.detach().contiguous(), steps).clamp(max=cells - 1)  # (B, size)
    low, high = lower.gather(1, cell), upper.gather(1, cell)
    rise = torch.where(high > low, high - low, 1)  # 0 only for step 0 in an empty first cell
    within = ((steps - low) / rise).clamp(0, 1)
    return torch.where(steps < 1, (cell + within) / cells, 1)


def sampling_grid(
    maps: Tensor, size: tuple[int, int], *, limit: float | None = None, equal_zoom: bool = False
) -> Tensor:
    """The sampling points of a map, for ``grid_sample`` with ``align_corners=True``.

    Args:
        maps: ``(B, h, w)``.
        size: height and width of the output.
        limit, equal_zoom: see :func:`axis_magnification`.

    Returns:
        ``(B, *size, 2)``, x and y in [-1, 1]: x depends on the column only, y on the row only.
    """
    return magnified_grid(*axis_magnification(maps, limit=limit, equal_zoom=equal_zoom), size)


def magnified_grid(magnification_y: Tensor, magnification_x: Tensor, size: tuple[int, int]) -> Tensor:
    """:func:`sampling_grid` of what :func:`axis_magnification` gives, ``(B, h)`` and ``(B, w)``."""
    with torch.autocast(device_type=magnification_y.device.type, enabled=False):
        y = 2 * sampling_positions(magnification_y, size[0]) - 1  # (B, H)
        x = 2 * sampling_positions(magnification_x, size[1]) - 1  # (B, W)
    shape = (magnification_y.shape[0], *size)
    return torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)  # (B, H, W, 2)


def attention_sample(
    images: Tensor, maps: Tensor, size: tuple[int, int], *, limit: float | None = None, equal_zoom: bool = False
) -> Tensor:
    r"""Sample images so that what their maps point at is magnified: :math:`I'(i, j) = I(F_y^{-1}(i), F_x^{-1}(j))`.

    Bilinear interpolation between pixels. A uniform map gives ``F.interpolate(images, size, mode="bilinear",
    align_corners=True)``. The gradient reaches the maps by way of the positions; detach the maps to stop it, as the
    official implementation does.

    Args:
        images: ``(B, C, H, W)``.
        maps: ``(B, h, w)``, one for each image, of any size.
        size: height and width of the output.
        limit: largest magnification along an axis; see :func:`axis_magnification`.
        equal_zoom: one largest magnification for both axes; see :func:`axis_magnification`.

    Returns:
        ``(B, C, *size)``, the images' dtype.

    Raises:
        ValueError: wrong shapes, batches that differ, a limit below 1, an empty size.
    """
    if images.ndim != 4 or images.shape[0] != maps.shape[0]:
        raise ValueError(
            f"images must be (B, C, H, W) with one map each, got {tuple(images.shape)} and maps {tuple(maps.shape)}"
        )
    return sample_at(images, sampling_grid(maps, size, limit=limit, equal_zoom=equal_zoom))


def sample_at(images: Tensor, grid: Tensor) -> Tensor:
    """Bilinear samples of ``(B, C, H, W)`` images at the points of a ``(B, h, w, 2)`` grid, pixel centers at ±1."""
    with torch.autocast(device_type=images.device.type, enabled=False):
        # positions in half precision would be off by whole pixels: interpolate in the grid's type
        return F.grid_sample(images.to(grid), grid, mode="bilinear", align_corners=True).to(images)
