"""Mutual-Channel Loss as a method: a plain network whose last channels are dealt to the classes."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat
from torch import Tensor

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import checked
from fgvc_lib.layers.head import Head, make_head
from fgvc_lib.losses._mutual_channel_kernel import FastMutualChannelLoss
from fgvc_lib.losses.mutual_channel import CrossChannel, Weighting, channel_groups
from fgvc_lib.losses.pairwise_confusion import pairwise_confusion
from fgvc_lib.methods.base import Method, Output


class MutualChannel(Method):
    r"""Cross-entropy + mutual-channel loss (Chang et al., IEEE TIP 2020).

    .. math:: L = L_{CE} + \mu\, (L_{dis} - \lambda L_{div})

    From scratch the backbone ends in c · ξ channels: build it with ``last_channels`` = c · ξ and give ``xi`` to have
    that checked. A pretrained backbone keeps its channels, dealt as evenly as they can be. The loss sees the map
    before pooling, in training only; the classifier sees it unmasked. Nothing is added to the network.

    =======  =====================  =========  =======================================================================
    symbol   argument               default    source
    =======  =====================  =========  =======================================================================
    μ        ``mu``                 1.5        from scratch, paper and official; fine-tuning: 0.0005 official
    λ        ``lam``                10         as the paper is quoted; official from scratch: 4.44, see
                                               :func:`fgvc_lib.losses.mutual_channel.paper_weights`
    ξ        ``xi``                 None       3 from scratch, paper and official; None: whatever the channels give
    \        ``head``               "bn_elu"   BN, FC, BN, ELU, FC as official; "linear" to see what the head does
    \        ``pool``               "max"      the official ResNet's; "grid" its VGG's; "avg"
    =======  =====================  =========  =======================================================================

    Args:
        backbone: its last stage is F. ResNet-18 needs ``strides=(1, 2, 2, 1)`` for the official 14 × 14 map at 224 px;
            the official VGG-16 has 600 channels at conv4_3 too, not in the last convolution alone as here.
        num_classes: c, how many classes there are.
        xi: ξ, checked against the backbone.
        mu: 0 trains cross-entropy alone: the baseline with the very same head, ``"grid"`` included.
        lam: λ.
        drop, cross_channel, weighting, parts: see :class:`fgvc_lib.losses.mutual_channel.MutualChannelLoss`.
        confusion: weight of :func:`fgvc_lib.losses.pairwise_confusion.pairwise_confusion`, a relative of L_div to
            compare with; 0 is none.
        head: of the classifier.
        hidden: width of the ``"bn_elu"`` head.
        pool: global ``"max"`` or ``"avg"``, or ``"grid"``: 2 × 2 max-pooling and all that is left, flattened.
        map_size: ``(h, w)`` of F; needed for ``"grid"`` alone, whose head depends on it.

    Output: ``terms`` ``ce``; unless μ = 0 ``dis`` and ``div`` (negative: −μ λ L_div); unless its weight is 0
    ``confusion``; ``maps`` ``features`` ``(B, N, h, w)`` and, in evaluation, ``attention`` ``(B, ξ, h, w)``, the
    channels of the predicted class.
    """

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        xi: int | None = None,
        mu: float = 1.5,
        lam: float = 10.0,
        drop: float = 0.5,
        cross_channel: CrossChannel = "max",
        weighting: Weighting = "paper",
        parts: Literal["both", "dis", "div"] = "both",
        confusion: NonNegativeFloat = 0.0,
        head: Head = "bn_elu",
        hidden: int = 512,
        pool: Literal["max", "avg", "grid"] = "max",
        map_size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        channels = backbone.out_channels
        if xi is not None and channels != num_classes * xi:
            raise ValueError(
                f"{num_classes} classes of ξ = {xi} need {num_classes * xi} channels, but the backbone's last stage "
                f"has {channels}: build it with last_channels={num_classes * xi} (a quarter of that for a bottleneck "
                "ResNet), or leave xi out to deal the channels that there are"
            )
        channel_groups(channels, num_classes)
        if (pool == "grid") != (map_size is not None):
            raise ValueError(f"map_size belongs to pool='grid', got pool={pool!r} and map_size={map_size}")
        self.backbone = backbone
        self.num_classes = num_classes
        self.confusion = confusion
        self.pool = pool
        self.map_size = map_size
        self.mutual_channel = FastMutualChannelLoss(
            num_classes, mu=mu, lam=lam, drop=drop, cross_channel=cross_channel, weighting=weighting, parts=parts
        )
        features = channels if map_size is None else channels * (map_size[0] // 2) * (map_size[1] // 2)
        self.head = make_head(head, features, num_classes, hidden=hidden)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        features = self.backbone(images)[self.backbone.last]  # (B, N, h, w)
        logits = self.head(self._pooled(features))  # (B, c)
        maps = {"features": features.detach()}
        if not self.training or labels is None:
            maps["attention"] = class_maps(features.detach(), logits.argmax(1), self.num_classes)
            return Output(logits, maps=maps)
        terms = {"ce": self.cross_entropy(logits, labels)}
        if self.mutual_channel.mu > 0:
            terms |= self.mutual_channel(features, labels, generator=self.shared_generator)
        if self.confusion > 0:
            terms["confusion"] = self.confusion * pairwise_confusion(logits, labels)
        return Output(logits, terms, maps)

    def _pooled(self, features: Tensor) -> Tensor:
        if self.pool == "avg":
            return features.mean((2, 3))  # (B, N)
        if self.pool == "max":
            return features.amax((2, 3))  # (B, N)
        if features.shape[2:] != self.map_size:
            raise ValueError(
                f"map_size={self.map_size} was given for pool='grid', but these images give a map of "
                f"{tuple(features.shape[2:])}: build the method with that map_size"
            )
        return F.max_pool2d(features, 2).flatten(1)  # (B, N ⌊h/2⌋ ⌊w/2⌋)


def class_maps(features: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """The channels that belong to one class of each image.

    Args:
        features: ``(B, N, h, w)``.
        classes: ``(B,)`` integers, such as predictions or labels.
        num_classes: c, how many classes there are.

    Returns:
        ``(B, ξ, h, w)`` with the larger ξ of uneven groups; an image of a smaller group ends in a channel of zeros.
    """
    runs = channel_groups(features.shape[1], num_classes)
    (smaller, xi), largest = runs[0], runs[-1][1]
    start = classes * xi + (classes - smaller).clamp(min=0)  # (B,) the classes from `smaller` on have ξ + 1
    offset = torch.arange(largest, device=features.device)  # (ξ,)
    channel = (start[:, None] + offset).clamp(max=features.shape[1] - 1)  # (B, ξ)
    picked = features[torch.arange(features.shape[0], device=features.device)[:, None], channel]  # (B, ξ, h, w)
    present = offset < xi + (classes >= smaller).long()[:, None]  # (B, ξ)
    return picked * present[:, :, None, None]
