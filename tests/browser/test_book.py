"""The built book in a real browser: every page is opened once, and what the browser saw is what the tests look at.

``FGVC_BOOK`` names the folder of the built pages; without it they are those of ``build/quick/html``, as long as no
source was edited since. Nothing but loopback is reached, and a request for anything else is a failure.
"""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urldefrag, urlsplit

import pytest
import torch

from pipeline import live, networks
from pipeline.project import ROOT, chapters, repository

BOOK = Path(os.environ.get("FGVC_BOOK", ROOT / "build" / "quick" / "html")).resolve()
PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
if PROGRAM is None:
    pytest.skip("no browser: neither chromium nor google-chrome is on PATH", allow_module_level=True)
if not (BOOK / "book" / "index.html").is_file():
    pytest.skip(f"no built book in {BOOK}: run `make book` or set FGVC_BOOK", allow_module_level=True)
if "FGVC_BOOK" not in os.environ:
    sources = [ROOT / "_toc.yml", ROOT / "_config.yml", *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("book/**/*.*")]
    built = (BOOK / "book" / "index.html").stat().st_mtime
    if edited := [str(path.relative_to(ROOT)) for path in sources if path.stat().st_mtime > built]:
        pytest.skip(f"{edited[0]} was edited after the book was built: run `make book`", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# Every page; the pages' parts in _static, the redirect at the top and the chapters as single files are not pages
PAGES = sorted(
    str(path.relative_to(BOOK))
    for path in BOOK.rglob("*.html")
    if path.relative_to(BOOK).parts[0] not in {"_static", "offline", "index.html"}
)
LARGEST = 6_000_000  # bytes of an offline file, a third of them for formulas; pictures have 160 dots an inch

# The theme's own parts that axe has to leave out, each with the reason
THEME = {
    "nav.bd-links details > summary": "unfolds a part of the table of contents; the part itself is a link beside it",
}

# What the tests want to know of a page, once it has settled
FACTS = r"""async () => {
  if (window.MathJax && MathJax.startup && MathJax.startup.promise) await MathJax.startup.promise;
  const still = document.createElement("style");
  still.textContent = "*, *::before, *::after { transition: none !important; animation: none !important }";
  document.head.append(still);
  const images = [...document.images].filter(image => !image.matches(".toggler"));  // Sphinx's own, of the module index
  await Promise.all(images.map(image => image.decode().catch(() => null)));
  const main = document.querySelector("article, main") || document.body;
  const text = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
  const raw = [];
  while (text.nextNode()) {
    const node = text.currentNode;
    if (node.parentElement.closest("pre, code, script, style, mjx-container")) continue;
    if (/\$\$|\\[([]|\{[a-z:]+\}`|:::\{|```/.test(node.data)) raw.push(node.data.trim().slice(0, 80));
  }
  const maths = [...main.querySelectorAll(".math")];
  return {
    images: images.map(image => [image.currentSrc.slice(0, 120), image.naturalWidth, image.alt.trim()]),
    links: [...document.querySelectorAll("a[href]")].map(anchor => anchor.href),
    ids: [...document.querySelectorAll("[id], a[name]")].flatMap(node => [node.id, node.name]).filter(Boolean),
    maths: maths.length,
    drawn: maths.filter(node => node.querySelector("mjx-container svg")).length,
    errors: [...main.querySelectorAll("mjx-merror, [data-mjx-error], [data-mml-node=merror]")].map(e => e.textContent),
    raw,
  };
}"""

# What only scrolling shows whole, equations that leave their column or touch their number, and what scrolls
# sideways without a fading edge to say so or without a stop of the keyboard; figures too small to read
LAYOUT = r"""async () => {
  const folded = [...document.querySelectorAll("details:not([open])")];  // in which nothing is laid out
  folded.forEach(part => part.open = true);
  await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
  const scrolls = node => node.scrollWidth > node.clientWidth + 1;
  const seen = {cut: [], astray: [], unmarked: [], small: []};
  for (const image of document.querySelectorAll("article img[style*=width]"))
    if (image.getBoundingClientRect().width < 0.57 * parseFloat(image.style.width)) seen.small.push(image.alt);
  for (const node of document.querySelectorAll("mjx-container[display]")) {
    const name = (node.closest("dd")?.previousElementSibling || node.closest("[id]") || document.body).id;
    const clips = getComputedStyle(node).overflowX !== "visible";
    const box = (clips ? node : node.querySelector("svg")).getBoundingClientRect();
    const column = node.parentElement.getBoundingClientRect();
    const number = node.parentElement.querySelector(".eqno")?.getBoundingClientRect();
    if (scrolls(node)) seen.cut.push(name);
    if (box.left < column.left - 1 || box.right > (number ? number.left : column.right) + 1) seen.astray.push(name);
  }
  for (const node of (document.querySelector("article") || document.body).querySelectorAll("*")) {
    const style = getComputedStyle(node);
    if (!/auto|scroll/.test(style.overflowX) || !scrolls(node)) continue;
    if (!node.matches("mjx-container")) seen.cut.push(`${node.tagName}: ${node.textContent.trim().slice(0, 40)}`);
    if (style.maskImage === "none" || node.tabIndex < 0)
      seen.unmarked.push(`${node.tagName} ${node.className}: ${node.textContent.trim().slice(0, 40)}`);
  }
  folded.forEach(part => part.open = false);
  return seen;
}"""

# The x-height, by which MathJax sizes equations, as a fraction of the font's size
HEIGHTS = r"""() => [...document.querySelectorAll("mjx-container[display] > svg")].map(node => {
  const width = node.getBoundingClientRect().width / parseFloat(node.getAttribute("width"));
  return width / parseFloat(getComputedStyle(node).fontSize);
})"""

# What leaves the page at its right-hand side without a box of its own to scroll in
OVERFLOW = r"""() => {
  const wide = [];
  const width = document.documentElement.scrollWidth;
  if (width > innerWidth) wide.push(`the page: ${width} px`);
  const boxed = node => {
    for (let box = node; box && box !== document.body; box = box.parentElement)
      if (getComputedStyle(box).overflowX !== "visible") return true;
    return false;
  };
  for (const node of document.querySelectorAll("article *, main *"))
    if (node.getClientRects().length && node.getBoundingClientRect().right > innerWidth + 1 && !boxed(node))
      wide.push(`${node.tagName} ${node.className} ${node.textContent.trim().slice(0, 40)}`);
  return wide.slice(0, 3);
}"""

PICTURES = r"""() => [...document.querySelectorAll("article img:not(.toggler)")].filter(image => {
  const style = getComputedStyle(image);
  return style.backgroundColor !== "rgb(255, 255, 255)" || style.filter !== "none";
}).map(image => image.alt)"""


# One text of every combination of what contrast depends on
SAMPLE = r"""known => {
  const kinds = new Set(known);
  document.querySelectorAll("[data-sample]").forEach(node => node.removeAttribute("data-sample"));
  const ground = node => {
    for (let box = node; box; box = box.parentElement) {
      const color = getComputedStyle(box).backgroundColor;
      if (color !== "rgba(0, 0, 0, 0)") return color;
    }
    return "";
  };
  for (const node of document.body.querySelectorAll("*")) {
    if (![...node.childNodes].some(child => child.nodeType === 3 && child.data.trim())) continue;
    if (!node.getClientRects().length || node.closest("mjx-container")) continue;
    const style = getComputedStyle(node);
    const kind = [style.color, ground(node), style.fontSize, style.fontWeight, style.opacity].join();
    if (!kinds.has(kind)) node.setAttribute("data-sample", "");
    kinds.add(kind);
  }
  return [...kinds].slice(known.length);
}"""

# What repeats thousands of times and has no meaning of its own: colored code, drawn formulas, further rows of a table
SLIM = """() => {
  document.querySelectorAll("article pre, main pre").forEach(pre => { pre.textContent = pre.textContent; });
  document.querySelectorAll("mjx-container > svg > *").forEach(node => node.remove());
  document.querySelectorAll("tbody tr:nth-child(n + 12)").forEach(row => row.remove());
}"""


@dataclass
class Visit:
    """What the browser saw of a page."""

    facts: dict[str, Any]
    cut: list[str] = field(default_factory=list)
    astray: list[str] = field(default_factory=list)
    unmarked: list[str] = field(default_factory=list)
    small: list[str] = field(default_factory=list)
    wide: list[str] = field(default_factory=list)
    pictures: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)


@dataclass
class Traffic:
    """Everything that a browser asked for, and what went wrong, as ``(page, what)``."""

    asked: list[tuple[str, str]] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    console: list[tuple[str, str]] = field(default_factory=list)
    page: str = ""

    def watch(self, context: Any) -> None:
        context.on("request", lambda request: self.asked.append((self.page, request.url)))
        context.on(
            "requestfailed", lambda request: self.failed.append((self.page, f"{request.url}: {request.failure}"))
        )
        context.on("response", self._answered)
        context.on("console", self._said)
        context.on("weberror", lambda error: self.console.append((self.page, str(error.error))))

    def _answered(self, response: Any) -> None:
        if response.status >= 400:
            self.failed.append((self.page, f"{response.url}: {response.status}"))

    def _said(self, message: Any) -> None:
        if message.type in {"error", "warning"}:
            self.console.append((self.page, f"{message.type}: {message.text}"))


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """The built book on loopback."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(BOOK)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=PROGRAM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    return Traffic()


@pytest.fixture(scope="module")
def tab(browser: Any, traffic: Traffic) -> Iterator[Any]:
    """One tab that all tests share."""
    context = browser.new_context(viewport=DESKTOP, color_scheme="light")
    traffic.watch(context)
    yield context.new_page()
    context.close()


def violations(tab: Any, context: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Serious and critical findings of axe; its own fetching of style sheets is off."""
    context["exclude"] = [[part] for part in THEME]
    response = axe.Axe().run(tab, context, {"resultTypes": ["violations"], "preload": False, **options}).response
    return [
        f"{violation['id']}: {node['target'][-1]}: {node['html'][:100]}"
        for violation in response["violations"]
        for node in violation["nodes"]
        if violation["impact"] in {"serious", "critical"}
    ]


def contrast(tab: Any, known: list[str]) -> list[str]:
    """Texts without contrast.

    Contrast follows from colors, size and weight alone and takes long, so that one text of each kind is examined,
    once in the book: ``known`` are the kinds that were.
    """
    new = tab.evaluate(SAMPLE, known)
    known += new
    rule = {"runOnly": {"type": "rule", "values": ["color-contrast"]}}
    return violations(tab, {"include": [["[data-sample]"]]}, rule) if new else []


def everything_else(tab: Any) -> list[str]:
    """Findings of all other rules; takes the content of code and formulas away."""
    tab.evaluate(SLIM)
    return violations(tab, {"include": [["html"]]}, {"rules": {"color-contrast": {"enabled": False}}})


def keyboard(tab: Any) -> list[str]:
    """What is wrong with the way by keyboard from the top of a page to its content."""
    focused = (
        "(() => { const e = document.activeElement; return [e.getAttribute('href') || '', !!e.closest('main')]; })()"
    )
    tab.keyboard.press("Tab")
    if tab.evaluate(focused)[0] != "#main-content":
        return ["the first stop is not the link that skips to the content"]
    tab.keyboard.press("Enter")
    tab.keyboard.press("Tab")
    return [] if tab.evaluate(focused)[1] else ["after the link that skips to the content the next stop is outside it"]


@pytest.fixture(scope="module")
def visits(site: str, tab: Any, traffic: Traffic) -> dict[str, Visit]:
    """Every page, opened once: at phone width, in light and in dark."""
    seen: dict[str, Visit] = {}
    known: list[str] = []
    tab.set_viewport_size(PHONE)  # the narrowest: what scrolls in its box scrolls here
    for page in PAGES:
        traffic.page = page
        tab.goto(site + page, wait_until="load")
        visit = seen[page] = Visit(tab.evaluate(FACTS))
        tab.set_viewport_size(DESKTOP)
        wide = tab.evaluate(LAYOUT)
        tab.set_viewport_size(PHONE)
        narrow = tab.evaluate(LAYOUT)
        visit.cut = wide["cut"]
        visit.astray, visit.unmarked, visit.small = (
            wide[kind] + narrow[kind] for kind in ("astray", "unmarked", "small")
        )
        visit.keys = keyboard(tab)
        visit.findings = contrast(tab, known)
        tab.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.pictures = tab.evaluate(PICTURES)
        visit.findings += contrast(tab, known)
        visit.wide = tab.evaluate(OVERFLOW)
        visit.findings += everything_else(tab)
    return seen


def each(visits: dict[str, Visit], attribute: str) -> list[str]:
    """What ``attribute`` lists, with the pages."""
    return [f"{page}: {found}" for page, visit in visits.items() for found in getattr(visit, attribute)]


def test_every_listed_page_is_there(visits):
    assert {f"notebooks/{chapter}.html" for chapter in chapters()} <= set(visits)
    assert {"book/index.html", "search.html", "genindex.html"} <= set(visits)


def test_the_top_leads_to_the_landing_page(site, tab, traffic):
    traffic.page = "index.html"
    tab.goto(site)
    tab.wait_for_url("**/book/index.html")
    assert tab.locator("h1").first.inner_text().startswith("Fine-grained image classification")


def test_nothing_is_asked_of_another_host_and_nothing_fails(site, visits, traffic):
    assert len(traffic.asked) > len(visits)
    other = [asked for asked in traffic.asked if not asked[1].startswith((site, "data:", "blob:", "file:"))]
    assert (other, traffic.failed) == ([], [])


def test_the_console_is_silent(visits, traffic):
    assert traffic.console == []


def test_links_lead_to_pages_and_anchors_that_exist(site, visits):
    broken = set()
    for page, visit in visits.items():
        for link in visit.facts["links"]:
            address, fragment = urldefrag(link)
            if not address.startswith(site):
                continue
            target = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            fragment = unquote(fragment)
            if not (BOOK / target).is_file():
                broken.add(f"{page} → {target}")
            elif fragment and target in visits and fragment not in visits[target].facts["ids"]:
                broken.add(f"{page} → {target}#{fragment}")
    assert sorted(broken) == []


def test_every_image_is_loaded_and_described(visits):
    images = [(page, *image) for page, visit in visits.items() for image in visit.facts["images"]]
    assert len(images) > len(chapters())
    assert [image for image in images if not image[2] or len(image[3]) < 10] == []


def test_mathematics_is_drawn(visits):
    assert sum(visit.facts["maths"] for visit in visits.values()) > 100
    for page, visit in visits.items():
        facts = visit.facts
        assert (page, facts["drawn"], facts["errors"], facts["raw"]) == (page, facts["maths"], [], [])


def test_equations_code_and_tables_fit_the_text_on_a_desktop(visits):
    assert each(visits, "cut") == []


def test_equations_keep_to_their_column_beside_their_number(visits):
    assert each(visits, "astray") == []


def test_figures_are_legible_on_a_phone(visits):
    assert each(visits, "small") == []


def test_what_scrolls_says_so_and_the_keyboard_reaches_it(visits):
    assert each(visits, "unmarked") == []


def test_the_size_of_equations_does_not_depend_on_the_fonts_of_a_system(site, tab, traffic):
    traffic.page = "notebooks/06_tasn.html"
    tab.goto(site + traffic.page)
    tab.evaluate(FACTS)
    heights = tab.evaluate(HEIGHTS)
    assert len(heights) > 3
    assert heights == pytest.approx([0.5] * len(heights), abs=0.01)


def test_pages_fit_a_phone(visits):
    assert each(visits, "wide") == []


def test_dark_mode_keeps_figures_on_white(visits):
    assert each(visits, "pictures") == []


def test_the_reader_s_system_chooses_dark_mode_and_the_button_changes_it(site, browser):
    context = browser.new_context(viewport=DESKTOP, color_scheme="dark")
    tab = context.new_page()
    tab.goto(site + "book/index.html")
    theme = "document.documentElement.dataset.theme"
    assert tab.evaluate(theme) == "dark"
    button = tab.get_by_role("button", name="light/dark").first
    seen = set()
    for _ in range(3):
        button.click()
        seen.add(tab.evaluate(theme))
    context.close()
    assert seen == {"light", "dark"}


def test_axe_has_no_serious_finding(visits):
    assert each(visits, "findings") == []


def test_the_keyboard_reaches_the_content(visits):
    assert each(visits, "keys") == []


def test_search_finds_center_loss(site, tab, traffic):
    traffic.page = "search"
    tab.set_viewport_size(DESKTOP)
    tab.goto(f"{site}search.html?q=center+loss")
    tab.wait_for_selector("#search-results ul.search li a")
    tab.wait_for_function("/finished|found/.test(document.querySelector('#search-results').innerText)")
    found = [anchor.get_attribute("href") for anchor in tab.locator("#search-results li a").all()]
    assert any("notebooks/02_center_loss.html" in str(address) for address in found)


def in_repository(link: str, url: str, branch: str) -> str | None:
    """The path in the repository that a launch or source link opens; None for a link of another kind."""
    parts = urlsplit(link)
    home = "/".join(url.split("/")[-2:])
    if parts.netloc == "colab.research.google.com":
        return parts.path.removeprefix(f"/github/{home}/blob/{branch}/")
    if parts.netloc == "mybinder.org":
        assert parts.path == f"/v2/gh/{home}/{branch}", link
        return parse_qs(parts.query)["urlpath"][0].removeprefix("tree/").removeprefix("lab/tree/")
    if link.startswith(url) and (found := re.match(rf"/{home}/(?:blob|tree|raw|edit)/{branch}/(.+)", parts.path)):
        return found[1]
    return None


def test_the_discrepancies_can_be_filtered(site, tab, traffic):
    traffic.page = "book/discrepancies.html"
    tab.goto(site + traffic.page)
    count, terms = tab.locator(".discrepancy-filter output"), tab.locator("article dl > dt:visible")
    all_of_them = terms.count()
    assert count.inner_text() == f"{all_of_them} of {all_of_them} differences"
    tab.get_by_label("Words", exact=True).fill("border")
    found = terms.count()
    assert 0 < found < all_of_them
    entries = tab.locator("article dl > dt:visible, article dl > dd:visible").all_inner_texts()
    assert all("border" in (term + text).lower() for term, text in zip(entries[::2], entries[1::2], strict=True))
    tab.get_by_label("Paper", exact=True).select_option("AP-CNN")
    assert tab.locator("article section section > h2:visible").all_inner_texts() == ["AP-CNN"]
    tab.get_by_label("Words", exact=True).fill("")
    tab.get_by_label("Read in", exact=True).select_option("computed")
    assert 0 < terms.count() < all_of_them
    assert count.inner_text() == f"{terms.count()} of {all_of_them} differences"
    severity = tab.get_by_label("Severity", exact=True)
    kinds = ["all", "changes numbers", "changes meaning", "cosmetic"]
    assert severity.locator("option").all_inner_texts() == kinds
    tab.get_by_label("Paper", exact=True).select_option("")
    tab.get_by_label("Read in", exact=True).select_option("")
    counts = []
    for kind in kinds[1:]:
        severity.select_option(kind)
        counts.append(terms.count())
        texts = tab.locator("article dl > dd:visible").all_inner_texts()
        assert all(text.strip().endswith(f"Severity: {kind}.") for text in texts)
    assert min(counts) > 0
    assert sum(counts) == all_of_them


LIVE = "book/live.html"
SMALL = 300_000  # bytes that the page that runs loads by itself, beside what every page loads


def test_the_page_that_runs_is_small_until_it_is_asked(site, browser):
    sizes = {}
    for page in (LIVE, "book/notation.html"):
        context = browser.new_context(viewport=DESKTOP)
        tab = context.new_page()
        tab.goto(site + page, wait_until="networkidle")
        if page == LIVE:
            tab.get_by_role("button", name="Ask the networks").wait_for()
            tab.locator("[data-live=center_loss] canvas").wait_for()
        entries = "performance.getEntriesByType('resource').map(e => [e.name, e.transferSize])"
        sizes[page] = dict(tab.evaluate(entries))
        context.close()
    every = {name.partition("?")[0] for name in sizes["book/notation.html"]}
    own = {name: size for name, size in sizes[LIVE].items() if name.partition("?")[0] not in every}
    assert any(name.endswith("playground.json") for name in own)
    assert not any("runtime" in name or name.endswith(".onnx") for name in own)
    assert sum(own.values()) < SMALL


@pytest.mark.skipif(
    not (BOOK / "_static" / "live" / "runtime").is_dir(),
    reason="the book was built where npm could not fetch the runtime of book/live",
)
def test_networks_run_in_the_browser_as_they_do_in_python(site, tab, traffic):
    traffic.page = LIVE
    tab.set_viewport_size(DESKTOP)
    tab.goto(site + LIVE)
    tab.get_by_label("Mark", exact=True).select_option(label="red cap")
    tab.get_by_role("button", name="Ask the networks").click()
    cards = tab.locator(".live-card")
    tab.wait_for_function("document.querySelectorAll('.live-card:not([hidden])').length === 4", timeout=120_000)
    assert re.match(r"First prediction [\d.]+ seconds", tab.locator(".live-told").inner_text())
    assert cards.locator("li").count() == 4 * 3

    # the same birds through the committed networks
    draw = """async (names) => {
      const { drawBird, uniformNumbers, POSE } = await import("../_static/live/bird.js");
      const { birds } = await (await fetch("../_static/live/playground.json")).json();
      const mark = birds.marks.find(mark => mark.name === "red cap");
      const uniform = uniformNumbers(1);
      const set = {size: 0.5, tilt: 0.5, mirrored: 0.25};
      for (const name in set) uniform[POSE[name][0]] = set[name];
      return [64, 128].map(size => [...drawBird(uniform, {...birds.plain, ...mark.look}, mark.part, size)]);
    }"""
    pixels = dict(zip((64, 128), tab.evaluate(draw), strict=True))
    for name in networks.NETWORKS:
        model, facts, _ = live.network(name)
        side = facts["size"]
        image = torch.tensor(pixels[side]).reshape(1, side, side, 4)[..., :3].permute(0, 3, 1, 2) / 255
        expected = live.answer(model, facts, image)[0][0]
        card = tab.locator(f".live-card[data-network={name}]")
        logits = torch.tensor(json.loads(card.get_attribute("data-logits")))
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)

    # a slider changes what is seen and said
    seen = cards.nth(2).locator("canvas").nth(1)
    before = seen.screenshot()
    tab.get_by_label("Largest magnification").fill("1")
    tab.wait_for_timeout(1000)
    assert seen.screenshot() != before
    assert violations(tab, {"include": [[".live"]]}, {}) == []


def test_where_webassembly_is_missing_the_still_picture_stays_and_says_why(site, browser):
    context = browser.new_context(viewport=DESKTOP)
    tab = context.new_page()
    tab.route("**/runtime/*", lambda route: route.abort())
    tab.goto(site + LIVE)
    tab.get_by_role("button", name="Ask the networks").click()
    tab.get_by_text("they need WebAssembly").wait_for()
    assert tab.locator("[data-live=playground] img").is_visible()
    assert tab.get_by_role("button", name="Ask the networks").is_enabled()
    context.close()


def test_a_file_that_is_no_picture_is_a_sentence(site, tab, traffic):
    traffic.page = LIVE
    tab.goto(site + LIVE)
    chosen = {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"}
    tab.get_by_label("Or your own picture").set_input_files(chosen)
    tab.get_by_text("notes.txt cannot be read as a picture").wait_for()


def test_the_slider_of_center_loss_moves_by_keyboard_and_stands_still_where_motion_is_unwanted(site, browser):
    context = browser.new_context(viewport=PHONE, reduced_motion="reduce")
    tab = context.new_page()
    tab.goto(site + LIVE)
    part = tab.locator("[data-live=center_loss]")
    told, slider, picture = part.locator("output"), part.get_by_label("Its value"), part.locator("canvas")
    told.get_by_text("λ = 0:").wait_for()
    pixels = "canvas => canvas.toDataURL()"
    before = picture.evaluate(pixels)
    slider.press("ArrowRight")
    told.get_by_text("λ = 0.001:").wait_for()
    after = picture.evaluate(pixels)
    tab.wait_for_timeout(300)
    assert before != after == picture.evaluate(pixels)
    assert "λ = 0.001:" in picture.get_attribute("aria-label")
    part.get_by_label("Sweep").select_option(label="α, the rate of the centers")
    told.get_by_text("α = ").wait_for()
    context.close()


def test_bumps_are_dragged_and_h_follows(site, tab, traffic):
    traffic.page = LIVE
    tab.set_viewport_size(DESKTOP)
    tab.goto(site + LIVE)
    part = tab.locator("[data-live=peaks]")
    h = lambda: float(re.search(r"h = ([\d.]+)", part.locator("output").inner_text())[1])  # noqa: E731
    tab.locator("[data-live=center_loss] output").get_by_text("λ = 0:").wait_for()  # above, and now as high as it gets
    apart = h()
    for start in (0.25, 0.75):
        part.locator("svg").scroll_into_view_if_needed()
        box = part.locator("svg").bounding_box()
        tab.mouse.move(box["x"] + start * box["width"], box["y"] + box["height"] / 2)
        tab.mouse.down()
        tab.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2, steps=4)
        tab.mouse.up()
    assert part.locator("input").evaluate_all("all => all.map(input => input.value)")[:3] == ["0.5"] * 3
    assert h() == pytest.approx(1, abs=0.1)
    assert apart > 2
    part.get_by_label("Height").fill("0")
    assert h() == pytest.approx(1, abs=0.01)


def test_without_javascript_the_page_that_runs_shows_still_pictures_and_says_why(site, browser):
    context = browser.new_context(viewport=DESKTOP, java_script_enabled=False)
    tab = context.new_page()
    tab.goto(site + LIVE)
    for part in tab.locator("[data-live]").all():
        assert "without JavaScript" in part.inner_text()
        assert part.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    context.close()


def test_launch_links_open_files_of_the_repository(visits):
    home = repository()
    links = {(page, link) for page, visit in visits.items() for link in visit.facts["links"]}
    opened = {(page, path) for page, link in links if (path := in_repository(link, home.url, home.branch))}
    assert sorted(where for where in opened if not (ROOT / where[1]).exists()) == []
    for chapter in chapters():
        assert (f"notebooks/{chapter}.html", f"notebooks/{chapter}.ipynb") in opened


@pytest.mark.parametrize("chapter", chapters())
def test_an_offline_file_needs_nothing_beside_it(browser, chapter):
    path = BOOK / "offline" / f"{chapter}.html"
    assert path.stat().st_size < LARGEST
    traffic = Traffic()
    context = browser.new_context(viewport=PHONE)
    traffic.watch(context)
    tab = context.new_page()
    tab.goto(path.as_uri(), wait_until="load")
    facts, layout, wide, known = tab.evaluate(FACTS), tab.evaluate(LAYOUT), tab.evaluate(OVERFLOW), []
    found = contrast(tab, known)
    tab.emulate_media(color_scheme="dark")
    found += contrast(tab, known) + everything_else(tab)
    title = tab.title()
    context.close()
    assert [url for _, url in traffic.asked if not url.startswith("data:")] == [path.as_uri()]
    assert (traffic.failed, traffic.console, wide, found) == ([], [], [], [])
    assert (layout["astray"], layout["unmarked"]) == ([], [])
    assert facts["maths"] > 0
    assert (facts["drawn"], facts["errors"], facts["raw"]) == (facts["maths"], [], [])
    assert [image for image in facts["images"] if not image[1] or len(image[2]) < 10] == []
    page = (BOOK / "notebooks" / f"{chapter}.html").read_text(encoding="utf8")
    assert page.count('class="cell') > 3
    assert f"<h1>{title}<" in page
    assert f'href="../offline/{chapter}.html"' in page
    ours = {link.rpartition("#")[2] for link in facts["links"] if link.startswith("file:")}
    assert ours <= set(facts["ids"])


def test_an_offline_file_has_the_figures_of_its_page(visits):
    for chapter in chapters():
        text = (BOOK / "offline" / f"{chapter}.html").read_text(encoding="utf8")
        shown = [image for image in visits[f"notebooks/{chapter}.html"].facts["images"] if "/_images/" in image[0]]
        assert text.count("<img ") == len(shown)
