"""The cache: built once, by one process, or not at all."""

import errno

import numpy as np
import pytest
from filelock import FileLock

from fgvc_lib.data.cache import cache_folder, cached, clear, create_array, entries, open_array


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build(folder):
    np.save(folder / "a.npy", np.arange(10))


def test_two_processes_build_one_entry(cache, tmp_path, forked):
    program = """
        import time
        import numpy as np
        from fgvc_lib.data.cache import cached, open_array

        def build_slowly(folder):
            with (folder.parent / "built.txt").open("a") as log:
                log.write("x")
            time.sleep(0.3)
            np.save(folder / "a.npy", np.arange(10))

        print(open_array(cached("entry", build_slowly) / "a.npy").sum())
    """
    both = [forked(program, tmp_path, name, FGVC_CACHE=str(cache)) for name in ("one", "two")]
    assert [process.wait() for process in both] == ["45\n", "45\n"]
    assert (cache / "built.txt").read_text() == "x"


def test_a_failed_build_leaves_nothing_and_can_be_repeated(cache):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached("entry", fail)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == []
    assert (cached("entry", build) / "a.npy").is_file()


def test_an_entry_is_not_built_again():
    cached("entry", build)
    cached("entry", lambda folder: pytest.fail("built twice"))


def test_writing_to_the_map_does_not_change_the_file():
    path = cached("entry", build) / "a.npy"
    array = open_array(path)
    array[:] = 0
    assert open_array(path).sum() == 45


def test_folder_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("FGVC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fgvc"


def test_what_a_killed_build_left_is_removed_by_the_next(cache):
    (cache / ".entry.abcdefgh").mkdir(parents=True)
    (cache / ".entry.abcdefgh" / "half.npy").write_bytes(bytes(100))
    (cache / ".entry2.abcdefgh").mkdir()  # of another entry, which may be at work
    cached("entry", build)
    assert sorted(path.name for path in cache.iterdir() if path.is_dir()) == [".entry2.abcdefgh", "entry"]


def test_a_full_disk_is_an_error_before_anything_is_written(cache, monkeypatch):
    def full(file, start, size):
        assert (start, size) == (0, 128 + 2 * 10**6)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(OSError, match=r"^no room for 2\.0 MB of decoded images in .*cache: .* FGVC_CACHE"):
        cached("entry", lambda folder: create_array(folder / "a.npy", np.uint8, (2, 10**6)))
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []


def test_entries_are_shown_and_cleared_but_not_under_a_builder(cache):
    assert entries() == {}
    cached("small", lambda folder: (folder / "a").write_bytes(bytes(10)))
    cached("large", lambda folder: (folder / "b").write_bytes(bytes(500)))
    (cache / ".large.abcdefgh").mkdir()
    (cache / ".large.abcdefgh" / "half").write_bytes(bytes(100))
    sizes = {cache / "large": 500, cache / ".large.abcdefgh": 100, cache / "small": 10}
    assert list(entries().items()) == list(sizes.items())
    array = open_array(cached("array", build) / "a.npy")
    with FileLock(cache / ".large.lock"):  # somebody builds it anew
        assert set(clear()) == {cache / "small", cache / "array"}
    assert array.sum() == 45  # still open
    assert clear() == {cache / "large": 500, cache / ".large.abcdefgh": 100}
    assert entries() == {}
