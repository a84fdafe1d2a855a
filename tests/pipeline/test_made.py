"""What is written into the prose pages when the book is put together."""

import json

import nbformat
import pytest
from nbformat.v4 import new_notebook

from fgvc_lib.config import Config
from fgvc_study.experiment import Experiment
from pipeline import performance, status
from pipeline.project import ROOT


@pytest.fixture
def run(tmp_path, monkeypatch):
    """One executed chapter, whose metadata the test may choose."""

    def write(**ours):
        notebook = new_notebook()
        notebook.metadata["papermill"] = {"duration": 61.7, "start_time": "2026-01-02T03:04:05.678"}
        notebook.metadata["fgvc"] = {"profile": "quick", **ours}
        nbformat.write(notebook, tmp_path / "02_a.ipynb")

    monkeypatch.setattr(status, "chapters", lambda: ["02_a", "03_not_run"])
    monkeypatch.setattr(status, "recorded", lambda profile, chapter: "✗ 1 of 2")
    monkeypatch.setattr(status, "executed_path", lambda profile, chapter: tmp_path / f"{chapter}.ipynb")
    return write


def test_status_says_when_where_and_from_what_a_chapter_was_run(run):
    run(
        commit="0123456789abcdef",
        dirty="1",
        device={"type": "cpu", "name": "A CPU", "count": 2},
        versions={"python": "3.12", "torch": "2.15"},
    )
    rows = status.page("quick").splitlines()
    assert rows[2] == (
        "| {doc}`/notebooks/02_a` | ✗ 1 of 2 | quick | 2026-01-02T03:04 | 62 | A CPU, 2 threads "
        "| `0123456789` with changes |"
    )
    assert "| torch | 2.15 |" in rows
    assert not any("03_not_run" in row for row in rows)


def test_status_counts_the_runs_of_a_chapter_that_have_a_record(monkeypatch):
    one, two = Config(seed=1), Config(seed=2)
    experiments = {"a": Experiment("a", {"x": (one, two)}), "b": Experiment("b", {"y": (one,)})}  # one of them twice
    monkeypatch.setattr("fgvc_study.experiment.table", lambda profile, chapter: experiments)
    monkeypatch.setattr("fgvc_study.record.find_all", lambda configs: {"1": None})
    assert status.recorded("quick", "02_a") == "✗ 1 of 2"
    monkeypatch.setattr("fgvc_study.record.find_all", lambda configs: {"1": None, "2": None})
    assert status.recorded("quick", "02_a") == "✓ 2 of 2"
    monkeypatch.setattr("fgvc_study.experiment.table", lambda profile, chapter: {})
    assert status.recorded("quick", "09_own") == "none asked for"


def test_status_of_a_notebook_that_does_not_say(run):
    run()
    assert status.page("quick").count("not noted") == 2


def test_a_machine_is_described_as_in_records():
    found = status.machine()
    assert found["device"]["name"]
    assert {"python", "torch", "fgvc_lib"} <= set(found["versions"])


def test_seconds_by_candidate_with_the_columns_beside_them():
    record = {
        "layers": {
            "pool": {
                "shape": [1, 2],
                "seconds": {"ours": {"median": 0.0123, "fastest": 0.01}, "literal": {"median": 2.5, "fastest": 2.0}},
                "peak_bytes": {"ours": 3 * 2**20, "literal": 2048},
                "times_faster_than": {"literal": {"median": 203.2, "fastest": 200.0}},
                "other": {"somebody": 1.0, "else": 2.0},
            }
        }
    }
    (place, rows), (other, numbers) = performance.groups(record)
    assert place == ("layers", "pool")
    assert rows["literal"] == {"median": 2.5, "fastest": 2.0, "peak_bytes": 2048, "times_faster_than": 203.2}
    assert rows["ours"] == {"median": 0.0123, "fastest": 0.01, "peak_bytes": 3 * 2**20}
    assert other == ("layers", "pool", "other")
    assert numbers == {"somebody": {"value": 1.0}, "else": {"value": 2.0}}


def test_candidates_that_took_turns():
    timed = {"median": 0.5, "fastest": 0.4, "seconds": [0.5, 0.4, 0.6], "host_bytes": 2**21}
    ((place, rows),) = performance.groups({"sizes": [{"size": 112, "loop": timed}]})
    assert place == ("sizes", "size 112")
    assert rows == {"loop": {"median": 0.5, "fastest": 0.4, "host_bytes": 2**21}}


def test_a_section_names_question_device_and_version(tmp_path):
    record = {
        "device": {"type": "cpu", "name": "A CPU", "count": 1},
        "versions": {"torch": "2.15"},
        "seconds": {"a": {"median": 0.0123, "fastest": 1.5}},
    }
    (tmp_path / "roi_pyramid-cpu.json").write_text(json.dumps(record))
    text = performance.page(tmp_path)
    assert "## Roi pyramid, one CPU thread" in text
    assert "A CPU; torch 2.15" in text
    assert performance.question("roi_pyramid") in text
    assert "| a | 12.3 ms | 1.5 s |" in text
    assert performance.page(tmp_path / "none") == "Nothing has been measured yet.\n"


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "benchmarks").glob("*.json")), ids=lambda path: path.stem)
def test_every_committed_benchmark_has_a_table(path):
    assert list(performance.groups(json.loads(path.read_text())))
