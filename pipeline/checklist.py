"""What a chapter must have before it is in the book, each item with a sentence that says what is missing.

    python -m pipeline.checklist 02_center_loss

and without a name, all chapters. A chapter *teaches a paper* when its first cell names one (``*The paper:*``); such a
chapter also has a section on the paper's released code, and an entry on the page of all discrepancies.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from pipeline import sync
from pipeline.execute import defaults, validate
from pipeline.project import ROOT, PipelineError, chapters, parameters, profiles, read_yaml

PAPER = "*The paper:*"
SHOWN = ("figure", "table", "output")
DISCREPANCIES = "## Paper versus released code"


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
    made = sync.notebook(chapter, text)  # refuses a chapter without a title
    return [Item(asked, problem) for asked, problem in _items(chapter, text, made)]


def _items(chapter: str, source: str, notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    teaches = PAPER in notebook.cells[0].source

    yield "is named NN_name", "" if re.fullmatch(r"\d\d_[a-z0-9_]+", chapter) else "numbers and lower case letters"
    yield "the notebook is made from the source", _in_step(chapter, notebook)
    yield "_toc.yml lists it", "" if chapter in chapters() else f"add `- file: notebooks/{chapter}`"
    yield "every profile fits its parameters", _parameters(chapter, notebook)
    tags = {tag for cell in code for tag in cell.metadata.get("tags", [])}
    yield "cells that show something are tagged", "" if tags & set(SHOWN) else f"no cell has {', '.join(SHOWN)}"
    yield "the groups that it measures are in data/runs.yaml", _groups(code)
    yield "its header names the chapters whose records it shows", _header(chapter, notebook, code)
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
        known = defaults(notebook, chapter)
        for profile in profiles():
            validate(chapter, profile, parameters(profile, chapter), known)
    except PipelineError as error:
        return str(error)
    return ""


@cache
def _runs(path: Path, _modified: int) -> dict[str, str]:
    groups: dict[str, dict[str, Any]] = read_yaml(path)["groups"]
    return {name: group["chapter"] for name, group in groups.items()}


def runs() -> dict[str, str]:
    """Group of ``data/runs.yaml`` → its chapter."""
    path = ROOT / "data" / "runs.yaml"
    return _runs(path, path.stat().st_mtime_ns)


def named_groups(code: list[NotebookNode], *, shown: bool = False) -> set[str]:
    """What the code writes that looks like a group: ``mc/xi``, or ``center/`` where the rest is put in.

    Args:
        code: the code cells.
        shown: leave out ``groups()["mc/xi"]``, which asks for settings and shows no record.
    """
    families = {name.partition("/")[0] for name in runs()}
    nodes = [node for cell in code for node in ast.walk(ast.parse(cell.source))]
    settings = {id(node.slice) for node in nodes if isinstance(node, ast.Subscript)} if shown else set()
    found = set()
    for node in nodes:
        if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
            name, pattern = node.values[0].value, r"[a-z]+/"
        elif isinstance(node, ast.Constant) and id(node) not in settings:
            name, pattern = node.value, r"[a-z]+/[a-z0-9_]+"
        else:
            continue
        if isinstance(name, str) and re.fullmatch(pattern, name) and name.partition("/")[0] in families:
            found.add(name)
    return found


def _groups(code: list[NotebookNode]) -> str:
    known = runs()
    absent = [
        name
        for name in sorted(named_groups(code))
        if name not in known and not (name.endswith("/") and any(group.startswith(name) for group in known))
    ]
    return f"there is no {', '.join(absent)}" if absent else ""


def _header(chapter: str, notebook: NotebookNode, code: list[NotebookNode]) -> str:
    stated = notebook.metadata.get("records", [])
    if stated == "all":
        return ""
    others = {runs()[name] for name in named_groups(code, shown=True) if name in runs()} - {chapter, *stated}
    return f"its source's header lacks `records: [{', '.join(sorted(others))}]`" if others else ""


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
