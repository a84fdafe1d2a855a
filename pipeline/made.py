"""Parts of the book's prose pages that are made when the book is put together, so that none is typed or goes stale.

They land in ``book/made/`` of the staging tree, beside the pictures that ``book/figures.py`` has drawn, and are taken
into a page by ``include`` or ``figure``. What ``book/live`` loads lands beside its modules.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import landing, performance, reference, status
from pipeline.project import ROOT

FOLDER = Path("book/made")
LIVE = Path("book/_static/live")


def parts(profile: str) -> dict[Path, bytes]:
    """Path in the staging tree → content."""
    texts = {"landing.md": landing.page(), "performance.md": performance.page(), "status.md": status.page(profile)}
    texts |= reference.pages()
    made = {name: text.encode() for name, text in texts.items()}
    made |= {path.name: path.read_bytes() for path in sorted((ROOT / "build" / "figures").glob("*.*"))}
    build = ROOT / "build"
    live = {LIVE / path.name: path.read_bytes() for path in sorted((build / "live").glob("*.*"))}
    live |= {LIVE / "runtime" / path.name: path.read_bytes() for path in sorted((build / "runtime").glob("*.*"))}
    return {FOLDER / name: content for name, content in made.items()} | live
