"""The loop on sets of a few images: what one step does, what a phase freezes, what stops a run."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Loader, Split
from fgvc_lib.methods import METHODS, Method, Output, Phase
from fgvc_lib.train import CompileError, Fitted, NonFiniteLoss, build, evaluate, fit, load_trained, predict, trainer
from fgvc_lib.train.evaluation import evaluation_mode

SMALL: dict[str, Any] = {"backbone": "resnet", "backbone_args": {"depth": "small", "width": 8}}


def images(n: int, classes: int = 3, size: int = 16, seed: int = 0) -> Split:
    """Noise on a class-dependent stripe, so that there is something to learn."""
    labels = torch.arange(n) % classes
    pixels = np.random.default_rng(seed).integers(0, 120, (n, 3, size, size), dtype=np.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, label % 3, 4 * (label // 3) : 4 * (label // 3) + 4] += 120
    return Split(pixels, labels)


def a_set(n: int = 24, classes: int = 3, **changes: Any) -> ImageData:
    names = tuple(f"c{i}" for i in range(classes))
    splits = {"train": images(n, classes), "val": images(7, classes, seed=1), "test": images(5, classes, seed=2)}
    fields = {"name": "tiny", "fingerprint": "0", "classes": names, "mean": (0.3,) * 3, "std": (0.3,) * 3}
    return ImageData(**{**fields, **splits, **changes})


class Probe(Method):
    """A linear net with everything that the loop serves: a buffer moved by ``after_step``, phases, an odd loss."""

    poison_at: int | None = None
    factor = 1.0

    def __init__(self, backbone: Backbone, num_classes: int, *, phases: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, num_classes)
        self.number_of_phases = phases
        self.moved: Tensor
        self.register_buffer("moved", torch.zeros(4))
        self.calls: list[int] = []
        self.ces: list[float] = []
        self.forwards = 0

    def phases(self) -> list[Phase]:
        everything = Phase([{"params": list(self.parameters())}], fraction=1 / self.number_of_phases, name="all")
        if self.number_of_phases == 1:
            return [everything]
        head = [{"params": list(self.head.parameters()), "lr_scale": 10.0, "weight_decay": 0.0}]
        return [Phase(head, fraction=0.5, name="head"), everything]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        features = self.body(images).mean((2, 3))
        logits = self.head(features)
        if not self.training or labels is None:
            return Output(logits)
        self.forwards += 1
        odd = 0 * logits.sum()
        if self.forwards == type(self).poison_at:
            odd = odd * float("inf")
        terms = {"ce": self.cross_entropy(logits, labels) * self.factor, "odd": odd}
        self.ces.append(terms["ce"].item())
        return Output(logits, terms, state={"mean": features.detach().float().mean(0)})

    def after_step(self, states: list[dict[str, Tensor]]) -> None:
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        self.calls.append(len(states))
        self.moved += torch.stack([state["mean"] for state in states]).mean(0)


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Probe]]:
    monkeypatch.setitem(METHODS, "probe", Probe)
    yield Probe
    Probe.poison_at, Probe.factor = None, 1.0


def run(**settings: Any) -> Fitted:
    data = settings.pop("on", None) or a_set()
    fitting = {k: settings.pop(k) for k in ("folder", "save_every", "progress", "tensorboard") if k in settings}
    return fit(Config(**{**SMALL, "batch_size": 8, "epochs": 2, **settings}), data=data, **fitting)


def same(a: nn.Module, b: nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in mine.items())


def test_it_overfits_eight_images() -> None:
    eight = images(8, classes=8)
    data = a_set(8, 8, train=eight, val=eight, test=eight)
    fitted = run(on=data, epochs=40, lr=0.1, weight_decay=0.0)
    assert fitted.final["test_accuracy"] == fitted.final["val_accuracy"] == 1.0
    assert fitted.final["val_loss"] < 0.1
    logits, labels = predict(fitted.method, data, "train")
    assert torch.equal(logits.argmax(1), labels)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_weights_move_exactly_once_per_step(clip: float | None) -> None:
    config = Config(**SMALL, batch_size=8, epochs=2, lr=0.1, warmup=0.5, schedule="constant", grad_clip_norm=clip)
    data = a_set()
    reference = build(config, data).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    loader = Loader(data, "train", 8, train=True, seed=0, device="cpu")
    for step in range(6):
        x, y, _ = list(loader.epoch(step // 3))[step % 3]
        optimizer.param_groups[0]["lr"] = 0.1 * min(1.0, (step + 1) / 3)
        optimizer.zero_grad()
        reference(x.contiguous(memory_format=torch.channels_last), y).loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(reference.parameters(), clip)
        optimizer.step()
    fitted = fit(config, data=data)
    assert fitted.timing["steps"] == 6
    assert same(fitted.method, reference)


def test_accumulated_micro_batches_make_the_same_step(probe: type[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: x)  # the one layer that sees the micro-batch
    whole, parts = run(method="probe"), run(method="probe", grad_accum_steps=4)
    assert parts.method.calls == [4] * 6  # type: ignore[comparison-overlap]
    assert whole.method.calls == [1] * 6  # type: ignore[comparison-overlap]
    for name, value in whole.method.state_dict().items():
        torch.testing.assert_close(parts.method.state_dict()[name], value, rtol=1e-4, atol=1e-6)
    for name in ("ce", "train_accuracy"):
        assert parts.history[-1][name] == pytest.approx(whole.history[-1][name], rel=1e-5)


def test_history_and_scores_are_those_of_the_run(probe: type[Probe]) -> None:
    data = a_set()
    fitted = run(method="probe", on=data, epochs=3)
    keys = ["epoch", "phase", "lr", "loss", "ce", "odd", "train_accuracy", "val_accuracy", "val_loss", "seconds"]
    assert [list(row) for row in fitted.history] == [keys] * 3
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3]
    assert all(row["loss"] == row["ce"] for row in fitted.history)
    ces: list[float] = fitted.method.ces  # type: ignore[assignment]
    assert [row["ce"] for row in fitted.history] == pytest.approx([sum(ces[i : i + 3]) / 3 for i in (0, 3, 6)])
    assert fitted.timing["images_per_second"] == pytest.approx(9 * 8 / fitted.timing["train_seconds"])
    logits, labels = predict(fitted.method, data, "test")
    assert fitted.final["test_accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert fitted.final["test_loss"] == pytest.approx(float(nn.functional.cross_entropy(logits, labels)), rel=1e-5)
    by_two = evaluate(fitted.method, data, "test", batch_size=2)  # 2 + 2 + 1 images: each counts once
    assert by_two["accuracy"] == fitted.final["test_accuracy"]
    assert by_two["loss"] == pytest.approx(fitted.final["test_loss"], rel=1e-5)
    assert fitted.memory["peak_bytes"] > 0
    assert fitted.memory["source"]
    assert not fitted.method.training


@pytest.mark.parametrize("settings", [{}, {"precision": "bfloat16", "ema_decay": 0.5, "grad_accum_steps": 2}])
def test_a_run_is_a_function_of_its_seed(settings: dict[str, Any]) -> None:
    before = torch.get_rng_state()
    first, second, other = run(**settings), run(**settings), run(**settings, seed=1)
    assert same(first.method, second.method)
    assert not same(first.method, other.method)
    for a, b in zip(first.history, second.history, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert torch.equal(before, torch.get_rng_state())


def test_weights_and_generators_of_a_fresh_method_come_from_the_seed(probe: type[Probe]) -> None:
    first, second, other = (build(Config(**SMALL, method="probe", seed=seed), a_set()) for seed in (3, 3, 4))
    assert same(first, second)
    assert not torch.equal(first.head.weight, other.head.weight)  # type: ignore[union-attr]
    for generator in ("shared_generator", "rank_generator"):
        draws = [torch.rand(3, generator=getattr(method, generator)) for method in (first, second, other)]
        assert torch.equal(draws[0], draws[1])
        assert not torch.equal(draws[0], draws[2])


def test_ranks_share_one_generator_and_have_others_of_their_own(
    probe: type[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(trainer.distributed, "world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(trainer.distributed, "rank", lambda r=rank: r)
        config = Config(**SMALL, method="probe", batch_size=8, grad_accum_steps=2)
        method = trainer.Trainer(config, a_set(), torch.device("cpu"), None, None, []).method
        assert method.splits == 4
        drawn.append([torch.rand(3, generator=g) for g in (method.shared_generator, method.rank_generator, None)])
    shared, *own = (torch.equal(*pair) for pair in zip(*drawn, strict=True))
    assert shared
    assert not any(own)


def test_phases_freeze_weights_and_statistics(probe: type[Probe]) -> None:
    config = Config(method="probe", method_args={"phases": 2}, **SMALL, batch_size=8, epochs=2, max_steps=1)
    start = build(config, a_set())
    # one step: only the first phase fits
    first = fit(config, data=a_set())
    assert same(first.method.body, start.body)  # type: ignore[attr-defined, arg-type]
    assert not same(first.method.head, start.head)  # type: ignore[attr-defined, arg-type]
    both = fit(config.replace(max_steps=None), data=a_set())
    assert [row["phase"] for row in both.history] == ["head", "all"]
    assert not torch.equal(both.method.body[1].running_mean, start.body[1].running_mean)  # type: ignore
    assert not torch.equal(both.method.body[0].weight, start.body[0].weight)  # type: ignore


def test_evaluation_leaves_every_module_in_its_mode(probe: type[Probe]) -> None:
    method = build(Config(**SMALL, method="probe"), a_set()).train()
    method.body.eval()  # type: ignore[union-attr]
    modes = [module.training for module in method.modules()]
    with evaluation_mode(method):
        assert not any(module.training for module in method.modules())
    assert [module.training for module in method.modules()] == modes


def test_lr_scale_multiplies_the_rate(probe: type[Probe]) -> None:
    settings = {"method": "probe", "max_steps": 1, "schedule": "constant", "momentum": 0.0, "weight_decay": 0.0}
    start = build(Config(**SMALL, method="probe"), a_set()).head.weight  # type: ignore
    plain = run(**settings, lr=0.1).method.head.weight  # type: ignore
    frozen_body = run(**settings, lr=0.01, method_args={"phases": 2}).method  # head at 10 × 0.01
    assert torch.equal(frozen_body.body[1].running_var, torch.ones(4))  # type: ignore
    # BatchNorm of the frozen body is in evaluation mode, so compare with a step taken by hand
    reference = build(Config(**SMALL, method="probe"), a_set()).train()
    reference.body.eval()  # type: ignore
    x, y, _ = next(Loader(a_set(), "train", 8, train=True, seed=0, device="cpu").epoch(0))
    reference(x, y).loss.backward()
    expected = start - 0.1 * reference.head.weight.grad  # type: ignore
    torch.testing.assert_close(frozen_body.head.weight, expected)  # type: ignore
    assert not torch.equal(plain, expected)


def test_a_short_run_still_goes_through_all_phases(probe: type[Probe]) -> None:
    fitted = run(method="probe", method_args={"phases": 2}, max_steps=2, epochs=50)
    assert fitted.timing["steps"] == 2
    assert fitted.history[-1]["phase"] == "all"


def test_averaged_weights_follow_the_decay_and_buffers_are_copied(probe: type[Probe]) -> None:
    settings = {"method": "probe", "schedule": "constant", "epochs": 1}
    weights = [run(**settings, max_steps=n).method for n in (1, 2, 3)]
    w1, w2, w3 = (m.head.weight for m in weights)  # type: ignore
    averaged = run(**settings, ema_decay=0.75, max_steps=3).method
    torch.testing.assert_close(averaged.head.weight, 0.75 * (0.75 * w1 + 0.25 * w2) + 0.25 * w3)  # type: ignore
    assert torch.equal(averaged.moved, weights[-1].moved)  # type: ignore
    assert torch.equal(averaged.body[1].running_mean, weights[-1].body[1].running_mean)  # type: ignore


def test_label_smoothing_reaches_the_method() -> None:
    assert build(Config(label_smoothing=0.2, backbone_args={"depth": "small"}), a_set()).label_smoothing == 0.2
    assert run(label_smoothing=0.3, max_steps=1).history[0]["ce"] != run(max_steps=1).history[0]["ce"]


def test_a_non_finite_loss_stops_before_anything_moved(probe: type[Probe], tmp_path: Any) -> None:
    clean = run(method="probe", max_steps=2, schedule="constant", epochs=1)
    probe.poison_at = 3
    with pytest.raises(NonFiniteLoss, match=r"odd is not finite at step 3 \(ce = .*, odd = nan\)") as caught:
        run(method="probe", schedule="constant", epochs=1, folder=tmp_path, save_every=1)
    assert caught.value.step == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint-00000001.pt", "checkpoint-00000002.pt"]
    kept = torch.load(tmp_path / names[-1], weights_only=True)["state"]["method"]
    for name, value in clean.method.state_dict().items():
        assert torch.equal(kept[name], value), name


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_run_that_has_not_ended_can_be_used(probe: type[Probe], tmp_path: Any, ema_decay: float | None) -> None:
    settings = {"method": "probe", "schedule": "constant", "epochs": 1, "ema_decay": ema_decay}
    clean = run(**settings, max_steps=2)
    probe.poison_at = 3
    with pytest.raises(NonFiniteLoss):
        run(**settings, folder=tmp_path, save_every=1)
    method, info = load_trained(tmp_path)
    assert same(method, clean.method)
    assert not method.training
    assert info.classes == ("c0", "c1", "c2")


def test_a_saved_method_is_the_evaluated_one(tmp_path: Any) -> None:
    fitted = run(folder=tmp_path, ema_decay=0.5, backbone_args={"depth": "small", "width": 8, "pretrained": False})
    for path in (tmp_path, tmp_path / "model.pt"):
        method, info = load_trained(path)
        assert same(method, fitted.method)
        assert info.config["ema_decay"] == 0.5
    content = torch.load(tmp_path / "model.pt", weights_only=True)
    content["info"]["config"]["backbone_args"]["pretrained"] = True  # its weights are in the file: none are fetched
    torch.save(content, tmp_path / "model.pt")
    assert same(load_trained(tmp_path)[0], fitted.method)
    del content["weights"]["head.bias"]
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="is not a model saved by this version of the library"):
        load_trained(tmp_path)
    (tmp_path / "model.pt").write_bytes(b"junk")
    with pytest.raises(ValueError, match="is damaged or not a trained model"):
        load_trained(tmp_path)
    with pytest.raises(FileNotFoundError, match="no trained model at"):
        load_trained(tmp_path / "nowhere")


def test_weights_that_overflow_under_a_finite_loss_reach_no_checkpoint(probe: type[Probe], tmp_path: Any) -> None:
    with pytest.raises(NonFiniteLoss, match=r"parameter .* is not finite after step 1"):
        run(method="probe", lr=1e38, momentum=0.0, weight_decay=1e38, folder=tmp_path, save_every=1)
    assert not list(tmp_path.iterdir())


def test_a_skipped_float16_step_leaves_the_method_and_its_average_alone(probe: type[Probe], tmp_path: Any) -> None:
    probe.factor = 30.0  # times the scaler's 65,536: the first gradients overflow
    fitted = run(method="probe", precision="float16", lr=1e-6, ema_decay=0.9, folder=tmp_path)
    skipped = int(fitted.timing["skipped_steps"])
    assert 0 < skipped < 6
    assert len(fitted.method.calls) <= 6 - skipped  # type: ignore
    state = torch.load(tmp_path / "checkpoint-00000006.pt", weights_only=True)["state"]
    assert state["ema"]["n_averaged"] == 6 - skipped
    probe.factor = 1.0
    assert run(method="probe", precision="float16").timing["steps"] == 6


def test_a_resumed_float16_run_keeps_its_loss_scale(probe: type[Probe], tmp_path: Any) -> None:
    settings = {"method": "probe", "precision": "float16", "lr": 1e-6}
    probe.factor = 30.0
    whole = run(**settings)
    probe.poison_at = 5
    with pytest.raises(NonFiniteLoss, match="at step 5"):
        run(**settings, folder=tmp_path, save_every=1)
    probe.poison_at = None
    resumed = run(**settings, folder=tmp_path)
    assert 0 < whole.timing["skipped_steps"] <= 4  # the scale had fallen far enough before the run stopped
    assert resumed.timing["skipped_steps"] == whole.timing["skipped_steps"]
    assert same(resumed.method, whole.method)


def test_float16_gradients_are_unscaled_before_clipping(probe: type[Probe]) -> None:
    loose = run(method="probe", precision="float16", grad_clip_norm=1e4, max_steps=2)
    free = run(method="probe", precision="float16", max_steps=2)
    torch.testing.assert_close(loose.method.head.weight, free.method.head.weight)  # type: ignore


def test_bfloat16_is_near_float32() -> None:
    low, full = run(precision="bfloat16"), run()
    assert low.history[-1]["loss"] == pytest.approx(full.history[-1]["loss"], rel=0.05)
    assert not same(low.method, full.method)


def test_a_compiled_run_gives_the_same_weights(probe: type[Probe], monkeypatch: pytest.MonkeyPatch) -> None:
    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile(f, backend="eager"))
    assert same(run(compile=True, max_steps=2).method, run(max_steps=2).method)


def test_failing_compilation_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler here")

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: compile(f, backend=broken))
    with pytest.raises(CompileError, match=r"torch.compile failed for Baseline .* set compile to false") as caught:
        run(compile=True, max_steps=1)
    assert "\n" not in str(caught.value)


def test_balanced_batches_reach_the_method_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[int]] = []

    class Pairs(Probe):
        sampler = (2, 2)

        def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
            if self.training and labels is not None:
                seen.append(labels.unique(return_counts=True)[1].tolist())
            return super().forward(images, labels)

    monkeypatch.setitem(METHODS, "pairs", Pairs)
    run(method="pairs", grad_accum_steps=2, max_steps=3)
    assert seen == [[2, 2]] * 6
    with pytest.raises(ValueError, match=r"a micro-batch of 2 images is not a multiple of 2 classes × 2 images"):
        run(method="pairs", grad_accum_steps=4)


def test_progress_and_tensorboard(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run(progress=True, max_steps=2, folder=tmp_path, tensorboard=True)
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "ce=" in shown
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_a_line_and_a_row_for_every_epoch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitted = run(method="center", progress=True, epochs=3, folder=tmp_path)
    lines = [line for line in capsys.readouterr().err.replace("\r", "\n").splitlines() if "step" not in line]
    assert "tiny: 3 classes ('c0', 'c1', 'c2'), 24 training, 7 validation, 5 test images" in lines
    assert f"saved in {tmp_path}" in lines
    told = [line for line in lines if line.startswith("epoch ")]
    for row, line in zip(fitted.history, told, strict=True):
        loss = f"loss {row['loss']:.3f} (ce {row['ce']:.3f}, center {row['center']:.3f})"
        accuracy = f"accuracy train {row['train_accuracy']:.1%}, val {row['val_accuracy']:.1%}"
        assert line.startswith(f"epoch {row['epoch']}: {loss}, {accuracy}, ")
        assert line.endswith(" left")
    with (tmp_path / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3]
    for row, expected in zip(rows, fitted.history, strict=True):
        assert {key: float(value) for key, value in row.items() if key != "phase"} == {
            key: value for key, value in expected.items() if key != "phase"
        }


def test_nothing_is_shown_unasked(capsys: pytest.CaptureFixture[str]) -> None:
    run(epochs=1)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "nothing"}, "no method 'nothing': choose from .*baseline"),
        ({"backbone": "nothing"}, "no backbone 'nothing': choose from resnet"),
        ({"backbone_args": {"deep": 1}}, "backbone 'resnet': unknown argument deep: choose from depth"),
        ({"backbone_args": {"width": "wide"}}, "backbone 'resnet': width must be a valid integer, got 'wide'"),
        ({"method_args": {"num_classes": 3}}, "method 'baseline': unknown argument num_classes: choose from head"),
        ({"batch_size": 1000}, "batch_size 1000 is larger than the train split of 24 images"),
        ({"save_every": 1}, "need a folder"),
        ({"save_every": 0, "folder": "x"}, "save_every must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(**settings)


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="device must be cuda, cuda:N or cpu, got 'meta'"):
        fit(Config(**SMALL), data=a_set(), device="meta")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="finds no CUDA device here"):
            fit(Config(**SMALL), data=a_set(), device="cuda")
