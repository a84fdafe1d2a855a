"""Rehearse runs: everything that they need, but their hours.

For each group of ``data/runs.yaml`` this looks for the weights and the data, builds every row, and estimates memory and
time by :mod:`fgvc_lib.results.estimate`: time = work / (throughput · devices), for a throughput that the caller states.
Nothing is downloaded, decoded or trained.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torchvision import models

from fgvc_lib.config import Config
from fgvc_lib.data import load
from fgvc_lib.data.cub import cub_files
from fgvc_lib.data.files import Files, select
from fgvc_lib.data.folder import folder_files
from fgvc_lib.data.real import aircraft_files, cars_files, flowers_files, pets_files
from fgvc_lib.results import wanted
from fgvc_lib.results.estimate import Estimate, Shape, estimate
from fgvc_lib.results.files import sha256

LISTINGS: dict[str, Callable[..., Files]] = {
    "cub": cub_files,
    "cars": cars_files,
    "aircraft": aircraft_files,
    "flowers": flowers_files,
    "pets": pets_files,
    "folder": folder_files,
    "cars196_crops": functools.partial(folder_files, root="cars196_crops"),
}
"""Data sets of image files, which are listed here and not decoded; the others are loaded."""

OFFICIAL = {
    "cub": Shape(200, 5994, 5794),
    "cars": Shape(196, 8144, 8041),
    "aircraft": Shape(100, 6667, 3333),
    "flowers": Shape(102, 2040, 6149),
    "pets": Shape(37, 3680, 3669),
    "mnist": Shape(10, 60_000, 10_000, channels=1, image_size=28),
}
"""Sizes of the whole sets, expected of a copy and counted with where there is none."""


@dataclass(frozen=True)
class Rehearsal:
    """Of a group's runs.

    Attributes:
        group: its name.
        runs: how many.
        memory: bytes on each device, of the row that needs most; None where none could be built.
        seconds: of all runs, one after the other; None where a row could not be built.
        problems: what is missing, a sentence each.
    """

    group: str
    runs: int
    memory: int | None
    seconds: float | None
    problems: tuple[str, ...]


def rehearse(group: str, rows: Mapping[str, Sequence[Config]], *, tflops: float, processes: int = 1) -> Rehearsal:
    """Check and estimate the runs of a group.

    Args:
        group: its name.
        rows: label → one configuration a seed; the seeds of a row cost the same.
        tflops: 10¹² floating-point operations a second that one device is thought to keep up.
        processes: how many train together, one a device.
    """
    problems: list[str] = []
    estimates: list[Estimate] = []
    seconds = 0.0
    for label, configs in rows.items():
        config, weights = _without_weights(configs[0])
        problems += missing_weights(weights)
        shape, wrong = data_shape(config)
        problems += wrong
        if shape is None:
            continue
        try:
            found = estimate(config, shape, processes=processes)
        except (ValueError, TypeError, RuntimeError) as error:
            problems.append(f"settings: {group}, {label}: {' '.join(str(error).split())}")
            continue
        estimates.append(found)
        seconds += len(configs) * found.flops / (tflops * 1e12 * processes)
    whole = len(estimates) == len(rows)
    return Rehearsal(
        group,
        sum(map(len, rows.values())),
        max((e.memory for e in estimates), default=None),
        seconds if whole else None,
        tuple(dict.fromkeys(problems)),
    )


def report(
    profile: str, *, only: str = "", tflops: float, processes: int = 1, say: Callable[[str], None] = print
) -> bool:
    """Rehearse the missing runs of a profile: a line for each group, then one for each thing that is missing.

    Args:
        profile: of ``data/runs.yaml``.
        only: take groups whose name starts so.
        tflops, processes: see :func:`rehearse`.
        say: is told the lines.

    Returns:
        Whether nothing is missing.
    """
    groups: dict[str, dict[str, list[Config]]] = {}
    for group, row, config in wanted.missing(profile, only=only):
        groups.setdefault(group.name, {}).setdefault(row, []).append(config)
    if not groups:
        say(f"no run of profile {profile} is missing among the experiments {only}…")
        return True
    devices = f"{processes} device{'s' * (processes > 1)} of {tflops:g} TFLOP/s"
    say(f"{'experiment':<22}{'runs':>5}{'memory':>11}{'hours':>8}   on {devices}")
    problems: dict[str, int] = {}
    for name, rows in groups.items():
        found = rehearse(name, rows, tflops=tflops, processes=processes)
        for problem in found.problems:
            problems[problem] = problems.get(problem, 0) + 1
        memory = "?" if found.memory is None else f"{found.memory / 2**30:.1f} GiB"
        hours = "?" if found.seconds is None else f"{found.seconds / 3600:.1f}"
        kinds = dict.fromkeys(problem.partition(":")[0] for problem in found.problems)
        state = f"lacks {', '.join(kinds)}" if kinds else "ready"
        say(f"{name:<22}{found.runs:>5}{memory:>11}{hours:>8}   {state}")
    for problem, count in problems.items():
        say(f"{problem} ({count} experiment{'s' * (count > 1)})")
    return not problems


def write_configs(profile: str, folder: Path, *, only: str = "") -> Iterator[Path]:
    """Write the settings of each missing run as YAML, for ``fgvc train --config``; gives the files."""
    folder.mkdir(parents=True, exist_ok=True)
    for group, row, config in wanted.missing(profile, only=only):
        name = re.sub(r"[^a-z0-9]+", "-", f"{group.name} {row}".lower()).strip("-")
        path = folder / f"{name}-seed-{config.seed}.yaml"
        settings = yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True)
        path.write_text(f"# {group.name}: {row}\n{settings}", encoding="utf8")
        yield path


# ---- weights

_sha256 = functools.cache(sha256)  # many rows ask for the same file


def missing_weights(names: Sequence[str]) -> Iterator[str]:
    """A sentence for each of torchvision's ImageNet weights that are not in ``TORCH_HOME``, or are damaged there."""
    for name in names:
        url = models.get_model_weights(name)["IMAGENET1K_V1"].url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
        if not path.is_file():
            yield f"weights: {path} is not there; the first run fetches it, or copy it from {url}"
        elif not _sha256(path).startswith(path.stem.rsplit("-", 1)[1]):
            yield f"weights: {path} is damaged: its checksum is not the one in its name; remove it"


def _without_weights(config: Config) -> tuple[Config, list[str]]:
    """The configuration with nothing ``pretrained``, however deep, and torchvision's names of what it asked for."""
    names: list[str] = []

    def strip(settings: Mapping[str, Any], backbone: str) -> dict[str, Any]:
        backbone = settings.get("backbone", backbone)
        if settings.get("pretrained"):
            plain = backbone == "vgg" and settings.get("batch_norm", True)
            names.append(f"{backbone}{settings['depth']}{'_bn' * plain}")
        left = {key: value for key, value in settings.items() if key != "pretrained"}
        return {key: strip(value, backbone) if isinstance(value, Mapping) else value for key, value in left.items()}

    return Config.from_dict(strip(config.to_dict(), config.backbone)), list(dict.fromkeys(names))


# ---- data


def data_shape(config: Config) -> tuple[Shape | None, list[str]]:
    """The shape of the data set, the official one where it is not there, and what is wrong with it."""
    args = dict(config.data_args)
    size = args.get("image_size", 224)
    official = OFFICIAL.get(config.data)
    try:
        if config.data not in LISTINGS:
            data = load(config.data, **{**args, "download": False} if "download" in args else args)
            channels = data.train.images.shape[1]
            return Shape(len(data.classes), len(data.train), len(data.test), channels, data.image_size), []
        files = _listed(config.data, args.get("root"), args.get("test_share"))
        part = {key: args[key] for key in ("classes", "per_class", "val_share", "seed") if key in args}
        chosen = select(files, **part)
    except (OSError, ValueError) as error:
        problem = f"data: {' '.join(str(error).split())}"
        if official is None:
            return None, [problem]
        kept = round(official.train * (1 - args.get("val_share", 0.1)))
        side = size if official.channels == 3 else official.image_size
        return Shape(official.classes, kept, official.test, official.channels, side), [problem]
    problems = []
    found = (len(files.classes), len(files.train), len(files.test))
    if official is not None and "root" not in args and found != (official.classes, official.train, official.test):
        problems.append(
            f"data: {files.name} has {found[0]} classes, {found[1]:,} training and {found[2]:,} test images here, the "
            f"whole set {official.classes}, {official.train:,} and {official.test:,}"
        )
    absent = _absent(config.data, args.get("root"), args.get("test_share"))
    if absent:
        problems.append(f"data: {len(absent)} image files of {files.name} are not there, {absent[0]} the first")
    return Shape(len(chosen.classes), len(chosen.train), len(chosen.test), image_size=size), problems


@functools.cache
def _listed(name: str, root: str | None, test_share: float | None) -> Files:
    given = {"root": root, "test_share": test_share}
    return LISTINGS[name](**{key: value for key, value in given.items() if value is not None})


@functools.cache
def _absent(name: str, root: str | None, test_share: float | None) -> list[Path]:
    files = _listed(name, root, test_share)
    return [item.path for item in (*files.train, *files.test) if not item.path.is_file()]
