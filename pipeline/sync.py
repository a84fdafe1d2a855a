"""Percent-format source → the clean notebook that Colab and papermill open.

``notebooks/NAME.py`` is what an author edits. ``notebooks/NAME.ipynb`` is made from it and committed without outputs:

* cell ids are hashes of the chapter and the cell's position among the cells of its kind, so an edit of prose leaves
  every code cell's id, and with it the results that belong to it, where they are;
* a badge and an install cell are put in, both made from the repository's address (``_config.yml``);
* a cell after the parameters gives each the type of its default, because ``papermill -p`` passes lists as text.

``python -m pipeline.sync`` writes, ``python -m pipeline.sync --check`` says what would change and fails.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline.project import ROOT, PipelineError, chapters, defaults, lowest_torch, repository, write_if_changed

INSTALL = """\
# Installs fgvc_lib where it is missing (Google Colab) and leaves the torch that is there as it is.
import importlib.metadata
import importlib.util
import os
import subprocess
import sys

try:
    torch_version = importlib.metadata.version("torch")
except importlib.metadata.PackageNotFoundError:
    torch_version = None
if torch_version and tuple(map(int, torch_version.split(".")[:2])) < {lowest}:
    raise RuntimeError(f"This chapter needs torch {lowest_text} or newer, not {{torch_version}}: use a newer runtime.")
if importlib.util.find_spec("fgvc_lib") is None:
    source = os.environ.get("FGVC_INSTALL", "{install}")
    keep = [f"torch=={{torch_version}}"] if torch_version else []
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", source, *keep], check=True)
"""

PARSE = """\
# `papermill -p xis '[2, 5]'` passes text: read it, and refuse values of another type.
from fgvc_study.parameters import parse_parameters

parse_parameters(
{arguments}
)"""


def cell_id(chapter: str, kind: str, position: int) -> str:
    """The id of the ``position``-th cell of its ``kind`` (``code``, ``markdown``, ``raw``) in ``chapter``."""
    return hashlib.sha256(f"{chapter}/{kind}/{position}".encode()).hexdigest()[:8]


def place(notebook: NotebookNode, cell: NotebookNode) -> str:
    """How messages name a cell: its number in the clean notebook and its first line."""
    lines = [line for line in cell.source.splitlines() if line.strip()] or ["empty"]
    number = next((n for n, other in enumerate(notebook.cells, 1) if other.id == cell.id), 0)
    return f"cell {number} ({lines[0].strip()[:60]!r})"


def parse_cell(parameters: Mapping[str, Any]) -> str:
    """The code that gives each of a chapter's parameters the type of its default; None has no type of its own."""
    types = [f"{name}={type(value).__name__}" for name, value in parameters.items() if value is not None]
    indent = " " * 4
    arguments = textwrap.fill(", ".join(["globals()", *types]), 88, initial_indent=indent, subsequent_indent=indent)
    return PARSE.format(arguments=arguments)


def notebook(chapter: str, source: str) -> NotebookNode:
    """The clean notebook of a percent-format ``source``."""
    read = jupytext.reads(source, fmt="py:percent")
    positions = {"code": 0, "markdown": 0, "raw": 0}
    cells = []
    for cell in read.cells:
        position = positions[cell.cell_type]
        positions[cell.cell_type] += 1
        new = new_code_cell if cell.cell_type == "code" else new_markdown_cell
        made = new(cell.source, id=cell_id(chapter, cell.cell_type, position), metadata=dict(cell.metadata))
        made.cell_type = cell.cell_type
        cells.append(made)
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        raise PipelineError(f"notebooks/{chapter}.py must begin with a markdown cell that holds the title ('# …')")

    home = repository()
    major, minor = lowest_torch().split(".")[:2]
    install = INSTALL.format(lowest=(int(major), int(minor)), lowest_text=lowest_torch(), install=home.install)
    colab = f"[Open in Google Colab]({home.colab(f'notebooks/{chapter}.ipynb')})"
    cells[1:1] = [
        new_markdown_cell(colab, id=cell_id(chapter, "badge", 0), metadata={"tags": ["remove-cell"]}),
        new_code_cell(install.rstrip(), id=cell_id(chapter, "install", 0), metadata={"tags": ["remove-cell"]}),
    ]
    made = new_notebook(cells=cells)
    after = 1 + next(n for n, cell in enumerate(cells) if "parameters" in cell.metadata.get("tags", []))
    parse, tags = parse_cell(defaults(made, chapter)), {"tags": ["setup", "remove-cell"]}
    cells.insert(after, new_code_cell(parse, id=cell_id(chapter, "parse", 0), metadata=tags))
    made.metadata = nbformat.from_dict(
        {
            "accelerator": "GPU",
            "colab": {"provenance": []},
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    if "records" in read.metadata:
        made.metadata["records"] = read.metadata["records"]
    nbformat.validate(made)
    return made


def drifted() -> dict[str, str]:
    """The text that each out-of-date notebook should have, by path from the root."""
    folder = ROOT / "notebooks"
    sources = {path.stem for path in folder.glob("*.py")}
    listed = chapters()
    for name in listed:
        if name not in sources:
            raise PipelineError(f"_toc.yml lists notebooks/{name}, but notebooks/{name}.py does not exist")
    for path in sorted(folder.glob("*.ipynb")):
        if path.stem not in sources:
            raise PipelineError(f"notebooks/{path.name} has no source: notebooks/{path.stem}.py does not exist")
    stale = {}
    for name in sorted(sources):
        text = nbformat.writes(notebook(name, (folder / f"{name}.py").read_text(encoding="utf8"))) + "\n"
        path = folder / f"{name}.ipynb"
        if not path.exists() or path.read_text(encoding="utf8") != text:
            stale[f"notebooks/{name}.ipynb"] = text
    return stale


def write() -> None:
    """Write the notebooks that are out of date."""
    for path, text in drifted().items():
        write_if_changed(ROOT / path, text)
        print(f"wrote {path}")


def main() -> None:
    """Write the notebooks that are out of date, or with ``--check`` fail where there is one."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.sync", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    try:
        if not parser.parse_args().check:
            write()
        elif stale := drifted():
            raise PipelineError(
                f"out of date with the .py beside it: {', '.join(stale)}; run `make sync` and commit the result"
            )
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
