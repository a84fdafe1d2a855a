"""Whether settings that came from outside have the types that the functions they go to ask for.

The configurations of chapters and of ``data/runs.yaml`` are tested; those of a command line are anybody's, and a wrong
type would otherwise show deep inside a layer.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal

from fgvc_lib.backbones import BACKBONES
from fgvc_lib.data import DATASETS
from fgvc_lib.data.files import Options
from fgvc_lib.methods import METHODS


def check(settings: Mapping[str, Any]) -> None:
    """Refuse an argument of the configured method, backbone or data set that has another type than it is written for.

    Unknown names are left to those who know the known ones.

    Raises:
        ValueError: the argument, what was expected and what came.
    """
    tables: dict[str, Mapping[str, Any]] = {"method": METHODS, "backbone": BACKBONES, "data": DATASETS}
    for kind, table in tables.items():
        call, arguments = table.get(str(settings.get(kind))), settings.get(f"{kind}_args", {})
        if not isinstance(arguments, Mapping):
            raise ValueError(f"{kind}_args must be a mapping, got {arguments!r}")
        hints = _hints(call) if call is not None else {}
        for name, value in arguments.items():
            if name in hints and not fits(value, hints[name]):
                shown = (
                    str(inspect.formatannotation(hints[name])).replace("collections.abc.", "").replace("typing.", "")
                )
                raise ValueError(f"{kind}_args.{name} must be {shown}, got {value!r}")


def fits(value: Any, hint: Any) -> bool:
    """Whether plain data ``value`` can stand for ``hint``: an int for a float, a list for any sequence."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, each) for each in args)
    if origin is Literal:
        return value in args
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        return isinstance(value, (list, tuple)) and all(fits(each, args[0]) for each in value)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return hint is Any or not isinstance(hint, type) or isinstance(value, hint)


@cache
def _hints(call: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(call, eval_str=True).parameters.values()
    hints = {p.name: p.annotation for p in parameters if p.kind is not p.VAR_KEYWORD}
    return hints if len(hints) == len(parameters) else hints | typing.get_type_hints(Options)
