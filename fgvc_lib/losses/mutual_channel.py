r"""Mutual-channel loss (Chang et al., IEEE TIP 2020): a few channels for each class, discriminative and diverse.

This file needs torch only. In your own loop, with ``features`` the map ``(B, N, H, W)`` before its pooling::

    mutual_channel = MutualChannelLoss(num_classes, mu=1.5, lam=10.0)  # no parameters
    terms = mutual_channel(features, labels)
    loss = cross_entropy(logits, labels) + sum(terms.values())

Everything here is differentiable any number of times, and works under ``torch.compile`` (draw the mask outside) and
``torch.func``. :class:`~fgvc_lib.methods.mutual_channel.MutualChannel` trains with the same numbers from a kernel that
keeps a byte where autograd keeps maps.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CrossChannel = Literal["max", "avg"]
Weighting = Literal["paper", "share", "released"]


class MutualChannelTerms(NamedTuple):
    """The two unweighted terms, scalars: L_MC = ``dis`` − λ ``div``."""

    dis: Tensor
    div: Tensor


def channel_groups(channels: int, num_classes: int) -> list[tuple[int, int]]:
    """How N channels are dealt to c classes: runs ``(classes, ξ)``, one run, or two when c does not divide N.

    Sizes differ by at most one and the smaller groups come first, as in the paper.

    >>> channel_groups(600, 200), channel_groups(2048, 200)
    ([(200, 3)], [(152, 10), (48, 11)])

    Raises:
        ValueError: for fewer channels than classes.
    """
    if not 1 <= num_classes <= channels:
        raise ValueError(f"every class needs a channel of its own: {num_classes} classes, {channels} channels")
    xi, larger = channels // num_classes, channels % num_classes
    return [run for run in ((num_classes - larger, xi), (larger, xi + 1)) if run[0]]


def channel_mask(
    channels: int, num_classes: int, *, drop: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the channel-wise attention: which channels of each class take part in L_dis at this step.

    ⌊drop · ξ⌋ channels of every class are masked: none for ξ = 1, one of three, five of ten. One draw serves all images
    of the batch, as in the official implementation, and all ranks when they share ``generator``.

    Args:
        channels: N, of the map.
        num_classes: c, how many classes there are.
        drop: fraction in [0, 1). Default ½: the paper, and the official implementation for ξ = 3. The official
            script for a pretrained ResNet-50 masks 4 of 10 and 4 of 11, which is 0.4.
        generator: on the CPU; None for torch's global one.

    Returns:
        ``(N,)`` bool on the CPU, False where masked.
    """
    if not 0 <= drop < 1:
        raise ValueError(f"drop must lie in [0, 1), so that every class keeps a channel, got {drop}")
    keep = []
    for classes, xi in channel_groups(channels, num_classes):
        order = torch.rand(classes, xi, generator=generator).argsort(1)  # (classes, ξ) a permutation a row
        keep.append((order >= math.floor(drop * xi + 1e-9)).flatten())  # 1e-9: 0.29 · 100 is 28.999… in floats
    return torch.cat(keep)


def group_scores(
    features: Tensor, num_classes: int, *, keep: Tensor | None = None, cross_channel: CrossChannel = "max"
) -> Tensor:
    r"""One score a class from its own channels: attention mask, cross-channel pooling, global average pooling.

    .. math:: g(F_i) = \frac1{HW} \sum_{k=1}^{HW} \max_{j=1..\xi} [M_i F_i]_{j,k}

    The paper masks by zero, which removes a channel from the maximum because its maps come out of a ReLU. Here a
    masked channel is left out of the maximum: the same for maps ≥ 0, and right for signed maps too, where a zero
    would win. Where several channels share the maximum, the first of them gets the gradient, all of it.

    Args:
        features: F, ``(B, N, H, W)``.
        num_classes: c ≤ N; uneven groups as in :func:`channel_groups`.
        keep: M, ``(N,)`` bool from :func:`channel_mask`, at least one channel a class; None for no mask.
        cross_channel: ``"max"`` (CCMP), or ``"avg"``, the ablation, in which masked channels count as zeros.

    Returns:
        g, ``(B, c)``.
    """
    _check(features, num_classes, keep)
    if cross_channel not in ("max", "avg"):
        raise ValueError(f"cross_channel must be 'max' or 'avg', got {cross_channel!r}")
    maps = _wide(features.flatten(2))  # (B, N, HW)
    if keep is not None:
        maps = maps.masked_fill(~keep[:, None], -math.inf if cross_channel == "max" else 0)
    groups = _grouped(maps, num_classes)  # (B, classes, ξ, HW) each
    pooled = [x.max(2).values if cross_channel == "max" else x.mean(2) for x in groups]  # (B, classes, HW) each
    return torch.cat(pooled, 1).mean(2)


def group_diversity(features: Tensor, num_classes: int) -> Tensor:
    r"""How differently a class's channels spread over the image, in [1, min(ξ, HW)].

    .. math:: h(F_i) = \sum_{k=1}^{HW} \max_{j=1..\xi} p_{j,k} \qquad
        p_{j,k} = e^{F_{i,j,k}} \Big/ \sum_{k'=1}^{HW} e^{F_{i,j,k'}}
    .. math:: \frac{\partial h}{\partial F_{i,j,k}} =
        p_{j,k} \Big([j = j^*_k] - \sum_{k'} [j = j^*_{k'}]\, p_{j,k'}\Big)

    The softmax runs over positions, channel by channel. h = 1 when all channels have the same map, ξ when each sits on
    positions of its own; for ξ = 1 it is constant. :math:`j^*_k` is the first channel that reaches the maximum at k.
    (With the average in place of the maximum h would be 1 always, so there is no such variant.)

    Args:
        features: F, ``(B, N, H, W)``.
        num_classes: c, how many classes there are.

    Returns:
        h, ``(B, c)``.
    """
    _check(features, num_classes)
    p = _wide(features.flatten(2)).softmax(2)  # (B, N, HW)
    return torch.cat([x.max(2).values for x in _grouped(p, num_classes)], 1).sum(2)


def mutual_channel_loss(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    keep: Tensor | None = None,
    cross_channel: CrossChannel = "max",
    weighting: Weighting = "paper",
) -> MutualChannelTerms:
    r"""Discriminality and diversity of a feature map whose channels are dealt to the classes.

    .. math:: L_{MC} = L_{dis} - \lambda L_{div} \\
        L_{dis} = -\log \mathrm{softmax}([g(F_1) \dots g(F_c)])_y \qquad L_{div} = \frac1c \sum_{i=1}^c h(F_i)

    Both are means over the batch, 0 for an empty one; g is :func:`group_scores`, h :func:`group_diversity`, and
    :func:`diversity_weights` says what can stand for 1/c.

    Args:
        features: F, ``(B, N, H, W)``, before pooling.
        labels: y, ``(B,)`` integers of any type, in [0, c).
        num_classes: c, how many classes there are.
        keep: ``(N,)`` bool from :func:`channel_mask`, for L_dis alone; None for no mask.
        cross_channel: ``"max"``, or ``"avg"`` for the ablation; of L_dis.
        weighting: of the classes in L_div.

    Returns:
        Two float32 scalars (float64 for float64 maps), under autocast too.

    Raises:
        ValueError: for shapes or types that do not fit, or a mask that hides a whole class (which is seen on the CPU
            only: on an accelerator, looking would stall every step).
    """
    scores = group_scores(features, num_classes, keep=keep, cross_channel=cross_channel)  # (B, c)
    spread = group_diversity(features, num_classes)  # (B, c)
    return _terms(scores, spread, labels, diversity_weights(features.shape[1], num_classes, weighting=weighting))


def diversity_weights(channels: int, num_classes: int, *, weighting: Weighting = "paper") -> Tensor:
    r"""The weight of each class's h in L_div, ``(c,)`` float64.

    ==============  ============================  ==============================================================
    ``weighting``   weight of class i             so that
    ==============  ============================  ==============================================================
    ``"paper"``     1 / c                         L_div is the mean of h
    ``"share"``     1 / (c ξᵢ)                    L_div is the mean of h / ξ ≤ 1: groups of 10 and 11 compare
    ``"released"``  1 / (c_g ξᵢ)                  each run g of equal groups counts once, however many its classes
    ==============  ============================  ==============================================================

    ``"released"`` is what the official ResNet-50 script adds up, the mean of h / ξ over 152 classes and that over 48:
    there a class of the smaller run weighs three times as much. For even groups it is ``"share"``.
    """
    if weighting not in ("paper", "share", "released"):
        raise ValueError(f"weighting must be 'paper', 'share' or 'released', got {weighting!r}")
    weights = []
    for classes, xi in channel_groups(channels, num_classes):
        weight = {"paper": 1 / num_classes, "share": 1 / (num_classes * xi), "released": 1 / (classes * xi)}[weighting]
        weights.append(torch.full((classes,), weight, dtype=torch.float64))
    return torch.cat(weights)


def paper_weights(*, alpha: float, beta: float, xi: int) -> tuple[float, float]:
    """(μ, λ) of CE + μ (L_dis − λ L_div) with the gradient of the official CE + α L_dis + β (1 − h/ξ).

    μ = α and λ = β / (α ξ), for even groups; the losses differ by the constant β. α = 1.5, β = 20, ξ = 3 is λ = 4.44.
    (With ``weighting`` "share" or "released" L_div is already divided by ξ, and λ = β / α: ``xi=1`` here.)
    """
    if alpha <= 0 or xi < 1:
        raise ValueError(f"alpha must be positive and xi at least 1, got {alpha} and {xi}: λ = β / (α ξ)")
    return alpha, beta / (alpha * xi)


class MutualChannelLoss(nn.Module):
    r"""μ L_MC by named, weighted terms, with a fresh channel mask at every step.

    ======  =================  =======  ==============================================================================
    symbol  argument           default  source
    ======  =================  =======  ==============================================================================
    μ       ``mu``             1.5      from scratch, paper and official; fine-tuning: 0.0005 official, 0.005 as quoted
    λ       ``lam``            10       as the paper is quoted; official from scratch: 4.44, see :func:`paper_weights`
    \       ``drop``           0.5      see :func:`channel_mask`; 0 switches the mask off
    \       ``cross_channel``  "max"    the paper's; "avg" is its ablation
    \       ``weighting``      "paper"  see :func:`diversity_weights`
    \       ``parts``          "both"   the paper's; "dis" and "div" alone are its ablation
    ======  =================  =======  ==============================================================================

    Args:
        num_classes: c, how many classes there are.

    Differences from the official implementation:
        The mask comes from a seedable generator, not from Python's global one. The official 1 − h/ξ is −h here, see
        :func:`paper_weights`: the term is negative, and only its slope matters.
    """

    function = staticmethod(mutual_channel_loss)

    def __init__(
        self,
        num_classes: int,
        *,
        mu: float = 1.5,
        lam: float = 10.0,
        drop: float = 0.5,
        cross_channel: CrossChannel = "max",
        weighting: Weighting = "paper",
        parts: Literal["both", "dis", "div"] = "both",
    ) -> None:
        super().__init__()
        if mu < 0 or lam < 0:
            raise ValueError(f"mu and lam must not be negative, got {mu} and {lam}")
        if parts not in ("both", "dis", "div"):
            raise ValueError(f"parts must be 'both', 'dis' or 'div', got {parts!r}")
        self.num_classes, self.mu, self.lam, self.drop = num_classes, mu, lam, drop
        self.cross_channel, self.weighting, self.parts = cross_channel, weighting, parts

    def forward(self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``(B, N, H, W)`` features and ``(B,)`` labels → ``{"dis": μ L_dis, "div": −μ λ L_div}``.

        ``generator`` draws the mask, on the CPU: one shared by all ranks, or None for torch's global one.
        """
        _check(features, self.num_classes)
        keep = channel_mask(features.shape[1], self.num_classes, drop=self.drop, generator=generator)
        keep = keep.to(features.device, non_blocking=True)
        terms = self.function(
            features, labels, self.num_classes, keep=keep, cross_channel=self.cross_channel, weighting=self.weighting
        )
        weighted = {"dis": self.mu * terms.dis, "div": -self.mu * self.lam * terms.div}
        return weighted if self.parts == "both" else {self.parts: weighted[self.parts]}


def _terms(scores: Tensor, spread: Tensor, labels: Tensor, weights: Tensor) -> MutualChannelTerms:
    batch = scores.shape[0]
    if labels.shape != (batch,) or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers of shape ({batch},), got {labels.dtype} {tuple(labels.shape)}")
    dis = F.cross_entropy(scores, labels.long(), reduction="sum")
    weights = weights.to(spread.dtype).to(spread.device, non_blocking=True)  # (c,)
    div = (spread * weights).sum()
    return MutualChannelTerms(dis / max(batch, 1), div / max(batch, 1))


def _grouped(maps: Tensor, num_classes: int) -> list[Tensor]:
    """``(B, N, …)`` → a view ``(B, classes, ξ, …)`` for each run of equal groups."""
    runs = channel_groups(maps.shape[1], num_classes)
    parts = maps.split_with_sizes([classes * xi for classes, xi in runs], 1)
    return [torch.unflatten(part, 1, run) for part, run in zip(parts, runs, strict=True)]


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check(features: Tensor, num_classes: int, keep: Tensor | None = None) -> None:
    if features.ndim != 4 or not features.is_floating_point() or 0 in features.shape[1:]:
        raise ValueError(
            f"features must be a float map (B, N, H, W) from before pooling, got {features.dtype} of shape "
            f"{tuple(features.shape)}: give the tokens of a transformer, (B, HW, N), that shape first"
        )
    channels = features.shape[1]
    channel_groups(channels, num_classes)
    if keep is None:
        return
    if keep.shape != (channels,) or keep.dtype != torch.bool:
        raise ValueError(f"keep must be bool of shape ({channels},), got {keep.dtype} of shape {tuple(keep.shape)}")
    looked_at = keep.device.type == "cpu" and not torch.compiler.is_compiling()
    if looked_at and not all(bool(group.any(2).all()) for group in _grouped(keep[None], num_classes)):
        raise ValueError("keep hides every channel of a class: keep at least one for each, as channel_mask does")
