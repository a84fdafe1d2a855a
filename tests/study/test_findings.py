"""Sentences say what the records say."""

import pandas as pd
import pytest

from fgvc_study.findings import difference, effects, effects_over, level, lost, tell

RUNS = pd.DataFrame(
    {
        "measured": True,
        "diverged": [False] * 12 + [True],
        "variant": ["plain"] * 3 + ["better"] * 3 + ["alike"] * 3 + ["worse"] * 3 + ["lost"],
        "seed": [0, 1, 2] * 4 + [0],
        "test_accuracy": [0.5, 0.6, 0.7, 0.61, 0.70, 0.82, 0.4, 0.65, 0.8, 0.4, 0.51, 0.59, None],
    }
)


def test_a_level_has_its_spread_and_a_difference_its_interval():
    assert level(RUNS, "plain") == "60.0 ± 10.0 %"
    found = difference(RUNS, "better", "plain")
    assert str(found) == "+11.0 points [+8.5, +13.5]"  # mean 11, s 1, t₂ = 4.303: ± 4.303/√3
    assert found.seeds == 3


@pytest.mark.parametrize(
    ("variant", "word"), [("better", "above"), ("alike", "not clearly different from"), ("worse", "below")]
)
def test_the_word_follows_the_interval(variant, word):
    assert difference(RUNS, variant, "plain").word == word


def test_one_seed_has_no_verdict():
    found = difference(RUNS[RUNS["seed"] == 0], "worse", "plain")
    assert str(found) == "−10.0 points, one seed"
    assert found.word == "not clearly different from"


def test_what_is_not_measured_is_said(capsys):
    assert level(RUNS, "lost") is None
    assert (lost(RUNS, "lost"), lost(RUNS, "plain"), lost(RUNS, "nobody")) == ("1 of 1", "0 of 3", None)
    assert level(RUNS, "nobody") is None
    assert difference(RUNS, "lost", "plain") is None
    assert difference(RUNS, "plain", "better", "no_such_number") is None


def test_effects_are_rows_for_a_forest_without_what_is_not_measured():
    rows = effects({"better": difference(RUNS, "better", "plain"), "lost": difference(RUNS, "lost", "plain")})
    assert list(rows.index) == ["better"]
    assert rows.round(1).loc["better"].to_dict() == {"effect": 11.0, "low": 8.5, "high": 13.5}
    assert list(effects({"lost": None}).columns) == ["effect", "low", "high"]


def test_effects_over_one_variant_are_those_of_each():
    each = {name: difference(RUNS, name, "plain") for name in ("worse", "better")}
    pd.testing.assert_frame_equal(effects_over(RUNS, ["worse", "lost", "better"], "plain"), effects(each))


def test_a_sentence_is_filled_or_says_that_it_cannot_be(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda markdown: shown.append(markdown.data))
    tell("It is {d.word} plain ({d}).", d=difference(RUNS, "better", "plain"))
    tell("It reaches {x}.", x=level(RUNS, "lost"))
    assert shown == ["It is above plain (+11.0 points [+8.5, +13.5]).", "*Not measured yet.*"]
