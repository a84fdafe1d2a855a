"""Published figures: none without a source and a certainty, and each beside the runs of its protocol."""

import pandas as pd
import pytest
import yaml

from fgvc_lib.config import Config
from fgvc_study import published
from fgvc_study.experiment import Experiment

GOOD = {
    "experiment": "03_x/components",
    "variant": "one",
    "dataset": "cub",
    "value": 87.3,
    "source": "paper",
    "certainty": "sure",
}


def write(path, *rows):
    path.write_text(yaml.safe_dump({"published": list(rows)}))
    return path


@pytest.fixture
def asked(monkeypatch):
    configs = {"one": tuple(Config(data="cub", seed=seed) for seed in (0, 1)), "two": (Config(data="cub", lr=0.2),)}
    monkeypatch.setattr(published, "asked", lambda profile, chapter: {"components": Experiment("components", configs)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certainty": "remembered"}, r"0.certainty\s.*'sure', 'confirmed', 'log' or 'issue'"),
        ({"certainty": None}, "0.certainty"),
        ({"source": ""}, "0.source"),
        ({"value": 873.0}, r"0.value\s.*less than 100"),
        ({"confidence": "high"}, "0.confidence"),
    ],
)
def test_a_figure_without_source_or_certainty_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        published.figures(write(tmp_path / "published.yaml", GOOD | changes))


def test_every_figure_has_a_line_and_what_was_measured_stands_beside(tmp_path, asked, monkeypatch):
    class Measured:
        diverged = False

        def __init__(self, accuracy):
            self.final = {"test_accuracy": accuracy}

    monkeypatch.setattr(published, "find", lambda config: Measured(0.87 + config.seed / 100))
    cars = GOOD | {"value": 86.25, "certainty": "log", "dataset": "cars"}
    table = published.table(write(tmp_path / "published.yaml", GOOD, cars))
    assert list(table["published, %"]) == ["87.3", "86.25"]
    assert list(table["certainty"]) == ["sure", "log"]
    assert list(table["measured, %"]) == ["87.5 ± 0.7", ""]
    with pytest.raises(ValueError, match="profile paper has no variant 'three' of 03_x/components"):
        published.table(write(tmp_path / "published.yaml", GOOD | {"variant": "three"}))
    elsewhere = GOOD | {"variant": "three", "ours": False}  # stands in its chapter alone
    assert len(published.table(write(tmp_path / "published.yaml", GOOD, elsewhere))) == 1


def test_what_is_published_stands_beside_variants_that_exist():
    table = published.table()
    assert len(table) == sum(figure.ours for figure in published.figures())
    assert {name.split("/")[0][:2] for name in table["experiment"]} == {"02", "03", "04", "05", "06", "07"}


def test_effects_pair_the_figures_of_one_source_and_stand_beside_ours(tmp_path):
    other = GOOD | {"variant": "two", "value": 85.1}
    rows = [GOOD, other, other | {"source": "thread", "value": 80.0}, other | {"dataset": "cars"}]
    runs = pd.DataFrame({"variant": ["one", "two"], "seed": [0, 0], "test_accuracy": [0.9, 0.7]})
    pairs = [("one", "two"), ("two", "none")]
    path = write(tmp_path / "published.yaml", *rows)
    (line,) = published.effects("03_x/components", pairs, path=path, birds=runs, cars=runs[:0]).to_dict("records")
    assert line["published, points"] == "87.3 − 85.1 = +2.2"
    assert (line["comparison"], line["data"], line["source"]) == ("one − two", "cub", "paper")
    assert (line["birds"], line["cars"]) == ("+20.0, one seed", "not measured yet")
    assert published.effect("03_x/components", "one", "two", path=path) == pytest.approx(2.2)
    assert published.effect("03_x/components", "two", "none", path=path) is None


def test_the_effect_of_a_network_from_scratch_is_not_that_of_a_pretrained_one(tmp_path):
    fresh = {"source": "paper, from scratch", "pretrained": False}
    rows = [GOOD | fresh | {"value": 60.0}, GOOD | fresh | {"variant": "two", "value": 50.0}]
    path = write(tmp_path / "published.yaml", *rows, GOOD, GOOD | {"variant": "two", "value": 85.1})
    for started, gain in ((None, 10.0), (False, 10.0), (True, 2.2)):
        assert published.effect("03_x/components", "one", "two", pretrained=started, path=path) == pytest.approx(gain)
    path = write(tmp_path / "scratch.yaml", *rows)
    assert published.effect("03_x/components", "one", "two", pretrained=True, path=path) is None
