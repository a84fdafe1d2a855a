"""The page: today's text and code with the outputs of the run."""

import copy

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pipeline.stage import merge


@pytest.fixture
def clean():
    return new_notebook(
        cells=[
            new_markdown_cell("# Title", id="m0"),
            new_code_cell("install()", id="install", metadata={"tags": ["remove-cell"]}),
            new_code_cell("epochs = 8\nseeds = [0, 1]", id="c0", metadata={"tags": ["parameters"]}),
            new_markdown_cell("Prose.", id="m1"),
            new_code_cell("show(fig, caption='A.')", id="c1", metadata={"tags": ["figure"]}),
        ]
    )


@pytest.fixture
def executed(clean):
    made = copy.deepcopy(clean)
    made.metadata["papermill"] = {
        "duration": 61.7,
        "parameters": {"epochs": 8, "seeds": [0, 1]},
        "start_time": "2026-01-02T03",
    }
    made.metadata["fgvc"] = {"profile": "quick", "commit": "0123456789abcdef", "dirty": "1"}
    made.cells.insert(3, new_code_cell("epochs = 8", id="x", metadata={"tags": ["injected-parameters"]}))
    made.cells[-1].execution_count = 4
    made.cells[-1].outputs = [
        new_output("display_data", {"image/png": "aa"}, metadata={"name": "fig-a", "caption": "A.", "alt": "Seen."})
    ]
    return made


def test_edited_prose_keeps_the_outputs_beside_it(clean, executed):
    clean.cells[3].source = "Edited prose."
    clean.cells.insert(4, new_markdown_cell("More.", id="m2"))
    page = merge(clean, executed)
    assert [cell.source for cell in page.cells[:-1]] == [
        "# Title",
        "epochs = 8\nseeds = [0, 1]",
        "Edited prose.",
        "More.",
        "show(fig, caption='A.')",
    ]
    figure = page.cells[-2]
    assert figure.outputs == executed.cells[-1].outputs
    assert figure.execution_count == 4


def test_a_figure_is_captioned_numbered_and_described(clean, executed):
    assert merge(clean, executed).cells[-2].metadata["mystnb"] == {
        "figure": {"name": "fig-a", "caption": "A."},
        "image": {"alt": "Seen."},
    }


@pytest.mark.parametrize(
    ("tags", "prompt"),
    [
        (["figure", "hide-input"], "Show how it is drawn"),
        (["table", "hide-cell"], "Show the table"),
        (["setup", "hide-input"], "Show imports and setup"),
        (["hide-input"], "Show the code"),
    ],
)
def test_what_is_folded_is_named(clean, executed, tags, prompt):
    clean.cells[-1].metadata["tags"] = tags
    page = merge(clean, executed).cells[-2]
    assert page.metadata["mystnb"]["code_prompt_show"] == prompt
    assert page.metadata["mystnb"]["code_prompt_hide"] == prompt.replace("Show", "Hide")
    assert ("figure" in page.metadata["mystnb"]) == ("figure" in tags)


def test_parameters_are_shown_where_they_differ_from_the_defaults_above(clean, executed):
    executed.metadata["papermill"]["parameters"] = {"epochs": 8}
    assert "x" not in [cell.id for cell in merge(clean, executed).cells]
    executed.metadata["papermill"]["parameters"] = {"epochs": 3}
    executed.cells[3].source = "# Parameters\nepochs = 3"
    ids = [cell.id for cell in merge(clean, executed).cells]
    assert ids[1:3] == ["c0", "x"]


def test_a_page_says_where_its_numbers_come_from(clean, executed):
    line = merge(clean, executed).cells[-1].source
    assert "profile `quick`, seeds 0, 1, 62 s, 2026-01-02, commit `0123456789` with changes" in line


def test_neither_notebook_is_changed(clean, executed):
    before = copy.deepcopy((clean, executed))
    merge(clean, executed)
    assert (clean, executed) == before
