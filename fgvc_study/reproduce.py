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

from fgvc_study import dry_run
from fgvc_study.experiment import Plan
from fgvc_study.plan import metrics_of
from fgvc_study.record import Record, find, run_id
from fgvc_study.training import best_device, measure

FEW = 0.03  # allowed difference in accuracy where fewer than three seeds tell the spread


def report(
    chapter: str, plan: Plan, *, only: str = "", device: str | None = None, say: Callable[[str], None] = print
) -> bool:
    """Train every recorded run of a plan again in an empty folder, and print a line for each.

    Args:
        chapter: whose plan it is.
        plan: of :func:`fgvc_study.plan.read`.
        only: take experiments whose name starts so.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        say: is told the lines.

    Returns:
        Whether every run with a record reproduces, and there was one.
    """
    experiments = [e for e in plan.experiments.values() if e.name.startswith(only)]
    recorded = {run_id(c): record for e in experiments for c in e.configs() if (record := find(c))}
    unknown = sum(run_id(c) not in recorded for e in experiments for c in e.configs())
    configs = {run_id(c): c for e in experiments for c in e.configs() if run_id(c) in recorded}
    say(f"{chapter}: {dry_run.sentence(list(configs.values()), device or best_device())}")
    agree = dict[str, bool]()
    with tempfile.TemporaryDirectory() as place:
        for experiment in experiments:
            for variant, seeds in experiment.variants.items():
                spread = [recorded[run_id(c)] for c in seeds if run_id(c) in recorded]
                for config in seeds:
                    name = run_id(config)
                    if name in agree or name not in recorded:
                        continue
                    new = measure(
                        config,
                        chapter=chapter,
                        metrics=metrics_of(plan, config),
                        device=device,
                        place=Path(place),
                        again=True,
                    )
                    if new is None:
                        raise ValueError(f"run {name} is being trained by another process: wait for it, then try again")
                    agree[name], why = compare(new, recorded[name], spread)
                    verdict = "ok  " if agree[name] else "FAIL"
                    say(f"{verdict} {experiment.name} | {variant} | seed {config.seed} | {why}")
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
