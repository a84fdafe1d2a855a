r"""Channel interaction (Gao, Han, Wang, Huang, Scott; AAAI 2020): channels that complement each other.

A map of c channels is read as :math:`X \in \mathbb R^{c \times l}`, l = h·w locations. Self-channel interaction (SCI)
gives each channel the channels that it is *least* correlated with; contrastive channel interaction (CCI) compares what
two images add, and keeps the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Scale = Literal["positions", "none"]


def channel_relation(x: Tensor, *, scale: Scale = "positions", positive: bool = False) -> Tensor:
    r"""W, how much channel i takes from channel j.

    .. math:: W = \mathrm{softmax}(-s\,X X^\top), \qquad
        W_{ij} = \frac{\exp(-s\,(XX^\top)_{ij})}{\sum_{k=1}^{c}\exp(-s\,(XX^\top)_{ik})}

    ========  ============  ===========  ==========================================================
    symbol    argument      default      source
    ========  ============  ===========  ==========================================================
    s         ``scale``     1/l          paper: 1 (``"none"``); a public port divides by l too
    sign      ``positive``  minus        paper; plus is its Pos-SCI ablation
    ========  ============  ===========  ==========================================================

    Differences from the paper:
        The entries of XXᵀ grow with l. After a ReLU they are not negative, so an unscaled softmax gives nearly all its
        weight to the smallest of them, the products with a channel that is zero everywhere: of 512 channels with 20
        dead ones, the dead ones get 84 % of a row at l = 49, all of it at l = 196, and Y = WX is empty. Divided
        by l (the mean product over locations), they get 4.5 %, about their share of 3.9 %.

    Args:
        x: ``(B, c, h, w)``.
        scale: ``"positions"``, s = 1/l, or ``"none"``, s = 1.
        positive: take the most alike channels instead.

    Returns:
        ``(B, c, c)``, float32 under autocast too; its rows sum to one.
    """
    flat, s = _matrix(x, scale)
    with torch.autocast(x.device.type, enabled=False):
        scores = torch.bmm(flat * (s if positive else -s), flat.transpose(1, 2))  # (B, c, c)
        return torch.softmax(scores, dim=2)  # subtracts each row's maximum first


def self_channel_interaction(x: Tensor, *, scale: Scale = "positions", positive: bool = False) -> Tensor:
    r"""Y = WX with the W of :func:`channel_relation`, without keeping W.

    This is attention between channels with query −X, key X and value X, so torch's fused attention computes it. Its
    kernels hold a strip of W at a time; the whole matrix is 16.8 MB an image at c = 2048, several times in training.

    Args:
        x: ``(B, c, h, w)``.
        scale, positive: as there.

    Returns:
        Y, ``(B, c, h, w)``, float32 under autocast too.
    """
    flat, s = _matrix(x, scale)
    with torch.autocast(x.device.type, enabled=False):
        # one head, a channel is a token and its map the embedding; other layouts miss the fused kernels
        heads = flat.contiguous().unsqueeze(1)  # (B, 1, c, l)
        # the sign goes into the query: kernels take row maxima before they scale, so the scale must be positive
        y = F.scaled_dot_product_attention(heads if positive else -heads, heads, heads, scale=s)
    return y.view(x.shape)


class SelfChannelInteraction(nn.Module):
    r"""SCI: every channel receives those that complement it.

    .. math:: Z = \frac{1}{\sqrt c}\, \varphi(WX) + X

    φ is a 3×3 convolution from c to c channels. :math:`\varphi(Y) = \sum_j \varphi_j * y_j` sums over its input slices.

    Differences from the paper:
        The paper has no factor :math:`1/\sqrt c`. With s = 1/l the rows of W are nearly uniform. Where W is 1/c
        exactly, every :math:`y_j` is the mean map m, and :math:`\varphi(Y) = S * m` depends on φ only through the sum
        of its slices, :math:`S = \sum_j \varphi_j`. Each slice gets the gradient g of S. A step at rate λ moves each
        slice by −λg and their sum by −cλg: S trains at c times the rate of the network, and no normalization follows.
        With the factor, the map depends on :math:`S / \sqrt c`. A gradient g of that is g/√c for each slice, so a step
        moves S by −√c·λg and :math:`S / \sqrt c` by −λg: the rate of the network, at every width.

    Args:
        channels: c, of the map.
        scale, positive: of :func:`channel_relation`.
        normalize: divide by √c. False is the published form.
    """

    def __init__(
        self,
        channels: int,
        *,
        scale: Scale = "positions",
        positive: bool = False,
        normalize: bool = True,
    ) -> None:
        super().__init__()
        self.scale: Scale = scale
        self.positive = positive
        self.factor = channels**-0.5 if normalize else 1.0
        self.phi = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """X ``(B, c, h, w)`` → Z, the same shape."""
        return self.combine(x, self_channel_interaction(x, scale=self.scale, positive=self.positive))

    def combine(self, x: Tensor, y: Tensor) -> Tensor:
        """Z of X and any Y, ``(B, c, h, w)`` each."""
        return torch.add(x, self.phi(y.to(x.dtype)), alpha=self.factor)

    def relation(self, x: Tensor) -> Tensor:
        """W of these maps, ``(B, c, c)``."""
        return channel_relation(x, scale=self.scale, positive=self.positive)


def suppress(w: Tensor, factors: Tensor) -> Tensor:
    r"""What one image of a pair relates and the other does not: :math:`|W_A - \eta W_B|`, :math:`|W_B - \gamma W_A|`.

    Args:
        w: ``(2N, c, c)``, W_A of the N pairs, then W_B of each.
        factors: ``(2N, 1, 1)``, η of the N pairs, then γ of each.

    Returns:
        ``(2N, c, c)``, W_AB of the N pairs, then W_BA of each.
    """
    (a, b), (eta, gamma) = w.chunk(2), factors.chunk(2)  # (N, c, c) and (N, 1, 1) each
    return torch.cat([a - eta * b, b - gamma * a]).abs()


class ContrastiveChannelInteraction(nn.Module):
    r"""CCI: of two images A and B, the complementary channels that the other does not share.

    .. math::
        W_{AB} = |W_A - \eta W_B|, \quad \eta = \psi([Y_A, Y_B]), \qquad
        Z'_A = \frac{1}{\sqrt c}\, \varphi(W_{AB} X_A) + X_A

    and the same with A and B exchanged, where γ = ψ([Y_B, Y_A]). One ψ, a fully connected layer to one scalar per
    ordered pair, without squashing; φ, its factor and Y = WX are those of SCI. The rows of W_AB do not sum to one.

    Differences from the paper:
        ψ sees Y averaged over locations by default, 2c numbers, so it fits every map size. Flattened maps
        (``map_size``), as in a public port, make it 2·c·l. That port also gives ψ the map φ(Y) instead of Y.

    Args:
        channels: c, of the map.
        map_size: None averages Y over locations; ``(h, w)`` flattens maps of exactly that size.
    """

    def __init__(self, channels: int, *, map_size: Sequence[int] | None = None) -> None:
        super().__init__()
        self.map_size = map_size
        self.psi = nn.Linear(2 * channels * locations_count(map_size), 1)

    def forward(self, sci: SelfChannelInteraction, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Both sides of every pair.

        Args:
            sci: the SCI block that the maps went through.
            x: its input X, ``(B, c, h, w)``.
            a, b: ``(N,)`` positions in the batch; pair n is ``(a[n], b[n])``.

        Returns:
            Z'_A and Z'_B, ``(N, c, h, w)`` each.
        """
        x = _both(x, a, b)
        w = self._suppressed(sci, x)  # (2N, c, c)
        flat = x.flatten(2)  # (2N, c, l)
        y = torch.bmm(w.to(flat.dtype), flat)  # (2N, c, l)
        z = sci.combine(x, y.view(x.shape))  # (2N, c, h, w)
        return z[: len(a)], z[len(a) :]

    def features(self, sci: SelfChannelInteraction, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        r"""What a fully connected layer sees of Z'_A and Z'_B: their averages, or the maps flattened (``map_size``).

        The averages are taken without the maps. φ is linear, so at the average location each of its nine taps meets
        the average of Y over the map moved by that tap, :func:`shifted_means`; and these are W_AB times those of X:

        .. math:: \frac1l \sum_p Z'_{p} = \frac1l \sum_p X_p + \frac{1}{\sqrt c} \Bigl(b_\varphi
            + \sum_{i,j} \varphi_{ij}\, W_{AB}\, M_{ij}(X)\Bigr)

        Nine numbers a channel go through W_AB and φ instead of l, 196 at 14 × 14.

        Args:
            sci, x, a, b: as of :meth:`forward`.

        Returns:
            Two tensors, ``(N, c)`` or ``(N, c·l)``.
        """
        if self.map_size is not None:
            left, right = self(sci, x, a, b)
            return locations(left, self.map_size).flatten(1), locations(right, self.map_size).flatten(1)
        x = _both(x, a, b)
        w = self._suppressed(sci, x)  # (2N, c, c)
        means = shifted_means(x).flatten(2)  # (2N, c, 9)
        y = torch.bmm(w.to(means.dtype), means).transpose(1, 2).flatten(1)  # (2N, 9·c)
        phi = sci.phi.weight.permute(0, 2, 3, 1).flatten(1)  # (c, 9·c), no copy where weights are channels_last
        z = torch.add(x.mean((2, 3)), F.linear(y.to(x.dtype), phi, sci.phi.bias), alpha=sci.factor)  # (2N, c)
        return z[: len(a)], z[len(a) :]

    def _suppressed(self, sci: SelfChannelInteraction, x: Tensor) -> Tensor:
        """W_AB of each pair, then W_BA of each, ``(2N, c, c)``; ``x`` holds all A, then all B."""
        w = sci.relation(x)  # (2N, c, c)
        # averaging is linear, so W times the averaged X is the average of Y
        y = torch.bmm(w, locations(x, self.map_size).to(w.dtype)).flatten(1)  # (2N, c) or (2N, c·l)
        both = torch.cat([y, y.roll(len(y) // 2, 0)], dim=1)  # (2N, …): [Y_A, Y_B] of each pair, then [Y_B, Y_A]
        factors = self.psi(both).to(w.dtype).unsqueeze(2)  # (2N, 1, 1): η of each pair, then γ of each
        return suppress(w, factors)


def _both(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """All A, then all B: ``(2N, c, h, w)``."""
    return torch.cat([x.index_select(0, a), x.index_select(0, b)])


def shifted_means(x: Tensor) -> Tensor:
    r"""Averages of a map that is moved by one cell in every direction, with zeros coming in at the border.

    .. math:: M_{ij}(X) = \frac1l \sum_p X_{p + (i - 1,\, j - 1)}, \qquad i, j \in \{0, 1, 2\}

    They are all that the average of a 3 × 3 convolution with padding 1 depends on.

    Args:
        x: ``(B, c, h, w)``.

    Returns:
        ``(B, c, 3, 3)``, in the middle the plain average.
    """
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1)), x.shape[2:], stride=1)


def locations(x: Tensor, map_size: Sequence[int] | None) -> Tensor:
    """What a fully connected layer sees of a map.

    Args:
        x: ``(B, c, h, w)``.
        map_size: None averages over the locations; ``(h, w)`` keeps them and asks for exactly that size.

    Returns:
        ``(B, c, 1)`` or ``(B, c, h·w)``.
    """
    if map_size is None:
        return x.mean((2, 3)).unsqueeze(2)
    if tuple(x.shape[2:]) != tuple(map_size):
        raise ValueError(
            f"flattening was set up for maps of {map_size[0]}×{map_size[1]}, got {x.shape[2]}×{x.shape[3]}: "
            "set map_size to that, or to None to average over locations"
        )
    return x.flatten(2)


def locations_count(map_size: Sequence[int] | None) -> int:
    """Length of the last dimension of :func:`locations`."""
    return 1 if map_size is None else map_size[0] * map_size[1]


def _matrix(x: Tensor, scale: Scale) -> tuple[Tensor, float]:
    """X as ``(B, c, l)`` in float32 or float64, and s."""
    if scale not in ("positions", "none"):
        raise ValueError(f"scale must be 'positions' or 'none', got {scale!r}")
    if x.ndim != 4:
        raise ValueError(f"a feature map must be (B, c, h, w), got {tuple(x.shape)}")
    flat = x.flatten(2)  # (B, c, l)
    flat = flat if flat.dtype == torch.float64 else flat.float()
    return flat, 1 / flat.shape[2] if scale == "positions" else 1.0
