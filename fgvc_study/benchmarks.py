"""What things cost, as ``benchmarks/`` measured it: one record for each benchmark and device."""

from __future__ import annotations

import json
from typing import Any

from fgvc_study import folders


def records(name: str) -> list[dict[str, Any]]:
    """The committed records of ``benchmarks/<name>.py``, of whatever devices; none before it has been measured."""
    found = sorted(folders.committed("benchmarks").glob(f"{name}-*.json"))
    return [json.loads(path.read_text(encoding="utf8")) for path in found]
