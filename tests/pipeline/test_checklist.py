"""The checklist: every chapter of the book passes it, and each item fails when it should."""

import re

import pytest

from pipeline import checklist, project, sync
from pipeline.project import PipelineError, chapters

GOOD = """\
# %% [markdown]
# # A loss
#
# *The paper:* {footcite:t}`a2020paper`. An idea.

# %% tags=["parameters"]
seeds = [0]

# %% tags=["table"]
show_table(study.recorded("rows", profile="photos"), seeds)

# %% [markdown]
# ## Paper versus official implementation
#
# They differ.
#
# ## Exercises
#
# 1. **Why?** Think.
#
# ```{dropdown} Solution
# Because.
# ```
#
# ## References
#
# ```{footbibliography}
# ```
"""
NO_PAPER = GOOD.replace("*The paper:* ", "").replace("# ## Paper versus official implementation\n", "")


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A book of one chapter; returns a function that gives what is wrong with a source of it."""
    for module in (project, sync, checklist):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    for name, text in {
        "_toc.yml": "root: book/index\nchapters:\n- file: notebooks/01_a\n",
        "_config.yml": "repository: {url: https://github.com/someone/things, branch: dev}\n",
        "pyproject.toml": '[project]\ndependencies = ["torch>=2.11"]\n',
        "README.md": "01_a\n",
        "book/index.md": "{doc}`/notebooks/01_a`\n",
        "book/discrepancies.md": "{doc}`/notebooks/01_a`\n",
        "book/references.bib": "@article{a2020paper,\n}\n",
        "profiles/quick/01_a.yaml": "seeds: [0]\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "notebooks").mkdir()

    def missing(source, *, in_step=True):
        (tmp_path / "notebooks" / "01_a.py").write_text(source)
        if in_step:
            for path, text in sync.drifted().items():
                (tmp_path / path).write_text(text)
        return {item.asked: item.problem for item in checklist.checklist("01_a") if item.problem}

    missing.root = tmp_path
    return missing


@pytest.mark.parametrize("chapter", chapters())
def test_every_chapter_of_the_book_passes(chapter):
    assert [f"{item.asked}: {item.problem}" for item in checklist.checklist(chapter) if item.problem] == []


def test_a_whole_chapter_lacks_nothing(book):
    assert book(GOOD) == {}
    assert book(NO_PAPER) == {}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('tags=["table"]', "", "no cell has figure, table, output"),
        ("## Exercises", "## Practice", "no section '## Exercises'"),
        ("```{dropdown} Solution", "```{note}", "1 exercises and 0 cells"),
        ("a2020paper", "b2021other", "has no b2021other"),
        ("{footbibliography}", "{note}", "end with '## References'"),
        ("## Paper versus official implementation", "## Code", "add it"),
        ("seeds = [0]", "seeds = [0]\nepochs = 8", "no cell reads the parameter epochs"),
        ("seeds", "runs", "no parameter 'seeds'"),
    ],
)
def test_each_item_says_what_is_missing(book, old, new, said):
    (problem,) = book(GOOD.replace(old, new)).values()
    assert re.search(said, problem)


@pytest.mark.parametrize("page", ["book/index.md", "book/discrepancies.md", "README.md"])
def test_pages_that_do_not_name_it(book, page):
    (book.root / page).write_text("nothing\n")
    assert len(book(GOOD)) == 1
    assert len(book(NO_PAPER)) == (page == "book/index.md")


def test_a_notebook_that_is_not_made_and_a_chapter_that_is_not_listed(book):
    (book.root / "_toc.yml").write_text("root: book/index\n")
    assert list(book(GOOD, in_step=False).values()) == [
        "run `make sync` and commit both",
        "add `- file: notebooks/01_a`",
    ]


def test_the_command(book, monkeypatch, capsys):
    book(GOOD)
    monkeypatch.setattr("sys.argv", ["checklist"])
    with pytest.raises(SystemExit) as end:
        checklist.main()
    assert end.value.code == 0
    assert "✓ _toc.yml lists it" in capsys.readouterr().out
    book(GOOD.replace("## Exercises", "## Practice"))
    monkeypatch.setattr("sys.argv", ["checklist", "01_a"])
    with pytest.raises(SystemExit, match="1 to do"):
        checklist.main()
    assert "✗ exercises" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["checklist", "07_z"])
    with pytest.raises(SystemExit, match=r"notebooks/07_z.py does not exist"):
        checklist.main()


def test_a_source_that_makes_no_notebook_is_refused(book):
    with pytest.raises(PipelineError, match="title"):
        book("# %%\nx = 1\n", in_step=False)
    with pytest.raises(PipelineError, match="literals only"):
        book(GOOD.replace("seeds = [0]", "seeds = [0]\nepochs = 1 + 1"), in_step=False)
