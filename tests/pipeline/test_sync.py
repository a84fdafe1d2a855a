"""Percent source → clean notebook."""

import importlib.metadata
import importlib.util
import subprocess

import jupytext
import pytest

from pipeline import project, sync

SOURCE = """\
# %% [markdown]
# # A title

# %% tags=["parameters"]
profile = "quick"

# %% [markdown]
# Prose.

# %% tags=["figure"]
show(1)
"""


def ids(notebook, kind):
    return {cell.source: cell.id for cell in notebook.cells if cell.cell_type == kind}


def test_cells_come_over_with_their_tags_and_without_outputs():
    made = sync.notebook("01_a", SOURCE)
    written = [cell for cell in made.cells if "remove-cell" not in cell.metadata.get("tags", [])]
    assert [cell.cell_type for cell in written] == ["markdown", "code", "markdown", "code"]
    assert [cell.metadata.get("tags", []) for cell in written] == [[], ["parameters"], [], ["figure"]]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in made.cells if cell.cell_type == "code")
    assert made.metadata.kernelspec.name == "python3"


def test_the_cell_after_the_parameters_gives_them_the_types_of_their_defaults():
    source = SOURCE.replace('profile = "quick"', "xis = [1]\nlr = 0.1\ndevice = None")
    cells = [cell for cell in sync.notebook("01_a", source).cells if cell.cell_type == "code"]
    (at,) = (n for n, cell in enumerate(cells) if cell.metadata.tags == ["parameters"])
    names = {"xis": "[2, 5]", "lr": 1, "device": "cpu"}  # as papermill puts them between the two
    exec(cells[at + 1].source, names)
    assert {name: names[name] for name in ("xis", "lr", "device")} == {"xis": [2, 5], "lr": 1.0, "device": "cpu"}
    names["xis"] = "2, 5]"
    with pytest.raises(ValueError, match=r"^the parameter xis must be of type list, got '2, 5\]'"):
        exec(cells[at + 1].source, names)


def test_new_prose_leaves_the_ids_of_code_cells():
    before = ids(sync.notebook("01_a", SOURCE), "code")
    more = SOURCE.replace("# %% [markdown]\n# Prose.", "# %% [markdown]\n# New.\n\n# %% [markdown]\n# Prose, edited.")
    assert ids(sync.notebook("01_a", more), "code") == before


def test_ids_are_unique_and_differ_between_chapters():
    first, second = (sync.notebook(name, SOURCE) for name in ("01_a", "02_b"))
    found = [cell.id for made in (first, second) for cell in made.cells]
    assert len(set(found)) == len(found)


def test_the_same_source_gives_the_same_text():
    assert sync.notebook("01_a", SOURCE) == sync.notebook("01_a", SOURCE)


def test_a_chapter_without_a_title_is_refused():
    with pytest.raises(project.PipelineError, match=r"notebooks/01_a.py must begin with a markdown cell"):
        sync.notebook("01_a", "# %%\nx = 1\n")


def test_which_other_records_a_chapter_shows_is_kept():
    header = "# ---\n# jupyter:\n#   records: all\n# ---\n\n"
    assert sync.notebook("08_e", header + SOURCE).metadata["records"] == "all"
    assert "records" not in sync.notebook("08_e", SOURCE).metadata


@pytest.fixture
def root(tmp_path, monkeypatch):
    for module in (project, sync):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "01_a.py").write_text(SOURCE)
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: notebooks/01_a\n")
    (tmp_path / "_config.yml").write_text("repository: {url: https://github.com/someone/things, branch: dev}\n")
    (tmp_path / "pyproject.toml").write_text('[project]\ndependencies = ["torch>=2.11"]\n')
    return tmp_path


def test_drift_is_seen_until_it_is_written(root, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["sync", "--check"])
    with pytest.raises(SystemExit, match=r"out of date .*notebooks/01_a.ipynb; run `make sync`"):
        sync.main()
    monkeypatch.setattr("sys.argv", ["sync"])
    sync.main()
    assert "wrote notebooks/01_a.ipynb" in capsys.readouterr().out
    assert sync.drifted() == {}
    monkeypatch.setattr("sys.argv", ["sync", "--check"])
    sync.main()

    (root / "notebooks" / "01_a.py").write_text(SOURCE.replace("Prose", "Edited"))
    assert list(sync.drifted()) == ["notebooks/01_a.ipynb"]


def test_a_notebook_and_a_source_belong_together(root):
    (root / "notebooks" / "09_z.ipynb").write_text("{}")
    with pytest.raises(project.PipelineError, match=r"notebooks/09_z.ipynb has no source"):
        sync.drifted()
    (root / "notebooks" / "01_a.py").unlink()
    with pytest.raises(project.PipelineError, match=r"_toc.yml lists notebooks/01_a, but"):
        sync.drifted()


def test_the_notebook_reads_back_as_its_source(root):
    made = sync.notebook("01_a", SOURCE)
    made.cells = [cell for cell in made.cells if "remove-cell" not in cell.metadata.get("tags", [])]
    assert SOURCE in jupytext.writes(made, fmt="py:percent")


class TestInstallCell:
    """What the first code cell does on Colab."""

    @pytest.fixture
    def run(self, root, monkeypatch):
        def run(*, torch, library, environment=None):
            (cell,) = (c for c in sync.notebook("01_a", SOURCE).cells if c.id == sync.cell_id("01_a", "install", 0))
            calls = []

            def version(name):
                if torch is None:
                    raise importlib.metadata.PackageNotFoundError(name)
                return torch

            monkeypatch.setattr(importlib.metadata, "version", version)
            monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if library else None)
            monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command[3:]))
            for name, value in (environment or {}).items():
                monkeypatch.setenv(name, value)
            exec(compile(cell.source, "install", "exec"), {})
            return calls

        return run

    def test_nothing_where_the_library_is_there(self, run):
        assert run(torch="2.15.0+cu128", library=True) == []

    def test_the_library_comes_from_the_repository_and_torch_stays(self, run):
        (command,) = run(torch="2.12.1+cu128", library=False)
        assert command == [
            "install",
            "--quiet",
            "fgvc-lib[pretrained] @ git+https://github.com/someone/things@dev",
            "torch==2.12.1+cu128",
        ]

    def test_without_torch_pip_brings_it(self, run):
        (command,) = run(torch=None, library=False)
        assert command[2:] == ["fgvc-lib[pretrained] @ git+https://github.com/someone/things@dev"]

    def test_the_source_can_be_pointed_elsewhere(self, run):
        (command,) = run(torch="2.11.0", library=False, environment={"FGVC_INSTALL": "./fgvc_lib.whl"})
        assert command[2] == "./fgvc_lib.whl"

    @pytest.mark.parametrize("library", [True, False])
    def test_an_old_torch_is_refused_in_a_sentence(self, run, library):
        with pytest.raises(RuntimeError, match=r"^This chapter needs torch 2\.11 or newer, not 2\.9\.1\+cu126: .*\.$"):
            run(torch="2.9.1+cu126", library=library)
