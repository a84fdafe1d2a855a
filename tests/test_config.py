"""A configuration is plain data with its types checked, the same from a dict, a YAML file and a record."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fgvc_lib.backbones import BACKBONES
from fgvc_lib.config import Config, check_arguments
from fgvc_lib.data import DATASETS, OPTIONS
from fgvc_lib.methods import METHODS


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
    path.write_text(
        "method: center\nmethod_args: {weight: 1e-3}\nepochs: 3\nlr: 1e-2\nmilestones: [1, 0.5]\ngrad_clip_norm: 2\n"
    )
    config = Config.from_yaml(path)
    assert config == Config(
        method="center", method_args={"weight": 0.001}, epochs=3, lr=0.01, milestones=(1.0, 0.5), grad_clip_norm=2.0
    )
    assert isinstance(config.grad_clip_norm, float)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 0.001), ("5E4", 5e4), ("-.5e+1", -5.0), ("2.e1", 20.0), ("1e", "1e"), ("e3", "e3"), ("12", 12)],
)
def test_numbers_without_a_dot_are_numbers(text: str, value: Any, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"method_args: {{x: {text}}}")
    assert Config.from_yaml(tmp_path / "x.yaml").method_args == {"x": value}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 1}, "unknown setting learning_rate: choose from method, method_args"),
        ({"a": 1, "b": 2}, "unknown settings a, b: choose"),
        ({"lr": "fast"}, "lr must be a valid number, got 'fast'"),
        ({"lr": True}, "lr must be a valid number, got True"),
        ({"lr": float("nan")}, "lr must be a finite number, got nan"),
        ({"epochs": 1.5}, "epochs must be a valid integer, got 1.5"),
        ({"epochs": True}, "epochs must be a valid integer, got True"),
        ({"epochs": "3"}, "epochs must be a valid integer, got '3'"),
        ({"epochs": 0}, "epochs must be greater than or equal to 1, got 0"),
        ({"max_steps": 0}, "max_steps must be greater than or equal to 1, got 0"),
        ({"ema_decay": 1.0}, "ema_decay must be less than 1, got 1.0"),
        ({"warmup": -0.1}, "warmup must be greater than or equal to 0, got -0.1"),
        ({"grad_clip_norm": 0}, "grad_clip_norm must be greater than 0, got 0"),
        ({"schedule": "linear"}, "schedule must be 'cosine', 'step' or 'constant', got 'linear'"),
        ({"milestones": 0.5}, "milestones must be a list, got 0.5"),
        ({"milestones": [0.5, "x"]}, r"milestones\[1\] must be a valid number, got 'x'"),
        ({"method_args": [1]}, r"method_args must be a mapping, got \[1\]"),
        ({"grad_clip_norm": "none"}, "grad_clip_norm must be a valid number, got 'none'"),
    ],
)
def test_a_wrong_setting_is_named_in_one_sentence(settings: dict[str, Any], message: str) -> None:
    for make in (Config.from_dict, lambda changes: Config(**changes), lambda changes: Config().replace(**changes)):
        with pytest.raises(ValueError, match=f"^{message}") as caught:
            make(settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [10, 10_000])
def test_what_came_is_shown_shortly(size: int) -> None:
    with pytest.raises(ValueError, match="lr must be a valid number") as caught:
        Config(lr=[["x" * size] * size] * size)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(("text", "message"), [("a: [", "is not valid YAML"), ("- 1", "must hold a mapping")])
def test_a_wrong_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        Config.from_yaml(tmp_path / "x.yaml")


def test_it_cannot_be_changed_only_replaced() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.lr = 1.0  # type: ignore[misc]
    assert config.replace(lr=1).lr == 1.0
    with pytest.raises(ValueError, match="epochs must be greater than or equal to 1"):
        config.replace(epochs=0)


def takes(
    method: object,
    /,
    *,
    size: int | None = None,
    pair: tuple[int, int] = (1, 2),
    scale: float = 1.0,
    names: Sequence[str] = (),
    kind: Literal["a", "b"] = "a",
    extra: Mapping[str, Any] | None = None,
    free=3,
    either: int | Sequence[int] = 1,
    needed: bool,
) -> None:
    """Something that is configured."""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"needed": True, "size": None, "pair": [1, 2], "scale": 1, "names": ["x"], "extra": {"y": 1}}, None),
        ({"needed": False, "size": 3, "pair": (1, 2), "kind": "b", "free": "x", "either": [1, 2]}, None),
        ({}, "the argument needed is needed"),
        ({"needed": 1}, "needed must be a valid boolean, got 1"),
        ({"needed": True, "size": "3"}, "size must be a valid integer, got '3'"),
        ({"needed": True, "size": True}, "size must be a valid integer, got True"),
        ({"needed": True, "pair": 3}, "pair must be a list, got 3"),
        ({"needed": True, "pair": [1, "2"]}, r"pair\[1\] must be a valid integer, got '2'"),
        ({"needed": True, "scale": True}, "scale must be a valid number, got True"),
        ({"needed": True, "names": "xy"}, "names must be a list, got 'xy'"),
        ({"needed": True, "kind": "c"}, "kind must be 'a' or 'b', got 'c'"),
        ({"needed": True, "extra": [1]}, r"extra must be a mapping, got \[1\]"),
        ({"needed": True, "either": "x"}, "either must be a valid integer or a list, got 'x'"),
        ({"needed": True, "method": 1}, "unknown argument method: choose from size, pair"),
    ],
)
def test_arguments_are_those_of_the_signature(arguments: dict[str, Any], message: str | None) -> None:
    if message is None:
        check_arguments(takes, arguments, "it", given=1)
    else:
        with pytest.raises(ValueError, match=f"^it: {message}"):
            check_arguments(takes, arguments, "it", given=1)


def test_arguments_are_plain_data() -> None:
    with pytest.raises(ValueError, match="the arguments of it must be plain data, got"):
        check_arguments(takes, {"needed": True, "free": object()}, "it", given=1)


@pytest.mark.parametrize("name", [*METHODS, *BACKBONES, *DATASETS])
def test_whatever_can_be_configured_takes_its_own_defaults(name: str) -> None:
    call = {**METHODS, **BACKBONES, **DATASETS}[name]
    parameters = list(inspect.signature(call).parameters.values())[2 if name in METHODS else 0 :]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    required = {"folder": {"root": "x"}, "vgg": {"depth": 16}}.get(name, {})
    given = 2 if name in METHODS else 0
    check_arguments(call, {**defaults, **required}, name, given=given, options=OPTIONS.get(name))
