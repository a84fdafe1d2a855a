"""The landing page says what the records hold."""

import re

from fgvc_study import ledger
from fgvc_study.ledger import Verdict
from pipeline import landing, readme


def test_counts_are_those_of_the_claims_that_runs_can_test(monkeypatch):
    monkeypatch.setattr(ledger, "judge", lambda claim: Verdict("reproduced" if claim.own else "inconclusive"))
    testable = [claim for claim in ledger.claims() if claim.kind == "measured"]
    own = sum(claim.own for claim in testable)
    counts = [int(number) for number in re.findall(r"\d+(?= claims| are|\*\*| not measured)", landing.page())]
    assert counts[0] == len(testable) > own > 0
    assert f"**{own} are reproduced**" in landing.page()
    assert f"The others: {len(testable) - own} inconclusive (" in landing.page()


def test_the_best_method_is_named_with_its_accuracy_on_every_data_set():
    lines = [line for line in landing.page().splitlines() if line.startswith("- ")]
    assert [line[2:].split(":")[0] for line in lines] == [t[0].upper() + t[1:] for t in readme.comparisons()]
    number = r"\d+\.\d ± \d+\.\d %"
    for line in lines:
        assert re.search(rf"the plain network classifies {number} correctly, [A-Z][\w -]+ {number}", line)
