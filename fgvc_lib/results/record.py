"""One run, one file: what was configured, what was measured, and with what."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fgvc_lib.config import Config
from fgvc_lib.results.files import replacing
from fgvc_lib.results.folders import COMMITTED

SCHEMA = 1
LARGEST_ARRAYS = 200_000
"""Bytes; arrays in a record are for pictures, not an archive."""


class RecordError(ValueError):
    """A record that cannot be trusted; the message names the file and what it lacks."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A finished run.

    Attributes:
        id: hash of configuration, seed and data fingerprint, 16 hex digits.
        chapter: the chapter that asked for it.
        profile: ``smoke``, ``quick``, ``cpu``, ``gpu`` or ``paper``.
        method, seed, config: what was run.
        dataset: ``name``, ``fingerprint`` and the number of images in each split.
        history: one mapping per epoch.
        final: name → number, on the last epoch's weights.
        timing: seconds and rates.
        memory: peak bytes.
        device: ``type``, ``name``, ``count``.
        versions: of packages, and ``sources``, the hash of the code that ran.
        commit, dirty: of the repository.
        schema: version of this layout.
        arrays: names of the arrays in the ``.npz`` beside the file.
    """

    id: str
    chapter: str
    profile: str
    method: str
    seed: int
    config: dict[str, Any]
    dataset: dict[str, Any]
    history: list[dict[str, Any]]
    final: dict[str, float]
    timing: dict[str, float]
    memory: dict[str, Any]
    device: dict[str, Any]
    versions: dict[str, str]
    commit: str
    dirty: bool
    schema: int = SCHEMA
    arrays: list[str] = field(default_factory=list)
    path: Path | None = field(default=None, compare=False)

    @property
    def diverged(self) -> bool:
        """Whether the loss stopped being finite; ``final`` then holds ``diverged_at_step`` and nothing else."""
        return "diverged_at_step" in self.final

    @property
    def cut_short(self) -> bool:
        """Whether it ran only a few steps, in a profile that is no evidence, which proves that the code runs."""
        return self.profile not in COMMITTED and self.config["max_steps"] is not None

    def load_arrays(self) -> dict[str, np.ndarray]:
        """The arrays beside the record, by name."""
        if self.path is None or not self.arrays:
            return {}
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as stored:
            return {name: stored[name] for name in self.arrays}


def run_id(config: Config, data_fingerprint: str) -> str:
    """The id of a run: what decides its result, hashed."""
    text = json.dumps([SCHEMA, config.to_dict(), data_fingerprint], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write(record: Record, folder: Path, arrays: dict[str, np.ndarray] | None = None) -> Record:
    """Write ``<folder>/<id>.json`` (and ``.npz``), each complete or not at all; returns the record with its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record.id}.json"
    record = dataclasses.replace(record, arrays=sorted(arrays or {}), path=path)
    if arrays:
        with replacing(path.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]
            if temporary.stat().st_size > LARGEST_ARRAYS:
                raise RecordError(
                    f"the arrays of run {record.id} take {temporary.stat().st_size:,} bytes, more than "
                    f"{LARGEST_ARRAYS:,}: keep fewer rows or a smaller type"
                )
    fields = dataclasses.asdict(record)
    del fields["path"]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(fields, indent=1, default=float) + "\n")
    return record


def read(path: str | Path) -> Record:
    """Read a record, or refuse one that is damaged or lacks provenance."""
    path = Path(path)
    try:
        fields = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise RecordError(f"{path} is not a readable record: {error}") from error
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise RecordError(f"{path} is not a record of schema {SCHEMA}: measure it again")
    known = {f.name: f for f in dataclasses.fields(Record) if f.name != "path"}
    missing = sorted(n for n, f in known.items() if n not in fields and f.default is dataclasses.MISSING)
    missing = [n for n in missing if n != "arrays"]
    if missing or set(fields) - set(known):
        what = (
            f"lacks {', '.join(missing)}" if missing else f"has unknown {', '.join(sorted(set(fields) - set(known)))}"
        )
        raise RecordError(f"{path} {what}: a record holds all of its provenance or is not used")
    for name in ("commit", "device", "versions", "final", "config"):
        if not fields[name]:
            raise RecordError(f"{path} has an empty {name}: a record holds all of its provenance or is not used")
    if not fields["dataset"].get("fingerprint") or not fields["versions"].get("torch"):
        raise RecordError(f"{path} does not say which data or which torch it was measured with")
    expected = run_id(Config.from_dict(fields["config"]), fields["dataset"]["fingerprint"])
    if fields["id"] != expected:
        raise RecordError(f"{path} says id {fields['id']}, but its configuration and data give {expected}")
    return Record(**fields, path=path)


def read_all(folders: Iterable[Path]) -> list[Record]:
    """Every record below ``folders``, in the order of their paths."""
    return [read(path) for folder in folders for path in sorted(folder.rglob("*.json"))]
