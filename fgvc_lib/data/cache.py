"""A folder of arrays that are made once and memory-mapped ever after.

One entry is one folder, named by its content's fingerprint. It is built beside its place and renamed into it when
it is whole, under a lock: two processes that want the same entry build it once, and a killed one leaves nothing
that could be taken for an entry.
"""

from __future__ import annotations

import os
import shutil
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
    """The folder of entry ``name``, built by ``build(folder)`` if it is not there yet.

    Args:
        name: of the entry; it must change with everything that changes the content.
        build: fills an empty folder. What it raises is passed on, and nothing is kept.
    """
    root = cache_folder()
    folder = root / name
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / f"{name}.lock"):
        if not folder.is_dir():  # another process may have built it while this one waited
            unfinished = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=root))
            try:
                build(unfinished)
                unfinished.chmod(0o755)
                unfinished.rename(folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return folder


def open_array(path: Path) -> np.ndarray:
    """Memory-map a ``.npy`` file, copy-on-write: torch can share it, and nothing can change the file."""
    array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
