"""Learning rates by hand, and phases that always share out every step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fgvc_lib.config import Config
from fgvc_lib.methods import Method, Phase
from fgvc_lib.train.schedule import Stretch, learning_rate, start_phase, stretches, train_mode


def rates(total: int, **settings: Any) -> list[float]:
    stretch = Stretch(0, Phase([]), 0, total)
    return [learning_rate(Config(lr=1.0, **settings), stretch, step, total) for step in range(total)]


def test_constant_and_warm_up() -> None:
    assert rates(4, schedule="constant") == [1.0] * 4
    assert rates(8, schedule="constant", warmup=0.5) == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_cosine_falls_from_the_full_rate_towards_zero() -> None:
    expected = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert rates(4) == pytest.approx(expected)
    assert rates(6, warmup=1 / 3) == pytest.approx([0.5, 1.0, *expected])


def test_step_counts_milestones_of_the_whole_run() -> None:
    config = {"schedule": "step", "milestones": (0.5, 0.75), "gamma": 0.1}
    assert rates(8, **config) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01])
    late = Stretch(1, Phase([]), 4, 8)
    assert learning_rate(Config(lr=1.0, schedule="step"), late, 4, 8) == pytest.approx(0.1)


def test_cosine_starts_anew_in_each_phase() -> None:
    late = Stretch(1, Phase([]), 4, 8)
    assert learning_rate(Config(lr=2.0), late, 4, 8) == 2.0


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=4), st.integers(0, 60))
def test_phases_cover_every_step_once(weights: list[float], total: int) -> None:
    phases = [Phase([], fraction=w / sum(weights)) for w in weights]
    plan = stretches(phases, total)
    covered = [step for s in plan for step in range(s.start, s.stop)]
    assert covered == list(range(total))
    assert len(plan) == min(len(phases), total)


def test_phases_get_their_fractions() -> None:
    plan = stretches([Phase([], fraction=0.25), Phase([], fraction=0.75)], 100)
    assert [(s.start, s.stop) for s in plan] == [(0, 25), (25, 100)]


def test_fractions_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be positive and sum to 1, got \[0.5, 0.25\]"):
        stretches([Phase([], fraction=0.5), Phase([], fraction=0.25)], 10)


class Two(Method):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
        self.head = nn.Linear(2, 2)


def test_a_frozen_module_stays_in_evaluation_mode() -> None:
    method = Two()
    head = Phase([{"params": method.head.parameters(), "lr_scale": 3.0, "weight_decay": 0.0}])
    optimizer = start_phase(method, head, Config(lr=0.1))
    assert [g["lr_scale"] for g in optimizer.param_groups] == [3.0]
    assert optimizer.param_groups[0]["weight_decay"] == 0.0
    assert optimizer.param_groups[0]["momentum"] == 0.9
    train_mode(method)
    assert method.training
    assert method.head.training
    assert not any(m.training for m in method.body.modules())
    start_phase(method, Phase([{"params": method.parameters()}]), Config())
    train_mode(method)
    assert all(m.training for m in method.modules())
    assert all(p.requires_grad for p in method.parameters())


def test_a_phase_without_parameters_is_refused() -> None:
    with pytest.raises(ValueError, match="phase 'empty' has no parameters to train"):
        start_phase(Two(), Phase([{"params": []}], name="empty"), Config())
    assert torch.is_grad_enabled()
