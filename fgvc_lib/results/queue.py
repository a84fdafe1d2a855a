"""Measure what ``data/runs.yaml`` wants and nobody has measured yet.

Small runs leave most of a GPU idle, so several go side by side: each worker takes every n-th run of the list. A large
one can have several GPUs: under ``torchrun`` the processes share each run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from fgvc_lib.results import wanted
from fgvc_lib.results.run import run
from fgvc_lib.train import distributed


def work(
    profile: str,
    *,
    only: str = "",
    share: tuple[int, int] = (0, 1),
    device: str | None = None,
    minutes: float | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Measure a share of the missing runs, the most wanted first; returns how many were measured.

    Args:
        profile: of ``data/runs.yaml``.
        only: take groups whose name starts so.
        share: ``(k, n)`` takes every n-th run from the k-th on.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        minutes: start no run after this long.
        say: is told of each run.
    """
    start, measured = time.monotonic(), 0
    with distributed.process_group(distributed.pick_device(device)):
        runs = distributed.from_rank_0(wanted.missing(profile, only=only))[share[0] :: share[1]]
        for group, row, config in runs:
            late = minutes is not None and time.monotonic() - start > 60 * minutes
            if distributed.from_rank_0(late):
                break
            before = time.monotonic()
            record = run(config, profile=profile, chapter=group.chapter, device=device)
            measured += 1
            if record.diverged:
                result = f"diverged at step {record.final['diverged_at_step']:.0f}"
            else:
                result = f"{100 * record.final['test_accuracy']:.2f} %"
            if distributed.rank() == 0:
                say(f"{group.name} | {row} | seed {config.seed} | {result} | {time.monotonic() - before:.0f} s")
    return measured


def work_side_by_side(
    profile: str, jobs: int, *, only: str = "", minutes: float | None = None, device: str | None = None
) -> int:
    """Share the missing runs among ``jobs`` processes, CPU threads divided among them; returns the worst exit code."""
    threads = str(max(1, torch.get_num_threads() // jobs))
    command = [sys.executable, "-m", "fgvc_lib", "runs", "--profile", profile, "--only", only]
    if minutes is not None:
        command += ["--minutes", str(minutes)]
    if device is not None:
        command += ["--device", device]
    workers = [
        subprocess.Popen([*command, "--share", f"{k}/{jobs}"], env={**os.environ, "OMP_NUM_THREADS": threads})
        for k in range(jobs)
    ]
    return max(worker.wait() for worker in workers)
