r"""Center loss (Wen, Zhang, Li, Qiao; ECCV 2016): pull every feature towards the centre of its class.

Needs torch only. In a loop of one's own::

    center = CenterLoss(num_classes, feature_dim)                      # centres are state, not parameters
    loss = cross_entropy(logits, labels) + 0.003 * center(features, labels)   # Eq. 5
    loss.backward()
    optimizer.step()
    center.update(features, labels)                                    # Eq. 4, once per step taken
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def center_loss(features: Tensor, labels: Tensor, centers: Tensor, *, reduction: str = "mean") -> Tensor:
    r"""Half the squared distance of each feature to its class centre.

    .. math:: L_C = \tfrac12 \sum_{i=1}^m \lVert x_i - c_{y_i} \rVert_2^2
        \qquad \frac{\partial L_C}{\partial x_i} = x_i - c_{y_i}

    Paper: Eq. 2 and Eq. 3. ``reduction="sum"`` is Eq. 2 to the letter. The default ``"mean"`` divides by m, as
    cross-entropy does by default, so that λ weighs the two as in the paper, where both are sums. No gradient
    flows into ``centers``: they move by :func:`update_centers`.

    Args:
        features: x, ``(m, d)`` floats.
        labels: y, ``(m,)`` integers in ``[0, n)``.
        centers: c, ``(n, d)``.
        reduction: ``"mean"`` or ``"sum"`` over the batch.

    Returns:
        A float32 scalar (float64 for float64 features), under autocast too.

    Raises:
        ValueError: for shapes, types, labels or features that cannot be meant. Values are looked at on the CPU only:
            on an accelerator that would stall every step.
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
    _check(features, labels, centers)
    features = features if features.dtype == torch.float64 else features.float()
    difference = features - centers.detach().to(features.dtype)[labels]  # (m, d)
    loss = 0.5 * difference.square().sum()
    return loss / len(features) if reduction == "mean" else loss


@torch.no_grad()
def update_centers(centers: Tensor, features: Tensor, labels: Tensor, *, alpha: float = 0.5) -> Tensor:
    r"""Move the centres, in place, towards the features of their classes.

    .. math:: \Delta c_j = \frac{\sum_i \delta(y_i = j)\,(c_j - x_i)}{1 + \sum_i \delta(y_i = j)}
        \qquad c_j \leftarrow c_j - \alpha\, \Delta c_j

    Paper: Eq. 4 and the update that follows it. This is not the derivative of Eq. 2: the denominator makes the step
    independent of how often a class was drawn, and the 1 leaves the centre of an absent class where it is. A class
    with k samples goes ``α k / (1 + k)`` of the way to their mean, whatever λ, m and the learning rate.

    Under ``torch.distributed`` counts and sums are added over all ranks first, so that every rank ends with the
    same centres.

    Args:
        centers: c, ``(n, d)``, changed in place.
        features: x, ``(m, d)``, of every sample of the step.
        labels: y, ``(m,)``.
        alpha: α in [0, 1]; 0.5 in the paper.

    Returns:
        ``centers``.
    """
    _check(features, labels, centers)
    features = features.to(centers.dtype)
    sums = torch.zeros_like(centers).index_add_(0, labels, features)  # (n, d)
    counts = centers.new_zeros(len(centers)).index_add_(0, labels, features.new_ones(len(labels)))  # (n,)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(sums)
        dist.all_reduce(counts)
    delta = (counts[:, None] * centers - sums) / (1 + counts)[:, None]
    return centers.sub_(alpha * delta)


class CenterLoss(nn.Module):
    r"""Center loss with the centres as its state.

    The centres are a buffer: saved in ``state_dict``, moved by ``.to``, and beyond the reach of optimizers, of
    gradient scaling and of weight decay. Call :meth:`update` once after each optimizer step.

    Args:
        num_classes: n, how many classes there are.
        feature_dim: d, the length of a feature.
        alpha: α in [0, 1], how far centres move (paper: 0.5).
        reduction: ``"mean"`` (default) or ``"sum"``, see :func:`center_loss`.

    Attributes:
        centers: ``(n, d)`` float32, initialised as in the authors' release: uniform in ±√(3/d).

    Differences from released code:
        The authors' Caffe layer hands Eq. 4 to the SGD solver, so its α is the learning rate, with momentum. The
        PyTorch ports divide the centre step by the batch size, or use the derivative of the loss and forget the ½.
    """

    centers: Tensor

    def __init__(self, num_classes: int, feature_dim: int, *, alpha: float = 0.5, reduction: str = "mean") -> None:
        super().__init__()
        if num_classes < 1 or feature_dim < 1:
            raise ValueError(f"num_classes and feature_dim must be positive, got {num_classes} and {feature_dim}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {alpha}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', got {reduction!r}")
        self.alpha = alpha
        self.reduction = reduction
        bound = (3 / feature_dim) ** 0.5
        self.register_buffer("centers", torch.empty(num_classes, feature_dim).uniform_(-bound, bound))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        """``(m, d)`` features and ``(m,)`` labels → the loss, a scalar."""
        return center_loss(features, labels, self.centers, reduction=self.reduction)

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Move the centres by :func:`update_centers`; does nothing in evaluation mode."""
        if self.training:
            update_centers(self.centers, features, labels, alpha=self.alpha)

    def extra_repr(self) -> str:
        n, d = self.centers.shape
        return f"num_classes={n}, feature_dim={d}, alpha={self.alpha}, reduction={self.reduction!r}"


def _check(features: Tensor, labels: Tensor, centers: Tensor) -> None:
    if features.ndim != 2 or features.shape[1] != centers.shape[1]:
        raise ValueError(f"features must be (batch, {centers.shape[1]}) like the centres, got {tuple(features.shape)}")
    if not features.is_floating_point():
        raise ValueError(f"features must be floating point, got {features.dtype}")
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels must be ({len(features)},), one a feature, got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integers, got {labels.dtype}")
    if len(labels) == 0:
        raise ValueError("the batch is empty: at least one feature is needed")
    if features.device.type == "cpu" and not torch.compiler.is_compiling():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= len(centers):
            raise ValueError(f"labels must lie in [0, {len(centers) - 1}], got {low if low < 0 else high}")
        if not bool(features.isfinite().all()):
            bad = int((~features.isfinite().all(1)).nonzero()[0])
            raise ValueError(f"features must be finite, but those of sample {bad} are not")
