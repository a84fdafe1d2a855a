"""Center Loss as a method: a linear classifier whose features are pulled to class centers."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import NonNegativeFloat
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import checked
from fgvc_lib.losses.center import CenterLoss
from fgvc_lib.methods.base import Method, Output


class Center(Method):
    r"""Softmax loss + center loss (Wen et al., ECCV 2016).

    .. math:: L = L_S + \lambda L_C   \qquad \text{(Eq. 5)}

    ========  =============  =======  ======================================================
    symbol    argument       default  source
    ========  =============  =======  ======================================================
    λ         ``weight``     0.003    paper, faces; 0.01 in the authors' MNIST configuration
    α         ``alpha``      0.5      paper
    \         ``bias``       False    authors' MNIST network: without it features spread out
    \         ``reduction``  "mean"   paper: "sum", for both terms, so λ means the same
    ========  =============  =======  ======================================================

    The feature x is the globally pooled last stage; ``lenet_pp`` ends in the paper's 2-D embedding.

    Args:
        backbone: its pooled last stage is the feature.
        num_classes: n, how many classes there are.
        weight: λ ≥ 0; 0 is the softmax loss alone (the centers still follow, so that they can be looked at).
        alpha: α in [0, 1].
        bias: of the linear classifier.
        reduction: ``"mean"`` or ``"sum"`` over the whole batch of a step, for both terms.

    Output: ``terms`` ``ce`` and ``center``; ``maps`` ``embedding`` ``(B, d)``; ``state`` ``features``, ``labels``.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        weight: NonNegativeFloat = 0.003,
        alpha: float = 0.5,
        bias: bool = False,
        reduction: Literal["mean", "sum"] = "mean",
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.weight = weight
        self.classifier = nn.Linear(backbone.out_channels, num_classes, bias=bias)
        self.center_loss = CenterLoss(num_classes, backbone.out_channels, alpha=alpha, reduction=reduction)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        features = self.backbone(images)[self.backbone.last].mean((2, 3))  # (B, d)
        logits = self.classifier(features)  # (B, n)
        maps = {"embedding": features.detach()}
        if not self.training or labels is None:
            return Output(logits, maps=maps)
        ce, center = self.cross_entropy(logits, labels), self.center_loss(features, labels)
        if self.center_loss.reduction == "sum":
            ce, center = ce * len(labels) * self.splits, center * self.splits
        return Output(
            logits,
            {"ce": ce, "center": self.weight * center},
            maps,
            {"features": features.detach(), "labels": labels},
        )

    def after_step(self, states: list[dict[str, Tensor]]) -> None:
        """Move the centers by Eq. 4 with all samples of the step."""
        self.center_loss.update(
            torch.cat([state["features"] for state in states]), torch.cat([state["labels"] for state in states])
        )
