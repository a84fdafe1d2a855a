"""The experiments that the book asks for, from ``data/runs.yaml``: which runs, in which profile, in what order.

A chapter names a group of runs; this module turns the group into configurations, and finds their records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fgvc_lib.config import Config
from fgvc_lib.results import folders
from fgvc_lib.results.record import Record
from fgvc_lib.results.run import recorded, run
from fgvc_lib.results.tables import STRONGEST, frame

_GROUP_KEYS = {"chapter", "priority", "asks", "config", "rows", "profiles"}


@dataclass(frozen=True)
class Group:
    """One experiment: rows of a table or points of a curve, each with some seeds.

    Attributes:
        name: ``<chapter's subject>/<experiment>``.
        chapter: whose records these are.
        priority: 1 headline, 2 component tables, 3 sweeps.
        asks: the question, in a sentence.
        config: settings of every row.
        rows: label → settings of that row, merged over ``config``.
        profiles: profile → settings merged over both, and ``seeds``.
    """

    name: str
    chapter: str
    priority: int
    asks: str
    config: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]
    profiles: Mapping[str, Mapping[str, Any]]

    def configs(self, profile: str, *, seeds: Sequence[int] | None = None, **changes: Any) -> dict[str, list[Config]]:
        """Row label → one configuration a seed, in this profile; ``changes`` win over everything."""
        if profile not in self.profiles:
            raise ValueError(f"{self.name} has no profile {profile!r}: it has {', '.join(self.profiles)}")
        settings = dict(self.profiles[profile])
        own_seeds = settings.pop("seeds", [0])
        return {
            label: [
                Config.from_dict(_merged(self.config, row, settings, changes, {"seed": seed}))
                for seed in (own_seeds if seeds is None else seeds)
            ]
            for label, row in self.rows.items()
        }


def groups() -> dict[str, Group]:
    """All experiments by name, as ``data/runs.yaml`` lists them."""
    path = folders.committed("runs.yaml")
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, _modified: int) -> dict[str, Group]:
    found = {}
    for name, fields in yaml.safe_load(path.read_text())["groups"].items():
        if set(fields) != _GROUP_KEYS:
            raise ValueError(f"{path.name}: group {name} must have exactly {', '.join(sorted(_GROUP_KEYS))}")
        found[name] = Group(name, **fields)
    return found


def records(name: str, *, profiles: Sequence[str] = folders.COMMITTED) -> list[Record]:
    """The committed records of a group, in the strongest profile that has any, rows in the group's order."""
    group = groups()[name]
    have = {(r.profile, _recorded_key(r)): r for r in recorded(profiles=profiles)}
    for profile in STRONGEST:
        if profile in group.profiles and profile in profiles:
            found = [
                have[profile, _key(config)]
                for row in group.configs(profile).values()
                for config in row
                if (profile, _key(config)) in have
            ]
            if found:
                return found
    return []


def table(name: str, found: Sequence[Record]) -> pd.DataFrame:
    """Records of a group as a frame with a column ``row`` that holds the label; without runs that diverged."""
    finished = [record for record in found if not record.diverged]
    rows = frame(finished)
    rows.insert(0, "row", labels(name, finished))
    return rows


def labels(name: str, found: Sequence[Record]) -> list[str]:
    """The row of a group that each of its records belongs to."""
    group = groups()[name]
    rows = {
        (profile, _key(config)): label
        for profile in {r.profile for r in found}
        for label, configs in group.configs(profile if profile in group.profiles else "quick").items()
        for config in configs
    }
    return [rows[r.profile, _recorded_key(r)] for r in found]


def missing(profile: str, *, only: str = "") -> list[tuple[Group, str, Config]]:
    """Runs of a profile that have no record yet, the most wanted first; ``only`` keeps groups that start so."""
    have = {_recorded_key(r) for r in recorded(profiles=[profile])}
    wanted: dict[str, tuple[Group, str, Config]] = {}
    for group in sorted(groups().values(), key=lambda g: g.priority):
        if profile in group.profiles and group.name.startswith(only):
            for label, configs in group.configs(profile).items():
                for config in configs:
                    if _key(config) not in have:
                        wanted.setdefault(_key(config), (group, label, config))
    return sorted(wanted.values(), key=lambda run: (run[0].priority, run[2].seed))


def progress(profile: str) -> dict[str, tuple[int, int]]:
    """Group → how many runs it wants in this profile, and how many of them have no record yet."""
    have = {_recorded_key(r) for r in recorded(profiles=[profile])}
    wanted = {
        name: {_key(config) for configs in group.configs(profile).values() for config in configs}
        for name, group in groups().items()
        if profile in group.profiles
    }
    return {name: (len(runs), len(runs - have)) for name, runs in wanted.items()}


def _key(config: Config) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


def _recorded_key(record: Record) -> str:
    return _key_of(json.dumps(record.config))


@cache
def _key_of(config: str) -> str:
    return _key(Config.from_dict(json.loads(config)))  # a field that is newer than the record has its default


def _merged(*parts: Mapping[str, Any]) -> dict[str, Any]:
    """Later mappings win; mappings inside them are merged the same way."""
    result: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            old = result.get(key)
            result[key] = _merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


def measure(name: str, *, profile: str, device: str | None = None) -> tuple[list[Record], pd.DataFrame]:
    """Run what ``profile`` asks of a group, then give what to show: records, for their provenance, and their table.

    In ``quick`` and ``smoke`` the rows run a few steps, which proves that they run; what is shown is then the committed
    evidence of the strongest profile. Where nothing is committed yet, it is the records of this run, and those that
    were cut short have rows without numbers. A group that has no such profile runs nothing, and its evidence is shown.
    """
    group = groups()[name]
    kind = "quick" if profile == "smoke" and "smoke" not in group.profiles else profile
    own = [
        run(config, profile=profile, chapter=group.chapter, device=device)
        for configs in (group.configs(kind).values() if kind in group.profiles else ())
        for config in configs
    ]
    found = own if own and profile in folders.COMMITTED else (records(name) or own)
    rows = table(name, found)
    measured = {key for r in found for key in r.final}
    numbers = [c for c in map(str, rows) if c in measured or c.startswith(("timing/", "memory/"))]
    rows.loc[[r.cut_short for r in found if not r.diverged], numbers] = float("nan")
    return found, rows
