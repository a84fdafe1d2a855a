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
SHORT = ["--quiet", "--device", "cpu", "-s", "max_steps=2", "-s", "batch_size=16"]
SHORT += ["--backbone", "resnet", "-s", "backbone_args.width=8"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder for runs that are given none."""
    folder = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("FGVC_CACHE", str(folder / "cache"))
    return folder


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


@pytest.mark.parametrize(
    "command", ["", "train", "evaluate", "predict", "export", "methods", "datasets", "cache", "embed", "neighbors"]
)
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
    from fgvc_lib.train import Predictor

    predictor = Predictor.load(trained)
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    (found,) = predictor(tmp_path / "x.png")
    images = (torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.3
    with torch.no_grad():
        expected = predictor.method(images).logits.softmax(1)[0]
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


def test_the_cache_is_shown_and_cleared(fgvc: Run, elsewhere: Path) -> None:
    from fgvc_lib.data.cache import cached

    cached("birds-0", lambda folder: (folder / "a").write_bytes(bytes(2_000_000)))
    last = f"       2.0 MB in {elsewhere / 'cache'}, which FGVC_CACHE names\n"
    assert fgvc("cache") == (0, f"       2.0 MB  birds-0\n{last}", "")
    assert fgvc("cache", "--clear")[1].endswith(last.replace(" in ", " removed from "))
    assert fgvc("cache")[1].startswith("       0.0 MB in ")


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
        (["train", *SHORT, "--save-every", "0"], "save_every must be at least 1, got 0"),
        (["train", *SHORT, "--device", "tpu"], "device must be cuda, cuda:N or cpu, got 'tpu'"),
        (["evaluate", "nowhere"], "no trained model at nowhere"),
        (["evaluate", "TRAINED", "--split", "dev"], "'dev' is not one of 'train', 'val', 'test'"),
        (["evaluate", "TRAINED", "-s", "lr=1"], "only data and data_args can be set here, got lr=1"),
        (
            ["evaluate", "TRAINED"],
            "digits has other classes than tiny, which the model was trained on: '0', '1', '2', ",
        ),
        (["predict", "TRAINED", "nowhere.jpg"], "nowhere.jpg is not there"),
        (["predict", "TRAINED", "PICTURES/notes.txt"], "notes.txt cannot be read as an image"),
        (["predict", "PICTURES/notes.txt", "PICTURES"], "notes.txt is damaged or not a trained model"),
        (["predict", "TRAINED", "PICTURES", "--format", "xml"], "'xml' is not one of 'text', 'json', 'csv'"),
        (["predict", "TRAINED", "PICTURES", "--top", "0"], "Invalid value for '--top'"),
        (["predict", "TRAINED", "EMPTY"], "has no images"),
        (["export", "TRAINED", "model.pth"], "an exported model ends in .pt2 or .onnx, got 'model.pth'"),
        (["embed", "TRAINED", "a.txt", "PICTURES"], "embeddings are written to a .npz or a .csv, got 'a.txt'"),
        (["neighbors", "TRAINED", "PICTURES", "--count", "0"], "Invalid value for '--count'"),
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
        seen.append(config.data_args["value"])
        raise ValueError("enough")

    monkeypatch.setattr("fgvc_lib.train.fit", keep)
    fgvc("train", "-s", f"data_args.value={text}")
    assert seen == [value]
    assert type(seen[0]) is type(value)


# a folder of photographs


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configurations that would be trained."""
    seen: list[Any] = []

    def keep(config: Any, **_: Any) -> None:
        seen.append(config)
        raise ValueError("enough")

    monkeypatch.setattr("fgvc_lib.train.fit", keep)
    return seen


def test_a_folder_starts_from_pretrained_weights(fgvc: Run, asked: list[Any], tmp_path: Path) -> None:
    birds = paint(tmp_path / "my_birds", each=30)
    fgvc("train", birds, "-s", "lr=0.02", "--epochs", "5", "--method", "mutual_channel")
    fgvc("train", "--data", "folder", "-s", f"data_args.root={birds}", "-s", "lr=0.02", "-s", "method=mutual_channel")
    fgvc("train", birds, "--no-pretrained")
    first, second, fresh = asked
    assert first == second.replace(epochs=5)
    assert (first.lr, first.method, first.data_args["root"]) == (0.02, "mutual_channel", str(birds))
    assert (first.backbone_args["pretrained"], first.frozen_stages, first.backbone_lr_scale) == (True, 3, 0.1)
    assert (fresh.backbone_args["pretrained"], fresh.frozen_stages, fresh.backbone_lr_scale) == (False, 0, 1.0)
    assert fresh.backbone_args["name"] == first.backbone_args["name"]
    assert first.batch_size == 32


def test_a_small_folder_gets_a_batch_that_it_can_fill(fgvc: Run, asked: list[Any], tmp_path: Path) -> None:
    few = paint(tmp_path / "few", each=8)
    fgvc("train", few)
    fgvc("train", few, "-s", "batch_size=40")
    by_itself, asked_for = asked
    assert 2 <= by_itself.batch_size < 24  # some of the 24 are for validation and test
    assert asked_for.batch_size == 40  # is refused by the loop, in a sentence, and not changed


def test_a_file_or_a_backbone_of_one_s_own_is_not_mixed_with_fine_tuning(
    fgvc: Run, asked: list[Any], tmp_path: Path
) -> None:
    from fgvc_lib.config import Config

    (tmp_path / "own.yaml").write_text("{data: folder, data_args: {root: here}, lr: 0.3}")
    fgvc("train", "--config", str(tmp_path / "own.yaml"))
    fgvc("train", "here", "--backbone", "resnet")
    fgvc("train", "here", "-s", "backbone=resnet")
    file, option, setting = asked
    assert file == Config(data="folder", data_args={"root": "here"}, lr=0.3)
    assert option == setting == Config(data="folder", data_args={"root": "here"}, backbone="resnet")
    status, _, err = fgvc("train", "here", "--backbone", "resnet", "--no-pretrained")
    assert (status, len(asked)) == (2, 3)
    assert "--no-pretrained is for a folder without --config or --backbone" in err


COLORS = {"azure": (40, 90, 230), "möwe": (240, 240, 240), "rust": (190, 60, 20)}


def paint(folder: Path, *, each: int = 8, classes: tuple[str, ...] = tuple(COLORS), start: int = 0) -> Path:
    """Images of a class are of one color and a little noise, no two alike."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(start, start + each):
            noise = np.random.default_rng(1000 * len(name) + i).integers(-20, 20, (20, 24, 3))
            pixels = np.clip(np.array(COLORS[name]) + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of three classes, and the folder of a run that has learned them."""
    from fgvc_lib.config import Config
    from fgvc_lib.train import fit

    photos, run = paint(tmp_path_factory.mktemp("data") / "photos"), tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGVC_CACHE", str(run / "cache"))
        data_args = {"root": str(photos), "image_size": 16}
        backbone = {"depth": "small", "width": 8}
        fit(
            Config(data="folder", data_args=data_args, backbone_args=backbone, batch_size=4, epochs=8, lr=0.02),
            device="cpu",
            folder=run,
        )
    return photos, run


def test_evaluating_another_folder_means_all_of_it(fgvc: Run, painted: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = painted
    paint(tmp_path / "new", each=5, classes=("rust", "azure"), start=100)
    status, out, err = fgvc("evaluate", run, tmp_path / "new", "--device", "cpu")
    scores = json.loads(out)
    assert (status, scores["images"]) == (0, 10)
    assert err == ""
    assert scores["summary"] == "new: 3 classes ('azure', 'möwe', 'rust'), 10 test images; all of it"
    assert scores["classes"] == {name: {"images": 5, "accuracy": 1.0} for name in ("azure", "rust")}
    assert scores["without_images"] == ["möwe"]
    # the same by a setting, or with folders for splits
    assert json.loads(fgvc("evaluate", run, "-s", f"data_args.root={tmp_path / 'new'}")[1]) == scores
    paint(tmp_path / "split" / "Test", each=2, start=200)
    paint(tmp_path / "split" / "train", each=3, start=300)
    assert json.loads(fgvc("evaluate", run, tmp_path / "split")[1])["images"] == 6
    assert json.loads(fgvc("evaluate", run, tmp_path / "split", "--split", "train")[1])["images"] == 9
    # labels of another meaning
    (tmp_path / "new" / "rust").rename(tmp_path / "new" / "ochre")
    status, _, err = fgvc("evaluate", run, tmp_path / "new")
    assert status == 2
    assert "new has classes that the model does not know: 'ochre'; it knows 'azure', 'möwe', 'rust'" in err


def test_evaluating_its_own_data_takes_what_was_held_out(fgvc: Run, painted: tuple[Path, Path], tmp_path: Path) -> None:
    _, run = painted
    status, out, _ = fgvc("evaluate", run)
    scores = json.loads(out)
    assert (status, scores["split"], scores["images"]) == (0, "test", 6)
    assert scores["report"] == str(run / "report-photos-test" / "report.html")
    assert Path(scores["report"]).is_file()
    assert json.loads(fgvc("evaluate", run, "--report", "here")[1])["report"] == "here/report.html"
    paint(tmp_path / "set" / "train", each=5)
    paint(tmp_path / "set" / "val", each=2, start=50)
    options = [
        *SHORT,
        "-s",
        f"data_args.root={tmp_path / 'set'}",
        "-s",
        "data_args.image_size=16",
        "-s",
        "batch_size=4",
    ]
    status, out, _ = fgvc("train", "--data", "folder", *options, "--folder", "run")
    assert json.loads(out)["final"]["test_accuracy"] is None  # there is no test; NaN would be no JSON
    scores = json.loads(fgvc("evaluate", "run")[1])
    assert (scores["split"], scores["images"]) == ("val", 6)


def test_a_rare_class_does_not_hide_behind_a_frequent_one() -> None:
    from fgvc_lib.train.evaluation import score

    labels = torch.tensor([0] * 9 + [1])
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(10, 1)  # always the first class
    scores = score(logits, labels, ("common", "rare", "absent"))
    assert (scores["accuracy"], scores["macro_accuracy"]) == (0.9, 0.5)
    assert scores["classes"] == {
        "common": {"images": 9, "accuracy": 1.0},
        "rare": {"images": 1, "accuracy": 0.0},
    }
    assert scores["without_images"] == ["absent"]
    nothing = score(logits[:0], labels[:0], ("common", "rare", "absent"))
    assert (nothing["accuracy"], nothing["macro_accuracy"], nothing["loss"]) == (None, None, None)


def test_a_folder_is_text_whatever_it_is_called(fgvc: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))
    for name in ("2024", "true", "null", "1e3", '"quoted"', "birds: 2024 #2"):
        paint(tmp_path / name, each=1, classes=("rust",))
        status, _, err = fgvc("train", "--data", "folder", "-s", f"data_args.root={name}", "--quiet")
        assert status == 2
        assert f"{tmp_path / name} has one class, 'rust'" in err


def test_predict_leaves_out_what_cannot_be_read_and_counts_it(
    fgvc: Run, painted: tuple[Path, Path], tmp_path: Path
) -> None:
    _, run = painted
    paint(tmp_path / "new", each=4, classes=("rust",))
    whole = (tmp_path / "new" / "rust" / "1.png").read_bytes()
    (tmp_path / "new" / "rust" / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "new" / "rust" / "._2.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "new" / "list.txt").write_text("")
    status, out, err = fgvc("predict", run, tmp_path / "new", "--top", 1, "--batch-size", 2)
    assert status == 0
    assert [line.rpartition("/")[2].split(":")[0] for line in out.splitlines()] == ["0.png", "2.png", "3.png"]
    assert all(": rust " in line for line in out.splitlines())
    assert "passed over: 1 hidden, 1 .txt\n" in err
    assert "rust/1.png cannot be read as an image" in err
    assert err.endswith("skipped 1 of 4 files\n")
    # a file that the shell has found by itself
    status, out, _ = fgvc("predict", run, tmp_path / "new" / "rust" / "._2.png", tmp_path / "new" / "rust" / "2.png")
    assert (status, len(out.splitlines())) == (0, 1)
    status, out, err = fgvc("predict", run, tmp_path / "new" / "rust" / "._2.png")
    assert (status, out) == (2, "")
    assert err.startswith("error: ")


def test_output_survives_an_ascii_terminal(painted: tuple[Path, Path], tmp_path: Path, forked: Any) -> None:
    photos, run = painted
    program = """
        import io
        sys.stdout = io.TextIOWrapper(open(1, "wb", buffering=0, closefd=False), "ascii", write_through=True)
        from fgvc_lib.cli import main
        main()
    """
    picture = photos / "möwe" / "0.png"
    arguments = ["predict", run, picture, "--top", 1]
    assert forked(program, tmp_path, "text", *arguments).wait().count("m\\xf6we") == 2
    shown = json.loads(forked(program, tmp_path, "json", *arguments, "--format", "json").wait())
    assert Path(shown["file"]) == picture


def test_a_run_without_a_folder_is_kept_and_found_again(
    fgvc: Run, painted: tuple[Path, Path], elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, _ = painted
    options = ["--data", "folder", "-s", f"data_args.root={photos}", "-s", "data_args.image_size=16", *SHORT[1:]]
    options += ["-s", "batch_size=4"]
    status, out, err = fgvc("train", *options)
    folder = json.loads(out)["folder"]
    assert status == 0
    assert folder.startswith("runs/photos-baseline-")
    assert "photos: 3 classes ('azure', 'möwe', 'rust'), 15 training, 3 validation, 6 test images; 25% of each" in err
    assert f"saved in {folder}" in err
    assert "epoch 1: loss " in err
    assert {path.name for path in Path(folder).iterdir()} >= {"model.pt", "history.csv", "images.csv"}
    monkeypatch.setattr("fgvc_lib.train.trainer.Trainer.train_epoch", lambda *a: pytest.fail("trained again"))
    assert json.loads(fgvc("train", *options)[1])["folder"] == folder
    assert fgvc("evaluate", folder)[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(elsewhere)
    again = json.loads(fgvc("train", *options, "-s", "lr=0.01", "--quiet")[1])["folder"]
    assert again != folder  # other settings, another place


def test_resuming_after_the_folder_has_changed_says_how(fgvc: Run, painted: tuple[Path, Path], tmp_path: Path) -> None:
    photos = paint(tmp_path / "photos")
    options = ["--data", "folder", "-s", f"data_args.root={photos}", "-s", "data_args.image_size=16", *SHORT]
    options += ["-s", "batch_size=4", "--folder", "run"]
    assert fgvc("train", *options)[0] == 0
    paint(photos, each=1, classes=("rust",), start=100)
    (photos / "azure" / "0.png").unlink()
    with pytest.warns(UserWarning, match="belongs to another run"):
        status, _, err = fgvc("train", *options)
    assert status == 2
    assert "images: 1 added ('rust/100.png'), 1 removed ('azure/0.png')" in err
    paint(photos, each=1, classes=("azure",))
    (photos / "rust" / "100.png").unlink()
    assert fgvc("train", *options)[0] == 0  # as it was
    Image.new("RGB", (24, 20)).save(photos / "azure" / "0.png")
    with pytest.warns(UserWarning, match="belongs to another run"):
        err = fgvc("train", *options)[2]
    assert "images: none added or removed, but their contents or the preparation differ" in err


def test_embed_writes_a_row_an_image(fgvc: Run, trained: Path, pictures: Path) -> None:
    status, out, err = fgvc("embed", trained, "features.npz", pictures)
    assert (status, json.loads(out)) == (0, {"file": "features.npz", "images": 2, "length": 32})
    assert err == "passed over: 1 .txt\n"
    with np.load("features.npz") as stored:
        files, embeddings = stored["files"].tolist(), stored["embeddings"]
    assert [Path(name).name for name in files] == ["gray.jpg", "red.png"]
    assert (embeddings.shape, embeddings.dtype) == ((2, 32), np.float32)
    assert fgvc("embed", trained, "features.csv", pictures / "red.png")[0] == 0
    with Path("features.csv").open(newline="") as file:
        header, row = csv.reader(file)
    assert header == ["file", *map(str, range(32))]
    assert row[0] == files[1]
    assert np.array(row[1:], np.float32) == pytest.approx(embeddings[1], abs=1e-6)


def test_neighbors_of_a_training_image_begin_with_itself(fgvc: Run, painted: tuple[Path, Path], tmp_path: Path) -> None:
    photos, run = painted
    with (run / "images.csv").open(newline="") as file:
        chosen = next(row["file"] for row in csv.DictReader(file) if row["split"] == "train" and row["class"] == "rust")
    status, out, _ = fgvc("neighbors", run, photos / chosen, "--count", 3, "--pictures", "near")
    assert status == 0
    found = out.partition("; like ")[2].split(", ")
    assert found[0] == f"rust 1.00 ({chosen})"
    assert [text.split()[0] for text in found] == ["rust"] * 3
    (picture,) = Path("near").iterdir()
    with Image.open(picture) as strip:
        assert strip.size == (16 * 4 + 3, 16)
        first, second = (np.asarray(strip.convert("RGB"))[:, x : x + 16] for x in (0, 17))
    assert np.array_equal(first, second)


def test_a_stopped_run_says_where_it_is_saved(fgvc: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvc_lib.train import Stopped

    def stop(*arguments: Any, folder: Path, **settings: Any) -> None:
        assert folder.parts[0] == "runs"  # Ctrl-C loses nothing where no folder was named
        raise Stopped([2])

    monkeypatch.setattr("fgvc_lib.train.fit", stop)
    status, out, err = fgvc("train", *SHORT)
    assert (status, out) == (130, "")
    assert err.startswith("stopped, and saved in runs/digits-baseline-")
    assert err.endswith(": the same command resumes there\n")
