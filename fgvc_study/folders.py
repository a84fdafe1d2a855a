"""Where records live.

Committed records are evidence: ``data/results/<chapter>/<id>.json`` in the repository. What a notebook measures on the
way goes to a build folder that git ignores, so that running a chapter never changes the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

PACKAGED = Path(__file__).parent / "recorded"
"""The copy of ``data/`` in an installed package, put there when the wheel is built."""


def repository() -> Path | None:
    """The repository that the working folder is in, known by its ``data/claims.yaml``."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "data" / "claims.yaml").is_file()), None)


def root() -> Path:
    """The repository; outside of one, the working folder."""
    return repository() or Path.cwd()


def committed(name: str) -> Path:
    """``data/<name>`` of the repository; outside of one, of the copy that an installed package carries."""
    home = repository()
    return (home / "data" if home else PACKAGED) / name


def results() -> Path:
    """The folder of committed records. ``FGVC_RECORDS`` redirects it, for a measurement that must not touch them."""
    return Path(os.environ.get("FGVC_RECORDS") or committed("results"))


def build() -> Path:
    """The ignored folder of local records and trained networks: ``FGVC_BUILD``, else ``build/local``."""
    return Path(os.environ.get("FGVC_BUILD") or root() / "build" / "local")
