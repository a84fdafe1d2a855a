"""ROI-guided zoom-in (Ding et al., AP-CNN, TIP 2021): the part of a feature map that holds all boxes, enlarged."""

from __future__ import annotations

import torch
from torch import Tensor


def union_box(boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The smallest box around an image's boxes.

    Args:
        boxes: ``(B, K, 4)``, x1 y1 x2 y2 in input pixels, of all levels; NaN rows are absent.
        image_size: (H, W) in pixels; an image without any box gets the whole of it.

    Returns:
        ``(B, 4)``.
    """
    height, width = image_size
    absent = boxes.isnan()  # (B, K, 4)
    none = absent[..., 0].all(1)  # (B,)
    x1, y1 = boxes.masked_fill(absent, torch.inf)[..., :2].amin(1).unbind(1)  # each (B,)
    x2, y2 = boxes.masked_fill(absent, -torch.inf)[..., 2:].amax(1).unbind(1)
    whole = zip((x1, y1, x2, y2), (0, 0, width, height), strict=True)
    return torch.stack([edge.masked_fill(none, full) for edge, full in whole], dim=1)


def center_box(box: Tensor, image_size: tuple[int, int]) -> Tensor:
    """The box of the same size in the image's center: ``(B, 4)`` → ``(B, 4)``, the plain center crop beside it."""
    middle = box.new_tensor([image_size[1], image_size[0]]) / 2
    half = (box[:, 2:] - box[:, :2]) / 2
    return torch.cat([middle - half, middle + half], dim=1)


def roi_zoom(features: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    r"""Crop one box per image out of a feature map and resize it bilinearly to the map's own size.

    With the box as :math:`[x_1, x_2)` in positions of the map, column j of the result is the map read at
    :math:`x_1 + (j + \tfrac12)(x_2 - x_1)/w - \tfrac12`, inside the map: ``roi_align`` with ``aligned=True`` and one
    sample per bin. Rows and columns are read apart, so this is two matrix products, which every transform of
    autograd and ``torch.func`` knows, and whose gradient on CUDA is the same at every run. The box of the whole image
    gives the map back, and no box is empty: its edges are not rounded, as the official implementation's are.

    Args:
        features: ``(B, C, h, w)``.
        boxes: ``(B, 4)``, x1 y1 x2 y2 in input pixels. No gradient goes to them.
        image_size: (H, W) of the input; a position is W / w by H / h pixels, whole or not.

    Returns:
        ``(B, C, h, w)`` of ``features``' dtype.

    Raises:
        ValueError: not one box per image.

    Deviation: within half a position of the box's edges the neighbor outside the box is read, where cropping first
    and then resizing, the official order, repeats the last position inside.
    """
    if boxes.shape != (features.shape[0], 4):
        raise ValueError(
            f"roi_zoom needs one box per image, ({features.shape[0]}, 4), got boxes of shape {tuple(boxes.shape)}"
        )
    dtype = torch.promote_types(features.dtype, torch.float32)  # half precision holds no positions
    x1, y1, x2, y2 = boxes.detach().to(dtype).unbind(1)  # each (B,)
    with torch.autocast(features.device.type, enabled=False):
        columns = _reading(x1 / image_size[1], x2 / image_size[1], features.shape[3])  # (B, w, w)
        rows = _reading(y1 / image_size[0], y2 / image_size[0], features.shape[2])  # (B, h, h)
        zoomed = rows[:, None] @ features.to(dtype) @ columns[:, None].mT  # (B, C, h, w)
    return zoomed.to(features.dtype)


def _reading(low: Tensor, high: Tensor, side: int) -> Tensor:
    """Weights ``(B, side, side)`` that read ``side`` equal steps of each stretch [low, high) of an axis of length 1."""
    position = torch.arange(side, device=low.device, dtype=low.dtype)
    step = (position + 0.5) / side
    at = (low[:, None] * (1 - step) + high[:, None] * step) * side - 0.5  # (B, side)
    return (1 - (at.clamp(0, side - 1)[:, :, None] - position).abs()).clamp(min=0)
