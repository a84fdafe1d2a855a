"""The dry run: what is missing is named, what is there is found, and nothing is fetched."""

import hashlib
import sys
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib import backbones
from fgvc_lib.config import Config
from fgvc_study import dry_run
from fgvc_study.estimate import Shape

SMALL = {"backbone": "resnet", "backbone_args": {"depth": "small", "width": 8}, "batch_size": 4, "epochs": 2}


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Empty homes of weights and data, and no way out."""

    def refuse(*_, **__):
        raise AssertionError("a dry run downloads nothing")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("FGVC_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    dry_run._listed.cache_clear()
    dry_run._absent.cache_clear()
    dry_run._sha256.cache_clear()
    dry_run._cost.cache_clear()


@pytest.fixture
def photos(tmp_path):
    """Two classes of five and four images."""
    for name, count in (("ant", 5), ("bee", 4)):
        folder = tmp_path / "data" / "photos" / name
        folder.mkdir(parents=True)
        for i in range(count):
            Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(folder / f"{i}.png")
    return {"data": "folder", "data_args": {"root": "photos", "image_size": 16, "val_fraction": 0.0}}


def cost(**settings):
    return dry_run.cost(Config(seed=3, **SMALL | settings), flops_per_second=1e12)


def test_what_is_there_is_ready_and_has_a_size_and_a_time(photos):
    found = cost(**photos)
    assert found.problems == ()
    expected = dry_run.estimate(Config(**SMALL | photos), Shape(2, 6, 3, image_size=16))
    assert found.memory == expected.memory
    assert found.seconds == pytest.approx(expected.flops / 1e12)


def test_missing_data_are_named_and_counted_with_as_if_they_were_there(tmp_path):
    found = cost(data="cub", data_args={"image_size": 32, "val_fraction": 0.0})
    (problem,) = found.problems
    assert problem.startswith(f"data: {tmp_path / 'data' / 'CUB_200_2011'} is not there: unpack")
    config = Config(data="cub", data_args={"image_size": 32, "val_fraction": 0.0}, **SMALL)
    assert dry_run.data_shape(config)[0] == Shape(200, 5994, 5794, image_size=32)
    assert found.memory
    assert found.seconds


def test_data_of_unknown_size_cannot_be_counted_with():
    found = cost(data="folder", data_args={"root": "nowhere"})
    assert found.memory is None
    assert found.seconds is None
    assert "nowhere is not there" in found.problems[0]


def test_an_image_that_is_listed_and_not_there_is_counted(photos, monkeypatch):
    whole = dry_run.LISTINGS["folder"](root="photos")
    monkeypatch.setitem(dry_run.LISTINGS, "folder", lambda **_: whole)
    whole.train[0].path.unlink()
    assert cost(**photos).problems == (f"data: 1 image files of photos are not there, {whole.train[0].path} the first",)


def test_a_part_of_a_set_is_not_taken_for_the_whole(photos, monkeypatch):
    few = dry_run.LISTINGS["folder"](root="photos")
    monkeypatch.setitem(dry_run.LISTINGS, "cub", lambda **_: few)
    (problem,) = cost(data="cub", data_args={"image_size": 16}).problems
    assert "has 2 classes, 7 training and 2 test images here, the whole set 200, 5,994 and 5,794" in problem
    assert cost(data="cub", data_args={"image_size": 16, "root": "elsewhere"}).problems == ()


def test_missing_and_damaged_weights_are_named(tmp_path, monkeypatch):
    (missing,) = dry_run.missing_weights(["resnet18"])
    path = tmp_path / "torch" / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    assert missing.startswith(f"weights: {path} is not there")
    assert "https://" in missing
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no weights")
    (damaged,) = dry_run.missing_weights(["resnet18"])
    assert "is damaged" in damaged
    monkeypatch.setattr(dry_run, "_sha256", lambda *_: "f37072fd" + 56 * "0")
    assert list(dry_run.missing_weights(["resnet18"])) == []
    monkeypatch.undo()
    assert dry_run._sha256(path) == hashlib.sha256(b"no weights").hexdigest()


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
    for module in (backbones.resnet, backbones.vgg):
        name = sys.modules[module.__module__]
        monkeypatch.setattr(name, "load_torchvision", lambda _, model, *__: asked.append(model))
    with torch.device("meta"):
        backbones.BACKBONES[backbone](**arguments, pretrained=True)
    config = Config(backbone=backbone, backbone_args={**arguments, "pretrained": True})
    left, names = dry_run._without_pretrained(config)
    assert names == asked
    assert left.backbone_args == arguments


def test_weights_deep_in_the_settings_are_found():
    inner = {"backbone": "resnet", "depth": 18, "pretrained": True}
    config = Config(backbone_args={"depth": 50, "pretrained": True}, method_args={"attention_net": inner, "x": 1})
    left, names = dry_run._without_pretrained(config)
    assert sorted(names) == ["resnet18", "resnet50"]
    assert left.method_args == {"attention_net": {"backbone": "resnet", "depth": 18}, "x": 1}


def test_weights_in_a_package_in_a_file_and_at_a_hub(photos, tmp_path):
    def problems(**backbone_args):
        return list(cost(backbone="timm", backbone_args=backbone_args, **photos).problems)

    assert problems(name="tf_efficientnet_lite0", pretrained=True) == []
    assert problems(name="resnet10t", pretrained=True) == [
        "weights: the first run fetches those of timm's resnet10t from its hub"
    ]
    assert problems(name="resnet10t", pretrained=str(tmp_path / "w")) == [f"weights: {tmp_path / 'w'} is not there"]


def test_settings_that_build_nothing_are_a_problem_of_their_run(photos):
    found = cost(**photos, method_args={"heads": 2})
    (problem,) = found.problems
    assert problem.startswith("settings: method 'baseline': unknown argument heads")
    assert found.seconds is None


def test_a_line_for_each_experiment_and_a_line_for_each_thing_that_is_missing(photos, capsys):
    ready = [Config(**SMALL | photos, seed=seed) for seed in (0, 1)]
    lacking = Config(data="cars", **SMALL)
    runs = [{"chapter": "03_x", "experiment": "components", "config": config.to_dict()} for config in ready]
    assert dry_run.report(runs, tflops=20)
    assert not dry_run.report(
        [*runs, {"chapter": "03_x", "experiment": "cars", "config": lacking.to_dict()}], tflops=0.5
    )
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.endswith("on 1 device of 20 TFLOP/s")
    assert lines[0].split()[:2] == ["03_x/components", "2"]
    assert lines[0].endswith("ready")
    assert lines[3].endswith("lacks data")
    assert lines[4].startswith("data: Stanford Cars is no longer offered for download")
    assert lines[4].endswith("(1 experiment)")


def test_the_time_is_told_before_it_is_spent(photos):
    text = dry_run.sentence([Config(**SMALL | photos)] * 3, "cpu")
    assert text.startswith("3 runs to train, about ")
    assert text.endswith(" seconds on cpu")
    assert dry_run.sentence([Config(data="folder", data_args={"root": "nowhere"})], "cpu") == "1 run to train on cpu"
