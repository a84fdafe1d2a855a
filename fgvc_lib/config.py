"""The configuration of one run: everything that decides its result, and nothing else.

A configuration is plain data, the same in a chapter's parameters, a YAML file, the command line and a record.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run.

    Attributes:
        method, method_args: a key of :data:`fgvc_lib.methods.METHODS` and its keyword arguments.
        backbone, backbone_args: a key of :data:`fgvc_lib.backbones.BACKBONES` and its keyword arguments.
        data, data_args: a key of :data:`fgvc_lib.data.DATASETS` and its keyword arguments.
        epochs: passes over the training split; also what the method's phases share out.
        max_steps: stop after this many optimizer steps in all, for smoke tests and paths; None for no limit.
        batch_size: images per optimizer step, over all ranks and micro-batches.
        accumulate: micro-batches per optimizer step.
        lr, momentum, weight_decay: of SGD; a phase's ``lr_scale`` multiplies ``lr``.
        schedule: ``cosine`` to zero over each phase, ``step`` (times ``gamma`` at each of ``milestones``, shares of
            the run), or ``constant``.
        milestones, gamma: of the step schedule.
        warmup: share of each phase with linear warm-up.
        label_smoothing: of the cross-entropy terms.
        clip: largest gradient norm, None for no clipping.
        ema: decay of the averaged weights that are evaluated and saved, None for the weights themselves.
        precision: ``float32``, ``bfloat16`` or ``float16`` autocast, or ``auto``: bfloat16 where the GPU computes in it
            natively, float16 on older GPUs, float32 on a CPU.
        compile: run the method under ``torch.compile``.
        measures: names of :data:`fgvc_study.metrics.MEASURES`, taken on the trained method and kept in the record.
        seed: of weights, batch order, augmentation and the method's generators.
    """

    method: str = "baseline"
    method_args: dict[str, Any] = field(default_factory=dict)
    backbone: str = "resnet"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    data: str = "digits"
    data_args: dict[str, Any] = field(default_factory=dict)
    epochs: int = 10
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: tuple[float, ...] = (0.5, 0.75)
    gamma: float = 0.1
    warmup: float = 0.0
    label_smoothing: float = 0.0
    clip: float | None = None
    ema: float | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    measures: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, _checked(f.name, getattr(self, f.name), hints[f.name]))
        for name in ("epochs", "max_steps", "batch_size", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("momentum", "warmup", "label_smoothing", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be in [0, 1), got {value}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, or None for no clipping, got {self.clip}")
        if self.batch_size % self.accumulate:
            raise ValueError(f"batch_size {self.batch_size} does not split into {self.accumulate} micro-batches")

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """Build from plain data; an unknown key or a wrong type is an error that names it."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(settings) - set(known))
        if unknown:
            raise ValueError(
                f"unknown setting{'s' * (len(unknown) > 1)} {', '.join(unknown)}: choose from {', '.join(known)}"
            )
        return cls(**settings)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a YAML mapping of settings."""
        try:
            settings = parse_yaml(Path(path).read_text())
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a mapping of settings, got {type(settings).__name__}")
        return cls.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data again, JSON-ready; ``from_dict`` of it is equal."""
        settings = dataclasses.asdict(self)
        return {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed."""
        return dataclasses.replace(self, **changes)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as text, for want of a dot; here it is the number that it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("+-.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Plain data from YAML text, numbers like ``1e-3`` included."""
    return yaml.load(text, Loader=_Loader)


def _checked(name: str, value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` (int → float, list → tuple), or an error that names the setting."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (hint,) = (a for a in args if a is not type(None))
        return _checked(name, value, hint)
    if origin is Literal:
        if value in args:
            return value
        raise ValueError(f"{name} must be one of {', '.join(map(repr, args))}, got {value!r}")
    if origin is tuple:
        if isinstance(value, (list, tuple)):
            return tuple(_checked(name, v, args[0]) for v in value)
    elif origin is dict:
        if isinstance(value, Mapping):
            return dict(value)
    elif hint is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    kind = {"tuple": "a list", "dict": "a mapping"}.get(
        getattr(origin, "__name__", ""), getattr(hint, "__name__", str(hint))
    )
    raise ValueError(f"{name} must be {kind}, got {value!r}")
