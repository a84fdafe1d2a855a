"""``auto`` is bfloat16 only where the GPU computes in it, float16 with a scaler on older GPUs, float32 on a CPU."""

import pytest
import torch

from fgvc_lib.train.precision import Precision


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
def test_auto_follows_the_compute_capability(monkeypatch, capability, dtype, scaled):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    precision = Precision("auto", torch.device("cuda"))
    assert precision.dtype is dtype
    assert precision.scaler.is_enabled() is scaled


def test_auto_on_a_cpu_is_float32_without_autocast():
    precision = Precision("auto", torch.device("cpu"))
    assert precision.dtype is torch.float32
    assert not precision.scaler.is_enabled()
    with precision.autocast():
        assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_what_is_asked_for_is_used(name):
    precision = Precision(name, torch.device("cpu"))
    x = torch.ones(2, 2)
    with precision.autocast():
        assert (x @ x).dtype is getattr(torch, name)
