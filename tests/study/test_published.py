"""Published figures: none without a source and a certainty, and each beside the runs of its protocol."""

from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

from fgvc_study import published, wanted
from fgvc_study.wanted import Group

GOOD = {"group": "a/paper_x", "row": "one", "value": 87.3, "source": "paper", "certainty": "sure"}


def write(path, *rows):
    path.write_text(yaml.safe_dump({"published": list(rows)}))
    return path


@pytest.fixture
def one_group(monkeypatch):
    rows = {"one": {}, "two": {"lr": 0.2}}
    groups = {
        "a/paper_x": Group("a/paper_x", "ch", 1, "?", {}, rows, {"paper": {}}),
        "a/other": Group("a/other", "ch", 1, "?", {}, rows, {"quick": {}}),
        "a/sweep": Group("a/sweep", "ch", 3, "?", {}, rows, {"paper": {}}),
    }
    monkeypatch.setattr(wanted, "groups", lambda: groups)
    monkeypatch.setattr(wanted, "recorded", lambda **_: [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"certainty": "remembered"}, "certainty 'remembered': it needs a percentage, a source and one of sure"),
        ({"certainty": None}, "certainty None"),
        ({"source": ""}, "needs a percentage, a source"),
        ({"value": 873.0}, "873"),
        ({"confidence": "high"}, "lacks or has too much of confidence"),
    ],
)
def test_a_figure_without_source_or_certainty_is_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        published.figures(write(tmp_path / "published.yaml", GOOD | changes))


def test_every_row_has_a_line_and_no_figure_is_lost(tmp_path, one_group):
    path = write(tmp_path / "published.yaml", GOOD, GOOD | {"value": 86.25, "certainty": "log"}, GOOD | {"value": 87.0})
    table = published.table(path)
    assert list(table["row"]) == ["one", "one", "one", "two"]
    assert list(table["published, %"]) == ["87.3", "86.25", "87.0", ""]
    assert list(table["certainty"]) == ["sure", "log", "sure", ""]
    assert set(table["measured, %"]) == {""}
    assert set(table["experiment"]) == {"a/paper_x"}
    with pytest.raises(ValueError, match="a/paper_x three"):
        published.table(write(tmp_path / "published.yaml", GOOD | {"row": "three"}))


def test_measured_accuracies_stand_beside(tmp_path, one_group, monkeypatch):
    runs = pd.DataFrame({"row": ["one", "one", "two"], "test_accuracy": [0.87, 0.88, 0.5]})
    monkeypatch.setattr(wanted, "records", lambda name, profiles: [SimpleNamespace()])
    monkeypatch.setattr(wanted, "table", lambda name, records: runs)
    table = published.table(write(tmp_path / "published.yaml", GOOD))
    assert list(table["measured, %"]) == ["87.50 ± 0.71", "50.00"]


def test_what_is_published_stands_beside_rows_that_exist_and_every_method_has_a_protocol():
    table = published.table()
    assert {name.split("/")[0] for name in table["experiment"]} == {"center", "mc", "bcnn", "cin", "tasn", "ap"}
    assert len(published.figures()) == (table["published, %"] != "").sum()
    groups = {n: g for n, g in wanted.groups().items() if "/paper_" in n}
    assert all(set(g.profiles) == {"paper"} and g.priority == 1 for g in groups.values())  # never part of a build
    assert all(len(g.rows) >= 2 for g in groups.values())  # a baseline beside the method
