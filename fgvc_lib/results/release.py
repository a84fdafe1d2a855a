"""The networks that the chapters look inside, trained and written as files to attach to a release."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from fgvc_lib.config import Config
from fgvc_lib.results import folders, weights
from fgvc_lib.results.files import replacing, sha256
from fgvc_lib.results.run import run_name, trained
from fgvc_lib.results.wanted import Group, groups


def looked_inside(profile: str, *, only: str = "") -> Iterator[tuple[Group, str, Config]]:
    """What ``quick`` trains to its end for a chapter to look inside, as ``profile`` has it: group, row, first seed.

    Args:
        profile: of ``data/runs.yaml``.
        only: take groups whose name starts so.
    """
    for group in groups().values():
        if group.name.startswith(only) and {"quick", profile} <= set(group.profiles):
            for row, configs in group.configs("quick").items():
                if configs[0].max_steps is None:
                    yield group, row, group.configs(profile)[row][0]


def write_all(
    profile: str, folder: Path, *, only: str = "", device: str | None = None, say: Callable[[str], None] = print
) -> int:
    """Write a file for each network of :func:`looked_inside`, trained now or taken from the cache of runs.

    ``manifest.json`` has of each file its checksum, size, group and row, configuration, data, scores, device, versions
    and commit. It is written last, so a folder that has one is whole. Files that the folder's earlier manifest lists
    and the new one does not are removed.

    Args:
        profile: of ``data/runs.yaml``.
        folder: made where it is missing.
        only: take groups whose name starts so.
        device: ``"cpu"``, ``"cuda"``, or None for the best there is.
        say: is told of each network.

    Returns:
        How many of the networks were trained with uncommitted changes; those are not for others.

    Raises:
        ValueError: there is no such network.
    """
    networks = list(looked_inside(profile, only=only))
    if not networks:
        raise ValueError(f"profile {profile!r} has no network to look inside{only and f' whose name starts {only!r}'}")
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / weights.MANIFEST
    before = set(weights.read_manifest(folder)) if manifest.exists() else set()
    files: dict[str, dict[str, Any]] = {}
    for group, row, config in networks:
        _, record = trained(config, profile=profile, chapter=group.chapter, device=device)
        name = run_name(config, record.dataset["fingerprint"])
        path = folder / f"{name}.pt"
        weights.write(path, folders.build(profile) / "runs" / name / "model.pt", record)
        files[path.name] = {
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "group": group.name,
            "row": row,
            "profile": profile,
            "config": record.config,
            "code": name.removeprefix(f"{record.id}-"),
            "data": record.dataset,
            "final": record.final,
            "device": record.device,
            "versions": record.versions,
            "commit": record.commit,
            "dirty": record.dirty,
        }
        score, size = 100 * record.final["test_accuracy"], path.stat().st_size / 1000
        say(f"{path.name}  {size:6,.0f} kB  {score:5.1f} %  {group.name} | {row}")
    with replacing(manifest) as temporary:
        content = {"schema": weights.SCHEMA, "files": files}
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf8")
    for stale in before - set(files):
        (folder / Path(stale).name).unlink(missing_ok=True)
    return sum(entry["dirty"] for entry in files.values())
