"""Are the channels that self-channel interaction calls complementary channels of different parts?"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fgvc_lib.backbones import Backbone
from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.loader import Loader
from fgvc_lib.layers.channel_interaction import Scale, SelfChannelInteraction, channel_relation
from fgvc_lib.methods.base import Method
from fgvc_lib.methods.cin import CIN
from fgvc_study.metrics.known_parts import need_parts
from fgvc_study.metrics.parts import NotApplicable, peak_parts


@torch.no_grad()
def complements(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Whether a channel's most complementary channels lie on another part of the bird than it does.

    What :func:`compare_channels` counts, summed over the test images, and ``on_part``, the share of all channels that
    lie on a part. The map is X, in front of the block, and W that of the
    block. A method whose block is none, or another one, gives the same numbers of *its* X for comparison.

    Raises:
        ValueError: another method than CIN, or data without ``masks`` of parts.
    """
    if not isinstance(method, CIN):
        raise NotApplicable(
            f"channels are compared in front of CIN's block, got {type(method).__name__}: use method 'cin'"
        )
    need_parts(data, "masks")
    method.eval()
    block = method.attached.block
    scale = block.scale if isinstance(block, SelfChannelInteraction) else "positions"
    masks = torch.from_numpy(data.test.parts["masks"])  # (N, P, H, W)
    backbone = method.base.backbone
    assert isinstance(backbone, Backbone)
    center = next(backbone.centers[k] for k, stage in backbone.blocks.items() if method.attached in stage.modules())
    total: dict[str, Tensor] = {}
    for images, _, rows in Loader(data, "test", 64, train=False, seed=0, device=device).epoch(0):
        x = method(images).maps["block_input"].float()  # (B, c, h, w)
        parts = channel_parts_of(x, masks[rows].to(x.device), center=center)  # (B, c)
        counts = compare_channels(x, parts, scale=scale)
        counts["on_part"] = torch.stack([(parts >= 0).sum(), torch.tensor(parts.numel(), device=x.device)])
        for name, count in counts.items():
            total[name] = total.get(name, torch.zeros(2)) + count.cpu()
    return {name: float(count[0] / count[1]) for name, count in total.items()}


def channel_parts_of(x: Tensor, masks: Tensor, *, center: float | None = None) -> Tensor:
    """The part that each channel lies on: the one its map peaks on, or within half a stride of.

    Args:
        x: ``(B, c, h, w)``, not negative.
        masks: bool ``(B, P, H, W)``.
        center: of :func:`~fgvc_study.metrics.parts.position_of_pixel`.

    Returns:
        ``(B, c)`` int64, -1 for channels that peak beside every part or are zero everywhere.
    """
    parts = peak_parts(x, masks, tolerance=0.5 * masks.shape[3] / x.shape[3], center=center)
    return torch.where(x.flatten(2).amax(2) > 0, parts, -1)


def compare_channels(x: Tensor, parts: Tensor, *, scale: Scale = "positions", chosen: int = 3) -> dict[str, Tensor]:
    r"""Which channels channel interaction chooses, and whether they lie on another part.

    For each channel i on a part, the ``chosen`` other channels with the largest :math:`W_{ij}` are taken; of those that
    lie on a part, the share that lies on *another* one:

    - ``different``: of the most complementary, :math:`W = \mathrm{softmax}(-s XX^\top)`;
    - ``different_alike``: of the most alike, as Pos-SCI ranks them;
    - ``different_cosine``: of those with the smallest cosine, a ranking that the strength of a channel cannot move;
    - ``different_mixed``: of all others, each counted with its :math:`W_{ij}`, which is what Y = WX is made of;
    - ``chance``: of all others, each counted alike.

    A product of two maps is also small where one of them is weak. Hence

    - ``strength`` and ``strength_alike``: norm of the chosen channels' maps over the mean norm in the image;
    - ``silent``: share of the chosen complementary channels that are zero everywhere, ``silent_chance`` of all;
    - ``mixed``: share of the channels that a row of W effectively mixes, its exponentiated entropy over c: 1 for the
      plain mean of all, 1 / c for a single one.

    Args:
        x: ``(B, c, h, w)``, not negative.
        parts: ``(B, c)`` int64, the part of each channel, -1 for none.
        scale: of :func:`~fgvc_lib.layers.channel_interaction.channel_relation`.
        chosen: channels chosen for each channel, less than c.

    Returns:
        Name → ``(2,)``, a sum and its count, so that batches can be added up; the quotient is the number.
    """
    c = parts.shape[-1]
    if x.shape[:2] != parts.shape:
        raise ValueError(f"parts must be (B, c) = {tuple(x.shape[:2])}, got {tuple(parts.shape)}")
    if not 0 < chosen < c:
        raise ValueError(f"chosen must be between 1 and c - 1 = {c - 1}, got {chosen}")
    flat = x.flatten(2)  # (B, c, l)
    itself = torch.eye(c, dtype=torch.bool, device=x.device)
    on_part = parts >= 0
    pairs = on_part[:, :, None] & on_part[:, None, :] & ~itself  # (B, c, c)
    other = (parts[:, :, None] != parts[:, None, :]).float()  # (B, c, c)

    norm = flat.norm(dim=2)  # (B, c)
    silent = norm == 0
    product = flat @ flat.mT  # (B, c, c)
    unit = F.normalize(flat, dim=2)
    cosine = (unit @ unit.mT).masked_fill(silent[:, None, :], torch.inf)  # a silent channel has no direction
    best = {
        "": product.masked_fill(itself, torch.inf).topk(chosen, largest=False).indices,  # (B, c, chosen)
        "_alike": product.masked_fill(itself, -torch.inf).topk(chosen).indices,
        "_cosine": cosine.masked_fill(itself, torch.inf).topk(chosen, largest=False).indices,
    }
    found = {"chance": _ratio(other, pairs)}
    for name, index in best.items():
        found[f"different{name}"] = _ratio(other.gather(2, index), pairs.gather(2, index))

    w = channel_relation(x, scale=scale)  # (B, c, c)
    found["different_mixed"] = torch.stack([(w * other * pairs).sum(), (w * pairs).sum()])
    entropy = -torch.special.xlogy(w, w).sum(2)  # (B, c)
    asked = on_part[:, :, None].expand(-1, -1, chosen)  # (B, c, chosen)
    found["mixed"] = _ratio(entropy.exp() / c, on_part)

    relative = norm / norm.mean(1, keepdim=True)  # (B, c)
    for name in ("", "_alike"):
        strength = relative[:, None].expand(-1, c, -1).gather(2, best[name])
        found[f"strength{name}"] = _ratio(strength, asked)
    found["silent"] = _ratio(silent[:, None].expand(-1, c, -1).gather(2, best[""]).float(), asked)
    found["silent_chance"] = _ratio(silent.float(), torch.ones_like(silent))
    return found


def _ratio(values: Tensor, where: Tensor) -> Tensor:
    """The sum of ``values`` over a mask, and its count."""
    return torch.stack([values[where].sum(), where.sum().to(values.dtype)])
