"""Records of the benchmarks, by name."""

import importlib
import json
from pathlib import Path

import torch

from fgvc_study import benchmarks, folders

SCRIPTS = Path(__file__).parents[2] / "benchmarks"


def test_every_device_of_one_benchmark_and_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "committed", lambda name: tmp_path if name == "benchmarks" else None)
    for name, device in (("pool-nvidia-h200", "cuda"), ("pool-cpu", "cpu"), ("pooling-cpu", "x"), ("step-cpu", "x")):
        (tmp_path / f"{name}.json").write_text(json.dumps({"device": {"type": device}}))
    found = [record["device"]["type"] for record in benchmarks.records("pool")]
    assert found == ["cpu", "cuda"]
    assert benchmarks.records("none") == []


def test_a_device_is_named_by_its_threads_or_by_its_name():
    def named(**device):
        return benchmarks.device({"device": device})

    assert named(type="cpu", name="A CPU", count=1) == "one CPU thread"
    assert named(type="cpu", name="A CPU", count=2) == "2 CPU threads"
    assert named(type="cuda", name="NVIDIA H", count=1) == "NVIDIA H"


def test_the_committed_ones_by_default():
    for record in benchmarks.records("mutual_channel"):
        assert record["benchmark"] == "mutual_channel"
        assert record["device"]["type"] in ("cpu", "cuda")


def test_what_second_order_is_compared_with_computes_the_same(monkeypatch):
    """The script checks that library and literal formula agree before it measures either."""
    monkeypatch.syspath_prepend(SCRIPTS)
    second_order = importlib.import_module("second_order")
    found = second_order.layers(16, 4, 4, repeats=1, device=torch.device("cpu"))
    assert set(found) == {"bilinear pooling", "SCI", "CCI", "CCI, averaged"}
    assert all(row["shape"] == [4, 16, 4, 4] for row in found.values())
