"""Where attention goes on photographs: the samplers and channel groups against part points, beside chance.

The official CUB has a point for each visible part and no outlines, and nothing says which part decides. Chance is the
same measured against the points of the next image: birds tend to stand in the middle.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.losses.mutual_channel import group_diversity
from fgvc_lib.methods.base import Method
from fgvc_lib.methods.mutual_channel import class_maps
from fgvc_lib.methods.tasn import TASN
from fgvc_study.metrics.groups import groups_of
from fgvc_study.metrics.known_parts import batches_with_parts, need_parts
from fgvc_study.metrics.parts import distinct_parts, peaks
from fgvc_study.metrics.sampling import REACH, magnified, nearest_points, sampling_maps, tasn_of


@torch.no_grad()
def point_magnification(
    method: Method, data: ImageData, device: str, *, limit: int = 600
) -> dict[str, float | np.ndarray]:
    """By how much TASN's sampled images enlarge the surroundings of part points, in area, beside plain resizing.

    On at most ``limit`` test images, each seen as in evaluation; means over the visible points of an image, then over
    images. ``structure``: of the structure-preserved image, ``structure_elsewhere`` at the next image's points.
    ``detail``: of a detail-preserved image by a random channel, its expectation over channels. ``detail_best``: by the
    best channel for each point. All 1 where nothing is sampled by attention.

    Raises:
        ValueError: another method than TASN, or data without part ``points``.
    """
    method = tasn_of(method)
    need_parts(data, "points")
    found: list[Tensor] = []  # (B, 4) each
    for images, _, parts in batches_with_parts(data, limit, device):
        points = parts["points"].float()  # (B, P, 2)
        one = images.new_ones(len(images))
        structure = elsewhere = detail = best = one
        maps, size = sampling_maps(method, images), (int(images.shape[2]), int(images.shape[3]))
        if "structure" in maps:
            structure = _at(method, maps["structure"], points, size)[:, 0].nanmean(1)
            elsewhere = _at(method, maps["structure"], points.roll(-1, 0), size)[:, 0].nanmean(1)
        if "detail" in maps:
            each = _at(method, maps["detail"], points, size)  # (B, C, P)
            detail, best = each.mean(1).nanmean(1), each.amax(1).nanmean(1)
        found.append(torch.stack([structure, elsewhere, detail, best], 1).cpu())
    means = torch.cat(found).nanmean(0).tolist()
    return dict(zip(("structure", "structure_elsewhere", "detail", "detail_best"), means, strict=True))


def _at(method: TASN, maps: Tensor, points: Tensor, size: tuple[int, int]) -> Tensor:
    """Magnification at points: maps ``(B, K, h, w)``, points ``(B, P, 2)`` → ``(B, K, P)``, NaN where not visible."""
    y, x = magnified(method, maps, size)  # (B, K, H), (B, K, W)
    visible = ~points[..., 0].isnan()  # (B, P)
    columns, rows = points.nan_to_num(0).long().unbind(2)  # (B, P) each
    rows, columns = rows.clamp(0, size[0] - 1), columns.clamp(0, size[1] - 1)
    at_y = y.gather(2, rows[:, None].expand(-1, maps.shape[1], -1))  # (B, K, P)
    at_x = x.gather(2, columns[:, None].expand(-1, maps.shape[1], -1))
    return (at_y * at_x).where(visible[:, None], torch.nan)


@torch.no_grad()
def group_points(method: Method, data: ImageData, device: str, *, limit: int = 480) -> dict[str, float | np.ndarray]:
    """Which part points the channels of an image's true class peak at: MC-Loss's groups on photographs.

    On at most ``limit`` test images. A channel points at the nearest visible point within a tenth of the image's side
    of its peak. ``parts``: different parts among the channels of the true class, ``on_part``: the fraction of them at
    any point, ``parts_elsewhere`` and ``on_part_elsewhere`` against the next image's points; ``h``: of
    :func:`fgvc_lib.losses.mutual_channel.group_diversity`, over all classes.

    Raises:
        ValueError: another method than MC-Loss, or data without part ``points``.
    """
    method = groups_of(method)
    need_parts(data, "points")
    center = method.backbone.centers[method.backbone.last]
    found: dict[str, list[Tensor]] = {}
    for images, labels, known in batches_with_parts(data, limit, device):
        features = method(images).maps["features"].float()  # (B, N, h, w)
        mine = class_maps(features, labels, method.num_classes)  # (B, ξ, h, w)
        size = (int(images.shape[2]), int(images.shape[3]))
        where = peaks(mine, size, center=center)  # (B, ξ, 2)
        silent = mine.amax((2, 3)) <= 0  # such a channel points nowhere
        for end, points in (("", known["points"]), ("_elsewhere", known["points"].roll(-1, 0))):
            parts = nearest_points(where, points, reach=REACH * size[1]).where(~silent, -1)  # (B, ξ)
            found.setdefault(f"parts{end}", []).append(distinct_parts(parts).float())
            found.setdefault(f"on_part{end}", []).append((parts >= 0).float().mean(1))
        found.setdefault("h", []).append(group_diversity(features, method.num_classes).mean(1))
    return {name: float(torch.cat(values).nanmean()) for name, values in found.items()}
