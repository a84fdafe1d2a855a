"""What lies in a folder: its image files and, counted by kind, everything that is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fgvc_lib.data.images import EXTENSIONS, RAW, readable

ADVICE = {".heic": "pip install pillow-heif", ".heif": "pip install pillow-heif", ".hif": "pip install pillow-heif"}
JUNK = ("$RECYCLE.BIN", "@eaDir", "__MACOSX", "lost+found")
"""Folders of systems and file servers; they hold copies and thumbnails."""


@dataclass
class Found:
    """What lies in a folder.

    Attributes:
        images: files to read, sorted.
        dropped: images that are passed over, counted by the reason.
        others: other files, counted by their ending.
    """

    images: list[Path] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def drop(self, folder: Path, reason: str, *, below: bool = True) -> None:
        """Pass over the images in a folder, those in its folders too unless told otherwise."""
        out = {i for i in self.images if (i.is_relative_to(folder) if below else i.parent == folder)}
        self.dropped += Counter({reason: len(out)})
        self.images = [image for image in self.images if image not in out]


def images_below(folder: Path) -> Found:
    """All images anywhere in a folder, through links to other folders too.

    Raises:
        OSError: a folder that may not be read.
    """
    found = Found()
    above = frozenset(os.path.realpath(parent) for parent in folder.absolute().parents)
    known = readable()
    for path in sorted(map(Path, _files(str(folder), above))):
        ending = path.suffix.lower()
        hidden = next((part for part in path.relative_to(folder).parts[:-1] if is_hidden(part)), None)
        if ending not in EXTENSIONS + RAW:
            found.others[ending or "no ending"] += 1
        elif hidden or path.name.startswith("."):
            found.dropped[f"hidden in {hidden}" if hidden else "hidden"] += 1
        elif not path.is_file():
            found.dropped["broken link"] += 1
        elif ending not in known:
            found.dropped[f"{ending} ({ADVICE.get(ending, 'convert them to JPEG')})"] += 1
        else:
            found.images.append(path)
    return found


def is_hidden(name: str) -> bool:
    """Whether a folder is not meant to be seen: a dot in front (but for a caliber, ``.45 ACP``), or a system's."""
    return (name.startswith(".") and not name[1:2].isdigit()) or name in JUNK


def some(names: Sequence[str], *, most: int = 5) -> str:
    """The first of many names, quoted, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more


def counted(counts: Counter[str]) -> str:
    """``2 .txt, 1 .xml``, the most frequent first."""
    return ", ".join(f"{count} {kind}" for kind, count in counts.most_common())


def _files(folder: str, above: frozenset[str]) -> Iterator[str]:
    """Every file below; a link back to a folder that it lies in is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _files(entry.path, above | {real})
            else:
                yield entry.path
