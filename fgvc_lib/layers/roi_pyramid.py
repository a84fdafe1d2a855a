r"""ROI pyramid (Ding et al., AP-CNN, TIP 2021): a few square boxes per level, chosen by the level's spatial mask.

No loop over images: every step works on the whole batch, and the outputs have fixed shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou


def anchor_boxes(
    map_size: tuple[int, int],
    image_size: tuple[int, int],
    *,
    share: float,
    offset: float = 0.5,
    device: torch.device | None = None,
) -> Tensor:
    r"""One square box per cell, cut at the image's edges.

    Cell (i, j) has its box centred on :math:`((j + o) W / w,\ (i + o) H / h)` with side :math:`s \min(H, W)`.

    Args:
        map_size: (h, w) of the level's mask.
        image_size: (H, W) of the input in pixels.
        share: s, the side as a share of the input's shorter side.
        offset: o, the centre's place in its cell. 0.5 is the cell's centre, the input region that the cell stands
            for. The released code uses 0, the cell's top left corner, and so shifts every box by half a cell.
        device: where to.

    Returns:
        float32 ``(h * w, 4)``, x1 y1 x2 y2 in input pixels, row by row.

    Deviation: boxes are cut before they are compared. The released code clamps the chosen ones only, and only x1, y1
    from below and x2, y2 from above, which is enough because a centre lies inside the image.
    """
    (h, w), (height, width) = map_size, image_size
    half = share * min(height, width) / 2
    y = (torch.arange(h, device=device) + offset) * height / h  # (h,)
    x = (torch.arange(w, device=device) + offset) * width / w  # (w,)
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


def suppress_border(mask: Tensor, *, border: float) -> tuple[Tensor, Tensor]:
    """Zero the outer cells: there, padding rather than the image speaks.

    Args:
        mask: ``(B, h, w)``.
        border: share of the rows (columns) taken away at each end, rounded down to whole cells.

    Returns:
        The mask with zeros, and bool ``(h, w)``, true for the inner cells.

    Raises:
        ValueError: ``border`` outside [0, 0.5).
    """
    if not 0 <= border < 0.5:
        raise ValueError(f"border must be a share in [0, 0.5), got {border}")
    h, w = mask.shape[-2:]
    rows, columns = (math.floor(border * side + 1e-6) for side in (h, w))  # 1e-6: 0.29 * 100 is 28.999…
    inner = torch.zeros(h, w, dtype=torch.bool, device=mask.device)
    inner[rows : h - rows, columns : w - columns] = True
    return torch.where(inner, mask, mask.new_zeros(())), inner


def top_boxes(scores: Tensor, boxes: Tensor, *, top_k: int, iou: float) -> Tensor:
    """The first ``top_k`` boxes that greedy non-maximum suppression keeps, for a batch of score vectors at once.

    ``top_k`` rounds of: take the best box of every image, then strike out all boxes that overlap it. The result is
    that of ``torchvision.ops.nms`` on each image followed by a cut (of equal scores the first cell wins), which the
    tests check; but it costs ``top_k * N`` comparisons instead of up to ``N * N``, never waits for the device, and
    has no hidden loop: ``batched_nms`` itself runs group by group above 1,000 boxes on a CPU (25,000 on a GPU),
    fewer than one batch has, and orders equal scores as it likes.

    Args:
        scores: ``(B, N)``; -inf takes a box out.
        boxes: ``(N, 4)``, shared by the images.
        top_k: rows of the result.
        iou: boxes overlapping a better one by more than this are struck out.

    Returns:
        ``(B, top_k, 4)``, best first, NaN rows where fewer are left.
    """
    chosen = []
    for _ in range(top_k):
        best, index = scores.max(dim=1)  # (B,)
        box = boxes[index]  # (B, 4)
        chosen.append(box.masked_fill(best.isneginf()[:, None], torch.nan))
        struck = (box_iou(box, boxes) > iou).scatter(1, index[:, None], True)  # (B, N), with the box itself
        scores = scores.masked_fill(struck, -torch.inf)
    return torch.stack(chosen, dim=1)


@torch.no_grad()
def roi_boxes(
    mask: Tensor,
    image_size: tuple[int, int],
    *,
    share: float,
    top_k: int,
    border: float = 0.1,
    mean_with_border: bool = True,
    iou: float = 0.05,
    offset: float = 0.5,
) -> Tensor:
    """The boxes of one level. No gradient: the boxes' places teach the mask nothing.

    One anchor per cell, scored by the mask there; border cells score zero; scores above the image's mean stay;
    non-maximum suppression; the best ``top_k``.

    Args:
        mask: ``(B, 1, h, w)``, the level's spatial mask, non-negative.
        image_size: (H, W) of the input in pixels.
        share: side of the boxes over the input's shorter side.
        top_k: how many boxes at most.
        border: share of the map struck out at each side; the released code has 0.2 for 200 classes and 0.1 else.
        mean_with_border: the mean counts the border's zeros, as in the released code; else inner cells only.
        iou: of the suppression.
        offset: of the anchors in their cells, see :func:`anchor_boxes`.

    Returns:
        float32 ``(B, top_k, 4)``, best first, x1 y1 x2 y2 in input pixels, inside the image; NaN rows for absent
        boxes. A constant mask without a border has none at all: nothing is above its mean.

    Raises:
        ValueError: ``mask`` is not ``(B, 1, h, w)``, or ``border`` no share.
    """
    if mask.ndim != 4 or mask.shape[1] != 1:
        raise ValueError(f"mask must be (B, 1, h, w), got shape {tuple(mask.shape)}")
    zeroed, inner = suppress_border(mask[:, 0].float(), border=border)  # (B, h, w), (h, w)
    scores = zeroed.flatten(1)  # (B, N), N = h * w
    cells = scores.shape[1] if mean_with_border else inner.sum()
    mean = scores.sum(1, keepdim=True) / cells  # (B, 1)
    kept = scores > mean * (1 + 1e-6)  # (B, N); 1e-6: equal scores must not pass by the rounding of their own mean
    boxes = anchor_boxes(
        (mask.shape[2], mask.shape[3]), image_size, share=share, offset=offset, device=mask.device
    )  # (N, 4)
    return top_boxes(scores.masked_fill(~kept, -torch.inf), boxes, top_k=top_k, iou=iou)


class ROIPyramid(nn.Module):
    """:func:`roi_boxes` on every level.

    Args:
        shares: s_k, finest level first; the released 64, 128 and 256 of 448 pixels.
        top_k: boxes per level; 5, 3 and 1 in the released code.
        border, mean_with_border, iou, offset: see :func:`roi_boxes`.

    Raises:
        ValueError: ``shares`` and ``top_k`` of different lengths, or a number out of its range.
    """

    def __init__(
        self,
        *,
        shares: Sequence[float] = (1 / 7, 2 / 7, 4 / 7),
        top_k: Sequence[int] = (5, 3, 1),
        border: float = 0.1,
        mean_with_border: bool = True,
        iou: float = 0.05,
        offset: float = 0.5,
    ) -> None:
        super().__init__()
        if len(shares) != len(top_k):
            raise ValueError(f"shares and top_k must name the same levels, got {len(shares)} and {len(top_k)} numbers")
        if min(shares) <= 0 or min(top_k) < 1 or not 0 <= iou <= 1:
            raise ValueError(
                "shares must be above 0, top_k at least 1 and iou in [0, 1], "
                f"got shares={tuple(shares)}, top_k={tuple(top_k)}, iou={iou}"
            )
        self.shares, self.top_k = tuple(shares), tuple(top_k)
        self.border, self.mean_with_border, self.iou, self.offset = border, mean_with_border, iou, offset

    def forward(self, masks: Sequence[Tensor], image_size: tuple[int, int]) -> list[Tensor]:
        """Masks ``(B, 1, h_k, w_k)``, finest first → boxes ``(B, top_k[k], 4)`` per level."""
        return [
            roi_boxes(
                mask,
                image_size,
                share=share,
                top_k=k,
                border=self.border,
                mean_with_border=self.mean_with_border,
                iou=self.iou,
                offset=self.offset,
            )
            for mask, share, k in zip(masks, self.shares, self.top_k, strict=True)
        ]
