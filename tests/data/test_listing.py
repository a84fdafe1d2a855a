"""What is taken from a folder, and that everything else is counted."""

import os
import runpy
import sys
import types

import pytest
from PIL import Image

from fgvc_lib.data import images
from fgvc_lib.data.images import readable
from fgvc_lib.data.listing import counted, images_below, some


def save(path, *, format=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format=format)


def names(folder):
    return [path.relative_to(folder).as_posix() for path in images_below(folder).images]


def test_images_in_capitals_and_of_new_kinds_are_taken(tmp_path):
    for name in ("a.JPG", "deep/er/b.png", "c.webp", "d.jfif"):
        save(tmp_path / name, format="JPEG" if name.endswith("jfif") else None)
    expected = ["a.JPG", "c.webp", "d.jfif", "deep/er/b.png"]
    if ".avif" in readable():
        save(tmp_path / "e.avif")
        expected.append("e.avif")
    assert names(tmp_path) == sorted(expected)


def test_everything_that_is_not_taken_is_counted_by_kind(tmp_path):
    save(tmp_path / "owl" / "1.png")
    save(tmp_path / "owl" / ".ipynb_checkpoints" / "1-checkpoint.png")
    save(tmp_path / "owl" / "@eaDir" / "thumb.jpg")
    save(tmp_path / "owl" / ".2.png")
    (tmp_path / "owl" / "._1.png").write_bytes(b"\0\5\x16\7")
    os.symlink("/nowhere/3.png", tmp_path / "owl" / "3.png")
    (tmp_path / "owl" / "raw.NEF").write_bytes(b"")
    for other in ("notes.txt", "more.txt", "Thumbs.db", "README"):
        (tmp_path / other).write_text("")
    found = images_below(tmp_path)
    assert [path.name for path in found.images] == ["1.png"]
    assert dict(found.dropped) == {
        "hidden in .ipynb_checkpoints": 1,
        "hidden in @eaDir": 1,
        "hidden": 2,
        "broken link": 1,
        ".nef (convert them to JPEG)": 1,
    }
    assert dict(found.others) == {".txt": 2, ".db": 1, "no ending": 1}
    assert counted(found.others).startswith("2 .txt, 1 ")


def test_a_caliber_is_no_hidden_folder(tmp_path):
    save(tmp_path / ".45 ACP" / "1.png")
    assert names(tmp_path) == [".45 ACP/1.png"]


def test_heic_is_named_until_its_package_is_there(tmp_path, monkeypatch):
    (tmp_path / "IMG_1.HEIC").write_bytes(b"")
    if ".heic" not in readable():
        assert dict(images_below(tmp_path).dropped) == {".heic (pip install pillow-heif)": 1}

    def register():
        monkeypatch.setitem(Image.EXTENSION, ".heic", "HEIF")

    fake = types.SimpleNamespace(register_heif_opener=register)
    monkeypatch.setitem(sys.modules, "pillow_heif", fake)
    runpy.run_path(images.__file__)
    assert names(tmp_path) == ["IMG_1.HEIC"]


def test_links_to_folders_are_followed_but_never_in_a_circle(tmp_path):
    save(tmp_path / "set" / "owl" / "1.png")
    save(tmp_path / "elsewhere" / "2.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set" / "owl" / "more")
    os.symlink(tmp_path / "set", tmp_path / "set" / "owl" / "up")
    os.symlink(tmp_path / "set" / "owl", tmp_path / "elsewhere" / "back")
    assert names(tmp_path / "set") == ["owl/1.png", "owl/more/2.png"]


def test_a_folder_that_may_not_be_read_is_no_empty_one(tmp_path, monkeypatch):
    save(tmp_path / "owl" / "1.png")

    def refuse(path):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        images_below(tmp_path)


def test_some_of_many():
    assert some(["a", "b"]) == "'a', 'b'"
    assert some([str(i) for i in range(7)]) == "'0', '1', '2', '3', '4' and 2 more"
