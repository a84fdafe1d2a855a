"""What things cost, as ``benchmarks/`` measured it: one record for each benchmark and device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fgvc_study import folders


def records(name: str) -> list[dict[str, Any]]:
    """The committed records of ``benchmarks/<name>.py``, of whatever devices; none before it has been measured."""
    found = sorted(folders.committed("benchmarks").glob(f"{name}-*.json"))
    return [json.loads(path.read_text(encoding="utf8")) for path in found]


def device(record: Mapping[str, Any]) -> str:
    """The device of a record in words that fit a title and a sentence: ``one CPU thread``, or the name of the GPU."""
    described = record["device"]
    if described["type"] != "cpu":
        return str(described["name"])
    return "one CPU thread" if described["count"] == 1 else f"{described['count']} CPU threads"
