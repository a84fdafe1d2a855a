"""Channel Interaction Networks, its ablation rows, and its blocks inside any other method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, PositiveFloat
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import checked
from fgvc_lib.layers.attach import attach
from fgvc_lib.layers.channel_interaction import (
    ContrastiveChannelInteraction,
    SelfChannelInteraction,
    locations,
    locations_count,
)
from fgvc_lib.layers.non_local import NonLocalBlock
from fgvc_lib.losses.contrastive import contrastive_loss
from fgvc_lib.losses.pairs import all_triplets, disjoint_pairs
from fgvc_lib.losses.pairwise_confusion import pairwise_confusion
from fgvc_lib.methods.ap_cnn import APCNN
from fgvc_lib.methods.base import Method, Output, Phase
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.bcnn import BilinearCNN
from fgvc_lib.methods.center import Center
from fgvc_lib.methods.mutual_channel import MutualChannel
from fgvc_lib.methods.tasn import TASN

BASES: dict[str, type[Method]] = {
    "ap_cnn": APCNN,
    "baseline": Baseline,
    "bcnn": BilinearCNN,
    "center": Center,
    "mutual_channel": MutualChannel,
    "tasn": TASN,
}
"""Name of a method that CIN can be built around → class."""


class _Phi(SelfChannelInteraction):
    """SCI without its relation, W = I: the convolution alone."""

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(x, x)


class _Mean(SelfChannelInteraction):
    """SCI with a relation that prefers no channel, W = 1/c: every channel receives the mean map."""

    def forward(self, x: Tensor) -> Tensor:
        return self.combine(x, x.mean(1, keepdim=True).expand_as(x))


BLOCKS: dict[str, Callable[..., nn.Module]] = {
    "none": lambda channels: nn.Identity(),
    "phi": _Phi,
    "mean": _Mean,
    "se": lambda channels, reduction=16: SqueezeExcitation(channels, max(1, channels // reduction)),
    "non_local": NonLocalBlock,
    "pos_sci": partial(SelfChannelInteraction, positive=True),
    "sci": SelfChannelInteraction,
}
"""Name of a block → constructor, called with the stage's channels and ``block_args``."""


class CIN(Method):
    r"""Channel Interaction Networks (Gao, Han, Wang, Huang, Scott; AAAI 2020), around any method.

    .. math:: L = L_{soft}(Z) + \alpha\, L_{cont}(h(Z'_A), h(Z'_B))    \qquad \text{(Eq. 9)}

    An SCI block stands behind a stage of the backbone; the method ``base`` classifies what comes out of the
    backbone, which is L_soft. In training the images of a batch are paired, CCI compares the two of each pair, and a
    contrastive loss on the projections h pulls pairs of one class together and pushes the others apart. CCI is absent
    at inference, which is one pass of the base method.

    ======  ==============  =======  ==================================================================
    symbol  argument        default  source
    ======  ==============  =======  ==================================================================
    α       ``alpha``       2.0      a public port of CIN, which quotes the paper's equations
    β       ``margin``      0.5      same
    r       ``embedding``   512      same, output size of h
    s       ``block_args``  1/l      paper: 1; see :func:`~fgvc_lib.layers.channel_interaction.channel_relation`
    P × K   ``sampler``     4 × 5    that port
    ======  ==============  =======  ==================================================================

    The rows of the paper's ablation, and what they are compared with (all with the same batches):

    ================  =====================================================================================
    row               arguments
    ================  =====================================================================================
    baseline          ``block="none", contrast="none"``
    φ alone           ``block="phi", contrast="none"``, W = I: the convolution without channel interaction
    mean map          ``block="mean", contrast="none"``, W = 1/c: every channel receives the same
    SE                ``block="se", contrast="none"``
    non-local         ``block="non_local", contrast="none"``
    Pos-SCI           ``block="pos_sci", contrast="none"``
    SCI               ``block="sci", contrast="none"``
    SCI + Cont        ``block="sci", contrast="features"``
    SCI + CCI         the defaults
    triplet loss      ``contrast="triplet"`` (``margin=0.2``)
    pairwise conf.    ``contrast="confusion"`` (``alpha=10``)
    ================  =====================================================================================

    SCI and CCI in another method, behind any stage: ``base="bcnn", base_args={"head_fraction": 0}, stage="layer2"``.
    The weights of the base method do not depend on ``block`` and ``contrast``, so rows with one seed start from the
    same network.

    Pairs are :func:`~fgvc_lib.losses.pairs.disjoint_pairs`: B // 2 of them, half of one class and half of two where
    labels allow it, drawn anew at every step. Under DistributedDataParallel each rank pairs its own images, drawn from
    ``rank_generator``, and nothing is gathered: with batches of P × K on every rank, each finds positives, and the
    averaged gradient is that of the mean over the pairs of all ranks. A batch without pairs or without one kind
    works; its missing terms are zeros with a graph.

    Differences from the paper:
        h and ψ see maps averaged over locations (``map_size=None``). On flattened maps of 2048 × 14 × 14, h alone has
        205.5 M parameters and the input size is fixed. ``block_args={"scale": "none"}`` is the paper's unscaled
        softmax and ``{"normalize": False}`` its φ without the factor of
        :class:`~fgvc_lib.layers.channel_interaction.SelfChannelInteraction`. The paper does not say whether h is
        normalized. Here its output has length one, so that β is a distance on the unit sphere and the gradient of h
        does not grow with the features; ``normalize=False`` leaves it. The triplet loss sees the same h, its distances
        are not squared (:func:`torch.nn.functional.triplet_margin_loss`) and it takes all triplets instead of
        semi-hard ones.

    Args:
        backbone: the block is attached to it, in place.
        num_classes: number of classes.
        block: a key of :data:`BLOCKS`.
        block_args: keyword arguments of the block: ``scale`` and ``normalize`` of SCI, ``reduction`` of SE and
            non-local.
        contrast: ``"none"``; ``"features"``, the contrastive loss on the block's output; ``"cci"``, the same on Z';
            ``"triplet"`` on the block's output; ``"confusion"``, pairwise confusion of the logits.
        stage: the backbone's stage to attach to; None for the last.
        alpha: weight of the added loss.
        margin: of the contrastive or triplet loss.
        embedding: r, the width of h's output.
        normalize: scale h's output to length one.
        map_size: None, or ``(h, w)``, the size of the stage's maps, to flatten them for h and ψ.
        sampler: ``(P, K)``, or None for plain shuffling. Kept by the rows without contrast too.
        base: a key of :data:`BASES`.
        base_args: its keyword arguments.

    Output: the base method's, and ``terms`` ``contrastive``, ``triplet`` or ``confusion``; ``maps`` ``block_input`` and
    ``block_output``, X and Z, ``(B, c, h, w)``. Of a base method that runs its backbone several times, or on several
    versions of the batch one after the other (TASN), they show the first pass with all its versions, and the
    contrast compares the first version.
    """

    revision = 2

    @checked
    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        block: Literal["none", "phi", "mean", "se", "non_local", "pos_sci", "sci"] = "sci",
        block_args: Mapping[str, Any] | None = None,
        contrast: Literal["none", "features", "cci", "triplet", "confusion"] = "cci",
        stage: str | None = None,
        alpha: NonNegativeFloat = 2.0,
        margin: PositiveFloat = 0.5,
        embedding: int = 512,
        normalize: bool = True,
        map_size: tuple[int, int] | None = None,
        sampler: tuple[int, int] | None = (4, 5),
        base: Literal["ap_cnn", "baseline", "bcnn", "center", "mutual_channel", "tasn"] = "baseline",
        base_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if contrast == "cci" and block not in ("sci", "pos_sci"):
            raise ValueError(
                f"contrast='cci' compares what SCI finds, so block must be 'sci' or 'pos_sci', got {block!r}"
            )
        self.contrast = contrast
        self.alpha = alpha
        self.margin = margin
        self.normalize = normalize
        self.map_size = map_size
        self.sampler = sampler

        self.base = BASES[base](backbone, num_classes, **(base_args or {}))  # type: ignore[call-arg]
        self.base.shared_generator, self.base.rank_generator = self.shared_generator, self.rank_generator
        stage = backbone.last if stage is None else stage
        if stage not in backbone.stages:
            raise ValueError(f"stage must be one of {', '.join(backbone.stages)}, got {stage!r}")
        channels = backbone.channels[stage]
        self.attached = attach(backbone, stage, BLOCKS[block](channels, **(block_args or {})))
        self.cci = ContrastiveChannelInteraction(channels, map_size=map_size) if contrast == "cci" else None
        self.project = (
            nn.Linear(channels * locations_count(map_size), embedding)
            if contrast in ("features", "cci", "triplet")
            else None
        )

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        labels = self.check_batch(images, labels)
        self.base.label_smoothing, self.base.splits = self.label_smoothing, self.splits
        seen: list[tuple[Tensor, Tensor]] = []
        self.attached.seen = seen
        try:
            out = self.base(images, labels)
        finally:
            self.attached.seen = None
        x, z = seen[0]  # (B, c, h, w) each
        maps = {**out.maps, "block_input": x.detach(), "block_output": z.detach()}
        terms = dict(out.terms)
        if self.training and labels is not None and self.contrast != "none":
            if len(x) % len(labels):
                raise ValueError(
                    f"the block saw {len(x)} maps for {len(labels)} labels: this base method first runs its backbone "
                    "on something else than the batch; set contrast='none'"
                )
            x, z = x[: len(labels)], z[: len(labels)]
            name = "contrastive" if self.contrast in ("features", "cci") else self.contrast
            terms[name] = self.alpha * self._contrast(x, z, out.logits, labels)
        return Output(out.logits, terms, maps, out.state)

    def _contrast(self, x: Tensor, z: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        if self.contrast == "confusion":
            return pairwise_confusion(logits, labels)
        if self.contrast == "triplet":
            anchor, positive, negative = all_triplets(labels)  # (T,) each
            e = self._embed(locations(z, self.map_size).flatten(1))  # (B, r)
            losses = F.triplet_margin_loss(e[anchor], e[positive], e[negative], margin=self.margin, reduction="sum")
            return (losses + 0 * e.sum()) / max(len(anchor), 1)
        a, b = disjoint_pairs(labels, generator=self.rank_generator)  # (N,) each
        if self.cci is not None:
            sci = self.attached.block
            assert isinstance(sci, SelfChannelInteraction)
            left, right = self.cci.features(sci, x, a, b)  # (N, c) or (N, c·l) each
        else:
            left, right = (locations(z[i], self.map_size).flatten(1) for i in (a, b))
        return contrastive_loss(self._embed(left), self._embed(right), labels[a] == labels[b], margin=self.margin)

    def _embed(self, features: Tensor) -> Tensor:
        """h: ``(N, c)`` or ``(N, c·l)`` → ``(N, r)``, float32 under autocast too."""
        assert self.project is not None
        e: Tensor = self.project(features)
        e = e.to(torch.promote_types(e.dtype, torch.float32))
        return F.normalize(e, dim=1) if self.normalize else e

    def after_step(self, states: list[dict[str, Tensor]]) -> None:
        """The base method's."""
        self.base.after_step(states)

    def phases(self) -> list[Phase]:
        """The base method's; what this method adds trains in all of them."""
        added = [p for m in (self.attached, self.cci, self.project) if m is not None for p in m.parameters()]
        phases = []
        for phase in self.base.phases():
            trained = {id(p) for group in phase.groups for p in group["params"]}
            new = [p for p in added if id(p) not in trained]
            phases.append(Phase(phase.groups + [{"params": new}] * bool(new), phase.fraction, phase.name))
        return phases
