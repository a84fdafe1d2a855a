"""Folders that are made once: whole or not there, whoever is killed while making them.

A folder is filled beside its place and renamed into it when it is whole, under a lock, so that two processes that want
the same one build it once.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from filelock import FileLock


def cache_folder() -> Path:
    """Where entries are kept: the environment variable ``FGVC_CACHE``, else ``fgvc`` in the user's cache folder."""
    named = os.environ.get("FGVC_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fgvc"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of cache entry ``name``, built by ``build(folder)`` if it is not there yet.

    Args:
        name: of the entry; it must change with everything that changes the content.
        build: fills an empty folder. What it raises is passed on, and nothing is kept.
    """
    return build_once(cache_folder() / name, build)


def build_once(folder: Path, build: Callable[[Path], None], *, inside: str = "") -> Path:
    """``folder``, built if it is not there yet.

    Args:
        folder: where it shall be.
        build: fills an empty folder beside it.
        inside: which folder of that one becomes ``folder``; by default all of it.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if not folder.is_dir():  # another process may have built it while this one waited
            with tempfile.TemporaryDirectory(
                prefix=f".{folder.name}.", dir=folder.parent, ignore_cleanup_errors=True
            ) as unfinished:
                build(Path(unfinished))
                made = Path(unfinished) / inside
                if not made.is_dir():
                    raise ValueError(f"what was made for {folder} holds no folder {inside}")
                made.chmod(0o755)
                made.rename(folder)
    return folder


def open_array(path: Path) -> np.ndarray:
    """Memory-map a ``.npy`` file, copy-on-write: torch can share it, and nothing can change the file."""
    array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
