"""Evaluation: float32, in order, every sample exactly once, however many processes share the work."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fgvc_lib.data import ImageData, Loader
from fgvc_lib.data.decoding import decode_all
from fgvc_lib.data.image_folder import labeled_files
from fgvc_lib.data.listing import some
from fgvc_lib.methods import Method
from fgvc_lib.train import distributed
from fgvc_lib.train.model import Info

BATCH_SIZE = 64  # larger ones cost a CPU more time for memory than they save


def evaluate(method: Method, data: ImageData, split: str, *, batch_size: int = BATCH_SIZE) -> dict[str, float]:
    """Top-1 accuracy and mean cross-entropy (without label smoothing) on a split, over all processes.

    Args:
        method: its mode is left as it was.
        data: the set.
        split: ``"train"``, ``"val"`` or ``"test"``.
        batch_size: images at once, on each process.

    Returns:
        ``accuracy`` in [0, 1] and ``loss`` in nats; NaN for an empty split.
    """
    device = next(method.parameters()).device
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


def score(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """How good predictions are, as a whole and class by class; plain data.

    Args:
        logits: ``(N, C)``.
        labels: ``(N,)``.
        classes: their names.

    Returns:
        ``images``; ``accuracy``, and ``macro_accuracy``, its mean over the classes that have an image, so that frequent
        ones do not drown the others; ``loss``, the mean cross-entropy in nats; ``calibration_error``, the mean gap of
        :func:`calibration`; ``classes``, for each its ``images`` and
        its ``accuracy``; ``without_images``, the names of classes that nothing is known about. NaN is None.
    """
    right = logits.argmax(1) == labels  # (N,)
    counts = labels.bincount(minlength=len(classes))  # (C,)
    hits = labels[right].bincount(minlength=len(classes))  # (C,)
    present = counts > 0
    promised, kept, size = calibration(logits, labels)
    known = len(labels) > 0
    shown: dict[str, Any] = {
        "images": len(labels),
        "accuracy": float(right.double().mean()),
        "macro_accuracy": float((hits[present] / counts[present]).double().mean()),
        "loss": float(F.cross_entropy(logits.double(), labels)) if known else None,
        "calibration_error": float(np.average(np.abs(promised - kept), weights=size)) if known else None,
        "classes": {
            name: {"images": n, "accuracy": hit / n}
            for name, n, hit in zip(classes, counts.tolist(), hits.tolist(), strict=True)
            if n
        },
        "without_images": [name for name, n in zip(classes, counts.tolist(), strict=True) if not n],
    }
    return {key: finite(value) for key, value in shown.items()}


def calibration(logits: Tensor, labels: Tensor, *, groups: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the predictions promise and what they keep, in groups of equally many images, the least sure first.

    Returns:
        Mean probability of the predicted class, fraction that is right, and number of images, a value a group.
    """
    sure, guess = logits.softmax(1).max(1)
    parts = [part for part in sure.argsort().chunk(groups) if len(part)]
    promised = np.array([float(sure[part].mean()) for part in parts])
    kept = np.array([float((guess == labels)[part].double().mean()) for part in parts])
    return promised, kept, np.array([len(part) for part in parts])


def finite(value: Any) -> Any:
    """Plain data with None for what JSON has no number for: NaN and infinity."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_classes(info: Info, data: ImageData) -> None:
    """Refuse to score a model on a set whose labels mean other classes, and say which."""
    if data.classes != info.classes:
        here, there = (
            [name for name in a if name not in b]
            for a, b in ((data.classes, info.classes), (info.classes, data.classes))
        )
        what = f"{some(here) or 'none'} instead of {some(there) or 'none'}" if here or there else "in another order"
        raise ValueError(
            f"{data.name} has other classes than {info.data['name']}, which the model was trained on: {what}"
        )


def labeled_folder(info: Info, root: str, *, split: str | None = None, skip_bad: bool = False) -> ImageData:
    """All labeled images of a folder as the split ``test``, prepared as those that a model was trained on.

    Args:
        info: of the model.
        root, split: see :func:`fgvc_lib.data.image_folder.labeled_files`; some of the model's classes will do.
        skip_bad: leave out files that cannot be read.

    Raises:
        ValueError: classes that the model does not know, or a model of gray images.
    """
    if len(info.mean) != 3:
        raise ValueError(f"the model takes images of {len(info.mean)} channel, a folder has color images")
    files = labeled_files(root=root, classes=info.classes, split=split)
    data = decode_all(
        files,
        image_size=info.image_size,
        resize=info.resize,
        letterbox=info.letterbox,
        val_fraction=0,
        skip_bad=skip_bad,
    )
    return replace(data, mean=info.mean, std=info.std)


def predict(
    method: Method,
    data: ImageData,
    split: str,
    *,
    batch_size: int = BATCH_SIZE,
    device: torch.device | str | None = None,
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
    device = next(method.parameters()).device if device is None else device
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
