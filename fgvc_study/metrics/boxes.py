"""Do a method's boxes and masks find parts, and what does its second look add?

For methods whose maps hold ``mask_<level>`` ``(B, 1, h, w)``, ``boxes_<level>`` ``(B, K, 4)`` and ``union_box``
``(B, 1, 4)``, as AP-CNN's do. Every score of a place stands beside the same score against **the next image's** truth:
what boxes of this size reach by lying where birds tend to be.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.loader import Loader
from fgvc_lib.methods.ap_cnn import APCNN
from fgvc_lib.methods.base import Method
from fgvc_study.metrics.known_parts import need_parts
from fgvc_study.metrics.parts import NotApplicable, box_area, box_recall, mass_on_part, peaks, pointing_game

AVERAGES: tuple[Literal["logits", "probabilities"], ...] = ("logits", "probabilities")
"""The ways in which AP-CNN can average its heads and stages."""


@torch.no_grad()
def collect_maps(method: Method, data: ImageData, device: str) -> dict[str, Tensor]:
    """The masks, boxes and stage logits of all test images, on the CPU, in order."""
    method.eval()
    found: dict[str, list[Tensor]] = {}
    for images, _, _ in Loader(data, "test", 128, train=False, seed=0, device=device).epoch(0):
        for name, value in method(images).maps.items():
            if name.startswith(("mask_", "boxes_")) or name in ("union_box", "stage_logits"):
                found.setdefault(name, []).append(value.float().cpu())
    return {name: torch.cat(values) for name, values in found.items()}


def roi_parts(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Boxes and masks against the part that decides the class, over the test split.

    For each level, for ``all`` boxes together and for the ``union`` (where the method makes boxes):

    - ``recall``: share of images in which one box covers at least half of the discriminative part's box;
    - ``recall_elsewhere``: the same with the next image's part, which is of another class;
    - ``area``: mean share of the image that one box takes.

    For each level's mask:

    - ``pointing``: fraction of images whose peak lies on the discriminative part, ``pointing_elsewhere`` on the next
      image's;
    - ``pointing_any``: on some part of the bird;
    - ``mass``: mass on the discriminative part over that of an even map, 1 for no preference;
    - ``saturated``: share of the cells below 0.01 or above 0.99, which hardly learn and hardly rank.

    Raises:
        ValueError: data without ``masks``, ``boxes`` and ``discriminative`` parts, or a method without masks.
    """
    need_parts(data, "masks", "boxes", "discriminative")
    truth = data.test.parts
    rows, deciding = np.arange(len(data.test)), truth["discriminative"]
    part_boxes = torch.from_numpy(truth["boxes"][rows, deciding])  # (N, 4)
    part_masks = torch.from_numpy(truth["masks"][rows, deciding])  # (N, H, W)
    bird = torch.from_numpy(truth["masks"].any(1))  # (N, H, W)
    size = (data.image_size, data.image_size)
    maps = _with_masks(method, data, device)
    centers = _centers(method)
    found: dict[str, float | np.ndarray] = {}
    for name, boxes in _boxes(maps).items():
        found[f"{name}/recall"] = _mean(box_recall(boxes, part_boxes))
        found[f"{name}/recall_elsewhere"] = _mean(box_recall(boxes, part_boxes.roll(-1, 0)))
        found[f"{name}/area"] = _mean(box_area(boxes, size))
    for name, mask in _masks(maps).items():
        center = centers.get(name)
        share, even = mass_on_part(mask, part_masks, center=center)
        found[f"{name}/pointing"] = _mean(pointing_game(mask, part_masks, center=center))
        found[f"{name}/pointing_elsewhere"] = _mean(pointing_game(mask, part_masks.roll(-1, 0), center=center))
        found[f"{name}/pointing_any"] = _mean(pointing_game(mask, bird, center=center))
        found[f"{name}/mass"] = _mean(share) / _mean(even)
        found[f"{name}/saturated"] = _mean(((mask < 0.01) | (mask > 0.99)).float())
    return found


def roi_points(
    method: Method, data: ImageData, device: str, *, tolerance: float = 1 / 16
) -> dict[str, float | np.ndarray]:
    """Boxes and masks against part points, over the test split: for photographs, where no part is known to decide.

    For each level, ``all`` boxes together and the ``union``: ``points``, the share of an image's visible points that
    lie in some box, ``points_elsewhere`` of the next image's points, and ``area`` as in :func:`roi_parts`. For each
    level's mask: ``pointing``, the share of images whose peak is near a visible point, and ``pointing_elsewhere``.

    Args:
        method: in evaluation mode after the call.
        data: a set with part ``points``.
        device: where to compute.
        tolerance: how near, as a share of the image's side. The pointing game's 15 pixels on photographs of
            about 224 are 1/16 of the side.

    Raises:
        ValueError: data without ``points``, or a method without masks.
    """
    need_parts(data, "points")
    points = torch.from_numpy(data.test.parts["points"]).float()  # (N, P, 2)
    side = data.image_size
    maps = _with_masks(method, data, device)
    centers = _centers(method)
    found: dict[str, float | np.ndarray] = {}
    for name, boxes in _boxes(maps).items():
        found[f"{name}/points"] = _mean(points_in_boxes(boxes, points))
        found[f"{name}/points_elsewhere"] = _mean(points_in_boxes(boxes, points.roll(-1, 0)))
        found[f"{name}/area"] = _mean(box_area(boxes, (side, side)))
    for name, mask in _masks(maps).items():
        peak = peaks(mask[:, None], (side, side), center=centers.get(name))[:, 0]  # (N, 2)
        found[f"{name}/pointing"] = _mean(near_a_point(peak, points, tolerance=tolerance * side))
        found[f"{name}/pointing_elsewhere"] = _mean(near_a_point(peak, points.roll(-1, 0), tolerance=tolerance * side))
    return found


def stages(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Test accuracy of each stage alone, ``stage1`` and ``stage2``, and of their averages, from one trained AP-CNN.

    ``logits`` averages logits over all heads and stages, ``probabilities`` their softmax: the same weights, read twice.
    ``changed``: share of the test images for which the two stages disagree.

    Raises:
        ValueError: another method than AP-CNN.
    """
    if not isinstance(method, APCNN):
        raise NotApplicable(f"stages are measured of method 'ap_cnn', got {type(method).__name__}")
    labels = data.test.labels
    found: dict[str, float | np.ndarray] = {}
    configured = method.average
    for average in AVERAGES:
        method.average = average  # matters for predictions only: training sums the heads' losses
        per_stage = collect_maps(method, data, device)["stage_logits"]  # (N, S, C)
        mean = per_stage.mean(1) if average == "logits" else per_stage.softmax(-1).mean(1)  # (N, C)
        found[average] = _mean((mean.argmax(1) == labels).float())
        if average == configured:
            predicted = per_stage.argmax(-1)  # (N, S)
            for s in range(predicted.shape[1]):
                found[f"stage{s + 1}"] = _mean((predicted[:, s] == labels).float())
            found["changed"] = _mean((predicted[:, 0] != predicted[:, -1]).float())
    method.average = configured
    return found


def points_in_boxes(boxes: Tensor, points: Tensor) -> Tensor:
    """The share of each image's points that lie in some box.

    Args:
        boxes: ``(B, K, 4)`` x1 y1 x2 y2, rows of NaN for absent ones.
        points: ``(B, P, 2)`` x y, NaN where not visible.

    Returns:
        ``(B,)`` float32, NaN where no point is visible.
    """
    low, high = boxes[:, :, None, :2], boxes[:, :, None, 2:]  # (B, K, 1, 2)
    place = points[:, None]  # (B, 1, P, 2)
    inside = ((place >= low) & (place < high)).all(-1).any(1)  # (B, P); NaN compares false
    visible = ~points[..., 0].isnan()
    return inside.sum(1) / visible.sum(1)  # 0 / 0 is NaN


def near_a_point(peak: Tensor, points: Tensor, *, tolerance: float) -> Tensor:
    """Whether a peak ``(B, 2)`` is within ``tolerance`` of one of the points ``(B, P, 2)``: 1, 0, NaN without any."""
    distance = (points - peak[:, None]).norm(dim=-1).nan_to_num(torch.inf)  # (B, P)
    visible = ~points[..., 0].isnan().all(1)
    return torch.where(visible, (distance.amin(1) <= tolerance).float(), torch.nan)


def _with_masks(method: Method, data: ImageData, device: str) -> dict[str, Tensor]:
    maps = collect_maps(method, data, device)
    if not any(name.startswith("mask_") for name in maps):
        raise NotApplicable(f"masks are needed, such as method 'ap_cnn' has, got {type(method).__name__} without")
    return maps


def _boxes(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``(N, K, 4)`` by level, then of all levels and the union; empty for a method without boxes."""
    levels = {name.removeprefix("boxes_"): boxes for name, boxes in maps.items() if name.startswith("boxes_")}
    if not levels:
        return {}
    return {**levels, "all": torch.cat(list(levels.values()), 1), "union": maps["union_box"]}


def _masks(maps: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``(N, h, w)`` by level."""
    return {name.removeprefix("mask_"): mask[:, 0] for name, mask in maps.items() if name.startswith("mask_")}


def _centers(method: Method) -> dict[str, float]:
    """Where the first position of each level's mask looks, by level; empty for another method than AP-CNN."""
    if not isinstance(method, APCNN):
        return {}
    return {name: method.backbone.centers[stage] for name, stage in zip(method.level_names, method.levels, strict=True)}


def _mean(values: Tensor) -> float:
    return float(values.nanmean())
