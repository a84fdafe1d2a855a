"""The book as an archive: reproducible, with a checksum that fits and a manifest that names everything in it."""

import hashlib
import json
import os
import tarfile

import nbformat
import pytest

from pipeline import artifact, project


@pytest.fixture
def root(tmp_path, monkeypatch):
    for module in (project, artifact):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("FGVC_COMMIT", "c" * 40)
    monkeypatch.setenv("FGVC_DIRTY", "0")
    (tmp_path / "_toc.yml").write_text("root: book/index\nchapters:\n- file: notebooks/01_a\n")
    html = tmp_path / "build" / "quick" / "html"
    (html / "notebooks").mkdir(parents=True)
    (html / "index.html").write_text("start")
    (html / "notebooks" / "01_a.html").write_text("chapter")
    executed = nbformat.v4.new_notebook(metadata={"papermill": {"start_time": "2026-01-01T00:00:00", "duration": 12.3}})
    executed.metadata["fgvc"] = {"commit": "c" * 40, "device": {"type": "cpu"}, "versions": {"torch": "2.15"}}
    (tmp_path / "build" / "quick" / "executed").mkdir()
    nbformat.write(executed, tmp_path / "build" / "quick" / "executed" / "01_a.ipynb")
    return tmp_path


def test_archive_checksum_and_manifest_agree(root):
    packed, checksum, listed = artifact.write("quick")
    assert packed.name == f"fgvc-book-quick-{'c' * 10}.tar.gz"
    digest, name = checksum.read_text().split()
    assert (digest, name) == (hashlib.sha256(packed.read_bytes()).hexdigest(), packed.name)
    about = json.loads(listed.read_text())
    with tarfile.open(packed) as tar:
        held = {
            member.name.partition("/")[2]: hashlib.sha256(tar.extractfile(member).read()).hexdigest() for member in tar
        }
    assert held == about["files"]
    assert about["file_count"] == 2
    assert about["commit"] == "c" * 40
    assert about["chapters"]["01_a"]["versions"] == {"torch": "2.15"}


def test_the_same_pages_give_the_same_bytes(root):
    before = artifact.write("quick")[0].read_bytes()
    for path in (root / "build" / "quick" / "html").rglob("*.html"):
        os.utime(path, (1, 1))
    assert artifact.write("quick")[0].read_bytes() == before


def test_changes_that_are_not_committed_show_in_the_name(root, monkeypatch):
    monkeypatch.setenv("FGVC_DIRTY", "1")
    assert "-changed" in artifact.write("quick")[0].name


def test_without_a_book_it_says_how_to_get_one(root):
    with pytest.raises(project.PipelineError, match="make book PROFILE=gpu"):
        artifact.write("gpu")
