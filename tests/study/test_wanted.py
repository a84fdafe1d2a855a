"""Wanted runs: settings merge, records come back under their rows' labels, and what is missing is told in order."""

from __future__ import annotations

import dataclasses
import os
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from fgvc_lib.config import Config
from fgvc_study import wanted
from fgvc_study.record import Record, run_id, write
from fgvc_study.wanted import Group

RUNS: dict[str, Any] = {
    "ch/table": {
        "chapter": "ch",
        "priority": 2,
        "asks": "Does it help?",
        "config": {"method": "center", "method_args": {"weight": 0.1, "alpha": 0.5}, "epochs": 1},
        "rows": {"plain": {"method_args": {"weight": 0.0}}, "center": {}},
        "profiles": {"quick": {"max_steps": 2}, "cpu": {"seeds": [0, 1]}, "gpu": {"epochs": 9}},
    },
    "ch/headline": {
        "chapter": "ch",
        "priority": 1,
        "asks": "Does it hold?",
        "config": {"method": "center", "epochs": 1},
        "rows": {"center": {"method_args": {"weight": 0.1, "alpha": 0.5}}},
        "profiles": {"cpu": {"seeds": [1]}},
    },
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository that wants :data:`RUNS` and has no record."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs.yaml").write_text(yaml.safe_dump({"groups": RUNS}, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    for name in ("FGVC_BUILD", "FGVC_RECORDS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def record(config: Config, profile: str) -> Record:
    return Record(
        id=run_id(config, "abc"),
        chapter="ch",
        profile=profile,
        method=config.method,
        seed=config.seed,
        config=config.to_dict(),
        dataset={"name": "digits", "fingerprint": "abc", "train": 10, "test": 5},
        history=[],
        final={"test_accuracy": 0.5},
        timing={"train_seconds": 1.0},
        memory={"peak_bytes": 1},
        device={"type": "cpu", "name": "a processor", "count": 2},
        versions={"torch": "2.11"},
        commit="0" * 40,
        dirty=False,
    )


def measured(root, config: Config, profile: str) -> None:
    write(record(config, profile), root / "data" / "results" / profile / "ch")


def test_settings_of_group_row_profile_and_call_are_merged_the_later_ones_winning(repository):
    group = wanted.groups()["ch/table"]
    assert {label: [c.seed for c in configs] for label, configs in group.configs("cpu").items()} == {
        "plain": [0, 1],
        "center": [0, 1],
    }
    plain = group.configs("gpu", seeds=[7], lr=0.3)["plain"][0]
    assert (plain.method_args, plain.epochs, plain.lr, plain.seed) == ({"weight": 0.0, "alpha": 0.5}, 9, 0.3, 7)
    assert group.configs("quick")["center"][0].seed == 0
    with pytest.raises(ValueError, match=r"ch/table has no profile 'paper': it has quick, cpu, gpu"):
        group.configs("paper")


def test_a_run_that_diverged_is_measured_and_in_no_table(repository):
    first, second = wanted.groups()["ch/table"].configs("cpu")["plain"]
    measured(repository, first, "cpu")
    lost = dataclasses.replace(record(second, "cpu"), final={"diverged_at_step": 3.0})
    write(lost, repository / "data" / "results" / "cpu" / "ch")
    found = wanted.records("ch/table")
    assert wanted.labels("ch/table", found) == ["plain", "plain"]
    assert list(wanted.table("ch/table", found)["seed"]) == [0]
    assert second not in [config for _, _, config in wanted.missing("cpu")]


def test_an_edited_list_is_read_again_and_a_group_that_lacks_a_field_is_refused(repository):
    path = repository / "data" / "runs.yaml"
    assert list(wanted.groups()) == ["ch/table", "ch/headline"]
    path.write_text(yaml.safe_dump({"groups": {"ch/headline": RUNS["ch/headline"]}}))
    os.utime(path, ns=(1, 1))
    assert list(wanted.groups()) == ["ch/headline"]
    path.write_text("groups:\n  ch/half:\n    chapter: ch\n")
    os.utime(path, ns=(2, 2))
    with pytest.raises(ValueError, match=r"runs.yaml: group ch/half must have exactly asks, chapter, config, priority"):
        wanted.groups()


def test_missing_runs_come_by_priority_then_seed_and_one_that_two_groups_want_once(repository):
    def told(**only):
        return [(group.name, row, config.seed) for group, row, config in wanted.missing("cpu", **only)]

    # the headline's run is the table's row "center" with seed 1
    everything = [("ch/headline", "center", 1), ("ch/table", "plain", 0), ("ch/table", "center", 0)]
    assert told() == [*everything, ("ch/table", "plain", 1)]
    assert told(only="ch/t") == [("ch/table", row, seed) for seed in (0, 1) for row in ("plain", "center")]
    for _, _, config in wanted.missing("cpu", only="ch/headline"):
        measured(repository, config, "cpu")
    assert told() == [*everything[1:], ("ch/table", "plain", 1)]
    assert told(only="ch/headline") == []
    assert wanted.progress("cpu") == {"ch/table": (4, 3), "ch/headline": (1, 0)}


def test_records_are_those_of_the_strongest_profile_that_has_any_in_the_groups_order(repository):
    group = wanted.groups()["ch/table"]
    assert wanted.records("ch/table") == []
    for label in ("center", "plain"):
        for config in group.configs("cpu")[label]:
            measured(repository, config, "cpu")
    found = wanted.records("ch/table")
    rows = [(row, seed) for row in ("plain", "center") for seed in (0, 1)]
    assert [(r.config["method_args"]["weight"], r.seed) for r in found] == [
        ({"plain": 0.0, "center": 0.1}[row], seed) for row, seed in rows
    ]
    table = wanted.table("ch/table", found)
    assert list(zip(table["row"], table["seed"], strict=True)) == rows
    assert list(table["method_args.weight"]) == [0.0, 0.0, 0.1, 0.1]
    # one run on a GPU says more than all of these
    measured(repository, group.configs("gpu")["center"][0], "gpu")
    assert [r.profile for r in wanted.records("ch/table")] == ["gpu"]
    assert [r.profile for r in wanted.records("ch/table", profiles=["cpu"])] == ["cpu"] * 4


def test_measuring_runs_the_profile_and_shows_committed_evidence_where_there_is_some(repository, monkeypatch):
    ran: list[tuple[str, Config]] = []

    def run(config, *, profile, chapter, device):
        ran.append((profile, config))
        return record(config, profile)

    monkeypatch.setattr(wanted, "run", run)
    group = wanted.groups()["ch/table"]
    quick = [configs[0] for configs in group.configs("quick").values()]

    own, table = wanted.measure("ch/table", profile="quick")
    assert ran == [("quick", config) for config in quick]
    assert [r.profile for r in own] == ["quick", "quick"]  # nothing is committed yet
    assert list(table["row"]) == ["plain", "center"]
    assert list(table["method_args.weight"]) == [0.0, 0.1]
    assert table["test_accuracy"].isna().all()  # two steps prove a path and give no result
    whole, table = wanted.measure("ch/headline", profile="quick")
    assert (whole, list(table)) == ([], ["row"])
    ran.clear()
    monkeypatch.setitem(group.profiles["quick"], "max_steps", None)
    assert list(wanted.measure("ch/table", profile="quick")[1]["test_accuracy"]) == [0.5, 0.5]
    monkeypatch.setitem(group.profiles["quick"], "max_steps", 2)
    ran.clear()
    wanted.measure("ch/table", profile="smoke")  # which the group does not have: the quick rows
    assert ran == [("smoke", config) for config in quick]
    ran.clear()
    own, table = wanted.measure("ch/table", profile="paper")  # which the group does not have: nothing runs
    assert (ran, own, list(table["row"])) == ([], [], [])
    measured(repository, group.configs("cpu")["center"][1], "cpu")
    for profile, shown in {"quick": ["cpu"], "paper": ["cpu"], "gpu": ["gpu", "gpu"]}.items():  # own runs are evidence
        assert [r.profile for r in wanted.measure("ch/table", profile=profile)[0]] == shown


def test_a_profile_that_a_group_does_not_have_is_labelled_by_its_quick_rows(monkeypatch):
    """``measure`` runs the quick rows in smoke; ``table`` has to know them there too."""
    group = Group("a/b", "ch", 1, "?", {}, {"one": {}, "two": {"lr": 0.2}}, {"quick": {"seeds": [0], "max_steps": 2}})
    monkeypatch.setattr(wanted, "groups", lambda: {"a/b": group})
    monkeypatch.setattr(wanted, "frame", lambda found: pd.DataFrame({"id": range(len(found))}))
    configs = [config for row in group.configs("quick").values() for config in row]
    found = [SimpleNamespace(profile="smoke", config=config.to_dict(), diverged=False) for config in reversed(configs)]
    assert list(wanted.table("a/b", found)["row"]) == ["two", "one"]
