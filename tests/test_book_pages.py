"""The prose pages: what they name exists, and what they state twice agrees."""

import importlib
import inspect
import itertools
import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from fgvc_study import findings, ledger
from pipeline import project, reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "book").rglob("*.md"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["version"]
PLANNED = {
    "01_primer",
    "02_center_loss",
    "03_mutual_channel_loss",
    "04_bilinear_cnn",
    "05_channel_interaction",
    "06_tasn",
    "07_ap_cnn",
    "08_evidence",
    "09_your_images",
}
"""The chapters of the book."""


def read(name):
    return (ROOT / "book" / name).read_text(encoding="utf8")


def resolve(dotted):
    """The object of a dotted name: a module, or something in one."""
    parts = dotted.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            found = getattr(found, part)
        return found
    raise AttributeError(dotted)


def names_of_tests(path):
    return set(re.findall(r"^\s*def (test_\w+)", (ROOT / path).read_text(encoding="utf8"), re.M))


# ---- every page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_headings_step_down_one_level_at_a_time_and_there_is_one_title(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf8"), flags=re.S)
    levels = [len(marks) for marks in re.findall(r"^(#+) ", text, re.M)]
    if "{include} ../CHANGELOG.md" in page.read_text(encoding="utf8"):
        return
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_of_the_library_exists(page):
    for dotted in re.findall(r"{py:\w+}`~?(fgvc_lib[\w.]*)`", page.read_text(encoding="utf8")):
        resolve(dotted)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_chapters(page):
    text = page.read_text(encoding="utf8")
    for target in re.findall(r"{doc}`(?:[^`<]*<)?([^`<>]+)>?`", text):
        if target.startswith("/notebooks/"):
            assert target.removeprefix("/notebooks/") in PLANNED, target
        else:
            base = ROOT if target.startswith("/") else page.parent
            assert (base / f"{target.lstrip('/')}.md").is_file(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pictures_have_a_text_alternative_and_tables_a_header(page):
    text = page.read_text(encoding="utf8")
    for figure in re.findall(r"```{figure}.*?```", text, re.S):
        assert re.search(r"^:alt: \S", figure, re.M), figure
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        assert {'role="img"', "<title", "<desc"} <= set(re.findall(r'role="img"|<title|<desc', svg))
    plain = re.sub(r"```.*?```", "", text, flags=re.S)
    for block in re.findall(r"(?:^\|.*\n)+", plain, re.M):
        assert re.fullmatch(r"\|( ?:?-+:? ?\|)+", block.splitlines()[1]), block


def test_commands_of_the_library_exist():
    known = set(re.findall(r"@app\.command\(\)\ndef (\w+)", (ROOT / "fgvc_lib" / "cli.py").read_text(encoding="utf8")))
    named = {name for page in PAGES for name in re.findall(r"-m fgvc_lib (\w+)", page.read_text(encoding="utf8"))}
    assert named <= known


def test_profiles_are_those_that_there_are():
    rows = re.findall(r"^\| `(\w+)` \|", read("how_to_read.md"), re.M)
    assert sorted(rows) == project.profiles()


def test_files_that_the_architecture_names_exist():
    text = read("architecture.md")
    for name in re.findall(r"`((?:fgvc_lib|pipeline|notebooks)/[\w/]+(?:\.py|/))`", text):
        assert (ROOT / name).exists() or "NN_name" in name, name


# ---- discrepancies

ENTRY = re.compile(r"^(?P<title>[^\n:#*`][^\n]*)\n: (?P<body>.*?)(?=\n\n\S|\Z)", re.M | re.S)
ENTRIES = {found["title"]: found["body"] for found in ENTRY.finditer(read("discrepancies.md"))}


def test_the_discrepancies_are_read():
    assert len(ENTRIES) == len(re.findall(r"^: ", read("discrepancies.md"), re.M)) > 50


@pytest.mark.parametrize("title", ENTRIES)
def test_every_discrepancy_says_how_sure_what_we_do_and_where_it_is_shown(title):
    body = " ".join(ENTRIES[title].split())
    said, ours = body.split("*Here:*")
    ours, shown = ours.split("*Shown:*")
    shown, severity = shown.split("*Severity:*")
    assert severity.strip() in ("changes numbers.", "changes meaning.", "cosmetic.")
    assert re.search(r"\((?:[^()]*\b)?(paper|code|log|readme|issue|computed|quoted)\b[^()]*\)", said), "how sure"
    assert ours.strip()
    tests, chapters = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", shown), re.findall(r"{doc}`/notebooks/(\w+)`", shown)
    assert tests or chapters
    assert len(tests) + len(chapters) == shown.count("`") // 2, "a test is `tests/….py::test_…`, without its class"
    assert set(chapters) <= PLANNED
    for path, name in tests:
        assert name in names_of_tests(path), f"{path}::{name}"


MEASURED = re.compile(r"“(.+?)” is \*\*(.+?)\*\* “(.+?)” \(`(\w+)/(\w+/\w+)`, {ref}`numbers <([\w-]+)>`\)")


def test_what_was_measured_of_a_discrepancy_is_what_the_records_say():
    found = MEASURED.findall(read("discrepancies.md"))
    assert len(found) == read("discrepancies.md").count("(`quick/") + read("discrepancies.md").count("(`photos/") > 15
    for a, word, b, profile, experiment, _ in found:
        difference = findings.difference(ledger.recorded(experiment, profile)[0], a, b)
        assert difference is not None, f"{experiment}: no seed has both {a} and {b}"
        assert difference.word == word, f"{experiment}: {a} is {difference.word} {b} ({difference})"


def test_the_numbers_of_a_discrepancy_are_where_its_link_leads():
    for name in re.findall(r"{ref}`numbers <([\w-]+)>`", read("discrepancies.md")):
        holders = [
            c for c in PLANNED if f"# ({name})=\n" in (ROOT / "notebooks" / f"{c}.py").read_text(encoding="utf8")
        ]
        assert len(holders) == 1, name


# ---- notation

ROW = re.compile(r"{py:\w+}`~(?P<owner>[\w.]+)` \((?P<arguments>[^)]*)\)")


def test_arguments_of_the_notation_exist():
    found = list(ROW.finditer(read("notation.md")))
    assert len(found) > 40
    for row in found:
        owner = resolve(row["owner"])
        names = set(inspect.signature(owner).parameters) | set(getattr(owner, "_fields", ()))
        assert set(re.findall(r"`(\w+)`", row["arguments"])) <= names, row[0]


def test_every_table_of_the_notation_has_four_columns():
    rows = [line for line in read("notation.md").splitlines() if line.startswith("|")]
    assert {len(re.sub(r"\\\||`[^`]*`", "", row).strip("|").split("|")) for row in rows} == {4}


# ---- glossary


def test_the_glossary_is_sorted_has_chinese_terms_and_says_nothing_twice():
    items = re.findall(r"^(\S.*)\n  (.+)$", read("glossary.md").split("```{glossary}")[1], re.M)
    terms = [term for term, _ in items]
    assert terms == sorted(set(terms), key=str.lower)
    for term, text in items:
        assert re.match(r'<span lang="zh-Hans">[\u4e00-\u9fff]+</span>\. [A-Z].*\.$', text), term


# ---- citing, changes


def test_the_version_is_stated_alike_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert citation["version"] == VERSION
    assert f"version = {{{VERSION}}}" in read("cite.md")
    assert re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf8"), re.M)[1] == VERSION
    assert importlib.import_module("fgvc_lib").__version__ == VERSION


def test_the_citation_file_is_whole():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf8"))
    assert {"cff-version", "title", "message", "authors", "version"} <= set(citation)
    assert citation["title"] in read("cite.md")
    assert len(citation["references"]) == 6
    bibliography = read("references.bib")
    for paper in citation["references"]:
        entry = next(e for e in bibliography.split("\n@") if paper["doi"] in e)
        assert f"{{{paper['year']}}}" in entry
        assert all(author["family-names"] in entry for author in paper["authors"])


def test_every_cited_key_is_in_the_bibliography():
    keys = set(re.findall(r"^@\w+{(\w+),", read("references.bib"), re.M))
    for page in PAGES:
        for cited in re.findall(r"{cite:\w+}`([^`]+)`", page.read_text(encoding="utf8")):
            assert set(cited.split(",")) <= keys, f"{page.name}: {cited}"


def test_every_entry_of_the_bibliography_has_author_title_year_and_a_doi_or_an_institution():
    for entry in re.split(r"^@", read("references.bib"), flags=re.M)[1:]:
        if entry.startswith("%"):
            continue
        assert all(re.search(rf"^\s*{field}\s*=", entry, re.M) for field in ("author", "title", "year")), entry
        assert re.search(r"^\s*(doi|institution)\s*=", entry, re.M), entry


@pytest.mark.parametrize("chapter", project.chapters())
def test_code_fits_the_column_of_a_page(chapter):
    cells = json.loads((ROOT / "notebooks" / f"{chapter}.ipynb").read_text(encoding="utf8"))["cells"]
    shown = [c for c in cells if c["cell_type"] == "code" and "remove-cell" not in c["metadata"].get("tags", [])]
    lines = "".join("".join(cell["source"]) + "\n" for cell in shown).splitlines()
    assert not [line for line in lines if len(line) > 88]


# ---- the reference


def test_every_module_is_on_a_page_of_the_reference_or_internal():
    shown = [module for names in reference.PAGES.values() for name in names for module in reference.modules(name)]
    files = [*ROOT.glob("fgvc_lib/*/*.py"), *ROOT.glob("fgvc_study/**/*.py")]
    there = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if not path.stem.startswith("_")}
    there |= {f"fgvc_lib.{name}" for name in ("config", "report", "export", "fine_tuning")}
    assert sorted([*shown, *reference.INTERNAL]) == sorted(there)


def test_every_page_of_the_reference_takes_in_its_list():
    for page in reference.PAGES:
        assert f"```{{include}} ../made/api_{page}.md" in read(f"api/{page}.md")
    assert {path.stem for path in (ROOT / "book" / "api").glob("*.md")} == set(reference.PAGES)


def test_the_fields_of_named_tuples_are_left_to_their_class():
    assert ":exclude-members: logits, terms, maps, state" in reference.pages()["api_methods.md"]
