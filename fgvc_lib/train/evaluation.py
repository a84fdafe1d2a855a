"""Evaluation: float32, in order, every sample exactly once, however many processes share the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from fgvc_lib.data import ImageData, Loader
from fgvc_lib.methods import Method
from fgvc_lib.train import distributed


def evaluate(
    method: Method, data: ImageData, split: str, *, batch_size: int = 256, device: torch.device | str | None = None
) -> dict[str, float]:
    """Top-1 accuracy and mean cross-entropy (without label smoothing) on a split, over all processes.

    Args:
        method: its mode is left as it was.
        data: the set.
        split: ``"train"``, ``"val"`` or ``"test"``.
        batch_size: images at once, on each process.
        device: where the method is; by default where its parameters are.

    Returns:
        ``accuracy`` in [0, 1] and ``loss`` in nats; NaN for an empty split.
    """
    device = _device_of(method, device)
    rank, world = distributed.rank(), distributed.world_size()
    loader = Loader(data, split, batch_size * world, train=False, seed=0, device=device, rank=rank, world_size=world)
    sums = torch.zeros(3, dtype=torch.float64, device=device)  # right answers, cross-entropies, images
    for logits, labels in _outputs(method, loader):
        losses = F.cross_entropy(logits, labels, reduction="none")  # (B,)
        right = logits.argmax(1) == labels  # (B,)
        sums += torch.stack([right, losses, torch.ones_like(losses)]).double().sum(1)
    sums = distributed.total(sums)
    accuracy, loss = (sums[:2] / sums[2]).tolist()
    return {"accuracy": accuracy, "loss": loss}


def predict(
    method: Method, data: ImageData, split: str, *, batch_size: int = 256, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Logits of a whole split, in its order.

    Args:
        method: used in evaluation mode; its mode is left as it was.
        data: the set.
        split: ``"train"`` (without augmentation), ``"val"`` or ``"test"``.
        batch_size: images at once.
        device: where to compute; the method is moved there. By default where its parameters are.

    Returns:
        logits ``(N, C)`` float32 and labels ``(N,)``, on the CPU.
    """
    device = _device_of(method, device)
    loader = Loader(data, split, batch_size, train=False, seed=0, device=device)
    all_logits = [torch.empty(0, len(data.classes))]
    all_labels = [torch.empty(0, dtype=torch.int64)]
    for logits, labels in _outputs(method.to(device), loader):
        all_logits.append(logits.cpu())
        all_labels.append(labels.cpu())
    return torch.cat(all_logits), torch.cat(all_labels)


@contextmanager
def evaluation_mode(method: Method) -> Iterator[None]:
    """Evaluation mode for a while; afterwards every module is in the mode it was in, frozen ones too."""
    modes = {module: module.training for module in method.modules()}
    method.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def _outputs(method: Method, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits ``(B, C)`` float32 and labels ``(B,)`` of every batch, on the loader's device."""
    with evaluation_mode(method):
        for images, labels, _ in loader.epoch(0):
            with torch.no_grad():
                logits = method(images.contiguous(memory_format=torch.channels_last)).logits.float()
            yield logits, labels


def _device_of(method: Method, device: torch.device | str | None) -> torch.device:
    return next(method.parameters()).device if device is None else torch.device(device)
