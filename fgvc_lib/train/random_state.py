"""The global random states of Python, NumPy and torch, as one thing that can be seeded, saved and put back."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - third-party code may draw from the global generator
    torch.manual_seed(seed)


def get_random_state(device: torch.device) -> dict[str, Any]:
    """All global states, as tensors and plain data that ``torch.load(weights_only=True)`` accepts."""
    version, words, gauss = random.getstate()
    words_of_numpy: Any
    name, words_of_numpy, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, torch.from_numpy(words_of_numpy.astype(np.int64)), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`get_random_state` returned."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def private_random_state(device: torch.device) -> Iterator[None]:
    """Whatever is seeded and drawn inside, outside nothing has changed."""
    state = get_random_state(device)
    try:
        yield
    finally:
        set_random_state(state, device)
