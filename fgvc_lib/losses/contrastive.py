r"""Contrastive loss (Hadsell, Chopra, LeCun; CVPR 2006) in the form of Channel Interaction Networks (AAAI 2020).

Needs torch only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def contrastive_loss(a: Tensor, b: Tensor, same: Tensor, *, margin: float = 0.5) -> Tensor:
    r"""Pull pairs of one class together, push pairs of two classes apart until β.

    .. math::
        L &= \frac1N \sum_{n=1}^N \ell_n, \qquad d_n = \lVert a_n - b_n \rVert_2, \\
        \ell_n &= \begin{cases} d_n^2 & \text{same class} \\ \max(0, \beta - d_n)^2 & \text{else} \end{cases}

    ========  ============  =======  =======================================================
    symbol    argument      default  source
    ========  ============  =======  =======================================================
    β         ``margin``    0.5      a public port of CIN, which quotes the paper's equation
    ========  ============  =======  =======================================================

    CIN, Eq. 8; Hadsell et al. have a factor ½. Where d = 0 the distance has no direction, and its gradient is taken
    as zero, so the loss has a finite gradient everywhere.

    Differences from a public port of CIN:
        It compares the labels of the first half of a batch with a single label of the second, overwrites the
        term of the negative pairs with the square of the positive one (so that nothing is ever pushed apart), and
        sums over pairs. Here both terms are alive and the mean is taken over all pairs, so that the size of
        the loss does not depend on the batch.

    Args:
        a, b: ``(N, r)`` embeddings, taken as they are; pair n is ``(a[n], b[n])``. On embeddings of length one, as CIN
            hands over here, β is a distance on the unit sphere; on others both terms grow with their length.
        same: ``(N,)`` bool, whether the pair is of one class.
        margin: β > 0, in the units of the embedding.

    Returns:
        A float32 scalar (float64 for float64 embeddings), under autocast too; 0 with a graph where there is no pair.

    Raises:
        ValueError: for shapes that do not match, a mask that is not bool, or a margin that is not positive.
    """
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"embeddings must be two (N, r) of the same shape, got {tuple(a.shape)} and {tuple(b.shape)}")
    if same.dtype != torch.bool or same.shape != a.shape[:1]:
        raise ValueError(f"same must be bool of shape ({len(a)},), got {same.dtype} of shape {tuple(same.shape)}")
    if margin <= 0:
        raise ValueError(f"margin must be positive, or no pair is ever pushed apart, got {margin}")
    difference = (a - b) if a.dtype == torch.float64 else a.float() - b.float()  # (N, r)
    # vector_norm, unlike √Σ, has a gradient of zero instead of NaN where the difference is zero
    distance = torch.linalg.vector_norm(difference, dim=1)  # (N,)
    pull, push = distance.square(), (margin - distance).clamp_min(0).square()  # (N,), (N,)
    return torch.where(same, pull, push).sum() / max(len(a), 1)


class ContrastiveLoss(nn.Module):
    """:func:`contrastive_loss` as a module.

    Args:
        margin: β.
    """

    def __init__(self, *, margin: float = 0.5) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, a: Tensor, b: Tensor, same: Tensor) -> Tensor:
        """Two ``(N, r)`` and ``(N,)`` bool → the loss, a scalar."""
        return contrastive_loss(a, b, same, margin=self.margin)
