"""What a chapter's results depend on, and what they do not."""

import fgvc_lib.sources
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline import project, sources

LIBRARY = {
    "losses/__init__.py": "from fgvc_lib.losses.center import center_loss\n",
    "losses/center.py": "import torch\n\ndef center_loss(x):\n    return x * 0.5\n",
    "losses/mutual.py": "def mutual_loss(x):\n    return x\n",
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    for module in (project, sources, fgvc_lib.sources):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("FGVC_DATA", raising=False)
    for name, text in LIBRARY.items():
        path = tmp_path / "fgvc_lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "quick.yaml").write_text("profile: quick\nepochs: 8\n")
    forget()
    yield tmp_path
    forget()


def forget():
    fgvc_lib.sources._module.cache_clear()


class TestKey:
    CODE = "from fgvc_lib.losses import center_loss\ncenter_loss(1)"

    @pytest.fixture
    def key(self, root):
        def key(code=self.CODE, prose="Text.", **metadata):
            forget()
            cells = [new_markdown_cell(prose), new_code_cell(code)]
            return sources.key("quick", "02_b", new_notebook(cells=cells, metadata=metadata))

        return key

    def test_prose_is_in_no_key(self, key, root):
        before = key()
        assert key(prose="Other text.") == before
        path = root / "fgvc_lib" / "losses" / "center.py"
        path.write_text('"""New docstring."""\n# comment\n' + path.read_text())
        assert key() == before

    @pytest.mark.parametrize("file", ["losses/mutual.py", "losses/__init__.py"])
    def test_an_edit_elsewhere_in_the_library_changes_nothing(self, key, root, file):
        before = key()
        with (root / "fgvc_lib" / file).open("a") as source:
            source.write("new = 1\n")
        assert key() == before

    def test_an_edit_in_an_imported_file_changes_the_key(self, key, root):
        before = key()
        path = root / "fgvc_lib" / "losses" / "center.py"
        path.write_text(path.read_text().replace("0.5", "0.25"))
        assert key() != before

    def test_code_parameters_data_and_packages_are_in_it(self, key, root, monkeypatch):
        before = key()
        assert key(code=self.CODE + "\nx = 1") != before
        assert "package torch " in before
        (root / "profiles" / "quick.yaml").write_text("profile: quick\nepochs: 9\n")
        assert "parameter epochs 9" in key()
        monkeypatch.setenv("FGVC_DATA", "elsewhere")
        assert "environment FGVC_DATA elsewhere" in key()

    def test_docstrings_count_where_a_page_prints_source(self, key, root):
        code = "import inspect\n" + self.CODE
        before = key(code)
        path = root / "fgvc_lib" / "losses" / "center.py"
        path.write_text("# a comment that the page would show\n" + path.read_text())
        assert key(code) != before

    def test_the_records_that_a_chapter_shows_are_in_it(self, key, root):
        before = key()
        for chapter in ("02_b", "03_c"):
            folder = root / "data" / "results" / "gpu" / chapter
            folder.mkdir(parents=True)
            (folder / "one.json").write_text("{}")
        own = "record data/results/gpu/02_b/one.json"
        other = "record data/results/gpu/03_c/one.json"
        assert own in key()
        assert key() != before
        assert other not in key()
        assert other in key(records="all")
        assert other in key(records=["03_c"])

    def test_the_benchmarks_that_a_chapter_names_are_in_it(self, key, root):
        folder = root / "data" / "benchmarks"
        folder.mkdir(parents=True)
        for name in ("pool-cpu", "pool-nvidia-h200", "sampler-cpu"):
            (folder / f"{name}.json").write_text("{}")
        reader = root / "fgvc_lib" / "results" / "benchmarks.py"
        reader.parent.mkdir()
        reader.write_text("def records(name):\n    return []\n")
        (reader.parent / "__init__.py").write_text("")
        assert "data/benchmarks" not in key("print('pool')")
        text = key("from fgvc_study import benchmarks\nbenchmarks.records('pool')")
        assert text.count("record data/benchmarks/pool-") == 2
        assert "sampler" not in text
        assert key(records="all").count("record data/benchmarks/") == 3

    def test_of_a_data_file_that_is_read_only_the_chapters_entries_count(self, key, root):
        (root / "data").mkdir()
        runs = root / "data" / "runs.yaml"
        entry = "groups:\n  a: {{chapter: 02_b, lr: {own}}}\n  b: {{chapter: 03_c, lr: {other}}}\n"
        runs.write_text(entry.format(own=0.1, other=0.1))
        code = self.CODE + "\nread('runs.yaml')"
        before = key(code)
        assert "stated data/runs.yaml" in before
        assert "runs.yaml" not in key()
        runs.write_text(entry.format(own=0.1, other=0.2))
        assert key(code) == before
        runs.write_text(entry.format(own=0.2, other=0.2))
        assert key(code) != before

    def test_the_methods_that_a_data_file_asks_for_are_reached(self, key, root):
        (root / "data").mkdir()
        (root / "data" / "runs.yaml").write_text("a: {method: fgvc_lib.losses.mutual}\n")
        assert "losses/mutual.py" in key("read('runs.yaml')")
        assert "losses/mutual.py" not in key("read()")


def test_an_edit_that_is_taken_back_needs_no_run(root, monkeypatch):
    monkeypatch.setattr(sources, "chapters", lambda: ["02_b"])
    notebook = new_notebook(cells=[new_code_cell("x = 1")])
    monkeypatch.setattr(sources, "clean_notebook", lambda chapter: notebook)
    assert sources.write_keys("quick") == ["02_b"]

    key = root / "build" / "quick" / "inputs" / "02_b.key"
    executed = root / "build" / "quick" / "executed" / "02_b.ipynb"
    executed.parent.mkdir()
    nbformat.write(new_notebook(metadata={"fgvc": {"key": sources.digest(key.read_text())}}), executed)
    assert sources.write_keys("quick") == []

    notebook.cells[0].source = "x = 2"
    assert sources.write_keys("quick") == ["02_b"]
    notebook.cells[0].source = "x = 1"
    assert sources.write_keys("quick") == []
    assert key.stat().st_mtime < executed.stat().st_mtime


def test_a_library_file_that_does_not_parse_is_named(root, monkeypatch):
    (root / "fgvc_lib" / "losses" / "center.py").write_text("def (\n")
    monkeypatch.setattr(sources, "chapters", lambda: ["02_b"])
    notebook = new_notebook(cells=[new_code_cell(TestKey.CODE)])
    monkeypatch.setattr(sources, "clean_notebook", lambda chapter: notebook)
    with pytest.raises(project.PipelineError, match=r"fgvc_lib/losses/center.py: invalid syntax"):
        sources.write_keys("quick")
