"""Records of the benchmarks, by name."""

import json

from fgvc_study import benchmarks, folders


def test_every_device_of_one_benchmark_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "committed", lambda name: tmp_path if name == "benchmarks" else None)
    for name, device in (("pool-nvidia-h200", "cuda"), ("pool-cpu", "cpu"), ("pooling-cpu", "x"), ("step-cpu", "x")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"device": {"type": device}}))
    found = [record["device"]["type"] for record in benchmarks.records("pool")]
    assert found == ["cpu", "cuda"]
    assert benchmarks.records("none") == []


def test_the_committed_ones_by_default():
    for record in benchmarks.records("mutual_channel"):
        assert record["benchmark"] == "mutual_channel"
        assert record["device"]["type"] in ("cpu", "cuda")
