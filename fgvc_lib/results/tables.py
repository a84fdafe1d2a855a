"""Tables from records: one row a run, seeds summarised, differences paired by seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from fgvc_lib.results.provenance import code_fingerprint
from fgvc_lib.results.record import Record

STRONGEST = ("paper", "gpu", "cpu", "quick", "smoke")
"""Profiles, the one whose numbers say most first."""


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row a record: provenance, the flattened configuration, and the final numbers."""
    rows = []
    for record in records:
        row: dict[str, object] = {
            "id": record.id,
            "profile": record.profile,
            "chapter": record.chapter,
            "device": record.device["name"],
            "dataset": record.dataset["name"],
            "commit": record.commit,
        }
        for key, value in record.config.items():
            if isinstance(value, dict):
                row |= {f"{key}.{k}": _plain(v) for k, v in value.items()}
            else:
                row[key] = _plain(value)
        row |= record.final
        row |= {f"timing/{k}": v for k, v in record.timing.items()}
        row |= {f"memory/{k}": v for k, v in record.memory.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def strongest(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the profile whose numbers say most, among those that the table has."""
    for profile in STRONGEST:
        rows = table[table["profile"] == profile] if len(table) else table
        if len(rows):
            return rows
    return table


def plus_minus(values: Iterable[float], *, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation (n - 1) of one number over seeds, in percent unless ``scale`` says otherwise.

    ``61.3 ± 0.4``; ``61.3``, without a spread, for one seed; a dash where no seed has the number.
    """
    known = pd.Series(list(values), dtype=float).dropna()
    if known.empty:
        return "–"
    mean, deviation = scale * known.mean(), scale * known.std()
    return f"{mean:.{digits}f}" if len(known) == 1 else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def summarise(runs: pd.DataFrame, columns: Mapping[str, str | tuple[str, float, int]], label: str) -> pd.DataFrame:
    """One line for each row of an experiment, in order: its name, mean ± standard deviation over seeds, seeds.

    Args:
        runs: one line a run, with the column ``row``, as :func:`fgvc_lib.results.wanted.table` makes it.
        columns: heading → column of ``runs``, a share shown in percent; or ``(column, scale, digits)``. A column that
            no run has is left out.
        label: the heading of the rows.
    """
    formats = {heading: (c, 100.0, 1) if isinstance(c, str) else c for heading, c in columns.items()}
    measured = {h: form for h, form in formats.items() if form[0] in runs and runs[form[0]].notna().any()}
    lines = [
        {label: row}
        | {h: plus_minus(group[c], scale=scale, digits=digits) for h, (c, scale, digits) in measured.items()}
        | {"seeds": len(group)}
        for row, group in runs.groupby("row", sort=False)
    ]
    return pd.DataFrame(lines, columns=[label, *measured, "seeds"])


def paired(a: pd.DataFrame, b: pd.DataFrame, value: str, *, confidence: float = 0.95) -> dict[str, float]:
    r"""The difference ``a - b`` of runs with the same seed, with Student's interval.

    .. math:: \bar d \pm t_{n-1}\, s_d / \sqrt n

    Returns:
        ``mean``, ``low``, ``high`` and ``seeds``; the interval is infinite for fewer than two pairs.
    """
    both = a.set_index("seed")[value].to_frame("a").join(b.set_index("seed")[value].to_frame("b"), how="inner")
    difference = (both["a"] - both["b"]).to_numpy(float)
    n = len(difference)
    if n == 0:
        raise ValueError(f"no seed has both runs of {value}: measure the two sides with the same seeds")
    mean = float(difference.mean())
    if n == 1:
        return {"mean": mean, "low": -np.inf, "high": np.inf, "seeds": 1}
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1) * difference.std(ddof=1) / np.sqrt(n))
    return {"mean": mean, "low": mean - half, "high": mean + half, "seeds": n}


def provenance_line(records: Sequence[Record]) -> str:
    """One sentence on where numbers come from, for the foot of a table or figure."""
    if not records:
        return "No records: nothing has been measured for this table yet."

    def listed(values: Iterable[object]) -> str:
        return ", ".join(sorted({str(v) for v in values}))

    sizes = {f"{r.dataset['train']:,} training and {r.dataset['test']:,} test images" for r in records}
    old = sum(r.versions.get("sources") != code_fingerprint(r.config) for r in records)
    earlier = f"; {old} of them measured at an earlier version of the code" if old else ""
    lost = [f"seed {r.seed} at step {r.final['diverged_at_step']:.0f}" for r in records if r.diverged]
    diverged = (
        f"; {len(lost)} of them diverged, {', '.join(lost)}, and {'are' if lost[1:] else 'is'} in no mean"
        if lost
        else ""
    )
    short = sum(r.cut_short for r in records)
    cut = f"; {short} of them cut short, which proves that they run and nothing else" if short else ""
    dirty = " with uncommitted changes" if any(r.dirty for r in records) else ""
    return (
        f"{len(records)} run{'s' * (len(records) > 1)}, profile {listed(r.profile for r in records)}; "
        f"{listed(r.dataset['name'] for r in records)} ({listed(sizes)}); seeds {listed(r.seed for r in records)}; "
        f"{listed(r.device['name'] for r in records)}; torch {listed(r.versions['torch'] for r in records)}; "
        f"commit {listed(r.commit[:9] for r in records)}{dirty}{earlier}{diverged}{cut}."
    )


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
