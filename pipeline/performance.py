"""What the performance page shows: targets beside what was measured, growth, steps, and every other record as tables.

All of it comes from ``data/benchmarks``: ``targets.yaml``, and one record for each benchmark and device. Records are
laid out as each question asks. What they have in common is read here: a mapping ``seconds`` or ``timing`` from
candidate to ``median`` and ``fastest``, or a mapping from candidate to these and all its ``seconds``. Neighbors that
are about the same candidates (ratios, memory, operations) become further columns; other mappings to numbers alone are
tables of their own.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fgvc_study.benchmarks import device
from pipeline.project import ROOT

TIMES = ("seconds", "timing")
SHOWN = 3  # significant digits; more would say that a clock is exacter than it is


FOLDER = ROOT / "data" / "benchmarks"


def page(folder: Path = FOLDER) -> str:
    """Markdown: the targets, then a section for each record."""
    records = {path: json.loads(path.read_text(encoding="utf8")) for path in sorted(folder.glob("*.json"))}
    wanted = folder / "targets.yaml"
    sections = [targets(wanted, list(records.values()))] if wanted.exists() else []
    sections += [_section(path, record) for path, record in records.items()]
    return "\n".join(sections) or "Nothing has been measured yet.\n"


def targets(wanted: Path, records: Sequence[Mapping[str, Any]]) -> str:
    """The summary: what was aimed at, what was measured, and whether it is met.

    Args:
        wanted: ``targets.yaml``.
        records: of all benchmarks.

    Raises:
        ValueError: a target without exactly one bound, or a record that has no such number.
    """
    lines = [
        "## Targets",
        "",
        "| benchmark | what | on | target | measured | met |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for target in yaml.safe_load(wanted.read_text(encoding="utf8"))["targets"]:
        bounds = [side for side in ("at_least", "at_most") if side in target]
        if len(bounds) != 1:
            raise ValueError(f"target {target['what']!r} needs at_least or at_most, and has {len(bounds)} of them")
        (side,) = bounds
        sign, bound = "≥" if side == "at_least" else "≤", target[side]
        of_it = [r for r in records if r["benchmark"] == target["record"]]
        found: list[Mapping[str, Any] | None] = [r for r in of_it if _kind(r) == target["device"]]
        for record in found or [None]:
            if record is None:
                on, measured, met = target["device"].upper(), "", "not measured yet"
            else:
                value = _number(record, target["key"], target["what"])
                if "per" in target:
                    value /= _number(record, target["per"], target["what"])
                on, measured = device(record), f"{value:.{SHOWN}g}"
                met = "yes" if (value >= bound if side == "at_least" else value <= bound) else "**no**"
                met += " (a trial)" if str(record.get("note", "")).startswith("trial") else ""
            lines.append(
                f"| {_title(target['record'])} | {target['what']} | {on} | {sign} {bound:g} | {measured} | {met} |"
            )
    return "\n".join([*lines, ""])


def _kind(record: Mapping[str, Any]) -> str:
    return "gpu" if record["device"]["type"] == "cuda" else "cpu"


def _number(record: Any, key: list[str | int], what: str) -> float:
    value = record
    for part in key:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            raise ValueError(f"target {what!r}: its record has no {part!r} on the way of {key}") from None
    return float(value)


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


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


def _section(path: Path, record: Mapping[str, Any]) -> str:
    name = path.stem.split("-")[0]
    facts = [record["device"]["name"], f"torch {record['versions']['torch']}"]
    if record.get("commit"):
        facts.append(f"commit `{record['commit'][:10]}`{' with changes' * bool(record.get('dirty'))}")
    facts += [str(record[key]) for key in ("date", "note") if record.get(key)]
    lines = [f"## {_title(name)}, {device(record)}", "", question(name), ""]
    if "growth" in record:
        lines += _growth(record["growth"])
    elif "methods" in record:
        lines += _steps(record["methods"])
    else:
        lines += _tables(record)
    return "\n".join([*lines, f"*Measured by `benchmarks/{name}.py`: {'; '.join(facts)}.*", ""])


def _tables(record: Mapping[str, Any]) -> list[str]:
    """Whatever tables the record has."""
    lines = []
    for place, rows in groups(record):
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        titles = [column.replace("_", " ").replace("bytes", "memory") for column in columns]
        if place:
            lines += [f"**{': '.join(part.replace('_', ' ') for part in place if part)}**", ""]
        cells = [[candidate, *(_shown(c, row.get(c)) for c in columns)] for candidate, row in rows.items()]
        lines += _numbers([["candidate", *titles], *cells])
    return lines


def _numbers(rows: list[list[str]]) -> list[str]:
    """A table of titles and lines whose first column is words and whose others are numbers."""
    titles, *lines = (f"| {' | '.join(cells)} |" for cells in rows)
    return [titles, "| --- |" + " ---: |" * (len(rows[0]) - 1), *lines, ""]


def _growth(growth: list[dict[str, Any]]) -> list[str]:
    """Time and memory at the smallest and the largest size, and the exponents."""
    lines = [
        "| subject | grows with | from … to | fixed | time | exponent of time | memory | exponent of memory |",
        "| --- | --- | --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for row in growth:
        low, *_, high = row["seconds"]
        slope = row["exponent"]
        cells = [
            row["what"],
            row["variable"],
            f"{low} … {high}",
            row["fixed"],
            " … ".join(_shown("median", row["seconds"][size]["median"]) for size in (low, high)),
            f"{slope['median']:.2f} ({slope['lowest']:.2f} … {slope['highest']:.2f})",
            " … ".join(_shown("peak_bytes", row["peak_bytes"][size]) for size in (low, high)),
            f"{row['exponent_of_bytes']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _steps(methods: dict[str, dict[str, float]]) -> list[str]:
    """Two tables with a line for each method: the time of a step by its parts; the work, beside that of the first."""
    parts = [key for key in next(iter(methods.values())) if key not in _OF_STEPS]
    times = [["method", "images", *parts]]
    work = [["method", "prediction", *_OVER_FIRST.values(), "memory"]]
    for name, row in methods.items():
        times.append([name, f"{row['batch']}", *(_shown("median", row[part]) for part in parts)])
        ratios = (f"{row[key]:.2f} ×" for key in _OVER_FIRST)
        work.append([name, _shown("median", row["prediction"]), *ratios, _shown("peak_bytes", row["peak_bytes"])])
    return [*_numbers(times), *_numbers(work)]


_OVER_FIRST = {
    "prediction_over_baseline": "prediction, of the first row's",
    "over_baseline": "step, of the first row's",
    "multiply_adds_over_baseline": "multiply-adds of a step",
}
_OF_STEPS = ("batch", "prediction", "multiply_adds_per_image", "peak_bytes", *_OVER_FIRST)


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
