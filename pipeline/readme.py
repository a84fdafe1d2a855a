"""The README's results: a figure and a table that are drawn from the committed records and never typed.

    python -m pipeline.readme

writes ``book/_static/results.svg`` and what stands between the two markers in ``README.md``. A test fails when one of
them does not show what the records hold. Where chapter 9 has been built, its picture of the most confident answers is
taken over too.
"""

from __future__ import annotations

import argparse
import base64
import io
from collections import Counter
from pathlib import Path

import matplotlib
import nbformat
import pandas as pd
from matplotlib.figure import Figure

from fgvc_study import Study, ledger
from fgvc_study.tables import plus_minus, title
from pipeline.project import ROOT, PipelineError, executed_path, write_if_changed

COMPARISONS = (("quick", "compare"), ("photos", "compare"), ("photos", "compare on flowers"))
"""Profile and experiment of chapter 8, for each data set on which it compares all methods in one budget."""
WHAT = """\
Mean ± standard deviation; one budget for all rows of a column. Birds: a small ResNet at 64 px, trained from scratch.
Photographs: an EfficientNet-Lite0 that was pretrained on ImageNet, at 128 px; CUB-100 is box crops of 100 of CUB's 200
classes, so its column cannot be compared with published results on CUB."""
FIGURE = Path("book/_static/results.svg")
OWN, ANSWERS = Path("book/_static/own_images.png"), "fig-own-overlays"
BEGIN, END = "<!-- results: made by `make readme` -->", "<!-- end of results -->"
COLORS = ("#0072B2", "#D55E00", "#009E73")


def comparisons() -> dict[str, pd.DataFrame]:
    """Title → one row a run, for the comparisons that have records."""
    study = Study("08_evidence")
    found = [study.recorded(name, profile=profile) for profile, name in COMPARISONS]
    return {title(runs): runs[runs["measured"]] for runs in found if runs["measured"].any()}


def alt(tables: dict[str, pd.DataFrame]) -> str:
    """The figure in words: the mean of every method in every table."""
    means = {name: 100 * runs.groupby("variant", sort=False)["test_accuracy"].mean() for name, runs in tables.items()}
    told = (
        f"{name}: " + ", ".join(f"{row} {mean:.1f} %" for row, mean in found.items()) for name, found in means.items()
    )
    return "Test accuracy of every method, a dot for each seed: " + "; ".join(told)


def svg(tables: dict[str, pd.DataFrame]) -> str:
    """One panel for each table: a dot for each run, a bar at the mean of each method."""
    heights = [runs["variant"].nunique() + 2 for runs in tables.values()]
    figure = Figure(figsize=(7.6, 0.25 * sum(heights)), layout="constrained")
    panels = figure.subplots(len(tables), squeeze=False, height_ratios=heights)[:, 0]
    for panel, (name, runs), color in zip(panels, tables.items(), COLORS, strict=False):
        means = runs.groupby("variant", sort=False)["test_accuracy"].mean()
        panel.plot(100 * runs["test_accuracy"], runs["variant"], "o", color=color, alpha=0.5, markeredgewidth=0)
        panel.plot(100 * means, means.index, "|", color=color, markersize=14, markeredgewidth=3)
        panel.set_title(name, loc="left", weight="bold", size="medium")
        panel.grid(axis="x", color="#cccccc")
        panel.spines[:].set_visible(False)
        panel.tick_params(length=0)
        panel.xaxis.set_major_formatter("{x:g} %")
        panel.margins(y=0.5 / len(means))
        panel.invert_yaxis()
    drawn = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "results", "svg.fonttype": "none"}):  # the same records, the same bytes
        figure.savefig(drawn, format="svg", metadata={"Title": alt(tables), "Date": None, "Creator": None})
    return drawn.getvalue()


def block(tables: dict[str, pd.DataFrame]) -> str:
    """What stands between the markers: figure, table, and how the claims came out."""
    lines = []
    if tables:
        lines += [f"![Test accuracy of every method, a dot for each seed]({FIGURE})", ""]
        methods = list(dict.fromkeys(row for runs in tables.values() for row in runs["variant"]))
        lines += [f"| Test accuracy, % | {' | '.join(tables)} |", "| --- |" + " ---: |" * len(tables)]
        for method in methods:
            cells = []
            for runs in tables.values():
                found = runs[runs["variant"] == method]
                count, lost = len(found), int(found["diverged"].sum())
                seeds = f"{count} seed{'s' * (count > 1)}{f', {lost} diverged' * (lost > 0)}"
                cells.append(f"{plus_minus(found['test_accuracy'])} ({seeds})" if count else "")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines += ["", WHAT, ""]
    else:
        lines += ["The comparison of all methods has no committed record yet.", ""]
    verdicts = Counter(ledger.judge(claim).verdict for claim in ledger.claims())
    counts = ", ".join(f"{verdicts[name]} {name}" for name in ledger.VERDICTS if verdicts[name])
    lines.append(f"Of the {sum(verdicts.values())} claims in `data/claims.yaml`, most of them the papers': {counts}.")
    return "\n".join(lines)


def updated(readme: str, made: str) -> str:
    """``readme`` with ``made`` between its markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise PipelineError(f"README.md must hold the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{made}\n\n{END}{after}"


def wanted_files() -> dict[Path, str | None]:
    """What the records give: path from the root → content, None for a file that must not be there."""
    tables = comparisons()
    readme = (ROOT / "README.md").read_text(encoding="utf8")
    return {FIGURE: svg(tables) if tables else None, Path("README.md"): updated(readme, block(tables))}


def answers() -> bytes | None:
    """The picture of chapter 9's most confident right answers, as PNG; None where the chapter has not been built."""
    path = executed_path("quick", "09_your_images")
    cells = nbformat.read(path, as_version=4).cells if path.exists() else []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        if output.get("metadata", {}).get("name") == ANSWERS:
            return base64.b64decode(output["data"]["image/png"])
    return None


def main() -> None:
    """Write the figure and the README's results."""
    argparse.ArgumentParser(prog="python -m pipeline.readme", description=main.__doc__).parse_args()
    for path, content in wanted_files().items():
        if content is None:
            (ROOT / path).unlink(missing_ok=True)
        elif write_if_changed(ROOT / path, content):
            print(f"wrote {path}")
    if (picture := answers()) is not None:
        (ROOT / OWN).write_bytes(picture)


if __name__ == "__main__":
    main()
