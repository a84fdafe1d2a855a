"""Records of the benchmarks, by name."""

import json

from fgvc_lib.results import benchmarks


def test_every_device_of_one_benchmark_and_no_other(tmp_path):
    for name, device in (("pool-nvidia-h200", "cuda"), ("pool-cpu", "cpu"), ("pooling-cpu", "x"), ("step-cpu", "x")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"device": {"type": device}}))
    found = [record["device"]["type"] for record in benchmarks.records("pool", tmp_path)]
    assert found == ["cpu", "cuda"]
    assert benchmarks.records("none", tmp_path) == []


def test_the_committed_ones_by_default():
    for record in benchmarks.records("mutual_channel"):
        assert record["benchmark"] == "mutual_channel"
        assert record["device"]["type"] in ("cpu", "cuda")
