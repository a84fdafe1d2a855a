"""Sentences whose numbers come from records, so that another record changes the sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from fgvc_study.statistics import paired
from fgvc_study.tables import plus_minus


@dataclass(frozen=True)
class Difference:
    """Of two variants over the seeds that both have, in points.

    In a sentence, ``{d}`` is the difference with its 95 % interval and ``{d.word}`` what that says: above, below, or
    not clearly different from.

    Attributes:
        mean: of the differences, in points.
        low, high: of Student's interval; infinite for one seed.
        seeds: pairs of runs.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def word(self) -> str:
        """The verdict, as a word that fits between the two names."""
        if self.low > 0:
            return "above"
        return "below" if self.high < 0 else "not clearly different from"

    @property
    def numbers(self) -> str:
        """Without the unit, for a table whose heading has it."""
        return str(self).replace(" points", "")

    def __str__(self) -> str:
        if self.seeds == 1:
            return f"{self.mean:+.1f} points, one seed".replace("-", "−")
        return f"{self.mean:+.1f} points [{self.low:+.1f}, {self.high:+.1f}]".replace("-", "−")


def level(runs: pd.DataFrame, variant: str, value: str = "test_accuracy") -> str | None:
    """Mean and standard deviation of one variant in percent, ``93.5 ± 0.9 %``; None if it has not been measured."""
    mine = runs[runs["variant"] == variant]
    text = plus_minus(mine[value]) if value in runs else "–"
    return None if text == "–" else f"{text} %"


def lost(runs: pd.DataFrame, variant: str) -> str | None:
    """How many of a variant's runs diverged, ``2 of 5``; None if none has been measured."""
    mine = runs[(runs["variant"] == variant) & runs["measured"]]
    return f"{int(mine['diverged'].sum())} of {len(mine)}" if len(mine) else None


def difference(runs: pd.DataFrame, variant: str, over: str, value: str = "test_accuracy") -> Difference | None:
    """``variant`` minus ``over``, run by run with the same seed; None if no seed has both."""
    if value not in runs:
        return None
    a, b = (runs[runs["variant"] == name] for name in (variant, over))
    try:
        found = paired(a, b, value)
    except ValueError:
        return None
    mean, low, high = (100 * found[key] for key in ("mean", "low", "high"))
    return Difference(mean, low, high, int(found["seeds"]))


def effects(found: Mapping[str, Difference | None]) -> pd.DataFrame:
    """Named differences as :func:`fgvc_study.figures.forest` draws them; what has not been measured is left out."""
    known = {name: (d.mean, d.low, d.high) for name, d in found.items() if d is not None}
    return pd.DataFrame.from_dict(known, orient="index", columns=["effect", "low", "high"], dtype=float)


def effects_over(runs: pd.DataFrame, variants: Iterable[str], over: str) -> pd.DataFrame:
    """:func:`effects` of variants on test accuracy, each minus one and the same other."""
    return effects({variant: difference(runs, variant, over) for variant in variants})


def tell(text: str, **values: object) -> None:
    """Display a sentence as Markdown, its ``{names}`` filled in.

    Args:
        text: with the names of ``values`` in braces, as ``str.format`` takes them.
        **values: from :func:`level`, :func:`difference` or computed; where one is None, the sentence that is shown says
            that its runs have not been measured.
    """
    from IPython.display import Markdown, display

    missing = any(value is None for value in values.values())
    display(Markdown("*Not measured yet.*" if missing else text.format(**values)))  # type: ignore[no-untyped-call]
