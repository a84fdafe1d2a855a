"""The committed comparison keeps to its protocol: rates chosen on validation, from equally many trials."""

from pathlib import Path

import pytest

from fgvc_study import experiment
from fgvc_study.record import find_all
from fgvc_study.tables import frame

ROOT = Path(__file__).parents[2]
TABLE = experiment.table("quick", "08_evidence")
COMPARED = {name: configs[0] for name, configs in TABLE["compare"].variants.items()}


def trials(method):
    """The configurations that a method's rate was chosen from, one a rate and seed."""
    return [c for name, configs in TABLE["rates"].variants.items() if name.startswith(f"{method} @ ") for c in configs]


@pytest.mark.parametrize("method", COMPARED)
def test_trials_are_equally_many_and_differ_from_the_comparison_in_rate_and_seed_alone(method):
    found = [config.to_dict() for config in trials(method)]
    assert len({config["lr"] for config in found}) == 3
    assert len({config["seed"] for config in found}) == 2
    assert len(found) == 6
    mine = COMPARED[method].to_dict()
    assert {key for config in found for key in mine if config[key] != mine[key]} == {"lr", "seed"}
    assert not {c["seed"] for c in found} & {c.seed for c in TABLE["compare"].variants[method]}


@pytest.mark.parametrize("method", COMPARED)
def test_the_comparison_takes_the_rate_that_validation_preferred(method, monkeypatch):
    monkeypatch.chdir(ROOT)
    wanted = trials(method)
    found = find_all(wanted)
    if len(found) < len(wanted):
        pytest.skip(f"{len(wanted) - len(found)} of the {len(wanted)} trials of {method} have no record yet")
    runs = frame(TABLE["rates"], found)
    runs = runs[runs["measured"]]
    mean = runs["val_accuracy"].fillna(0.0).groupby(runs["lr"]).mean()  # a run that diverged gets nothing right
    assert COMPARED[method].lr == mean.idxmax(), f"the trials prefer {mean.idxmax():g}: {mean.to_dict()}"
