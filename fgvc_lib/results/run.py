"""Run a configuration, or find its record."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from fgvc_lib import train
from fgvc_lib.config import Config
from fgvc_lib.data import load
from fgvc_lib.data.dataset import ImageData
from fgvc_lib.measures import MEASURES
from fgvc_lib.methods.base import Method
from fgvc_lib.results import folders, provenance, weights
from fgvc_lib.results.record import Record, RecordError, read, run_id, write
from fgvc_lib.train import distributed


def run(
    config: Config,
    *,
    profile: str,
    chapter: str,
    data: ImageData | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Record:
    """The record of ``config``: found where it was measured before, else trained, measured and written now.

    Chapters share records: a baseline that one of them trained is found by the others. Two processes that ask for
    one run at once train it once. A record made by earlier sources counts as found when it is committed evidence;
    one in the build folder is made again.

    Under ``torchrun`` the processes share one run, and the first of them reads and writes.

    A run whose loss stops being finite is evidence too: in a committed profile it leaves a record that says so
    (:attr:`Record.diverged <fgvc_lib.results.record.Record.diverged>`).

    Args:
        config: everything that decides the result.
        profile: where the record belongs, ``quick`` say.
        chapter: who asks, for a new record.
        data: the data set, when it is loaded already; it must be ``config``'s.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        progress: show a bar.

    Raises:
        NonFiniteLoss: the loss stopped being finite, in a profile whose records are no evidence.
    """
    return _run(config, profile, chapter, data, device, progress, keep_weights=False)[0]


def trained(
    config: Config,
    *,
    profile: str,
    chapter: str,
    data: ImageData | None = None,
    device: str | None = None,
    progress: bool = False,
) -> tuple[Method, Record]:
    """Like :func:`run`, and the trained method too, in evaluation mode: from saved weights where there are some.

    Those are the weights of an earlier run in the build folder, or files of the folder that ``FGVC_WEIGHTS`` names.

    Raises:
        NonFiniteLoss: the loss stopped being finite.
        WeightsError: the folder of ``FGVC_WEIGHTS`` has no manifest, or its file of this run is damaged.
    """
    record, method = _run(config, profile, chapter, data, device, progress, keep_weights=True)
    assert method is not None
    return method, record


def find(config: Config, data_fingerprint: str, *, profile: str) -> Record | None:
    """The record of a run in this profile, whichever chapter made it, or None."""
    name = f"{run_id(config, data_fingerprint)}.json"
    if profile in folders.COMMITTED:
        places = {folders.records(profile, "x").parent, folders.recorded() / profile}
    else:
        places = {folders.build(profile) / "results"}
    for place in sorted(places):
        for path in sorted(place.glob(f"*/{name}")):
            record = read(path)
            if profile in folders.COMMITTED or is_current(record):
                return record
    return None


def run_name(config: Config, data_fingerprint: str) -> str:
    """The name of a run that is trained: its id, and the fingerprint of the code that trains it."""
    return f"{run_id(config, data_fingerprint)}-{provenance.code_fingerprint(config.to_dict())}"


def is_current(record: Record) -> bool:
    """Whether the code that made ``record`` still does the same; if not, say "measured at an earlier version"."""
    return record.versions.get("sources") == provenance.code_fingerprint(record.config)


def _run(
    config: Config,
    profile: str,
    chapter: str,
    data: ImageData | None,
    device: str | None,
    progress: bool,
    *,
    keep_weights: bool,
) -> tuple[Record, Method | None]:
    with distributed.process_group(distributed.pick_device(device)):
        leads = distributed.rank() == 0  # of the processes that `torchrun` started, the one that reads and writes
        data = data or load(config.data, **config.data_args)
        # what other code trained is not continued
        folder = folders.build(profile) / "runs" / run_name(config, data.fingerprint)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock") if leads else nullcontext():
            record = distributed.from_rank_0(find(config, data.fingerprint, profile=profile) if leads else None)
            if record and not keep_weights:
                return record, None
            model = folder / "model.pt"
            wanting = record is None or not model.is_file()
            # what others measured is no evidence of ours
            taking = wanting and (record is not None or profile not in folders.COMMITTED)
            if leads and taking and (kept := weights.find(folder.name)):
                weights.copy(kept, model)
                record = record or write(kept.record, folders.records(profile, chapter), kept.arrays)
            record, trained_before = distributed.from_rank_0((record, model.is_file()))
            if record and trained_before:
                return record, train.load_trained(model)[0].to(device or best_device())
            return _train(config, profile, chapter, data, device, folder, progress, keep_weights=keep_weights)


def _train(
    config: Config,
    profile: str,
    chapter: str,
    data: ImageData,
    device: str | None,
    folder: Path,
    progress: bool,
    *,
    keep_weights: bool,
) -> tuple[Record, Method | None]:
    """Train, measure and write the record; without the method where the loss stopped being finite."""
    leads = distributed.rank() == 0
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = {}
    try:
        fitted = train.fit(config, data=data, device=device, folder=folder, progress=progress)
    except train.NonFiniteLoss as error:
        if keep_weights or profile not in folders.COMMITTED:
            raise
        used, method = device or best_device(), None
        facts = {"history": [], "final": {"diverged_at_step": error.step + 1}, "timing": {}, "memory": {}}
    else:
        method = fitted.method
        used = str(next(method.parameters()).device)
        facts = {name: getattr(fitted, name) for name in ("history", "final", "timing", "memory")}
        scores, arrays = _measured(config, method, data, used) if leads else ({}, {})
        facts["final"] = {**fitted.final, **scores}
    sha, dirty = provenance.commit()
    versions = provenance.versions() | {"sources": provenance.code_fingerprint(config.to_dict())}
    shared = {"processes": distributed.world_size()} if distributed.world_size() > 1 else {}
    record = Record(
        id=run_id(config, data.fingerprint),
        chapter=chapter,
        profile=profile,
        method=config.method,
        seed=config.seed,
        config=config.to_dict(),
        dataset={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": len(data.classes),
            "image_size": data.image_size,
            **{split: len(getattr(data, split)) for split in ("train", "val", "test")},
        },
        device=provenance.device_info(used) | shared,
        versions=versions,
        commit=sha,
        dirty=dirty,
        **facts,
    )
    if leads:
        record = write(record, folders.records(profile, chapter), arrays)
    return distributed.from_rank_0(record), method


def _measured(
    config: Config, method: Method, data: ImageData, device: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers and arrays of the configuration's measures, each named ``<measure>/<key>``."""
    scores, arrays = dict[str, float](), dict[str, np.ndarray]()
    for measure in config.measures:
        for key, value in MEASURES[measure](method, data, device).items():
            if isinstance(value, np.ndarray):
                arrays[f"{measure}/{key}"] = value
            else:
                scores[f"{measure}/{key}"] = float(value)
    return scores, arrays


def best_device() -> str:
    """``"cuda"`` where there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def recorded(*, profiles: Sequence[str] = folders.COMMITTED, chapters: Sequence[str] | None = None) -> list[Record]:
    """Committed records, of some profiles and chapters or of all."""
    found: dict[str, Record] = {}
    for profile in profiles:
        places: set[Path] = {folders.recorded() / profile, folders.records(profile, "x").parent}
        for path in sorted(p for place in places for p in place.glob("*/*.json")):
            if chapters is None or path.parent.name in chapters:
                found[f"{profile}/{path.stem}"] = _read(path, path.stat().st_mtime_ns)
    return list(found.values())


@cache
def _read(path: Path, _modified: int) -> Record:
    return read(path)


__all__ = ["Record", "RecordError", "best_device", "find", "is_current", "recorded", "run", "trained"]
