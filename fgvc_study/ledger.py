r"""The ledger: what a paper claims, what was measured, and the verdict that a rule draws from the two.

For a claim that variant a beats variant b in some number, the runs are paired by seed, and Student's 95 % interval of
the mean difference is taken. The claim is

* **reproduced** where the interval lies wholly on the claimed side, and not wholly inside the equivalence band,
* **not reproduced** where it lies wholly on the other side, or wholly inside the band (no effect worth the name),
* **inconclusive** otherwise.

A claim of equality ("α matters little") is reproduced where the interval lies inside the band, not reproduced where it
lies wholly outside. Claims that hold by construction name the test that checks them; claims about cost name the
benchmark; what cannot be tested here says why.

Of fifty intervals two or three miss by chance alone, so :func:`adjusted` judges them together (Benjamini and Hochberg,
1995). A verdict whose sign changes when one seed is left out is called fragile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, TypeAdapter
from scipy import stats

from fgvc_study import folders
from fgvc_study.experiment import table
from fgvc_study.record import Record, find_all
from fgvc_study.statistics import paired
from fgvc_study.tables import frame

SIDES = ("greater", "less", "equal")
STRONGEST = ("paper", "photos", "quick")
"""Profiles, the one whose numbers say most first."""
KINDS = {"experiment": "measured", "benchmark": "cost", "test": "by construction", "untestable": "untestable"}
"""What a test names → what kind of claim it is."""
VERDICTS = ("reproduced", "not reproduced", "inconclusive", "untestable here", "not measured yet")


class Claim(BaseModel, extra="forbid", frozen=True):
    """One row of ``data/claims.yaml``.

    Attributes:
        id: short name.
        method: of the six.
        claim: what is claimed, in a sentence.
        source: where, with the certainty of our reading of it.
        chapter: the chapter that measures it, and ``anchor``: the figure or section there.
        test: how; one of the mappings that :func:`judge` knows.
        written: when the claim was written down here.
    """

    id: str
    method: str
    claim: str
    source: str
    chapter: str
    anchor: str
    test: Mapping[str, Any]
    written: date

    @property
    def kind(self) -> str:
        """``measured``, ``cost``, ``by construction`` or ``untestable``."""
        return next(kind for key, kind in KINDS.items() if key in self.test)

    @property
    def own(self) -> bool:
        """Whether the paper itself claims it."""
        return self.source.startswith("paper")


@dataclass(frozen=True)
class Verdict:
    """What a claim's test gave.

    Attributes:
        verdict: one of ``VERDICTS``.
        effect: mean difference, with ``low`` and ``high`` of its interval; NaN where there is none.
        unit: of the effect.
        seeds: pairs behind it.
        p: of the test of no difference; NaN where there is none.
        fragile: whether the sign of the effect changes when one seed is left out.
        profile: whose runs were judged.
        why: in words: the test, the benchmark, or the reason.
        records: that it was computed from.
    """

    verdict: str
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    seeds: int = 0
    p: float = math.nan
    fragile: bool = False
    profile: str = ""
    why: str = ""
    records: Sequence[Record] = field(default_factory=tuple)


def claims(path: Path | None = None) -> list[Claim]:
    """The rows of ``data/claims.yaml``, refused where one lacks a field."""
    path = path or folders.committed("claims.yaml")
    found = TypeAdapter(list[Claim]).validate_python(yaml.safe_load(path.read_text(encoding="utf8"))["claims"])
    names = [claim.id for claim in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{path.name} names a claim twice: {', '.join(twice)}")
    return found


def decide(low: float, high: float, *, side: str, band: float) -> str:
    """The rule, for an interval of the difference a - b."""
    if side not in SIDES:
        raise ValueError(f"side must be one of {', '.join(SIDES)}, got {side!r}")
    if not low <= high or band < 0:
        raise ValueError(f"an interval and a band ≥ 0 are needed, got [{low}, {high}] and {band}")
    inside = -band <= low and high <= band
    if side == "equal":
        return "reproduced" if inside else "not reproduced" if low > band or high < -band else "inconclusive"
    if side == "less":
        low, high = -high, -low
    if inside or high < 0:
        return "not reproduced"
    return "reproduced" if low > 0 else "inconclusive"


def judge(claim: Claim, profile: str | None = None) -> Verdict:
    """Compute the verdict of a claim from committed records and benchmarks.

    The runs are those of ``profile``, or of the one that says most among those in which the claim is measured. A claim
    about networks from scratch, or about pretrained ones, names the only profile that can speak about it.

    ``claim.test`` is one of

    * ``{experiment, a, b, value, side, band, unit}``: variants a and b of an experiment, ``<chapter>/<name>``; b may be
      a list, and a is then compared with each of them, the least favorable verdict counting. ``a_value``, ``b_value``
      compare two numbers of the same runs instead: leave ``b`` out. ``profile``, if given, is the only one to judge by.
    * ``{test}``: path::name of a test that asserts it exactly.
    * ``{benchmark, key, side, bound, unit}``: a number of ``data/benchmarks/<benchmark>``, dotted key.
    * ``{untestable}``: the reason.
    """
    test = claim.test
    if "untestable" in test:
        return Verdict("untestable here", why=test["untestable"])
    if "test" in test:
        return Verdict("reproduced", why=f"holds exactly, checked by {test['test']}")
    if "benchmark" in test:
        return _judge_benchmark(test)
    others = test["b"] if isinstance(test.get("b"), list) else [test.get("b", test["a"])]
    order = ("reproduced", "inconclusive", "not reproduced", "not measured yet")
    profiles = STRONGEST if profile is None else (profile,)
    verdict = Verdict("not measured yet", unit=test.get("unit", ""), why=f"profile {profile} cannot speak about it")
    for name in (name for name in profiles if test.get("profile", name) == name):
        found = [_judge_pair(test, other, name) for other in others]
        verdict = max(found, key=lambda v: order.index(v.verdict))
        if verdict.verdict != "not measured yet":
            break
    return verdict


def adjusted(verdicts: Sequence[Verdict], *, level: float = 0.05) -> list[str]:
    """The verdicts once more, with the false discovery rate of all that were tested for a difference held at ``level``.

    A difference that does not stand among so many becomes inconclusive; other verdicts stay.
    """
    p = np.array([v.p for v in verdicts])
    tested, rates = ~np.isnan(p), np.zeros(len(p))
    if tested.any():
        rates[tested] = stats.false_discovery_control(p[tested])
    return [
        "inconclusive" if (v.low > 0 or v.high < 0) and rate > level else v.verdict
        for v, rate in zip(verdicts, rates, strict=True)
    ]


def recorded(experiment: str, profile: str) -> tuple[pd.DataFrame, dict[str, Record]]:
    """The runs of ``<chapter>/<name>`` in a profile, and their records; nothing where it has no such experiment."""
    chapter, name = experiment.split("/")
    asked = table(profile, chapter).get(name)
    if asked is None:
        return pd.DataFrame(), {}
    records = find_all(asked.configs())
    return (frame(asked, records), records) if records else (pd.DataFrame(), {})


def _judge_pair(test: Mapping[str, Any], other: str, profile: str) -> Verdict:
    runs, records = recorded(test["experiment"], profile)
    unit = test.get("unit", "")
    if not records:
        return Verdict("not measured yet", unit=unit, why=f"no record of {test['experiment']} yet")
    column_a, column_b = test.get("a_value", test.get("value")), test.get("b_value", test.get("value"))
    sides = runs[runs["variant"] == test["a"]], runs[runs["variant"] == other]
    lost = int(runs[runs["variant"].isin([test["a"], other])]["diverged"].sum())
    diverged = f"; {lost} more run{'s' * (lost > 1)} diverged" if lost else ""
    a, b = (
        side.assign(number=side.get(column, math.nan)).dropna(subset="number")
        for side, column in zip(sides, (column_a, column_b), strict=True)
    )
    if not set(a["seed"]) & set(b["seed"]):
        verdict = "inconclusive" if lost else "not measured yet"
        return Verdict(verdict, unit=unit, why=f"no seed has {column_a} of both {test['a']} and {other}{diverged}")
    found = paired(a, b, "number")
    why = f"{test['a']} against {other}" if other != test["a"] else f"{column_a} against {column_b}"
    return Verdict(
        decide(found["low"], found["high"], side=test["side"], band=test["band"]),
        effect=found["mean"],
        low=found["low"],
        high=found["high"],
        unit=unit,
        seeds=int(found["seeds"]),
        p=found["p"] if test["side"] != "equal" else math.nan,
        fragile=found["mean"] * found["without_one"] <= 0,
        profile=profile,
        why=why + diverged,
        records=[records[name] for name in dict.fromkeys([*a["id"], *b["id"]])],
    )


def _judge_benchmark(test: Mapping[str, Any]) -> Verdict:
    path = folders.committed("benchmarks") / f"{test['benchmark']}.json"
    unit = test.get("unit", "×")
    if not path.is_file():
        return Verdict("not measured yet", unit=unit, why=f"no benchmark {test['benchmark']} yet")
    value: Any = json.loads(path.read_text(encoding="utf8"))
    for key in str(test["key"]).split("."):
        if isinstance(value, Mapping) and key not in value:
            return Verdict("not measured yet", unit=unit, why=f"benchmark {test['benchmark']} has no {key} yet")
        value = value[int(key)] if isinstance(value, list) else value[key]
    holds = value >= test["bound"] if test["side"] == "greater" else value <= test["bound"]
    sign = "≥" if test["side"] == "greater" else "≤"
    return Verdict(
        "reproduced" if holds else "not reproduced",
        effect=float(value),
        unit=unit,
        why=f"{test['benchmark']}: {test['key']} {sign} {test['bound']}",
    )
