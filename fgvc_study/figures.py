"""How the book draws: one style, colors that the color-blind tell apart, a text alternative for every figure."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

LONG = 40  # characters from which words in a cell of a table are a sentence, which needs a wide column
NUMBER = re.compile(r"[-+±−~≤≥<>[( ]*\d|[-–]?$")  # how a cell of numbers begins; or it is empty, or a dash
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#5D3A9B", "#1B1B1B", "#A6761D")
"""Okabe and Ito's palette, reordered and extended to ten; neighbors differ in lightness too."""


def style() -> None:
    """Set the book's style for all figures of this process."""
    sns.set_theme(context="notebook", style="ticks", palette=COLORS)
    plt.rcParams.update(
        {
            "figure.dpi": 110,
            "figure.facecolor": "white",  # an opaque sheet reads well on a dark page too
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.titlesize": "medium",
            "legend.frameon": False,
            "image.cmap": "viridis",
            "font.size": 10,
        }
    )


def show(figure: Figure, *, name: str, caption: str, alt: str, drawing: bool = False) -> None:
    """Display a figure in a notebook with what a page needs of it, and close it.

    Args:
        figure: drawn.
        drawing: lines and words alone, which stay sharp as SVG; else it becomes a picture of 160 dots an inch.
        name: for cross-references, ``fig-center-features`` say.
        caption: what is seen and what to look for; no numbers that a record should supply.
        alt: the same in words, for those who cannot see it.
    """
    from IPython.display import display

    buffer = io.BytesIO()
    if drawing:
        with plt.rc_context({"svg.hashsalt": name}):  # the same drawing is the same file
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    else:
        figure.savefig(buffer, format="png", dpi=160)
    kind, image = ("image/svg+xml", buffer.getvalue().decode()) if drawing else ("image/png", buffer.getvalue())
    width = round(figure.get_figwidth() * 96)  # of a page's pixels
    plt.close(figure)
    display(  # type: ignore[no-untyped-call]
        {kind: image, "text/plain": alt},
        raw=True,
        metadata={"name": name, "caption": caption, "alt": alt, kind: {"width": width}},
    )


def show_table(
    table: pd.DataFrame, *, title: str = "", foot: str = "", links: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Display a table without its index: words read from the left, numbers stand at the right.

    Args:
        table: of plain values; text is escaped.
        title: a line above it.
        foot: a line below it, on where its numbers come from.
        links: column → one address a row, which its cells then lead to.
    """
    from IPython.display import HTML, display

    plain = table.map(lambda value: html.escape(str(value)))
    for column, addresses in (links or {}).items():
        plain[column] = [
            f'<a href="{html.escape(a)}">{text}</a>' for a, text in zip(addresses, plain[column], strict=True)
        ]
    headings = {column: html.escape(str(column)) for column in table.columns}
    for column, heading in headings.items():
        texts = [str(value) for value in table[column]]
        if not all(NUMBER.match(text) for text in texts):
            kind = "sentence" if max(map(len, texts)) > LONG else "words"
            plain[column] = [f'<div class="{kind}">{text}</div>' for text in plain[column]]
            headings[column] = f'<div class="words">{heading}</div>'
    plain.columns = pd.Index(headings.values())
    text = plain.to_html(index=False, border=0, classes="dataframe", justify="left", escape=False)
    text = text.replace("<th>", '<th scope="col">')
    if title:
        text = text.replace("<thead>", f"<caption>{html.escape(title)}</caption><thead>", 1)
    display(HTML(text + (f"<p><small>{html.escape(foot)}</small></p>" if foot else "")))  # type: ignore[no-untyped-call]


def curve(axes: Axes, x: Sequence[float], runs: pd.DataFrame, by: str, value: str, **line: Any) -> None:
    """Mean over seeds against ``by`` as a line, every seed as a dot: the spread is seen, not summarised away."""
    positions = {v: i for i, v in enumerate(x)}
    xs = runs[by].map(positions)
    axes.plot(xs, runs[value], "o", ms=3.5, alpha=0.6, color=line.get("color"))
    means = runs.assign(_x=xs).groupby("_x")[value].mean()
    axes.plot(means.index, means, lw=1.6, **line)
    axes.set_xticks(range(len(x)), [f"{v:g}" for v in x])


def scatter_2d(axes: Axes, points: np.ndarray, labels: np.ndarray, *, names: Iterable[str] | None = None) -> None:
    """2-D features, a color a class, with the class named at its mean so that color alone carries nothing."""
    points = points.astype(np.float32)
    names = list(names) if names is not None else [str(c) for c in range(int(labels.max()) + 1)]
    for c, name in enumerate(names):
        mine = points[labels == c]
        if len(mine):
            axes.plot(*mine.T, ".", ms=2, alpha=0.5, color=COLORS[c % len(COLORS)], rasterized=True)
            axes.annotate(
                name,
                mine.mean(0),
                ha="center",
                va="center",
                fontsize=8,
                weight="bold",
                bbox={"boxstyle": "circle,pad=0.15", "fc": "white", "ec": COLORS[c % len(COLORS)], "lw": 1},
            )
    axes.set_aspect("equal", adjustable="datalim")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def forest(axes: Axes, rows: pd.DataFrame) -> None:
    """Differences with their intervals, one under the other, around a line at zero.

    Args:
        axes: to draw on.
        rows: indexed by name, with columns ``effect``, ``low`` and ``high`` in the unit of the axis; an interval that
            is infinite, that of a single seed, leaves the dot alone. A column ``published`` adds a diamond where it has
            a number, a column ``color`` colors each row.
    """
    y = np.arange(len(rows))[::-1]
    colors = rows["color"] if "color" in rows else pd.Series(COLORS[0], rows.index)
    bounded = np.isfinite(rows["low"]) & np.isfinite(rows["high"])
    axes.axvline(0, color="black", lw=0.8)
    axes.hlines(y[bounded], rows["low"][bounded], rows["high"][bounded], color=colors[bounded], lw=2)
    axes.scatter(rows["effect"], y, s=36, color=colors, zorder=2)
    if "published" in rows:
        axes.plot(rows["published"], y, "D", ms=6, mfc="white", mec="black")
    axes.set_yticks(y, rows.index)
    axes.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    axes.spines["left"].set_visible(False)
    axes.tick_params(left=False)


def forests(panels: Mapping[str, pd.DataFrame], unit: str) -> Figure:
    """:func:`forest` plots one below the other, with rows of their own and one axis.

    The figure is as wide as one plot, so that its labels stay legible on a phone.

    Args:
        panels: title → rows.
        unit: of the axis.
    """
    heights = [0.6 + 0.3 * len(rows) for rows in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(5.2, 0.5 + sum(heights)), height_ratios=heights, sharex=True, squeeze=False
    )
    for ax, (title, rows) in zip(axes.flat, panels.items(), strict=True):
        forest(ax, rows)
        ax.set_title(title, loc="left", weight="bold")
    axes[-1, 0].set_xlabel(unit)
    return figure
