"""Minutes and memory of a chapter: runs of this build count, the GPU's column is the stated formula."""

import json
import os
from datetime import UTC, datetime

import nbformat
import pytest

from pipeline import colab, project

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "ROOT", tmp_path)
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: notebooks/01_a\n- file: notebooks/02_b\n")
    metadata = {
        "papermill": {"start_time": START.isoformat(), "duration": 120.0},
        "fgvc": {"device": {"type": "cpu", "name": "x", "count": 2}},
    }
    (tmp_path / "build/quick/executed").mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(metadata=metadata), tmp_path / "build/quick/executed/01_a.ipynb")
    return tmp_path


def record(root, name, after, train_seconds, steps, peak):
    path = root / "build/quick/results/01_a" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps({"timing": {"train_seconds": train_seconds, "steps": steps}, "memory": {"peak_bytes": peak}})
    )
    when = START.timestamp() + after
    os.utime(path, (when, when))


def test_only_what_the_chapter_trained_itself_counts(root):
    record(root, "before", -10, 1000.0, 9999, 9 * 2**30)
    record(root, "one", 10, 50.0, 400, 2**30)
    record(root, "two", 100, 40.0, 600, 2 * 2**30)
    found = colab.cost("quick", "01_a")
    assert (found.runs, found.training, found.steps, found.peak_bytes) == (2, 90.0, 1000, 2 * 2**30)
    assert found.gpu_seconds == pytest.approx(120 - 90 + 1000 * colab.STEP)
    assert colab.cost("quick", "02_b") is None
    *_, row = colab.page("quick").splitlines()
    assert row == "| {doc}`/notebooks/01_a` | 2.0 | 1.5 | 1.0 | 2.0 GB | ≤ 2.5 GB |"


def test_a_chapter_that_trained_nothing_has_no_estimate(root):
    *_, row = colab.page("quick").splitlines()
    assert row == "| {doc}`/notebooks/01_a` | 2.0 | none |  |  |  |"
