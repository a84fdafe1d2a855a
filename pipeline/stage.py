"""Put the book's sources and the executed chapters together in a tree that mirrors the repository's paths.

Jupyter Book builds that tree and executes nothing. Because a page has the same path there as in the repository, its
launch button opens the clean notebook in git. Text and code on a page are those of the clean notebook as it is now;
outputs are joined to them by cell id.
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from pipeline import made, offline
from pipeline.check import figure_text, is_image, problems
from pipeline.project import (
    ROOT,
    PipelineError,
    build_folder,
    chapters,
    clean_notebook,
    defaults,
    executed_path,
    write_if_changed,
)

# One file with every TeX extension in it, so that formulas are drawn without a network
MATHJAX = ("sphinx-mathjax-offline", "static/mathjax/tex-svg-full.js")

FOLDED = {
    "parameters": "the parameters",
    "injected-parameters": "what this page was given in their place",
    "setup": "imports and setup",
    "experiment": "the runs",
    "figure": "how it is drawn",
    "table": "how the table is made",
    "output": "how it is computed",
}
"""Tag of a cell → what its folded code is called."""


def merge(clean: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """The page: ``clean`` as it is, with the outputs of ``executed`` and the parameters that it was given."""
    page = copy.deepcopy(clean)
    results = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    page.cells = []
    for cell in copy.deepcopy(clean.cells):
        tags = cell.metadata.get("tags", [])
        if "remove-cell" in tags:
            continue
        if cell.cell_type == "code" and cell.id in results:
            result = results[cell.id]
            cell.execution_count, cell.outputs = result.execution_count, copy.deepcopy(result.outputs)
            if "figure" in tags:
                _number(cell)
            _name_folded(cell, tags)
        page.cells.append(cell)
        if "parameters" in tags:
            page.cells += _injected(clean, executed)
    page.cells.append(new_markdown_cell(_made(executed), id="made-how"))
    return page


def _number(cell: NotebookNode) -> None:
    """Make a numbered, captioned figure with a text alternative out of a cell's picture."""
    for output in filter(is_image, cell.outputs):
        text = figure_text(output)
        cell.metadata["mystnb"] = {
            "figure": {"name": text["name"], "caption": text["caption"]},
            "image": {"alt": text["alt"]},
        }


def _name_folded(cell: NotebookNode, tags: Sequence[str]) -> None:
    """Say what unfolds, where the theme would say "Show code cell source" for all alike."""
    what = next((words for tag, words in FOLDED.items() if tag in tags), "the code")
    if "hide-cell" in tags:
        what = next((f"the {tag}" for tag in ("figure", "table") if tag in tags), what)
    if {"hide-cell", "hide-input"} & set(tags):
        prompts = {"code_prompt_show": f"Show {what}", "code_prompt_hide": f"Hide {what}"}
        cell.metadata["mystnb"] = {**cell.metadata.get("mystnb", {}), **prompts}


def _injected(clean: NotebookNode, executed: NotebookNode) -> list[NotebookNode]:
    """Papermill's cell with the parameters, where it says something else than the defaults above it."""
    given = executed.metadata["papermill"]["parameters"]
    known = defaults(clean, "")
    if all(known.get(name) == value for name, value in given.items()):
        return []
    cells = [cell for cell in executed.cells if "injected-parameters" in cell.metadata.get("tags", [])]
    for cell in cells:
        cell.outputs, cell.metadata["tags"] = [], ["injected-parameters", "hide-input"]
        _name_folded(cell, cell.metadata["tags"])
    return cells


def _made(executed: NotebookNode) -> str:
    """One line on where the numbers of a page come from."""
    run, ours = executed.metadata["papermill"], executed.metadata.get("fgvc", {})
    given: dict[str, Any] = run["parameters"]
    commit = ours.get("commit", "")
    facts = [f"profile `{ours.get('profile', given.get('profile', ''))}`"]
    if "seeds" in given:
        facts.append(f"seeds {', '.join(map(str, given['seeds']))}")
    facts += [f"{run['duration']:.0f} s", str(run["start_time"])[:10]]
    if commit:
        facts.append(f"commit `{commit[:10]}`" + " with changes" * (ours.get("dirty") == "1"))
    return f"*This page was run with papermill: {', '.join(facts)}.*"


def _offered(source: str, chapter: str) -> str:
    """A chapter's first cell, with the link to its offline file under the title."""
    title, _, text = source.partition("\n")
    return f"{title}\n\n{offline.link(chapter)}\n{text}"


def _copies() -> dict[Path, Path]:
    """Target in the staging tree → file, for what is taken over as it is."""
    names = ("_config.yml", "_toc.yml", "CHANGELOG.md", "CITATION.cff")
    found = {Path(name): ROOT / name for name in names if (ROOT / name).exists()}
    for path in sorted((ROOT / "book").rglob("*")):
        if path.is_file():
            found[path.relative_to(ROOT)] = path
    package = importlib.util.find_spec(MATHJAX[0])
    if package is None or package.origin is None:
        raise PipelineError(f"{MATHJAX[0]} is not installed: run `make` again")
    found[Path("book/_static/mathjax.js")] = Path(package.origin).parent / MATHJAX[1]
    return found


def stage(profile: str) -> list[str]:
    """Write the staging tree of ``profile``; returns the problems that must stop the build."""
    target = build_folder(profile) / "stage"
    complaints: list[str] = []
    wanted = set()
    for relative, path in _copies().items():
        write_if_changed(target / relative, path.read_bytes())
        wanted.add(target / relative)
    for relative, content in made.parts(profile).items():
        write_if_changed(target / relative, content)
        wanted.add(target / relative)
    for chapter in chapters():
        clean, result = clean_notebook(chapter), executed_path(profile, chapter)
        if not result.exists():
            complaints.append(f"notebooks/{chapter}: was not run in profile {profile}")
            continue
        executed = nbformat.read(result, as_version=4)
        found = problems(chapter, clean, executed)
        complaints += found
        if not found:
            path = target / "notebooks" / f"{chapter}.ipynb"
            page = merge(clean, executed)
            page.cells[0].source = _offered(page.cells[0].source, chapter)
            write_if_changed(path, nbformat.writes(page))
            wanted.add(path)
    for path in [path for path in target.rglob("*") if path.is_file() and path not in wanted]:
        path.unlink()
    return complaints
