"""Trained networks that somebody else trained: files that are used where they are, in place of training.

Where the environment variable ``FGVC_WEIGHTS`` names a folder that ``fgvc weights`` wrote
(:mod:`fgvc_lib.results.release`), :func:`fgvc_lib.results.run.trained` takes from it what it would otherwise train. A
file is named by the run's id and the fingerprint of the code that trained it, so one of another configuration, data
set or version is not found, and the network is trained as ever. ``manifest.json`` has the checksums.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fgvc_lib.results.files import replacing, sha256
from fgvc_lib.results.record import Record
from fgvc_lib.train.checkpoint import load_checked, write_atomically

MANIFEST = "manifest.json"
SCHEMA = 1


class WeightsError(ValueError):
    """Weights that must not be used; the message names the file and says what to do."""


@dataclass(frozen=True)
class Kept:
    """A network from ``FGVC_WEIGHTS``, verified.

    Attributes:
        path: the file, which :func:`fgvc_lib.train.trained.load_trained` reads as well.
        record: of the run that trained it.
        arrays: those of the record.
    """

    path: Path
    record: Record
    arrays: dict[str, np.ndarray]


def write(path: Path, model: Path, record: Record) -> None:
    """Write a finished run as one file: the content of its ``model.pt``, its record and the record's arrays.

    Args:
        path: ``<run id>-<code fingerprint>.pt``.
        model: of the run.
        record: of the run.
    """
    fields = dataclasses.asdict(record)
    del fields["path"]
    arrays = {name: torch.from_numpy(value) for name, value in record.load_arrays().items()}
    write_atomically({**load_checked(model), "name": path.stem, "record": fields, "arrays": arrays}, path)


def find(name: str) -> Kept | None:
    """The network ``name`` (``<run id>-<code fingerprint>``) in the folder of ``FGVC_WEIGHTS``.

    None where the variable is not set, or the folder has no such network: it was made by other code, for example.

    Raises:
        WeightsError: the folder has no manifest, or the file is damaged or not what it is called.
    """
    place = os.environ.get("FGVC_WEIGHTS")
    if not place:
        return None
    folder = Path(place).expanduser()
    path = folder / f"{name}.pt"
    listed = read_manifest(folder).get(path.name)
    if not path.is_file():
        return None
    if listed is None or listed.get("sha256") != sha256(path):
        raise WeightsError(
            f"{path} is not the file that {MANIFEST} beside it describes: fetch both again, or unset FGVC_WEIGHTS to "
            "train"
        )
    try:
        content = load_checked(path)
        record = Record(**content["record"])
        content["name"], content["weights"], content["info"]
        arrays = {key: value.numpy() for key, value in content["arrays"].items()}
    except Exception as error:  # whatever another kind of file makes the unpickler raise
        raise WeightsError(
            f"{path} holds no trained network ({type(error).__name__}): remove it, or unset FGVC_WEIGHTS to train"
        ) from error
    if content["name"] != name or not name.startswith(f"{record.id}-"):
        raise WeightsError(f"{path} holds {content['name']} and not what it is called: remove it, and its entry")
    return Kept(path, record, arrays)


def copy(kept: Kept, model: Path) -> None:
    """Put the network into the cache of runs as its ``model.pt``, whole or not at all."""
    model.parent.mkdir(parents=True, exist_ok=True)
    with replacing(model) as temporary:
        shutil.copyfile(kept.path, temporary)


def read_manifest(folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """File name → what the manifest of a folder says of it."""
    try:
        content = json.loads((folder / MANIFEST).read_text(encoding="utf8"))
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']} instead of {SCHEMA}")
        files: Mapping[str, Mapping[str, Any]] = content["files"]
        if not all(isinstance(entry, dict) for entry in files.values()):
            raise ValueError("an entry is no mapping")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{folder} has no usable {MANIFEST} ({reason}): let FGVC_WEIGHTS name a folder that `fgvc weights` wrote, "
            "or unset it"
        ) from error
    return files
