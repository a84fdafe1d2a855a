"""What papermill puts after a chapter's parameters cell, made into the values that the chapter means."""

from __future__ import annotations

import ast
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any


def parse_parameters(namespace: MutableMapping[str, Any], /, **types: type) -> None:
    """Give every parameter the type of its default.

    ``papermill -p xis '[2, 5]'`` passes text, which is read as the list or dict that it writes; a whole number becomes
    a float where the default is one. A cell that ``make sync`` puts after each parameters cell calls this.

    >>> chapter = {"xis": "[2, 5]", "lr": 1}
    >>> parse_parameters(chapter, xis=list, lr=float)
    >>> chapter
    {'xis': [2, 5], 'lr': 1.0}

    Args:
        namespace: of the chapter, whose parameters are replaced in place.
        **types: parameter → type of its default; those whose default is None have none.

    Raises:
        ValueError: a parameter is of another type, or is text that does not write one.
    """
    for name, expected in types.items():
        value = given = namespace[name]
        if expected in (list, dict) and isinstance(given, str):
            with suppress(ValueError, SyntaxError, TypeError):
                value = ast.literal_eval(given)
        if (expected, type(value)) in ((float, int), (list, tuple)):
            value = expected(value)
        if type(value) is not expected:
            raise ValueError(
                f"the parameter {name} must be of type {expected.__name__}, got {given!r}: "
                "write it as the parameters cell does"
            )
        namespace[name] = value
