"""Maps, boxes and sampled grids against the ground truth of parts.

All functions take tensors and give one number per image (NaN where the part is not to be seen), so that a mean over
images, ``nanmean``, is a rate. Pixel coordinates run from 0 to the side of the image; the center of the first pixel is
0.5. Maps may be coarser than the image; :func:`position_of_pixel` says which position looks at which pixel.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


class NotApplicable(ValueError):
    """A metric that a method or data set does not have; an experiment leaves it out for that variant."""


def position_of_pixel(positions: int, side: int, *, center: float | None = None) -> Tensor:
    r"""Which position of a map looks at each pixel along an axis, as a fractional index.

    Position j looks at the pixel coordinate :math:`x_0 + j s` with the stride :math:`s = \text{side} /
    \text{positions}`; pixels beyond the first and last of these belong to the first and last position.

    Args:
        positions: of the map along the axis.
        side: pixels of the image along it.
        center: :math:`x_0`, where the first position's receptive field is centered, as in
            ``Backbone.centers``: 0.5 for a ResNet, whose maps look half a stride further up
            and left than the squares that are usually drawn. None for those squares, s / 2.

    Returns:
        ``(side,)`` float32, from 0 to ``positions - 1``.
    """
    stride = side / positions
    first = stride / 2 if center is None else center
    return ((torch.arange(side) + 0.5 - first) / stride).clamp(0, positions - 1)


def peaks(maps: Tensor, size: tuple[int, int], *, center: float | None = None) -> Tensor:
    """Where each map is largest, as x y in pixels of an image of ``size`` (height, width).

    The map is enlarged bilinearly first, as it is for a picture, so neighbors decide where the peak lies between
    positions.

    Args:
        maps: ``(B, K, h, w)``.
        size: height and width of the image.
        center: of :func:`position_of_pixel`.

    Returns:
        ``(B, K, 2)`` float32. Of equal values the first in reading order counts.
    """
    _check(maps, 4, "maps must be (B, K, h, w)")
    first = _peak_pixels(maps, size, center)
    return torch.stack([first % size[1], first // size[1]], -1) + 0.5


def pointing_game(maps: Tensor, masks: Tensor, *, tolerance: float = 0.0, center: float | None = None) -> Tensor:
    """Whether the peak of a map falls on a part: the pointing game (Zhang et al., IJCV 2018), part by part.

    Args:
        maps: ``(B, h, w)``, one attention map per image.
        masks: bool ``(B, H, W)``, where the part is.
        tolerance: pixels by which the peak may miss the mask. The paper allows 15 on whole photographs; here 0.
        center: of :func:`position_of_pixel`.

    Returns:
        ``(B,)`` float32: 1 for a hit, 0 for a miss, NaN where the mask is empty.
    """
    _check(maps, 3, "maps must be (B, h, w)")
    _check(masks, 3, "masks must be (B, H, W)")
    near = dilate(masks[:, None], tolerance=tolerance).flatten(1)  # (B, H·W)
    hit = near.gather(1, _peak_pixels(maps[:, None], _size(masks), center))[:, 0]
    return torch.where(masks.flatten(1).any(1), hit.float(), torch.nan)


def mass_on_part(maps: Tensor, masks: Tensor, *, center: float | None = None) -> tuple[Tensor, Tensor]:
    r"""The fraction of a map's mass that lies on a part, and the fraction that an even map would have there.

    .. math:: s = \frac{\sum_{x} a(x)\, \bar m(x)}{\sum_{x} a(x)}, \qquad s_0 = \frac{1}{hw} \sum_x \bar m(x)

    with :math:`\bar m` the mask averaged over the pixels nearest to each position of the map. ``s / s_0`` says how many
    times more than chance.

    Args:
        maps: ``(B, h, w)``, non-negative; a map that is zero everywhere gives NaN.
        masks: bool ``(B, H, W)``.
        center: of :func:`position_of_pixel`.

    Returns:
        :math:`s` and :math:`s_0`, each ``(B,)`` float32, NaN where the mask is empty.
    """
    _check(maps, 3, "maps must be (B, h, w)")
    _check(masks, 3, "masks must be (B, H, W)")
    maps = maps.float()
    if (maps < 0).any():
        raise ValueError(f"maps must not be negative to have a mass, got {float(maps.min()):g}: clamp or square them")
    rows, columns = (
        F.one_hot((position_of_pixel(n, side, center=center) + 0.5).floor().long(), n).float().to(maps.device)
        for n, side in zip(_size(maps), _size(masks), strict=True)
    )  # (H, h), (W, w): the nearest position of each pixel
    mean = rows.T @ masks.float() @ columns / (rows.sum(0)[:, None] * columns.sum(0))  # (B, h, w)
    visible = masks.flatten(1).any(1)
    share = (maps * mean).sum((1, 2)) / maps.sum((1, 2))  # 0 / 0 is NaN
    return torch.where(visible, share, torch.nan), torch.where(visible, mean.mean((1, 2)), torch.nan)


def peak_parts(maps: Tensor, masks: Tensor, *, tolerance: float = 0.0, center: float | None = None) -> Tensor:
    """The part on which each channel peaks.

    Args:
        maps: ``(B, K, h, w)``.
        masks: bool ``(B, P, H, W)``.
        tolerance: pixels by which a peak may miss a part.
        center: of :func:`position_of_pixel`.

    Returns:
        ``(B, K)`` int64: index of the part, -1 for none. The part that the peak lies on counts before one it is only
        near, and otherwise the first.
    """
    _check(maps, 4, "maps must be (B, K, h, w)")
    _check(masks, 4, "masks must be (B, P, H, W)")
    pixels = _peak_pixels(maps, _size(masks), center)[:, None].expand(-1, masks.shape[1], -1)  # (B, P, K)
    on = masks.bool().flatten(2).gather(2, pixels)
    near = dilate(masks, tolerance=tolerance).flatten(2).gather(2, pixels)
    score, part = (2 * on.int() + near.int()).max(1)  # (B, K)
    return torch.where(score > 0, part, -1)


def dilate(masks: Tensor, *, tolerance: float) -> Tensor:
    """Masks bool ``(B, P, H, W)`` grown by the pixels whose center is at most ``tolerance`` from a pixel of the mask.

    A pixel is a square, so its neighbor's center is half a pixel away.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    reach = math.floor(tolerance + 0.5)
    steps = (torch.arange(-reach, reach + 1, device=masks.device).abs() - 0.5).clamp(min=0)
    disc = (steps[:, None].square() + steps.square() <= tolerance**2).float()[None, None]
    flat = masks.flatten(0, 1)[:, None].float()  # (B·P, 1, H, W)
    return (F.conv2d(flat, disc, padding=reach) > 0.5).view(masks.shape)


def distinct_parts(parts: Tensor) -> Tensor:
    """How many different parts the channels of each image peak on; -1, no part, does not count.

    Args:
        parts: ``(B, K)`` from :func:`peak_parts`, of the channels to compare, such as those of the image's class.

    Returns:
        ``(B,)`` int64.
    """
    _check(parts, 2, "parts must be (B, K)")
    ordered = parts.sort(1).values
    new = torch.ones_like(ordered, dtype=torch.bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return (new & (ordered >= 0)).sum(1)


def box_coverage(boxes: Tensor, part_boxes: Tensor) -> Tensor:
    """The fraction of a part's box that the best single box covers.

    A box of the whole image covers everything: show :func:`box_area` beside it.

    Args:
        boxes: ``(B, K, 4)`` x1 y1 x2 y2 in pixels, rows of NaN for absent ones.
        part_boxes: ``(B, 4)``, NaN where the part is not to be seen.

    Returns:
        ``(B,)`` float32, NaN where the part is not to be seen, 0 where there is no box.
    """
    _check(boxes, 3, "boxes must be (B, K, 4)")
    part = part_boxes[:, None].float()  # (B, 1, 4)
    low = torch.maximum(boxes[..., :2].float(), part[..., :2])  # (B, K, 2)
    high = torch.minimum(boxes[..., 2:].float(), part[..., 2:])
    overlap = (high - low).clamp(min=0).prod(2).nan_to_num(0)  # (B, K)
    best = F.pad(overlap, (0, 1)).amax(1)  # (B,), 0 without boxes
    return best / (part_boxes[:, 2:] - part_boxes[:, :2]).float().prod(1)


def box_recall(boxes: Tensor, part_boxes: Tensor, *, coverage: float = 0.5) -> Tensor:
    """Whether some box covers at least ``coverage`` of a part's box: ``(B,)``, 1, 0, or NaN as :func:`box_coverage`."""
    share = box_coverage(boxes, part_boxes)
    return torch.where(share.isnan(), share, (share >= coverage).float())


def box_area(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Mean fraction of the image that its boxes take: ``(B, K, 4)`` → ``(B,)``, NaN where there is no box."""
    _check(boxes, 3, "boxes must be (B, K, 4)")
    area = (boxes[..., 2:] - boxes[..., :2]).float().prod(2) / (size[0] * size[1])  # (B, K)
    return area.nanmean(1)


def _peak_pixels(maps: Tensor, size: tuple[int, int], center: float | None) -> Tensor:
    """Index of each map's maximum among the pixels of an image, row by row: ``(B, K, h, w)`` → ``(B, K)``."""
    rows, columns = (
        (1 - (position_of_pixel(n, side, center=center)[:, None] - torch.arange(n)).abs()).clamp(min=0).to(maps.device)
        for n, side in zip(_size(maps), size, strict=True)
    )  # (H, h), (W, w): bilinear weights
    # an image at a time: hundreds of channels at full size are large
    return torch.stack([(rows @ m.float() @ columns.T).flatten(1).argmax(1) for m in maps])


def _size(x: Tensor) -> tuple[int, int]:
    return int(x.shape[-2]), int(x.shape[-1])


def _check(x: Tensor, ndim: int, wanted: str) -> None:
    if x.ndim != ndim:
        raise ValueError(f"{wanted}, got shape {tuple(x.shape)}")
