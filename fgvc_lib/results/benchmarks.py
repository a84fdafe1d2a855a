"""What things cost, as ``benchmarks/`` measured it: one record for each benchmark and device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fgvc_lib.results import folders


def records(name: str, folder: Path | None = None) -> list[dict[str, Any]]:
    """The records of the benchmark ``name``, of whatever devices; none before it has been measured.

    Args:
        name: of ``benchmarks/<name>.py``.
        folder: that holds ``<name>-<device>.json``; by default the committed one, ``data/benchmarks``.
    """
    found = sorted((folder or folders.committed("benchmarks")).glob(f"{name}-*.json"))
    return [json.loads(path.read_text(encoding="utf8")) for path in found]
