"""What is tracked in git: clean notebooks, no address of a package index, no path of somebody's machine."""

import re
import subprocess
from pathlib import Path

import nbformat
import pytest

from pipeline import project, sync
from pipeline.execute import given

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


def test_every_profile_has_a_file_for_every_chapter_and_no_other():
    assert set(project.profiles()) == {"smoke", "quick", "photos", "paper"}
    for profile in project.profiles():
        assert sorted(path.stem for path in (ROOT / "profiles" / profile).iterdir()) == CHAPTERS, profile


@pytest.mark.parametrize("chapter", CHAPTERS)
@pytest.mark.parametrize("profile", project.profiles())
def test_every_profile_fits_every_chapter(profile, chapter):
    assert "device" not in given(profile, chapter, project.clean_notebook(chapter))  # it is found
