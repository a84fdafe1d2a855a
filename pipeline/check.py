"""What must hold before an executed chapter, and then a built page, is shown to anybody.

Sphinx is content with an empty page and with a page that shows a traceback, so executed notebooks are examined
here; every complaint names the notebook and the cell. ``problems`` reads a notebook, ``outside_requests`` built HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from bs4 import BeautifulSoup, SoupStrainer  # type: ignore[attr-defined]
from nbformat import NotebookNode

from pipeline.sync import place

IMAGES = ("image/png", "image/svg+xml", "image/jpeg")
# A figure's caption, name and text alternative stand in the metadata of its output, put there by whoever displays it
FIGURE = ("name", "caption", "alt")


def is_image(output: NotebookNode) -> bool:
    """Whether an output is a picture."""
    return any(kind in output.get("data", {}) for kind in IMAGES)


def figure_text(output: NotebookNode) -> dict[str, str]:
    """Name, caption and text alternative of a figure."""
    return {key: str(output.metadata.get(key, "")).strip() for key in FIGURE}


def shown(cell: NotebookNode) -> list[NotebookNode]:
    """The outputs that a reader gets to see."""
    return [output for output in cell.get("outputs", []) if output.output_type != "stream" or output.text.strip()]


def problems(chapter: str, clean: NotebookNode, executed: NotebookNode) -> list[str]:
    """Everything that keeps ``executed``, the result of running ``clean``, out of the book; empty when it is fine."""
    return [f"notebooks/{chapter}{complaint}" for complaint in _problems(chapter, clean, executed)]


def _problems(chapter: str, clean: NotebookNode, executed: NotebookNode) -> Iterator[str]:
    results = {cell.id: cell for cell in executed.cells if cell.cell_type == "code"}
    sources = [cell for cell in clean.cells if cell.cell_type == "code"]
    written = [cell for cell in sources if "remove-cell" not in cell.metadata.get("tags", [])]
    if not any(shown(results[cell.id]) for cell in written if cell.id in results):
        yield ": has no output at all"
    names: dict[str, str] = {}
    for cell in sources:
        where = f", {place(clean, cell)}"
        result = results.get(cell.id)
        if result is None or result.source != cell.source:
            yield f"{where}: is not the cell that was run; run the chapter again"
            continue
        if cell.source.strip() and result.get("execution_count") is None:
            yield f"{where}: was not run"
        yield from (f"{where}{complaint}" for complaint in _outputs(cell, result))
        for output in filter(is_image, result.outputs):
            name = output.metadata.get("name")
            if name in names:
                yield f"{where}: figure name {name!r} is taken by {names[name]}"
            elif name:
                names[name] = place(clean, cell)


def _outputs(cell: NotebookNode, result: NotebookNode) -> Iterator[str]:
    tags = cell.metadata.get("tags", [])
    pictures = [output for output in result.outputs if is_image(output)]
    for output in result.outputs:
        if output.output_type == "error":
            yield f": ended in {output.ename}: {output.evalue.splitlines()[0] if output.evalue else ''}"
        if output.output_type == "stream" and output.name == "stderr" and output.text.strip():
            yield f": wrote to stderr, a warning or a progress bar that readers would see: {_first_line(output.text)}"
    if "figure" in tags and len(pictures) != 1:
        yield f": is tagged 'figure' and shows {len(pictures)} images, it must show one"
    if "table" in tags and not any("text/html" in output.get("data", {}) for output in result.outputs):
        yield ": is tagged 'table' and shows no table"
    if "output" in tags and not shown(result):
        yield ": is tagged 'output' and shows nothing"
    for output in pictures:
        if "figure" not in tags:
            yield ": shows an image and is not tagged 'figure'"
        text = figure_text(output)
        missing = [key for key in FIGURE if not text[key]]
        if missing:
            yield f": its figure has no {' and no '.join(missing)}"
        elif not re.fullmatch(r"fig-[a-z0-9-]+", text["name"]):
            yield f": a figure's name is like 'fig-center-features', got {text['name']!r}"


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0][:160]


FETCHING = ["script", "img", "link", "source", "iframe", "video", "audio", "track", "input", "object", "embed"]
"""Elements that a browser fetches something for."""
LINKS = ("stylesheet", "icon", "preload", "prefetch", "preconnect", "dns-prefetch", "modulepreload", "manifest")
"""What a page's ``<link>`` is to it where a browser fetches its target."""


def _fetched(page: str) -> Iterator[str]:
    """The addresses that a browser asks for by itself when it opens a page."""
    soup = BeautifulSoup(page, "html.parser", parse_only=SoupStrainer(FETCHING))
    yield from (str(tag["src"]) for tag in soup.select("[src]"))
    candidates = (part.split() for tag in soup.select("[srcset]") for part in str(tag["srcset"]).split(","))
    yield from (address for address, *_ in filter(None, candidates))
    yield from (str(tag["href"]) for tag in soup.select(", ".join(f"link[rel~={kind}][href]" for kind in LINKS)))
    yield from (str(tag["data"]) for tag in soup.select("object[data], embed[data]"))


def outside_requests(html: Path) -> list[str]:
    """What the pages and style sheets under ``html`` would fetch from other hosts, as ``page: address``."""
    found = []
    for page in sorted(html.rglob("*.html")):
        fetched = _fetched(page.read_text(encoding="utf8"))
        found += [f"{page.relative_to(html)}: {a}" for a in fetched if re.match(r"(https?:)?//", a)]
    for style in sorted(html.rglob("*.css")):
        text = style.read_text(encoding="utf8", errors="replace")
        addresses = re.findall(r"(?:url\(|@import\s+)[\"']?((?:https?:)?//[^\"')\s]+)", text)
        found += [f"{style.relative_to(html)}: {address}" for address in addresses]
    return found
