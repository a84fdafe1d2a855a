"""The README's results: a figure and a table that are drawn from the committed records and never typed.

    python -m pipeline.readme

writes ``book/_static/results.svg`` and what stands between the two markers in ``README.md``. A test fails when either
is not what the records give.
"""

from __future__ import annotations

import argparse
from collections import Counter
from html import escape
from pathlib import Path

import pandas as pd
from fgvc_lib.results import claims, wanted
from fgvc_lib.results.tables import plus_minus

from pipeline.project import ROOT, PipelineError, write_if_changed

COMPARISONS = {
    "compare/birds": "synthetic birds",
    "compare/cars_small": "40 classes of car crops",
    "compare/cars": "car crops",
}
"""Groups of ``data/runs.yaml`` in which all methods have one budget."""
FIGURE = Path("book/_static/results.svg")
BEGIN, END = "<!-- results: made by `make readme` -->", "<!-- end of results -->"
COLORS = ("#0072B2", "#D55E00", "#009E73")

# of the drawing, in pixels
WIDTH, LABELS, ROW, TITLE, AXIS = 760, 170, 24, 34, 34


def comparisons() -> dict[str, pd.DataFrame]:
    """Title → one row a run, for the comparisons that have records."""
    found = {}
    for name, title in COMPARISONS.items():
        if name in wanted.groups() and (records := wanted.records(name)):
            runs = wanted.table(name, records)
            side = int(records[0].dataset["image_size"])
            found[f"{title}, {side} px, profile {runs['profile'].iloc[0]}"] = runs
    return found


def svg(tables: dict[str, pd.DataFrame]) -> str:
    """One panel for each table: a dot for each run, a bar at the mean of each method."""
    parts, y = [], 0
    for (title, runs), color in zip(tables.items(), COLORS, strict=False):
        panel, height = _panel(title, runs, color)
        parts.append(f'<g transform="translate(0 {y})">{panel}</g>')
        y += height
    alt = "Test accuracy of every method, a dot for each seed: " + "; ".join(
        f"{title}: " + ", ".join(f"{row} {100 * group['test_accuracy'].mean():.1f} %" for row, group in _rows(runs))
        for title, runs in tables.items()
    )
    style = (
        "text{font:13px sans-serif;fill:#222}.small{font-size:11px}.title{font-weight:bold}.line{stroke:#ccc}"
        "@media(prefers-color-scheme:dark){text{fill:#ddd}.line{stroke:#555}}"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" height="{y}" role="img">'
        f"<title>{escape(alt)}</title><style>{style}</style>{''.join(parts)}</svg>\n"
    )


def _rows(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(row), group) for row, group in runs.groupby("row", sort=False)]


def _panel(title: str, runs: pd.DataFrame, color: str) -> tuple[str, int]:
    rows = _rows(runs)
    values = 100 * runs["test_accuracy"]
    low, high = 5 * int(values.min() // 5), 5 * int(-(-values.max() // 5))
    high = max(high, low + 5)
    bottom = TITLE + ROW * len(rows)

    def x(value: float) -> str:
        return f"{LABELS + (value - low) / (high - low) * (WIDTH - LABELS - 30):.1f}"

    parts = [f'<text class="title" x="0" y="18">{escape(title)}</text>']
    for tick in range(low, high + 1, 5 if high - low <= 50 else 10):
        parts.append(f'<line class="line" x1="{x(tick)}" x2="{x(tick)}" y1="{TITLE - 6}" y2="{bottom}"/>')
        parts.append(f'<text class="small" x="{x(tick)}" y="{bottom + 15}" text-anchor="middle">{tick} %</text>')
    for k, (row, group) in enumerate(rows):
        y = TITLE + ROW * k + ROW // 2
        mean = x(100 * group["test_accuracy"].mean())
        parts.append(f'<text x="{LABELS - 12}" y="{y + 4}" text-anchor="end">{escape(row)}</text>')
        parts.append(f'<line x1="{mean}" x2="{mean}" y1="{y - 8}" y2="{y + 8}" stroke="{color}" stroke-width="3"/>')
        parts += [
            f'<circle cx="{x(100 * accuracy)}" cy="{y}" r="4" fill="{color}" fill-opacity="0.5"/>'
            for accuracy in group["test_accuracy"]
        ]
    return "".join(parts), bottom + AXIS


def block(tables: dict[str, pd.DataFrame]) -> str:
    """What stands between the markers: figure, table, and how the claims came out."""
    lines = []
    if tables:
        lines += [f"![Test accuracy of every method, a dot for each seed]({FIGURE})", ""]
        methods = list(dict.fromkeys(row for runs in tables.values() for row, _ in _rows(runs)))
        lines += [f"| Test accuracy, % | {' | '.join(tables)} |", "| --- |" + " ---: |" * len(tables)]
        for method in methods:
            cells = []
            for runs in tables.values():
                found = runs[runs["row"] == method]["test_accuracy"]
                cells.append(f"{plus_minus(found)} ({len(found)} seed{'s' * (len(found) > 1)})" if len(found) else "")
            lines.append(f"| {method} | {' | '.join(cells)} |")
        lines += ["", "Mean ± standard deviation; small networks trained from scratch, one budget for all.", ""]
    else:
        lines += ["The comparison of all methods has no committed record yet.", ""]
    verdicts = Counter(claims.judge(claim).verdict for claim in claims.claims())
    counts = ", ".join(f"{verdicts[name]} {name}" for name in claims.VERDICTS if verdicts[name])
    lines.append(f"Of the papers' {sum(verdicts.values())} claims in `data/claims.yaml`: {counts}.")
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


def main() -> None:
    """Write the figure and the README's results."""
    argparse.ArgumentParser(prog="python -m pipeline.readme", description=main.__doc__).parse_args()
    for path, content in wanted_files().items():
        if content is None:
            (ROOT / path).unlink(missing_ok=True)
        elif write_if_changed(ROOT / path, content):
            print(f"wrote {path}")


if __name__ == "__main__":
    main()
