"""Where records, caches and weights live.

Committed records are evidence: ``data/results/<profile>/<chapter>/<id>.json`` in the repository. What a build makes
goes to a build folder that git ignores, so that building never changes the tree.
"""

from __future__ import annotations

import os
from pathlib import Path

COMMITTED = ("cpu", "gpu", "paper")
"""Profiles whose records are evidence; the others prove that the code runs."""
PACKAGED = Path(__file__).parents[1] / "recorded"
"""The copy of ``data/`` in an installed package, put there when the wheel is built."""


def repository() -> Path | None:
    """The repository that the working folder is in, known by its ``data/runs.yaml``."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "data" / "runs.yaml").is_file()), None)


def root() -> Path:
    """The repository; outside of one, the working folder."""
    return repository() or Path.cwd()


def committed(name: str) -> Path:
    """``data/<name>`` of the repository; outside of one, of the copy that an installed package carries."""
    home = repository()
    return (home / "data" if home else PACKAGED) / name


def recorded() -> Path:
    """The folder of committed records."""
    return committed("results")


def build(profile: str) -> Path:
    """The ignored folder of a profile: ``FGVC_BUILD``, else ``build/<profile>`` in the repository."""
    return Path(os.environ.get("FGVC_BUILD") or root() / "build" / profile)


def records(profile: str, chapter: str) -> Path:
    """Where new records of a chapter go. ``FGVC_RECORDS`` redirects those of committed profiles."""
    if profile in COMMITTED:
        return Path(os.environ.get("FGVC_RECORDS") or root() / "data" / "results") / profile / chapter
    return build(profile) / "results" / chapter
