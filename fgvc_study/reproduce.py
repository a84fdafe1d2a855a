"""Measure runs again from nothing, and say of each whether it comes out as recorded.

A run reproduces where its new test accuracy lies within the spread of its variant's recorded seeds around their mean,
:math:`|x - \\bar x| \\le t_{n-1, 0.995}\\, s \\sqrt{1 + 1/n}`, the interval in which one more run of the same kind is
expected; with fewer than three seeds, within three points of its own record. On the same processor, with the same
versions and as many threads, it is expected to be equal.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy import stats

from fgvc_lib.config import Config
from fgvc_study import dry_run
from fgvc_study.experiment import Plan
from fgvc_study.plan import metrics_of
from fgvc_study.record import Record, find_all, run_id
from fgvc_study.training import best_device, measure

FEW = 0.03  # allowed difference in accuracy where fewer than three seeds tell the spread


def report(
    chapter: str, plan: Plan, *, only: str = "", device: str | None = None, say: Callable[[str], None] = print
) -> bool:
    """Train every recorded run of a plan again in an empty folder, and print a line for each.

    Args:
        chapter: whose plan it is.
        plan: of :func:`fgvc_study.plan.read`.
        only: take the points that start so; ``compare/TASN/0`` is seed 0 of variant TASN of experiment compare.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        say: is told the lines.

    Returns:
        Whether every run with a record reproduces, and there was one.
    """
    runs = dict[str, tuple[str, Config, dict[str, Record]]]()  # id → point, configuration, its variant's records
    for experiment in plan.experiments.values():
        for variant, configs in experiment.variants.items():
            records = find_all(configs)
            for config in configs:
                point = f"{experiment.name}/{variant}/{config.seed}"
                if point.startswith(only):
                    runs.setdefault(run_id(config), (point, config, records))
    recorded = {name: run for name, run in runs.items() if name in run[2]}
    say(f"{chapter}: {dry_run.sentence([config for _, config, _ in recorded.values()], device or best_device())}")
    agree = dict[str, bool]()
    with tempfile.TemporaryDirectory() as place:
        for name, (point, config, records) in recorded.items():
            new = measure(
                config, chapter=chapter, metrics=metrics_of(plan, config), device=device, place=Path(place), again=True
            )
            if new is None:
                raise ValueError(f"{point} is being trained by another process: wait for it, then try again")
            agree[name], why = compare(new, records[name], list(records.values()))
            say(f"{'ok  ' if agree[name] else 'FAIL'} {point} | {why}")
    unknown = len(runs) - len(recorded)
    say(f"{sum(agree.values())} of {len(agree)} runs reproduce; {unknown} have no record to compare with")
    return bool(agree) and all(agree.values())


def compare(new: Record, old: Record, spread: list[Record]) -> tuple[bool, str]:
    """Whether a new run comes out as recorded, and in words.

    Args:
        new: of the run, measured now.
        old: the committed record of the same configuration.
        spread: the committed records of its variant, one a seed.
    """
    if new.diverged or old.diverged:
        text = f"{'diverged' if new.diverged else 'finished'} now, {'diverged' if old.diverged else 'finished'} before"
        return new.diverged == old.diverged, text
    value, before = new.final["test_accuracy"], old.final["test_accuracy"]
    known = np.array([r.final["test_accuracy"] for r in spread if not r.diverged])
    if len(known) >= 3:
        n = len(known)
        center, half = known.mean(), stats.t.ppf(0.995, n - 1) * known.std(ddof=1) * np.sqrt(1 + 1 / n)
        half = max(half, 0.005)  # seeds that happen to agree do not make half a point a difference
    else:
        center, half = before, FEW
    text = f"{100 * value:.2f} %, recorded {100 * before:.2f} %, expected within {100 * center:.1f} ± {100 * half:.1f}"
    if (new.device, new.versions) != (old.device, old.versions):
        text += f" (recorded on {old.device['name']}, {old.device['count']} threads, torch {old.versions['torch']})"
    return bool(abs(value - center) <= half), text
