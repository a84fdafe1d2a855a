"""Sees every step's loss terms on the CPU without making the device wait."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


class NonFiniteLoss(ArithmeticError):
    """A loss term, or a weight, became infinite or not a number.

    Raised before the optimizer, the method's ``after_step`` or a checkpoint has seen it.

    Attributes:
        step: optimizer steps taken before.
        terms: name → value of every term, averaged over micro-batches and processes.
    """

    def __init__(self, message: str, *, step: int, terms: Mapping[str, float]) -> None:
        super().__init__(message)
        self.step, self.terms = step, dict(terms)


def to_host(values: Tensor) -> Callable[[], list[float]]:
    """Start copying ``values`` to the CPU; call the result to have them.

    On a GPU the call waits for what was queued before the copy only, not for what has been queued since: asked for
    between forward and backward pass, the terms arrive while the device works on the backward pass.
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


def check_finite(terms: Mapping[str, float], step: int) -> None:
    """Raise :class:`NonFiniteLoss` if a term is infinite or NaN, naming it, the step and all terms."""
    bad = [name for name, value in terms.items() if not math.isfinite(value)]
    if bad:
        shown = ", ".join(f"{name} = {value:.6g}" for name, value in terms.items())
        raise NonFiniteLoss(
            f"loss term {' and '.join(bad)} is not finite at step {step + 1} ({shown}): "
            "training stopped before the weights changed; try a smaller lr, warm-up, clipping or float32",
            step=step,
            terms=terms,
        )


def check_weights(module: torch.nn.Module, step: int) -> None:
    """Raise :class:`NonFiniteLoss` if a parameter is not finite, as gradients can make it under a finite loss."""
    named = dict(module.named_parameters())
    finite = torch.stack([torch.isfinite(parameter).all() for parameter in named.values()]).tolist()
    for name, good in zip(named, finite, strict=True):
        if not good:
            raise NonFiniteLoss(
                f"parameter {name} is not finite after step {step}: no checkpoint was written of it; "
                "try a smaller lr, warm-up, clipping or float32",
                step=step,
                terms={},
            )
