"""What people ask of a run on their own images: rare classes, the best epoch, more epochs, another run's weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Loader, Split, load
from fgvc_lib.train import CheckpointError, Fitted, Predictor, fit, load_trained, trainer
from fgvc_lib.train.evaluation import labeled_folder
from fgvc_lib.train.model import describe
from fgvc_lib.train.trainer import Trainer


def split(labels: list[int], seed: int = 0) -> Split:
    """Noise, brighter where the label is larger."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 60, (len(labels), 3, 16, 16)) + 60 * np.array(labels)[:, None, None, None]
    return Split(pixels.astype(np.uint8), torch.tensor(labels, dtype=torch.int64))


def a_set(train: list[int], classes: int = 3, **changes: Any) -> ImageData:
    held = [i % classes for i in range(6)]
    names = tuple(f"c{i}" for i in range(classes))
    fields = {"name": "tiny", "fingerprint": "0", "classes": names, "mean": (0.3,) * 3, "std": (0.3,) * 3}
    splits = {"train": split(train), "val": split(held, seed=1), "test": split(held, seed=2)}
    return ImageData(**{**fields, **splits, **changes})


EVEN = [0, 1, 2] * 8
SETTINGS: dict[str, Any] = {"backbone_args": {"depth": "small", "width": 8}, "batch_size": 8, "epochs": 2, "lr": 0.02}


def run(data: ImageData, folder: Path | None = None, **settings: Any) -> Fitted:
    return fit(Config(**{**SETTINGS, **settings}), data=data, device="cpu", folder=folder)


def test_balanced_class_weights_are_a_weighted_mean_of_the_cross_entropy() -> None:
    data = a_set([0] * 12 + [1] * 8 + [2] * 4)
    made = Trainer(Config(**SETTINGS, class_weights="balanced"), data, torch.device("cpu"), None, None, [])
    weights = made.method.class_weights
    assert weights is not None
    assert weights.tolist() == pytest.approx([24 / (3 * 12), 24 / (3 * 8), 24 / (3 * 4)])
    logits, labels = torch.randn(5, 3), torch.tensor([0, 0, 1, 2, 2])
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = (each * weights[labels]).sum() / weights[labels].sum()
    torch.testing.assert_close(made.method.cross_entropy(logits, labels), expected)


def test_balanced_batches_hold_every_class_equally_often() -> None:
    data = a_set([0] * 18 + [1] * 5 + [2])
    made = Trainer(
        Config(**{**SETTINGS, "batch_size": 6}, balanced_batches=True), data, torch.device("cpu"), None, None, []
    )
    for _, labels, _ in made.loader.epoch(0):
        assert labels.bincount(minlength=3).tolist() == [2, 2, 2]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Validation accuracies to be had, one an epoch; the test is scored as it is."""
    coming: list[float] = []
    honest = trainer.evaluate

    def evaluate(method: Any, data: ImageData, name: str) -> dict[str, float]:
        return {"accuracy": coming.pop(0), "loss": 1.0} if name == "val" else honest(method, data, name)

    monkeypatch.setattr(trainer, "evaluate", evaluate)
    return coming


def test_the_best_epoch_is_kept_and_survives_a_stop(scored: list[float], tmp_path: Path) -> None:
    scored += [0.5, 0.9, 0.9, 0.2]
    last = run(a_set(EVEN), epochs=2, schedule="constant")
    best = run(a_set(EVEN), epochs=2, schedule="constant", keep="best")  # 0.9, 0.2
    assert [row["val_accuracy"] for row in best.history] == [0.9, 0.2]
    assert best.final["val_accuracy"] == 0.9
    scored += [0.5]
    one = run(a_set(EVEN), epochs=1, schedule="constant")
    ours, theirs = best.method.state_dict(), one.method.state_dict()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())  # the weights of its first epoch
    assert last.final["val_accuracy"] == 0.9  # of its last epoch, which was the better one
    scored += [0.9, 0.2]
    run(a_set(EVEN), tmp_path, epochs=2, schedule="constant", keep="best")
    again = run(a_set(EVEN), tmp_path, epochs=2, schedule="constant", keep="best")  # nothing left to train
    assert again.final == best.final


def test_patience_counts_the_epochs_since_the_best_one(scored: list[float]) -> None:
    scored += [0.5, 0.7, 0.6, 0.7, 0.9]  # the same again is not better
    fitted = run(a_set(EVEN), epochs=9, patience=2)
    assert [row["val_accuracy"] for row in fitted.history] == [0.5, 0.7, 0.6, 0.7]
    none = a_set(EVEN, val=split([]))
    for settings in ({"patience": 2}, {"keep": "best"}):
        with pytest.raises(ValueError, match="choose by validation images, but tiny holds none out"):
            run(none, **settings)


def test_a_run_starts_from_another_s_weights_whatever_its_classes(tmp_path: Path) -> None:
    first = tmp_path / "first"
    run(a_set(EVEN), first)
    trained, _ = load_trained(first)
    more = run(a_set(EVEN), tmp_path / "more", start=str(first), lr=0.0)
    for name, value in trained.named_parameters():
        assert torch.equal(dict(more.method.named_parameters())[name], value), name
    other = run(a_set([0, 1] * 12, classes=2), start=str(first / "model.pt"), lr=0.0)
    assert torch.equal(next(other.method.backbone.parameters()), next(trained.backbone.parameters()))
    assert len(other.method.head.weight) == 2
    with pytest.raises(ValueError, match="has no layer of this backbone"):
        run(a_set(EVEN), start=str(first), backbone="vgg", backbone_args={"depth": 11, "width": 4, "blocks": 2})
    run(a_set(EVEN), tmp_path / "other", seed=1)
    (first / "model.pt").write_bytes((tmp_path / "other" / "model.pt").read_bytes())
    with pytest.warns(UserWarning, match="belongs to another run"), pytest.raises(CheckpointError, match="start is"):
        run(a_set(EVEN), tmp_path / "more", start=str(first), lr=0.0)


def test_a_transform_of_one_s_own_sees_one_image_and_is_the_same_on_any_number_of_ranks() -> None:
    seen = []

    def shift(image: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(image.shape))
        return image + torch.rand(())

    data = dataclasses.replace(a_set(EVEN), augment=("flip", shift))
    before = torch.get_rng_state()

    def batches(rank: int, ranks: int) -> list[torch.Tensor]:
        made = Loader(data, "train", 8, train=True, seed=0, device="cpu", rank=rank, world_size=ranks)
        return [images for images, _, _ in made.epoch(1)]

    alone, first, second = batches(0, 1), batches(0, 2), batches(1, 2)
    assert set(seen) == {(3, 16, 16)}
    for whole, a, b in zip(alone, first, second, strict=True):
        torch.testing.assert_close(whole, torch.cat([a, b]))
    plain = dataclasses.replace(data, augment=("flip",))
    flipped = next(Loader(plain, "train", 8, train=True, seed=0, device="cpu").epoch(1))[0]
    shifts = (alone[0] - flipped).flatten(1)
    assert shifts.std(1).max() < 1e-5
    assert len(shifts[:, 0].unique()) == 8
    assert torch.equal(torch.get_rng_state(), before)


def test_prediction_and_another_folder_are_letterboxed_as_training_was(tmp_path: Path) -> None:
    for c, name in enumerate(("dark", "bright")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng(10 * c + i).integers(0, 120, (20, 40, 3)) + 100 * c
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    data_args = {"root": str(tmp_path / "set"), "image_size": 16, "letterbox": True, "val_fraction": 0.2}
    config = Config(**{**SETTINGS, "batch_size": 4}, max_steps=1, data="folder", data_args=data_args)
    data = load("folder", **data_args)
    fitted = fit(config, data=data, device="cpu")
    predictor = Predictor(fitted.method, describe(config, data))
    picture = predictor.prepare(tmp_path / "set" / data.test.keys[0])
    np.testing.assert_array_equal(np.asarray(picture).transpose(2, 0, 1), data.test.images[0])
    assert np.asarray(picture)[0, 0].tolist() == [124, 116, 104]
    again = labeled_folder(predictor.info, tmp_path / "set", split="test")
    np.testing.assert_array_equal(again.test.images[0][:, 0, 0], [124, 116, 104])


def test_a_finished_run_is_found_with_what_it_froze(tmp_path: Path) -> None:
    first, again = (run(a_set(EVEN), tmp_path, frozen_stages=1) for _ in range(2))
    frozen = [name for name, p in first.method.named_parameters() if not p.requires_grad]
    assert frozen
    assert frozen == [name for name, p in again.method.named_parameters() if not p.requires_grad]
