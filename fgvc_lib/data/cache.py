"""Folders that are made once: whole or not there, whoever is killed while making them.

A folder is filled beside its place and renamed into it when it is whole, under a lock, so that two processes that want
the same one build it once.
"""

from __future__ import annotations

import errno
import glob
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout


def cache_folder() -> Path:
    """Where entries are kept: the environment variable ``FGVC_CACHE``, else ``fgvc`` in the user's cache folder."""
    if named := os.environ.get("FGVC_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fgvc"


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of cache entry ``name``, built by ``build(folder)`` if it is not there yet.

    Args:
        name: of the entry; it must change with everything that changes the content.
        build: fills an empty folder. What it raises is passed on, and nothing is kept.
    """
    return build_once(cache_folder() / name, build)


def entries() -> dict[Path, int]:
    """Every entry of the cache and its bytes, what killed builds have left included; the largest first."""
    folder = cache_folder()
    sizes = {
        entry: sum(file.stat().st_size for file in entry.rglob("*") if file.is_file())
        for entry in (folder.iterdir() if folder.is_dir() else ())
        if entry.is_dir()
    }
    return dict(sorted(sizes.items(), key=lambda pair: -pair[1]))


def clear() -> dict[Path, int]:
    """Remove every entry that no process is building; those that are removed, and their bytes.

    A process that has an entry open goes on with it.
    """
    removed = {}
    for entry, size in entries().items():
        name = entry.name[1:].rpartition(".")[0] if entry.name.startswith(".") else entry.name
        with suppress(Timeout), FileLock(entry.parent / f".{name}.lock", timeout=0):
            shutil.rmtree(entry)
            removed[entry] = size
    return removed


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
            for killed in folder.parent.glob(f".{glob.escape(folder.name)}.*/"):  # of a process that was
                shutil.rmtree(killed, ignore_errors=True)
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


def create_array(path: Path, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
    """A new ``.npy`` file, mapped to be filled.

    Its space is reserved first: into a mapped file, a full disk is no error but a signal that ends the process.

    Raises:
        OSError: there is no room.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        if hasattr(os, "posix_fallocate"):  # not on a Mac
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        size = f"{math.prod(shape) * np.dtype(dtype).itemsize / 1e6:,.1f} MB"
        raise OSError(
            f"no room for {size} of decoded images in {path.parents[1]}: make some, or let the environment variable "
            "FGVC_CACHE name a folder on a larger disk"
        ) from error
    return array


def open_array(path: Path) -> np.ndarray:
    """Memory-map a ``.npy`` file, copy-on-write: torch can share it, and nothing can change the file."""
    array: np.ndarray = np.load(path, mmap_mode="c", allow_pickle=False)
    return array
