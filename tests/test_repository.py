"""What is tracked in git: clean notebooks, no address of a package index, no path of somebody's machine."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest
import yaml

from pipeline import project, sync
from pipeline.execute import defaults, validate

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.py"))
HOSTS = re.compile(r"(pypi\.org|pythonhosted\.org|--(extra-)?index-url|--find-links|registry\.npmjs\.org)")
PATHS = re.compile(r"(?<![\w.>}])/(home|Users|root|work|mnt|tmp)/\w")


def tracked():
    """The text files that git tracks, or would after `git add`."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("git does not know this folder")
    for name in listed:
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            yield name, data.decode()


def test_no_file_names_a_package_index_or_a_machine():
    found = [
        f"{name}: {line.strip()[:100]}"
        for name, text in tracked()
        if name != "tests/test_repository.py"
        for line in text.splitlines()
        if HOSTS.search(line) or PATHS.search(line)
    ]
    assert found == []


def test_the_public_address_stands_in_one_place():
    home = project.repository()
    found = {name for name, text in tracked() if home.url.removeprefix("https://github.com/") in text}
    made = {f"notebooks/{chapter}.ipynb" for chapter in CHAPTERS}
    assert found <= {"_config.yml"} | made


def test_committed_notebooks_are_those_of_their_sources():
    assert sync.drifted() == {}


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_committed_notebooks_are_clean(chapter):
    notebook = nbformat.read(ROOT / "notebooks" / f"{chapter}.ipynb", as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert not {"papermill", "widgets", "fgvc"} & set(notebook.metadata)


def test_every_profile_sets_the_same_parameters():
    keys = {name: set(yaml.safe_load((ROOT / "profiles" / f"{name}.yaml").read_text())) for name in project.profiles()}
    assert set(keys) == {"smoke", "quick", "cpu", "gpu", "paper"}
    assert len(set(map(frozenset, keys.values()))) == 1, keys


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("profile", project.profiles())
def test_every_profile_fits_every_chapter(profile, chapter):
    given = project.parameters(profile, chapter)
    known = defaults(project.clean_notebook(chapter), chapter)
    validate(chapter, profile, given, known)
    assert given["profile"] == profile
    if profile == "quick":  # what a reader sees in the cell, and gets without papermill
        assert {name: known[name] for name in given} == given


def test_files_of_a_profile_belong_to_a_chapter():
    own = {path.stem for path in (ROOT / "profiles").glob("*/*.yaml")}
    assert own <= set(CHAPTERS)
