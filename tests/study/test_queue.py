"""Working through the wanted runs: every worker its share, no new run after the time, the worst exit code told."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from fgvc_lib.config import Config
from fgvc_study import queue


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Five runs are missing; the seeds of those that were made, and in which profile."""
    made: list[tuple[int, str]] = []
    group = SimpleNamespace(name="ch/table", chapter="ch")

    def run(config: Config, *, profile: str, chapter: str, device: str | None) -> Any:
        assert (chapter, device) == ("ch", "cpu")
        made.append((config.seed, profile))
        return SimpleNamespace(final={"test_accuracy": 0.5}, diverged=False)

    missing = [(group, "a row", Config(seed=seed)) for seed in range(5)]
    monkeypatch.setattr(queue.wanted, "missing", lambda profile, only: missing)
    monkeypatch.setattr(queue, "run", run)
    return made


def test_a_worker_takes_every_nth_run_and_says_each(ran):
    said: list[str] = []
    assert queue.work("gpu", share=(1, 2), device="cpu", say=said.append) == 2
    assert ran == [(1, "gpu"), (3, "gpu")]
    assert [line.rsplit(" | ", 1)[0] for line in said] == [f"ch/table | a row | seed {s} | 50.00 %" for s in (1, 3)]


def test_no_run_starts_after_the_time(ran, monkeypatch):
    monkeypatch.setattr(queue, "time", SimpleNamespace(monotonic=lambda: 60.0 * len(ran)))  # every run takes a minute
    said: list[str] = []
    assert queue.work("gpu", device="cpu", minutes=1.5, say=said.append) == 2
    assert [seed for seed, _ in ran] == [0, 1]
    assert said[0].endswith(" | 60 s")


def test_side_by_side_every_process_gets_its_share_and_the_worst_code_counts(monkeypatch):
    started: list[tuple[list[str], str]] = []

    class Process:
        def __init__(self, command: list[str], *, env: dict[str, str]) -> None:
            started.append((command, env["OMP_NUM_THREADS"]))
            self.code = [0, 3, 1][len(started) - 1]

        def wait(self) -> int:
            return self.code

    monkeypatch.setattr(queue.subprocess, "Popen", Process)
    monkeypatch.setattr(queue.torch, "get_num_threads", lambda: 7)
    assert queue.work_side_by_side("gpu", 3, only="ch/", minutes=5.0, device="cuda:1") == 3
    expected = [sys.executable, "-m", "fgvc_lib", "runs", "--profile", "gpu", "--only", "ch/", "--minutes", "5.0"]
    assert started == [([*expected, "--device", "cuda:1", "--share", f"{k}/3"], "2") for k in range(3)]


def test_a_diverging_run_is_told_of_and_not_measured_again(ran, monkeypatch):
    measure = queue.run

    def diverging(config, **where):
        record = measure(config, **where)
        return SimpleNamespace(final={"diverged_at_step": 4.0}, diverged=True) if config.seed == 1 else record

    said: list[str] = []
    monkeypatch.setattr(queue, "run", diverging)
    assert queue.work("cpu", device="cpu", say=said.append) == 5
    assert said[1].startswith("ch/table | a row | seed 1 | diverged at step 4 | ")
