"""Parameters are checked before a chapter runs; where a run comes from is told to it."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from pipeline import execute
from pipeline.project import PipelineError

KNOWN = {"profile": "quick", "seeds": [0], "epochs": 8, "lr": 0.1, "train_limit": None}


def notebook(source, copies=1):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]}) for _ in range(copies)])


def test_defaults_are_the_literals_of_the_parameters_cell():
    source = 'profile = "quick"\n# a comment\nseeds = [0]\nepochs: int = 8\nlr = -1e-3\ntrain_limit = None'
    assert execute.defaults(notebook(source), "02_b") == {
        "profile": "quick",
        "seeds": [0],
        "epochs": 8,
        "lr": -1e-3,
        "train_limit": None,
    }


@pytest.mark.parametrize("line", ["steps = epochs * 2", "import os", "a, b = 1, 2", "folder = f'{epochs}'", "x: int"])
def test_a_derived_value_is_refused_because_it_would_keep_its_default(line):
    with pytest.raises(PipelineError, match=r"notebooks/02_b: the parameters cell holds literals only, not"):
        execute.defaults(notebook(f"epochs = 1\n{line}"), "02_b")


@pytest.mark.parametrize("copies", [0, 2])
def test_there_is_one_parameters_cell(copies):
    with pytest.raises(PipelineError, match=rf"notebooks/02_b: {copies} cells are tagged 'parameters'"):
        execute.defaults(notebook("x = 1", copies), "02_b")


@pytest.mark.parametrize("given", [{}, {"epochs": 3}, {"lr": 1}, {"train_limit": 100}, {"epochs": None}])
def test_parameters_that_fit(given):
    execute.validate("02_b", "gpu", given, KNOWN)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"epoch": 3}, r"notebooks/02_b has no parameter 'epoch', which profile gpu sets: it has profile, seeds"),
        ({"epochs": "3"}, r"notebooks/02_b: parameter 'epochs' must be of type int as its default, got '3'"),
        ({"seeds": 1}, r"parameter 'seeds' must be of type list"),
        ({"epochs": 1.5}, r"parameter 'epochs' must be of type int"),
        ({"epochs": True}, r"parameter 'epochs' must be of type int"),
    ],
)
def test_parameters_that_do_not_fit(given, complaint):
    with pytest.raises(PipelineError, match=complaint):
        execute.validate("02_b", "gpu", given, KNOWN)


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
