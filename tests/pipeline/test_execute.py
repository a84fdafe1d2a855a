"""Parameters are checked before a chapter runs; where a run comes from is told to it."""

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline import execute
from pipeline.project import PipelineError

PARAMETERS = "seeds = [0]\nepochs = 8\nlr = 0.1\nmax_steps = None"
READ = "%matplotlib inline\nprint(seeds, lr, epochs)\ndef f():\n    return f'{max_steps}'"


def notebook(source):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]})])


@pytest.fixture
def given(monkeypatch):
    """What a profile sets, in a chapter of these parameters and this code after them."""

    def given(values, parameters=PARAMETERS, code=READ):
        chapter = notebook(parameters)
        chapter.cells += [new_markdown_cell("About `unread`."), new_code_cell(code)]
        monkeypatch.setattr(execute, "parameters", lambda profile, name: values)
        return execute.given("paper", "02_b", chapter)

    return given


def test_a_profile_sets_parameters_that_the_chapter_has(given):
    assert given({"epochs": 3, "max_steps": 100}) == {"epochs": 3, "max_steps": 100}
    with pytest.raises(PipelineError, match=r"notebooks/02_b has no parameter 'epoch', which profile paper sets: it"):
        given({"epoch": 3})


@pytest.mark.parametrize("code", ["unread = 1", "run(unread=2)", "'unread'", "# unread", "a.unread"])
def test_a_parameter_that_no_later_cell_reads_is_refused(given, code):
    with pytest.raises(PipelineError, match=r"^notebooks/02_b: no cell reads the parameter unread$"):
        given({}, parameters="unread = 0\nseen = 0", code=f"print(seen)\n{code}")


@pytest.mark.parametrize("code", ["knob = 2", "for knob in (1, 2): pass", "def knob(): pass", "knob, other = 1, 2"])
def test_a_parameter_that_a_later_cell_binds_anew_is_refused(given, code):
    with pytest.raises(PipelineError, match="a later cell gives the parameter knob another value: use"):
        given({}, parameters="knob = 0", code=f"print(knob)\n{code}")
    given({}, parameters="knob = 0", code="print(knob, [knob for knob in (1, 2)])\ndef f():\n    knob = 3")


def test_code_that_does_not_parse_is_named(given):
    with pytest.raises(PipelineError, match=r"^notebooks/02_b: .*: def \($"):
        given({}, code="def (")


def test_the_commit_can_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("FGVC_COMMIT", "abc")
    monkeypatch.delenv("FGVC_DIRTY", raising=False)
    assert execute.provenance() == {"FGVC_COMMIT": "abc"}
    monkeypatch.setenv("FGVC_DIRTY", "1")
    assert execute.provenance() == {"FGVC_COMMIT": "abc", "FGVC_DIRTY": "1"}


def test_without_git_there_is_no_commit(monkeypatch, tmp_path):
    monkeypatch.delenv("FGVC_COMMIT", raising=False)
    monkeypatch.setattr(execute, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert execute.provenance() == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert execute.provenance() == {}


def test_a_kernel_gets_its_share_of_cores_and_its_build_folder(monkeypatch):
    monkeypatch.setenv("FGVC_COMMIT", "abc")
    environment = execute.environment("smoke", 3)
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["FGVC_BUILD"].endswith("build/smoke")
    assert environment["FGVC_COMMIT"] == "abc"
