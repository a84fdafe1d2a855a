"""Where records, caches and weights live.

Committed records are evidence: ``data/results/<profile>/<chapter>/<id>.json`` in the repository. What a build makes
goes to a build folder that git ignores, so that building never changes the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

COMMITTED = ("cpu", "gpu", "paper")
"""Profiles whose records are evidence; the others prove that the code runs."""


def root() -> Path:
    """The repository, found upwards from here by its ``data/runs.yaml``; else the working folder."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "data" / "runs.yaml").is_file()), here)


def recorded() -> Path:
    """The folder of committed records: the repository's, or the copy that an installed package carries."""
    here = root() / "data" / "results"
    packaged = Path(__file__).parents[1] / "recorded" / "results"
    return packaged if packaged.is_dir() and not here.is_dir() else here


def build(profile: str) -> Path:
    """The ignored folder of a profile: ``FGVC_BUILD``, else ``build/<profile>`` in the repository."""
    return Path(os.environ.get("FGVC_BUILD") or root() / "build" / profile)


def records(profile: str, chapter: str) -> Path:
    """Where new records of a chapter go. ``FGVC_RECORDS`` redirects those of committed profiles."""
    if profile in COMMITTED:
        return Path(os.environ.get("FGVC_RECORDS") or root() / "data" / "results") / profile / chapter
    return build(profile) / "results" / chapter
