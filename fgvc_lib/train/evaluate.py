"""Evaluation: float32, in order, every sample exactly once, however many processes share the work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from fgvc_lib.data import ImageData, Loader
from fgvc_lib.methods import Method
from fgvc_lib.train import distributed


@torch.no_grad()
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
    accuracy = MulticlassAccuracy(len(data.classes), average="micro", validate_args=False).to(device)
    loss = MeanMetric(nan_strategy="disable").to(device)
    if len(getattr(data, split)) == 0:
        return {"accuracy": float("nan"), "loss": float("nan")}
    loader = Loader(data, split, batch_size * world, train=False, seed=0, device=device, rank=rank, world_size=world)
    with evaluation_mode(method):
        for images, labels, _ in loader.epoch(0):
            logits = method(images.contiguous(memory_format=torch.channels_last)).logits.float()  # (B, C)
            accuracy.update(logits, labels)
            loss.update(F.cross_entropy(logits, labels, reduction="none"))  # per image: batches may differ in size
    return {"accuracy": float(accuracy.compute()), "loss": float(loss.compute())}


@torch.no_grad()
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
    method.to(device)
    loader = Loader(data, split, batch_size, train=False, seed=0, device=device)
    logits = [torch.empty(0, len(data.classes))]
    labels = [torch.empty(0, dtype=torch.int64)]
    with evaluation_mode(method):
        for images, y, _ in loader.epoch(0):
            logits.append(method(images.contiguous(memory_format=torch.channels_last)).logits.float().cpu())
            labels.append(y.cpu())
    return torch.cat(logits), torch.cat(labels)


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


def _device_of(method: Method, device: torch.device | str | None) -> torch.device:
    return next(method.parameters()).device if device is None else torch.device(device)
