"""What the landing page says came out, read off the records."""

from __future__ import annotations

from collections import Counter

from fgvc_study import Study, ledger
from fgvc_study.findings import level

PLAIN = "plain, linear head"


def page() -> str:
    """Two sentences in markdown: how the claims fared, and how far the best method is from the plain network."""
    verdicts = Counter(ledger.judge(claim).verdict for claim in ledger.claims() if claim.kind == "measured")
    text = (
        f"Of the {sum(verdicts.values())} claims that runs can test, **{verdicts['reproduced']} are reproduced** here, "
        f"{verdicts['not reproduced']} are not, {verdicts['inconclusive']} are inconclusive and "
        f"{verdicts['not measured yet']} not measured yet ({{doc}}`/notebooks/08_evidence`)."
    )
    runs = Study("08_evidence").recorded("compare", profile="quick")
    runs = runs[runs["measured"].astype(bool)]
    methods = runs[[not name.startswith("plain") for name in runs["variant"]]]
    plain = level(runs, PLAIN)
    if len(methods) and plain:
        means = methods.groupby("variant")["test_accuracy"].mean()
        best = str(means.idxmax())
        text += f" Trained from scratch, the plain network names {plain} of the birds, {best} {level(runs, best)}."
    return text + "\n"
