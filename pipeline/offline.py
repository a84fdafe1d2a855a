"""Each chapter as one HTML file that needs nothing beside it: no network, no other file.

nbconvert writes it, from the staged notebook with the prose that Sphinx has already rendered: between two code cells
stands what Sphinx made of the markdown there, with numbers, citations and folded solutions in place, so that nothing of
MyST is interpreted a second time. Pictures, style and MathJax are embedded.
"""

from __future__ import annotations

import base64
import copy
import re
from pathlib import Path
from typing import Any

import nbformat
from bs4 import BeautifulSoup, Tag
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from pipeline.project import ROOT, PipelineError, build_folder, chapters, read_yaml, repository, write_if_changed

FOLDER = "offline"
STYLE = Path("book/_static/offline.css")
SCROLLING = Path("book/_static/scrolling.js")
ELSEWHERE = r'<a\b[^>]*href="(?!https?://|#)[^"]*"[^>]*>(.*?)</a>'  # to another page
LINK = "This chapter as one offline HTML file"

TEMPLATE = """\
{%- extends 'display_priority.j2' -%}
{%- block header -%}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ nb.metadata.title }}</title>
<style>{{ resources.style }}</style>
<script>MathJax = {options: {ignoreHtmlClass: "plain", processHtmlClass: "math"}, svg: {fontCache: "local"}};</script>
<script>{{ resources.mathjax }}</script>
<script>{{ resources.scrolling }}</script>
</head>
<body class="plain">
<header>From <cite>{{ resources.book }}</cite>, <a href="{{ resources.home }}">{{ resources.home }}</a></header>
<main>
{% endblock header -%}
{%- block footer %}
</main>
</body>
</html>
{% endblock footer -%}
{%- block markdowncell %}{{ cell.source }}
{% endblock markdowncell -%}
{%- block input -%}
{%- set tags = cell.metadata.get("tags", []) -%}
{%- if "remove-input" in tags -%}
{%- elif "hide-input" in tags or "hide-cell" in tags -%}
<details><summary>Code</summary>{{ code(cell) }}</details>
{%- else -%}
{{ code(cell) }}
{%- endif -%}
{%- endblock input -%}
{%- block output %}
{%- if "hide-cell" in cell.metadata.get("tags", []) -%}
<details><summary>Output</summary><div class="output">{{ super() }}</div></details>
{% else %}<div class="output">{{ super() }}</div>
{% endif %}{% endblock output -%}
{%- block stream_stdout %}<pre tabindex="0">{{ output.text | ansi2html }}</pre>{% endblock -%}
{%- block data_text %}<pre tabindex="0">{{ output.data["text/plain"] | ansi2html }}</pre>{% endblock -%}
{%- block data_html %}<div class="table" tabindex="0">{{ output.data["text/html"] }}</div>{% endblock -%}
{%- block data_svg %}{{ picture(cell, "svg+xml", output.data["image/svg+xml"] | text_base64) }}{% endblock -%}
{%- block data_png %}{{ picture(cell, "png", output.data["image/png"]) }}{% endblock -%}
{%- block data_jpg %}{{ picture(cell, "jpeg", output.data["image/jpeg"]) }}{% endblock -%}
{%- macro code(cell) -%}
{{ cell.source | highlight_code(metadata=cell.metadata) | replace("<pre>", '<pre tabindex="0">', 1) }}
{%- endmacro -%}
{%- macro picture(cell, kind, data) -%}
<figure id="{{ cell.metadata.mystnb.figure.name }}">
<img src="data:image/{{ kind }};base64,{{ data | replace('\\n', '') }}" alt="{{ cell.metadata.mystnb.image.alt | e }}">
{{ cell.metadata.caption }}
</figure>
{%- endmacro -%}
"""


def link(chapter: str) -> str:
    """The paragraph of a chapter's page that offers the file for download."""
    return f'<p class="offline-file"><a href="../{FOLDER}/{chapter}.html" download>{LINK}</a></p>'


def joined(page: NotebookNode, rendered: str, folder: Path) -> NotebookNode:
    """``page`` with the prose and captions of its ``rendered`` HTML, whose file lies in ``folder``.

    Code cells and their outputs are those of the notebook; every stretch of markdown between them is one cell of HTML.
    """
    soup = BeautifulSoup(rendered, "html.parser")
    article = soup.find("article")
    if not isinstance(article, Tag):
        raise PipelineError("a rendered chapter has no article")
    _stand_alone(article, folder)
    for section in article.find_all("section"):
        if (heading := section.find(["h1", "h2", "h3", "h4", "h5", "h6"], recursive=False)) and section.get("id"):
            heading["id"] = section["id"]
        section.unwrap()

    made = copy.deepcopy(page)
    code = [cell for cell in made.cells if cell.cell_type == "code"]
    made.cells = []
    prose: list[Any] = []

    def flush() -> None:
        if text := "".join(map(str, prose)).strip():
            made.cells.append(new_markdown_cell(text))
        prose.clear()

    for node in article.contents:
        if not (isinstance(node, Tag) and "cell" in node.get_attribute_list("class")):
            prose.append(node)
            continue
        flush()
        if not code:
            raise PipelineError("a rendered chapter has more code cells than its notebook")
        caption = node.find("figcaption")
        code[0].metadata["caption"] = str(caption or "")
        for output in code[0].outputs:  # a cell's last value is shown as anything else that it shows
            if output.output_type == "execute_result":
                output.output_type = "display_data"
                del output["execution_count"]
            if table := output.get("data", {}).get("text/html"):
                output.data["text/html"] = re.sub(ELSEWHERE, r"\1", table, flags=re.DOTALL)
        made.cells.append(code.pop(0))
    flush()
    if code:
        raise PipelineError(f"a rendered chapter lacks a code cell of its notebook: {code[0].source.splitlines()[:1]}")
    title = article.find("h1")
    made.metadata["title"] = title.get_text() if title else ""
    return made


def _stand_alone(article: Tag, folder: Path) -> None:
    """Embed pictures, and keep only links that lead somewhere from a file that stands alone."""
    for gone in article.select("a.headerlink, .offline-file, .sd-summary-state-marker, script, style"):
        gone.decompose()
    for scrolling in article.select("pre, .pst-scrollable-table-container"):
        scrolling["tabindex"] = "0"  # so that the keyboard can scroll it
    ids = {node["id"] for node in article.find_all(id=True)}
    for anchor in article.find_all("a", href=True):
        address = str(anchor["href"])
        if not (address.startswith(("https://", "http://")) or (address[:1] == "#" and address[1:] in ids)):
            anchor.unwrap()
    for image in article.find_all("img"):
        if image.find_parent("div", class_="cell"):
            continue  # an output; it comes from the notebook
        path = folder / str(image["src"])
        kind = {".svg": "svg+xml", ".jpg": "jpeg"}.get(path.suffix, path.suffix[1:])
        image["src"] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def exporter() -> HTMLExporter:
    """nbconvert's exporter with the template above."""
    return HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="basic",
        template_file="offline.html.j2",
        extra_loaders=[DictLoader({"offline.html.j2": TEMPLATE})],
    )


def style(code: str) -> str:
    """The style sheet, with the book's colors of code (``pygments.css``) for light and for dark."""
    rules: dict[str, list[str]] = {"light": [], "dark": []}
    for line in code.splitlines():
        if found := re.fullmatch(r'html\[data-theme="(light|dark)"\] (.+)', line):
            rules[found[1]].append(found[2])
    light, dark = ("\n".join(rules[mode]) for mode in ("light", "dark"))
    return f"{(ROOT / STYLE).read_text(encoding='utf8')}\n{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}\n"


def resources(static: Path) -> dict[str, Any]:
    """What the template embeds in every file; ``static`` is the book's ``_static``."""
    return {
        "style": style((static / "pygments.css").read_text(encoding="utf8")),
        "mathjax": (static / "mathjax.js").read_text(encoding="utf8").replace("</script", "<\\/script"),
        "scrolling": (ROOT / SCROLLING).read_text(encoding="utf8"),
        "book": read_yaml(ROOT / "_config.yml")["title"],
        "home": repository().url,
    }


def write(profile: str, html: Path) -> None:
    """Write ``offline/<chapter>.html`` of every chapter into the rendered book ``html``."""
    given = resources(html / "_static")
    for chapter in chapters():
        notebook = nbformat.read(build_folder(profile) / "stage" / "notebooks" / f"{chapter}.ipynb", as_version=4)
        rendered = (html / "notebooks" / f"{chapter}.html").read_text(encoding="utf8")
        page = joined(notebook, rendered, html / "notebooks")
        text, _ = exporter().from_notebook_node(page, resources=dict(given))
        write_if_changed(html / FOLDER / f"{chapter}.html", text)
