"""Each thing that must not reach a reader is found, and named with its notebook and cell."""

import copy

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pipeline.check import outside_requests, problems

SHOW = "show(name='fig-a')"
PICTURE = {"name": "fig-a", "caption": "A caption.", "alt": "A picture."}


def picture(**metadata):
    return new_output("display_data", {"image/png": "aaaa"}, metadata={**PICTURE, **metadata})


def table():
    return new_output("execute_result", {"text/html": "<table></table>"}, execution_count=1)


def stream(text, name="stdout"):
    return new_output("stream", name=name, text=text)


@pytest.fixture
def clean():
    return new_notebook(
        cells=[
            new_markdown_cell("# Title", id="title"),
            new_code_cell("epochs = 8", id="parameters", metadata={"tags": ["parameters"]}),
            new_code_cell(SHOW, id="figure", metadata={"tags": ["figure"]}),
            new_code_cell("frame", id="table", metadata={"tags": ["table"]}),
            new_code_cell("", id="empty"),
        ]
    )


@pytest.fixture
def executed(clean):
    made = copy.deepcopy(clean)
    for number, cell in enumerate(made.cells[1:4], 1):
        cell.execution_count = number
    made.cells[2].outputs = [picture()]
    made.cells[3].outputs = [table()]
    return made


def found(clean, executed):
    return problems("02_b", clean, executed)


def test_a_good_notebook_has_no_problems(clean, executed):
    assert found(clean, executed) == []


@pytest.mark.parametrize(
    ("outputs", "complaint"),
    [
        ([], "is tagged 'figure' and shows 0 images, it must show one"),
        ([stream("text")], "is tagged 'figure' and shows 0 images, it must show one"),
        ([picture(), picture(name="fig-b")], "is tagged 'figure' and shows 2 images, it must show one"),
        ([picture(alt="")], "its figure has no alt"),
        ([picture(alt=" ", caption="")], "its figure has no caption and no alt"),
        ([picture(name="A")], "a figure's name is like 'fig-center-features', got 'A'"),
        ([picture(), stream("UserWarning: no\n", "stderr")], "that readers would see: UserWarning: no"),
        ([picture(), new_output("error", ename="ValueError", evalue="bad\nmore")], "ended in ValueError: bad"),
    ],
)
def test_what_is_wrong_with_the_outputs_of_a_figure(clean, executed, outputs, complaint):
    executed.cells[2].outputs = outputs
    (problem,) = found(clean, executed)
    assert problem.startswith(f'notebooks/02_b, cell 3 ("{SHOW}"): ')
    assert problem.endswith(complaint)


def test_a_table_must_be_there(clean, executed):
    executed.cells[3].outputs = [stream("text")]
    assert found(clean, executed) == ["notebooks/02_b, cell 4 ('frame'): is tagged 'table' and shows no table"]


def test_an_output_that_was_promised_must_be_there(clean, executed):
    clean.cells[3].metadata["tags"] = ["output"]
    assert found(clean, executed) == []
    executed.cells[3].outputs = [stream("\n")]
    assert found(clean, executed) == ["notebooks/02_b, cell 4 ('frame'): is tagged 'output' and shows nothing"]


def test_an_image_outside_a_figure_cell(clean, executed):
    executed.cells[3].outputs.append(picture(name="fig-b"))
    assert found(clean, executed) == ["notebooks/02_b, cell 4 ('frame'): shows an image and is not tagged 'figure'"]


def test_two_figures_of_one_name(clean, executed):
    clean.cells[3].metadata["tags"] = ["figure"]
    executed.cells[3].outputs = [picture()]
    (problem,) = found(clean, executed)
    assert "cell 4" in problem
    assert "figure name 'fig-a' is taken by cell 3" in problem


def test_a_page_without_output(clean, executed):
    for notebook in (clean, executed):
        for cell in notebook.cells[2:4]:
            cell.metadata["tags"], cell.outputs = [], []
    executed.cells[1].outputs = [stream(" \n")]
    assert found(clean, executed) == ["notebooks/02_b: has no output at all"]


def test_a_cell_that_was_not_run(clean, executed):
    executed.cells[3].execution_count = None
    assert found(clean, executed) == ["notebooks/02_b, cell 4 ('frame'): was not run"]


def test_results_of_other_code(clean, executed):
    clean.cells[3].source = "other"
    assert found(clean, executed) == [
        "notebooks/02_b, cell 4 ('other'): is not the cell that was run; run the chapter again"
    ]


def test_what_a_built_page_would_fetch_from_elsewhere(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "index.html").write_text(
        '<a href="https://a.org">a link is followed by hand</a><script src="../_static/a.js"></script>'
        '<link rel="canonical" href="https://a.org/index.html"/><img src="data:image/png;base64,aa">'
    )
    (tmp_path / "a.css").write_text("a { background: url(b.png) } /* see https://a.org */")
    assert outside_requests(tmp_path) == []
    (tmp_path / "notebooks" / "a.html").write_text(
        '<script src="https://cdn.org/a.js"></script><link rel="stylesheet" href="//cdn.org/a.css">'
        '<img srcset="b.png 1x, https://cdn.org/c.png 2x">'
    )
    (tmp_path / "b.css").write_text('@import "https://cdn.org/b.css"; a { background: url(https://cdn.org/d.png) }')
    assert outside_requests(tmp_path) == [
        "notebooks/a.html: https://cdn.org/a.js",
        "notebooks/a.html: https://cdn.org/c.png",
        "notebooks/a.html: //cdn.org/a.css",
        "b.css: https://cdn.org/b.css",
        "b.css: https://cdn.org/d.png",
    ]
