"""Published figures beside what the ``paper`` profile measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from fgvc_lib.results import folders, wanted
from fgvc_lib.results.tables import plus_minus

CERTAINTIES = ("sure", "confirmed", "log", "issue")
"""What each says of our reading stands at the head of ``data/published.yaml``."""


@dataclass(frozen=True)
class Figure:
    """A published accuracy.

    Attributes:
        group, row: of ``data/runs.yaml``, the runs that follow its protocol.
        value: in percent.
        source: whose figure it is and where we read it.
        certainty: one of :data:`CERTAINTIES`.
    """

    group: str
    row: str
    value: float
    source: str
    certainty: str


def figures(path: Path | None = None) -> list[Figure]:
    """The rows of ``data/published.yaml``.

    Raises:
        ValueError: a row that lacks a field, or quotes a figure without a source or a certainty.
    """
    path = path or folders.committed("published.yaml")
    found = []
    for fields in yaml.safe_load(path.read_text(encoding="utf8"))["published"]:
        if set(fields) != set(Figure.__dataclass_fields__):
            wrong = ", ".join(sorted(set(fields) ^ set(Figure.__dataclass_fields__)))
            raise ValueError(f"{path.name}: {fields.get('group')} {fields.get('row')} lacks or has too much of {wrong}")
        figure = Figure(**fields)
        if not figure.source or figure.certainty not in CERTAINTIES or not 0 < figure.value < 100:
            raise ValueError(
                f"{path.name}: {figure.group} {figure.row} quotes {figure.value} of {figure.source!r} with certainty "
                f"{figure.certainty!r}: it needs a percentage, a source and one of {', '.join(CERTAINTIES)}"
            )
        found.append(figure)
    return found


def table(path: Path | None = None) -> pd.DataFrame:
    """A line for every row of the ``paper`` profile's headline experiments, and for every figure published of it.

    Columns ``experiment``, ``row``, ``published, %``, ``certainty``, ``source`` and ``measured, %`` (mean ± standard
    deviation over the seeds that have a committed record; empty without one).
    """
    quoted: dict[tuple[str, str], list[Figure]] = {}
    for figure in figures(path):
        quoted.setdefault((figure.group, figure.row), []).append(figure)
    lines = []
    for name, group in wanted.groups().items():
        if "paper" not in group.profiles or group.priority > 1:
            continue
        records = wanted.records(name, profiles=("paper",))
        measured = wanted.table(name, records) if records else None
        for row in group.rows:
            accuracy = ""
            if measured is not None and (measured["row"] == row).any():
                accuracy = plus_minus(measured[measured["row"] == row]["test_accuracy"], digits=2)
            quotes: list[Figure | None] = [*quoted.pop((name, row), [])]
            for quote in quotes or [None]:
                lines.append(
                    {
                        "experiment": name,
                        "row": row,
                        "published, %": f"{quote.value:.2f}".removesuffix("0") if quote else "",
                        "certainty": quote.certainty if quote else "",
                        "source": quote.source if quote else "",
                        "measured, %": accuracy,
                    }
                )
    if quoted:
        raise ValueError(
            f"published of what the paper profile has not, or not with priority 1: {', '.join(map(' '.join, quoted))}"
        )
    return pd.DataFrame(lines)
