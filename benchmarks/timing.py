"""What the benchmarks share: candidates that take turns, memory, and a record of where the numbers come from."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from fgvc_study import provenance
from fgvc_study.estimate import AliveBytes

FOLDER = Path(os.environ.get("FGVC_BENCHMARKS") or Path(__file__).parents[1] / "data" / "benchmarks")
"""Where records go; ``FGVC_BENCHMARKS`` sends those of trials elsewhere."""


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """The command line of a benchmark: what every one of them asks; ``doc`` is the script's."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--note", default="", help="what else ran on the machine, for the record")
    return parser


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that the clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clock(device: torch.device) -> float:
    """Seconds: of the processor on a CPU, which other programs on the machine hardly change; wall time on a GPU, once
    that is done."""
    if device.type == "cpu":
        return time.process_time()
    synchronize(device)
    return time.perf_counter()


def clocked(work: Callable[[], Any], device: torch.device, *, calls: int = 1) -> Callable[[], float]:
    """``work`` as a candidate of :func:`take_turns`: it returns the seconds of one call, the mean of ``calls``.

    On a GPU an uncounted call comes first: a turn starts with an empty allocator, which a loop meets only once.
    """

    def run() -> float:
        if device.type == "cuda":
            work()
        start = clock(device)
        for _ in range(calls):
            work()
        return (clock(device) - start) / calls

    return run


def take_turns(
    candidates: Mapping[str, Callable[[], float]], *, repeats: int, device: torch.device, warmup: int = 1
) -> dict[str, dict[str, Any]]:
    """Run every candidate once per round, so that a machine that grows slow or busy does so for all of them.

    Args:
        candidates: each does a fixed amount of work and returns the seconds that count.
        repeats: rounds that count.
        device: whose memory to watch.
        warmup: rounds before that do not.

    Returns:
        Per candidate ``median``, ``fastest`` and all ``seconds``, and its memory, see :func:`memory`.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    used: dict[str, dict[str, int]] = {}
    for i in range(warmup + repeats):
        for name, run in candidates.items():
            if device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(device)
            taken = run()
            used[name] = memory(device)
            if i >= warmup:
                seconds[name].append(taken)
    return {
        name: {"median": statistics.median(s), "fastest": min(s), "seconds": s, **used[name]}
        for name, s in seconds.items()
    }


def without_rounds(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """``median`` and ``fastest`` of what :func:`take_turns` found."""
    return {name: {kind: row[kind] for kind in ("median", "fastest")} for name, row in found.items()}


def timed(
    work: Mapping[str, Callable[[], Any]], *, repeats: int, device: torch.device, calls: int = 1, warmup: int = 1
) -> dict[str, dict[str, float]]:
    """``median`` and ``fastest`` seconds a call of each, taken in turns of ``calls``, after ``warmup`` rounds."""
    candidates = {name: clocked(call, device, calls=calls) for name, call in work.items()}
    return without_rounds(take_turns(candidates, repeats=repeats, device=device, warmup=warmup))


def peak_bytes(work: Callable[[], Any], device: torch.device) -> int:
    """Most memory that ``work`` takes at once beyond what was there before; on a CPU that of tensors, without what
    kernels use inside."""
    if device.type == "cuda":
        synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        most: int = torch.cuda.max_memory_allocated(device)
        return most - before
    with AliveBytes() as alive:
        work()
    peak: int = alive.peak
    return peak


def memory(device: torch.device) -> dict[str, int]:
    """Bytes in use: ``gpu_peak_bytes`` of tensors, and ``host_bytes`` of this process and its children.

    Host memory is the proportional set size where Linux tells it: a page that processes share counts once in all.
    """
    found = {}
    if device.type == "cuda":
        found["gpu_peak_bytes"] = torch.cuda.max_memory_allocated(device)
    family, waiting = [], [os.getpid()]
    try:
        while waiting:
            process = waiting.pop()
            family.append(process)
            for task in Path(f"/proc/{process}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        rows = [Path(f"/proc/{process}/smaps_rollup").read_text().splitlines() for process in family]
        kibibytes = [int(line.split()[1]) for lines in rows for line in lines if line.startswith("Pss:")]
        found["host_bytes"] = 1024 * sum(kibibytes)
    except OSError:  # not Linux, or a child that has just ended
        pass
    return found


def write(name: str, device: torch.device, results: Mapping[str, Any], *, note: str = "") -> Path:
    """Write ``data/benchmarks/<name>-<device>.json`` with device, versions, commit and date; print it too."""
    sha, dirty = provenance.commit()
    info = provenance.device_info(device)
    record = {
        "benchmark": name,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "device": info | {"cores": os.cpu_count()},
        "versions": provenance.versions(),
        "commit": sha,
        "dirty": dirty,
        "note": note,
        **results,
    }
    short = "cpu" if device.type == "cpu" else "-".join(info["name"].lower().split())
    path = FOLDER / f"{name}-{short}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))
    return path
