"""What AP-CNN's second stage costs: step over baseline, the ROI stage's share, and batched against one by one.

    python benchmarks/roi_pyramid.py            # cuda if there is one: ResNet-50, 448 px, batch 16
    python benchmarks/roi_pyramid.py --device cpu        # a small ResNet at 64 px, and the published setting, batch 4

Ratios are medians over the rounds of ``timing.take_turns``; on a CPU one thread works and its processor time counts.
Writes data/benchmarks/roi_pyramid-<device>.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timing import arguments, clocked, take_turns, write
from torch import Tensor
from torchvision.ops import batched_nms, nms
from training import multiply_adds, training_step

from fgvc_lib.backbones import resnet
from fgvc_lib.layers.roi_drop import draw_boxes
from fgvc_lib.layers.roi_pyramid import anchor_boxes, suppress_border
from fgvc_lib.methods import METHODS, Method
from fgvc_lib.methods.ap_cnn import APCNN

NUM_CLASSES = 196
SUBJECTS: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline": ("baseline", {"head": "bn_elu", "hidden": 256}),
    "one stage": ("ap_cnn", {"stages": 1}),
    "two stages": ("ap_cnn", {}),
}


class Setting(NamedTuple):
    """Depth of the ResNet, side of the images, images, channels of the pyramid, rounds."""

    depth: str
    size: int
    batch: int
    channels: int
    repeats: int


SMALL = Setting("small", 64, 64, 32, 20)
PUBLISHED = Setting("50", 448, 16, 256, 20)
SETTINGS = {"cpu": (SMALL, PUBLISHED._replace(batch=4, repeats=3)), "cuda": (PUBLISHED,)}


def build(name: str, depth: str, channels: int) -> Method:
    """One of the three networks compared."""
    method, arguments = SUBJECTS[name]
    if method == "ap_cnn":
        arguments = {"pyramid": {"channels": channels, "gate_reduction": max(1, channels // 16)}, **arguments}
    build_method: Callable[..., Method] = METHODS[method]
    return build_method(resnet(depth), NUM_CLASSES, **arguments)


def over(a: list[float], b: list[float]) -> float:
    """Median of the turns' ratios."""
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


def boxes_by_loop(method: APCNN, masks: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """The boxes as one writes them down first: level by level, image by image."""
    rois = method.rois
    boxes = []
    for mask, side, k in zip(masks, rois.sizes, rois.top_k, strict=True):
        level = mask.new_full((len(mask), k, 4), torch.nan)
        anchors = anchor_boxes((mask.shape[2], mask.shape[3]), size, size=side, device=mask.device)
        for i in range(len(mask)):
            scores = suppress_border(mask[i, 0].detach()[None], border=rois.border)[0].flatten()
            candidates = torch.where(scores > scores.mean() * (1 + 1e-6))[0]
            keep = candidates[nms(anchors[candidates], scores[candidates], rois.iou)[:k]]
            level[i, : len(keep)] = anchors[keep]
        boxes.append(level)
    return boxes


def refine_by_loop(method: APCNN, features: Tensor, masks: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The whole ROI stage in that manner: boxes, then drop, crop and resize image by image."""
    boxes = boxes_by_loop(method, masks, size)
    dropped = draw_boxes(boxes, rates=method.drop_rates, generator=method.rank_generator)
    h, w = features.shape[2:]
    zoomed = []
    for i in range(len(features)):
        present = torch.cat([level[i][~level[i, :, 0].isnan()] for level in boxes])
        x1, y1, x2, y2 = 0.0, 0.0, float(size[1]), float(size[0])
        if len(present):
            x1, y1 = present[:, :2].amin(0).tolist()
            x2, y2 = present[:, 2:].amax(0).tolist()
        left, top = int(x1 * w / size[1]), int(y1 * h / size[0])
        right, bottom = max(left + 1, int(x2 * w / size[1])), max(top + 1, int(y2 * h / size[0]))
        mask = torch.ones(h, w, device=features.device)
        if not dropped[i, 0].isnan():
            a, b, c, d = dropped[i].tolist()
            mask[int(b * h / size[0]) : int(d * h / size[0]), int(a * w / size[1]) : int(c * w / size[1])] = 0
        kept = mask[top:bottom, left:right].mean()
        if kept < method.drop.min_kept:
            mask, kept = torch.ones_like(mask), torch.ones_like(kept)
        crop = (features[i] * mask / kept)[None, :, top:bottom, left:right]
        zoomed.append(F.interpolate(crop, (h, w), mode="bilinear", align_corners=False))
    return torch.cat(zoomed)


def boxes_by_batched_nms(method: APCNN, masks: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    """The boxes by one call of torchvision's suppression over all images and levels."""
    rois, group, chosen, scored = method.rois, 0, [], []
    groups = []
    for mask, side in zip(masks, rois.sizes, strict=True):
        scores = suppress_border(mask[:, 0].detach(), border=rois.border)[0].flatten(1)
        image, cell = torch.where(scores > scores.mean(1, keepdim=True) * (1 + 1e-6))
        anchors = anchor_boxes((mask.shape[2], mask.shape[3]), size, size=side, device=mask.device)
        chosen.append(anchors[cell])
        scored.append(scores[image, cell])
        groups.append(image + group)
        group += len(mask)
    boxes, scores, index = torch.cat(chosen), torch.cat(scored), torch.cat(groups)
    keep = batched_nms(boxes, scores, index, rois.iou)  # best first
    boxes, index = boxes[keep], index[keep]
    order = torch.sort(index, stable=True).indices
    boxes, index = boxes[order], index[order]
    first = torch.searchsorted(index, torch.arange(group, device=index.device))
    rank = torch.arange(len(index), device=index.device) - first[index]
    out, start = [], 0
    for mask, k in zip(masks, rois.top_k, strict=True):
        here = (index >= start) & (index < start + len(mask)) & (rank < k)
        level = boxes.new_full((len(mask), k, 4), torch.nan)
        level[index[here] - start, rank[here]] = boxes[here]
        out.append(level)
        start += len(mask)
    return out


def measure(setting: Setting, *, precision: str, device: torch.device) -> dict[str, Any]:
    """Steps, the ROI stage and its boxes at one setting."""
    depth, size, batch, channels, repeats = setting
    images = torch.randn(batch, 3, size, size, device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    methods = {name: build(name, depth, channels).to(device) for name in SUBJECTS}
    steps = {name: training_step(method, images, labels, precision) for name, method in methods.items()}
    method = methods["two stages"]
    assert isinstance(method, APCNN)
    with torch.no_grad():
        outputs = method.backbone(images)
        masks = method.stage(outputs)[0].masks
    features = outputs[method.refined_stage].requires_grad_()

    pairs = zip(method.rois(masks, (size, size)), boxes_by_loop(method, masks, (size, size)), strict=True)
    same = [torch.isclose(mine, theirs, equal_nan=True).all(2).flatten() for mine, theirs in pairs]

    def with_backward(refine: Callable[[], Tensor]) -> Callable[[], None]:
        return lambda: refine().sum().backward()  # type: ignore[no-untyped-call]

    stage = {
        "batched": with_backward(lambda: method.refine(features, masks, (size, size)).features),
        "per image": with_backward(lambda: refine_by_loop(method, features, masks, (size, size))),
    }
    boxes = {
        "top-k rounds": lambda: method.rois(masks, (size, size)),
        "batched_nms": lambda: boxes_by_batched_nms(method, masks, (size, size)),
        "per image": lambda: boxes_by_loop(method, masks, (size, size)),
    }
    groups = {"step": steps, "roi_stage": stage, "boxes": boxes}
    calls = {f"{group}: {name}": call for group, named in groups.items() for name, call in named.items()}
    candidates = {name: clocked(call, device) for name, call in calls.items()}
    found = take_turns(candidates, repeats=repeats, device=device, warmup=min(3, repeats))
    seconds = {name: row["seconds"] for name, row in found.items()}
    return {
        "backbone": f"resnet {depth}",
        "image_size": size,
        "batch": batch,
        "pyramid_channels": channels,
        "precision": precision,
        "repeats": repeats,
        "share_of_boxes_equal_to_the_loop": torch.cat(same).float().mean().item(),
        "timing": {name: {k: v for k, v in row.items() if k != "seconds"} for name, row in found.items()},
        "step_over_baseline": {name: over(seconds[f"step: {name}"], seconds["step: baseline"]) for name in SUBJECTS},
        "roi_stage_share_of_step": {
            name: over(seconds[f"roi_stage: {name}"], seconds["step: two stages"]) for name in stage
        },
    }


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(1)
    ratios = {}
    for name, (depth, size, _, channels, _) in {"small ResNet, 64 px": SMALL, "ResNet-50, 448 px": PUBLISHED}.items():
        counts = {key: multiply_adds(partial(build, key, depth, channels), size) for key in SUBJECTS}
        ratios[name] = {key: count / counts["baseline"] for key, count in counts.items()}
    settings = [measure(setting, precision=args.precision, device=device) for setting in SETTINGS[args.device]]
    write("roi_pyramid", device, {"operations_over_baseline": ratios, "settings": settings}, note=args.note)


if __name__ == "__main__":
    main()
