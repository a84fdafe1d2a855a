"""AP-CNN: Weakly Supervised Attention Pyramid Convolutional Neural Network (Ding et al., IEEE TIP 30, 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import GROUP, checked
from fgvc_lib.layers.attention_pyramid import Attended, AttentionPyramid, feature_pyramid
from fgvc_lib.layers.head import bn_elu_head
from fgvc_lib.layers.roi_drop import draw_boxes, roi_drop
from fgvc_lib.layers.roi_pyramid import ROIPyramid, random_boxes
from fgvc_lib.layers.roi_zoom import center_box, roi_zoom, union_box
from fgvc_lib.methods.base import Method, Output, Phase


class StageTwoInput(NamedTuple):
    """The refined feature and how it came about."""

    features: Tensor  # (B, C, h, w), like the stage it refines
    boxes: list[Tensor]  # per level (B, top_k, 4)
    union: Tensor  # (B, 4)
    dropped: Tensor  # (B, 4), NaN where nothing was dropped


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Pyramid:
    """The feature pyramid and its gates.

    Attributes:
        levels: stages of the backbone in the pyramid; 3 in the paper.
        channels: of every level; 256 in the official implementation.
        momentum: of the BatchNorms in the top lateral; raise it to 0.1 for runs under 500 steps.
        spatial_gate, channel_gate, pathway: see :class:`~fgvc_lib.layers.attention_pyramid.AttentionPyramid`.
        gate_reduction: of the channel gates; 16 in the official implementation.
    """

    levels: int = 3
    channels: int = 256
    momentum: float = 0.01
    spatial_gate: bool = True
    channel_gate: bool = True
    pathway: bool = True
    gate_reduction: int = 16


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Boxes:
    """The boxes, per level the finest first; with fewer levels the last numbers count.

    Attributes:
        sizes, top_k, border, released_border, mean_with_border, iou, merge: of
            :class:`~fgvc_lib.layers.roi_pyramid.ROIPyramid`. The official border is 0.2 for 200 classes, 0.1 otherwise.
        random: control: boxes of the same sizes and number at random positions, in evaluation by the same draw for
            every batch.
    """

    sizes: tuple[float, ...] = (1 / 7, 2 / 7, 4 / 7)
    top_k: tuple[int, ...] = (5, 3, 1)
    border: float = 0.1
    released_border: bool = False
    mean_with_border: bool = True
    iou: float = 0.05
    merge: bool = False
    random: bool = False


@dataclass(frozen=True, kw_only=True, config=GROUP)
class Drop:
    """ROI-guided DropBlock.

    Attributes:
        rates: probability, per level, that the dropped box is one of its; officially 0.3, 0.3, 0 with ResNet-50 and
            0.3, 0.4, 0 with VGG-19.
        min_kept: an image whose union would keep less than this fraction keeps its box.
    """

    rates: tuple[float, ...] = (0.3, 0.3, 0.0)
    min_kept: float = 0.1


class APCNN(Method):
    r"""Attention pyramid, ROI pyramid, and a second pass over the refined low-level feature.

    .. math:: L = \sum_{s=1}^{2} \Big( L^s_{concat} + \sum_k L^s_k \Big)

    Stage one runs the backbone, a feature pyramid over its last stages and the gates, and classifies every attended
    level F'_k and the concatenation of the unattended, pooled F_k. Boxes from the spatial masks then give the second
    input: the output of ``refined_stage``, with one box dropped (training only), cropped to the union of all boxes and
    enlarged. That stage is the third from last (the first, if there are fewer), also with fewer levels than three.
    Stage two is the same modules, with the same weights, from there on.

    Levels carry the paper's numbers whatever the backbone: 5 is its last stage, 4 the one below, 3 the next.

    Args:
        backbone: at least ``pyramid.levels`` stages; 448 px through ResNet-50 gives maps of 56², 28² and 14² for three.
        num_classes: number of classes.
        pyramid, boxes, drop: :class:`Pyramid`, :class:`Boxes` and :class:`Drop`, or plain mappings with some of their
            fields; ``drop=None`` for no dropping.
        zoom: what stage two sees, enlarged: ``"union"`` of the boxes; ``"center"``, a control, a center crop of the
            union's size; None for the whole map.
        hidden: width of the heads. Officially 512, except 256 in the ResNet file for other than 200 classes.
        stages: 2, or 1 for the attention pyramid alone.
        inference_stages: stages run in evaluation, 1 for half the cost; None for as many as ``stages``.
        average: of ``"logits"`` (officially with ResNet-50) or ``"probabilities"`` (with VGG-19) over the heads and
            stages. The returned logits are then the logarithm of the mean probability.
        reduction: ``"sum"`` of the heads' cross-entropies, as in the paper, or their ``"mean"``.
        lower_lr_scale: on the learning rate of the backbone below its last stage; officially 0.1 for birds.

    Output:
        ``terms`` ``ce_stage{s}_level{k}`` and ``ce_stage{s}_concat``, eight for three levels and two stages.
        ``maps``: ``mask_level{k}`` ``(B, 1, h, w)``, the spatial mask (of the features without a spatial gate);
        ``stage_logits`` ``(B, S, C)``, the average of each stage run; ``features`` ``(B, C, h, w)``, the last stage.
        With two stages also ``boxes_level{k}`` ``(B, top_k, 4)``, ``union_box`` ``(B, 1, 4)``, the box that is zoomed
        into, ``refined`` ``(B, C, h, w)``, stage two's input, and in training ``dropped_box`` ``(B, 1, 4)``, the box
        drawn; NaN rows are absent boxes. An image without a box (a constant mask) is seen whole by stage two.

    Notes:
        Shared layers run twice per training step, so BatchNorm there moves its running statistics twice, towards a
        mixture of whole and cropped maps, while each pass is normalized by its own batch; evaluation normalizes both
        with that mixture, as in the official implementation.

        The loss sums eight cross-entropies: beside a baseline with one, the same learning rate is a larger step.

        The boxes' positions get no gradient. The masks learn through F' in both stages; the layers below
        ``refined_stage`` through both passes.

    Deviations from the official implementation: those of :mod:`~fgvc_lib.layers.roi_pyramid` (border, overlaps, centers
    of the boxes), of :func:`~fgvc_lib.layers.roi_zoom.roi_zoom` and of the initialization of
    :func:`~fgvc_lib.layers.attention_pyramid.feature_pyramid`; dropping is guarded; one form of the fourth head for
    every backbone (officially for VGG-19: on the last convolution instead of the concatenation); nothing depends on
    the class count, and labels are not needed for prediction. The journal paper's adaptive suppression is
    ``boxes.merge``; the official implementation no longer calls it.

    Raises:
        ValueError: a switch or per-level argument that does not fit, with what was expected and given.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pyramid: Pyramid = Pyramid(),  # noqa: B008 - frozen
        boxes: Boxes = Boxes(),  # noqa: B008 - frozen
        drop: Drop | None = Drop(),  # noqa: B008 - frozen
        zoom: Literal["union", "center"] | None = "union",
        hidden: int = 256,
        stages: Literal[1, 2] = 2,
        inference_stages: Literal[1, 2] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        reduction: Literal["sum", "mean"] = "sum",
        lower_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        levels, channels = pyramid.levels, pyramid.channels
        if not 1 <= levels <= len(backbone.stages):
            raise ValueError(f"levels must be 1 to {len(backbone.stages)}, the stages of this backbone, got {levels}")
        if (inference_stages or 1) > stages:
            raise ValueError(f"inference_stages must be at most stages, {stages}, got {inference_stages}")
        if stages == 2 and zoom is None and drop is None:
            raise ValueError("two stages need zoom or drop, else the second repeats the first; set stages to 1")
        self.backbone = backbone
        self.levels = backbone.stages[-levels:]
        self.level_names = [f"level{5 - i}" for i in reversed(range(levels))]
        self.refined_stage = backbone.stages[-max(levels, min(3, len(backbone.stages)))]
        self.stages, self.inference_stages = stages, inference_stages or stages
        self.zoom, self.average, self.reduction = zoom, average, reduction
        self.drop = drop
        self.drop_rates = () if drop is None else _last(levels, rates=drop.rates)
        self.lower_lr_scale = lower_lr_scale

        self.pyramid = feature_pyramid(
            [backbone.channels[name] for name in self.levels], channels, momentum=pyramid.momentum
        )
        self.attention = AttentionPyramid(
            channels,
            levels,
            spatial=pyramid.spatial_gate,
            channel=pyramid.channel_gate,
            pathway=pyramid.pathway,
            reduction=pyramid.gate_reduction,
        )
        settings = asdict(boxes)
        self.random_boxes = settings.pop("random")
        settings |= {"sizes": _last(levels, sizes=boxes.sizes), "top_k": _last(levels, top_k=boxes.top_k)}
        self.rois = ROIPyramid(**settings)
        heads = {name: bn_elu_head(channels, num_classes, hidden=hidden) for name in self.level_names}
        heads["concat"] = bn_elu_head(levels * channels, num_classes, hidden=hidden)
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        image_size = (images.shape[2], images.shape[3])
        outputs = self.backbone(images)
        attended, logits = self.stage(outputs)
        stage_logits = [logits]
        maps = {f"mask_{name}": mask for name, mask in zip(self.level_names, attended.masks, strict=True)}
        maps["features"] = outputs[self.backbone.last]

        if (self.stages if self.training else self.inference_stages) == 2:
            low = outputs[self.refined_stage]  # (B, C, h, w)
            refined = self.refine(low, attended.masks, image_size)
            outputs = {
                self.refined_stage: refined.features,
                **self.backbone.resume(self.refined_stage, refined.features),
            }
            stage_logits.append(self.stage(outputs)[1])
            maps |= {f"boxes_{name}": boxes for name, boxes in zip(self.level_names, refined.boxes, strict=True)}
            maps |= {"union_box": refined.union[:, None], "refined": refined.features}
            if self.training:
                maps["dropped_box"] = refined.dropped[:, None]

        per_stage = torch.stack([self._mean(list(logits.values())) for logits in stage_logits], dim=1)  # (B, S, C)
        maps["stage_logits"] = per_stage
        terms = {}
        if self.training and labels is not None:
            weight = 1 if self.reduction == "sum" else 1 / (len(stage_logits) * len(logits))
            terms = {
                f"ce_stage{s}_{name}": weight * self.cross_entropy(x, labels)
                for s, logits in enumerate(stage_logits, start=1)
                for name, x in logits.items()
            }
        return Output(self._mean(list(per_stage.unbind(1))), terms, {name: x.detach() for name, x in maps.items()})

    def stage(self, outputs: Mapping[str, Tensor]) -> tuple[Attended, dict[str, Tensor]]:
        """Pyramid, gates and heads on the backbone's stage outputs: the attended levels, and logits per head."""
        features = list(self.pyramid({name: outputs[name] for name in self.levels}).values())  # F_k, finest first
        attended: Attended = self.attention(features)
        pooled = {
            name: f.mean((2, 3)) for name, f in zip(self.level_names, attended.features, strict=True)
        }  # each (B, channels)
        pooled["concat"] = torch.cat([f.mean((2, 3)) for f in features], dim=1)  # (B, levels * channels)
        return attended, {name: self.heads[name](x) for name, x in pooled.items()}

    def refine(self, features: Tensor, masks: Sequence[Tensor], image_size: tuple[int, int]) -> StageTwoInput:
        """Drop (in training) and zoom ``refined_stage``'s output ``(B, C, h, w)`` by stage one's spatial masks."""
        boxes: list[Tensor] = self.rois(masks, image_size)  # per level (B, top_k, 4)
        if self.random_boxes:
            generator = self.rank_generator if self.training else torch.Generator().manual_seed(0)
            boxes = [random_boxes(level, image_size, generator=generator) for level in boxes]
        union = union_box(torch.cat(boxes, dim=1), image_size)  # (B, 4)
        if self.zoom == "center":
            union = center_box(union, image_size)
        dropped = torch.full_like(union, torch.nan)
        if self.training and self.drop is not None:
            dropped = draw_boxes(boxes, rates=self.drop_rates, generator=self.rank_generator)  # (B, 4)
            within = None if self.zoom is None else union
            features = roi_drop(features, dropped, within, image_size, min_kept=self.drop.min_kept)
        if self.zoom is not None:
            features = roi_zoom(features, union, image_size)
        return StageTwoInput(features, boxes, union, dropped)

    def phases(self) -> list[Phase]:
        """One phase; the backbone below its last stage at ``lower_lr_scale``."""
        if self.lower_lr_scale == 1:
            return super().phases()
        blocks = [self.backbone.blocks[name] for name in self.backbone.stages[:-1]]
        lower = [p for block in blocks for p in block.parameters()]
        slow = set(map(id, lower))
        rest = [p for p in self.parameters() if id(p) not in slow]
        return [Phase([{"params": lower, "lr_scale": self.lower_lr_scale}, {"params": rest}])]

    def _mean(self, logits: list[Tensor]) -> Tensor:
        """Average ``(B, C)`` tensors into logits ``(B, C)``, float32 at least."""
        stacked = torch.stack(logits)  # (N, B, C)
        stacked = stacked.to(torch.promote_types(stacked.dtype, torch.float32))
        if self.average == "logits":
            return stacked.mean(0)
        return stacked.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _last(levels: int, **argument: Sequence[Any]) -> tuple[Any, ...]:
    """The numbers of the last ``levels`` levels."""
    ((name, values),) = argument.items()
    if len(values) < levels:
        raise ValueError(f"{name} needs a number for each of {levels} levels, got {len(values)}: {tuple(values)}")
    return tuple(values)[-levels:]
