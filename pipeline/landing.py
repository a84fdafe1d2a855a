"""What the landing page says came out, read off the records."""

from __future__ import annotations

from collections import Counter

from fgvc_study import ledger
from fgvc_study.findings import level
from pipeline.readme import COMPARISONS, comparisons

PLAIN = "plain, linear head"


def page() -> str:
    """Two sentences in markdown: how the claims fared, and how far the best method is from the plain network."""
    verdicts = Counter(ledger.judge(claim).verdict for claim in ledger.claims() if claim.kind == "measured")
    text = (
        f"Of the {sum(verdicts.values())} claims that runs can test, **{verdicts['reproduced']} are reproduced** here, "
        f"{verdicts['not reproduced']} are not, {verdicts['inconclusive']} are inconclusive and "
        f"{verdicts['not measured yet']} not measured yet ({{doc}}`/notebooks/08_evidence`)."
    )
    runs = comparisons().get(COMPARISONS["quick"])
    plain = None if runs is None else level(runs, PLAIN)
    methods = None if runs is None else runs[~runs["variant"].str.startswith("plain")]
    if plain and methods is not None and len(methods):
        best = str(methods.groupby("variant")["test_accuracy"].mean().idxmax())
        text += f" Trained from scratch, the plain network names {plain} of the birds, {best} {level(methods, best)}."
    return text + "\n"
