"""Staging tree → HTML, in place of the previous one only once it is whole and clean.

Sphinx warns about a page only when it reads it, so an incremental build would let a warning pass the second time: every
build here starts from nothing and takes seconds.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat

from pipeline import offline
from pipeline.check import outside_requests
from pipeline.project import ROOT, PipelineError, build_folder, clean_notebook, write_if_changed
from pipeline.stage import stage
from pipeline.sync import place


def build(profile: str) -> None:
    """Check, stage and render the book of ``profile``."""
    folder = build_folder(profile)
    complaints = stage(profile)
    if complaints:
        raise PipelineError("\nerror: ".join(complaints))

    print("book: rendering", flush=True)
    part = folder / "html.part"
    shutil.rmtree(part, ignore_errors=True)
    jupyter_book = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(jupyter_book), "build", "stage", "--path-output", str(part), "-W", "-n", "--keep-going"]
    log = folder / "html.log"
    with log.open("w", encoding="utf8") as output:
        failed = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT).returncode
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(encoding="utf8", errors="replace"))
    if failed:
        said = [_placed(line, profile) for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
        said = said or text.splitlines()[-20:]
        raise PipelineError("\n       ".join(["the book does not build cleanly", *said, str(log.relative_to(ROOT))]))
    html = part / "_build" / "html"
    _accessible(html)
    offline.write(profile, html)
    requests = outside_requests(html)
    if requests:
        raise PipelineError("\n       ".join(["the book would fetch from other hosts", *requests[:10]]))
    shutil.rmtree(folder / "html", ignore_errors=True)
    html.rename(folder / "html")
    shutil.rmtree(part)


def _accessible(html: Path) -> None:
    """Mend what docutils and the theme leave in pages that a keyboard or a screen reader stumbles over."""
    repairs = {
        '<div role="list" class="citation-list">': '<div class="citation-list">',  # its entries are no list items
        '<div class="pst-scrollable-table-container">': '<div class="pst-scrollable-table-container" tabindex="0">',
    }
    for page in [*html.glob("book/**/*.html"), *html.glob("notebooks/*.html")]:
        text = page.read_text(encoding="utf8")
        for found, better in repairs.items():
            text = text.replace(found, better)
        write_if_changed(page, text)


def _placed(line: str, profile: str) -> str:
    """A line of Sphinx's, with the path in the repository and for a chapter the cell in the clean notebook."""
    line = line.replace(f"{build_folder(profile) / 'stage'}/", "")
    if found := re.match(r"notebooks/(\w+)\.ipynb:(\d+): ", line):
        chapter, number = found[1], int(found[2]) // 10_000  # MyST-NB counts 10000 lines a cell
        page = nbformat.read(build_folder(profile) / "stage" / "notebooks" / f"{chapter}.ipynb", as_version=4)
        if 0 < number <= len(page.cells):
            where = place(clean_notebook(chapter), page.cells[number - 1])
            return f"notebooks/{chapter}, {where}: {line[found.end() :]}"
    return line


def main() -> None:
    """Check, stage and render the book of one profile."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.html", description=main.__doc__)
    parser.add_argument("--profile", default="quick")
    try:
        build(parser.parse_args().profile)
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
