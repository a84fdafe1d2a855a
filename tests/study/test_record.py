"""Records: complete or refused, written whole or not at all."""

import json

import numpy as np
import pytest

from fgvc_lib.config import Config
from fgvc_study.record import Record, RecordError, read, run_id, write


def record(**changes):
    config = Config(method="center", seed=3)
    fields = {
        "id": run_id(config, "abc"),
        "chapter": "02_center_loss",
        "profile": "quick",
        "method": "center",
        "seed": 3,
        "config": config.to_dict(),
        "dataset": {"name": "digits", "fingerprint": "abc", "train": 10, "test": 5},
        "history": [{"epoch": 1, "loss": 2.0}],
        "final": {"test_accuracy": 0.5},
        "timing": {"train_seconds": 1.0},
        "memory": {"peak_bytes": 1},
        "device": {"type": "cpu", "name": "a processor", "count": 2},
        "versions": {"torch": "2.11", "sources": "123"},
        "commit": "0" * 40,
        "dirty": False,
    }
    return Record(**fields | changes)


def test_round_trip_with_arrays(tmp_path):
    arrays = {"features_2d/test": np.arange(6, dtype=np.float16).reshape(3, 2)}
    written = write(record(), tmp_path, arrays)
    found = read(written.path)
    assert found == written
    assert found.path.name == f"{found.id}.json"
    np.testing.assert_array_equal(found.load_arrays()["features_2d/test"], arrays["features_2d/test"])
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".npz"]


def test_too_large_arrays_are_refused_and_leave_nothing(tmp_path):
    with pytest.raises(RecordError, match=r"take [\d,]+ bytes, more than 200,000"):
        write(record(), tmp_path, {"x": np.random.default_rng(0).normal(size=(300, 300))})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["commit", "device", "versions", "dataset", "seed", "history", "dirty", "timing"])
def test_a_record_without_provenance_is_refused(tmp_path, field):
    path = write(record(), tmp_path).path
    fields = json.loads(path.read_text())
    del fields[field]
    path.write_text(json.dumps(fields))
    with pytest.raises(RecordError, match=rf"{path.name} lacks {field}"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": ""}, "has an empty commit"),
        ({"final": {}}, "has an empty final"),
        ({"dataset": {"name": "digits"}}, "does not say which data"),
        ({"versions": {"sources": "x"}}, "does not say which data or which torch"),
        ({"schema": 0}, "is not a record of schema 1"),
        ({"surprise": 1}, "has unknown surprise"),
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
    with pytest.raises(RecordError, match="its configuration and data give"):
        read(path)


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 1,')
    with pytest.raises(RecordError, match="is not a readable record"):
        read(path)


def test_the_id_depends_on_configuration_seed_and_data():
    config = Config()
    ids = {
        run_id(config, "a"),
        run_id(config, "b"),
        run_id(config.replace(seed=1), "a"),
        run_id(config.replace(lr=0.2), "a"),
    }
    assert len(ids) == 4
    assert run_id(config, "a") == run_id(Config.from_dict(config.to_dict()), "a")
