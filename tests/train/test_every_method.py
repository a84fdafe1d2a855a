"""The loop serves every method with everything switched on, and every trained parameter gets a gradient each step."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import METHODS
from fgvc_lib.train import fit, load_trained, loop, predict

TINY: dict[str, dict[str, Any]] = {
    "ap_cnn": {"pyramid": {"channels": 8}, "hidden": 8},
    "mutual_channel": {"xi": 2},
    "tasn": {
        "attention": {"backbone": {"backbone": "resnet", "depth": "small", "width": 4}, "input_size": 32},
        "input_size": 32,
    },
}
"""What makes a method small enough for a test."""


def split(n: int, seed: int) -> Split:
    pixels = np.random.default_rng(seed).integers(0, 255, (n, 3, 32, 32), dtype=np.uint8)
    return Split(pixels, torch.arange(n) % 8)


DATA = ImageData(
    name="tiny",
    fingerprint="0",
    classes=tuple("abcdefgh"),
    train=split(80, 0),
    val=split(9, 1),
    test=split(5, 2),
    mean=(0.5,) * 3,
    std=(0.3,) * 3,
    augment=("crop", "flip"),
)


@pytest.mark.parametrize("name", METHODS)
def test_with_everything_switched_on(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    without: set[str] = set()

    def step(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> bool:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        without.update(f"{i}" for i, p in enumerate(trained) if p.grad is None)  # DistributedDataParallel would hang
        return taken(optimizer, *args, **kwargs)

    taken = loop.optimizer_step
    monkeypatch.setattr(loop, "optimizer_step", step)
    config = Config(
        method=name,
        method_args=TINY.get(name, {}),
        backbone_args={"depth": "small", "width": 4},
        batch_size=40,
        accumulate=2,
        epochs=2,
        max_steps=3,
        lr=0.01,
        warmup=0.3,
        clip=1.0,
        ema=0.5,
        label_smoothing=0.1,
        precision="bfloat16",
    )
    fitted = fit(config, data=DATA, folder=tmp_path)
    assert not without
    assert fitted.timing["steps"] == 3
    for row in fitted.history:
        assert all(math.isfinite(v) for v in row.values() if isinstance(v, float))
    logits, labels = predict(load_trained(tmp_path)[0], DATA, "test")
    assert logits.shape == (5, 8)
    assert fitted.final["test_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
