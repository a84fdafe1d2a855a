"""Published figures beside what the ``paper`` profile measures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import yaml
from pydantic import BaseModel, Field, TypeAdapter

from fgvc_study import folders
from fgvc_study.experiment import table as asked
from fgvc_study.findings import difference
from fgvc_study.record import find
from fgvc_study.tables import plus_minus


class Figure(BaseModel, extra="forbid", frozen=True):
    """A published accuracy.

    Attributes:
        experiment, variant: ``<chapter>/<name>`` and its variant, which follow its protocol in the profile ``paper``.
        dataset: it was measured on.
        value: in percent.
        source: whose figure it is and where we read it.
        certainty: of our reading; what each says stands at the head of ``data/published.yaml``.
        ours: whether the profile has the variant; without one, the figure stands in the chapter alone.
        pretrained: whether the network started with weights of ImageNet, as most did.
    """

    experiment: str
    variant: str
    dataset: str
    value: float = Field(gt=0, lt=100)
    source: str = Field(min_length=1)
    certainty: Literal["sure", "confirmed", "log", "issue"]
    ours: bool = True
    pretrained: bool = True


def figures(path: Path | None = None) -> list[Figure]:
    """The rows of ``data/published.yaml``.

    Raises:
        ValueError: a row that lacks a field, or quotes a figure without a source or a certainty.
    """
    path = path or folders.committed("published.yaml")
    return TypeAdapter(list[Figure]).validate_python(yaml.safe_load(path.read_text(encoding="utf8"))["published"])


def table(path: Path | None = None) -> pd.DataFrame:
    """A line for every published figure of a variant of ours, and what the profile ``paper`` has measured of the same.

    Columns ``experiment``, ``variant``, ``data``, ``published, %``, ``certainty``, ``source`` and ``measured, %`` (mean
    ± standard deviation over the seeds that have a record; empty without one).

    Raises:
        ValueError: a figure of a variant that the profile ``paper`` does not have.
    """
    lines = []
    for figure in (figure for figure in figures(path) if figure.ours):
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


def effects(
    experiment: str, pairs: Sequence[tuple[str, str]], *, path: Path | None = None, **ours: pd.DataFrame
) -> pd.DataFrame:
    """Published differences beside ours: a line for every source that prints both sides of a comparison.

    Args:
        experiment: ``<chapter>/<name>``.
        pairs: of its variants, the first minus the second.
        path: of the figures; ``data/published.yaml`` by default.
        **ours: heading → runs of the same experiment, on our data.

    Returns:
        Columns ``comparison``, ``data``, ``published, points``, ``source``, and one for each of ``ours``: the
        difference with its interval, in points, or *not measured yet*.
    """
    lines = []
    for variant, over in pairs:
        found = {name: difference(runs, variant, over) for name, runs in ours.items()}
        mine = {name: d.numbers if d else "not measured yet" for name, d in found.items()}
        for a, b in _both(experiment, variant, over, path):
            points = f"{a.value:g} − {b.value:g} = {a.value - b.value:+.1f}".replace("-", "−")
            line = {"comparison": f"{variant} − {over}", "data": a.dataset, "published, points": points}
            lines.append(line | {"source": a.source} | mine)
    return pd.DataFrame(lines, columns=["comparison", "data", "published, points", "source", *ours])


def effect(
    experiment: str, variant: str, over: str, *, pretrained: bool | None = None, path: Path | None = None
) -> float | None:
    """The first published difference of two variants, in points; None where no source prints both.

    Args:
        experiment, variant, over: as in :func:`effects`.
        pretrained: the start of the networks that count; by default both.
        path: of the figures; ``data/published.yaml`` by default.
    """
    both = _both(experiment, variant, over, path)
    return next((a.value - b.value for a, b in both if pretrained in (None, a.pretrained)), None)


def _both(experiment: str, variant: str, over: str, path: Path | None) -> list[tuple[Figure, Figure]]:
    """The figures of both variants, on one data set from one source, of networks that started in the same way."""
    mine = [figure for figure in figures(path) if figure.experiment == experiment]
    return [
        (a, b)
        for a in mine
        for b in mine
        if a.variant == variant
        and (b.variant, b.dataset, b.source, b.pretrained) == (over, a.dataset, a.source, a.pretrained)
    ]
