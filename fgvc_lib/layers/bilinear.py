r"""Bilinear pooling (Lin, RoyChowdhury, Maji; ICCV 2015): the outer product of two feature maps, pooled over locations.

.. math::
    \Phi = \frac1L \sum_{l=1}^{L} a_l b_l^\top \in \mathbb R^{M \times N}, \qquad
    y = \mathrm{sign}(\Phi)\sqrt{|\Phi|}, \qquad z = y / \lVert y \rVert_2

Nothing in Φ knows where a pair (a_l, b_l) stood: the representation is orderless.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def bilinear_pool(a: Tensor, b: Tensor | None = None) -> Tensor:
    r"""Φ, the outer product of the features at each location, averaged over the locations.

    One matrix product per image; the ``(B, L, M, N)`` outer products are never formed. The backward pass is
    :math:`\partial L/\partial A = \frac1L B (\partial L/\partial\Phi)^\top` and the like, again two matrix products.

    Differences from the paper:
        The paper sums over locations. The average is L times smaller, which the L2 normalization takes out again,
        and it keeps the size of an entry, and so the meaning of ε in :func:`signed_sqrt`, free of the map's size.
        A widely used PyTorch port averages too.

    Args:
        a: ``(B, M, h, w)``.
        b: ``(B, N, h, w)``, or None for one stream, b = a, where Φ is symmetric.

    Returns:
        ``(B, M, N)``, float32 under autocast too (float64 for float64 maps).

    Raises:
        ValueError: for maps that do not share batch and locations.
    """
    b = a if b is None else b
    if a.ndim != 4 or b.ndim != 4:
        raise ValueError(f"feature maps must be (B, C, h, w), got {tuple(a.shape)} and {tuple(b.shape)}")
    if a.shape[0] != b.shape[0] or a.shape[2:] != b.shape[2:]:
        raise ValueError(
            f"both streams must have the same batch and locations, got {tuple(a.shape)} and {tuple(b.shape)}: "
            "resample the larger map with adaptive_avg_pool2d"
        )
    with torch.autocast(a.device.type, enabled=False):  # sums of L products overflow float16
        dtype = torch.promote_types(a.dtype, torch.float32)
        left, right = a.to(dtype).flatten(2), b.to(dtype).flatten(2)  # (B, M, L), (B, N, L)
        return torch.bmm(left, right.transpose(1, 2)) / left.shape[2]  # (B, M, N)


def signed_sqrt(x: Tensor, *, eps: float = 1e-5) -> Tensor:
    r"""The signed square root, smooth through zero.

    .. math:: y = \frac{x}{\sqrt{|x| + \varepsilon}} \qquad
        \frac{dy}{dx} = \frac{|x|/2 + \varepsilon}{(|x| + \varepsilon)^{3/2}} \le \frac1{\sqrt\varepsilon}

    Differences from the paper and from that port:
        ``sign(x)√|x|`` has an infinite slope at zero, where the entries of two channels that are never active together
        lie. The port takes √(x + 10⁻⁵) without the sign: wrong for negative entries, and it lifts every empty
        entry to 0.003. This form is odd, keeps zero at zero, and approaches ``sign(x)√|x|`` where x is large beside ε.

    Args:
        x: any shape.
        eps: ε > 0; 10⁻⁵ as in the port, for an average over locations (for a sum over L of them, ε·L is the same).

    Returns:
        Like ``x``, float32 under autocast too.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        return x * torch.rsqrt(x.abs() + eps)


class BilinearPool(nn.Module):
    r"""Bilinear pooling, signed square root, L2 normalization: two maps to one vector z.

    Args:
        root: take the signed square root.
        normalize: divide by the L2 norm.
        eps: ε of :func:`signed_sqrt`.
    """

    def __init__(self, *, root: bool = True, normalize: bool = True, eps: float = 1e-5) -> None:
        super().__init__()
        if eps <= 0:
            raise ValueError(f"eps must be positive, or the gradient at zero is infinite, got {eps}")
        self.root = root
        self.normalize = normalize
        self.eps = eps

    def forward(self, a: Tensor, b: Tensor | None = None) -> Tensor:
        """``(B, M, h, w)`` and ``(B, N, h, w)`` → ``(B, M·N)``, float32."""
        return self.vector(bilinear_pool(a, b))

    def vector(self, phi: Tensor) -> Tensor:
        """Φ ``(B, M, N)`` → z ``(B, M·N)``; an image whose features are all zero has z = 0."""
        x = phi.flatten(1)  # (B, M·N)
        if self.root:
            x = signed_sqrt(x, eps=self.eps)
        return F.normalize(x, dim=1) if self.normalize else x
