"""The configuration of one run: everything that decides its result, and nothing else.

A configuration is plain data, the same in a chapter's parameters, a YAML file, the command line and a record.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import reprlib
import typing
from collections.abc import Callable, Mapping
from functools import cache, wraps
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, ValidationError, create_model

T = TypeVar("T", bound=Callable[..., None])

STRICT = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
"""An int may stand for a float, but ``"3"`` is no int, and 1 is no bool."""
GROUP = ConfigDict(extra="forbid")
"""For the dataclasses that group some of a method's arguments, where an unknown field is an error."""
Fraction = Annotated[float, Field(ge=0, lt=1)]


class Config(BaseModel):
    """One training run.

    Attributes:
        method, method_args: a key of :data:`fgvc_lib.methods.METHODS` and its keyword arguments.
        backbone, backbone_args: a key of :data:`fgvc_lib.backbones.BACKBONES` and its keyword arguments.
        data, data_args: a key of :data:`fgvc_lib.data.DATASETS` and its keyword arguments.
        epochs: passes over the training split. The method's phases divide them.
        max_steps: stop after this many optimizer steps in all; None for no limit. Phases and schedule then fit into
            these steps.
        batch_size: images per optimizer step, over all processes and micro-batches.
        grad_accum_steps: micro-batches per optimizer step.
        optimizer: ``sgd``, or ``adamw``, whose ``momentum`` is β₁.
        lr, momentum, weight_decay: of the optimizer; a phase's ``lr_scale`` multiplies ``lr``.
        norm_weight_decay: of norms and biases; None for ``weight_decay`` there too, 0 for none.
        backbone_lr_scale: factor on the rate of the backbones, which pretrained weights need smaller than new layers.
        layer_decay: a further factor on every stage below the last, once for each step down.
        frozen_stages: the first so many stages of the backbones are not trained.
        norm_eval: the backbones' BatchNorms keep the statistics that they came with.
        schedule: ``cosine`` to zero over each phase, ``step`` (times ``gamma`` at each of ``milestones``, fractions of
            the run), or ``constant``.
        milestones, gamma: of the step schedule.
        warmup: fraction of each phase with linear warm-up.
        label_smoothing: of the cross-entropy terms.
        class_weights: ``balanced`` weighs the cross-entropy of a class by N / (C n), the inverse of how many of the N
            training images are of it; None weighs all images alike.
        balanced_batches: batches hold every class equally often, rare ones repeated.
        grad_clip_norm: largest gradient norm, None for no clipping.
        ema_decay: decay of the averaged weights that are evaluated and saved, None for the weights themselves.
        keep: the weights of the ``last`` epoch, or of the ``best`` by validation accuracy, then loss. The best of many
            epochs looks better on the validation images than it is.
        patience: stop after so many epochs without a better one; None for never.
        start: a ``model.pt``, or the folder of a run, whose weights are the first ones, as far as names and shapes
            agree: for more epochs, or for other classes.
        precision: ``float32``, ``bfloat16`` or ``float16`` autocast, or ``auto``: bfloat16 where the GPU computes in it
            natively, float16 on older GPUs, float32 on a CPU.
        compile: run the method under ``torch.compile``.
        seed: of weights, batch order, augmentation and the method's generators.

    Raises:
        ValueError: an unknown setting, a wrong type, or a value out of range, in one sentence that names it.
    """

    model_config = STRICT

    method: str = "baseline"
    method_args: dict[str, Any] = {}
    backbone: str = "resnet"
    backbone_args: dict[str, Any] = {}
    data: str = "digits"
    data_args: dict[str, Any] = {}
    epochs: int = Field(10, ge=1)
    max_steps: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    grad_accum_steps: int = Field(1, ge=1)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = Field(0.1, ge=0)
    momentum: Fraction = 0.9
    weight_decay: float = Field(5e-4, ge=0)
    norm_weight_decay: float | None = Field(None, ge=0)
    backbone_lr_scale: float = Field(1.0, ge=0)
    layer_decay: float = Field(1.0, gt=0, le=1)
    frozen_stages: int = Field(0, ge=0)
    norm_eval: bool = False
    schedule: Literal["cosine", "step", "constant"] = "cosine"
    milestones: Annotated[tuple[float, ...], Strict(False)] = (0.5, 0.75)  # a list will do
    gamma: float = 0.1
    warmup: Fraction = 0.0
    label_smoothing: Fraction = 0.0
    class_weights: Literal["balanced"] | None = None
    balanced_batches: bool = False
    grad_clip_norm: float | None = Field(None, gt=0)
    ema_decay: Fraction | None = None
    keep: Literal["last", "best"] = "last"
    patience: int | None = Field(None, ge=1)
    start: str | None = None
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    compile: bool = False
    seed: int = 0

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            hints = {name: field.annotation for name, field in type(self).model_fields.items()}
            raise ValueError(_sentence(error, hints, "setting")) from None

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Config:
        """Build from plain data."""
        return cls(**settings)

    @classmethod
    def from_yaml(cls, path: str | Path) -> Config:
        """Read a YAML mapping of settings."""
        try:
            settings = yaml.load(Path(path).read_text(encoding="utf8"), Loader=_Loader)
        except (UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
            raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from None
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise ValueError(f"{path} must hold a mapping of settings, got {reprlib.repr(settings)}")
        return cls.from_dict(settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain data again, JSON-ready; ``from_dict`` of it is equal."""
        return {**self.model_dump(), "milestones": list(self.milestones)}

    def replace(self, **changes: Any) -> Config:
        """A copy with some settings changed."""
        return Config(**{**self.model_dump(), **changes})


def check_arguments(
    call: Callable[..., Any],
    arguments: Mapping[str, Any],
    what: str,
    *,
    given: int = 0,
    options: Callable[..., Any] | None = None,
) -> dict[str, Any]:
    """Refuse keyword arguments that ``call`` does not take, that have another type than its hints, or that are missing.

    Args:
        call: a function or class with type hints.
        arguments: plain data, as from a YAML file: a list stands for any sequence, a mapping for a dataclass.
        what: what the message calls ``call``, such as ``"method 'cin'"``.
        given: how many positional arguments the caller passes besides.
        options: another function, whose keyword arguments will do too.

    Returns:
        The arguments as they are hinted, such as a tuple that came as a list or a dataclass that came as a mapping.

    Raises:
        ValueError: one sentence that names the argument, what was expected and what came.
    """
    model = _arguments_model(call, given, options)
    try:
        plain = json.dumps(dict(arguments), default=dataclasses.asdict)  # no tuples: lists pass
        found = model.model_validate_json(plain)
    except ValidationError as error:
        hints = {name: field.annotation for name, field in model.model_fields.items()}
        raise ValueError(_sentence(error, hints, "argument", f"{what}: ")) from None
    except TypeError:
        raise ValueError(f"the arguments of {what} must be plain data, got {reprlib.repr(dict(arguments))}") from None
    return {name: getattr(found, name) for name in arguments}


def checked(init: T) -> T:
    """A method's ``__init__``, with its keyword arguments passed through :func:`check_arguments`."""
    what = init.__qualname__.removesuffix(".__init__")

    @wraps(init)
    def check(self: Any, backbone: Any, num_classes: int, **arguments: Any) -> None:
        init(self, backbone, num_classes, **check_arguments(init, arguments, what, given=3))

    return cast(T, check)


@cache
def _arguments_model(call: Callable[..., Any], given: int, options: Callable[..., Any] | None) -> type[BaseModel]:
    parameters = list(inspect.signature(call, eval_str=True).parameters.values())[given:]
    if options is not None:
        more = inspect.signature(options, eval_str=True).parameters.values()
        parameters = [p for p in (*parameters, *more) if p.kind is p.KEYWORD_ONLY]
    fields: dict[str, Any] = {}
    for parameter in parameters:
        hint = Any if parameter.annotation is parameter.empty else parameter.annotation
        fields[parameter.name] = (hint, ... if parameter.default is parameter.empty else parameter.default)
    return create_model(call.__name__, __config__=STRICT, **fields)


def _sentence(error: ValidationError, hints: Mapping[str, Any], noun: str, where: str = "") -> str:
    """The first mistake that pydantic found in values with these hints."""
    errors = error.errors(include_url=False)
    for e in errors:
        outer, *inner = e["loc"]
        fields = _fields(hints.get(str(outer)))
        inner = [i for i in inner if isinstance(i, int) or i in fields or e["type"] in UNKNOWN]
        e["loc"] = (outer, *inner)
    first = errors[0]
    unknown = [e["loc"] for e in errors if e["type"] in UNKNOWN]
    if unknown:
        *group, _ = unknown[0]
        known = ", ".join(_fields(hints[str(group[0])]) if group else hints) or "none"
        several = sorted(".".join(map(str, loc)) for loc in unknown if [*loc[:-1]] == group)
        return f"{where}unknown {noun}{'s' * (len(several) > 1)} {', '.join(several)}: choose from {known}"
    name = "".join(f"[{i}]" if isinstance(i, int) else f".{i}" for i in first["loc"]).removeprefix(".")
    if first["type"] == "missing":
        return f"{where}the {noun} {name} is needed"
    expected = [e["msg"].removeprefix("Input should be ") for e in errors if e["loc"][0] == first["loc"][0]]
    shown = " or ".join(dict.fromkeys(_PLAIN.get(text, text) for text in expected))
    return f"{where}{name} must be {shown}, got {reprlib.repr(first['input'])}"


UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument")


def _fields(hint: Any) -> list[str]:
    """Fields of the dataclass that a hint is, or has among its alternatives."""
    return [name for kind in (hint, *typing.get_args(hint)) for name in getattr(kind, "__dataclass_fields__", ())]


_PLAIN = {
    "a valid tuple": "a list",
    "a valid array": "a list",
    "a valid dictionary": "a mapping",
    "an object": "a mapping",
}


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads ``1e-3`` as text, for want of a dot; here it is the number that it looks like."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("+-.0123456789")
)
