r"""Center loss (Wen, Zhang, Li, Qiao; ECCV 2016): pull every feature towards the center of its class.

This file needs torch only. In your own loop::

    center = CenterLoss(num_classes, feature_dim)  # centers are state, not parameters
    loss = cross_entropy(logits, labels) + 0.003 * center(features, labels)  # Eq. 5
    loss.backward()
    optimizer.step()
    center.update(features, labels)  # Eq. 4, once per step taken
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn


def center_loss(features: Tensor, labels: Tensor, centers: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Half the squared distance of each feature to its class center.

    .. math:: L_C = \tfrac12 \sum_{i=1}^m \lVert x_i - c_{y_i} \rVert_2^2
        \qquad \frac{\partial L_C}{\partial x_i} = x_i - c_{y_i}

    Paper: Eq. 2 and Eq. 3. ``reduction="sum"`` is Eq. 2 to the letter. The default ``"mean"`` divides by m, as
    cross-entropy does by default, so that λ weighs the two as in the paper, where both are sums. No gradient
    flows into ``centers``: they move by :func:`update_centers`.

    Args:
        features: x, ``(m, d)`` floats.
        labels: y, ``(m,)`` integers of any type, in ``[0, n)``.
        centers: c, ``(n, d)``.
        reduction: ``"mean"`` or ``"sum"`` over the batch.

    Returns:
        A float32 scalar (float64 for float64 features), under autocast too; 0 for an empty batch.

    Raises:
        ValueError: for shapes, types or labels that cannot be meant. Labels out of range are seen on the CPU only: on
            an accelerator, looking at them would stall every step.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    own = _own_centers(centers.detach(), features, labels)  # (m, d)
    features = features if features.dtype == torch.float64 else features.float()
    difference = features - own.to(features.dtype)  # (m, d)
    loss = 0.5 * difference.square().sum()
    return loss / max(features.shape[0], 1) if reduction == "mean" else loss


@torch.no_grad()
def update_centers(centers: Tensor, features: Tensor, labels: Tensor, *, alpha: float = 0.5) -> Tensor:
    r"""Move the centers, in place, towards the features of their classes.

    .. math:: \Delta c_j = \frac{\sum_i \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_i \delta(y_i = j)}
        \qquad c_j \leftarrow c_j - \alpha\, \Delta c_j

    Paper: Eq. 4 and the update that follows it. This is not the derivative of Eq. 2: the denominator makes the step
    independent of how often a class was drawn, and the 1 leaves the center of an absent class where it is. A class
    with k samples goes ``α k / (1 + k)`` of the way to their mean, whatever λ, m and the learning rate.

    Under ``torch.distributed`` counts and sums are added over all ranks first, so that every rank ends with the
    same centers.

    Args:
        centers: c, ``(n, d)``, changed in place.
        features: x, ``(m, d)``, of every sample of the step.
        labels: y, ``(m,)`` integers of any type.
        alpha: α in [0, 1]; 0.5 in the paper.

    Returns:
        ``centers``.
    """
    difference = _own_centers(centers, features, labels) - features.to(centers.dtype)  # (m, d)
    sums = torch.zeros_like(centers).index_add_(0, labels.long(), difference)  # (n, d)
    counts = centers.new_zeros(len(centers)).index_add_(0, labels.long(), centers.new_ones(len(labels)))  # (n,)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        dist.all_reduce(counts)
    return centers.sub_(alpha * sums / (1 + counts)[:, None])


class CenterLoss(nn.Module):
    r"""Center loss with the centers as its state.

    The centers are a buffer: saved in ``state_dict``, moved by ``.to``, and beyond the reach of optimizers, of
    gradient scaling and of weight decay. Call :meth:`update` once after each optimizer step.

    Args:
        num_classes: n, how many classes there are.
        feature_dim: d, the length of a feature.
        alpha: α in [0, 1], how far centers move (paper: 0.5).
        reduction: ``"mean"`` (default) or ``"sum"``, see :func:`center_loss`.

    Attributes:
        centers: ``(n, d)`` float32, also after ``.half()`` and ``.bfloat16()``, whose steps would be lost to rounding.
            Initialized as in the official implementation: uniform in ±√(3/d).

    Differences from other code:
        The official Caffe layer hands Eq. 4 to the SGD solver, so its α is the learning rate, with momentum. The
        PyTorch ports divide the center step by the batch size, or use the derivative of the loss and forget the ½.
    """

    centers: Tensor

    def __init__(self, num_classes: int, feature_dim: int, *, alpha: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if num_classes < 1 or feature_dim < 1:
            raise ValueError(f"num_classes and feature_dim must be positive, got {num_classes} and {feature_dim}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        self.alpha = alpha
        self.reduction = reduction
        bound = (3 / feature_dim) ** 0.5
        self.register_buffer("centers", torch.empty(num_classes, feature_dim).uniform_(-bound, bound))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """``(m, d)`` features and ``(m,)`` labels → the loss, a scalar."""
        return center_loss(features, labels, self.centers, reduction=self.reduction)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the centers by :func:`update_centers`; does nothing in evaluation mode."""
        if self.training:
            update_centers(self.centers, features, labels, alpha=self.alpha)

    def _apply(self, fn: Any, recurse: bool = True) -> CenterLoss:
        wide = self.centers
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.centers.dtype in (torch.float16, torch.bfloat16):
            self.centers = wide.to(self.centers.device)
        return self


def _own_centers(centers: Tensor, features: Tensor, labels: Tensor) -> Tensor:
    """c_y, ``(m, d)``, once features and labels have been found to fit the centers."""
    if features.ndim != 2 or features.shape[1] != centers.shape[1] or not features.is_floating_point():
        raise ValueError(
            f"features must be floats (batch, {centers.shape[1]}) like the centers, got {features.dtype} of shape "
            f"{tuple(features.shape)}"
        )
    if labels.shape != features.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(
            f"labels must be integers of shape ({features.shape[0]},), got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    try:
        return F.embedding(labels.long(), centers)
    except IndexError:  # of the CPU, without another look at the values, which torch.func.vmap forbids
        low, high = labels.long().aminmax()
        raise ValueError(f"labels must lie in [0, {len(centers) - 1}], got {int(low)} to {int(high)}") from None
