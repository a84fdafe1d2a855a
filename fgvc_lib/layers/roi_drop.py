"""ROI-guided DropBlock (Ding et al., AP-CNN, TIP 2021): hide one chosen box of a feature map while training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cells_inside(boxes: Tensor, map_size: tuple[int, int], image_size: tuple[int, int]) -> Tensor:
    """The spatial positions of a map whose center lies in the box.

    Args:
        boxes: ``(B, 4)``, x1 y1 x2 y2 in input pixels; a NaN row holds none.
        map_size: (h, w).
        image_size: (H, W) in pixels.

    Returns:
        bool ``(B, h, w)``.
    """
    (h, w), (height, width) = map_size, image_size
    x = (torch.arange(w, device=boxes.device) + 0.5) * width / w  # (w,)
    y = (torch.arange(h, device=boxes.device) + 0.5) * height / h  # (h,)
    x1, y1, x2, y2 = boxes[:, :, None].unbind(1)  # each (B, 1)
    columns = (x >= x1) & (x < x2)  # (B, w)
    rows = (y >= y1) & (y < y2)  # (B, h)
    return rows[:, :, None] & columns[:, None, :]


def draw_boxes(boxes: Sequence[Tensor], *, rates: Sequence[float], generator: torch.Generator) -> Tensor:
    """Draw one box per image, or none: first a level by its rate, then one of the level's boxes, evenly.

    Args:
        boxes: per level ``(B, K_k, 4)``, present boxes before the absent NaN rows.
        rates: probability of each level; what is missing to one is the probability of no box.
        generator: on the CPU; two uniform numbers per image are drawn, whatever comes of them.

    Returns:
        ``(B, 4)``, NaN where nothing is to be dropped: no level was drawn, or the level has no box.

    Raises:
        ValueError: one rate per level is not given, a rate is negative, or they sum to more than one.
    """
    if len(rates) != len(boxes):
        raise ValueError(f"one drop rate per level is needed, got {len(rates)} for {len(boxes)} levels")
    if min(rates) < 0 or sum(rates) > 1 + 1e-6:
        raise ValueError(f"drop rates must be at least 0 and sum to at most 1, got {tuple(rates)}")
    batch, device = boxes[0].shape[0], boxes[0].device
    level_draw, box_draw = torch.rand(2, batch, generator=generator).to(device)  # (B,) each
    drawn = boxes[0].new_full((batch, 4), torch.nan)
    low = 0.0
    for rois, rate in zip(boxes, rates, strict=True):
        present = (~rois[:, :, 0].isnan()).sum(1)  # (B,)
        index = (box_draw * present).long().clamp(max=rois.shape[1] - 1)  # (B,)
        box = rois.gather(1, index[:, None, None].expand(-1, 1, 4))[:, 0]  # (B, 4), NaN when none is present
        here = (level_draw >= low) & (level_draw < low + rate)  # (B,)
        drawn = torch.where(here[:, None], box, drawn)
        low += rate
    return drawn


def roi_drop(
    features: Tensor, dropped: Tensor, within: Tensor | None, image_size: tuple[int, int], *, min_kept: float = 0.1
) -> Tensor:
    r"""Set a box of the map to zero and scale up the rest.

    .. math:: F' = \frac{|U|}{|U \setminus D|}\; F \odot (1 - D)

    with D the positions of the dropped box, and U those of the box that will be zoomed into, the union of all boxes:
    what is seen of the map afterwards keeps its expected sum.

    Args:
        features: ``(B, C, h, w)``.
        dropped: ``(B, 4)``, D in input pixels; a NaN row leaves its image as it is.
        within: ``(B, 4)``, U in input pixels; None for the whole map.
        image_size: (H, W) of the input.
        min_kept: an image of whose U less than this fraction would stay is left as it is, so the scale is at most
            its inverse. The official implementation has no such guard: with a single box it divides by zero.

    Returns:
        ``(B, C, h, w)``, finite wherever ``features`` is.

    Raises:
        ValueError: ``min_kept`` outside (0, 1].
    """
    if not 0 < min_kept <= 1:
        raise ValueError(f"min_kept must be a fraction in (0, 1], got {min_kept}")
    map_size = (features.shape[2], features.shape[3])
    drop = cells_inside(dropped, map_size, image_size)  # (B, h, w)
    seen = torch.ones_like(drop) if within is None else cells_inside(within, map_size, image_size)  # (B, h, w)
    total = seen.sum((1, 2))  # (B,)
    kept = (seen & ~drop).sum((1, 2))  # (B,)
    safe = (kept >= min_kept * total) & (kept > 0)  # (B,)
    dtype = torch.promote_types(features.dtype, torch.float32)
    scale = torch.where(safe, total.to(dtype) / kept.clamp(min=1), 1.0)  # (B,)
    mask = torch.where(safe[:, None, None], scale[:, None, None] * ~drop, 1.0)  # (B, h, w)
    return features * mask[:, None].to(features.dtype)
