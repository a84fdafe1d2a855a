"""The dry run: what is missing is named, what is there is found, and nothing is fetched."""

import hashlib
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib import backbones, cli
from fgvc_lib.config import Config
from fgvc_study import rehearsal, wanted
from fgvc_study.estimate import Shape
from fgvc_study.wanted import Group
from fgvc_lib.train.build import build_for

SMALL = {"backbone": "resnet", "backbone_args": {"depth": "small", "width": 4}, "batch_size": 4, "epochs": 2}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Empty homes of weights and data, and no way out."""

    def refuse(*_, **__):
        raise AssertionError("a rehearsal downloads nothing")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FGVC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    rehearsal._listed.cache_clear()
    rehearsal._absent.cache_clear()
    rehearsal._sha256.cache_clear()


@pytest.fixture
def photos(tmp_path):
    """Two classes of five and four images."""
    for name, count in (("ant", 5), ("bee", 4)):
        folder = tmp_path / "data" / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    return {"data": "folder", "data_args": {"root": "photos", "image_size": 16, "val_share": 0.0}}


def rehearse(**settings):
    return rehearsal.rehearse("a/paper_x", {"row": [Config(seed=s, **SMALL | settings) for s in (0, 1)]}, tflops=1.0)


def test_what_is_there_is_ready_and_has_a_size_and_a_time(photos):
    found = rehearse(**photos)
    assert found.problems == ()
    assert found.runs == 2
    expected = rehearsal.estimate(Config(**SMALL | photos), Shape(2, 6, 3, image_size=16))
    assert found.memory == expected.memory
    assert found.seconds == pytest.approx(2 * expected.flops / 1e12)


def test_missing_data_are_named_and_counted_with_as_if_they_were_there(tmp_path):
    found = rehearse(data="cub", data_args={"image_size": 32, "val_share": 0.0})
    (problem,) = found.problems
    assert problem.startswith(f"data: {tmp_path / 'data' / 'CUB_200_2011'} is not there: unpack")
    config = Config(data="cub", data_args={"image_size": 32, "val_share": 0.0}, **SMALL)
    assert rehearsal.data_shape(config)[0] == Shape(200, 5994, 5794, image_size=32)
    assert found.memory
    assert found.seconds


def test_data_of_unknown_size_cannot_be_counted_with():
    found = rehearse(data="folder", data_args={"root": "nowhere"})
    assert found.memory is None
    assert found.seconds is None
    assert "nowhere is not there" in found.problems[0]


def test_an_image_that_is_listed_and_not_there_is_counted(photos, monkeypatch):
    whole = rehearsal.LISTINGS["folder"](root="photos")
    monkeypatch.setitem(rehearsal.LISTINGS, "folder", lambda **_: whole)
    whole.train[0].path.unlink()
    assert rehearse(**photos).problems == (
        f"data: 1 image files of photos are not there, {whole.train[0].path} the first",
    )


def test_a_part_of_a_set_is_not_taken_for_the_whole(photos, monkeypatch):
    few = rehearsal.LISTINGS["folder"](root="photos")
    monkeypatch.setitem(rehearsal.LISTINGS, "cub", lambda **_: few)
    (problem,) = rehearse(data="cub", data_args={"image_size": 16}).problems
    assert "has 2 classes, 7 training and 2 test images here, the whole set 200, 5,994 and 5,794" in problem
    assert rehearse(data="cub", data_args={"image_size": 16, "root": "elsewhere"}).problems == ()


def test_missing_and_damaged_weights_are_named(tmp_path, monkeypatch):
    (missing,) = rehearsal.missing_weights(["resnet18"])
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert missing.startswith(f"weights: {path} is not there")
    assert "https://" in missing
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights")
    (damaged,) = rehearsal.missing_weights(["resnet18"])
    assert "is damaged" in damaged
    monkeypatch.setattr(rehearsal, "_sha256", lambda *_: "f37072fd" + 56 * "0")
    assert list(rehearsal.missing_weights(["resnet18"])) == []
    monkeypatch.undo()
    assert rehearsal._sha256(path) == hashlib.sha256(b"no weights").hexdigest()


@pytest.mark.parametrize(
    ("backbone", "arguments"),
    [
        ("resnet", {"depth": 50}),
        ("vgg", {"depth": 16, "batch_norm": False}),
        ("vgg", {"depth": 11}),
        ("vgg", {"depth": 19, "batch_norm": True}),
    ],
)
def test_the_weights_looked_for_are_those_that_the_backbone_loads(backbone, arguments, monkeypatch):
    asked = []
    monkeypatch.setattr(backbones, "_load_pretrained", lambda _, model, __: asked.append(model))
    with torch.device("meta"):
        backbones.BACKBONES[backbone](**arguments, pretrained=True)
    config = Config(backbone=backbone, backbone_args={**arguments, "pretrained": True})
    left, names = rehearsal._without_weights(config)
    assert names == asked
    assert left.backbone_args == arguments


def test_weights_deep_in_the_settings_are_found():
    inner = {"backbone": "resnet", "depth": 18, "pretrained": True}
    config = Config(backbone_args={"depth": 50, "pretrained": True}, method_args={"attention_net": inner, "x": 1})
    left, names = rehearsal._without_weights(config)
    assert sorted(names) == ["resnet18", "resnet50"]
    assert left.method_args == {"attention_net": {"backbone": "resnet", "depth": 18}, "x": 1}


def test_settings_that_build_nothing_are_a_problem_of_their_row(photos):
    (problem,) = rehearse(**photos, method_args={"heads": 2}).problems
    assert problem.startswith("settings: a/paper_x, row: method 'baseline' has no argument heads")
    assert rehearse(**photos, method_args={"heads": 2}).seconds is None


@pytest.fixture
def profile(monkeypatch, photos):
    rows = {"one": {}, "ξ = 2": {"lr": 0.2}}
    groups = {
        "a/paper_x": Group("a/paper_x", "ch", 1, "?", SMALL | photos, rows, {"paper": {"seeds": [0, 1]}}),
        "b/paper_y": Group("b/paper_y", "ch", 1, "?", SMALL, {"one": {}}, {"paper": {"data": "cars"}}),
    }
    monkeypatch.setattr(wanted, "groups", lambda: groups)
    monkeypatch.setattr(wanted, "recorded", lambda **_: [])


def run(*arguments, monkeypatch):
    monkeypatch.setattr("sys.argv", ["fgvc", "runs", "--profile", "paper", *map(str, arguments)])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_line_for_each_experiment_and_a_status(profile, monkeypatch, capsys):
    assert run("--dry-run", monkeypatch=monkeypatch) == 1
    head, first, second, problem = capsys.readouterr().out.splitlines()
    assert head.endswith("on 1 device of 20 TFLOP/s")
    assert first.split()[:2] == ["a/paper_x", "4"]
    assert first.endswith("ready")
    assert second.endswith("lacks data")
    assert problem.startswith("data: Stanford Cars is no longer offered for download")
    assert max(map(len, (head, first, second))) < 80
    assert run("--dry-run", "--only", "a/", "--tflops", "0.5", "--processes", "2", monkeypatch=monkeypatch) == 0
    assert "on 2 devices of 0.5 TFLOP/s" in capsys.readouterr().out
    assert run("--dry-run", "--only", "c/", monkeypatch=monkeypatch) == 0
    assert "no run of profile paper is missing" in capsys.readouterr().out
    assert run("--dry-run", "--tflops", "0", monkeypatch=monkeypatch) == 2


def test_settings_are_written_for_train(profile, monkeypatch, capsys, tmp_path):
    assert run("--only", "a/", "--configs", tmp_path / "out", monkeypatch=monkeypatch) == 0
    files = capsys.readouterr().out.split()
    assert [f.rsplit("/", 1)[1] for f in files] == [
        "a-paper-x-one-seed-0.yaml",
        "a-paper-x-2-seed-0.yaml",
        "a-paper-x-one-seed-1.yaml",
        "a-paper-x-2-seed-1.yaml",
    ]
    assert Config.from_yaml(files[3]) == wanted.groups()["a/paper_x"].configs("paper")["ξ = 2"][1]


def test_every_row_of_the_paper_profile_builds():
    """Built without values, weights or data: the settings fit the methods and the backbones."""
    for name, group in wanted.groups().items():
        if "/paper_" in name:
            for label, configs in group.configs("paper").items():
                config, _ = rehearsal._without_weights(configs[0])
                assert config.data_args["val_share"] == 0.0, (name, label)
                with torch.device("meta"):
                    shape = rehearsal.OFFICIAL[config.data]
                    size = config.data_args["image_size"]
                    build_for(config, num_classes=shape.classes, channels=3, image_size=size)
