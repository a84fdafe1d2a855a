"""Train a configuration once, take its metrics, and write what came out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, load
from fgvc_lib.methods import METHODS, Method
from fgvc_lib.train import NonFiniteLoss, distributed, fit, load_trained
from fgvc_lib.train.machine import pick_device
from fgvc_study import dry_run, folders, provenance
from fgvc_study.metrics import METRICS, NotApplicable
from fgvc_study.record import Record, find, read, run_id, write


@dataclass(frozen=True)
class Trained:
    """A network to look inside.

    Attributes:
        method: trained, in evaluation mode.
        record: of its run.
    """

    method: Method
    record: Record


def is_measured(record: Record | None, metrics: Sequence[str]) -> bool:
    """Whether a record is there and has these metrics; a run that diverged has none and is measured all the same."""
    return record is not None and (record.diverged or set(metrics) <= set(record.metrics))


def best_device() -> str:
    """``"cuda"`` where there is a GPU, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def announce(name: str, configs: Sequence[Config], device: str | None) -> None:
    """Say what is about to be trained, and about how long it will take."""
    if configs and distributed.rank() == 0:
        print(f"{name}: {dry_run.sentence(configs, device or best_device())}", flush=True)


def measure(
    config: Config,
    *,
    chapter: str,
    metrics: Sequence[str] = (),
    device: str | None = None,
    place: Path | None = None,
    again: bool = False,
) -> Record | None:
    """Train a configuration and write its record; a run that diverges leaves a record that says so.

    Of several processes that are asked for the same run one trains it and the others pass on; under ``torchrun`` they
    train it together. A run that was stopped half-way resumes.

    Args:
        config: everything that decides the result.
        chapter: to file the record under.
        metrics: to take on the trained network.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        place: folder of records; by default that of the build folder.
        again: measure what has a record too.

    Returns:
        The record, which may have been there before; None where another process is at it.
    """
    folder = folders.build() / "runs" / run_id(config)
    with distributed.process_group(pick_device(device)), _alone(folder) as alone:
        if not alone:
            return None
        known = distributed.from_rank_0(find(config))
        record = None if again else known
        if not is_measured(record, metrics):
            if known is not None:  # another chapter's run: its metrics are taken again, and the record stays one
                chapter, metrics = known.chapter, list(dict.fromkeys([*known.metrics, *metrics]))
            data = load(config.data, **config.data_args)
            place = folders.build() / "results" if place is None else place
            record, _ = _train(config, chapter, metrics, data, device, folder, place)
            if distributed.rank() == 0:
                shutil.rmtree(folder, ignore_errors=True)  # the checkpoints have done their work
        return record


def train_or_load(
    config: Config,
    *,
    chapter: str,
    metrics: Sequence[str] = (),
    device: str | None = None,
    again: bool = False,
) -> Trained:
    """A trained network with its record, from the build folder where it has been trained before.

    Args:
        config, chapter, metrics, device: as of :func:`measure`.
        again: train it anew.

    Raises:
        NonFiniteLoss: the loss stopped being finite.
    """
    data = load(config.data, **config.data_args)
    folder = folders.build() / "live" / run_id(config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        path, model = folder / chapter / f"{run_id(config)}.json", folder / "model.pt"
        if path.is_file() and model.is_file() and not again:
            record = read(path)
            same = record.is_current and record.dataset["fingerprint"] == data.fingerprint
            if same and is_measured(record, metrics):
                with suppress(ValueError):  # weights that another version of the library saved: train anew
                    return Trained(load_trained(model)[0].to(device or best_device()), record)
        shutil.rmtree(folder, ignore_errors=True)
        record, method = _train(config, chapter, metrics, data, device, folder, folder)
        if method is None:
            step = int(record.final["diverged_at_step"])
            raise NonFiniteLoss(
                f"{config.method} diverged at step {step}: a page needs a network that trains; lower lr or add warm-up",
                step=step,
            )
        return Trained(method, record)


@contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """Whether this process, or the group that it trains with, is the only one at a run."""
    if distributed.rank() > 0:
        yield distributed.from_rank_0(False)
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{folder}.lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield distributed.from_rank_0(False)
        return
    try:
        yield distributed.from_rank_0(True)
    finally:
        lock.release()


def _train(
    config: Config,
    chapter: str,
    metrics: Sequence[str],
    data: ImageData,
    device: str | None,
    folder: Path,
    place: Path,
) -> tuple[Record, Method | None]:
    """Train, measure and write the record; without the method where the loss stopped being finite."""
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray] = {}
    method: Method | None = None
    used = str(pick_device(device))
    try:
        fitted = fit(config, data=data, device=device, folder=folder, progress=True)
    except NonFiniteLoss as error:
        facts = {"history": [], "final": {"diverged_at_step": error.step + 1}, "timing": {}, "memory": {}}
        metrics = ()
    else:
        method = fitted.method
        facts = {name: getattr(fitted, name) for name in ("history", "final", "timing", "memory")}
        scores, arrays = _take(metrics, method, data, used) if distributed.rank() == 0 else ({}, {})
        facts["final"] = {**fitted.final, **scores}
    sha, dirty = provenance.commit()
    shared = {"processes": distributed.world_size()} if distributed.world_size() > 1 else {}
    record = Record(
        id=run_id(config),
        chapter=chapter,
        config=config.to_dict(),
        revision=METHODS[config.method].revision,
        dataset={
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": len(data.classes),
            "image_size": data.image_size,
            **{split: len(getattr(data, split)) for split in ("train", "val", "test")},
        },
        metrics=list(metrics),
        device=provenance.device_info(used) | shared,
        versions=provenance.versions(),
        commit=sha,
        dirty=dirty,
        **facts,
    )
    if distributed.rank() == 0:
        record = write(record, place, arrays)
    return distributed.from_rank_0(record), method


def _take(
    metrics: Sequence[str], method: Method, data: ImageData, device: str
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Numbers and arrays of the metrics, each named ``<metric>/<key>``."""
    scores, arrays = dict[str, float](), dict[str, np.ndarray]()
    for metric in metrics:
        try:
            measured = METRICS[metric](method, data, device)
        except NotApplicable:  # boxes of a network that has none, parts of data that knows none: no number
            continue
        for key, value in measured.items():
            if isinstance(value, np.ndarray):
                arrays[f"{metric}/{key}"] = value
            else:
                scores[f"{metric}/{key}"] = float(value)
    return scores, arrays
