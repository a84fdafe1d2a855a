"""Arguments of a method in small groups: frozen dataclasses, or the plain mappings that a configuration holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ConfigDict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid")
"""An unknown field is an error."""


def grouped(kind: type[T], given: T | Mapping[str, Any]) -> T:
    """``given`` as the settings ``kind``, whose fields it may name in a plain mapping.

    Raises:
        ValueError: a field that ``kind`` does not have, or a value of another type, with the field and the value.
    """
    try:
        return TypeAdapter(kind).validate_python(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(kind.__dataclass_fields__)  # type: ignore[attr-defined]
        raise ValueError(
            f"{kind.__name__} with {field}={first['input']!r}: {first['msg'].lower()}; its fields are {known}"
        ) from None
