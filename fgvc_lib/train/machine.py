"""What the loop asks of the machine: a device and its precision, the signal to stop, the memory used, a name."""

from __future__ import annotations

import os
import platform
import re
import resource
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def pick_device(device: torch.device | str | None) -> torch.device:
    """``device``, or else this process's GPU (``LOCAL_RANK``), or else the CPU."""
    name = str(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device must be cuda, cuda:N or cpu, got {name!r}")
    device = torch.device(name)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"device {device} was asked for, but torch {torch.__version__} finds no CUDA device here")
        if device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if device.index >= torch.cuda.device_count():
            raise ValueError(f"device {device} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
    return device


class Precision:
    """Autocast and the gradient scaler that goes with it.

    Args:
        name: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``: bfloat16 where the GPU computes in it
            natively (compute capability 8), float16 on older GPUs, float32 on a CPU. Bfloat16 on a CPU is worth
            asking for where the CPU has matrix units for it (AMX): about twice the speed.
        device: where the method runs.

    Attributes:
        dtype: of autocast, or ``torch.float32`` for none.
        scaler: enabled for float16 only, whose gradients would underflow; otherwise it does nothing.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "float32"
            if device.type == "cuda":
                name = "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
        self.device_type = device.type
        self.dtype: torch.dtype = getattr(torch, name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """For the forward pass, the loss included."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not torch.float32)


def to_host(values: Tensor) -> Callable[[], list[float]]:
    """Start copying ``values`` to the CPU; call the result to have them.

    On a GPU the call waits for what was queued before the copy only, not for what has been queued since: asked for
    between forward and backward pass, the values arrive while the device works on the backward pass.
    """
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
    copied.record()

    def wait() -> list[float]:
        copied.synchronize()
        return host.tolist()

    return wait


class Stopped(SystemExit):
    """The run was told to stop and saved a checkpoint; leaves the program with the status that the signal would have.

    Args:
        signals: that came to this process; SIGTERM where only another one was told.
    """

    def __init__(self, signals: list[int]) -> None:
        super().__init__(128 + (signals[0] if signals else signal.SIGTERM))


@contextmanager
def stop_signals(*, catch: bool) -> Iterator[list[int]]:
    """A list that SIGTERM and SIGINT (Ctrl-C) are added to when they come; outside the main thread it stays empty.

    A third Ctrl-C does not wait for the checkpoint. (Under ``torchrun`` one Ctrl-C arrives twice.)

    Args:
        catch: False leaves the signals to whoever had them before.
    """
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received.count(signal.SIGINT) > 1:
            raise KeyboardInterrupt
        received.append(number)

    before: dict[int, Any] = {}
    try:
        if catch and threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
    """The name of the GPU's or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.processor() or platform.machine())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what was queued, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
