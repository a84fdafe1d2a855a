"""One step of the loop: the gradients, then the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics import Metric

from fgvc_lib.methods import Output
from fgvc_lib.train import distributed
from fgvc_lib.train.precision import Precision
from fgvc_lib.train.watch import to_host


def forward_backward(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    accumulate: int,
    precision: Precision,
    accuracy: Metric,
    stop: list[int],
) -> tuple[list[dict[str, Tensor]], dict[str, float], bool]:
    """Leave the gradients of one step in the parameters.

    Args:
        model: the method, perhaps compiled or in DistributedDataParallel, in training mode.
        images: ``(B, C, H, W)``, this process's share of the step.
        labels: ``(B,)``.
        accumulate: equal micro-batches to compute one after the other; divides B.
        precision: autocast and gradient scaler.
        accuracy: running metric, updated.
        stop: not empty once this process was told to stop.

    Returns:
        The states of the micro-batches, the loss terms averaged over them and over the processes, and whether any
        process was told to stop.
    """
    states: list[dict[str, Tensor]] = []
    total: Tensor | None = None
    arrived: Callable[[], list[float]] = list
    output: Output | None = None
    for i, (x, y) in enumerate(zip(images.chunk(accumulate), labels.chunk(accumulate), strict=True)):
        last = i == accumulate - 1
        alone = isinstance(model, DistributedDataParallel) and not last  # gradients are exchanged once a step
        with cast(DistributedDataParallel, model).no_sync() if alone else nullcontext():
            with precision.autocast():
                output = cast(Output, model(x.contiguous(memory_format=torch.channels_last), y))
            values = torch.stack([term.detach().float() for term in output.terms.values()]) / accumulate  # (terms,)
            total = values if total is None else total + values
            states.append(output.state)
            accuracy.update(output.logits.detach(), y)
            if last:  # asked for now, the terms arrive while the device is busy going backward
                flag = torch.full((1,), float(bool(stop)), device=images.device)
                arrived = to_host(distributed.mean(torch.cat([total, flag])))
            precision.scaler.scale(output.loss / accumulate).backward()  # type: ignore[no-untyped-call]
    assert output is not None
    *means, stopping = arrived()
    return states, dict(zip(output.terms, means, strict=True)), stopping > 0


def optimizer_step(optimizer: torch.optim.Optimizer, precision: Precision, *, clip: float | None) -> bool:
    """Clip the gradients, step once, clear them.

    Args:
        optimizer: of the running phase.
        precision: its scaler unscales the gradients before they are clipped, and skips the step where they overflowed.
        clip: largest norm of all gradients together, None for no clipping.

    Returns:
        Whether the step was taken.
    """
    scaler = precision.scaler
    if clip is not None:
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
    scale = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return scaler.get_scale() >= scale  # it shrinks exactly when the step was skipped
