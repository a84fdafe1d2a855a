r"""Mutual-channel loss (Chang et al., IEEE TIP 2020): a few channels for each class, discriminative and diverse.

Needs torch only. In a loop of one's own, ``features`` being the map ``(B, N, H, W)`` before its pooling::

    mutual_channel = MutualChannelLoss(num_classes, mu=1.5, lam=10.0)           # no parameters, no state
    loss = cross_entropy(logits, labels) + sum(mutual_channel(features, labels).values())

Under ``torch.compile`` take :func:`mutual_channel_loss`, one graph without a break, and draw its mask outside.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

Weighting = Literal["paper", "share", "released"]


class MutualChannel(NamedTuple):
    """The two unweighted terms, float32 scalars: L_MC = ``dis`` − λ ``div``."""

    dis: Tensor
    div: Tensor


def channel_groups(channels: int, num_classes: int) -> list[tuple[int, int]]:
    """How N channels are dealt to c classes: runs ``(classes, ξ)``, one run, or two when c does not divide N.

    Sizes differ by one at most and the smaller groups come first, as in the paper.

    >>> channel_groups(600, 200), channel_groups(2048, 200)
    ([(200, 3)], [(152, 10), (48, 11)])

    Raises:
        ValueError: for fewer channels than classes.
    """
    if not 1 <= num_classes <= channels:
        raise ValueError(f"every class needs a channel of its own: {num_classes} classes, {channels} channels")
    xi, larger = divmod(channels, num_classes)
    return [run for run in ((num_classes - larger, xi), (larger, xi + 1)) if run[0]]


def channel_mask(
    channels: int, num_classes: int, *, drop: float = 0.5, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the channel-wise attention: which channels of each class take part in L_dis at this step.

    ⌊drop · ξ⌋ channels of every class are masked: none for ξ = 1, one of three, five of ten. One draw serves all images
    of the batch, as in the released code, and all ranks when ``generator`` is one that they share.

    Args:
        channels: N, of the map.
        num_classes: c, how many classes there are.
        drop: share in [0, 1). Default ½: the paper, and the released code for ξ = 3. The release for a pretrained
            ResNet-50 masks 4 of 10 and 4 of 11, which is 0.4.
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
    features: Tensor, num_classes: int, *, keep: Tensor | None = None, cross_channel: Literal["max", "avg"] = "max"
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
    return _scores_and_diversity(features, num_classes, keep, cross_channel)[0]


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
    _check(features, num_classes, None)
    return _scores_and_diversity(features, num_classes, None, "max")[1]


def mutual_channel_loss(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    keep: Tensor | None = None,
    cross_channel: Literal["max", "avg"] = "max",
    weighting: Weighting = "paper",
) -> MutualChannel:
    r"""Discriminality and diversity of a feature map whose channels are dealt to the classes.

    .. math:: L_{MC} = L_{dis} - \lambda L_{div} \\
        L_{dis} = -\log \mathrm{softmax}([g(F_1) \dots g(F_c)])_y \qquad L_{div} = \frac1c \sum_{i=1}^c h(F_i)

    Both are means over the batch; g is :func:`group_scores`, h :func:`group_diversity`, and :func:`diversity_weights`
    says what can stand for 1/c. Computed in float32 (float64 for float64 maps), under autocast too. For first
    derivatives only: a second one raises.

    Args:
        features: F, ``(B, N, H, W)``, before pooling.
        labels: y, ``(B,)`` integers in [0, c).
        num_classes: c, how many classes there are.
        keep: ``(N,)`` bool from :func:`channel_mask`, for L_dis alone; None for no mask.
        cross_channel: ``"max"``, or ``"avg"`` for the ablation; of L_dis.
        weighting: of the classes in L_div.

    Raises:
        ValueError: for shapes or types that do not fit, with what was expected and what came.
    """
    _check(features, num_classes, keep)
    if labels.shape != features.shape[:1] or labels.is_floating_point():
        raise ValueError(
            f"labels must be integers of shape ({len(features)},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    with torch.autocast(features.device.type, enabled=False):
        scores, spread = _scores_and_diversity(features, num_classes, keep, cross_channel)  # (B, c) each
        weights = diversity_weights(features.shape[1], num_classes, weighting=weighting, like=spread)  # (c,)
        return MutualChannel(F.cross_entropy(scores, labels), (spread * weights).sum(1).mean())


def diversity_weights(
    channels: int, num_classes: int, *, weighting: Weighting = "paper", like: Tensor | None = None
) -> Tensor:
    r"""The weight of each class's h in L_div.

    ==============  ============================  ==============================================================
    ``weighting``   weight of class i             so that
    ==============  ============================  ==============================================================
    ``"paper"``     1 / c                         L_div is the mean of h
    ``"share"``     1 / (c ξᵢ)                    L_div is the mean of h / ξ ≤ 1: groups of 10 and 11 compare
    ``"released"``  1 / (c_g ξᵢ)                  each run g of equal groups counts once, however many its classes
    ==============  ============================  ==============================================================

    ``"released"`` is what the released ResNet-50 script adds up, the mean of h / ξ over 152 classes and that over 48:
    there a class of the smaller run weighs three times as much. For even groups it is ``"share"``.

    Returns:
        ``(c,)``, with the device and type of ``like``.
    """
    if weighting not in ("paper", "share", "released"):
        raise ValueError(f"weighting must be 'paper', 'share' or 'released', got {weighting!r}")
    like = torch.empty(0) if like is None else like
    runs = []
    for classes, xi in channel_groups(channels, num_classes):
        weight = {"paper": 1 / num_classes, "share": 1 / (num_classes * xi), "released": 1 / (classes * xi)}[weighting]
        runs.append(like.new_full((classes,), weight))
    return torch.cat(runs)


def paper_weights(*, alpha: float, beta: float, xi: int) -> tuple[float, float]:
    """(μ, λ) of CE + μ (L_dis − λ L_div) with the gradient of the released CE + α L_dis + β (1 − h/ξ).

    μ = α and λ = β / (α ξ), for even groups; the losses differ by the constant β. α = 1.5, β = 20, ξ = 3 is λ = 4.44.
    (With ``weighting`` "share" or "released" L_div is already divided by ξ, and λ = β / α: ``xi=1`` here.)
    """
    if alpha <= 0 or xi < 1:
        raise ValueError(f"alpha must be positive and xi at least 1, got {alpha} and {xi}: λ = β / (α ξ)")
    return alpha, beta / (alpha * xi)


def released_weights(*, mu: float, lam: float, xi: int) -> tuple[float, float]:
    """(α, β) of the released form: the inverse of :func:`paper_weights`, α = μ and β = μ λ ξ."""
    return mu, mu * lam * xi


class MutualChannelLoss(nn.Module):
    r"""μ L_MC by named, weighted terms, with a fresh channel mask at every step.

    ======  =================  =======  ==============================================================================
    symbol  argument           default  source
    ======  =================  =======  ==============================================================================
    μ       ``mu``             1.5      from scratch, paper and release; fine-tuning: 0.0005 released, 0.005 as quoted
    λ       ``lam``            10       as the paper is quoted; released from scratch: 4.44, see :func:`paper_weights`
    \       ``drop``           0.5      see :func:`channel_mask`; 0 switches the mask off
    \       ``cross_channel``  "max"    the paper's; "avg" is its ablation
    \       ``weighting``      "paper"  see :func:`diversity_weights`
    \       ``parts``          "both"   the paper's; "dis" and "div" alone are its ablation
    ======  =================  =======  ==============================================================================

    Args:
        num_classes: c, how many classes there are.

    Differences from the released code:
        The mask comes from a seedable generator, not from Python's global one. The released 1 − h/ξ is −h here, see
        :func:`paper_weights`: the term is negative, and only its slope matters.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        mu: float = 1.5,
        lam: float = 10.0,
        drop: float = 0.5,
        cross_channel: Literal["max", "avg"] = "max",
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
        keep = channel_mask(features.shape[1], self.num_classes, drop=self.drop, generator=generator)
        keep = keep.to(features.device, non_blocking=True)
        terms = mutual_channel_loss(
            features, labels, self.num_classes, keep=keep, cross_channel=self.cross_channel, weighting=self.weighting
        )
        weighted = {"dis": self.mu * terms.dis, "div": -self.mu * self.lam * terms.div}
        return weighted if self.parts == "both" else {self.parts: weighted[self.parts]}


def _scores_and_diversity(
    features: Tensor, num_classes: int, keep: Tensor | None, cross_channel: str
) -> tuple[Tensor, Tensor]:
    if cross_channel not in ("max", "avg"):
        raise ValueError(f"cross_channel must be 'max' or 'avg', got {cross_channel!r}")
    runs = channel_groups(features.shape[1], num_classes)
    maps = features.flatten(2)  # (B, N, HW)
    if keep is None:
        keep = torch.ones(maps.shape[1], dtype=torch.bool, device=maps.device)
    scores, spread = _MaxOverChannels.apply(maps, keep, runs)  # (B, c) each
    if cross_channel == "avg":
        means = maps.mean(2, dtype=_wide(maps)) * keep  # (B, N)
        scores = torch.cat([mean.mean(2) for mean in _grouped(means, runs)], 1)
    return scores, spread


class _MaxOverChannels(torch.autograd.Function):
    """g and h of ``(B, N, HW)`` maps, read once forward and once backward.

    What is kept in between are the winning channels, a byte a class and position for each term, and the denominators
    of the softmax. On the CPU the batch goes through in pieces that fit the cache: no large temporary is written.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, keep: Tensor, runs: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        allowed = torch.zeros(keep.shape, dtype=_wide(maps), device=maps.device).masked_fill_(~keep, -math.inf)  # (N,)
        parts = [_forward(piece, allowed, runs) for piece in maps.split_with_sizes(_pieces(maps))]
        g, h, *kept = parts[0] if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]
        ctx.save_for_backward(maps, *kept)
        ctx.runs = runs
        return g, h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_g: Tensor, grad_h: Tensor) -> tuple[Tensor, None, None]:
        maps = ctx.saved_tensors[0]
        inputs = (*ctx.saved_tensors, grad_g, grad_h)
        sizes = _pieces(maps)
        if len(sizes) == 1:
            return _backward(ctx.runs, *inputs), None, None
        slope = torch.empty_like(maps)
        for target, *piece in zip(*(x.split_with_sizes(sizes) for x in (slope, *inputs)), strict=True):
            target.copy_(_backward(ctx.runs, *piece))
        return slope, None, None


def _forward(maps: Tensor, allowed: Tensor, runs: list[tuple[int, int]]) -> list[Tensor]:
    """g and h, ``(B, c)``; the channels that win for each, counted within their class, ``(B, c, HW)``; the logarithm of
    each map's softmax denominator, ``(B, N, 1)``.
    """
    results = []
    biases = _grouped(allowed[None, :, None], runs)
    for x, bias in zip(_grouped(maps, runs), biases, strict=True):  # (B, classes, ξ, HW), (1, classes, ξ, 1)
        top, loudest = _first_max(x + bias)  # (B, classes, HW) each
        log_sum = x.to(bias.dtype).logsumexp(3, keepdim=True)  # (B, classes, ξ, 1)
        peak, sharpest = _first_max(x - log_sum)  # of log p
        results.append([top.mean(2), peak.exp().sum(2), loudest, sharpest, log_sum.flatten(1, 2)])
    return results[0] if len(results) == 1 else [torch.cat(result, 1) for result in zip(*results, strict=True)]


def _backward(
    runs: list[tuple[int, int]],
    maps: Tensor,
    loudest: Tensor,
    sharpest: Tensor,
    log_sum: Tensor,
    grad_g: Tensor,
    grad_h: Tensor,
) -> Tensor:
    """The gradient of the maps, ``(B, N, HW)``, from what :func:`_forward` kept."""
    classes = [n for n, _ in runs]
    winners = (x.split_with_sizes(classes, 1) for x in (loudest, sharpest, grad_g / maps.shape[2], grad_h))
    slopes = []
    groups = zip(_grouped(maps, runs), _grouped(log_sum, runs), *winners, strict=True)
    for x, total, loud, sharp, per_g, per_h in groups:
        per_g, per_h = per_g[:, :, None, None], per_h[:, :, None, None]  # (B, classes, 1, 1)
        # 0 · grad keeps a compiler from computing p in the forward pass and storing it, a full map
        total = total + 0 * per_h
        slope = _one_hot(sharp, x.shape[2], per_h.dtype)  # (B, classes, ξ, HW) [j = j*]; before p: a lower memory peak
        p = (x - total).exp_()  # (B, classes, ξ, HW)
        slope.mul_(p)  # [j = j*] p
        slope.addcmul_(p, slope.sum(3, keepdim=True), value=-1)  # p ([j = j*] − Σ [j = j*] p)
        slope.mul_(per_h)
        del p
        slope.add_(_one_hot(loud, x.shape[2], per_g.dtype).mul_(per_g))
        slopes.append(slope.flatten(1, 2))
    return (slopes[0] if len(slopes) == 1 else torch.cat(slopes, 1)).to(maps.dtype)  # (B, N, HW)


def _grouped(maps: Tensor, runs: list[tuple[int, int]]) -> list[Tensor]:
    """``(B, N, …)`` → one view ``(B, classes, ξ, …)`` for each run of equal groups."""
    if len(runs) == 1:
        return [torch.unflatten(maps, 1, runs[0])]
    parts = maps.split_with_sizes([classes * xi for classes, xi in runs], 1)
    return [torch.unflatten(part, 1, run) for part, run in zip(parts, runs, strict=True)]


def _pieces(maps: Tensor) -> list[int]:
    """Images to work on at a time: half a megabyte of floats a thread on the CPU, the whole batch elsewhere."""
    batch = maps.shape[0]
    if maps.device.type != "cpu" or torch.compiler.is_compiling():
        return [batch]
    piece = max(1, 2**17 * torch.get_num_threads() // maps[0].numel())
    return [min(piece, batch - start) for start in range(0, batch, piece)]


def _first_max(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over dimension 2 and the first index that reaches it, in a byte where it fits. Overwrites ``x``."""
    xi = x.shape[2]
    small = torch.uint8 if xi <= 256 else torch.int32
    if x.device.type != "cpu" and not torch.compiler.is_compiling():
        top, winner = x.max(2)
        return top, winner.to(small)
    # an indexed maximum over an inner dimension is not vectorised on the CPU; these plain passes are, and 3× faster;
    # compiled, they become one
    top = x.amax(2)
    rank = torch.arange(xi, 0, -1, dtype=x.dtype).unsqueeze(1)  # ξ … 1, so the largest rank is the first index
    return top, (xi - x.eq_(top.unsqueeze(2)).mul_(rank).amax(2)).to(small)


def _one_hot(winner: Tensor, xi: int, dtype: torch.dtype) -> Tensor:
    """``(B, c, HW)`` → ``(B, c, ξ, HW)``, 1 where channel j is the winner."""
    channel = torch.arange(xi, dtype=dtype, device=winner.device).unsqueeze(1)
    return winner.unsqueeze(2).expand(-1, -1, xi, -1).to(dtype).sub_(channel).eq_(0)  # in place: no second full map


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _check(features: Tensor, num_classes: int, keep: Tensor | None) -> None:
    if features.ndim != 4 or not features.is_floating_point() or 0 in features.shape:
        raise ValueError(
            f"features must be a non-empty float map (B, N, H, W) from before pooling, got {features.dtype} of shape "
            f"{tuple(features.shape)}"
        )
    channels = features.shape[1]
    channel_groups(channels, num_classes)
    if keep is not None and (keep.shape != (channels,) or keep.dtype != torch.bool):
        raise ValueError(f"keep must be bool of shape ({channels},), got {keep.dtype} of shape {tuple(keep.shape)}")
