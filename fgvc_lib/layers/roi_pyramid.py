r"""ROI pyramid (Ding et al., AP-CNN, TIP 2021): a few square boxes per level, chosen by the level's spatial mask.

No loop over images: every step works on the whole batch, and the outputs have fixed shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou


def anchor_boxes(
    map_size: tuple[int, int],
    image_size: tuple[int, int],
    *,
    size: float,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    r"""One square box per spatial position of a map, cut at the image's edges.

    Position (i, j) has its box centered on :math:`((j + \tfrac12) W / w,\ (i + \tfrac12) H / h)`, the center of the
    square that the position covers when the map is laid over the image, with side :math:`s \min(H, W)`.

    Args:
        map_size: (h, w) of the level's mask.
        image_size: (H, W) of the input in pixels.
        size: s, the side as a fraction of the input's shorter side.
        device, dtype: of the result.

    Returns:
        ``(h * w, 4)``, x1 y1 x2 y2 in input pixels, row by row.

    Deviations: the official implementation centers boxes on :math:`(j W / w,\ i H / h)`, half a stride further up and
    left. That is within half a pixel of where a position of a ResNet looks, whose padded stride-2 convolutions start
    at the first pixel; VGG, whose pools are not padded, looks at the center of the square. Boxes are cut before they
    are compared, at the image's edge. The official implementation clamps only the chosen ones, x2 and y2 at the size
    minus 1, and counts a pixel more per side in every overlap, (x2 - x1 + 1)(y2 - y1 + 1).
    """
    (h, w), (height, width) = map_size, image_size
    half = size * min(height, width) / 2
    y = (torch.arange(h, device=device, dtype=dtype) + 0.5) * height / h  # (h,)
    x = (torch.arange(w, device=device, dtype=dtype) + 0.5) * width / w  # (w,)
    cy, cx = torch.meshgrid(y, x, indexing="ij")  # (h, w)
    boxes = torch.stack(
        [
            (cx - half).clamp(min=0),
            (cy - half).clamp(min=0),
            (cx + half).clamp(max=width),
            (cy + half).clamp(max=height),
        ],
        dim=-1,
    )  # (h, w, 4)
    return boxes.flatten(0, 1)


def suppress_border(mask: Tensor, *, border: float, released: bool = False) -> tuple[Tensor, Tensor]:
    """Zero the outer rows and columns: there, padding rather than the image speaks.

    Args:
        mask: ``(B, h, w)``.
        border: b, the fraction of the rows (columns) to zero at each end, rounded down.
        released: keep the rows from ⌊b h⌋ up to ⌊(1 - b) h⌋, the official way, which zeros one row and column more at
            the bottom and right unless b h is whole: at h = 14 and b = 0.2 rows 2-10, not 2-11.

    Returns:
        The mask with zeros, and bool ``(h, w)``, true for the inner positions.

    Raises:
        ValueError: ``border`` outside [0, 0.5).
    """
    if not 0 <= border < 0.5:
        raise ValueError(f"border must be a fraction in [0, 0.5), got {border}")

    def kept(side: int) -> slice:
        first = math.floor(border * side + 1e-6)  # 1e-6: 0.29 * 100 is 28.999…
        return slice(first, math.floor((1 - border) * side + 1e-6) if released else side - first)

    inner = torch.zeros(mask.shape[-2:], dtype=torch.bool, device=mask.device)
    inner[kept(mask.shape[-2]), kept(mask.shape[-1])] = True
    return torch.where(inner, mask, mask.new_zeros(())), inner


def top_boxes(scores: Tensor, boxes: Tensor, *, top_k: int, iou: float, merge: bool = False) -> Tensor:
    """The first ``top_k`` boxes that greedy non-maximum suppression keeps, for a batch of score vectors at once.

    ``top_k`` rounds of: take the best box of every image, then strike out all boxes that overlap it. The result is
    that of ``torchvision.ops.nms`` on each image followed by a cut (of equal scores the first position wins), but it
    costs ``top_k * N`` comparisons instead of up to ``N * N`` and never waits for the device.

    Args:
        scores: ``(B, N)``; -inf takes a box out.
        boxes: ``(N, 4)``, shared by the images.
        top_k: rows of the result.
        iou: boxes overlapping a better one by more than this are struck out.
        merge: the journal paper's adaptive suppression, as far as it is known from code that the official
            implementation holds but does not call: a kept box grows to enclose the boxes that overlap it by more
            than 0.5 and score above 0.9 of its score.

    Returns:
        ``(B, top_k, 4)``, best first, NaN rows where fewer are left.
    """
    chosen = []
    for _ in range(top_k):
        best, index = scores.max(dim=1)  # (B,)
        box = boxes[index]  # (B, 4)
        overlap = box_iou(box, boxes)  # (B, N)
        if merge:
            alike = ((overlap > 0.5) & (scores > 0.9 * best[:, None])).scatter(1, index[:, None], True)[..., None]
            low = boxes[:, :2].where(alike, torch.inf).amin(1)  # (B, 2)
            box = torch.cat([low, boxes[:, 2:].where(alike, -torch.inf).amax(1)], dim=1)
        chosen.append(box.masked_fill(best.isneginf()[:, None], torch.nan))
        struck = (overlap > iou).scatter(1, index[:, None], True)  # (B, N), with the box itself
        scores = scores.masked_fill(struck, -torch.inf)
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def roi_boxes(
    mask: Tensor,
    image_size: tuple[int, int],
    *,
    size: float,
    top_k: int,
    border: float = 0.1,
    released_border: bool = False,
    mean_with_border: bool = True,
    iou: float = 0.05,
    merge: bool = False,
) -> Tensor:
    """The boxes of one level. No gradient: where the boxes lie teaches the mask nothing.

    One anchor per spatial position, scored by the mask there; the border scores zero; scores above the image's mean
    stay; non-maximum suppression; the best ``top_k``.

    Args:
        mask: ``(B, 1, h, w)``, the level's spatial mask, non-negative.
        image_size: (H, W) of the input in pixels.
        size: side of the boxes as a fraction of the input's shorter side.
        top_k: how many boxes at most.
        border, released_border: see :func:`suppress_border`; the official implementation has 0.2 for 200 classes and
            0.1 otherwise.
        mean_with_border: the mean counts the border's zeros, as in the official implementation; else inner positions
            only.
        iou, merge: of the suppression, see :func:`top_boxes`.

    Returns:
        ``(B, top_k, 4)``, float32 (float64 for a float64 mask), best first, x1 y1 x2 y2 in input pixels, inside the
        image; NaN rows for absent boxes. A constant mask without a border has none: nothing is above its mean.

    Raises:
        ValueError: ``mask`` is not ``(B, 1, h, w)``, or ``border`` is outside [0, 0.5).
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"mask must be (B, 1, h, w), got shape {tuple(mask.shape)}")
    mask = mask[:, 0].to(torch.promote_types(mask.dtype, torch.float32))
    zeroed, inner = suppress_border(mask, border=border, released=released_border)  # (B, h, w), (h, w)
    scores = zeroed.flatten(1)  # (B, N), N = h * w
    positions = scores.shape[1] if mean_with_border else inner.sum()
    mean = scores.sum(1, keepdim=True) / positions  # (B, 1)
    kept = scores > mean * (1 + 1e-6)  # (B, N); 1e-6: equal scores must not pass by the rounding of their own mean
    map_size = (mask.shape[1], mask.shape[2])
    boxes = anchor_boxes(map_size, image_size, size=size, device=mask.device, dtype=mask.dtype)  # (N, 4)
    return top_boxes(scores.masked_fill(~kept, -torch.inf), boxes, top_k=top_k, iou=iou, merge=merge)


def random_boxes(boxes: Tensor, image_size: tuple[int, int], *, generator: torch.Generator) -> Tensor:
    """As many boxes of the same sizes, each somewhere in the image: what boxes reach without attention.

    Args:
        boxes: ``(B, K, 4)``, x1 y1 x2 y2 in input pixels, inside the image; NaN rows stay.
        image_size: (H, W) of the input in pixels.
        generator: on the CPU; two uniform numbers per box.

    Returns:
        ``(B, K, 4)``, inside the image. They may overlap.
    """
    side = boxes[..., 2:] - boxes[..., :2]  # (B, K, 2)
    free = side.new_tensor([image_size[1], image_size[0]]) - side
    low = torch.rand(side.shape, generator=generator).to(side) * free
    return torch.cat([low, low + side], dim=-1)


class ROIPyramid(nn.Module):
    """:func:`roi_boxes` on every level.

    Args:
        sizes: s_k, finest level first; the official 64, 128 and 256 of 448 pixels.
        top_k: boxes per level; 5, 3 and 1 in the official implementation.
        border, released_border, mean_with_border, iou, merge: see :func:`roi_boxes`.

    Raises:
        ValueError: ``sizes`` and ``top_k`` of different lengths, or a number out of its range.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[float] = (1 / 7, 2 / 7, 4 / 7),
        top_k: Sequence[int] = (5, 3, 1),
        border: float = 0.1,
        released_border: bool = False,
        mean_with_border: bool = True,
        iou: float = 0.05,
        merge: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) != len(top_k):
            raise ValueError(f"sizes and top_k must name the same levels, got {len(sizes)} and {len(top_k)} numbers")
        if min(sizes) <= 0 or min(top_k) < 1 or not 0 <= iou <= 1:
            raise ValueError(
                "sizes must be above 0, top_k at least 1 and iou in [0, 1], "
                f"got sizes={tuple(sizes)}, top_k={tuple(top_k)}, iou={iou}"
            )
        self.sizes, self.top_k, self.border, self.iou = tuple(sizes), tuple(top_k), border, iou
        self.boxes = partial(
            roi_boxes,
            border=border,
            released_border=released_border,
            mean_with_border=mean_with_border,
            iou=iou,
            merge=merge,
        )

    def forward(self, masks: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Masks ``(B, 1, h_k, w_k)``, finest first → boxes ``(B, top_k[k], 4)`` per level."""
        levels = zip(masks, self.sizes, self.top_k, strict=True)
        return [self.boxes(mask, image_size, size=size, top_k=k) for mask, size, k in levels]
