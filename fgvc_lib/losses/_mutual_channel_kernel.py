"""The mutual-channel loss as one operator: the numbers of ``mutual_channel.py`` in less time and memory.

What is kept for the backward pass are the winning channels, a byte a class and position for each term, and the
denominators of the softmax; plain autograd keeps maps. A second derivative goes through the plain formulation.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fgvc_lib.losses import mutual_channel as plain


def mutual_channel_loss(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    *,
    keep: Tensor | None = None,
    cross_channel: plain.CrossChannel = "max",
    weighting: plain.Weighting = "paper",
) -> plain.MutualChannelTerms:
    """:func:`fgvc_lib.losses.mutual_channel.mutual_channel_loss`, without ``torch.func``."""
    if cross_channel != "max":
        return plain.mutual_channel_loss(
            features, labels, num_classes, keep=keep, cross_channel=cross_channel, weighting=weighting
        )
    plain._check(features, num_classes, keep)
    if keep is None:
        keep = torch.ones(features.shape[1], dtype=torch.bool, device=features.device)
    scores, spread = _ScoresAndDiversity.apply(features, keep, num_classes)
    weights = plain.diversity_weights(features.shape[1], num_classes, weighting=weighting)
    return plain._terms(scores, spread, labels, weights)


class FastMutualChannelLoss(plain.MutualChannelLoss):
    """:class:`fgvc_lib.losses.mutual_channel.MutualChannelLoss` through :func:`mutual_channel_loss` of this file."""

    function = staticmethod(mutual_channel_loss)


class _ScoresAndDiversity(torch.autograd.Function):
    """g and h, ``(B, c)`` each, of a map that is read once forward and once backward.

    On the CPU the batch goes through in pieces that fit the cache: no large temporary is written.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, keep: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
        maps = features.flatten(2)  # (B, N, HW)
        wide = torch.promote_types(maps.dtype, torch.float32)
        allowed = torch.zeros(keep.shape, dtype=wide, device=maps.device).masked_fill_(~keep, -math.inf)  # (N,)
        parts = [_forward(piece, allowed, num_classes) for piece in maps.split_with_sizes(_pieces(maps))]
        g, h, *kept = parts[0] if len(parts) == 1 else [torch.cat(part) for part in zip(*parts, strict=True)]
        ctx.save_for_backward(features, keep, *kept)
        ctx.num_classes = num_classes
        return g, h

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        features, keep, *kept = ctx.saved_tensors  # once: activation checkpointing allows no second look
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():  # create_graph: to be differentiated again
            g = plain.group_scores(features, ctx.num_classes, keep=keep)
            h = plain.group_diversity(features, ctx.num_classes)
            return torch.autograd.grad((g, h), features, slopes, create_graph=True)[0], None, None
        maps = features.flatten(2)
        inputs = (maps, *kept, *slopes)
        sizes = _pieces(maps)
        if len(sizes) == 1:
            return _backward(ctx.num_classes, *inputs).view_as(features), None, None
        slope = torch.empty_like(maps)
        for target, *piece in zip(*(x.split_with_sizes(sizes) for x in (slope, *inputs)), strict=True):
            target.copy_(_backward(ctx.num_classes, *piece))
        return slope.view_as(features), None, None


def _forward(maps: Tensor, allowed: Tensor, num_classes: int) -> list[Tensor]:
    """g and h, ``(B, c)``; the channels that win for each, counted within their class, ``(B, c, HW)``; the logarithm of
    each map's softmax denominator, ``(B, N, 1)``.
    """
    results = []
    biases = plain._grouped(allowed[None, :, None], num_classes)
    for x, bias in zip(plain._grouped(maps, num_classes), biases, strict=True):  # (B, classes, ξ, HW)
        top, loudest = _first_max(x + bias)  # (B, classes, HW) each
        log_sum = x.to(bias.dtype).logsumexp(3, keepdim=True)  # (B, classes, ξ, 1)
        peak, sharpest = _first_max(x - log_sum)  # of log p
        results.append([top.mean(2), peak.exp().sum(2), loudest, sharpest, log_sum.flatten(1, 2)])
    return results[0] if len(results) == 1 else [torch.cat(result, 1) for result in zip(*results, strict=True)]


def _backward(
    num_classes: int,
    maps: Tensor,
    loudest: Tensor,
    sharpest: Tensor,
    log_sum: Tensor,
    grad_g: Tensor,
    grad_h: Tensor,
) -> Tensor:
    """The gradient of the maps, ``(B, N, HW)``, from what :func:`_forward` kept."""
    classes = [n for n, _ in plain.channel_groups(maps.shape[1], num_classes)]
    winners = (x.split_with_sizes(classes, 1) for x in (loudest, sharpest, grad_g / maps.shape[2], grad_h))
    slopes = []
    groups = zip(plain._grouped(maps, num_classes), plain._grouped(log_sum, num_classes), *winners, strict=True)
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


def _pieces(maps: Tensor) -> list[int]:
    """Images to work on at a time: half a megabyte of floats a thread on the CPU, the whole batch elsewhere."""
    batch = maps.shape[0]
    if maps.device.type != "cpu" or torch.compiler.is_compiling() or batch == 0:
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
    # an indexed maximum over an inner dimension is not vectorized on the CPU; these plain passes are, and 3× faster;
    # compiled, they become one
    top = x.amax(2)
    rank = torch.arange(xi, 0, -1, dtype=x.dtype).unsqueeze(1)  # ξ … 1, so the largest rank is the first index
    return top, (xi - x.eq_(top.unsqueeze(2)).mul_(rank).amax(2)).to(small)


def _one_hot(winner: Tensor, xi: int, dtype: torch.dtype) -> Tensor:
    """``(B, c, HW)`` → ``(B, c, ξ, HW)``, 1 where channel j is the winner."""
    channel = torch.arange(xi, dtype=dtype, device=winner.device).unsqueeze(1)
    return winner.unsqueeze(2).expand(-1, -1, xi, -1).to(dtype).sub_(channel).eq_(0)  # in place: no second full map
