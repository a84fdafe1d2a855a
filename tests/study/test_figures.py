"""Figures carry their name, caption and text alternative to the page; tables are escaped; curves show every seed."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from fgvc_study import figures
from fgvc_study.diagrams import Diagram


@pytest.fixture
def displayed(monkeypatch):
    """What was displayed: objects and their keyword arguments."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda thing, **more: shown.append((thing, more)))
    return shown


@pytest.fixture
def axes():
    with plt.rc_context():
        figure, axes = plt.subplots()
        yield axes
        plt.close(figure)


def test_a_figure_is_a_png_with_its_words_and_is_closed(displayed):
    with plt.rc_context():
        figures.style()
        figure = plt.figure(figsize=(1, 1))
        figures.show(figure, name="fig-a", caption="What is seen.", alt="In words.")
    ((data, more),) = displayed
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"] == "In words."
    words = {"name": "fig-a", "caption": "What is seen.", "alt": "In words."}
    assert more == {"raw": True, "metadata": words | {"image/png": {"width": 96}}}  # an inch
    assert not plt.fignum_exists(figure.number)


def test_a_drawing_is_an_svg_without_text_that_needs_a_font_and_the_same_each_time(displayed):
    for _ in range(2):
        diagram = Diagram(4, 1)
        first, second = diagram.box("image", at=(0.7, 0.5)), diagram.stack("maps", at=(3, 0.5))
        diagram.arrow(first, second, "(B, 3, H, W)")
        figures.show(diagram.figure, name="fig-a", caption="What is seen.", alt="In words.", drawing=True)
    (data, more), (again, _) = displayed
    assert "<text" not in data["image/svg+xml"]
    assert data == again
    assert more["metadata"]["image/svg+xml"] == {"width": 384}


def test_an_arrow_ends_at_the_edges_of_what_it_joins():
    diagram = Diagram(4, 1)
    diagram.arrow(diagram.box("a", at=(0.6, 0.5)), diagram.box("b", at=(3, 0.5)))
    diagram.figure.canvas.draw()
    arrow = diagram.axes.texts[-2].arrow_patch
    ends = diagram.axes.transData.inverted().transform(arrow.get_path().vertices)[:, 0]
    plt.close(diagram.figure)
    assert ends[0] == pytest.approx(0.6 + 1.1 / 2, abs=0.1)
    assert ends.max() == pytest.approx(3 - 1.1 / 2, abs=0.1)


def test_the_style_does_without_a_frame_and_its_colors_are_distinct():
    with plt.rc_context():
        figures.style()
        assert plt.rcParams["axes.spines.top"] is False
        assert plt.rcParams["figure.facecolor"] == "white"
        colors = [to_hex(c["color"]).upper() for c in plt.rcParams["axes.prop_cycle"]]
    assert colors == [c.upper() for c in figures.COLORS]
    assert len({c.lower() for c in figures.COLORS}) == len(figures.COLORS) == 10


def test_a_table_is_escaped_and_has_row_headers_links_and_a_foot(displayed):
    table = pd.DataFrame({"<b>": ["a & b", "c"], "n": [1, 2]})
    figures.show_table(table, foot="from <here>", links={"n": ["x?a&b", "y"]})
    text = displayed[0][0].data
    assert '<th scope="col"><div class="words">&lt;b&gt;</div></th>' in text
    assert '<td><div class="words">a &amp; b</div></td>' in text
    assert '<td><a href="x?a&amp;b">1</a></td>' in text
    assert text.endswith("<p><small>from &lt;here&gt;</small></p>")
    assert "caption" not in text
    figures.show_table(table, title="R & D")
    assert "<caption>R &amp; D</caption><thead>" in displayed[1][0].data
    assert "small" not in displayed[1][0].data


def test_a_curve_is_the_mean_of_the_seeds_with_every_seed_as_a_dot(axes):
    runs = pd.DataFrame({"lam": [0.1, 1.0, 1.0, 0.1], "acc": [0.5, 0.8, 0.6, 0.7]})
    figures.curve(axes, [0.1, 1.0], runs, "lam", "acc", color="k", label="x")
    dots, line = axes.lines
    assert sorted(zip(*dots.get_data(), strict=True)) == [(0, 0.5), (0, 0.7), (1, 0.6), (1, 0.8)]
    np.testing.assert_allclose(line.get_data(), [[0, 1], [0.6, 0.7]])
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.1", "1"]
    assert line.get_label() == "x"


def test_classes_are_named_at_their_mean_and_absent_ones_left_out(axes):
    points, labels = np.array([[0.0, 0.0], [2.0, 4.0], [5.0, 5.0]], np.float16), np.array([0, 0, 2])
    figures.scatter_2d(axes, points, labels)
    assert [(t.get_text(), *t.xy) for t in axes.texts] == [("0", 1.0, 2.0), ("2", 5.0, 5.0)]
    figures.scatter_2d(axes, points, labels, names=["ant", "bee", "cat"])
    assert [t.get_text() for t in axes.texts[2:]] == ["ant", "cat"]
    assert len(axes.lines) == 4


def test_words_of_a_table_are_set_apart_from_its_numbers(displayed):
    """Numbers stay as they are, with spreads, units and dashes; words are set, and long ones make a wide column."""
    numbers = ["61.3 ± 0.4", "–", "", "[-1.2, +0.4]", "+3 points", 2, "≤ 0.1"]
    words = ["ResNet-50", "0.1", "x", "y", "z", "a", "b"]
    figures.show_table(pd.DataFrame({"claim": ["long " * 9, *words[1:]], "row": words, "n": numbers}))
    ((thing, _),) = displayed
    assert thing.data.count('<div class="sentence">') == 7
    assert '<div class="sentence">0.1</div>' in thing.data
    assert thing.data.count('<div class="words">') == 7 + 2  # and two headings
    for number in ("61.3 ± 0.4", "–", "", "[-1.2, +0.4]", "+3 points", "2", "≤ 0.1"):
        assert f"<td>{number}</td>" in thing.data
    assert '<th scope="col">n</th>' in thing.data


def test_a_forest_names_its_rows_from_the_top_and_draws_no_infinite_interval(axes):
    rows = pd.DataFrame({"effect": [1.0, -2.0], "low": [0.5, -np.inf], "high": [1.5, np.inf]}, index=["a", "b"])
    figures.forest(axes, rows)
    labels = {label.get_text(): y for y, label in zip(axes.get_yticks(), axes.get_yticklabels(), strict=True)}
    assert labels["a"] > labels["b"]
    lines, dots = axes.collections
    assert dots.get_offsets().tolist() == [[1.0, labels["a"]], [-2.0, labels["b"]]]
    (interval,) = lines.get_segments()
    assert interval.tolist() == [[0.5, labels["a"]], [1.5, labels["a"]]]
    figures.forest(axes, rows.iloc[:0])  # nothing measured: an empty drawing


def test_a_forest_takes_colors_and_the_published_differences(axes):
    rows = pd.DataFrame({"effect": [1.0, -2.0], "low": 0.0, "high": 2.0, "published": [3.0, np.nan]}, index=["a", "b"])
    figures.forest(axes, rows.assign(color=["red", "blue"]))
    lines, dots = axes.collections
    for drawn in (lines.get_colors(), dots.get_facecolors()):
        np.testing.assert_array_equal(drawn, [(1, 0, 0, 1), (0, 0, 1, 1)])
    (diamonds,) = (line for line in axes.lines if line.get_marker() == "D")
    np.testing.assert_array_equal(diamonds.get_xdata(), [3.0, np.nan])


def test_forests_stand_below_each_other_and_share_an_axis():
    def rows(**effects):
        return pd.DataFrame({"effect": effects, "low": -1.0, "high": 4.0})

    drawn = figures.forests({"birds": rows(a=1.0, b=2.0), "photographs": rows(b=3.0, c=0.0)}, "points")
    assert [ax.get_title("left") for ax in drawn.axes] == ["birds", "photographs"]
    above, below = drawn.axes
    assert above.get_xlim() == below.get_xlim()
    assert [ax.get_xlabel() for ax in drawn.axes] == ["", "points"]
    assert [[text.get_text() for text in ax.get_yticklabels()] for ax in drawn.axes] == [["a", "b"], ["b", "c"]]
    assert below.collections[1].get_offsets().tolist() == [[3.0, 1.0], [0.0, 0.0]]
    assert drawn.get_figwidth() < 6  # as wide as one plot: legible on a phone
    plt.close(drawn)
