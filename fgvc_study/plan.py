"""What a chapter asks for, read off its own cells.

The cell tagged ``parameters`` and the cells tagged ``setup`` (imports, functions that make configurations) and
``experiment`` (calls of :meth:`~fgvc_study.study.Study.run` and :meth:`~fgvc_study.study.Study.live`) are executed,
with a study that notes what it is asked for and trains nothing. The rest of the chapter is not needed for that.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fgvc_lib.config import Config
from fgvc_study import experiment as asked
from fgvc_study import folders
from fgvc_study.experiment import Plan
from fgvc_study.record import find, run_id
from fgvc_study.training import is_measured

TAGS = ("parameters", "setup", "experiment")


def cells(chapter: str) -> list[tuple[str, str]]:
    """The tag and the source of the cells that a plan is made from, in order.

    Raises:
        FileNotFoundError: there is no such chapter here.
    """
    path = folders.root() / "notebooks" / f"{chapter}.ipynb"
    if not path.is_file():
        known = ", ".join(chapters()) or "none: run this in the repository"
        raise FileNotFoundError(f"there is no chapter {chapter!r} here; the chapters are {known}")
    notebook = json.loads(path.read_text(encoding="utf8"))
    found = []
    for cell in notebook["cells"]:
        for tag in TAGS:
            if tag in cell["metadata"].get("tags", []):
                found.append((tag, "".join(cell["source"])))
    return found


def chapters() -> list[str]:
    """The chapters of the repository, in order."""
    return sorted(path.stem for path in (folders.root() / "notebooks").glob("*.ipynb"))


def read_parameters(chapter: str) -> dict[str, Any]:
    """Name → value of the chapter's parameters cell, which holds literals only."""
    (source,) = (source for tag, source in cells(chapter) if tag == "parameters")
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            found[statement.targets[0].id] = ast.literal_eval(statement.value)
    return found


def read(chapter: str, parameters: Mapping[str, Any] | None = None) -> Plan:
    """What a chapter asks for with some parameters changed.

    Raises:
        ValueError: a parameter that the chapter does not have.
    """
    known = read_parameters(chapter)
    if unknown := sorted(set(parameters or {}) - set(known)):
        raise ValueError(f"{chapter} has no parameter {', '.join(unknown)}: choose from {', '.join(known)}")
    plan, names = Plan(), dict[str, Any]()
    asked.collecting = plan
    try:
        for tag, source in cells(chapter):
            exec(compile(source, f"{chapter} ({tag})", "exec"), names)
            if tag == "parameters":
                names |= parameters or {}
    finally:
        asked.collecting = None
    return plan


def missing(chapter: str, plan: Plan) -> Iterator[dict[str, Any]]:
    """The runs of a plan without a record, each once, as plain data that ``train`` takes."""
    seen = set[str]()
    for experiment in plan.experiments.values():
        for variant, configs in experiment.variants.items():
            for config in configs:
                if run_id(config) not in seen and not is_measured(find(config), experiment.metrics):
                    seen.add(run_id(config))
                    yield {
                        "chapter": chapter,
                        "experiment": experiment.name,
                        "variant": variant,
                        "metrics": metrics_of(plan, config),
                        "config": config.to_dict(),
                    }


def metrics_of(plan: Plan, config: Config) -> list[str]:
    """The metrics that any experiment of a plan asks of a run: variants are shared, and a run is trained once."""
    name = run_id(config)
    asking = (e for e in plan.experiments.values() if any(run_id(c) == name for c in e.configs()))
    return list(dict.fromkeys(metric for experiment in asking for metric in experiment.metrics))


def parse_lines(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The runs of a plan's output, checked one by one.

    Raises:
        ValueError: a line that no plan printed.
    """
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                run = json.loads(line)
                yield {**run, "config": Config.from_dict(run["config"]), "metrics": list(run["metrics"])}
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"line {number} is not a run as `python -m fgvc_study plan` prints it ({error})"
                ) from error
