"""AP-CNN: Weakly Supervised Attention Pyramid Convolutional Neural Network (Ding et al., IEEE TIP 30, 2021)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone
from fgvc_lib.layers.attention_pyramid import Attended, AttentionPyramid, feature_pyramid
from fgvc_lib.layers.head import bn_elu_head
from fgvc_lib.layers.roi_drop import draw_boxes, roi_drop
from fgvc_lib.layers.roi_pyramid import ROIPyramid
from fgvc_lib.layers.roi_zoom import roi_zoom, union_box
from fgvc_lib.methods.base import Method, Output, Phase


class StageTwoInput(NamedTuple):
    """The refined feature and how it came about."""

    features: Tensor  # (B, C, h, w), like the stage it refines
    boxes: list[Tensor]  # per level (B, top_k, 4)
    union: Tensor  # (B, 4)
    dropped: Tensor  # (B, 4), NaN where nothing was dropped


class APCNN(Method):
    r"""Attention pyramid, ROI pyramid, and a second pass over the refined low-level feature.

    .. math:: L = \sum_{s=1}^{2} \Big( L^s_{concat} + \sum_k L^s_k \Big)

    Stage one runs the backbone, a feature pyramid over its last ``levels`` stages and the gates, and classifies every
    attended level F'_k and the concatenation of the unattended, pooled F_k. Boxes from the spatial masks then
    give the second input: ``refined_stage``'s output, with one box dropped (training only), cropped to the union of
    all boxes and enlarged. Stage two is the same modules, with the same weights, from there on.

    Levels carry the paper's numbers whatever the backbone: 5 is its last stage, 4 the one below, 3 the next.
    Per-level arguments name the finest level first; with fewer levels their last numbers count.

    Args:
        backbone: at least ``levels`` stages; 448 px through ResNet-50 gives maps of 56², 28² and 14² for three.
        num_classes: number of classes.
        levels: stages of the pyramid; 3 in the paper.
        channels: of the pyramid; 256.
        momentum: of the BatchNorms in the pyramid's top lateral; raise it to 0.1 for runs under 500 steps.
        reduction: of the channel gates; 16.
        hidden: width of the heads; released: 512 for 200 classes, 256 for any other number.
        spatial_gate, channel_gate, pathway: see :class:`~fgvc_lib.layers.attention_pyramid.AttentionPyramid`.
        stages: 2, or 1 for the attention pyramid alone.
        roi_zoom: stage two sees the union of the boxes, enlarged.
        roi_drop: stage two misses one box in training.
        inference_stages: stages run in evaluation, 1 for half the cost; None for as many as ``stages``.
        average: of ``"logits"`` (released for ResNet-50) or ``"probabilities"`` (released for VGG-19) over the heads
            and stages. The returned logits are then the logarithm of the mean probability.
        refined_stage: whose output is dropped from and zoomed into, at or below the finest level; None for the
            paper's: the third from last (the first, if there are fewer), also with fewer levels than three.
        anchor_shares: s_k, side of the boxes over the input's shorter side.
        top_k: boxes per level.
        border: share of the mask struck out at each side; released: 0.2 for 200 classes, 0.1 for any other number.
        mean_with_border: the score threshold, the mask's mean, counts the zeros of the border.
        iou: of non-maximum suppression.
        anchor_offset: centre of an anchor in its cell; 0 for the released code's top left corner.
        drop_rates: probability, per level, that the dropped box is one of its; released: 0.3, 0.3, 0 with
            ResNet-50 and 0.3, 0.4, 0 with VGG-19.
        min_kept: an image whose union would keep less than this share keeps its box.
        lower_lr_scale: on the learning rate of the backbone below its last stage; 0.1 is the released value for birds.

    Output:
        ``terms`` ``ce_stage{s}_level{k}`` and ``ce_stage{s}_concat``, eight for three levels and two stages, weight 1.
        ``maps``: ``mask_level{k}`` ``(B, 1, h, w)``, the spatial mask (of the features without a spatial gate);
        ``stage_logits`` ``(B, S, C)``, the average of each stage run; ``features`` ``(B, C, h, w)``, the last stage.
        With two stages also ``boxes_level{k}`` ``(B, top_k, 4)``, ``union_box`` ``(B, 1, 4)``, ``refined``
        ``(B, C, h, w)``, stage two's input, and in training ``dropped_box`` ``(B, 1, 4)``, the box drawn; NaN rows
        are absent boxes.
        An image without a box (a constant mask) is seen whole by stage two.

    Notes:
        Shared layers run twice per training step, so BatchNorm there moves its running statistics twice, towards a
        mixture of whole and cropped maps, while each pass is normalised by its own batch; evaluation normalises both
        with that mixture, as in the released code.

        The loss sums eight cross-entropies: beside a baseline with one, the same learning rate is a larger step.

        The box places get no gradient. The masks learn through F' in both stages; the layers below
        ``refined_stage`` through both passes.

    Deviations from the released code: anchors sit on cell centres; boxes are cut at the image before suppression; the
    zoom does not round to cells; dropping is guarded; one form of the fourth head for every backbone (released
    for VGG-19: on the last convolution instead of the concatenation); nothing depends on the class count, and
    labels are not needed for prediction.

    Raises:
        ValueError: a switch or per-level argument that does not fit, with what was expected and given.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        levels: int = 3,
        channels: int = 256,
        momentum: float = 0.01,
        reduction: int = 16,
        hidden: int = 256,
        spatial_gate: bool = True,
        channel_gate: bool = True,
        pathway: bool = True,
        stages: Literal[1, 2] = 2,
        roi_zoom: bool = True,
        roi_drop: bool = True,
        inference_stages: Literal[1, 2] | None = None,
        average: Literal["logits", "probabilities"] = "logits",
        refined_stage: str | None = None,
        anchor_shares: Sequence[float] = (1 / 7, 2 / 7, 4 / 7),
        top_k: Sequence[int] = (5, 3, 1),
        border: float = 0.1,
        mean_with_border: bool = True,
        iou: float = 0.05,
        anchor_offset: float = 0.5,
        drop_rates: Sequence[float] = (0.3, 0.3, 0.0),
        min_kept: float = 0.1,
        lower_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if not 1 <= levels <= len(backbone.stages):
            raise ValueError(f"levels must be 1 to {len(backbone.stages)}, the stages of this backbone, got {levels}")
        if stages not in (1, 2) or inference_stages not in (None, *range(1, stages + 1)):
            raise ValueError(
                "stages must be 1 or 2 and inference_stages at most that, "
                f"got stages={stages}, inference_stages={inference_stages}"
            )
        if stages == 2 and not (roi_zoom or roi_drop):
            raise ValueError("two stages need roi_zoom or roi_drop, else the second repeats the first; set stages to 1")
        if average not in ("logits", "probabilities"):
            raise ValueError(f"average must be 'logits' or 'probabilities', got {average!r}")
        self.backbone = backbone
        self.levels = backbone.stages[-levels:]
        self.level_names = [f"level{5 - i}" for i in reversed(range(levels))]
        third = backbone.stages[-max(levels, min(3, len(backbone.stages)))]
        self.refined_stage = third if refined_stage is None else refined_stage
        below = backbone.stages[: backbone.stages.index(self.levels[0]) + 1]
        if self.refined_stage not in below:
            raise ValueError(
                f"refined_stage must be at or below the finest level, one of {', '.join(below)}, "
                f"got {self.refined_stage!r}"
            )
        self.stages, self.inference_stages = stages, inference_stages or stages
        self.roi_zoom, self.roi_drop, self.min_kept = roi_zoom, roi_drop, min_kept
        self.average = average
        self.lower_lr_scale = lower_lr_scale
        self.drop_rates = _last(levels, drop_rates=drop_rates)

        self.pyramid = feature_pyramid([backbone.channels[name] for name in self.levels], channels, momentum=momentum)
        self.attention = AttentionPyramid(
            channels, levels, spatial=spatial_gate, channel=channel_gate, pathway=pathway, reduction=reduction
        )
        self.rois = ROIPyramid(
            shares=_last(levels, anchor_shares=anchor_shares),
            top_k=_last(levels, top_k=top_k),
            border=border,
            mean_with_border=mean_with_border,
            iou=iou,
            offset=anchor_offset,
        )
        heads = {name: bn_elu_head(channels, num_classes, hidden=hidden) for name in self.level_names}
        heads["concat"] = bn_elu_head(levels * channels, num_classes, hidden=hidden)
        self.heads = nn.ModuleDict(heads)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        if self.training and len(images) < 2:
            raise ValueError(
                f"AP-CNN's heads normalise over the batch, so training needs at least 2 images, got {len(images)}"
            )
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
            terms = {
                f"ce_stage{s}_{name}": self.cross_entropy(x, labels)
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
        union = union_box(torch.cat(boxes, dim=1), image_size)  # (B, 4)
        dropped = torch.full_like(union, torch.nan)
        if self.training and self.roi_drop:
            dropped = draw_boxes(boxes, rates=self.drop_rates, generator=self.rank_generator)  # (B, 4)
            within = union if self.roi_zoom else None
            features = roi_drop(features, dropped, within, image_size, min_kept=self.min_kept)
        if self.roi_zoom:
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
        """Average ``(B, C)`` tensors into float32 logits ``(B, C)``."""
        stacked = torch.stack(logits).float()  # (N, B, C)
        if self.average == "logits":
            return stacked.mean(0)
        return stacked.log_softmax(-1).logsumexp(0) - math.log(len(logits))


def _last(levels: int, **argument: Sequence[Any]) -> tuple[Any, ...]:
    """The numbers of the last ``levels`` levels."""
    ((name, values),) = argument.items()
    if len(values) < levels:
        raise ValueError(f"{name} needs a number for each of {levels} levels, got {len(values)}: {tuple(values)}")
    return tuple(values)[-levels:]
