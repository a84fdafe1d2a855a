"""Tables from records: a row a run, seeds summarized, and a sentence on where the numbers come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from fgvc_study.experiment import Experiment
from fgvc_study.record import Record, run_id

NAMES = {
    "birds": "synthetic birds",
    "mnist": "MNIST",
    "cub100": "CUB-100",
    "flowers": "Flowers-102",
    "cars196_crops": "crops of cars",
}
"""Data set → its name in titles, where it has another one."""


def title(runs: pd.DataFrame) -> str:
    """The data that runs of one experiment were made on, and whether their networks were pretrained."""
    name = str(runs["data"].iloc[0])
    pretrained = "backbone_args.pretrained" in runs and runs["backbone_args.pretrained"].eq(True).any()
    return NAMES.get(name, name) + ", pretrained" * bool(pretrained)


def frame(experiment: Experiment, records: Mapping[str, Record]) -> pd.DataFrame:
    """One row for each run that an experiment asks for.

    Args:
        experiment: its runs, in order.
        records: id → record, of those that have been measured.

    Returns:
        ``variant``, ``seed``, ``measured``, ``diverged``, ``id``; ``dataset``, ``device``, ``threads`` of the record;
        the configuration, where ``method_args`` becomes ``method_args.<name>``; the record's numbers. A run without a
        record, and one that diverged, has no numbers (NaN).
    """
    rows = []
    for variant, configs in experiment.variants.items():
        for config in configs:
            name = run_id(config)
            record = records.get(name)
            row: dict[str, object] = {"variant": variant, "seed": config.seed, "measured": record is not None}
            row |= {"diverged": record is not None and record.diverged, "id": name}
            for key, value in config.to_dict().items():
                if isinstance(value, dict):
                    row |= {f"{key}.{k}": _plain(v) for k, v in value.items()}
                else:
                    row.setdefault(key, _plain(value))
            if record is not None:
                row |= {"dataset": record.dataset["name"], "device": record.device["name"]}
                row |= {"threads": record.device["count"]} | record.final
                row |= {f"timing/{k}": v for k, v in record.timing.items()}
                row |= {f"memory/{k}": v for k, v in record.memory.items()}
            rows.append(row)
    return pd.DataFrame(rows, columns=None if rows else ["variant", "seed", "measured", "diverged", "id"])


def _plain(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def plus_minus(values: Iterable[float], *, scale: float = 100.0, digits: int = 1) -> str:
    """Mean and standard deviation (n - 1) of one number over seeds, in percent unless ``scale`` says otherwise.

    ``61.3 ± 0.4``; ``61.3``, without a spread, for one seed; a dash where no seed has the number.
    """
    known = pd.Series(list(values), dtype=float).dropna()
    if known.empty:
        return "–"
    mean, deviation = scale * known.mean(), scale * known.std()
    return f"{mean:.{digits}f}" if len(known) == 1 else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def summarize(runs: pd.DataFrame, columns: Mapping[str, str | tuple[str, float, int]], label: str) -> pd.DataFrame:
    """One line for each variant of an experiment, in order: its name, mean ± standard deviation over seeds, seeds.

    Args:
        runs: a row a run, as :meth:`fgvc_study.study.Study.run` gives it.
        columns: heading → column of ``runs``, a fraction shown in percent; or ``(column, scale, digits)``. A column
            that no run has is left out.
        label: the heading of the variants.

    Returns:
        With ``seeds`` as the number of runs that finished, and ``diverged`` as a rate where any run diverged.
    """
    formats = {heading: (c, 100.0, 1) if isinstance(c, str) else c for heading, c in columns.items()}
    measured = {h: form for h, form in formats.items() if form[0] in runs and runs[form[0]].notna().any()}
    lines = []
    for variant, group in runs.groupby("variant", sort=False):
        line: dict[str, object] = {label: variant}
        line |= {h: plus_minus(group[c], scale=scale, digits=digits) for h, (c, scale, digits) in measured.items()}
        line["seeds"] = int((group["measured"] & ~group["diverged"]).sum())
        line["diverged"] = f"{int(group['diverged'].sum())} of {int(group['measured'].sum())}"
        lines.append(line)
    table = pd.DataFrame(lines, columns=[label, *measured, "seeds", "diverged"])
    return table if len(runs) and runs["diverged"].any() else table.drop(columns="diverged")


def provenance_line(records: Sequence[Record], *, missing: int = 0) -> str:
    """One sentence on where numbers come from, for the foot of a table or figure.

    Args:
        records: behind the numbers.
        missing: runs that were asked for and have no record.
    """
    lacking = f"{missing} run{'s' * (missing > 1)} not measured yet" if missing else ""
    if not records:
        return f"{lacking or 'No runs'}."

    def listed(values: Iterable[object]) -> str:
        return ", ".join(sorted({str(v) for v in values}))

    sizes = {f"{r.dataset['train']:,} training and {r.dataset['test']:,} test images" for r in records}
    threads = {r.device["count"] for r in records if r.device["type"] == "cpu"}
    on = f" ({listed(threads)} thread{'s' * (threads != {1})})" if threads else ""
    parts = [
        f"{len(records)} run{'s' * (len(records) > 1)}",
        f"{listed(r.dataset['name'] for r in records)} ({listed(sizes)})",
        f"seeds {listed(r.seed for r in records)}",
        f"{listed(r.device['name'] for r in records)}{on}",
        f"torch {listed(r.versions['torch'] for r in records)}",
        f"commit {listed(r.commit[:9] for r in records)}{' with uncommitted changes' * any(r.dirty for r in records)}",
    ]
    if old := sum(not r.is_current for r in records):
        parts.append(f"{old} measured with an earlier revision of the method")
    if lost := [f"seed {r.seed} at step {r.final['diverged_at_step']:.0f}" for r in records if r.diverged]:
        parts.append(f"{len(lost)} diverged ({', '.join(lost)}) and {'are' if lost[1:] else 'is'} in no mean")
    if lacking:
        parts.append(lacking)
    return "; ".join(parts) + "."
