"""Tables: a row a run, seeds summarized, and what a foot line says."""

import math
from types import SimpleNamespace

import pandas as pd

from fgvc_lib.config import Config
from fgvc_study.experiment import Experiment
from fgvc_study.record import run_id
from fgvc_study.tables import frame, plus_minus, provenance_line, summarize


def test_plus_minus_of_several_seeds_of_one_and_of_none():
    assert plus_minus([0.60, 0.62, 0.64]) == "62.0 ± 2.0"
    assert plus_minus(pd.Series([0.6134, math.nan])) == "61.3"
    assert plus_minus([1.5, 2.5], scale=1, digits=2) == "2.00 ± 0.71"
    assert plus_minus([math.nan]) == plus_minus([]) == "–"


def test_a_summary_has_a_line_for_each_variant_in_order_and_no_column_that_nobody_measured():
    runs = pd.DataFrame(
        {
            "variant": ["b", "b", "a"],
            "right": [0.5, 0.7, 0.25],
            "h": [1.0, math.nan, math.nan],
            "never": [math.nan] * 3,
            "measured": True,
            "diverged": False,
        }
    )
    columns = {"accuracy, %": "right", "h": ("h", 1, 3), "never": "never", "unknown": "of another method"}
    found = summarize(runs, columns, "network")
    assert found.to_dict("list") == {
        "network": ["b", "a"],
        "accuracy, %": ["60.0 ± 14.1", "25.0"],
        "h": ["1.000", "–"],
        "seeds": [2, 1],
    }
    assert list(summarize(runs[:0], columns, "network").columns) == ["network", "seeds"]


def test_divergence_is_a_rate_beside_the_mean():
    runs = pd.DataFrame(
        {
            "variant": ["a", "a", "a", "b", "b"],
            "right": [0.5, math.nan, math.nan, 0.25, 0.35],
            "measured": [True, True, False, True, True],
            "diverged": [False, True, False, False, False],
        }
    )
    found = summarize(runs, {"accuracy, %": "right"}, "network")
    assert list(found["diverged"]) == ["1 of 2", "0 of 2"]
    assert list(found["seeds"]) == [1, 2]
    assert list(found["accuracy, %"]) == ["50.0", "30.0 ± 7.1"]


def a_record(config, **changes):
    fields = {
        "id": run_id(config),
        "seed": config.seed,
        "dataset": {"name": "digits", "train": 1200, "test": 300},
        "final": {"test_accuracy": 0.5},
        "timing": {"steps": 2},
        "memory": {"peak_bytes": 7},
        "device": {"type": "cpu", "name": "a processor", "count": 1},
        "versions": {"torch": "2.11"},
        "commit": "0123456789ab",
        "dirty": False,
        "is_current": True,
    }
    fields |= changes
    return SimpleNamespace(**{"diverged": "diverged_at_step" in fields["final"]} | fields)


def test_every_run_that_is_asked_for_has_a_row_measured_or_not():
    configs = tuple(Config(method_args={"head": "linear"}, seed=seed) for seed in (0, 1))
    lost = Config(lr=9.0)
    known = [a_record(configs[0]), a_record(lost, final={"diverged_at_step": 3.0})]
    runs = frame(Experiment("x", {"one": configs, "two": (lost,)}), {r.id: r for r in known})
    assert list(runs["variant"]) == ["one", "one", "two"]
    assert list(runs["seed"]) == [0, 1, 0]
    assert list(runs["measured"]) == [True, False, True]
    assert list(runs["diverged"]) == [False, False, True]
    assert runs["test_accuracy"].iloc[0] == 0.5
    assert runs["test_accuracy"].iloc[1:].isna().all()
    assert list(runs["method_args.head"])[:2] == ["linear"] * 2
    row = runs.iloc[0]
    assert (row["device"], row["dataset"], row["threads"]) == ("a processor", "digits", 1)
    assert (row["timing/steps"], row["memory/peak_bytes"]) == (2, 7)
    assert row["milestones"] == (0.5, 0.75)  # hashable, so that rows can be grouped by it
    assert frame(Experiment("x", {}), {}).empty


def test_the_line_below_a_table_says_where_its_numbers_come_from():
    one, two = Config(), Config(seed=1)
    assert provenance_line([a_record(one)]) == (
        "1 run; digits (1,200 training and 300 test images); seeds 0; a processor (1 thread); torch 2.11; "
        "commit 012345678."
    )
    old = a_record(
        two, dirty=True, is_current=False, versions={"torch": "2.12"}, device={**a_record(two).device, "count": 2}
    )
    line = provenance_line([a_record(one), old], missing=3)
    assert "2 runs; " in line
    assert "seeds 0, 1; a processor (1, 2 threads); torch 2.11, 2.12; " in line
    assert line.endswith(
        " with uncommitted changes; 1 measured with an earlier revision of the method; 3 runs not measured yet."
    )
    assert provenance_line([], missing=1) == "1 run not measured yet."
    assert provenance_line([]) == "No runs."


def test_the_line_tells_of_runs_that_diverged():
    lost = [a_record(Config(seed=seed), final={"diverged_at_step": 4.0 + seed}) for seed in (1, 2)]
    assert provenance_line([a_record(Config()), lost[0]]).endswith("; 1 diverged (seed 1 at step 5) and is in no mean.")
    assert provenance_line(lost).endswith("; 2 diverged (seed 1 at step 5, seed 2 at step 6) and are in no mean.")
