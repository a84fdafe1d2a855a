"""Put a block behind a stage of any backbone, and look at what passes through it.

Every method takes its maps from a backbone's stages, so a block that keeps a map's shape (channel interaction,
squeeze-and-excitation, a non-local block) can stand behind any stage of any method:

>>> import torch
>>> from fgvc_lib.backbones import resnet
>>> from fgvc_lib.layers.channel_interaction import SelfChannelInteraction
>>> from fgvc_lib.methods import BilinearCNN
>>> backbone = resnet("small")
>>> method = BilinearCNN(backbone, 10)
>>> _ = attach(backbone, "layer2", SelfChannelInteraction(backbone.channels["layer2"]))
>>> method(torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])).logits.shape
torch.Size([2, 10])
"""

from __future__ import annotations

from torch import Tensor, nn

from fgvc_lib.backbones import Backbone


class Attached(nn.Module):
    """A block at its place in a backbone.

    Args:
        block: maps ``(B, c, h, w)`` to the same shape.

    Attributes:
        seen: None, or a list to which every pass appends its ``(input, output)``. Whoever sets it to a list sets it
            back to None, so that no graph outlives its step.
    """

    seen: list[tuple[Tensor, Tensor]] | None

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block
        self.seen = None

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.block(x)
        if z.shape != x.shape:
            raise ValueError(
                f"an attached block must keep the shape of its map, {tuple(x.shape)}, got {tuple(z.shape)}"
            )
        if self.seen is not None:
            self.seen.append((x, z))
        return z


def attach(backbone: Backbone, stage: str, block: nn.Module) -> Attached:
    """Put ``block`` behind ``stage``, in place: the stage's output is the block's, for ``forward`` and ``resume``.

    The names of the stage's own parameters stay, so checkpoints of the plain backbone still load (``strict=False``).
    Attach before the optimizer is made, after pretrained weights are loaded.

    Args:
        backbone: changed in place.
        stage: one of ``backbone.stages``.
        block: keeps the shape of ``(B, backbone.channels[stage], h, w)``.

    Returns:
        The block at its place.

    Raises:
        ValueError: no such stage.
    """
    if stage not in backbone.stages:
        raise ValueError(f"no stage {stage!r} to attach to: this backbone has {', '.join(backbone.stages)}")
    attached = Attached(block)
    backbone.blocks[stage].append(attached)  # type: ignore[operator]
    return attached
