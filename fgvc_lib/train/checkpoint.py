"""Checkpoints that survive being killed while they are written and are never trusted blindly."""

from __future__ import annotations

import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_NAME = re.compile(r"checkpoint-(\d{8})\.pt")


class CheckpointError(ValueError):
    """There are checkpoints, but none that this run may continue from."""


class Checkpoints:
    """The checkpoints of one run in a folder, ``checkpoint-<step>.pt``; the last two are kept.

    A file appears under its name only when it is whole: it is written under another name, flushed to the disk and
    renamed, and so is the folder's entry.

    Args:
        folder: made when the first checkpoint is written.
        identity: plain data that decides the run (configuration, data fingerprint, number of processes).
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.folder, self.identity = folder, identity

    def steps(self) -> list[int]:
        """Steps that have a file, in order."""
        found = (_NAME.fullmatch(path.name) for path in self.folder.glob("checkpoint-*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """The file of a step."""
        return self.folder / f"checkpoint-{step:08d}.pt"

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write ``state`` for ``step``, then delete all but the last two up to it."""
        write_atomically({"identity": self.identity, "step": step, "state": state}, self.path(step))
        # files of a later step are not of this run (they were refused): they stay as they are
        for old in [s for s in self.steps() if s <= step][:-2]:
            self.path(old).unlink(missing_ok=True)
        return self.path(step)

    def intact(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Files and their content from the newest on; a damaged one is passed over with a warning that says why."""
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                content = load_checked(path)
                content = {"identity": content["identity"], "state": content["state"]}
            except Exception as error:  # whatever a damaged file makes the unpickler raise
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:150]
                warnings.warn(f"{path} cannot be read ({reason}): not used", stacklevel=3)
            else:
                yield path, content

    def load(self) -> dict[str, Any] | None:
        """The newest usable state, on the CPU; None if the folder has no checkpoint, or only damaged ones.

        A damaged or foreign file is passed over with a warning that says why.

        Raises:
            CheckpointError: every intact checkpoint belongs to another run, which must not be mixed with this one.
        """
        foreign = ""
        for path, content in self.intact():
            differences = _differences(self.identity, content["identity"])
            if not differences:
                return dict(content["state"])
            foreign = f"belongs to another run ({differences})"
            warnings.warn(f"{path} {foreign}: not used", stacklevel=2)
        if foreign:
            raise CheckpointError(f"every checkpoint in {self.folder} {foreign}: choose another folder or empty it")
        return None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` whose file takes its place when the block ends, and is removed on an error.

    ``path`` then holds either its old content or all of the new one, whatever happens: the file and its name reach the
    disk before anything goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    if os.name == "posix":
        _flush(path.parent)


def write_atomically(content: Any, path: Path) -> None:
    """``torch.save`` by :func:`replacing`."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(content, file)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checked(path: Path) -> Any:
    """``torch.load`` of tensors and plain data only, on the CPU, after the checksums of all parts have been checked.

    ``torch.load`` by itself does not compare them, so a flipped bit in a tensor would go unnoticed.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {damaged}")
    return torch.load(path, map_location="cpu", weights_only=True)


def _differences(expected: dict[str, Any], found: dict[str, Any], prefix: str = "") -> str:
    """``a is 1 instead of 2; …`` for every key in which two nested mappings differ."""
    texts = []
    for key in [*expected, *(k for k in found if k not in expected)]:
        here, there = expected.get(key), found.get(key)
        if isinstance(here, dict) and isinstance(there, dict):
            texts.append(_differences(here, there, f"{prefix}{key}."))
        elif here != there:
            texts.append(f"{prefix}{key} is {there!r} instead of {here!r}")
    return "; ".join(text for text in texts if text)
