"""From a configuration to a method whose weights are a function of the seed."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch

from fgvc_lib.backbones import BACKBONES
from fgvc_lib.config import Config
from fgvc_lib.data import ImageData
from fgvc_lib.methods import METHODS, Method


def build(config: Config, data: ImageData) -> Method:
    """The configured method, with fresh weights drawn from ``config.seed``.

    ``in_channels`` and ``image_size`` of the backbone come from ``data`` unless ``config.backbone_args`` has them.
    The caller's global random state is left as it was.

    Raises:
        ValueError: an unknown method or backbone, or arguments that it does not take.
    """
    return build_for(
        config, num_classes=len(data.classes), channels=data.train.images.shape[1], image_size=data.image_size
    )


def build_for(config: Config, *, num_classes: int, channels: int, image_size: int) -> Method:
    """:func:`build` from the three numbers of a data set that decide a method's shape."""
    if config.method not in METHODS:
        raise ValueError(f"no method {config.method!r}: choose from {', '.join(METHODS)}")
    if config.backbone not in BACKBONES:
        raise ValueError(f"no backbone {config.backbone!r}: choose from {', '.join(BACKBONES)}")
    make_backbone: Any = BACKBONES[config.backbone]
    make_method: Any = METHODS[config.method]
    accepted = inspect.signature(make_backbone).parameters
    from_data = {"in_channels": channels, "image_size": image_size}
    backbone_args = {k: v for k, v in from_data.items() if k in accepted} | config.backbone_args
    _check_arguments(f"backbone {config.backbone!r}", make_backbone, backbone_args)
    _check_arguments(f"method {config.method!r}", make_method, config.method_args, given=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method: Method = make_method(make_backbone(**backbone_args), num_classes, **config.method_args)
    method.label_smoothing = config.label_smoothing
    method.seed(config.seed)
    return method


def _check_arguments(what: str, call: Callable[..., Any], arguments: Mapping[str, Any], *, given: int = 0) -> None:
    """Refuse an unknown or missing keyword before the call; ``given`` positional arguments come from the run."""
    signature = inspect.signature(call)
    names = list(signature.parameters)[given:]
    unknown = sorted(set(arguments) - set(names))
    if unknown:
        raise ValueError(f"{what} has no argument {', '.join(unknown)}: choose from {', '.join(names) or 'none'}")
    try:
        signature.bind(*[None] * given, **arguments)
    except TypeError as error:
        raise ValueError(f"{what}: {error}") from None
