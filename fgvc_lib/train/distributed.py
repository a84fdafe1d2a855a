"""One process or many: what ``torchrun`` announces in the environment, as a few plain functions.

Without a process group every function is the identity, so that the loop has no branch for it.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


def rank() -> int:
    """Number of this process, 0 to ``world_size() - 1``."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the group that ``torchrun`` announces, on any number of machines, and leave it at the end.

    Does nothing in a plain process, or where the caller has set up a group already.
    """
    if dist.is_initialized() or int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def mean(values: Tensor) -> Tensor:
    """``values`` averaged over the processes; not finite where any of them is not."""
    return total(values) / world_size()


def total(values: Tensor) -> Tensor:
    """``values`` summed over the processes, in place."""
    if dist.is_initialized():
        dist.all_reduce(values)
    return values


def sync_batchnorm(module: nn.Module) -> nn.Module:
    """``module`` with BatchNorms that normalize over all processes; timm's, which hold their activation, by timm."""
    if any(type(layer).__module__.startswith("timm.") for layer in module.modules()):
        convert = importlib.import_module("timm.layers").convert_sync_batchnorm
    else:
        convert = nn.SyncBatchNorm.convert_sync_batchnorm
    return cast(nn.Module, convert(module))


def copy_buffers(module: nn.Module) -> None:
    """Give every process the buffers of rank 0: without SyncBatchNorm, running statistics drift apart."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather(value: T) -> list[T]:
    """The objects of all processes, by rank."""
    if not dist.is_initialized():
        return [value]
    values: list[T | None] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values  # type: ignore[return-value]


def from_rank_0(value: T) -> T:
    """Rank 0's object, on every process."""
    if not dist.is_initialized():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
