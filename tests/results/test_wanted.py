"""Wanted runs: labels come back in every profile that measures them."""

from types import SimpleNamespace

import pandas as pd

from fgvc_lib.results import wanted
from fgvc_lib.results.wanted import Group


def test_a_profile_that_a_group_does_not_have_is_labelled_by_its_quick_rows(monkeypatch):
    """``measure`` runs the quick rows in smoke; ``table`` has to know them there too."""
    group = Group("a/b", "ch", 1, "?", {}, {"one": {}, "two": {"lr": 0.2}}, {"quick": {"seeds": [0], "max_steps": 2}})
    monkeypatch.setattr(wanted, "groups", lambda: {"a/b": group})
    monkeypatch.setattr(wanted, "frame", lambda found: pd.DataFrame({"id": range(len(found))}))
    configs = [config for row in group.configs("quick").values() for config in row]
    found = [SimpleNamespace(profile="smoke", config=config.to_dict()) for config in reversed(configs)]
    assert list(wanted.table("a/b", found)["row"]) == ["two", "one"]
