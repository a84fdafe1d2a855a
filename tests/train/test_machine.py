"""What depends on the machine, with the machine made up: devices, precision, memory, signals."""

from __future__ import annotations

import signal
import sys
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fgvc_lib.train import machine
from fgvc_lib.train.distributed import from_rank_0, gather
from fgvc_lib.train.machine import Precision, pick_device
from fgvc_lib.train.progress import ProgressBar


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


def test_every_process_takes_the_gpu_of_its_number(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device(None) == torch.device("cuda", 1)
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert pick_device("cuda:0") == torch.device("cuda", 0)
    assert pick_device("cpu") == torch.device("cpu")
    monkeypatch.delenv("LOCAL_RANK")
    assert pick_device(None) == torch.device("cuda", 0)
    with pytest.raises(ValueError, match="device cuda:2 was asked for, but there are 2 CUDA devices"):
        pick_device("cuda:2")


def test_without_a_gpu_it_is_the_cpu_and_alone_one_is_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device(None) == torch.device("cpu")
    with pytest.raises(ValueError, match=r"device cuda:0 was asked for, but torch .* finds no CUDA device here"):
        pick_device("cuda:0")
    assert gather("x") == ["x"]
    assert from_rank_0("x") == "x"


@pytest.mark.parametrize(
    ("capability", "dtype", "scaled"),
    [
        ((7, 0), torch.float16, True),  # V100
        ((7, 5), torch.float16, True),  # T4, which emulates bfloat16 slowly and says that it supports it
        ((8, 0), torch.bfloat16, False),  # A100
        ((8, 9), torch.bfloat16, False),  # L4
        ((9, 0), torch.bfloat16, False),  # H100
    ],
)
def test_auto_follows_the_compute_capability(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype, scaled: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    precision = Precision("auto", torch.device("cuda"))
    assert precision.dtype is dtype
    assert precision.scaler.is_enabled() is scaled


def test_auto_on_a_cpu_is_float32_without_autocast() -> None:
    precision = Precision("auto", torch.device("cpu"))
    assert precision.dtype is torch.float32
    assert not precision.scaler.is_enabled()
    with precision.autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_used(name: str) -> None:
    precision = Precision(name, torch.device("cpu"))
    x = torch.ones(2, 2)
    with precision.autocast():
        assert (x @ x).dtype is getattr(torch, name)


def test_memory_and_name_of_a_gpu_are_its_own(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[Any] = []
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", called.append)
    monkeypatch.setattr(torch.cuda, "synchronize", called.append)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda where: 123)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "a GPU")
    gpu = torch.device("cuda", 1)
    machine.start_memory(gpu)
    machine.synchronize(gpu)
    assert called == [gpu, gpu]
    assert machine.peak_memory(gpu) == {"peak_bytes": 123, "source": "torch.cuda.max_memory_allocated"}
    assert machine.device_name(gpu) == "a GPU"


def test_a_cpu_is_named_and_memory_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    before = machine.peak_memory(cpu)["peak_bytes"]
    assert before > 50e6  # torch alone takes more
    monkeypatch.setattr(machine.sys, "platform", "darwin")  # where the unit is a byte and not 1024
    assert machine.peak_memory(cpu)["peak_bytes"] < before / 500
    monkeypatch.setattr(machine.Path, "exists", lambda path: False)
    monkeypatch.setattr(machine.platform, "processor", lambda: "a processor")
    assert machine.device_name(cpu) == "a processor"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_signal_is_caught_inside_only(number: signal.Signals) -> None:
    outer: list[int] = []
    before = signal.signal(number, lambda number, frame: outer.append(number))
    try:
        with machine.stop_signals(catch=True) as received:
            signal.raise_signal(number)
        assert received == [number]
        assert machine.Stopped(received).code == 128 + number
        with machine.stop_signals(catch=False) as received:
            signal.raise_signal(number)
        assert (received, outer) == ([], [number])
        signal.raise_signal(number)
        assert len(outer) == 2  # whoever had it has it again
    finally:
        signal.signal(number, before)


def test_a_third_ctrl_c_does_not_wait() -> None:
    with machine.stop_signals(catch=True) as received:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert received == [signal.SIGINT] * 2


def test_outside_of_the_main_thread_no_signal_is_caught() -> None:
    found: list[Any] = []

    def elsewhere() -> None:
        with machine.stop_signals(catch=True) as received:
            found.append(received)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [[]]
    assert machine.Stopped([]).code == 143  # another process was told


def test_a_resumed_run_is_shown_from_where_it_stands(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[Any, ...]] = []

    class Writer:
        def __init__(self, folder: str, *, purge_step: int) -> None:
            written.append((folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def flush(self) -> None: ...

        def close(self) -> None:
            written.append(("closed",))

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    with ProgressBar(10, start=4, tensorboard=tmp_path) as bar:
        assert str(bar._bar).startswith(" 40%")
        bar.step(5, {"ce": 1.5, "center": 0.25}, lr=0.1, images=8)
        assert "5/10" in str(bar._bar)
        bar.epoch(5, {"epoch": 3, "loss": 1.75, "train_accuracy": 0.5, "val_accuracy": 0.25, "val_loss": 2.0})
    assert written == [
        (str(tmp_path), 4),
        ("train/ce", 1.5, 5),
        ("train/center", 0.25, 5),
        ("train/lr", 0.1, 5),
        ("epoch/train_accuracy", 0.5, 5),
        ("epoch/val_accuracy", 0.25, 5),
        ("epoch/val_loss", 2.0, 5),
        ("closed",),
    ]


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="TensorBoard is not installed: pip install tensorboard"):
        ProgressBar(3, show=False, tensorboard=tmp_path)
