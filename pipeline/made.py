"""Parts of the book's prose pages that are made when the book is put together, so that none is typed or goes stale.

They land in ``book/made/`` of the staging tree and are taken into a page by ``include`` or ``figure``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fgvc_lib.sources import Reach, code_digest, digest

from pipeline import colab, performance, reference, status
from pipeline.project import ROOT, PipelineError

FOLDER = Path("book/made")


def parts(profile: str) -> dict[Path, bytes]:
    """Path in the staging tree → content."""
    texts = {
        "colab.md": colab.page(profile),
        "performance.md": performance.page(),
        "status.md": status.page(profile),
        **reference.pages(),
    }
    return {FOLDER / name: text.encode() for name, text in texts.items()} | figures(ROOT / "book" / "figures.py")


def figures(script: Path) -> dict[Path, bytes]:
    """The pictures that ``script`` draws into the folder it is given; drawn again only when code it reaches changed."""
    if not script.exists():
        return {}
    source = script.read_text(encoding="utf8")
    reached = sorted(Reach(source, set()).modules.values())
    key = digest("\n".join([code_digest(source), *(code_digest(path.read_text(encoding="utf8")) for path in reached)]))
    folder = ROOT / "build" / "figures" / key
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(script), str(folder)]
        drawing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        if drawing.returncode:
            raise PipelineError(f"{script.relative_to(ROOT)}: {(drawing.stderr.strip() or 'failed').splitlines()[-1]}")
        (folder / "done").touch()
    return {FOLDER / path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}
