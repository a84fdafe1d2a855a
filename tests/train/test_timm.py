"""timm's networks from the first step to a deployed file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.export import export
from fgvc_lib.train import Predictor, fit, load_trained

FAMILIES = ["tf_efficientnet_lite0", "mobilenetv3_small_050", "resnet10t", "regnetx_002", "convnext_atto"]


@pytest.fixture
def data() -> ImageData:
    """Two classes of 64 × 64 noise, dark and bright."""
    random = np.random.default_rng(0)

    def split(count: int) -> Split:
        labels = torch.arange(count) % 2
        pixels = random.integers(0, 128, (count, 3, 64, 64)) + 127 * labels.numpy()[:, None, None, None]
        return Split(pixels.astype(np.uint8), labels)

    return ImageData("noise", "0" * 16, ("dark", "bright"), split(8), split(2), split(4), (0.4,) * 3, (0.2,) * 3)


def settings(name: str, *, pretrained: bool = False) -> Config:
    backbone_args = {"name": name, "pretrained": pretrained}
    return Config(backbone="timm", backbone_args=backbone_args, epochs=1, batch_size=4, lr=0.01, backbone_lr_scale=0.1)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_every_family_trains_predicts_and_is_exported(name: str, data: ImageData, tmp_path: Path) -> None:
    fitted = fit(settings(name), data=data, device="cpu", folder=tmp_path / "run")
    assert fitted.timing["steps"] == 2
    Image.fromarray(np.full((50, 70, 3), 200, np.uint8)).save(tmp_path / "photo.png")
    method, info = load_trained(tmp_path / "run")
    (found,) = Predictor(method, info)(tmp_path / "photo.png")
    assert float(found.probabilities.sum()) == pytest.approx(1, abs=1e-5)
    export(method, info, tmp_path / "model.pt2")  # compares what the file computes with the method


def test_a_saved_model_knows_its_normalization_and_needs_no_weights_again(
    data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = fit(settings("tf_efficientnet_lite0", pretrained=True), data=data, device="cpu", folder=tmp_path)
    backbone = fitted.method.backbone
    assert isinstance(backbone.scale, torch.Tensor)
    assert backbone.scale.flatten().tolist() == pytest.approx([0.2 / 0.5] * 3)  # the data's deviation, the weights'
    assert backbone.shift.flatten().tolist() == pytest.approx([(0.4 - 0.5) / 0.5] * 3)
    monkeypatch.setattr("fgvc_lib.backbones.weights.packaged", lambda name: pytest.fail("looked for weights again"))
    method, _ = load_trained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(method(images).logits, fitted.method.eval()(images).logits)
