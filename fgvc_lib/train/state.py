"""All that a run must remember to go on as if it had never stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel
from torchmetrics import Metric

from fgvc_lib.methods import Method
from fgvc_lib.train import distributed
from fgvc_lib.train.precision import Precision
from fgvc_lib.train.random_state import get_random_state, set_random_state


@dataclass
class RunState:
    """Position and bookkeeping of a run; plain data.

    Attributes:
        step: optimizer steps done, skipped ones included; with the loader's length, the epoch and the place in it.
        phase: index of the phase that the optimizer belongs to.
        skipped: steps that float16 overflows have cost.
        history: finished epochs.
        sums, steps: of the loss terms in the running epoch.
        epoch_seconds: training time of the running epoch.
        evaluation_seconds: of all epochs so far.
    """

    step: int = 0
    phase: int = 0
    skipped: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    epoch_seconds: float = 0.0
    evaluation_seconds: float = 0.0

    def count(self, terms: dict[str, float]) -> None:
        """A step is done; these were its loss terms."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.steps += 1
        self.step += 1

    def means(self) -> dict[str, float]:
        """``loss`` and its terms, averaged over the running epoch."""
        terms = {name: value / self.steps for name, value in self.sums.items()}
        return {"loss": sum(terms.values()), **terms}

    def end_epoch(self, row: dict[str, Any], *, evaluation_seconds: float) -> None:
        """Append ``row`` to the history and start counting anew."""
        self.history.append(row)
        self.sums, self.steps, self.epoch_seconds = {}, 0, 0.0
        self.evaluation_seconds += evaluation_seconds


def snapshot(
    run: RunState,
    *,
    method: Method,
    ema: AveragedModel | None,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    accuracy: Metric,
    device: torch.device,
) -> dict[str, Any]:
    """Everything, as tensors and plain data. All processes must call it: each has random states of its own.

    Learning rates and the sampler are functions of the step, so ``step`` is all they need.
    """
    own = {
        "random": get_random_state(device),
        "rank_generator": method.rank_generator.get_state(),
        "accuracy": {name: torch.as_tensor(value).cpu() for name, value in accuracy.metric_state.items()},
    }
    return {
        "run": asdict(run),
        "phase": run.phase,
        "method": method.state_dict(),
        "unsaved_buffers": _unsaved_buffers(method),
        "shared_generator": method.shared_generator.get_state(),
        "ema": None if ema is None else ema.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": precision.scaler.state_dict(),
        "ranks": distributed.gather(own),
    }


def restore(
    saved: dict[str, Any],
    *,
    method: Method,
    ema: AveragedModel | None,
    precision: Precision,
    accuracy: Metric,
    device: torch.device,
) -> RunState:
    """Put everything back but the optimizer, which is made when its phase starts."""
    method.load_state_dict(saved["method"])
    method.shared_generator.set_state(saved["shared_generator"])
    if ema is not None:
        ema.load_state_dict(saved["ema"])
    for owner in [method] if ema is None else [method, ema.module]:
        buffers = dict(owner.named_buffers())
        for name, value in saved["unsaved_buffers"].items():
            buffers[name].copy_(value)
    precision.scaler.load_state_dict(saved["scaler"])
    own = saved["ranks"][distributed.rank()]
    method.rank_generator.set_state(own["rank_generator"])
    set_random_state(own["random"], device)
    for name, value in own["accuracy"].items():
        setattr(accuracy, name, value.to(device))
    return RunState(**saved["run"])


def _unsaved_buffers(method: Method) -> dict[str, torch.Tensor]:
    """Buffers registered with ``persistent=False``, which ``state_dict`` leaves out."""
    kept = method.state_dict().keys()
    return {name: value for name, value in method.named_buffers() if name not in kept}
