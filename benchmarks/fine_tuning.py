"""Is the fine-tuning loop as fast as its network? Images per second on CUB-100 at 128 px, EfficientNet-Lite0.

    FGVC_DATA=… python benchmarks/fine_tuning.py                  # cuda if there is one
    FGVC_DATA=… python benchmarks/fine_tuning.py --device cpu     # one minute on an idle machine

Candidates, taking turns in one run:
    loop        ``fgvc_lib.train.fit`` with the recipe of the ``photos`` profile: random resized crops, flips, colors,
                rates of their own for backbone and head, the first three stages frozen
    resident    the same, but every step gets one batch that lies ready on the device
    plain       a plain PyTorch loop of ten lines that trains the same network in the same way on that batch
Writes data/benchmarks/fine_tuning-<device>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path
from unittest import mock

import timing
import torch
import torch.nn.functional as F
import yaml
from input_pipeline import Resident, few, wall_seconds

from fgvc_lib.config import Config
from fgvc_lib.data import Loader, load
from fgvc_lib.train import build, fit, trainer
from fgvc_lib.train.machine import Precision, pick_device
from fgvc_study.protocol import configuration

PROFILE = Path(__file__).parents[1] / "profiles" / "photos" / "08_evidence.yaml"


def recipe(steps: int) -> Config:
    """The plain network of chapter 8 in the ``photos`` profile, for so many steps."""
    profile = yaml.safe_load(PROFILE.read_text(encoding="utf8"))
    shared = {
        key: profile[key] for key in ("dataset", "image_size", "backbone", "pretrained", "settings", "batch_size")
    }
    return configuration(**shared, epochs=10_000, max_steps=steps, lr=profile["rates"]["plain, linear head"])


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="cpu or cuda; by default the best there is")
    parser.add_argument("--steps", type=int, help="per turn; by default 100 (cuda) or 4 (cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    parser.add_argument("--note", default="", help="what else the machine did, for the record")
    args = parser.parse_args()
    if "FGVC_DATA" not in os.environ:
        parser.exit(2, "set FGVC_DATA to the folder that holds cub100 or CUB_200_2011\n")
    device = pick_device(args.device)
    steps = args.steps or (100 if device.type == "cuda" else 4)
    config = recipe(steps)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FGVC_CACHE"] = cache
        data = load(config.data, **config.data_args)
        data = dataclasses.replace(data, val=few(data.val), test=few(data.test))
        found = timing.take_turns(
            {
                "loop": lambda: fit(config, data=data, device=device).timing["train_seconds"],
                "resident": lambda: resident(config, data, device),
                "plain": plain(config, data, device),
            },
            repeats=args.repeats,
            device=device,
        )
    rates = {name: config.batch_size * steps / row["median"] for name, row in found.items()}
    result = {
        "network": "tf_efficientnet_lite0",
        "data": data.name,
        "image_size": data.image_size,
        "batch_size": config.batch_size,
        "steps": steps,
        "images_per_second": rates,
        "loop / resident": rates["loop"] / rates["resident"],
        "loop / plain": rates["loop"] / rates["plain"],
        "candidates": found,
    }
    timing.write("fine_tuning", device, result, note=args.note)


def resident(config: Config, data, device: torch.device) -> float:  # type: ignore[no-untyped-def]
    """Seconds of training on one batch."""
    with mock.patch.object(trainer, "Loader", Resident):
        return fit(config, data=data, device=device).timing["train_seconds"]


def plain(config: Config, data, device: torch.device):  # type: ignore[no-untyped-def]
    """A call that trains the same network by hand and gives the seconds."""
    images, labels, _ = next(Loader(data, "train", config.batch_size, train=True, seed=0, device=device).epoch(0))
    images = images.contiguous(memory_format=torch.channels_last)
    method = build(config, data).to(device, memory_format=torch.channels_last).train()
    for stage in method.backbone.stages[: config.frozen_stages]:
        method.backbone.blocks[stage].requires_grad_(False).eval()
    trained = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.01, momentum=0.9, weight_decay=config.weight_decay)
    precision = Precision(config.precision, device)

    def train() -> None:
        for _ in range(config.max_steps or 0):
            optimizer.zero_grad()
            with precision.autocast():
                features = method.backbone(images)[method.backbone.last]
                loss = F.cross_entropy(method.head(features.mean((2, 3))).float(), labels)
            loss.backward()
            optimizer.step()

    return lambda: wall_seconds(train, device)


if __name__ == "__main__":
    main()
