"""Labels in a table beside the images: a CSV with the columns ``file``, ``label`` and, if it is split, ``split``."""

from __future__ import annotations

import csv
import unicodedata
from collections import defaultdict
from pathlib import Path

from fgvc_lib.data.images import readable
from fgvc_lib.data.listing import Found, some


def read_table(path: Path, splits: dict[str, str]) -> tuple[dict[str, dict[str, list[tuple[Path, str]]]], Found]:
    """What a table says of its images.

    Args:
        path: of the table, in UTF-8, with commas, semicolons or tabs; its files are relative to its own folder.
        splits: what may stand in the column ``split``, in lower case, and the split that it means.

    Returns:
        Split → class → the images' paths and names, the one split ``all`` without that column; and what is passed over.

    Raises:
        ValueError: a table that is not as it should be, with the line, or that names a file which is not there.
    """
    try:
        header, *lines = path.read_text(encoding="utf-8-sig").splitlines() or [""]
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8: save it as that, which spreadsheets call CSV UTF-8") from None
    delimiter = max(",;\t", key=header.count)
    columns = [name.strip().lower() for name in next(csv.reader([header], delimiter=delimiter), ())]
    if not {"file", "label"} <= set(columns):
        raise ValueError(f"{path} must begin with the columns file,label or file,label,split, got {header!r}")
    needed = "a file, a label and a split of train, val or test" if "split" in columns else "a file and a label"
    rows = csv.DictReader(lines, columns, delimiter=delimiter)
    found, known = Found(), readable()
    by_split: dict[str, dict[str, list[tuple[Path, str]]]] = defaultdict(lambda: defaultdict(list))
    missing: list[str] = []
    seen: set[str] = set()
    for row in rows:
        line = rows.line_num + 1  # and the header
        name, label, split = ((row.get(column) or "").strip() for column in ("file", "label", "split"))
        if not name or not label or ("split" in columns and split.lower() not in splits):
            raise ValueError(f"{path}, line {line}: every image needs {needed}, got {some([name, label, split])}")
        if name in seen:
            raise ValueError(f"{path}, line {line}: {name} is there twice, and one image has one label")
        seen.add(name)
        image = path.parent / name
        if not image.is_file():
            missing.append(name)
        elif image.suffix.lower() not in known:
            found.dropped[f"{image.suffix.lower() or 'no ending'} that cannot be read"] += 1
        else:
            where = by_split[splits[split.lower()] if "split" in columns else "all"]
            where[unicodedata.normalize("NFC", label)].append((image, Path(name).as_posix()))
    if missing:
        raise ValueError(f"{path} names {len(missing)} files that are not in {path.parent}: {some(missing)}")
    if not by_split:
        raise ValueError(f"{path} names no image that can be read")
    return {split: dict(by_class) for split, by_class in by_split.items()}, found
