"""A training step as benchmarks take it, and how much it computes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from fgvc_lib.methods import Method
from fgvc_study.estimate import operation_counter


def training_step(method: Method, images: Tensor, labels: Tensor, precision: str = "float32") -> Callable[[], None]:
    """Forward, loss, backward and SGD."""
    optimizer = torch.optim.SGD(method.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = method(images, labels).loss
        loss.backward()
        optimizer.step()

    return step


def multiply_adds(build: Callable[[], Method], side: int, *, batch: int = 2) -> float:
    """Multiply-adds (convolutions, matrix products) of a training step, an image; counted on tensors without values."""
    # the counter does not know a CPU's fused attention; the plain formula has the same products
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH), operation_counter() as counter:
        build()(torch.zeros(batch, 3, side, side), torch.zeros(batch, dtype=torch.int64)).loss.backward()
    flops: int = counter.get_total_flops()
    return flops / 2 / batch
