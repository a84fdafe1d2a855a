"""One run, one file: what was configured, what was measured, and with what."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from fgvc_lib.backbones import BACKBONES
from fgvc_lib.config import Config
from fgvc_lib.data import DATASETS
from fgvc_lib.methods import METHODS
from fgvc_lib.train.checkpoint import replacing
from fgvc_study import folders

SCHEMA = 2
LARGEST_ARRAYS = 200_000
"""Bytes; arrays in a record are for pictures, not an archive."""


class RecordError(ValueError):
    """A record that cannot be trusted; the message names the file and what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run.

    Attributes:
        id: hash of the configuration, seed included; 16 hex digits.
        chapter: the chapter that asked for it first; others may show it too.
        config: what was run, as plain data.
        revision: of the method's numbers (``Method.revision``) when it ran.
        dataset: ``name``, ``fingerprint`` and the number of images in each split.
        history: one mapping per epoch.
        final: name → number, on the last epoch's weights; metrics as ``<metric>/<key>``.
        metrics: names of the metrics that were taken.
        timing: seconds and rates.
        memory: peak bytes.
        device: ``type``, ``name`` and ``count``, which is the number of threads of a CPU.
        versions: of packages.
        commit, dirty: of the repository.
        arrays: names of the arrays in the ``.npz`` beside the file.
        schema: version of this layout.
    """

    id: str
    chapter: str
    config: dict[str, Any]
    revision: int
    dataset: dict[str, Any]
    history: list[dict[str, Any]]
    final: dict[str, float]
    metrics: list[str]
    timing: dict[str, float]
    memory: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dirty: bool
    arrays: list[str] = field(default_factory=list)
    schema: int = SCHEMA
    path: Path | None = field(default=None, compare=False)

    @property
    def seed(self) -> int:
        """Of the run."""
        return int(self.config["seed"])

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite; ``final`` then holds ``diverged_at_step`` and nothing else."""
        return "diverged_at_step" in self.final

    @property
    def is_current(self) -> bool:
        """Whether the method's numbers have not changed since."""
        return self.revision == METHODS[self.config["method"]].revision

    def load_arrays(self) -> dict[str, np.ndarray]:
        """The arrays beside the record, by name."""
        if self.path is None or not self.arrays:
            return {}
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as stored:
            return {name: stored[name] for name in self.arrays}


def run_id(config: Config) -> str:
    """The id of a run: every setting and argument that is not the default, hashed.

    So a default that is spelled out does not change the id, nor does a setting that the library gains later. When the
    numbers behind a default change, the method's revision says so.
    """
    settings = config.to_dict()
    for kind, table in (("method", METHODS), ("backbone", BACKBONES), ("data", DATASETS)):
        call: Any = table.get(settings[kind])
        parameters = {} if call is None else inspect.signature(call).parameters
        settings[f"{kind}_args"] = _changed(settings[f"{kind}_args"], {k: p.default for k, p in parameters.items()})
    text = json.dumps(_changed(settings, Config().to_dict()), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _changed(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """What is not the default, in a group of arguments (a dataclass) too."""
    found = {}
    for name, value in arguments.items():
        default = defaults.get(name, dataclasses.MISSING)
        if dataclasses.is_dataclass(default) and isinstance(value, Mapping):
            value, default = _changed(value, vars(default)), {}
        if json.dumps(value) != json.dumps(default, default=repr):
            found[name] = value
    return found


def find(config: Config) -> Record | None:
    """The record of a run, committed or else local, whichever chapter measured it."""
    name = f"{run_id(config)}.json"
    for place in (folders.results(), folders.build() / "results"):
        for path in sorted(place.glob(f"*/{name}")):
            return read(path)
    return None


def find_all(configs: Iterable[Config]) -> dict[str, Record]:
    """Id → record, of the runs that have one."""
    return {run_id(config): record for config in configs if (record := find(config))}


def write(record: Record, place: Path, arrays: Mapping[str, np.ndarray] | None = None) -> Record:
    """Write ``<place>/<chapter>/<id>.json`` (and ``.npz``), each whole or not at all; returns it with its path."""
    path = place / record.chapter / f"{record.id}.json"
    record = dataclasses.replace(record, arrays=sorted(arrays or {}), path=path)
    if arrays:
        with replacing(path.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
            if temporary.stat().st_size > LARGEST_ARRAYS:
                raise RecordError(
                    f"the arrays of run {record.id} take {temporary.stat().st_size:,} bytes, more than "
                    f"{LARGEST_ARRAYS:,}: keep fewer rows or a smaller type"
                )
    fields = {name: value for name, value in dataclasses.asdict(record).items() if name != "path"}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, default=float) + "\n", encoding="utf8")
    return record


def read(path: Path) -> Record:
    """Read a record, or refuse one that is damaged or lacks provenance."""
    return _read(path, path.stat().st_mtime_ns)


@cache
def _read(path: Path, _modified: int) -> Record:
    try:
        fields = json.loads(path.read_text(encoding="utf8"))
    except ValueError as error:
        raise RecordError(f"{path} is not a readable record: {error}") from error
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise RecordError(f"{path} is not a record of schema {SCHEMA}: measure it again")
    wrong = set(fields) ^ {f.name for f in dataclasses.fields(Record) if f.name != "path"}
    if wrong:
        raise RecordError(f"{path} lacks or has too much of {', '.join(sorted(wrong))}: measure it again")
    for name in ("commit", "device", "versions", "final", "config"):
        if not fields[name]:
            raise RecordError(f"{path} has an empty {name}: a record holds all of its provenance or is not used")
    if not fields["dataset"].get("fingerprint") or not fields["versions"].get("torch"):
        raise RecordError(f"{path} does not say which data or which torch it was measured with: measure it again")
    expected = run_id(Config.from_dict(fields["config"]))
    if fields["id"] != expected:
        raise RecordError(f"{path} says id {fields['id']}, but its configuration gives {expected}: measure it again")
    return Record(**fields, path=path)
