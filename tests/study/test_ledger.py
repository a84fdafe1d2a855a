"""The rule of the ledger, by hand and on records; and that every row of the ledger can be judged."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from fgvc_study import ledger
from fgvc_study.experiment import table
from fgvc_study.ledger import Claim, claims, decide, judge

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("low", "high", "side", "verdict"),
    [
        (0.5, 2.0, "greater", "reproduced"),
        (0.05, 0.3, "greater", "reproduced"),  # leaves the band
        (0.01, 0.09, "greater", "not reproduced"),  # positive, but inside the band
        (-0.05, 0.05, "greater", "not reproduced"),
        (-2.0, -0.5, "greater", "not reproduced"),
        (-0.5, 2.0, "greater", "inconclusive"),
        (-2.0, -0.5, "less", "reproduced"),
        (0.5, 2.0, "less", "not reproduced"),
        (-0.2, 0.4, "less", "inconclusive"),
        (-0.05, 0.05, "equal", "reproduced"),
        (0.2, 0.4, "equal", "not reproduced"),
        (-0.4, -0.2, "equal", "not reproduced"),
        (0.05, 0.2, "equal", "inconclusive"),
        (float("-inf"), float("inf"), "greater", "inconclusive"),  # one seed
    ],
)
def test_the_rule(low, high, side, verdict):
    assert decide(low, high, side=side, band=0.1) == verdict


def test_the_rule_refuses_nonsense():
    with pytest.raises(ValueError, match="side must be one of greater, less, equal, got 'up'"):
        decide(0, 1, side="up", band=0)
    with pytest.raises(ValueError, match="an interval and a band"):
        decide(1, 0, side="less", band=0)


def claim(**test):
    place = {"chapter": "02_center_loss", "anchor": "a", "written": "2026-01-01"}
    return Claim(id="x", method="", claim="…", source="…", test=test, **place)


@pytest.fixture
def measured(monkeypatch):
    """An experiment with three variants of three seeds, whose numbers a test can change."""
    numbers = {"a": [0.9, 0.8, 0.85], "b": [0.5, 0.45, 0.4], "c": [0.89, 0.81, 0.85]}

    def recorded(name, profile):
        if profile != "quick":
            return pd.DataFrame(), {}
        rows = [(v, s, x, f"{v}{s}", np.isnan(x)) for v, values in numbers.items() for s, x in enumerate(values)]
        runs = pd.DataFrame(rows, columns=["variant", "seed", "test_accuracy", "id", "diverged"])
        return runs, {name: name for name in runs["id"]}

    monkeypatch.setattr(ledger, "recorded", recorded)
    return numbers


def test_a_changed_record_changes_the_verdict(measured):
    row = claim(experiment="03_x/g", a="a", b="b", value="test_accuracy", side="greater", band=0.01)
    before = judge(row)
    assert before.verdict == "reproduced"
    assert before.seeds == 3
    assert before.effect == pytest.approx(0.4)
    assert set(before.records) == {"a0", "a1", "a2", "b0", "b1", "b2"}
    measured["b"][:] = [1.0, 0.9, 0.96]
    assert judge(row).verdict == "not reproduced"
    measured["b"][:] = [0.1, 0.99, 0.5]
    assert judge(row).verdict == "inconclusive"


def test_runs_that_diverged_are_left_out_and_told_of(measured):
    row = claim(experiment="03_x/g", a="a", b="b", value="test_accuracy", side="greater", band=0.01)
    measured["b"][1] = np.nan
    verdict = judge(row)
    assert verdict.seeds == 2
    assert verdict.why == "a against b; 1 more run diverged"
    measured["b"][:] = [0.5, np.nan, np.nan]
    measured["a"][0] = np.nan
    verdict = judge(row)
    assert verdict.verdict == "inconclusive"
    assert verdict.why == "no seed has test_accuracy of both a and b; 3 more runs diverged"
    measured["a"][:] = [np.nan] * 3
    assert judge(row).verdict == "inconclusive"


def test_the_profile_that_says_most_is_one_in_which_the_claim_is_measured(measured, monkeypatch):
    row = claim(experiment="03_x/g", a="a", b="b", value="test_accuracy", side="greater", band=0.01)
    assert judge(row).profile == "quick"
    quick = ledger.recorded

    def recorded(name, profile):  # among photographs only one of the two sides has runs
        runs, records = quick(name, "quick")
        keep = {"photos": ["a"], "quick": ["a", "b"]}.get(profile, [])
        return runs[runs["variant"].isin(keep)], records

    monkeypatch.setattr(ledger, "recorded", recorded)
    assert (judge(row).profile, judge(row).seeds) == ("quick", 3)
    assert judge(row, "photos").verdict == "not measured yet"


def test_a_claim_about_one_way_of_training_is_judged_by_it_alone(measured, monkeypatch):
    quick = ledger.recorded
    monkeypatch.setattr(ledger, "recorded", lambda name, profile: quick(name, "quick"))  # every profile has runs
    row = claim(experiment="03_x/g", a="a", b="b", value="test_accuracy", side="greater", band=0.01)
    assert judge(row).profile == ledger.STRONGEST[0]
    row = row.model_copy(update={"test": row.test | {"profile": "quick"}})
    assert judge(row).profile == judge(row, "quick").profile == "quick"
    assert judge(row, "photos").verdict == "not measured yet"


def test_a_sign_that_hangs_on_one_seed_is_fragile(measured):
    row = claim(experiment="03_x/g", a="a", b="b", value="test_accuracy", side="greater", band=0.01)
    assert not judge(row).fragile
    measured["b"][:] = [0.95, 0.85, 0.4]  # differences -0.05, -0.05, 0.45
    assert judge(row).effect > 0
    assert judge(row).fragile


def test_many_verdicts_are_judged_together():
    def verdict(p, low, high, name="reproduced"):
        return ledger.Verdict(name, effect=(low + high) / 2, low=low, high=high, p=p)

    sure, chance = verdict(0.0001, 0.1, 0.2), verdict(0.04, 0.001, 0.2)
    nothing = [verdict(0.9, -0.1, 0.1, "inconclusive") for _ in range(18)]
    equal = ledger.Verdict("reproduced", effect=0.0, low=-0.001, high=0.001)  # not tested for a difference
    # of 20, the k-th smallest p may be at most 0.05 k / 20: 0.0001 is below 0.0025, 0.04 above 0.005
    found = ledger.adjusted([sure, chance, *nothing, equal])
    assert found == ["reproduced", "inconclusive", *["inconclusive"] * 18, "reproduced"]
    assert ledger.adjusted([chance]) == ["reproduced"]  # alone it stands
    assert ledger.adjusted([equal]) == ["reproduced"]


def test_kinds_and_whose_claim_it_is():
    row = claim(untestable="no code")
    assert (row.kind, row.own) == ("untestable", False)
    assert claim(experiment="03_x/g").kind == "measured"
    assert claim(benchmark="speed").kind == "cost"
    assert claim(test="tests/x.py::test_y").model_copy(update={"source": "paper, Table 1"}).own


def test_against_several_variants_the_least_favorable_counts(measured):
    row = claim(experiment="03_x/g", a="a", b=["b", "c"], value="test_accuracy", side="greater", band=0.05)
    assert judge(row).verdict == "not reproduced"  # c is the same within the band


def test_missing_variants_are_said_to_be_missing(measured, monkeypatch):
    row = claim(experiment="03_x/g", a="a", b="nobody", value="test_accuracy", side="greater", band=0.01)
    assert judge(row).verdict == "not measured yet"
    monkeypatch.setattr(ledger, "recorded", lambda name, profile: (pd.DataFrame(), {}))
    assert judge(row).verdict == "not measured yet"


def test_benchmarks_and_reasons(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "benchmarks"
    folder.mkdir(parents=True)
    (tmp_path / "data" / "claims.yaml").write_text("claims: []\n")
    row = claim(benchmark="speed-cpu", key="rows.0.ratio", side="greater", bound=2.0)
    assert judge(row).verdict == "not measured yet"
    (folder / "speed-cpu.json").write_text(json.dumps({"rows": [{"ratio": 2.5}]}))
    assert judge(row).verdict == "reproduced"
    (folder / "speed-cpu.json").write_text(json.dumps({"rows": [{"ratio": 1.5}]}))
    assert judge(row).verdict == "not reproduced"
    (folder / "speed-cpu.json").write_text(json.dumps({"rows": [{"seconds": 1.5}]}))
    assert judge(row).verdict == "not measured yet"  # a benchmark of before the number was taken
    assert judge(claim(untestable="no code")).why == "no code"
    assert "checked by tests/x.py::test_y" in judge(claim(test="tests/x.py::test_y")).why


def test_every_row_of_the_ledger_is_sound():
    """Experiments, variants, tests and chapters that the ledger names exist."""
    for row in claims():
        assert (ROOT / "notebooks" / f"{row.chapter}.py").is_file(), row.id
        source = (ROOT / "notebooks" / f"{row.chapter}.py").read_text()
        headings = re.findall(r"^# #+ (.+)$", source, re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9]+", "-", heading.lower()).strip("-") for heading in headings}
        anchors |= set(re.findall(r'name="(fig-[a-z0-9-]+)"', source))
        anchors |= set(re.findall(r"^# \(([a-z0-9-]+)\)=$", source, re.MULTILINE))
        assert row.anchor in anchors, f"{row.id}: {row.anchor} is no figure or section of {row.chapter}"
        test = row.test
        if "experiment" in test:
            chapter, name = test["experiment"].split("/")
            known = [table(profile, chapter).get(name) for profile in ledger.STRONGEST]
            labels = {label for experiment in known if experiment for label in experiment.variants}
            others = test["b"] if isinstance(test.get("b"), list) else [test.get("b", test["a"])]
            assert {test["a"], *others} <= labels, row.id
            assert test["side"] in ledger.SIDES, row.id
            assert test.get("profile", "quick") in ledger.STRONGEST, row.id
            assert test["band"] >= 0, row.id
            assert "value" in test or {"a_value", "b_value"} <= set(test), row.id
        elif "test" in test:
            path, name = test["test"].split("::")
            assert f"def {name}(" in (ROOT / path).read_text(), row.id
        else:
            assert set(test) & {"benchmark", "untestable"}, row.id


@pytest.mark.parametrize("claim", [c for c in claims() if c.kind == "measured"], ids=lambda claim: claim.claim[:60])
def test_runs_that_are_compared_were_computed_in_the_same_arithmetic(claim):
    arithmetic: dict[int, set[str]] = {}
    for record in judge(claim).records:
        precision = record.config["precision"]  # "auto" is another one on a GPU than on a CPU
        kind = record.device["type"] if precision == "auto" else precision
        arithmetic.setdefault(record.config["seed"], set()).add(kind)
    mixed = {seed: kinds for seed, kinds in arithmetic.items() if len(kinds) > 1}
    assert not mixed, f"measure both rows of a seed on one kind of device: {mixed}"


def test_an_incomplete_or_repeated_row_is_refused(tmp_path):
    path = tmp_path / "claims.yaml"
    row = claim().model_dump()
    for wrong in ({name: value for name, value in row.items() if name != "anchor"}, row | {"anchors": ""}):
        path.write_text(yaml.safe_dump({"claims": [row, wrong]}))
        with pytest.raises(ValueError, match=r"1\.anchor"):
            claims(path)
    path.write_text(yaml.safe_dump({"claims": [row, row | {"id": "y"}, row]}))
    with pytest.raises(ValueError, match=r"names a claim twice: x$"):
        claims(path)
