"""The committed comparison keeps to its protocol: rates chosen on validation, from equally many trials."""

import pytest

from fgvc_study import wanted


@pytest.fixture(scope="module")
def trials():
    """Method → learning rate → validation accuracies, from the committed records."""
    found = {}
    runs = wanted.table("compare/rates", wanted.records("compare/rates", profiles=["cpu"]))
    for row, accuracy in zip(runs["row"], runs["val_accuracy"], strict=True):
        method, rate = row.split(" @ ")
        found.setdefault(method, {}).setdefault(float(rate), []).append(accuracy)
    return found


def test_every_method_had_equally_many_trials(trials):
    assert set(trials) == set(wanted.groups()["compare/birds"].rows)
    rows = wanted.groups()["compare/rates"].configs("cpu")
    assert {len(configs) for configs in rows.values()} == {2}
    assert {len(rates) for rates in trials.values()} == {3}


def test_trials_differ_from_the_comparison_in_the_rate_and_the_seed_alone():
    trials = wanted.groups()["compare/rates"].configs("cpu")
    for row, (config, *_) in wanted.groups()["compare/birds"].configs("cpu").items():
        mine, names = config.to_dict(), {name for name in trials if name.startswith(f"{row} @ ")}
        for name in names:
            other = trials[name][0].to_dict()
            assert {k for k in mine if mine[k] != other[k]} <= {"lr", "seed", "measures"}


def test_the_comparison_takes_the_rates_that_validation_preferred(trials):
    for row, (config, *_) in wanted.groups()["compare/birds"].configs("cpu").items():
        # a run that diverged is in no table and got nothing right: sums, not means
        assert config.lr == max(trials[row], key=lambda rate: sum(trials[row][rate])), row
