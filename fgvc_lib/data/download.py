"""Fetch an archive, check it, unpack it: resumable, and never half-installed."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

CHUNK = 1 << 20


def install(url: str, md5: str, folder: Path) -> None:
    """Make ``folder`` from the tar archive at ``url`` that holds a folder of the same name.

    The archive is kept beside it as ``….part`` until it is complete and its sum is right, so that an interrupted
    download goes on where it stopped. It is unpacked into a temporary folder, and that is renamed when it is whole.

    Args:
        url: of the archive.
        md5: of the archive, hex.
        folder: to make; nothing happens if it exists.

    Raises:
        OSError: the download failed; the sentence says what to do.
        ValueError: the archive's sum is wrong, or it holds something other than files and folders inside itself.
    """

    def fetch_into(unfinished: Path) -> None:
        archive = folder.parent / url.rsplit("/", 1)[-1]
        fetch(url, archive, md5=md5)
        extract(archive, unfinished)
        archive.unlink()

    install_with(fetch_into, folder)


def install_with(make: Callable[[Path], None], folder: Path) -> None:
    """Let ``make`` fill a temporary folder, and move what it made under the name of ``folder`` to its place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as unfinished:
            make(Path(unfinished))
            made = Path(unfinished) / folder.name
            if not made.is_dir():
                raise ValueError(f"the download for {folder} holds no folder {folder.name}")
            made.rename(folder)


def fetch(url: str, path: Path, *, md5: str) -> None:
    """Download ``url`` to ``path``, going on with a ``.part`` file that is there."""
    part = path.with_name(path.name + ".part")
    if not path.is_file():
        start = part.stat().st_size if part.is_file() else 0
        request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                resumed = response.status == 206  # a server that knows no ranges sends everything again
                expected = response.headers.get("Content-Length")
                with part.open("ab" if resumed else "wb") as file:
                    before = file.tell()
                    shutil.copyfileobj(response, file, CHUNK)
                    received = file.tell() - before
            if expected is not None and received < int(expected):
                raise OSError(f"the connection closed after {received} of {expected} bytes")
        except urllib.error.HTTPError as error:
            if error.code != 416:  # "range not satisfiable": the part file is already whole
                raise OSError(f"{url} cannot be downloaded ({error}): fetch it by hand to {path}") from error
        except OSError as error:
            raise OSError(f"{url} cannot be downloaded ({error}): try again to go on, or fetch it to {path}") from error
        part.rename(path)
    found = _md5(path)
    if found != md5:
        path.unlink()
        raise ValueError(f"{url} has MD5 {found}, expected {md5}: the file was removed, try again")


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar archive, refusing links, devices and every path that leads out of ``folder``."""
    inside = folder.resolve()
    with tarfile.open(archive) as tar:
        for member in tar:
            target = (inside / member.name).resolve()
            if not target.is_relative_to(inside):
                raise ValueError(f"{archive} is not safe to unpack: {member.name!r} leads out of the folder")
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            content = tar.extractfile(member) if member.isfile() else None
            if content is None:
                raise ValueError(f"{archive} is not safe to unpack: {member.name!r} is neither a file nor a folder")
            target.parent.mkdir(parents=True, exist_ok=True)
            with content, target.open("wb") as file:
                shutil.copyfileobj(content, file, CHUNK)


def _md5(path: Path) -> str:
    seen = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            seen.update(chunk)
    return seen.hexdigest()
