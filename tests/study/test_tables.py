"""Tables: pairing by seed, the interval, and what a foot line says."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest

from fgvc_lib.config import Config
from fgvc_study.provenance import code_fingerprint
from fgvc_study.tables import frame, paired, plus_minus, provenance_line, strongest, summarise


def runs(values, seeds=None, **more):
    return pd.DataFrame({"seed": range(len(values)) if seeds is None else seeds, "accuracy": values, **more})


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.3027, half width 4.3027 / √3."""
    found = paired(runs([11.0, 13.0, 15.0]), runs([10.0, 11.0, 12.0]), "accuracy")
    assert found["mean"] == pytest.approx(2.0)
    assert found["seeds"] == 3
    assert found["high"] - found["mean"] == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert found["low"] == pytest.approx(2.0 - 4.302653 / math.sqrt(3), rel=1e-6)


def test_only_common_seeds_are_paired_and_order_does_not_matter():
    found = paired(runs([1.0, 5.0], seeds=[7, 2]), runs([4.0, 0.0], seeds=[2, 9]), "accuracy")
    assert found == {"mean": 1.0, "low": -math.inf, "high": math.inf, "seeds": 1}
    with pytest.raises(ValueError, match="no seed has both runs of accuracy"):
        paired(runs([1.0], seeds=[0]), runs([1.0], seeds=[1]), "accuracy")


def test_plus_minus_of_several_seeds_of_one_and_of_none():
    assert plus_minus([0.60, 0.62, 0.64]) == "62.0 ± 2.0"
    assert plus_minus(pd.Series([0.6134, math.nan])) == "61.3"
    assert plus_minus([1.5, 2.5], scale=1, digits=2) == "2.00 ± 0.71"
    assert plus_minus([math.nan]) == plus_minus([]) == "–"


def test_a_summary_has_a_line_for_each_row_in_order_and_no_column_that_nobody_measured():
    table = pd.DataFrame(
        {"row": ["b", "b", "a"], "right": [0.5, 0.7, 0.25], "h": [1.0, math.nan, math.nan], "never": [math.nan] * 3}
    )
    columns = {"accuracy, %": "right", "h": ("h", 1, 3), "never": "never", "unknown": "of another method"}
    found = summarise(table, columns, "network")
    assert found.to_dict("list") == {
        "network": ["b", "a"],
        "accuracy, %": ["60.0 ± 14.1", "25.0"],
        "h": ["1.000", "–"],
        "seeds": [2, 1],
    }
    assert list(summarise(table[:0], columns, "network").columns) == ["network", "seeds"]


def test_the_strongest_profile_wins():
    table = pd.DataFrame({"profile": ["quick", "cpu", "cpu"], "x": [1, 2, 3]})
    assert list(strongest(table)["x"]) == [2, 3]
    assert len(strongest(table[:0])) == 0


def a_run(**changes):
    config = Config(method_args={"head": "linear"}, seed=changes.pop("seed", 0)).to_dict()
    fields = {
        "id": "0123",
        "profile": "cpu",
        "chapter": "01_primer",
        "seed": config["seed"],
        "config": config,
        "dataset": {"name": "digits", "train": 1200, "test": 300},
        "final": {"test_accuracy": 0.5},
        "timing": {"steps": 2},
        "memory": {"peak_bytes": 7},
        "device": {"name": "a processor"},
        "versions": {"torch": "2.11", "sources": code_fingerprint(config)},
        "commit": "0123456789ab",
        "dirty": False,
    }
    fields |= changes
    return SimpleNamespace(**{"cut_short": False, "diverged": "diverged_at_step" in fields["final"]} | fields)


def test_a_record_becomes_a_row_with_its_configuration_flat():
    table = frame([a_run(), a_run(seed=1, final={"test_accuracy": 0.7})])
    assert list(table["seed"]) == [0, 1]
    assert list(table["test_accuracy"]) == [0.5, 0.7]
    assert list(table["method_args.head"]) == ["linear"] * 2
    row = table.iloc[0]
    assert (row["device"], row["dataset"], row["timing/steps"], row["memory/peak_bytes"]) == (
        "a processor",
        "digits",
        2,
        7,
    )
    assert row["milestones"] == (0.5, 0.75)  # hashable, so that rows can be grouped by it
    assert frame([]).empty


def test_the_line_below_a_table_says_where_its_numbers_come_from():
    assert provenance_line([a_run()]) == (
        "1 run, profile cpu; digits (1,200 training and 300 test images); seeds 0; a processor; torch 2.11; "
        "commit 012345678."
    )
    old = a_run(seed=1, dirty=True, profile="gpu", versions={"torch": "2.12", "sources": "earlier"})
    line = provenance_line([a_run(), old])
    assert line.startswith("2 runs, profile cpu, gpu; ")
    assert "seeds 0, 1; a processor; torch 2.11, 2.12; " in line
    assert line.endswith(" with uncommitted changes; 1 of them measured at an earlier version of the code.")
    assert "nothing has been measured" in provenance_line([])
    assert provenance_line([a_run(), a_run(profile="quick", cut_short=True)]).endswith(
        "; 1 of them cut short, which proves that they run and nothing else."
    )


def test_the_line_tells_of_runs_that_diverged():
    lost = [a_run(seed=seed, final={"diverged_at_step": 4.0 + seed}) for seed in (1, 2)]
    assert provenance_line([a_run(), lost[0]]).endswith("; 1 of them diverged, seed 1 at step 5, and is in no mean.")
    assert provenance_line(lost).endswith(
        "; 2 of them diverged, seed 1 at step 5, seed 2 at step 6, and are in no mean."
    )
