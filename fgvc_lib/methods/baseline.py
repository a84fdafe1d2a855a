"""The plain network that every method is measured against."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import checked
from fgvc_lib.layers.head import Head, make_head
from fgvc_lib.methods.base import Method, Output


class Baseline(Method):
    r"""Backbone, global pooling, head, cross-entropy.

    .. math:: L = -\frac1B \sum_i \log \mathrm{softmax}(h(\mathrm{pool}(F_i)))_{y_i}

    Args:
        backbone: its last stage is pooled.
        num_classes: number of classes.
        head: ``"linear"``, or ``"bn_elu"``, the released head of MC-Loss and AP-CNN, which a fair comparison
            with those gives to the baseline too.
        hidden: width of the ``"bn_elu"`` head.
        pool: global ``"avg"`` or ``"max"`` pooling; the released MC-Loss code uses max.

    Output: ``terms`` ``ce``; ``maps`` ``features`` ``(B, C, h, w)``, the last stage.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        head: Head = "linear",
        hidden: int = 512,
        pool: Literal["avg", "max"] = "avg",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.pool = pool
        self.head = make_head(head, backbone.out_channels, num_classes, hidden=hidden)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        features = self.backbone(images)[self.backbone.last]  # (B, C, h, w)
        pooled = features.mean((2, 3)) if self.pool == "avg" else features.amax((2, 3))  # (B, C)
        logits = self.head(pooled)  # (B, num_classes)
        terms = {"ce": self.cross_entropy(logits, labels)} if self.training and labels is not None else {}
        return Output(logits, terms, {"features": features.detach()})
