"""What a chapter asks for: experiments of variants and seeds, as data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fgvc_lib.config import Config
from fgvc_study import folders


@dataclass(frozen=True)
class Experiment:
    """Variants to compare, each with some seeds.

    Attributes:
        name: unique in its chapter.
        variants: label → one configuration a seed.
        metrics: to take on each trained network.
    """

    name: str
    variants: Mapping[str, tuple[Config, ...]]
    metrics: tuple[str, ...] = ()

    def configs(self) -> Iterator[Config]:
        """Every run, variant by variant."""
        for configs in self.variants.values():
            yield from configs


@dataclass
class Plan:
    """What a chapter asks for, with the parameters that it was read with.

    Attributes:
        experiments: name → experiment, in the chapter's order.
        live: the networks that a page trains while it is built, likewise.
        settings: the ``device`` and ``train`` of the chapter's study.
    """

    experiments: dict[str, Experiment] = field(default_factory=dict)
    live: dict[str, Experiment] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


collecting: Plan | None = None
"""The plan that studies write what they are asked for to, in place of running it; None to run it."""


def vary(config: Config, **changes: Any) -> Config:
    """A copy with some settings changed; mappings such as ``method_args`` are merged key by key.

    >>> center = Config(method="center", method_args={"alpha": 0.5})
    >>> vary(center, method_args={"weight": 0.01}).method_args
    {'alpha': 0.5, 'weight': 0.01}
    """
    return Config.from_dict(_merged(config.to_dict(), changes))


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        key: _merged(old[key], value) if isinstance(value, Mapping) and isinstance(old.get(key), Mapping) else value
        for key, value in new.items()
    }
    return {**old, **both}


def table_path(profile: str, chapter: str) -> Path:
    """The committed table of what a chapter asks for in a profile."""
    return folders.committed("experiments") / profile / f"{chapter}.json"


def table(profile: str, chapter: str) -> dict[str, Experiment]:
    """Name → experiment, from the committed table; empty where there is none.

    Tables let one chapter show another's experiments without executing it; ``python -m fgvc_study tables`` writes them.
    """
    path = table_path(profile, chapter)
    content = json.loads(path.read_text(encoding="utf8")) if path.is_file() else {}
    return {
        name: Experiment(
            name,
            {
                label: tuple(Config.from_dict({**entry["config"], "seed": seed}) for seed in entry["seeds"])
                for label, entry in fields["variants"].items()
            },
            tuple(fields["metrics"]),
        )
        for name, fields in content.items()
    }


def table_text(plan: Plan) -> str:
    """The experiments of a plan as :func:`table` reads them, with the settings that are not the defaults."""
    default = Config().to_dict()
    content: dict[str, Any] = {}
    for name, experiment in plan.experiments.items():
        variants: dict[str, Any] = {}
        for label, configs in experiment.variants.items():
            settings = {k: v for k, v in configs[0].to_dict().items() if v != default[k] and k != "seed"}
            variants[label] = {"seeds": [config.seed for config in configs], "config": settings}
        content[name] = {"metrics": list(experiment.metrics), "variants": variants}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
