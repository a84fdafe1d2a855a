"""The facts that the pipeline reads from the repository's own files."""

import pytest
import yaml
from nbformat.v4 import new_code_cell, new_notebook

from pipeline import project
from pipeline.project import PipelineError


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(project, "ROOT", tmp_path)
    (tmp_path / "profiles" / "quick").mkdir(parents=True)
    (tmp_path / "profiles" / "quick" / "01_a.yaml").write_text("epochs: 8\nseeds: [0]\n")
    return tmp_path


def test_chapters_are_the_notebooks_of_the_contents_in_order(root):
    (root / "_toc.yml").write_text(
        yaml.safe_dump(
            {
                "root": "book/index",
                "parts": [
                    {
                        "chapters": [
                            {"file": "notebooks/02_b"},
                            {"file": "book/x", "sections": [{"file": "notebooks/01_a"}]},
                        ]
                    }
                ],
            }
        )
    )
    assert project.chapters() == ["02_b", "01_a"]


def test_a_profile_is_a_folder_with_a_file_for_each_chapter(root):
    (root / "profiles" / "paper").mkdir()
    (root / "profiles" / "paper" / "01_a.yaml").write_text("# the defaults\n")
    assert project.profiles() == ["paper", "quick"]
    assert project.parameters("quick", "01_a") == {"epochs": 8, "seeds": [0]}
    assert project.parameters("paper", "01_a") == {}
    with pytest.raises(project.PipelineError, match=r"profiles/quick/02_b\.yaml does not exist"):
        project.parameters("quick", "02_b")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("seeds: [", r"profiles/quick/01_a\.yaml is not valid YAML"), ("- 1\n", "must hold a mapping")],
)
def test_a_malformed_profile_is_named(root, content, complaint):
    (root / "profiles" / "quick" / "01_a.yaml").write_text(content)
    with pytest.raises(project.PipelineError, match=complaint):
        project.parameters("quick", "01_a")


def test_an_unknown_profile_names_those_there_are(root):
    with pytest.raises(project.PipelineError, match="no profile 'fast': choose from quick"):
        project.parameters("fast", "01_a")


def test_addresses_come_from_the_repository_key(root):
    (root / "_config.yml").write_text("repository: {url: https://github.com/someone/things/, branch: dev}\n")
    home = project.repository()
    assert home.install == "fgvc-lib[pretrained] @ git+https://github.com/someone/things@dev"
    assert home.colab("notebooks/a.ipynb") == (
        "https://colab.research.google.com/github/someone/things/blob/dev/notebooks/a.ipynb"
    )


def test_a_file_that_holds_the_content_already_keeps_its_time(tmp_path):
    path = tmp_path / "new" / "file"
    assert project.write_if_changed(path, "é")
    before = path.stat().st_mtime_ns
    assert not project.write_if_changed(path, "é".encode())
    assert path.stat().st_mtime_ns == before
    assert project.write_if_changed(path, "other")
    assert path.read_text() == "other"
    assert list(path.parent.iterdir()) == [path]


def notebook(source, copies=1):
    return new_notebook(cells=[new_code_cell(source, metadata={"tags": ["parameters"]}) for _ in range(copies)])


def test_defaults_are_the_literals_of_the_parameters_cell():
    source = 'profile = "quick"\n# a comment\nseeds = [0]\nepochs: int = 8\nlr = -1e-3\ntrain_limit = None'
    assert project.defaults(notebook(source), "02_b") == {
        "profile": "quick",
        "seeds": [0],
        "epochs": 8,
        "lr": -1e-3,
        "train_limit": None,
    }


@pytest.mark.parametrize("line", ["steps = epochs * 2", "import os", "a, b = 1, 2", "folder = f'{epochs}'", "x: int"])
def test_a_derived_value_is_refused_because_it_would_keep_its_default(line):
    with pytest.raises(PipelineError, match=r"notebooks/02_b: the parameters cell holds literals only, not"):
        project.defaults(notebook(f"epochs = 1\n{line}"), "02_b")


@pytest.mark.parametrize("copies", [0, 2])
def test_there_is_one_parameters_cell(copies):
    with pytest.raises(PipelineError, match=rf"notebooks/02_b: {copies} cells are tagged 'parameters'"):
        project.defaults(notebook("x = 1", copies), "02_b")
