"""Staging tree → HTML, in place of the previous one only once it is whole and clean.

Sphinx warns about what a page says when it reads it, and about where its links lead when it writes it. Every build
writes all pages. What Sphinx has read is kept for the next one, so that an edit costs the reading of one page, but only
after a build without a warning, and as long as nothing but pages changes: not the configuration, the bibliography, the
library that the reference describes, or an installed package.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat

from pipeline import offline, runtime
from pipeline.check import outside_requests
from pipeline.project import ROOT, PipelineError, build_folder, clean_notebook, digest, write_if_changed
from pipeline.stage import stage
from pipeline.sync import place


def build(profile: str) -> None:
    """Check, stage and render the book of ``profile``."""
    folder = build_folder(profile)
    try:
        runtime.fetch(ROOT / "build" / "runtime")
    except PipelineError as error:  # the book is whole without it, and the next build tries again
        print(f"book: {error}; its pictures stay still", flush=True)
    complaints = stage(profile)
    if complaints:
        raise PipelineError("\nerror: ".join(complaints))

    part, basis = folder / "html.part", _basis(profile)
    stamp = part / "read.key"
    kept = stamp.is_file() and stamp.read_text(encoding="utf8") == basis
    if not kept:
        shutil.rmtree(part, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    print(f"book: rendering{' what changed' if kept else ''}", flush=True)
    jupyter_book = Path(sysconfig.get_path("scripts")) / "jupyter-book"
    command = [str(jupyter_book), "build", "stage", "--path-output", str(part), "-W", "-n", "--keep-going"]
    log = folder / "html.log"
    with log.open("w", encoding="utf8") as output:
        failed = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT).returncode
    text = re.sub(r"\x1b\[[\d;]*m", "", log.read_text(encoding="utf8", errors="replace"))
    if failed:
        shutil.rmtree(part)
        said = [_placed(line, profile) for line in text.splitlines() if "WARNING" in line or "ERROR" in line]
        said = said or text.splitlines()[-20:]
        raise PipelineError("\n       ".join(["the book does not build cleanly", *said, str(log.relative_to(ROOT))]))
    html = part / "_build" / "html"
    _accessible(html)
    _top(html / "index.html")
    offline.write(profile, html)
    requests = outside_requests(html)
    if requests:
        raise PipelineError("\n       ".join(["the book would fetch from other hosts", *requests[:10]]))
    shutil.rmtree(folder / "html", ignore_errors=True)
    html.rename(folder / "html")
    write_if_changed(stamp, basis)


def _basis(profile: str) -> str:
    """What every page depends on beside its own source, hashed."""
    stage = build_folder(profile) / "stage"
    sources = [stage / "_config.yml", stage / "_toc.yml", *sorted(stage.glob("book/**/*.bib"))]
    sources += sorted((ROOT / "fgvc_lib").rglob("*.py"))
    packages = sorted(f"{d.name} {d.version}" for d in importlib.metadata.distributions())
    return digest("\n".join([sys.version, *packages, *(digest(path.read_text(encoding="utf8")) for path in sources)]))


def _accessible(html: Path) -> None:
    """Mend what docutils leaves in pages that a screen reader stumbles over: entries of its list are no list items."""
    for page in [*html.glob("book/**/*.html"), *html.glob("notebooks/*.html")]:
        text = page.read_text(encoding="utf8")
        write_if_changed(page, text.replace('<div role="list" class="citation-list">', '<div class="citation-list">'))


def _top(page: Path) -> None:
    """Give Jupyter Book's redirect at the top an icon that is no file.

    Without one a browser asks for /favicon.ico, and a file would still be on its way when the page is left.
    """
    text = page.read_text(encoding="utf8")
    page.write_text(f'<link rel="icon" href="data:,">\n{text}', encoding="utf8")


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
