"""Held-out validation and small subsets, decided per class by a hash and nothing else."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def hold_out(keys: Sequence[str], labels: Tensor, *, fraction: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split positions into a kept and a held-out part, class by class.

    Within a class the samples are ordered by the SHA-256 of ``seed`` and their key, and the first ones are held
    out. So the split depends on no library's random numbers, is the same on every machine, and does not move
    when another class is added.

    Args:
        keys: one name per sample that does not depend on the machine, such as the path inside the set.
        labels: ``(N,)`` class indices.
        fraction: of each class to hold out, rounded to the nearest image, but at least one image and never all.
            A class with a single image keeps it: it is trained on and not validated.
        seed: another one gives another split.

    Returns:
        Positions of the kept and of the held-out samples, each ascending.

    Raises:
        ValueError: ``fraction`` outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"the fraction to hold out must be in [0, 1), got {fraction}")
    held: list[int] = []
    for positions in by_class(labels):
        n = len(positions)
        count = 0 if fraction == 0 else min(max(1, int(fraction * n + 0.5)), n - 1)
        held += hash_order(keys, positions, seed=seed)[:count]
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.tensor(held, dtype=torch.long)] = True
    return (~mask).nonzero().flatten(), mask.nonzero().flatten()


def take_per_class(keys: Sequence[str], labels: Tensor, *, count: int, seed: int = 0) -> Tensor:
    """Positions, ascending, of ``count`` samples of each class (all of a smaller class), chosen by hash."""
    if count < 1:
        raise ValueError(f"per_class must be at least 1, got {count}")
    chosen = [i for positions in by_class(labels) for i in hash_order(keys, positions, seed=seed)[:count]]
    return torch.tensor(sorted(chosen), dtype=torch.long)


def by_class(labels: Tensor) -> list[list[int]]:
    """The positions of each class that occurs, classes ascending."""
    values = labels.numpy()
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-1))
    return [part.tolist() for part in np.split(order, starts[1:])] if len(order) else []


def hash_order(keys: Sequence[str], positions: Sequence[int], *, seed: int) -> list[int]:
    """``positions`` in the order of the SHA-256 of ``seed`` and their key, whatever bytes a file's name has."""
    return sorted(
        positions, key=lambda i: hashlib.sha256(f"{seed}/{keys[i]}".encode("utf8", "surrogateescape")).digest()
    )
