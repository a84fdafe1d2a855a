"""A configuration is plain data with its types checked, the same from a dict, a YAML file and a record."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fgvc_lib.config import Config, parse_yaml


@given(
    st.builds(
        Config,
        method_args=st.dictionaries(st.text(), st.integers() | st.booleans() | st.text()),
        epochs=st.integers(1, 100),
        max_steps=st.none() | st.integers(1, 100),
        lr=st.floats(0, 1),
        milestones=st.lists(st.floats(0, 1)).map(tuple),
        grad_clip_norm=st.none() | st.floats(0.1, 10),
        schedule=st.sampled_from(["cosine", "step", "constant"]),
    )
)
def test_it_survives_json(config: Config) -> None:
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_yaml_gives_what_it_says(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("method: center\nmethod_args: {weight: 1e-3}\nepochs: 3\nlr: 1e-2\nmilestones: [1, 0.5]\nclip: 2\n")
    config = Config.from_yaml(path)
    assert config == Config(
        method="center", method_args={"weight": 0.001}, epochs=3, lr=0.01, milestones=(1.0, 0.5), grad_clip_norm=2.0
    )
    assert isinstance(config.grad_clip_norm, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("5E4", 5e4), ("-.5e+1", -5.0), ("2.e1", 20.0), ("1e", "1e"), ("e3", "e3"), ("12", 12)],
)
def test_numbers_without_a_dot_are_numbers(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1}, "unknown setting learning_rate: choose from method, method_args"),
        ({"a": 1, "b": 2}, "unknown settings a, b: choose"),
        ({"lr": "fast"}, "lr must be float, got 'fast'"),
        ({"lr": True}, "lr must be float, got True"),
        ({"epochs": 1.5}, "epochs must be int, got 1.5"),
        ({"epochs": True}, "epochs must be int, got True"),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"max_steps": 0}, "max_steps must be at least 1, got 0"),
        ({"ema_decay": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
        ({"warmup": -0.1}, r"warmup must be in \[0, 1\), got -0.1"),
        ({"grad_clip_norm": 0}, "clip must be positive, or None for no clipping, got 0.0"),
        ({"schedule": "linear"}, "schedule must be one of 'cosine', 'step', 'constant', got 'linear'"),
        ({"milestones": 0.5}, "milestones must be a list, got 0.5"),
        ({"method_args": [1]}, r"method_args must be a mapping, got \[1\]"),
        ({"grad_clip_norm": "none"}, "clip must be float, got 'none'"),
        ({"batch_size": 10, "grad_accum_steps": 3}, "batch_size 10 does not split into 3 micro-batches"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Config.from_dict(settings)


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "must hold a mapping")])
def test_a_wrong_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Config.from_yaml(tmp_path / "x.yaml")


def test_it_cannot_be_changed_only_replaced() -> None:
    config = Config()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    assert config.replace(lr=1).lr == 1.0
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        config.replace(epochs=0)
