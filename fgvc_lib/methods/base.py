"""The one interface between a method and the training loop.

A method owns its forward pass *and* its loss. The loop calls ``forward``, sums ``terms``, steps the
optimizer and hands the detached ``state`` back to ``after_step``; it knows nothing else about any paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Output(NamedTuple):
    """What one forward pass returns.

    Attributes:
        logits: ``(B, C)``, the prediction; its softmax is the class probability.
        terms: named, already weighted scalar losses whose sum trains. Empty in evaluation.
        maps: named tensors for pictures and measurements, such as attention ``(B, K, H, W)``,
            boxes or sampled images. Never part of the loss.
        state: named detached tensors that :meth:`Method.after_step` needs. Empty in evaluation.
    """

    logits: Tensor
    terms: dict[str, Tensor] = {}  # noqa: RUF012 - a NamedTuple default, never mutated
    maps: dict[str, Tensor] = {}  # noqa: RUF012
    state: dict[str, Tensor] = {}  # noqa: RUF012

    @property
    def loss(self) -> Tensor:
        """The sum of the terms, a scalar in float32, or in float64 where the method is."""
        if not self.terms:
            raise ValueError("this output has no loss terms: call the method in training mode with labels to get some")
        terms = torch.stack(list(self.terms.values()))
        return terms.sum(dtype=torch.promote_types(terms.dtype, torch.float32))


@dataclass(frozen=True)
class Phase:
    """A stretch of training with its own parameter groups.

    Attributes:
        groups: torch optimizer groups: dicts with ``params`` and, optionally, ``lr_scale`` (a factor on
            the run's learning rate, default 1) and ``weight_decay``. A parameter in no group is frozen
            for the phase, and a module whose parameters are all frozen stays in evaluation mode.
        fraction: of the run's epochs; the fractions of a method's phases sum to one.
        name: for logs and records.
    """

    groups: list[dict[str, Any]]
    fraction: float = 1.0
    name: str = "all"


class Method(nn.Module):
    """Base class of the six methods and their baselines.

    Subclasses implement :meth:`forward` and override the rest where the paper asks for it.

    Two sources of randomness, both ``torch.Generator`` on the CPU: ``shared_generator`` draws what every
    rank must agree on (a mask per class), ``rank_generator`` what each image may have of its own.
    Neither depends on torch's global state, so a run is a function of its seed.

    Attributes:
        revision: of the numbers that the method computes; raised whenever they change, so that a record says which
            ones it holds.
        sampler: ``None`` for plain shuffling, or ``(P, K)`` for batches of P classes × K images.
        label_smoothing: of :meth:`cross_entropy`; set by the run.
        class_weights: ``(C,)``, of :meth:`cross_entropy`, which is then a weighted mean; set by the run.
        splits: how many equal parts a step computes its batch in, micro-batches × processes; set by the run, which
            averages gradients and terms over them. A term that is a sum over the batch multiplies by it to stay one.
    """

    revision: int = 1
    sampler: tuple[int, int] | None = None
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    splits: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.shared_generator = torch.Generator()
        self.rank_generator = torch.Generator()
        self.seed(0)

    def seed(self, seed: int, rank: int = 0) -> None:
        """Start both generators anew; ``rank`` only moves the second."""
        self.shared_generator.manual_seed(seed)
        self.rank_generator.manual_seed(seed + 7919 * (rank + 1))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        """Predict, and in training mode compute the loss terms.

        Pure apart from BatchNorm's running statistics and the generators. In evaluation mode ``labels``
        change nothing. In training mode the same parameters get a gradient at every step (a term with
        nothing to do contributes ``0 * x``), because DistributedDataParallel waits for all of them.

        Args:
            images: ``(B, 3, H, W)`` floats, normalized. In training B ≥ 1, and B ≥ 2 for heads with BatchNorm; in
                evaluation an empty batch gives empty logits.
            labels: ``(B,)`` class indices, integers of any type; needed in training mode.
        """
        raise NotImplementedError

    def after_step(self, states: list[dict[str, Tensor]]) -> None:
        """Update what no optimizer owns; called once per optimizer step *taken*.

        Args:
            states: the ``Output.state`` of every micro-batch of the step, in order, on this rank.
        """

    def phases(self) -> list[Phase]:
        """The training schedule as parameter groups; one phase with everything by default."""
        return [Phase([{"params": list(self.parameters())}])]

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Mean cross-entropy in float32 (float64 for float64 logits), with the run's label smoothing and weights."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        return F.cross_entropy(logits, labels, weights, label_smoothing=self.label_smoothing)

    def check_batch(self, images: Tensor, labels: Tensor | None) -> Tensor | None:
        """Refuse a batch that no method can use, in one sentence; return its labels as int64."""
        if images.ndim != 4 or not images.is_floating_point():
            raise ValueError(
                f"images must be a float tensor (B, 3, H, W), got {images.dtype} of shape {tuple(images.shape)}"
            )
        if self.training:
            if labels is None:
                raise ValueError("labels are needed in training mode; call .eval() first to predict without them")
            if images.shape[0] == 0:
                raise ValueError("a training batch needs at least one image, got an empty one")
            if images.shape[0] == 1 and any(isinstance(m, nn.BatchNorm1d) and m.training for m in self.modules()):
                raise ValueError(
                    f"a head of {type(self).__name__} normalizes over the batch, so training needs at least 2 images, "
                    "got 1: use larger batches or fewer micro-batches"
                )
        if labels is None:
            return None
        if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
            raise ValueError(
                f"labels must be integers of shape ({images.shape[0]},), got {labels.dtype} of shape "
                f"{tuple(labels.shape)}"
            )
        return labels.long()
