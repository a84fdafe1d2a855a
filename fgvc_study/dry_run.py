"""A dry run: whether runs have all that they need, and what they will cost, without training anything.

For each configuration this looks for weights and data, builds the method, and estimates memory and time by
:mod:`fgvc_study.estimate`: time = work / throughput. Nothing is downloaded, decoded or trained.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from fgvc_lib.backbones.weights import packaged
from fgvc_lib.config import Config
from fgvc_lib.data import LISTINGS, load
from fgvc_lib.data.files import Files, select
from fgvc_study.estimate import Shape, estimate

OFFICIAL = {
    "cub": Shape(200, 5994, 5794),
    "cub100": Shape(100, 2999, 2903),
    "cars": Shape(196, 8144, 8041),
    "aircraft": Shape(100, 6667, 3333),
    "flowers": Shape(102, 2040, 6149),
    "pets": Shape(37, 3680, 3669),
    "mnist": Shape(10, 60_000, 10_000, channels=1, image_size=28),
}
"""Sizes of the whole sets, expected of a copy and counted with where there is none."""


@dataclass(frozen=True)
class Cost:
    """Of one run.

    Attributes:
        memory: bytes on each device; None where the run cannot be built.
        seconds: of its training steps; None likewise.
        problems: what is missing, a sentence each.
    """

    memory: int | None
    seconds: float | None
    problems: tuple[str, ...]


def cost(config: Config, *, flops_per_second: float, processes: int = 1) -> Cost:
    """Check and estimate a run; runs that differ in their seed only cost the same.

    Args:
        config: of the run.
        flops_per_second: that one device is thought to keep up.
        processes: how many train together, one a device.
    """
    return _cost(json.dumps(config.replace(seed=0).to_dict()), flops_per_second, processes)


@functools.cache
def _cost(settings: str, flops_per_second: float, processes: int) -> Cost:
    config, weights = _without_pretrained(Config.from_dict(json.loads(settings)))
    shape, wrong = data_shape(config)
    problems = [*missing_weights(weights), *wrong]
    if shape is None:
        return Cost(None, None, tuple(problems))
    try:
        found = estimate(config, shape, processes=processes)
    except (ValueError, TypeError, RuntimeError) as error:
        return Cost(None, None, (*problems, f"settings: {' '.join(str(error).split())}"))
    return Cost(found.memory, found.flops / (flops_per_second * processes), tuple(problems))


@functools.cache
def throughput(device: str) -> float:
    """Operations a second that small networks keep up: a third of a 3 × 3 convolution's, measured for a moment."""
    x = torch.randn(16, 64, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    layer = nn.Conv2d(64, 64, 3, padding=1).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fastest = math.inf
    with torch.no_grad():
        for _ in range(6):
            start = time.perf_counter()
            float(layer(x)[0, 0, 0, 0])  # waits for the device
            fastest = min(fastest, time.perf_counter() - start)
    return 2 * x.numel() * 64 * 9 / fastest / 3


def sentence(configs: Sequence[Config], device: str) -> str:
    """What training these runs will take: ``12 runs to train, about 4 minutes on cpu``."""
    found = [cost(config, flops_per_second=throughput(device)).seconds for config in configs]
    runs = f"{len(configs)} run{'s' * (len(configs) > 1)} to train"
    known = [seconds for seconds in found if seconds is not None]
    if len(known) < len(found):
        return f"{runs} on {device}"
    total = sum(known)
    length = f"{total / 60:.0f} minutes" if total > 90 else f"{max(total, 1):.0f} seconds"
    return f"{runs}, about {length} on {device}"


def report(
    runs: Sequence[Mapping[str, Any]], *, tflops: float, processes: int = 1, say: Callable[[str], None] = print
) -> bool:
    """A line for each experiment of a plan's missing runs, then one for each thing that is missing.

    Args:
        runs: of :func:`fgvc_study.plan.missing`.
        tflops: 10¹² floating-point operations a second that one device is thought to keep up.
        processes: how many train together, one a device.
        say: is told the lines.

    Returns:
        Whether nothing is missing.
    """
    experiments: dict[str, list[Cost]] = {}
    for run in runs:
        config = Config.from_dict(run["config"])
        found = cost(config, flops_per_second=tflops * 1e12, processes=processes)
        experiments.setdefault(f"{run['chapter']}/{run['experiment']}", []).append(found)
    devices = f"{processes} device{'s' * (processes > 1)} of {tflops:g} TFLOP/s"
    say(f"{'experiment':<42}{'runs':>5}{'memory':>11}{'hours':>8}   on {devices}")
    problems: dict[str, int] = {}
    for name, costs in experiments.items():
        own = dict.fromkeys(problem for c in costs for problem in c.problems)
        problems = {p: problems.get(p, 0) + (p in own) for p in [*problems, *own]}
        memory = max((c.memory for c in costs if c.memory is not None), default=None)
        hours = [c.seconds / 3600 for c in costs if c.seconds is not None]
        shown = f"{memory / 2**30:.1f} GiB" if memory is not None else "?"
        total = f"{sum(hours):.1f}" if len(hours) == len(costs) else "?"
        state = f"lacks {', '.join(dict.fromkeys(p.partition(':')[0] for p in own))}" if own else "ready"
        say(f"{name:<42}{len(costs):>5}{shown:>11}{total:>8}   {state}")
    for problem, count in problems.items():
        say(f"{problem} ({count} experiment{'s' * (count > 1)})")
    return not problems


# ---- weights


@functools.cache  # many variants ask for the same file
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def missing_weights(names: Sequence[str]) -> Iterator[str]:
    """A sentence for each of the ImageNet weights that are not here, or are damaged."""
    for name in names:
        kind, _, network = name.partition(" ")
        if kind == "timm":
            if packaged(network) is None:
                yield f"weights: the first run fetches those of timm's {network} from its hub"
            continue
        if kind == "file":
            if not Path(network).expanduser().is_file():
                yield f"weights: {network} is not there"
            continue
        url = models.get_model_weights(name)["IMAGENET1K_V1"].url
        path = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[1]
        if not path.is_file():
            yield f"weights: {path} is not there; the first run fetches it, or copy it from {url}"
        elif not _sha256(path).startswith(path.stem.rsplit("-", 1)[1]):
            yield f"weights: {path} is damaged: its checksum is not the one in its name; remove it"


def _without_pretrained(config: Config) -> tuple[Config, list[str]]:
    """The configuration with nothing ``pretrained``, however deep, and what it asked for.

    That is torchvision's name of a network, ``timm`` and timm's, or ``file`` and a path.
    """
    names: list[str] = []

    def strip(settings: Mapping[str, Any], backbone: str) -> dict[str, Any]:
        backbone = settings.get("backbone", backbone)
        pretrained = settings.get("pretrained")
        if isinstance(pretrained, str):
            names.append(f"file {pretrained}")
        elif pretrained and backbone == "timm":
            names.append(f"timm {settings['name']}")
        elif pretrained:
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
        files = _listed(config.data, args.get("root"), args.get("test_fraction"))
        part = {key: args[key] for key in ("classes", "per_class", "val_fraction", "seed") if key in args}
        chosen = select(files, **part)
    except (OSError, ValueError) as error:
        problem = f"data: {' '.join(str(error).split())}"
        if official is None:
            return None, [problem]
        kept = round(official.train * (1 - args.get("val_fraction", 0.1)))
        side = size if official.channels == 3 else official.image_size
        return Shape(official.classes, kept, official.test, official.channels, side), [problem]
    problems = []
    found = (len(files.classes), len(files.train), len(files.test))
    if official is not None and "root" not in args and found != (official.classes, official.train, official.test):
        problems.append(
            f"data: {files.name} has {found[0]} classes, {found[1]:,} training and {found[2]:,} test images here, the "
            f"whole set {official.classes}, {official.train:,} and {official.test:,}"
        )
    absent = _absent(config.data, args.get("root"), args.get("test_fraction"))
    if absent:
        problems.append(f"data: {len(absent)} image files of {files.name} are not there, {absent[0]} the first")
    return Shape(len(chosen.classes), len(chosen.train), len(chosen.test), image_size=size), problems


@functools.cache
def _listed(name: str, root: str | None, test_fraction: float | None) -> Files:
    given = {"root": root, "test_fraction": test_fraction}
    return LISTINGS[name](**{key: value for key, value in given.items() if value is not None})


@functools.cache
def _absent(name: str, root: str | None, test_fraction: float | None) -> list[Path]:
    files = _listed(name, root, test_fraction)
    return [item.path for item in (*files.train, *files.test) if not item.path.is_file()]
