"""A trained method on new images, of whatever kind they come."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from fgvc_lib.config import Config
from fgvc_lib.data.decoding import load_square
from fgvc_lib.data.files import Item
from fgvc_lib.data.images import BadImage
from fgvc_lib.methods import Method, Output
from fgvc_lib.train.inference import Predictor, attention_map, overlay
from fgvc_lib.train.model import Info, build_for

CLASSES = ("ant", "bee", "cat")


def predictor(*, method: str = "baseline", channels: int = 3, resize: int = 24, **settings: object) -> Predictor:
    config = Config(
        method=method, backbone_args={"depth": "small", "width": 8}, data_args={"image_size": 16, "resize": resize}
    )
    mean, std = (0.4, 0.5, 0.6)[:channels], (0.2, 0.3, 0.4)[:channels]
    made = build_for(config, num_classes=3, channels=channels, image_size=16)
    info = Info(config.to_dict(), {"name": "toy", "fingerprint": "0"}, CLASSES, mean, std, 16, "")
    return Predictor(made, info, **settings)  # type: ignore[arg-type]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_one_preparation_for_training_and_use(tmp_path: Path) -> None:
    """A photograph as a phone stores it: on its side, with a note how to turn it."""
    note = Image.Exif()
    note[0x0112] = 6
    Image.fromarray(noise(40, 60, 3)).save(tmp_path / "phone.jpg", exif=note)
    seen = predictor().prepare(tmp_path / "phone.jpg")
    trained, size = load_square(Item(tmp_path / "phone.jpg", "", 0), resize=24, side=16, upright=True)
    assert size == (40, 60)  # upright
    assert seen.size == (16, 16)
    assert np.array_equal(np.asarray(seen), np.asarray(trained))


def test_paths_bytes_pictures_and_arrays_are_the_same_image(tmp_path: Path) -> None:
    pixels = noise(30, 40, 3)
    path, memory = tmp_path / "a.png", io.BytesIO()
    Image.fromarray(pixels).save(path)
    Image.fromarray(pixels).save(memory, format="PNG")
    sources = [path, str(path), memory.getvalue(), Image.open(path), pixels]
    found = predictor(batch_size=2)(*sources)
    assert [prediction.source for prediction in found[:2]] == sources[:2]
    for prediction in found:
        torch.testing.assert_close(prediction.probabilities, found[0].probabilities)
        assert prediction.probabilities.sum() == pytest.approx(1)
        assert prediction.image.size == (16, 16)
    best = found[0].best(2)
    assert [name for name, _ in best] == [CLASSES[i] for i in found[0].probabilities.topk(2).indices]
    assert best[0][1] == pytest.approx(float(found[0].probabilities.max()))


def test_the_probabilities_are_the_methods_on_normalized_pixels() -> None:
    made, pixels = predictor(resize=16), noise(16, 16, 3)
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255
    images = (images - torch.tensor([0.4, 0.5, 0.6]).view(3, 1, 1)) / torch.tensor([0.2, 0.3, 0.4]).view(3, 1, 1)
    with torch.no_grad():
        output = made.method(images)
        mirrored = made.method(images.flip(3))
    (found,) = made(pixels)
    torch.testing.assert_close(found.probabilities, output.logits.softmax(1)[0])
    torch.testing.assert_close(found.embedding, output.maps["features"].mean((2, 3))[0])
    (both,) = predictor(resize=16, flips=True)(pixels)
    torch.testing.assert_close(both.probabilities, (output.logits.softmax(1)[0] + mirrored.logits.softmax(1)[0]) / 2)
    assert not torch.allclose(both.probabilities, found.probabilities)


def test_gray_models_and_alpha() -> None:
    (found,) = predictor(channels=1)(noise(20, 20))
    assert found.image.mode == "L"
    clear = noise(20, 20, 4)
    clear[..., 3] = 0
    white = np.full((20, 20, 3), 255, np.uint8)
    made = predictor()
    torch.testing.assert_close(*(prediction.probabilities for prediction in made(clear, white)))


def test_what_is_no_image() -> None:
    made = predictor()
    with pytest.raises(BadImage, match="an image of 9 bytes cannot be read as an image"):
        made(b"not image")
    with pytest.raises(TypeError, match="Cannot handle this data type"):
        made(np.zeros((4, 4, 3)))
    skipped: list[BadImage] = []
    found = list(made.stream([b"", noise(8, 8, 3), b"x"], skipped=skipped))
    assert len(found) == 1
    assert [str(error).partition(" cannot")[0] for error in skipped] == [
        "an image of 0 bytes",
        "an image of 1 bytes",
    ]


def test_overlay_and_a_method_without_a_map() -> None:
    (found,) = predictor(method="mutual_channel")(noise(20, 20, 3))
    assert found.overlay().size == (16, 16)
    (found,) = predictor(method="center")(noise(20, 20, 3))
    assert found.embedding.shape == (32,)
    with pytest.raises(ValueError, match="no spatial map"):
        found.overlay()


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
    found = Predictor(method, info, batch_size=2)(*[tmp_path / "x.png"] * 3)
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
