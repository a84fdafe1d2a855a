"""The command line, from settings to files and back; every mistake is one sentence and exit status 2."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
SHORT = ["--quiet", "--device", "cpu", "-s", "max_steps=2", "-s", "batch_size=16", "-s", "backbone_args.width=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model of three image classes, trained for two steps."""
    from fgvc_lib.config import Config
    from fgvc_lib.data import ImageData, Split
    from fgvc_lib.train import fit

    pixels = np.random.default_rng(0).integers(0, 255, (12, 3, 16, 16), dtype=np.uint8)
    split = Split(pixels, torch.arange(12) % 3)
    data = ImageData("tiny", "0", ("ant", "bee", "cat"), split, split, split, (0.5,) * 3, (0.3,) * 3)
    folder = tmp_path_factory.mktemp("trained")
    config = Config(backbone_args={"depth": "small", "width": 8}, batch_size=4, max_steps=2, epochs=1)
    fit(config, data=data, device="cpu", folder=folder)
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    Image.new("RGB", (20, 30), (200, 0, 0)).save(folder / "red.png")
    (folder / "deeper").mkdir()
    Image.new("L", (16, 16), 100).save(folder / "deeper" / "gray.jpg")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.parametrize("command", ["", "train", "evaluate", "predict", "export", "methods", "datasets"])
def test_help_fits_one_screen(command: str, fgvc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = fgvc(*command.split(), "--help")
    lines = out.splitlines()
    assert status == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_it_runs_as_a_module_without_importing_torch() -> None:
    code = "import sys, fgvc_lib.cli; assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    done = subprocess.run([sys.executable, "-m", "fgvc_lib", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "predict" in done.stdout


def test_training_imports_nothing_that_only_some_runs_need() -> None:
    code = """if True:
        import sys
        import torch, torchvision
        before = set(sys.modules)
        import fgvc_lib.train
        slow = {"sklearn", "scipy", "pandas", "matplotlib", "pooch", "requests", "torch._dynamo", "tensorboard"}
        print(sorted(slow & (set(sys.modules) - before)))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_train_then_evaluate(fgvc: Run, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("method: baseline\nepochs: 7\nseed: 5\nlr: 0.01\n")
    status, out, err = fgvc(
        "train", "--config", tmp_path / "run.yaml", *SHORT, "--epochs", 1, "-s", "lr=0.02", "--folder", tmp_path / "run"
    )
    assert (status, err) == (0, "")
    result = json.loads(out)
    assert result["timing"]["steps"] == 2
    content = torch.load(tmp_path / "run" / "model.pt", weights_only=True)
    config = content["info"]["config"]
    assert (config["epochs"], config["seed"], config["lr"]) == (1, 5, 0.02)  # options over --set over the file
    assert config["backbone_args"] == {"width": 8}
    assert content["info"]["classes"] == tuple("0123456789")

    status, out, _ = fgvc("evaluate", tmp_path / "run", "--device", "cpu")
    scores = json.loads(out)
    assert status == 0
    assert scores["accuracy"] == pytest.approx(result["final"]["test_accuracy"])
    assert scores["loss"] == pytest.approx(result["final"]["test_loss"], rel=1e-5)
    # without model.pt, the newest checkpoint is the model
    (tmp_path / "run" / "model.pt").unlink()
    status, out, err = fgvc("evaluate", tmp_path / "run", "--device", "cpu", "-s", "data_args.seed=1")
    assert status == 0
    assert json.loads(out)["images"] == scores["images"]
    assert "not the data that the model was trained on" in err


def test_predict_names_classes_with_probabilities(fgvc: Run, trained: Path, pictures: Path) -> None:
    status, out, _ = fgvc("predict", trained, pictures, "--format", "json", "--device", "cpu")
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [Path(row["file"]).name for row in rows] == ["gray.jpg", "red.png"]
    for row in rows:
        assert {c["class"] for c in row["classes"]} == {"ant", "bee", "cat"}
        assert sum(c["probability"] for c in row["classes"]) == pytest.approx(1, abs=1e-4)

    _, out, _ = fgvc("predict", trained / "model.pt", pictures / "red.png", "--format", "csv", "--top", 2)
    table = list(csv.reader(io.StringIO(out)))
    assert table[0] == ["file", "rank", "class", "probability"]
    assert len(table) == 3
    assert float(table[1][3]) == pytest.approx(rows[1]["classes"][0]["probability"], abs=1e-4)

    _, out, _ = fgvc("predict", trained, pictures / "red.png", "--top", 1)
    assert rows[1]["classes"][0]["class"] in out
    assert "%" in out


def test_predict_sees_what_evaluation_sees(trained: Path, tmp_path: Path) -> None:
    from fgvc_lib.train import load_trained
    from fgvc_lib.train.inference import predict_files

    method, info = load_trained(trained)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (found,) = predict_files(method, info, [tmp_path / "x.png"])
    images = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.3
    with torch.no_grad():
        expected = method(images).logits.softmax(1)[0]
    torch.testing.assert_close(found.probabilities, expected, rtol=1e-4, atol=1e-5)


def test_predict_draws_where_it_looked(fgvc: Run, trained: Path, pictures: Path, tmp_path: Path) -> None:
    status, out, _ = fgvc("predict", trained, pictures, "--overlay", tmp_path / "maps", "--format", "json")
    assert status == 0
    drawn = sorted(p.name for p in (tmp_path / "maps").iterdir())
    assert drawn == ["0000-gray.png", "0001-red.png"]
    assert json.loads(out.splitlines()[0])["overlay"].endswith("0000-gray.png")
    with Image.open(tmp_path / "maps" / drawn[1]) as picture:
        assert picture.size == (16, 16)


def test_export_writes_a_file_that_computes_the_same(fgvc: Run, trained: Path, tmp_path: Path) -> None:
    status, out, err = fgvc("export", trained, tmp_path / "model.pt2")
    assert (status, err) == (0, "")
    assert json.loads(out)["classes"] == 3
    from fgvc_lib.train import load_trained

    images = torch.rand(3, 3, 16, 16)
    expected = load_trained(trained)[0]((images - 0.5) / 0.3).logits
    torch.testing.assert_close(torch.export.load(tmp_path / "model.pt2").module()(images), expected)


def test_methods_and_datasets_are_listed(fgvc: Run) -> None:
    status, out, _ = fgvc("methods")
    assert status == 0
    assert "baseline" in out
    assert "head='linear'" in out
    status, out, _ = fgvc("datasets")
    assert status == 0
    assert "digits" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "--epochs", "none"], "valid integer"),
        (["train", "--method", "magic", *SHORT], "no method 'magic': choose from"),
        (["train", "--data", "magic", *SHORT], "no data set 'magic': choose from"),
        (["train", "-s", "lr"], "--set needs key=value, got 'lr'"),
        (["train", "-s", "lr=[1"], "lr must be a valid number, got '[1'"),
        (["train", "-s", "lr.x=1", "-s", "lr=1", "-s", "lr.y=2"], "lr in lr.y holds a value, not settings"),
        (["train", "-s", "speed=1"], "unknown setting speed: choose from method,"),
        (["train", "-s", "lr=fast"], "lr must be a valid number, got 'fast'"),
        (["train", "-s", "method_args.depth=1", *SHORT], "method 'baseline': unknown argument depth"),
        (["train", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["train", *SHORT, "--tensorboard"], "save_every and tensorboard need a folder"),
        (["train", *SHORT, "--device", "tpu"], "device must be cuda, cuda:N or cpu, got 'tpu'"),
        (["evaluate", "nowhere"], "no trained model at nowhere"),
        (["evaluate", "TRAINED", "--split", "dev"], "split must be train, val or test, got 'dev'"),
        (["evaluate", "TRAINED", "-s", "lr=1"], "only data and data_args can be set here, got lr=1"),
        (["evaluate", "TRAINED"], "digits has other classes than tiny"),
        (["predict", "TRAINED", "nowhere.jpg"], "nowhere.jpg is not there"),
        (["predict", "TRAINED", "PICTURES/notes.txt"], "notes.txt cannot be read as an image"),
        (["predict", "PICTURES/notes.txt", "PICTURES"], "notes.txt is damaged or not a trained model"),
        (["predict", "TRAINED", "PICTURES", "--format", "xml"], "format must be text, json or csv, got 'xml'"),
        (["predict", "TRAINED", "PICTURES", "--top", "0"], "top and batch-size must be at least 1, got 0"),
        (["predict", "TRAINED", "EMPTY"], "has no images"),
        (["export", "TRAINED", "model.pth"], "an exported model ends in .pt2 or .onnx, got 'model.pth'"),
        (["export", "nowhere", "model.pt2"], "no trained model at nowhere"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], sentence: str, fgvc: Run, trained: Path, pictures: Path, tmp_path: Path
) -> None:
    names = {"TRAINED": str(trained), "PICTURES": str(pictures), "EMPTY": str(tmp_path)}
    for name, path in names.items():
        arguments = [argument.replace(name, path) for argument in arguments]
    status, _, err = fgvc(*arguments)
    assert status == 2
    assert sentence in err
    assert "Traceback" not in err
    assert len([line for line in err.splitlines() if line.lower().startswith("error")]) == 1


def test_a_run_that_fails_says_so_with_status_1(fgvc: Run) -> None:
    status, _, err = fgvc("train", *SHORT, "-s", "lr=1e38", "-s", "momentum=0", "-s", "max_steps=3")
    assert status == 1
    assert "is not finite" in err


def test_a_fault_of_the_program_is_not_hidden(fgvc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **kwargs: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("fgvc_lib.train.fit", broken)
    with pytest.raises(KeyError):
        fgvc("train", *SHORT)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("/data/e2 #2 batch", "/data/e2 #2 batch"),
        ("birds: 2024", "birds: 2024"),
        ("C:\\birds", "C:\\birds"),
        ("yes", "yes"),
        ("5 #2", "5 #2"),
        ('"5"', "5"),
        ("5", 5),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("true", True),
        ("True", True),
        ("null", None),
        ("None", None),
        ("", ""),
        ("[1, 2]", [1, 2]),
        ('{"depth": 18}', {"depth": 18}),
    ],
)
def test_a_value_is_json_or_the_text_itself(text: str, value: Any, fgvc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def keep(config: Any, **_: Any) -> None:
        seen.append(config.data_args["root"])
        raise ValueError("enough")

    monkeypatch.setattr("fgvc_lib.train.fit", keep)
    fgvc("train", "-s", f"data_args.root={text}")
    assert seen == [value]
    assert type(seen[0]) is type(value)
