"""A chapter as one file: Sphinx's prose, the notebook's code and outputs, nothing beside it."""

import base64
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from pipeline import offline
from pipeline.check import outside_requests
from pipeline.project import PipelineError

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
RENDERED = """\
<html><head><script src="theme.js"></script></head><body><nav>chrome</nav><article class="bd-article">
<section id="small"><h1>A small chapter<a class="headerlink" href="#small">#</a></h1>
<p class="offline-file"><a href="../offline/01.html" download>This chapter as one offline HTML file</a></p>
<p>See <a href="#fig-a">Fig. 3</a>, <a href="../book/lift.html">another page</a>, <a href="#gone">nothing</a> and
<a href="https://doi.org/10.1/x">a paper</a>. <span class="math">\\(a &lt; b\\)</span></p>
<section id="inner"><h2>Inner</h2><img alt="A drawing." src="../_images/drawing.png"/>
<div class="cell"><pre>what Sphinx made of the code</pre></div>
<details class="sd-dropdown"><summary>Solution</summary><p>It is 1.</p></details></section>
<div class="cell tag_figure"><figure id="fig-a"><img src="../_images/a.png" alt="Seen."/>
<figcaption><p>Fig. 3 The caption.</p></figcaption></figure></div></section>
</article></body></html>
"""


@pytest.fixture
def page():
    figure = {"mystnb": {"figure": {"name": "fig-a", "caption": "The *caption*."}, "image": {"alt": 'Seen "so".'}}}
    picture = new_output("display_data", {"image/png": PIXEL}, metadata={"alt": "Seen."})
    table = new_output(
        "execute_result",
        {"text/html": '<table><tr><td>7</td><td><a href="02.html#fig">there</a></td></tr></table>'},
        execution_count=2,
    )
    return new_notebook(
        cells=[
            new_markdown_cell("# A small chapter\n\nSee {numref}`fig-a`."),
            new_code_cell("a = 1 < 2", outputs=[new_output("stream", name="stdout", text="1 < 2\n"), table]),
            new_markdown_cell("```{dropdown} Solution\nIt is 1.\n```"),
            new_code_cell("show()", outputs=[picture], metadata={"tags": ["figure", "hide-input"], **figure}),
        ]
    )


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "drawing.png").write_bytes(base64.b64decode(PIXEL))
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@pytest.fixture
def text(page, folder):
    return written(page, folder)


def written(page, folder):
    embedded = {"style": "p {}", "mathjax": "draw()", "book": "The book", "home": "https://example.org/x"}
    return offline.exporter().from_notebook_node(offline.joined(page, RENDERED, folder), resources=embedded)[0]


def test_prose_is_what_sphinx_made_and_code_is_the_notebook_s(page, folder):
    cells = offline.joined(page, RENDERED, folder).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "markdown", "code"]
    assert "{numref}" not in cells[0].source
    assert '<h2 id="inner">Inner</h2>' in cells[0].source
    assert cells[1].source == "a = 1 < 2"
    assert "It is 1." in cells[2].source
    assert "Fig. 3 The caption." in cells[3].metadata["caption"]


def test_the_file_holds_everything(text, tmp_path):
    (tmp_path / "page.html").write_text(text)
    assert outside_requests(tmp_path) == []
    assert not re.search(r"<(script|link|img)[^>]* (src|href)=\"(?!data:)", text)
    assert text.count("data:image/png;base64,iVBOR") == 2
    assert "<title>A small chapter</title>" in text
    assert "draw()" in text
    assert "\\(a &lt; b\\)" in text
    assert "1 &lt; 2" in text
    assert "<td>7</td>" in text


def test_a_figure_keeps_name_number_and_text_alternative(text):
    figure = re.search(r'<figure id="fig-a">.*?</figure>', text, re.S)[0]
    assert 'alt="Seen &quot;so&quot;."' in figure or "alt='Seen \"so\".'" in figure
    assert "Fig. 3 The caption." in figure


def test_folded_code_and_folded_solutions_stay_folded(text):
    assert text.count("<details") == 2
    assert "<summary>Code</summary>" in text


def test_a_hidden_cell_is_folded_with_what_it_shows(page, folder):
    page.cells[1].metadata["tags"] = ["table", "hide-cell"]
    folded = re.findall(r"<details><summary>(\w+)</summary>(.*?)</details>", written(page, folder), re.S)
    assert [summary for summary, _ in folded] == ["Code", "Output", "Output", "Code"]
    assert "<td>7</td>" in folded[2][1]


def test_links_that_lead_nowhere_from_a_lone_file_are_plain_text(text):
    assert 'href="#fig-a"' in text
    assert 'href="https://doi.org/10.1/x"' in text
    assert "another page" in text
    assert "<td>there</td>" in text
    assert "lift.html" not in text
    assert "#gone" not in text
    assert offline.LINK not in text
    assert "headerlink" not in text


def test_a_page_that_is_not_of_this_notebook_is_refused(page, folder):
    with pytest.raises(PipelineError, match="more code cells"):
        offline.joined(new_notebook(cells=page.cells[:2]), RENDERED, folder)
    page.cells.append(new_code_cell("late()"))
    with pytest.raises(PipelineError, match=r"lacks a code cell of its notebook: \['late\(\)'\]"):
        offline.joined(page, RENDERED, folder)
    with pytest.raises(PipelineError, match="no article"):
        offline.joined(page, "<p>nothing</p>", folder)


def test_colors_of_code_follow_the_reader_s_system():
    code = (
        'html[data-theme="light"] .highlight .k { color: #111 }\nhtml[data-theme="dark"] .highlight .k { color: #eee }'
    )
    light, _, dark = offline.style(code).rpartition("@media (prefers-color-scheme: dark)")
    assert ".highlight .k { color: #111 }" in light
    assert ".highlight .k { color: #eee }" in dark


def test_every_chapter_has_its_file(page, folder, tmp_path, monkeypatch):
    html, build = tmp_path, tmp_path / "build"
    static = html / "_static"
    static.mkdir()
    (static / "pygments.css").write_text("")
    (static / "mathjax.js").write_text("draw('</script>')")
    (html / "_images" / "a.png").write_bytes(base64.b64decode(PIXEL))
    (build / "stage" / "notebooks").mkdir(parents=True)
    monkeypatch.setattr(offline, "chapters", lambda: ["01", "02"])
    monkeypatch.setattr(offline, "build_folder", lambda profile: build)
    for chapter in ("01", "02"):
        (html / "notebooks" / f"{chapter}.html").write_text(RENDERED.replace("It is 1.", f"It is {chapter}."))
        nbformat.write(page, build / "stage" / "notebooks" / f"{chapter}.ipynb")
    offline.write("quick", html)
    for chapter in ("01", "02"):
        text = (html / "offline" / f"{chapter}.html").read_text()
        assert f"It is {chapter}." in text
        assert text.count("</script") == 3
