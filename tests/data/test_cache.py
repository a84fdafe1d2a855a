"""The cache: built once, by one process, or not at all."""

import multiprocessing
import time

import numpy as np
import pytest

from fgvc_lib.data.cache import cache_folder, cached, open_array


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def build_slowly(folder):
    time.sleep(0.3)
    with (folder.parent / "built.txt").open("a") as log:
        log.write("x")
    np.save(folder / "a.npy", np.arange(10))


def worker(queue):
    queue.put(open_array(cached("entry", build_slowly) / "a.npy").sum())


def test_two_processes_build_one_entry(cache):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=worker, args=(queue,)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [queue.get(timeout=60) for _ in processes] == [45, 45]
    for process in processes:
        process.join()
    assert (cache / "built.txt").read_text() == "x"


def test_a_failed_build_leaves_nothing_and_can_be_repeated(cache):
    def fail(folder):
        (folder / "half").write_text("")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        cached("entry", fail)
    assert [p.name for p in cache.iterdir() if p.is_dir()] == []
    assert (cached("entry", build_slowly) / "a.npy").is_file()


def test_an_entry_is_not_built_again():
    cached("entry", build_slowly)
    cached("entry", lambda folder: pytest.fail("built twice"))


def test_writing_to_the_map_does_not_change_the_file():
    path = cached("entry", build_slowly) / "a.npy"
    array = open_array(path)
    array[:] = 0
    assert open_array(path).sum() == 45


def test_folder_without_the_variable(monkeypatch, tmp_path):
    monkeypatch.delenv("FGVC_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "fgvc"
