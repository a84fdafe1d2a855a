"""ROI-guided zoom-in (Ding et al., AP-CNN, TIP 2021): the part of a feature map that holds all boxes, enlarged."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align


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


def roi_zoom(features: Tensor, boxes: Tensor, image_size: tuple[int, int]) -> Tensor:
    r"""Crop one box per image out of a feature map and resize it bilinearly to the map's own size.

    With the box as :math:`[x_1, x_2)` in cells, column j of the result is the map read at
    :math:`x_1 + (j + \tfrac12)(x_2 - x_1)/w - \tfrac12`: ``roi_align`` with ``aligned=True`` and one sample per bin.
    The box of the whole image gives the map back exactly, and no box is empty: its edges are not rounded to cells,
    as the released code's are.

    Args:
        features: ``(B, C, h, w)``.
        boxes: ``(B, 4)``, x1 y1 x2 y2 in input pixels. No gradient goes to them.
        image_size: (H, W) of the input; cells are W / w by H / h pixels, whole or not.

    Returns:
        ``(B, C, h, w)`` of ``features``' dtype.

    Raises:
        ValueError: not one box per image.

    On CUDA the gradient of ``roi_align`` is summed in no fixed order, so two runs agree to rounding only, unless
    ``torch.use_deterministic_algorithms`` is on.

    Deviation: within half a cell of the box's edges ``roi_align`` reads the neighbour outside the box, where cropping
    first and then resizing, the released order, repeats the last cell inside.
    """
    if boxes.shape != (len(features), 4):
        raise ValueError(
            f"roi_zoom needs one box per image, ({len(features)}, 4), got boxes of shape {tuple(boxes.shape)}"
        )
    (h, w), (height, width) = features.shape[2:], image_size
    x1, y1, x2, y2 = boxes.detach().unbind(1)  # each (B,)
    image = torch.arange(len(features), device=boxes.device)
    source = features if features.dtype == torch.float64 else features.float()  # half precision holds no positions
    cells = [image, x1 * w / width, y1 * h / height, x2 * w / width, y2 * h / height]
    rois = torch.stack([column.to(source.dtype) for column in cells], dim=1)  # (B, 5)
    zoomed: Tensor = roi_align(source, rois, (h, w), spatial_scale=1.0, sampling_ratio=1, aligned=True)
    return zoomed.to(features.dtype)
