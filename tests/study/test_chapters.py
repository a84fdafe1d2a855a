"""Every knob of every chapter turns something, every profile fits its chapter, and the committed tables agree."""

import dataclasses
from pathlib import Path

import pytest

from fgvc_study import experiment, plan
from fgvc_study.__main__ import profile_parameters

ROOT = Path(__file__).parents[2]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PARAMETERS = {chapter: plan.read_parameters(chapter) for chapter in CHAPTERS}
PROFILES = ("smoke", "quick", "photos", "paper")
OTHER = {  # where another value of the same type would mean nothing
    "dataset": "pets",
    "backbone": "resnet18",
    "train": "never",
    "device": "cpu",
    "max_steps": 2,
    "per_class": 5,
    "settings": {"weight_decay": 0.125},
    "method_args": {"an": "argument"},
    "changes": {row: {"epochs": 3} for row in ("MC-Loss", "bilinear")},
    "elsewhere": {"flowers": {}},
    "point_seeds": [7],
    "seeds_of": {row: [7] for row in ("0.001", "CE + MC", "bilinear", "SCI", "structure", "two stages")},
}


def changed(name, value):
    """Another value for a parameter."""
    if name in OTHER:
        return OTHER[name]
    match value:
        case bool():
            return not value
        case int() | float():
            return 2 * value + 1
        case str():
            return f"{value}x"
        case list():
            return value[:-1] if len(value) > 1 else [changed(name, value[0])]
        case dict():
            first = next(iter(value))
            return {**value, first: changed(name, value[first])}
    raise AssertionError(f"no other value is known for {name} = {value!r}: add one to OTHER")


def asked(chapter, **parameters):
    """What a chapter asks for, comparable."""
    found = plan.read(chapter, parameters)
    return dataclasses.asdict(found) | {
        kind: [
            (e.name, e.metrics, [(v, [c.to_dict() for c in cs]) for v, cs in e.variants.items()]) for e in each.values()
        ]
        for kind, each in (("experiments", found.experiments), ("live", found.live))
    }


@pytest.fixture(scope="module")
def defaults():
    """Chapter → what it asks for as it is."""
    return {chapter: asked(chapter) for chapter in CHAPTERS}


@pytest.mark.parametrize(("chapter", "name"), [(c, name) for c in CHAPTERS for name in PARAMETERS[c]])
def test_every_parameter_changes_what_a_chapter_runs(chapter, name, defaults, monkeypatch):
    monkeypatch.chdir(ROOT)
    same = asked(chapter, **{name: changed(name, PARAMETERS[chapter][name])}) == defaults[chapter]
    assert not same, f"{chapter} runs the same whatever {name} is: use it, or take it out of the parameters cell"


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_lists_and_dicts_may_come_as_text_as_papermill_passes_them(chapter, defaults, monkeypatch):
    monkeypatch.chdir(ROOT)
    known = {name: value for name, value in PARAMETERS[chapter].items() if isinstance(value, list | dict)}
    values = {name: changed(name, value) for name, value in known.items()}
    found = asked(chapter, **{name: repr(value) for name, value in values.items()})
    assert found == asked(chapter, **values) != defaults[chapter]
    with pytest.raises(ValueError, match=r"the parameter seeds must be of type list, got '\[2, 5'"):
        asked(chapter, seeds="[2, 5")


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_holds_values_of_parameters_that_the_chapter_has(profile, chapter, monkeypatch):
    monkeypatch.chdir(ROOT)
    values = profile_parameters(ROOT / "profiles" / profile / f"{chapter}.yaml")
    plan.read(chapter, values)  # names and types


def test_a_build_trains_no_sweep_and_smoke_takes_two_steps_of_everything():
    for chapter in CHAPTERS:
        quick, smoke = (profile_parameters(ROOT / "profiles" / p / f"{chapter}.yaml") for p in ("quick", "smoke"))
        if plan.read(chapter).experiments:
            assert quick["train"] == "never", chapter
            assert smoke.get("train", "missing") == "missing", chapter
        if "max_steps" in PARAMETERS[chapter]:
            assert smoke["max_steps"] == 2, chapter


def test_the_committed_tables_are_what_the_chapters_ask_for(monkeypatch):
    monkeypatch.chdir(ROOT)
    for path in sorted((ROOT / "profiles").glob("*/*.yaml")):
        profile, chapter = path.parent.name, path.stem
        if profile != "smoke":
            written = experiment.table_path(profile, chapter)
            assert written.is_file(), f"{written} is missing: run `python -m fgvc_study tables`"
            text = experiment.table_text(plan.read(chapter, profile_parameters(path)))
            assert written.read_text(encoding="utf8") == text, (
                f"{written} is out of step: run `python -m fgvc_study tables`"
            )
