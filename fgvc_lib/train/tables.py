"""Tables that a run leaves in its folder, for people and their spreadsheets: ``history.csv`` and ``images.csv``."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fgvc_lib.data import ImageData
from fgvc_lib.data.listing import some
from fgvc_lib.train.checkpoint import replacing


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with a column for every key of any of them; whole or not at all."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        replacing(path) as temporary,
        temporary.open("w", newline="", encoding="utf8", errors="backslashreplace") as file,
    ):
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def image_rows(data: ImageData) -> list[dict[str, str]]:
    """Which image file is in which split, as which class; empty for a set that is not made of files."""
    return [
        {"split": name, "class": data.classes[label], "file": key}
        for name in ("train", "val", "test")
        for key, label in zip(getattr(data, name).keys, getattr(data, name).labels.tolist(), strict=False)
    ]


def changes(path: Path, data: ImageData) -> str:
    """What differs between the images of an earlier run, ``images.csv``, and those of a set, in words."""
    if not path.is_file():
        return ""
    with path.open(newline="", encoding="utf8") as file:
        before = {row["file"]: row["split"] for row in csv.DictReader(file)}
    now = {row["file"]: row["split"] for row in image_rows(data)}
    found = {
        "added": [key for key in now if key not in before],
        "removed": [key for key in before if key not in now],
        "in another split": [key for key in now if key in before and now[key] != before[key]],
    }
    told = [f"{len(keys)} {what} ({some(keys, most=3)})" for what, keys in found.items() if keys]
    return ", ".join(told) or "none added or removed, but their contents or the preparation differ"
