"""Phases and learning rates, both pure functions of the step, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fgvc_lib.backbones import Backbone
from fgvc_lib.config import Config
from fgvc_lib.methods import Method, Phase


@dataclass(frozen=True)
class Stretch:
    """A phase with its place in the run: steps ``start`` to ``stop - 1``."""

    index: int
    phase: Phase
    start: int
    stop: int


def stretches(phases: list[Phase], total: int) -> list[Stretch]:
    """Share out ``total`` optimizer steps; every phase gets at least one, the first ones where there are too few.

    Raises:
        ValueError: fractions that do not sum to one.
    """
    fractions = [phase.fraction for phase in phases]
    if not phases or min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"the fractions of a method's phases must be positive and sum to 1, got {fractions}")
    plan: list[Stretch] = []
    start, fraction = 0, 0.0
    for index, phase in enumerate(phases):
        fraction += phase.fraction
        left = len(phases) - index - 1
        stop = total if left == 0 else min(max(round(fraction * total), start + 1), max(total - left, start + 1), total)
        if stop > start:
            plan.append(Stretch(index, phase, start, stop))
        start = stop
    return plan


def learning_rate(config: Config, stretch: Stretch, step: int, total: int) -> float:
    """The run's learning rate at ``step``, before a group's ``lr_scale``.

    Linear warm-up over the first ``config.warmup`` of each phase, then ``cosine`` to zero at the phase's end, ``step``
    (times ``gamma`` at each milestone, a fraction of the whole run) or ``constant``.
    """
    done, length = step - stretch.start, stretch.stop - stretch.start
    warmup = round(config.warmup * length)
    if config.schedule == "cosine":
        factor = 0.5 + 0.5 * math.cos(math.pi * max(done - warmup, 0) / max(length - warmup, 1))
    elif config.schedule == "step":
        factor = config.gamma ** sum(step >= fraction * total for fraction in config.milestones)
    else:
        factor = 1.0
    if done < warmup:
        factor *= (done + 1) / warmup
    return config.lr * factor


def start_phase(method: Method, phase: Phase, config: Config) -> torch.optim.Optimizer:
    """Freeze what is in no group of ``phase``, or by ``config``, and make the optimizer of the rest.

    Raises:
        ValueError: a group without parameters, or with a key that no group of the optimizer has; more frozen stages
            than there are.
    """
    factors = _backbone_factors(method, config)
    groups: dict[tuple[int, float, bool], dict[str, Any]] = {}
    trained: set[int] = set()
    for index, group in enumerate(phase.groups):
        settings = dict(group)
        params = list(settings.pop("params"))
        scale = settings.pop("lr_scale", 1.0)
        for parameter in params:
            factor = factors.get(id(parameter), 1.0)
            if factor is None:  # frozen
                continue
            trained.add(id(parameter))
            norm = config.norm_weight_decay is not None and parameter.ndim <= 1
            same = groups.setdefault((index, factor, norm), {"params": [], "lr_scale": scale * factor, **settings})
            same["params"].append(parameter)
            same["lr"] = config.lr * same["lr_scale"]
            if norm:
                same["weight_decay"] = config.norm_weight_decay
    if not trained:
        raise ValueError(f"phase {phase.name!r} has no parameters to train")
    for parameter in method.parameters():
        parameter.requires_grad_(id(parameter) in trained)
    found = list(groups.values())
    if config.optimizer == "adamw":
        return torch.optim.AdamW(found, lr=config.lr, betas=(config.momentum, 0.999), weight_decay=config.weight_decay)
    return torch.optim.SGD(found, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)


def _backbone_factors(method: Method, config: Config) -> dict[int, float | None]:
    """The factor on the learning rate of each parameter of a backbone, by ``id``; None where it is frozen."""
    factors: dict[int, float | None] = {}
    for backbone in (module for module in method.modules() if isinstance(module, Backbone)):
        count = len(backbone.stages)
        if config.frozen_stages > count:
            raise ValueError(
                f"frozen_stages must be at most {count}, the backbone's stages, got {config.frozen_stages}"
            )
        for i, name in enumerate(backbone.stages):
            factor = config.backbone_lr_scale * config.layer_decay ** (count - 1 - i)
            for parameter in backbone.blocks[name].parameters():
                factors[id(parameter)] = None if i < config.frozen_stages else factor
    return factors


def train_mode(method: nn.Module, *, norm_eval: bool = False) -> None:
    """Training mode, except for modules whose parameters are all frozen: their BatchNorm keeps its statistics.

    Args:
        method: put into training mode.
        norm_eval: the BatchNorms of the backbones keep theirs too.
    """
    method.train()
    for module in method.modules():
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
        if norm_eval and isinstance(module, Backbone):
            for layer in module.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()
