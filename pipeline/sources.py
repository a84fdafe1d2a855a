"""What the results of a chapter depend on.

A chapter's *key* is a readable list with a hash for everything that can change its results: its code cells, its
parameters, the ``fgvc_lib`` modules it reaches (``fgvc_lib.sources``), the packages that these import, what the files
of ``data/`` state about it, and the committed records it shows. The chapter is executed again exactly when the key
changes. Comments, docstrings, markdown, and literal figure captions and text alternatives are prose, in no key.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from fgvc_lib.sources import Reach, code_digest, digest, texts
from nbformat import NotebookNode

from pipeline.project import (
    ROOT,
    PipelineError,
    build_folder,
    chapters,
    clean_notebook,
    executed_path,
    parameters,
    read_yaml,
    write_if_changed,
)
from pipeline.sync import cell_id


def code_cells(notebook: NotebookNode, chapter: str) -> list[str]:
    """The sources of the code cells that an author wrote."""
    install = cell_id(chapter, "install", 0)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.id != install]


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _records(notebook: NotebookNode, chapter: str, reach: Reach) -> list[Path]:
    """The committed records that a chapter shows: its own, those of other chapters that its source's header names, and
    those of the benchmarks that its code names.

    The header says ``records: [02_center_loss, …]`` or ``records: all``.
    """
    wanted = notebook.metadata.get("records", [])
    folders = ["*"] if wanted == "all" else [chapter, *wanted]
    found = {path for folder in folders for path in ROOT.glob(f"data/results/*/{folder}/**/*") if path.is_file()}
    named = reach.words if "fgvc_lib.results.benchmarks" in reach.modules else set()
    for path in ROOT.glob("data/benchmarks/*-*.json"):
        if wanted == "all" or path.name.partition("-")[0] in named:
            found.add(path)
    return sorted(found)


def _stated(path: Path, chapter: str) -> Any:
    """What a file of ``data/`` states about ``chapter``; all of it where its entries name no chapter."""
    content = read_yaml(path)
    parts = [part for part in content.values() if isinstance(part, dict)] if isinstance(content, dict) else []
    entries = {name: entry for part in parts for name, entry in part.items() if isinstance(entry, dict)}
    assigned = {name: entry for name, entry in entries.items() if "chapter" in entry}
    return {name: entry for name, entry in assigned.items() if entry["chapter"] == chapter} if assigned else content


def key(profile: str, chapter: str, notebook: NotebookNode) -> str:
    """The key of ``chapter`` in ``profile``, one input a line."""
    cells = code_cells(notebook, chapter)
    code = "\n".join(line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(("%", "!")))
    settings = parameters(profile, chapter)
    reach = Reach(code, texts(settings))
    stated = {path: _stated(path, chapter) for path in sorted(ROOT.glob("data/*.yaml")) if path.name in reach.words}
    reach = Reach(code, reach.words | texts(list(stated.values())))
    shown_source = "inspect" in reach.packages  # a page that prints library source prints its docstrings too
    lines = [f"python {sys.version_info.major}.{sys.version_info.minor}"]
    lines += [f"cell {number} {code_digest(cell)}" for number, cell in enumerate(cells, 1)]
    lines += [f"parameter {name} {json.dumps(value)}" for name, value in sorted(settings.items())]
    lines += [f"environment FGVC_DATA {os.environ.get('FGVC_DATA', '')}"]
    for _, path in sorted(reach.modules.items()):
        text = path.read_text(encoding="utf8")
        lines.append(f"source {path.relative_to(ROOT)} {digest(text) if shown_source else code_digest(text)}")
    for package in sorted(reach.packages - sys.stdlib_module_names):
        for distribution in sorted(set(_distributions().get(package, []))):
            lines.append(f"package {distribution} {importlib.metadata.version(distribution)}")
    for path, content in stated.items():
        lines.append(f"stated {path.relative_to(ROOT)} {digest(json.dumps(content, sort_keys=True, default=str))}")
    for path in _records(notebook, chapter, reach):
        lines.append(f"record {path.relative_to(ROOT)} {hashlib.sha256(path.read_bytes()).hexdigest()[:16]}")
    return "\n".join(lines) + "\n"


def made_from(executed: Path) -> tuple[str, float]:
    """The digest of the key that an executed notebook was made from, and its time; empty where there is none."""
    try:
        metadata = json.loads(executed.read_text(encoding="utf8"))["metadata"]
        return metadata["fgvc"]["key"], executed.stat().st_mtime
    except (OSError, ValueError, KeyError):
        return "", 0.0


def write_keys(profile: str) -> list[str]:
    """Write the keys that changed to ``build/<profile>/inputs``; returns the chapters that must run."""
    stale = []
    for chapter in chapters():
        try:
            text = key(profile, chapter, clean_notebook(chapter))
        except SyntaxError as error:
            where = error.filename if error.filename and error.filename != "<unknown>" else f"notebooks/{chapter}"
            raise PipelineError(f"{where}: {error.msg}: {(error.text or '').strip()}") from None
        path = build_folder(profile) / "inputs" / f"{chapter}.key"
        made, time = made_from(executed_path(profile, chapter))
        changed = write_if_changed(path, text)
        if made != digest(text):
            stale.append(chapter)
        elif changed:  # an edit was taken back: what was run before it is good again
            os.utime(path, (time - 1, time - 1))
    return stale
