"""The cache: built once, by one process, or not at all."""

import numpy as np
import pytest

from fgvc_lib.data.cache import cache_folder, cached, open_array


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
