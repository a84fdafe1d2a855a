"""Records: complete or refused, written whole or not at all, found by what was configured."""

import json

import numpy as np
import pytest

from fgvc_lib.config import Config
from fgvc_lib.methods import METHODS
from fgvc_study import folders
from fgvc_study.record import Record, RecordError, find, read, run_id, write


def record(**changes):
    config = Config(method="center", seed=3)
    fields = {
        "id": run_id(config),
        "chapter": "02_center_loss",
        "config": config.to_dict(),
        "revision": METHODS["center"].revision,
        "dataset": {"name": "digits", "fingerprint": "abc", "train": 10, "test": 5},
        "history": [{"epoch": 1, "loss": 2.0}],
        "final": {"test_accuracy": 0.5},
        "metrics": [],
        "timing": {"train_seconds": 1.0},
        "memory": {"peak_bytes": 1},
        "device": {"type": "cpu", "name": "a processor", "count": 2},
        "versions": {"torch": "2.11"},
        "commit": "0" * 40,
        "dirty": False,
    }
    return Record(**fields | changes)


def test_round_trip_with_arrays(tmp_path):
    arrays = {"features_2d/test": np.arange(6, dtype=np.float16).reshape(3, 2)}
    written = write(record(), tmp_path, arrays)
    found = read(written.path)
    assert found == written
    assert found.path == tmp_path / "02_center_loss" / f"{found.id}.json"
    assert found.seed == 3
    np.testing.assert_array_equal(found.load_arrays()["features_2d/test"], arrays["features_2d/test"])
    assert sorted(p.suffix for p in found.path.parent.iterdir()) == [".json", ".npz"]


def test_too_large_arrays_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(RecordError, match=r"take [\d,]+ bytes, more than 200,000"):
        write(record(), tmp_path, {"x": np.random.default_rng(0).normal(size=(300, 300))})
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "field", ["commit", "device", "versions", "dataset", "revision", "history", "dirty", "metrics"]
)
def test_a_record_without_provenance_is_refused(tmp_path, field):
    path = write(record(), tmp_path).path
    fields = json.loads(path.read_text())
    del fields[field]
    path.write_text(json.dumps(fields))
    with pytest.raises(RecordError, match=rf"{path.name} lacks or has too much of {field}: measure it again"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": ""}, "has an empty commit"),
        ({"final": {}}, "has an empty final"),
        ({"dataset": {"name": "digits"}}, "does not say which data"),
        ({"versions": {"numpy": "x"}}, "does not say which data or which torch"),
        ({"schema": 0}, "is not a record of schema 2"),
        ({"surprise": 1}, "lacks or has too much of surprise"),
    ],
)
def test_an_incomplete_record_is_refused(tmp_path, changes, message):
    path = write(record(), tmp_path).path
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(RecordError, match=message):
        read(path)


def test_a_changed_configuration_no_longer_matches_its_id(tmp_path):
    path = write(record(), tmp_path).path
    fields = json.loads(path.read_text())
    fields["config"]["lr"] = 0.5
    path.write_text(json.dumps(fields))
    with pytest.raises(RecordError, match="but its configuration gives"):
        read(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 2,')
    with pytest.raises(RecordError, match="is not a readable record"):
        read(path)


def test_the_id_is_of_what_differs_from_the_defaults():
    config = Config(method="mutual_channel", backbone="resnet", backbone_args={"depth": "small"}, data="birds")
    changes = [{"seed": 1}, {"lr": 0.2}, {"method_args": {"mu": 0.7}}, {"data": "digits"}, {"max_steps": 2}]
    assert len({run_id(config), *(run_id(config.replace(**change)) for change in changes)}) == 1 + len(changes)
    spelled_out = {"method_args": {"drop": 0.5}, "data_args": {"image_size": 64}, "momentum": 0.9}
    assert run_id(config.replace(**spelled_out)) == run_id(config)
    assert run_id(Config.from_dict(config.to_dict())) == run_id(config)


def test_committed_records_win_over_local_ones_whoever_measured(repository):
    config = Config(method="center", seed=3)
    assert find(config) is None
    write(record(chapter="x", final={"test_accuracy": 0.1}), folders.build() / "results")
    assert find(config).final == {"test_accuracy": 0.1}
    write(record(chapter="y", final={"test_accuracy": 0.2}), folders.results())
    assert find(config).final == {"test_accuracy": 0.2}
    assert find(config.replace(seed=4)) is None


def test_a_method_whose_numbers_changed_makes_its_records_old(monkeypatch):
    measured = record()
    assert measured.is_current
    monkeypatch.setattr(METHODS["center"], "revision", METHODS["center"].revision + 1)
    assert not measured.is_current
