"""What holds for every method, alone and in the loop, which serves each with everything switched on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fgvc_lib.backbones import resnet
from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import METHODS, Method, Output
from fgvc_lib.train import fit, load_trained, predict, trainer

TINY: dict[str, dict[str, Any]] = {
    "ap_cnn": {"pyramid": {"channels": 8}, "hidden": 8},
    "mutual_channel": {"xi": 4},
    "tasn": {
        "attention": {"backbone": {"backbone": "resnet", "depth": "small", "width": 8}, "input_size": 32},
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


every_method = pytest.mark.parametrize("name", METHODS)


def small(name: str) -> Method:
    torch.manual_seed(0)
    method: Method = METHODS[name](resnet("small", width=8), 8, **TINY.get(name, {}))  # type: ignore[call-arg]
    return method


def batch(n: int = 20) -> tuple[Tensor, Tensor]:
    """Images and labels, five of each of four classes in the first 20."""
    return torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(1)), torch.arange(n) // 5 % 8


def loss_of(method: Method, images: Tensor, labels: Tensor) -> Tensor:
    """The training loss, with the same draws at every call."""
    method.train().seed(0)
    return method(images, labels).loss


@every_method
@pytest.mark.parametrize(
    "dtype", [getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)], ids=str
)
def test_labels_are_integers_of_any_type(name: str, dtype: torch.dtype) -> None:
    images, labels = batch()
    method, expected = small(name), loss_of(small(name), images, labels)
    assert torch.equal(loss_of(method, images, labels.to(dtype)), expected)
    method.after_step([method(images, labels.to(dtype)).state])


@every_method
def test_other_labels_are_refused(name: str) -> None:
    method, (images, labels) = small(name), batch()
    for bad in (labels.float(), labels.bool(), labels[:3], labels[:, None]):
        for mode in (True, False):
            with pytest.raises(ValueError, match=r"labels must be integers of shape \(20,\), got"):
                method.train(mode)(images, bad)


@every_method
def test_an_empty_batch_is_refused_in_training_and_predicts_nothing_otherwise(name: str) -> None:
    method, (images, labels) = small(name), batch(0)
    with pytest.raises(ValueError, match="a training batch needs at least one image, got an empty one"):
        method(images, labels)
    assert method.eval()(images).logits.shape == (0, 8)
    assert method(images, labels).logits.shape == (0, 8)


@every_method
def test_one_image_trains_or_is_refused_in_one_sentence(name: str) -> None:
    method, (images, labels) = small(name), batch(1)
    if any(isinstance(module, nn.BatchNorm1d) for module in method.modules()):
        with pytest.raises(ValueError, match="needs at least 2 images, got 1"):
            method(images, labels)
    else:
        assert method(images, labels).loss.isfinite()
    assert method.eval()(images).logits.shape == (1, 8)


@every_method
def test_what_is_not_the_loss_carries_no_graph(name: str) -> None:
    out = small(name)(*batch())
    assert out.loss.requires_grad
    assert not [key for key, value in (out.maps | out.state).items() if value.requires_grad]


@every_method
def test_a_float64_method_computes_in_float64_throughout(name: str) -> None:
    """One step through float32 would show as noise of 1e-7 in differences of 1e-8."""
    method, (images, labels) = small(name).double(), batch()
    images = images.double()
    start = nn.utils.parameters_to_vector(method.parameters()).detach()
    direction = torch.randn(start.shape, dtype=torch.float64) * start.abs().mean()

    def slope(step: float) -> float:
        values = []
        for sign in (1, -1):
            nn.utils.vector_to_parameters(start + sign * step * direction, method.parameters())
            loss = loss_of(method, images, labels)
            assert loss.dtype == torch.float64
            values.append(loss.item())
        return (values[0] - values[1]) / (2 * step)

    assert slope(1e-8) == pytest.approx(slope(1e-7), rel=1e-3)
    assert method.eval()(images).logits.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cross_entropy_and_loss_of_half_logits_are_float32(dtype: torch.dtype) -> None:
    logits, labels = (9 * torch.randn(6, 8)).to(dtype), torch.arange(6)
    loss = Method().cross_entropy(logits, labels)
    torch.testing.assert_close(loss, nn.functional.cross_entropy(logits.float(), labels))
    terms = {"a": torch.tensor(2048.0, dtype=dtype), "b": torch.tensor(1.0, dtype=dtype)}  # 2049 needs 12 bits
    torch.testing.assert_close(Output(logits, terms).loss, torch.tensor(2049.0))


@every_method
def test_prediction_exports_for_any_number_of_images_without_reading_its_code(name: str) -> None:
    class Logits(nn.Module):
        def __init__(self, method: Method) -> None:
            super().__init__()
            self.method = method

        def forward(self, images: Tensor) -> Tensor:
            return self.method(images).logits  # type: ignore[no-any-return]

    method, (images, _) = small(name).eval(), batch(5)
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(Logits(method), (images[:3],), dynamic_shapes=dynamic, strict=False)
    torch.testing.assert_close(program.module()(images), method(images).logits, rtol=1e-4, atol=1e-5)


@every_method
def test_with_everything_switched_on(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    without: set[str] = set()

    def step(optimizer: torch.optim.Optimizer, *args: Any, **kwargs: Any) -> bool:
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        without.update(f"{i}" for i, p in enumerate(trained) if p.grad is None)  # DistributedDataParallel would hang
        return taken(optimizer, *args, **kwargs)

    taken = trainer.optimizer_step
    monkeypatch.setattr(trainer, "optimizer_step", step)
    config = Config(
        method=name,
        method_args=TINY.get(name, {}),
        backbone_args={"depth": "small", "width": 8},
        batch_size=40,
        grad_accum_steps=2,
        epochs=2,
        max_steps=3,
        lr=0.01,
        warmup=0.3,
        grad_clip_norm=1.0,
        ema_decay=0.5,
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
