"""Published figures beside what the ``paper`` profile measures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import yaml

from fgvc_study import folders
from fgvc_study.experiment import table as asked
from fgvc_study.record import find
from fgvc_study.tables import plus_minus

CERTAINTIES = ("sure", "confirmed", "log", "issue")
"""What each says of our reading stands at the head of ``data/published.yaml``."""


@dataclass(frozen=True)
class Figure:
    """A published accuracy.

    Attributes:
        experiment, variant: ``<chapter>/<name>`` and its variant, which follow its protocol in the profile ``paper``.
        dataset: it was measured on.
        value: in percent.
        source: whose figure it is and where we read it.
        certainty: one of :data:`CERTAINTIES`.
    """

    experiment: str
    variant: str
    dataset: str
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
        name = f"{path.name}: {fields.get('experiment')} {fields.get('variant')}"
        if set(fields) != set(Figure.__dataclass_fields__):
            wrong = ", ".join(sorted(set(fields) ^ set(Figure.__dataclass_fields__)))
            raise ValueError(f"{name} lacks or has too much of {wrong}")
        figure = Figure(**fields)
        if not figure.source or figure.certainty not in CERTAINTIES or not 0 < figure.value < 100:
            raise ValueError(
                f"{name} quotes {figure.value} of {figure.source!r} with certainty {figure.certainty!r}: it needs a "
                f"percentage, a source and one of {', '.join(CERTAINTIES)}"
            )
        found.append(figure)
    return found


def table(path: Path | None = None) -> pd.DataFrame:
    """A line for every published figure, and what the profile ``paper`` has measured of the same.

    Columns ``experiment``, ``variant``, ``data``, ``published, %``, ``certainty``, ``source`` and ``measured, %`` (mean
    ± standard deviation over the seeds that have a record; empty without one).

    Raises:
        ValueError: a figure of a variant that the profile ``paper`` does not have.
    """
    lines = []
    for figure in figures(path):
        chapter, name = figure.experiment.split("/")
        experiment = asked("paper", chapter).get(name)
        if experiment is None or figure.variant not in experiment.variants:
            raise ValueError(f"profile paper has no variant {figure.variant!r} of {figure.experiment}")
        configs = [c for c in experiment.variants[figure.variant] if c.data == figure.dataset]
        records = [record for config in configs if (record := find(config)) and not record.diverged]
        lines.append(
            {
                "experiment": figure.experiment,
                "variant": figure.variant,
                "data": figure.dataset,
                "published, %": f"{figure.value:.2f}".removesuffix("0"),
                "certainty": figure.certainty,
                "source": figure.source,
                "measured, %": plus_minus([r.final["test_accuracy"] for r in records]) if records else "",
            }
        )
    return pd.DataFrame(lines)
