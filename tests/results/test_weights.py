"""Weights that somebody else trained are used where they fit, and refused where they are damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fgvc_lib import train
from fgvc_lib.config import Config
from fgvc_lib.results import release, run, trained, weights
from fgvc_lib.results.files import sha256
from fgvc_lib.results.release import looked_inside, write_all
from fgvc_lib.results.weights import WeightsError

SETTINGS = "{backbone_args: {depth: small, width: 4}, epochs: 1, measures: [correct]}"
RUNS = f"""
groups:
  small/live:
    chapter: 02_center_loss
    priority: 1
    asks: What does it look like?
    config: {SETTINGS}
    rows: {{"one": {{}}}}
    profiles: {{quick: {{seeds: [3, 4]}}, cpu: {{seeds: [5]}}}}
  small/path:
    chapter: 02_center_loss
    priority: 1
    asks: Does it run?
    config: {SETTINGS}
    rows: {{"two": {{}}}}
    profiles: {{quick: {{max_steps: 2}}}}
"""
CONFIG = Config(backbone_args={"depth": "small", "width": 4}, epochs=1, measures=("correct",), seed=3)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty repository whose one network takes a step of training."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs.yaml").write_text(RUNS)
    monkeypatch.chdir(tmp_path)
    for name in ("FGVC_BUILD", "FGVC_WEIGHTS", "FGVC_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("FGVC_COMMIT", "f" * 40)
    fit = train.fit
    trainings: list[int] = []

    def one_step(config: Config, **arguments: Any) -> Any:
        trainings.append(config.seed)
        return fit(config.replace(max_steps=1), **arguments)

    monkeypatch.setattr(train, "fit", one_step)
    monkeypatch.setattr(release, "trainings", trainings, raising=False)
    return tmp_path


def trainings() -> list[int]:
    """Seeds of what was trained so far."""
    return list(release.trainings)  # type: ignore[attr-defined]


def elsewhere(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write the weights, then forget the build folder, as on another machine; returns the file."""
    said: list[str] = []
    assert write_all("quick", place / "kept", say=said.append) == 0
    monkeypatch.setenv("FGVC_BUILD", str(place / "another"))
    monkeypatch.setenv("FGVC_WEIGHTS", str(place / "kept"))
    (file,) = (place / "kept").glob("*.pt")
    assert len(said) == 1
    assert file.name in said[0]
    return file


def test_the_networks_are_those_that_quick_trains_to_the_end(place: Path) -> None:
    assert [(g.name, row, c.seed) for g, row, c in looked_inside("quick")] == [("small/live", "one", 3)]
    assert [c.seed for _, _, c in looked_inside("cpu")] == [5]
    assert list(looked_inside("quick", only="large")) == []
    with pytest.raises(ValueError, match="profile 'quick' has no network to look inside whose name starts 'large'"):
        write_all("quick", place / "kept", only="large")
    assert not (place / "kept").exists()


def test_a_reader_gets_network_record_and_arrays_without_training(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, record = trained(CONFIG, profile="quick", chapter="02_center_loss", device="cpu")
    file = elsewhere(place, monkeypatch)
    assert trainings() == [3]  # the command took it from the cache
    second, again = trained(CONFIG, profile="quick", chapter="02_center_loss", device="cpu")
    assert trainings() == [3]
    assert not second.training
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(second(images).logits, first.eval()(images).logits)
    assert again == record
    assert again.path is not None
    assert place / "another" in again.path.parents
    assert record.load_arrays()
    for name, value in record.load_arrays().items():
        np.testing.assert_array_equal(again.load_arrays()[name], value)
    # the file is a model like any other, and the cache has it from now on
    assert train.load_trained(file)[1].classes == tuple("0123456789")
    monkeypatch.setenv("FGVC_WEIGHTS", str(place / "nowhere"))
    assert trained(CONFIG, profile="quick", chapter="02_center_loss")[1] == record


def test_a_record_alone_is_taken_too(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(place, monkeypatch)
    assert run(CONFIG, profile="quick", chapter="02_center_loss").commit == "f" * 40
    assert trainings() == [3]


def test_what_others_measured_is_no_evidence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of seed 3 is in the folder; asked for as evidence, it is measured here."""
    elsewhere(place, monkeypatch)
    record = run(CONFIG, profile="cpu", chapter="02_center_loss", device="cpu")
    assert trainings() == [3, 3]
    assert record.profile == "cpu"


def test_the_manifest_says_what_a_file_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = elsewhere(place, monkeypatch)
    entry = json.loads((place / "kept" / "manifest.json").read_text())["files"][file.name]
    assert (entry["group"], entry["row"], entry["profile"]) == ("small/live", "one", "quick")
    assert entry["bytes"] == file.stat().st_size
    assert entry["sha256"] == sha256(file)
    assert entry["config"] == CONFIG.to_dict()
    assert entry["commit"] == "f" * 40
    assert entry["dirty"] is False
    assert file.stem.endswith(f"-{entry['code']}")
    assert "test_accuracy" in entry["final"]


def test_another_configuration_or_other_code_is_trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere(place, monkeypatch)
    trained(CONFIG.replace(seed=9), profile="quick", chapter="x", device="cpu")
    assert trainings() == [3, 9]
    monkeypatch.setattr("fgvc_lib.results.provenance.code_fingerprint", lambda config: "0" * 16)
    trained(CONFIG, profile="quick", chapter="x", device="cpu")
    assert trainings() == [3, 9, 3]


@pytest.mark.parametrize("damage", ["a bit", "cut", "another file", "not listed", "renamed", "no network", "pickle"])
def test_a_damaged_or_foreign_file_is_refused_in_one_sentence(
    damage: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = elsewhere(place, monkeypatch)
    manifest = file.with_name("manifest.json")
    content = json.loads(manifest.read_text())
    data = file.read_bytes()
    sentence = "is not the file that manifest.json beside it describes: fetch both again, or unset FGVC_WEIGHTS"
    name = file.stem
    if damage == "a bit":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "cut":
        file.write_bytes(data[:1000])
    elif damage == "another file":
        file.write_bytes(b"hello")
    elif damage == "not listed":
        manifest.write_text(json.dumps(content | {"files": {}}))
    elif damage == "renamed":  # and listed as if it were another run
        name = "0" * 16 + name[16:]
        file = file.rename(file.with_name(f"{name}.pt"))
        manifest.write_text(json.dumps(content | {"files": {file.name: {"sha256": sha256(file)}}}))
        sentence = "and not what it is called"
    else:  # the checksum fits, what is in it does not
        torch.save({"weights": {}} if damage == "no network" else Path, file)
        manifest.write_text(json.dumps(content | {"files": {file.name: {"sha256": sha256(file)}}}))
        sentence = "holds no trained network"
    with pytest.raises(WeightsError, match=sentence) as raised:
        weights.find(name)
    assert file.name in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1
    if damage == "a bit":
        with pytest.raises(WeightsError):
            trained(CONFIG, profile="quick", chapter="x")
        assert trainings() == [3]
        assert not list((place / "another").rglob("model.pt"))


@pytest.mark.parametrize("content", [None, "{", "[]", '{"schema": 2, "files": {}}', '{"schema": 1, "files": {"a": 1}}'])
def test_a_folder_without_a_manifest_is_refused(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    monkeypatch.setenv("FGVC_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsError, match=r"has no usable manifest\.json .*`fgvc weights`"):
        weights.find("x")


def test_nothing_is_looked_for_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FGVC_WEIGHTS", raising=False)
    assert weights.find("x") is None


def test_a_second_writing_replaces_the_first(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = elsewhere(place, monkeypatch)
    (place / "kept" / "README").write_text("by hand")
    (place / "data" / "runs.yaml").write_text(RUNS.replace("epochs: 1", "epochs: 2"))
    write_all("quick", place / "kept", say=lambda text: None)
    (other,) = (place / "kept").glob("*.pt")
    assert other.name != file.name
    assert (place / "kept" / "README").exists()  # not ours
    assert sorted(p.name for p in (place / "kept").iterdir()) == sorted(["README", other.name, "manifest.json"])


def test_the_command_says_when_it_is_not_for_a_release(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fgvc_lib import cli

    monkeypatch.setenv("FGVC_DIRTY", "1")
    monkeypatch.setattr(sys, "argv", ["fgvc", "weights", str(place / "kept"), "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    out, err = capsys.readouterr()
    assert "small/live | one" in out
    assert err == "note: 1 of them trained with uncommitted changes: not for a release\n"
