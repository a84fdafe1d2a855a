"""New image files: what a method is shown of them, and where it looked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fgvc_lib.methods import Method, Output
from fgvc_lib.train.inference import attention_map, overlay, predict_files
from fgvc_lib.train.model import Info


class Sees(Method):
    """Keeps what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        assert not self.training
        self.seen.append(images)
        return Output(images.mean((2, 3)), maps={"attention": images})


def test_a_file_is_prepared_as_evaluation_images_are(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    config = {"data_args": {"resize": 12}}
    info = Info(config, {}, tuple("abc"), mean=(0.5, 0.4, 0.3), std=(0.25, 0.2, 0.1), image_size=8, version="0")
    method = Sees().train()
    found = list(predict_files(method, info, [tmp_path / "x.png"] * 3, batch_size=2))
    middle = torch.from_numpy(pixels[2:10, 2:10].astype(np.float32)).permute(2, 0, 1) / 255  # (3, 8, 8)
    expected = (middle - torch.tensor(info.mean).view(3, 1, 1)) / torch.tensor(info.std).view(3, 1, 1)
    assert [len(images) for images in method.seen] == [2, 1]
    for prediction, shown in zip(found, torch.cat(method.seen), strict=True):
        torch.testing.assert_close(shown, expected)
        torch.testing.assert_close(prediction.probabilities, expected.mean((1, 2)).softmax(0))
        assert np.array_equal(np.asarray(prediction.image), pixels[2:10, 2:10])
        assert prediction.attention is not None
        torch.testing.assert_close(prediction.attention, expected.abs().mean(0))


def test_attention_counts_before_masks_and_masks_before_features() -> None:
    names = ("features", "mask_level5", "attention")
    maps = {name: torch.full((1, 2, 3, 3), float(-n)) for n, name in enumerate(names)}
    for strongest in (2.0, 1.0, 0.0):
        found = attention_map(maps)
        assert found is not None
        assert torch.equal(found, torch.full((1, 3, 3), strongest))
        maps.popitem()
    assert attention_map({"features": torch.ones(1, 8, 1, 1), "union_box": torch.ones(1, 1, 4)}) is None


def test_colors_of_an_overlay_are_relative_to_the_map_and_mixed_by_strength() -> None:
    image, attention = Image.new("RGB", (6, 4), (40, 80, 120)), torch.tensor([[0.0, 2.0], [1.0, 3.0]])
    drawn = overlay(image, attention)
    assert drawn.size == (6, 4)
    assert np.array_equal(np.asarray(drawn), np.asarray(overlay(image, 10 * attention - 5)))
    assert len(np.unique(np.asarray(drawn).reshape(-1, 3), axis=0)) > 4
    assert np.array_equal(np.asarray(overlay(image, attention, strength=0.0)), np.asarray(image))
    flat = np.asarray(overlay(image, torch.ones(2, 2), strength=1.0)).reshape(-1, 3)
    assert (flat == flat[0]).all()
    assert flat[0].tolist() == pytest.approx([68, 1, 84], abs=1)  # the least value of viridis
