"""Which images of a batch are compared with which: pairs and triplets, by their labels.

Needs torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor


def disjoint_pairs(labels: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Split a batch into pairs, as many of one class as of two classes, to within one, where the labels allow it.

    A batch of 2N images gives N pairs and every image is in exactly one of them, as in Channel Interaction Networks;
    of an odd batch one image is left over. Which image meets which is not known of the paper. Here:

    1. the batch is shuffled, and with it the order of its classes;
    2. ⌊N/2⌋ *positive* pairs are two images of one class each, always of the class with the most images left. Fewer
       where the labels do not have as many;
    3. what is left is laid out class after class, and the image at position i meets the one half way on: a *negative*
       pair, unless one class makes up more than half of what is left.

    Pairing the halves of a class-sorted batch, as a public port does, gives 4 × 5 batches no positive pair at all.

    All of it runs on the labels' device without waiting for it; only the shuffle is drawn on the CPU.

    Args:
        labels: ``(B,)`` integers.
        generator: of the shuffle, on the CPU; None for torch's global one.

    Returns:
        Two ``(B // 2,)`` int64 tensors a and b of positions: pair n is ``(a[n], b[n])``, and it is positive where
        ``labels[a] == labels[b]``.
    """
    _check(labels)
    count = len(labels)
    pairs = count // 2
    order = torch.randperm(count, generator=generator).to(labels.device)  # (B,)
    place = torch.arange(count, device=labels.device)
    if pairs == 0:
        return place[:0], place[:0]

    # lay the batch out class after class, in the order in which the shuffle first shows a class
    shuffled = labels[order]
    first = (shuffled[:, None] == shuffled[None, :]).int().argmax(1)  # (B,) where the class of i first occurs
    first, by_class = first.sort(stable=True)
    order = order[by_class]
    within = place - torch.searchsorted(first, first)  # (B,) number of i within its class
    left = torch.searchsorted(first, first, right=True) - place  # (B,) images of its class from i on

    # images 2k and 2k + 1 of a class can be a positive pair; take those with the most images left first
    follows = torch.cat([first[1:] == first[:-1], first.new_zeros(1, dtype=torch.bool)])
    starts = follows & (within % 2 == 0)
    turn = torch.where(starts, (count - left) * count + place, count * count)
    chosen = starts & (turn <= turn.sort().values[max(pairs // 2, 1) - 1]) & (pairs >= 2)
    positives = chosen.sum()

    # the chosen pairs move to the front, neighbors staying neighbors; the rest keeps its order
    taken = chosen | torch.cat([chosen.new_zeros(1), chosen[:-1]])
    order = order[(~taken).int().sort(stable=True).indices]
    n = torch.arange(pairs, device=labels.device)
    half = (count - 2 * positives) // 2
    a = torch.where(n < positives, 2 * n, positives + n)
    b = torch.where(n < positives, 2 * n + 1, positives + n + half)
    return order[a], order[b]


def all_triplets(labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Every (anchor, positive, negative) of a batch: two images of one class and one of another.

    A batch of P classes × K images has P·K·(K − 1)·(P − 1)·K of them, 1200 for 4 × 5.

    Args:
        labels: ``(B,)`` integers.

    Returns:
        Three ``(T,)`` int64 tensors of positions, T = 0 where a batch has none.
    """
    _check(labels)
    same = labels[:, None] == labels[None, :]  # (B, B)
    other = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchor, positive, negative = torch.where((same & other)[:, :, None] & ~same[:, None, :])
    return anchor, positive, negative


def _check(labels: Tensor) -> None:
    if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers of shape (B,), got {labels.dtype} of shape {tuple(labels.shape)}")
