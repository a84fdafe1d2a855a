r"""Pairwise Confusion (Dubey et al., ECCV 2018): hold predictions for different classes together.

Needs torch only. In a loop of one's own::

    loss = cross_entropy(logits, labels) + 10.0 * pairwise_confusion(logits, labels)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pairwise_confusion(logits: Tensor, labels: Tensor) -> Tensor:
    r"""Squared distance between the predictions for two images, where their labels differ.

    .. math:: L_{PC} = \frac1B \sum_{i=1}^{\lfloor B/2 \rfloor}
        [y_i \ne y_{i'}]\, \lVert p_i - p_{i'} \rVert_2^2 \qquad i' = i + \lfloor B/2 \rfloor

    with p the softmax of the logits. A regularizer: it slows down over-confident predictions.

    The first half of the batch meets the second, so a shuffled batch gives random pairs; the last image of an odd batch
    has no partner. The sum is divided by the batch, as the mean cross-entropy beside it is, and lies in [0, 1]. Its
    weight λ is usually of the order of 10.

    Args:
        logits: ``(B, C)``, before the softmax.
        labels: y, ``(B,)`` integers.

    Returns:
        A float32 scalar (float64 for float64 logits), under autocast too; zero with a zero gradient for B < 2.

    Raises:
        ValueError: for shapes or types that do not fit.

    Differences from the official implementation:
        It takes probabilities, the norm unsquared, pairs of equal labels too, and no odd batch.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise ValueError(f"logits must be floats (B, C), got {logits.dtype} of shape {tuple(logits.shape)}")
    if labels.shape != logits.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be integers of shape ({len(logits)},), got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    half = len(logits) // 2
    p = logits.softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))  # (B, C)
    distance = (p[:half] - p[half : 2 * half]).square().sum(1)  # (B // 2,)
    different = labels[:half] != labels[half : 2 * half]
    return (distance * different).sum() / max(len(logits), 1) + 0 * p.sum()


class PairwiseConfusion(nn.Module):
    """:func:`pairwise_confusion` as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """``(B, C)`` logits and ``(B,)`` labels → the loss, a scalar."""
        return pairwise_confusion(logits, labels)
