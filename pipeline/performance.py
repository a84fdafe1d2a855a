"""What the performance page shows: every record of ``data/benchmarks`` as tables.

The records are laid out as each question asks. What they have in common is read here: a mapping ``seconds`` or
``timing`` from candidate to ``median`` and ``fastest``, or a mapping from candidate to these and all its ``seconds``.
Neighbours that are about the same candidates (ratios, memory, operations) become further columns; other mappings to
numbers alone are tables of their own.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.project import ROOT

TIMES = ("seconds", "timing")
SHOWN = 3  # significant digits; more would say that a clock is exacter than it is


def page(folder: Path = ROOT / "data" / "benchmarks") -> str:
    """Markdown: a section for each record."""
    sections = [_section(path) for path in sorted(folder.glob("*.json"))]
    return "\n".join(sections) or "Nothing has been measured yet.\n"


def groups(record: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, dict[str, Any]]]]:
    """Every table in a record: where it stands, and candidate → column → value."""
    if isinstance(record, list):
        for item in record:
            facts = item.items() if isinstance(item, Mapping) else ()
            about = ", ".join(f"{name} {value}" for name, value in facts if isinstance(value, str | int))
            yield from groups(item, (*place, about))
    if not isinstance(record, Mapping):
        return
    if len(record) > 1 and all(isinstance(value, int | float) for value in record.values()):
        yield place, {name: {"value": value} for name, value in record.items()}
        return
    read = {name for name, value in record.items() if _is_timed(value)}  # what needs no look inside any more
    rows: dict[str, dict[str, Any]] = {name: _times(record[name]) for name in record if name in read}
    for key in TIMES:
        if isinstance(record.get(key), Mapping):
            rows |= {name: _times(value) for name, value in record[key].items()}
            read.add(key)
    for column, values in record.items():
        if column not in read and isinstance(values, Mapping) and values and set(values) <= set(rows):
            read.add(column)
            for name, value in values.items():
                number = value.get("median") if isinstance(value, Mapping) else value
                if isinstance(number, int | float):
                    rows[name][column] = number
    if rows:
        yield place, rows
    for name, value in record.items():
        if name not in read:
            yield from groups(value, (*place, name))


def _is_timed(value: Any) -> bool:
    return isinstance(value, Mapping) and "median" in value and "seconds" in value


def _times(value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {"median": value}
    return {key: number for key, number in value.items() if isinstance(number, int | float)}


def _section(path: Path) -> str:
    record = json.loads(path.read_text(encoding="utf8"))
    name = path.stem.split("-")[0]
    device, versions = record.get("device", ""), record.get("versions", {})
    if isinstance(device, Mapping):
        threads = f", {device['count']} thread{'s' * (device['count'] != 1)}" if device.get("type") == "cpu" else ""
        device = f"{device.get('name', '')}{threads}"
    facts = [str(device), f"torch {versions.get('torch', record.get('torch', ''))}"]
    if record.get("commit"):
        facts.append(f"commit `{record['commit'][:10]}`{' with changes' * bool(record.get('dirty'))}")
    if record.get("date"):
        facts.append(record["date"])
    lines = [f"## {name.replace('_', ' ').capitalize()}, {device}", "", question(name), ""]
    for place, rows in groups(record):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        titles = [column.replace("_", " ").replace("bytes", "memory") for column in columns]
        if place:
            lines += [f"**{': '.join(part.replace('_', ' ') for part in place if part)}**", ""]
        lines += [f"| candidate | {' | '.join(titles)} |", "| --- |" + " ---: |" * len(columns)]
        for candidate, row in rows.items():
            lines.append(f"| {candidate} | {' | '.join(_shown(c, row.get(c)) for c in columns)} |")
        lines.append("")
    return "\n".join([*lines, f"*Measured by `benchmarks/{name}.py`: {'; '.join(facts)}.*", ""])


def question(name: str) -> str:
    """The first sentence of a benchmark's script, which is what it asks."""
    script = ROOT / "benchmarks" / f"{name}.py"
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf8"))) if script.exists() else None
    return " ".join((text or "").split("\n\n")[0].split())


def _shown(column: str, value: Any) -> str:
    """A number with its unit and three digits that mean something; empty where there is none."""
    if value is None:
        return ""
    if column in ("median", "fastest"):
        return f"{value:.{SHOWN}g} s" if value >= 1 else f"{1e3 * value:.{SHOWN}g} ms"
    if column.endswith("bytes"):
        return f"{value / 2**20:.0f} MiB" if value >= 2**20 else f"{value / 2**10:.0f} KiB"
    for size, suffix in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.{SHOWN}g}{suffix}"
    return f"{value:.{SHOWN}g}"
