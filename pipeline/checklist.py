"""What a chapter must have before it is in the book, each item with a sentence that says what is missing.

    python -m pipeline.checklist 02_center_loss

and without a name, all chapters. A chapter *teaches a paper* when its first cell names one (``*The paper:*``); such a
chapter also has a section on the paper's official implementation, and an entry on the page of all discrepancies.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import nbformat
from nbformat import NotebookNode

from pipeline import sync
from pipeline.execute import given
from pipeline.project import ROOT, PipelineError, chapters, profiles

PAPER = "*The paper:*"
SHOWN = ("figure", "table", "output")
DISCREPANCIES = "## Paper versus official implementation"


@dataclass(frozen=True)
class Item:
    """One line of the list: what is asked, and what keeps it from holding; nothing when it holds."""

    asked: str
    problem: str = ""


def checklist(chapter: str) -> list[Item]:
    """All items for a chapter."""
    source = ROOT / "notebooks" / f"{chapter}.py"
    if not source.exists():
        raise PipelineError(f"notebooks/{chapter}.py does not exist: write it, in percent format")
    text = source.read_text(encoding="utf8")
    made = sync.notebook(chapter, text)  # refuses one without a title or without literal parameters
    return [Item(asked, problem) for asked, problem in _items(chapter, text, made)]


def _items(chapter: str, source: str, notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    teaches = PAPER in notebook.cells[0].source

    yield "is named NN_name", "" if re.fullmatch(r"\d\d_[a-z0-9_]+", chapter) else "numbers and lower case letters"
    yield "the notebook is made from the source", _in_step(chapter, notebook)
    yield "_toc.yml lists it", "" if chapter in chapters() else f"add `- file: notebooks/{chapter}`"
    yield "its code reads every parameter, and every profile fits them", _parameters(chapter, notebook)
    tags = {tag for cell in code for tag in cell.metadata.get("tags", [])}
    yield "cells that show something are tagged", "" if tags & set(SHOWN) else f"no cell has {', '.join(SHOWN)}"
    yield "exercises have folded solutions", _exercises(prose)
    yield "what it cites is in book/references.bib and listed at its end", _citations(prose)
    yield "the index page links to it", _links("book/index.md", chapter)
    if teaches:
        yield f"it has a section '{DISCREPANCIES[3:]}'", "" if DISCREPANCIES in prose else "add it"
        yield "its discrepancies are on the page of all", _links("book/discrepancies.md", chapter)
        yield (
            "the README's table of methods names it",
            ("" if chapter in (ROOT / "README.md").read_text(encoding="utf8") else "add a row"),
        )


def _in_step(chapter: str, made: NotebookNode) -> str:
    path = ROOT / "notebooks" / f"{chapter}.ipynb"
    same = path.exists() and path.read_text(encoding="utf8") == nbformat.writes(made) + "\n"
    return "" if same else "run `make sync` and commit both"


def _parameters(chapter: str, notebook: NotebookNode) -> str:
    try:
        for profile in profiles():
            given(profile, chapter, notebook)
    except PipelineError as error:
        return str(error)
    return ""


def _exercises(prose: str) -> str:
    _, found, rest = prose.partition("\n## Exercises")
    section = rest.split("\n## ")[0]
    asked = len(re.findall(r"^\d+\. ", section, re.MULTILINE))
    solved = section.count("```{dropdown} Solution")
    if not found or not asked:
        return "it has no section '## Exercises' with numbered exercises"
    return "" if asked == solved else f"{asked} exercises and {solved} cells of ```{{dropdown}} Solution"


def _citations(prose: str) -> str:
    cited = {
        key.strip() for keys in re.findall(r"\{foot(?:full)?cite(?::\w+)?\}`([^`]+)`", prose) for key in keys.split(",")
    }
    entries = set(re.findall(r"@\w+\{([^,\s]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf8")))
    if absent := sorted(cited - entries):
        return f"book/references.bib has no {', '.join(absent)}"
    if cited and "```{footbibliography}" not in prose.partition("\n## References")[2]:
        return "end with '## References' and ```{footbibliography}"
    return ""


def _links(page: str, chapter: str) -> str:
    text = (ROOT / page).read_text(encoding="utf8")
    return "" if f"/notebooks/{chapter}" in text else f"{page} has no link to /notebooks/{chapter}"


def main() -> None:
    """Print the list of a chapter, or of all; the exit status is 1 where something is missing."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.checklist", description=main.__doc__)
    parser.add_argument("chapter", nargs="?")
    asked = parser.parse_args().chapter
    try:
        failed = 0
        for chapter in [asked] if asked else chapters():
            items = checklist(chapter)
            print(chapter)
            for item in items:
                print(f"  {'✗' if item.problem else '✓'} {item.asked}{f': {item.problem}' if item.problem else ''}")
            failed += sum(bool(item.problem) for item in items)
    except PipelineError as error:
        sys.exit(f"error: {error}")
    sys.exit(f"{failed} to do" if failed else 0)


if __name__ == "__main__":
    main()
