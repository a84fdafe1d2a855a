"""The performance page: targets are compared with the records, and say so where there is none."""

import json

import pytest
import yaml

from pipeline import performance
from pipeline.project import ROOT

TARGET = {"what": "Loss", "record": "loss", "device": "cpu", "key": ["sizes", 1, "ratio"], "at_least": 2.5}


def rows(folder, *targets):
    (folder / "targets.yaml").write_text(yaml.safe_dump({"targets": list(targets)}))
    text = performance.page(folder).partition("## Targets")[2].partition("\n## ")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")][2:]


@pytest.fixture
def folder(tmp_path):
    cpu = {"type": "cpu", "name": "A CPU", "count": 1}
    record = {
        "benchmark": "loss",
        "device": cpu,
        "versions": {"torch": "2.15"},
        "sizes": [{}, {"ratio": 3.0, "work": 4.0}],
    }
    (tmp_path / "loss-cpu.json").write_text(json.dumps(record))
    return tmp_path


def test_a_target_is_met_or_not(folder):
    missed = TARGET | {"at_least": 3.1}
    most = {key: value for key, value in TARGET.items() if key != "at_least"} | {"at_most": 3}
    met, not_met, exactly = rows(folder, TARGET, missed, most)
    assert met == ["Loss", "Loss", "one CPU thread", "≥ 2.5", "3", "yes"]
    assert not_met[-3:] == ["≥ 3.1", "3", "**no**"]
    assert exactly[-3:] == ["≤ 3", "3", "yes"]


def test_a_changed_record_changes_the_answer(folder):
    record = json.loads((folder / "loss-cpu.json").read_text())
    record["sizes"][1]["ratio"] = 2.4
    (folder / "loss-cpu.json").write_text(json.dumps(record))
    assert rows(folder, TARGET)[0][-2:] == ["2.4", "**no**"]
    (folder / "loss-cpu.json").write_text(json.dumps(record | {"note": "trial, other work beside it"}))
    assert rows(folder, TARGET)[0][-1] == "**no** (a trial)"


def test_a_ratio_of_two_numbers(folder):
    target = TARGET | {"per": ["sizes", 1, "work"], "at_least": 0.75}
    assert rows(folder, target)[0][-2:] == ["0.75", "yes"]


def test_what_nobody_measured_says_why(folder):
    gpu, other = rows(folder, TARGET | {"device": "gpu"}, TARGET | {"record": "other"})
    assert gpu[2:] == ["GPU", "≥ 2.5", "", "not measured yet"]
    assert other[-1] == "not measured yet"


def test_every_gpu_that_was_measured_has_a_line(folder):
    for name, ratio in (("H", 6.0), ("L", 1.0)):
        gpu = {"type": "cuda", "name": name, "count": 1}
        record = {"benchmark": "loss", "device": gpu, "versions": {"torch": "2.15"}, "sizes": [{}, {"ratio": ratio}]}
        (folder / f"loss-{name.lower()}.json").write_text(json.dumps(record))
    found = rows(folder, TARGET | {"device": "gpu"})
    assert [row[2:] for row in found] == [["H", "≥ 2.5", "6", "yes"], ["L", "≥ 2.5", "1", "**no**"]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"at_most": 1}, "needs at_least or at_most, and has 2"),
        ({"key": ["sizes", 7, "ratio"]}, r"has no 7 on the way of \['sizes', 7, 'ratio'\]"),
        ({"key": ["sides", 1]}, "has no 'sides'"),
    ],
)
def test_a_target_that_names_nothing_is_refused(folder, changes, message):
    with pytest.raises(ValueError, match=message):
        rows(folder, TARGET | changes)


def test_growth_and_steps_have_tables_of_their_own(tmp_path):
    growth = {
        "what": "SCI",
        "variable": "channels",
        "fixed": "14 × 14",
        "seconds": {"64": {"median": 0.002}, "128": {"median": 0.004}, "256": {"median": 0.016}},
        "peak_bytes": {"64": 2**20, "128": 2**21, "256": 2**22},
        "exponent": {"median": 1.5, "lowest": 1.4, "highest": 1.6},
        "exponent_of_bytes": 1.0,
    }
    parts = {"data": 0.001, "forward": 0.02, "step": 0.021, "prediction": 0.01}
    over = {"over_baseline": 1.5, "multiply_adds_over_baseline": 2.0, "prediction_over_baseline": 1.25}
    method = {"batch": 32, **parts, **over, "peak_bytes": 2**20}
    cpu = {"device": {"type": "cpu", "name": "A CPU", "count": 1}, "versions": {"torch": "2.15"}}
    (tmp_path / "growth-cpu.json").write_text(json.dumps(cpu | {"growth": [growth]}))
    (tmp_path / "step-cpu.json").write_text(json.dumps(cpu | {"methods": {"CIN": method}}))
    page = performance.page(tmp_path)
    assert (
        "| SCI | channels | 64 … 256 | 14 × 14 | 2 ms … 16 ms | 1.50 (1.40 … 1.60) | 1 MiB … 4 MiB | 1.00 |"
    ) in page.splitlines()
    assert "| method | images | data | forward | step |" in page.splitlines()
    assert "| CIN | 32 | 1 ms | 20 ms | 21 ms |" in page.splitlines()
    assert "| method | prediction | prediction, of the first row's | step, of the first row's |" in page
    assert "| CIN | 10 ms | 1.25 × | 1.50 × | 2.00 × | 1 MiB |" in page.splitlines()


def test_the_page_of_the_repository_compares_every_target():
    listed = yaml.safe_load((ROOT / "data" / "benchmarks" / "targets.yaml").read_text())["targets"]
    text = performance.page()
    assert all(target["what"] in text for target in listed)
    assert all((ROOT / "benchmarks" / f"{target['record']}.py").exists() for target in listed)
