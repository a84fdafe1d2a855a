"""Where TASN's attention points and what its sampling magnifies, against the ground truth of parts."""

from __future__ import annotations

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.loader import Loader
from fgvc_lib.layers.attention_sampler import axis_magnification
from fgvc_lib.methods.base import Method
from fgvc_lib.methods.tasn import TASN
from fgvc_study.metrics.known_parts import batches_with_parts, need_parts
from fgvc_study.metrics.parts import NotApplicable, peak_parts, peaks

REACH = 0.1  # of the image's side: how near to a part's point a peak has to be


@torch.no_grad()
def magnification(method: Method, data: ImageData, device: str, *, limit: int = 600) -> dict[str, float | np.ndarray]:
    """By how much the sampled images enlarge the discriminative part, in area, beside plain resizing.

    On at most ``limit`` test images, each seen as in evaluation. A part's magnification is the mean over
    its pixels of :func:`area_magnification`: 1 is plain resizing, 4 twice as wide and twice as high.

    ``structure``: of the structure-preserved image, mean over images. ``detail``: of a detail-preserved image by a
    random channel, its expectation over channels. ``detail_best``: by the best channel of each image. All 1 where
    nothing is sampled by attention. Array ``by_part``, ``(2, P)``: structure and detail, mean over images whose
    discriminative part it is, NaN where there is none.

    Raises:
        ValueError: another method than TASN, or data without ``masks`` and ``discriminative`` parts.
    """
    method = tasn_of(method)
    need_parts(data, "masks", "discriminative")
    found: list[Tensor] = []  # (B, 3) each: structure, detail, best detail
    deciding: list[Tensor] = []
    for images, _, parts in batches_with_parts(data, limit, device):
        rows = torch.arange(len(images), device=images.device)
        masks = parts["masks"][rows, parts["discriminative"]]  # (B, H, W)
        deciding.append(parts["discriminative"].cpu())
        one = images.new_ones(len(images))
        structure = detail = best = one
        maps = sampling_maps(method, images)
        if "structure" in maps:
            structure = _part_mean(method, maps["structure"], masks)[:, 0]
        if "detail" in maps:
            each = _part_mean(method, maps["detail"], masks)  # (B, C)
            detail, best = each.mean(1), each.amax(1)
        found.append(torch.stack([structure, detail, best], 1).cpu())
    values, part = torch.cat(found), torch.cat(deciding)
    means = values.nanmean(0)
    by_part = torch.stack([values[part == p, :2].nanmean(0) for p in range(len(data.part_names))], 1)  # (2, P)
    return {
        "structure": float(means[0]),
        "detail": float(means[1]),
        "detail_best": float(means[2]),
        "by_part": by_part.numpy().astype(np.float32),
    }


def area_magnification(
    maps: Tensor, size: tuple[int, int], *, limit: float | None = None, equal_zoom: bool = False
) -> tuple[Tensor, Tensor]:
    """The sampler's magnification at the pixels of an image, along y and along x; their product is that in area.

    Args:
        maps: ``(B, h, w)``.
        size: height and width of the image, at least 2 each. The map's cells lie between the centers of the first
            and last pixel.
        limit, equal_zoom: of :func:`~fgvc_lib.layers.attention_sampler.axis_magnification`.

    Returns:
        ``(B, H)`` and ``(B, W)``.
    """
    rows, columns = axis_magnification(maps, limit=limit, equal_zoom=equal_zoom)  # (B, h), (B, w)
    pixels = []
    for cells, side in ((rows, size[0]), (columns, size[1])):
        position = torch.arange(side, device=maps.device) / (side - 1)  # in [0, 1]
        pixels.append(cells[:, (position * cells.shape[1]).long().clamp(max=cells.shape[1] - 1)])
    return pixels[0], pixels[1]


def sampling_maps(method: TASN, images: Tensor) -> dict[str, Tensor]:
    """The maps that attention samples by: ``structure`` ``(B, 1, h, w)``, ``detail`` ``(B, C, h, w)``, if any."""
    if method.attention_net is None:
        return {}
    maps = method(images).maps
    found = {"structure": maps["structure_map"]} if "structure_map" in maps else {}
    return found | ({"detail": maps["attention"]} if method.detail == "attention" else {})


def magnified(method: TASN, maps: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """:func:`area_magnification` as a method samples, ``(B, K, h, w)`` → ``(B, K, H)`` and ``(B, K, W)``."""
    sampling = method.sampling
    y, x = area_magnification(maps.flatten(0, 1), size, limit=sampling.limit, equal_zoom=sampling.equal_zoom)
    return y.view(*maps.shape[:2], -1), x.view(*maps.shape[:2], -1)


def _part_mean(method: TASN, maps: Tensor, masks: Tensor) -> Tensor:
    """Mean magnification over the pixels of each image's part: ``(B, K, h, w)``, ``(B, H, W)`` → ``(B, K)``."""
    y, x = magnified(method, maps, (masks.shape[1], masks.shape[2]))  # (B, K, H), (B, K, W)
    inside = masks.to(y)
    return ((y @ inside) * x).sum(2) / inside.sum((1, 2))[:, None]  # 0 / 0 is NaN


@torch.no_grad()
def channel_parts(method: Method, data: ImageData, device: str, *, limit: int = 240) -> dict[str, float | np.ndarray]:
    """Whether a channel points at the same part in all images of a class: raw features beside trilinear maps.

    On at most ``limit`` test images. A channel points at the part its map peaks on (or within half a
    stride of); where the set knows points only, at the nearest visible one within a tenth of the image's side. For
    ``raw``, the attention net's features, and ``trilinear``, its attention, the keys ``raw/…`` and ``trilinear/…``:

    ``agreement``: share of a class's images in which a channel points at its most frequent part, mean over channels
    and classes. ``entropy``: of the channel's part or none, in bits. ``on_part``: share of peaks on any part.
    ``discriminative``: on the discriminative part, where it is known. ``parts``: different parts that an image's
    channels point at.
    Arrays ``raw/coverage`` and ``trilinear/coverage`` ``(64,)``: the expected number of different parts after 1 … 64
    random channels, see :func:`expected_parts`.

    Agreement alone proves little: if all channels point at one part they agree. Show ``parts`` beside it.

    Raises:
        ValueError: another method than TASN, one without attention, or data without ``masks`` or ``points``.
    """
    method = tasn_of(method)
    if method.attention_net is None:
        raise ValueError("channel_parts needs an attention net: structure or detail must be 'attention'")
    known = "masks" if "masks" in data.test.parts else "points"
    need_parts(data, known)
    net = method.attention_net.backbone
    first = net.centers[net.last]
    pointed: dict[str, list[Tensor]] = {"raw": [], "trilinear": []}
    labels, deciding = [], []
    for images, targets, parts in batches_with_parts(data, limit, device):
        labels.append(targets.cpu())
        deciding.append(parts["discriminative"].cpu() if "discriminative" in parts else torch.full((len(images),), -2))
        for name, maps in zip(("raw", "trilinear"), attention_maps(method, images), strict=True):
            size = (int(images.shape[2]), int(images.shape[3]))
            center = first * size[1] / method.attention_size[1]  # the net sees the image resized
            if known == "masks":
                half = 0.5 * size[1] / maps.shape[3]
                pointed[name].append(peak_parts(maps, parts["masks"], tolerance=half, center=center).cpu())
            else:
                where = peaks(maps, size, center=center)
                pointed[name].append(nearest_points(where, parts["points"], reach=REACH * size[1]).cpu())
    count, label, decides = len(data.part_names), torch.cat(labels), torch.cat(deciding)
    result: dict[str, float | np.ndarray] = {}
    for name, batches in pointed.items():
        part = torch.cat(batches)  # (N, C)
        agreement, entropy = consistency(part, label, count=count)
        seen = expected_parts(part, count=count, draws=64)  # (N, 64)
        result |= {
            f"{name}/agreement": agreement,
            f"{name}/entropy": entropy,
            f"{name}/on_part": float((part >= 0).float().mean()),
            f"{name}/parts": float(torch.stack([(part == p).any(1) for p in range(count)]).sum(0).float().mean()),
            f"{name}/coverage": seen.mean(0).numpy().astype(np.float32),
        }
        if (decides >= 0).all():
            result[f"{name}/discriminative"] = float((part == decides[:, None]).float().mean())
    return result


def attention_maps(method: TASN, images: Tensor) -> tuple[Tensor, Tensor]:
    """What the trilinear product takes and what it makes: raw features and attention, each ``(B, C, h, w)``."""
    taken: list[Tensor] = []
    hook = method.trilinear.register_forward_pre_hook(lambda _, features: taken.append(features[0]))
    try:
        made = method.attend(images)[0]
    finally:
        hook.remove()
    return taken[0], made


def consistency(parts: Tensor, labels: Tensor, *, count: int) -> tuple[float, float]:
    r"""Agreement and entropy of the parts that channels point at, inside classes.

    With :math:`p` the share of a class's images in which channel c points at part k (k = 0 for none), the agreement is
    :math:`\max_{k \ge 1} p_k` and the entropy :math:`-\sum_{k \ge 0} p_k \log_2 p_k`; both are averaged over channels
    and the classes that occur.

    Args:
        parts: int64 ``(N, C)``, -1 for none.
        labels: int64 ``(N,)``.
        count: number of parts.
    """
    votes = F.one_hot(parts + 1, count + 1).float()  # (N, C, 1 + P)
    shares = torch.stack([votes[labels == c].mean(0) for c in torch.unique(labels)])  # (classes, C, 1 + P)
    entropy = -(shares * shares.clamp(min=1e-12).log2()).sum(2)
    return float(shares[..., 1:].amax(2).mean()), float(entropy.mean())


def expected_parts(parts: Tensor, *, count: int, draws: int) -> Tensor:
    r"""How many different parts k random channels point at, as an expectation: :math:`\sum_p 1 - (1 - n_p / C)^k`.

    Channels are drawn with replacement, as in training, one for each visit of an image.

    Args:
        parts: int64 ``(N, C)``, -1 for none.
        count: number of parts.
        draws: the largest k.

    Returns:
        ``(N, draws)``, for k = 1 … ``draws``.
    """
    share = torch.stack([(parts == p).double().mean(1) for p in range(count)], 1)  # (N, P): n_p / C
    k = torch.arange(1, draws + 1)
    return (1 - (1 - share[:, :, None]) ** k).sum(1)


def nearest_points(where: Tensor, points: Tensor, *, reach: float) -> Tensor:
    """The visible part point nearest to each position, -1 where none is within ``reach`` pixels.

    Args:
        where: ``(B, K, 2)``, x y in pixels.
        points: ``(B, P, 2)``, NaN where not visible.
        reach: in pixels.

    Returns:
        ``(B, K)`` int64.
    """
    distance = torch.cdist(where.float(), points.float(), compute_mode="donot_use_mm_for_euclid_dist")  # (B, K, P)
    best = distance.nan_to_num(torch.inf).min(2)
    return torch.where(best.values <= reach, best.indices, -1)


@torch.no_grad()
def part_net(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Test accuracy of TASN's nets apart, from the same weights.

    ``master``: alone, as the paper tests. ``part``: alone, on the detail image of the average map, as the released
    code tests. ``both``: the average of their logits. ``attention``: the attention net's own classifier. Keys that do
    not apply are absent.

    Raises:
        ValueError: another method than TASN, or one whose prediction is ``concat``.
    """
    method = tasn_of(method)
    if method.predict == "concat":
        raise ValueError("part_net takes master and part net apart: predict='concat' has a classifier on both")
    together = copy.copy(method)  # shares the weights; its setting is its own
    together.predict = "master" if method.detail is None else "average"
    head = method.master_head if method.shared_head is None else method.shared_head
    attention: list[Tensor] = []
    hook = method.attention_net and method.attention_net.register_forward_hook(lambda *a: attention.append(a[2][1]))
    hits: dict[str, float] = {}
    try:
        for images, labels, _ in Loader(data, "test", 256, train=False, seed=0, device=device).epoch(0):
            output = together(images)
            logits = {"master": head(output.maps["features"].mean((2, 3)))}
            if method.detail is not None:
                logits |= {"both": output.logits, "part": 2 * output.logits - logits["master"]}
            if attention:
                logits["attention"] = attention.pop()
            for name, scores in logits.items():
                hits[name] = hits.get(name, 0) + int((scores.argmax(1) == labels).sum())
    finally:
        if hook:
            hook.remove()
    return {name: count / len(data.test) for name, count in hits.items()}


def tasn_of(method: Method) -> TASN:
    """The method in evaluation mode, refused where it is another one."""
    if not isinstance(method, TASN):
        raise NotApplicable(f"this metric looks at TASN's attention, got {type(method).__name__}: use method 'tasn'")
    method.eval()
    return method
