"""What depends on the machine, with the machine made up: devices, precision, memory, signals."""

from __future__ import annotations

import signal
import threading
from typing import Any

import pytest
import torch

from fgvc_lib.train import machine
from fgvc_lib.train.distributed import from_rank_0, gather, pick_device
from fgvc_lib.train.precision import Precision
from fgvc_lib.train.progress import Progress


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
    ("device", "capability", "dtype"),
    [
        ("cpu", None, torch.float32),
        ("cuda", (9, 0), torch.bfloat16),
        ("cuda", (8, 0), torch.bfloat16),
        ("cuda", (7, 5), torch.float16),  # bfloat16 would be emulated there
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, where there is no such device
def test_automatic_precision_is_what_the_device_computes_in(
    device: str, capability: Any, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: capability)
    precision = Precision("auto", torch.device(device))
    assert precision.dtype == dtype
    if torch.cuda.is_available() or device == "cpu":
        assert precision.scaler.is_enabled() == (dtype == torch.float16)


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


def test_a_cpu_is_named_with_its_threads_and_memory_is_the_processs(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    before = machine.peak_memory(cpu)["peak_bytes"]
    assert before > 50e6  # torch alone takes more
    monkeypatch.setattr(machine.sys, "platform", "darwin")  # where the unit is a byte and not 1024
    assert machine.peak_memory(cpu)["peak_bytes"] < before / 500
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert machine.device_name(cpu).endswith(", 3 threads")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert machine.device_name(cpu).endswith(", 1 thread")


def test_the_signal_is_caught_inside_only_and_in_the_main_thread_only() -> None:
    outer: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: outer.append(number))
    try:
        with machine.sigterm(catch=True) as received:
            signal.raise_signal(signal.SIGTERM)
        assert received == [signal.SIGTERM]
        with machine.sigterm(catch=False) as received:
            signal.raise_signal(signal.SIGTERM)
        assert (received, outer) == ([], [signal.SIGTERM])
        signal.raise_signal(signal.SIGTERM)
        assert len(outer) == 2  # whoever had it has it again
    finally:
        signal.signal(signal.SIGTERM, before)

    found: list[Any] = []

    def elsewhere() -> None:
        with machine.sigterm(catch=True) as received:
            found.append(received)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert found == [[]]
    assert machine.Stopped().code == 143


def test_tensorboard_that_is_not_installed_is_named(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match="TensorBoard is not installed: pip install tensorboard"):
        Progress(3, show=False, tensorboard=tmp_path)
