"""What the loop asks of the machine: the signal to stop, the memory used, its name."""

from __future__ import annotations

import platform
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class Stopped(SystemExit):
    """SIGTERM came and the run saved a checkpoint; leaves the program with status 143, as the signal would have."""

    def __init__(self) -> None:
        super().__init__(128 + signal.SIGTERM)


@contextmanager
def sigterm(*, catch: bool) -> Iterator[list[int]]:
    """A list that has the signal in it once SIGTERM has come; outside the main thread it stays empty.

    Args:
        catch: False leaves the signal to whoever had it before.
    """
    received: list[int] = []
    before: Any = None
    if catch:
        try:
            before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
        except ValueError:  # not the main thread
            catch = False
    try:
        yield received
    finally:
        if catch:
            signal.signal(signal.SIGTERM, before)


def start_memory(device: torch.device) -> None:
    """Forget earlier peaks of the device."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> dict[str, Any]:
    """``peak_bytes`` and its ``source``: tensors on a GPU since :func:`start_memory`, the whole process on a CPU."""
    if device.type == "cuda":
        return {"peak_bytes": torch.cuda.max_memory_allocated(device), "source": "torch.cuda.max_memory_allocated"}
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"peak_bytes": peak, "source": "peak resident set of the whole process"}


def device_name(device: torch.device) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    threads = torch.get_num_threads()
    return f"{name}, {threads} thread{'s' * (threads > 1)}"


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
