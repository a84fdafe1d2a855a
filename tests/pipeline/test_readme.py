"""The README's figure and table are what the committed records give."""

import base64
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from pipeline import project, readme

ROOT = Path(__file__).resolve().parents[2]
RUNS = pd.DataFrame(
    {
        "variant": ["plain", "plain", "A & B"],
        "seed": [0, 1, 0],
        "test_accuracy": [0.61, 0.63, 0.705],
        "diverged": False,
    }
)


def told(svg):
    """What a figure says of itself in words."""
    return ElementTree.fromstring(svg).findtext(".//{http://purl.org/dc/elements/1.1/}title")


def test_readme_and_figure_are_those_of_the_records():
    figure, text = readme.wanted_files().values()
    assert (ROOT / "README.md").read_text(encoding="utf8") == text, "run `make readme`"
    there = ROOT / readme.FIGURE
    # by what it tells: another matplotlib draws the same numbers with other bytes
    assert (told(there.read_bytes()) if there.exists() else None) == (told(figure) if figure else None), (
        "run `make readme`"
    )


def test_the_figure_has_a_dot_for_each_run_and_says_its_numbers():
    tables = {"birds, 64 px": RUNS, "cars": RUNS}
    drawn = readme.svg(tables)
    marks = ElementTree.fromstring(drawn).findall(".//{*}g[@clip-path]/{*}use")
    assert len(marks) == 2 * (3 + 2)  # runs and means
    x = [float(mark.get("x")) for mark in marks[:3]]
    assert (x[2] - x[0]) / (x[1] - x[0]) == pytest.approx(9.5 / 2, abs=0.05)
    assert "plain 62.0 %, A & B 70.5 %" in told(drawn)
    assert readme.svg(tables) == drawn


def test_the_table_has_every_method_with_its_seeds():
    made = readme.block({"birds": RUNS, "cars": RUNS[RUNS["variant"] == "plain"]})
    assert "| plain | 62.0 ± 1.4 (2 seeds) | 62.0 ± 1.4 (2 seeds) |" in made
    assert "| A & B | 70.5 (1 seed) |  |" in made
    lost = RUNS.assign(diverged=[False, True, False], test_accuracy=[0.61, math.nan, 0.705])
    assert "| plain | 61.0 (2 seeds, 1 diverged) |" in readme.block({"birds": lost})
    assert re.search(r"Of the \d+ claims .*\.$", made)


def test_without_records_it_says_so():
    made = readme.block({})
    assert made.startswith("The comparison of all methods has no committed record yet.")
    assert "![" not in made


def test_what_stands_outside_the_markers_stays():
    text = f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    assert readme.updated(text, "new") == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"
    with pytest.raises(project.PipelineError, match="must hold the lines"):
        readme.updated("no markers", "new")


def test_the_picture_is_that_of_the_chapter_as_it_was_built(tmp_path, monkeypatch):
    path = tmp_path / "09_your_images.ipynb"
    monkeypatch.setattr(readme, "executed_path", lambda profile, chapter: path)
    assert readme.answers() is None
    outputs = [
        new_output("display_data", {"image/png": base64.b64encode(content).decode()}, metadata={"name": name})
        for name, content in (("fig-own-curves", b"other"), (readme.ANSWERS, b"picture"))
    ]
    nbformat.write(new_notebook(cells=[new_code_cell("show()", outputs=outputs)]), path)
    assert readme.answers() == b"picture"
