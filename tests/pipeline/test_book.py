"""The whole way on a miniature book with one chapter, in a folder of its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import runtime
from pipeline.check import outside_requests

ROOT = Path(__file__).resolve().parents[2]
CHAPTER = """\
# %% [markdown]
# # A small chapter
#
# It cites {cite:p}`someone2020` and shows {numref}`fig-small`, by {eq}`eq-small`:
#
# $$
# a = b
# $$ (eq-small)

# %% tags=["parameters"]
profile = "quick"
seeds = [0]

# %% tags=["figure"]
import os

from IPython.display import display

from fgvc_lib import __version__

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def show(*, name, caption, alt):
    metadata = {"name": name, "caption": caption, "alt": alt}
    display({"image/png": PIXEL}, raw=True, metadata=metadata)


show(name="fig-small", caption="A single pixel.", alt="One gray pixel.")

# %% tags=["output"]
print(profile, seeds, os.environ["FGVC_BUILD"].rsplit("/", 1)[-1])
"""
INDEX = "# A small book\n\nText, and {eq}`eq-small`.\n\n```{bibliography}\n```\n"
ENTRY = "@misc{someone2020, author = {Some One}, title = {A title}, year = {2020}}\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the pipeline around other content."""
    root = tmp_path_factory.mktemp("project")
    for name in ("Snakefile", "_config.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    for name in ("pipeline", "fgvc_lib", "fgvc_study", "book/_static"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "data").mkdir()
    (root / "data" / "claims.yaml").write_text("claims: []\n")
    (root / "notebooks").mkdir()
    (root / "notebooks" / "01_small.py").write_text(CHAPTER)
    (root / "profiles" / "smoke").mkdir(parents=True)
    (root / "profiles" / "smoke" / "01_small.yaml").write_text("profile: smoke\nseeds: [3]\n")
    (root / "book" / "index.md").write_text(INDEX)
    (root / "book" / "figures.py").write_text("")
    (root / "pipeline" / "live.py").write_text("from pathlib import Path\nimport sys\nPath(sys.argv[1]).mkdir()\n")
    (root / "build" / "runtime").mkdir(parents=True)
    for name in runtime.FILES:  # else npm would fetch them
        (root / "build" / "runtime" / name).write_text("")
    (root / "book" / "references.bib").write_text(ENTRY)
    (root / "_toc.yml").write_text("format: jb-book\nroot: book/index\nchapters:\n- file: notebooks/01_small\n")
    return root


def build(root):
    command = [sys.executable, "-m", "pipeline.build", "--profile", "smoke", "--cores", "1"]
    environment = {**os.environ, "FGVC_COMMIT": "0123456789ab", "FGVC_DIRTY": "0"}
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def built(project):
    result = build(project)
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def test_the_last_line_says_where_the_book_is(built, project):
    lines = built.stdout.splitlines()
    assert lines[-1] == "The book: build/smoke/html/index.html"
    assert (project / "build" / "smoke" / "html" / "index.html").is_file()


def test_the_page_shows_text_figure_and_results_of_the_profile(built, project):
    html = (project / "build" / "smoke" / "html" / "notebooks" / "01_small.html").read_text()
    assert 'alt="One gray pixel."' in html
    assert "A single pixel." in html
    assert '<span class="caption-number">Fig. 1 </span>' in html
    assert "smoke [3] smoke" in html  # run with the profile's values
    assert "commit" in html
    assert "pip&quot;, &quot;install" not in html


def test_the_launch_button_opens_the_clean_notebook(built, project):
    html = (project / "build" / "smoke" / "html" / "notebooks" / "01_small.html").read_text()
    assert "/blob/main/notebooks/01_small.ipynb" in html
    assert (project / "notebooks" / "01_small.ipynb").is_file()


def test_reading_needs_no_other_host(built, project):
    html = project / "build" / "smoke" / "html"
    assert outside_requests(html) == []
    assert (html / "_static" / "mathjax.js").stat().st_size > 1_000_000
    assert "mathjax.js" in (html / "notebooks" / "01_small.html").read_text()


def test_a_second_build_runs_nothing_and_a_prose_edit_renders_only(built, project):
    executed = project / "build" / "smoke" / "executed" / "01_small.ipynb"
    page = project / "build" / "smoke" / "html" / "notebooks" / "01_small.html"
    before = executed.stat().st_mtime_ns, page.stat().st_mtime_ns
    again = build(project)
    assert again.returncode == 0, again.stderr
    assert "started" not in again.stdout
    assert (executed.stat().st_mtime_ns, page.stat().st_mtime_ns) == before

    edited = CHAPTER.replace("It cites", "Now it cites")
    (project / "notebooks" / "01_small.py").write_text(edited)
    third = build(project)
    assert third.returncode == 0, third.stderr
    assert "rendering what changed" in third.stdout
    assert executed.stat().st_mtime_ns == before[0]
    assert "Now it cites" in page.read_text()


EDITS = {
    "code": {"notebooks/01_small.py": CHAPTER.replace("print(profile", "print(1, profile")},
    "the value of a parameter": {"profiles/smoke/01_small.yaml": "profile: smoke\nseeds: [4]\n"},
    "the library": {"fgvc_lib/new.py": ""},
    "the study": {"fgvc_study/new.py": ""},
    "a record": {"data/results/01_small/a.json": "{}"},
    "nothing that it depends on": {
        "notebooks/01_small.py": CHAPTER.replace("A small", "A tiny"),
        "profiles/quick/01_small.yaml": "seeds: [4]\n",
        "data/results/02_other/a.json": "{}",
    },
}


@pytest.mark.parametrize("edit", EDITS)
def test_what_makes_a_chapter_run_again(built, project, edit):
    paths = {project / name: text for name, text in EDITS[edit].items()}
    before = {path: path.read_bytes() for path in paths if path.exists()}
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    try:
        subprocess.run([sys.executable, "-m", "pipeline.sync"], cwd=project, check=True)
        command = [sys.executable, "-m", "snakemake", "--dry-run", "--cores", "1", "--config", "profile=smoke"]
        planned = subprocess.run(command, cwd=project, capture_output=True, text=True, check=True).stdout
    finally:
        for path in paths:
            path.write_bytes(before[path]) if path in before else path.unlink()
    assert ("rule execute:" in planned) == (edit != "nothing that it depends on")


def test_a_link_that_an_edit_elsewhere_breaks_stops_the_build(built, project):
    source, page = project / "notebooks" / "01_small.py", project / "build" / "smoke" / "html" / "book" / "index.html"
    before = page.stat().st_mtime_ns
    source.write_text(CHAPTER.replace("eq-small", "eq-renamed"))
    result = build(project)
    assert result.returncode == 1
    assert "eq-small" in result.stderr
    assert "book/index" in result.stderr
    assert page.stat().st_mtime_ns == before


def test_an_unknown_parameter_stops_the_build_before_anything_runs(built, project):
    profile = project / "profiles" / "smoke" / "01_small.yaml"
    text = profile.read_text()
    profile.write_text(text + "epoch: 3\n")
    result = build(project)
    profile.write_text(text)
    assert result.returncode == 1
    assert result.stderr.startswith("error: notebooks/01_small has no parameter 'epoch', which profile smoke sets")
    assert "started" not in result.stdout
