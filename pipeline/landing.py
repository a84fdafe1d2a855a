"""What the landing page says came out, read off the records."""

from __future__ import annotations

from collections import Counter

from fgvc_study import ledger
from fgvc_study.findings import level
from pipeline.readme import comparisons

PLAIN = "plain, linear head"


def page() -> str:
    """In markdown: how the claims fared, and on each data set the plain network and the best method."""
    verdicts = Counter(ledger.judge(claim).verdict for claim in ledger.claims() if claim.kind == "measured")
    others = ("not reproduced", "inconclusive", "not measured yet")
    counts = ", ".join(f"{verdicts[name]} {name}" for name in others if verdicts[name])
    lines = [
        f"Of the {sum(verdicts.values())} claims that runs can test, **{verdicts['reproduced']} are reproduced** here. "
        f"The others: {counts} ({{doc}}`/notebooks/08_evidence`).",
        "",
    ]
    for title, runs in comparisons().items():
        plain, methods = level(runs, PLAIN), runs[~runs["variant"].str.startswith("plain")]
        if plain and len(methods):
            best = str(methods.groupby("variant")["test_accuracy"].mean().idxmax())
            start = title[0].upper() + title[1:]
            lines.append(f"- {start}: the plain network classifies {plain} correctly, {best} {level(methods, best)}.")
    return "\n".join(lines) + "\n"
