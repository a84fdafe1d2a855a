"""Learning rates by hand, and phases that always share out every step."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fgvc_lib.backbones import resnet
from fgvc_lib.config import Config
from fgvc_lib.methods import Baseline, Method, Phase
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
    plan = stretches([Phase([], fraction=0.75), Phase([], fraction=0.25)], 5)  # 3.75 steps are 4
    assert [(s.start, s.stop) for s in plan] == [(0, 4), (4, 5)]


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


def rates_by_name(method: Method, **settings: Any) -> dict[str, float]:
    """Parameter → its factor on the learning rate; frozen ones are left out."""
    optimizer = start_phase(method, method.phases()[0], Config(lr=0.1, **settings))
    scale = {id(p): group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert all(group["lr"] == pytest.approx(0.1 * group["lr_scale"]) for group in optimizer.param_groups)
    return {name: scale[id(p)] for name, p in method.named_parameters() if id(p) in scale}


def test_the_backbone_has_a_rate_of_its_own_and_less_from_stage_to_stage() -> None:
    found = rates_by_name(Baseline(resnet("small", width=4), 3), backbone_lr_scale=0.1, layer_decay=0.5)
    expected = {"layer1": 0.025, "layer2": 0.05, "layer3": 0.1}
    for name, scale in found.items():
        assert scale == pytest.approx(expected[name.split(".")[2]] if name.startswith("backbone") else 1.0)
    assert len(found) == len(list(Baseline(resnet("small", width=4), 3).parameters()))


def test_frozen_stages_neither_learn_nor_move_their_statistics() -> None:
    method = Baseline(resnet("small", width=4), 3)
    assert {name.split(".")[2] for name in rates_by_name(method, frozen_stages=2) if "backbone" in name} == {"layer3"}
    assert not any(p.requires_grad for p in method.backbone.blocks["layer2"].parameters())
    train_mode(method)
    norms = [m for m in method.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {m.training for m in norms} == {True, False}
    before = [m.running_mean.clone() for m in norms]  # type: ignore[union-attr]
    method(torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0]))
    assert [torch.equal(a, m.running_mean) for a, m in zip(before, norms, strict=True)] == [  # type: ignore[arg-type]
        not m.training for m in norms
    ]
    with pytest.raises(ValueError, match="frozen_stages must be at most 3, the backbone's stages, got 4"):
        rates_by_name(method, frozen_stages=4)


def test_norm_eval_keeps_the_backbones_statistics_and_no_others() -> None:
    method = Baseline(resnet("small", width=4), 3, head="bn_elu", hidden=8)
    train_mode(method, norm_eval=True)
    assert not any(m.training for m in method.backbone.modules() if isinstance(m, nn.BatchNorm2d))
    assert all(m.training for m in method.head.modules())
    assert method.backbone.training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_norms_and_biases_have_a_weight_decay_of_their_own(optimizer: str) -> None:
    method = Baseline(resnet("small", width=4), 3)
    config = Config(optimizer=optimizer, weight_decay=0.01, norm_weight_decay=0.0, lr=0.5)
    made = start_phase(method, method.phases()[0], config)
    decay = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert {name: decay[id(p)] for name, p in method.named_parameters()} == {
        name: 0.01 if p.ndim > 1 else 0.0 for name, p in method.named_parameters()
    }
    plain = start_phase(method, method.phases()[0], Config(weight_decay=0.01))
    assert {group["weight_decay"] for group in plain.param_groups} == {0.01}


def test_adamw_steps_as_adamw() -> None:
    method = Two()
    made = start_phase(method, Phase([{"params": method.head.parameters()}]), Config(optimizer="adamw", momentum=0.8))
    assert isinstance(made, torch.optim.AdamW)
    assert made.param_groups[0]["betas"] == (0.8, 0.999)
