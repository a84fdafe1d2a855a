"""Does the input keep the device busy? Images per second on ``cars196_crops``, ResNet-18 at 112 and 224 px.

    FGVC_DATA=… python benchmarks/input_pipeline.py                    # one GPU, the whole set
    FGVC_DATA=… python benchmarks/input_pipeline.py --device cpu       # a few classes

Candidates, taking turns in one run:
    loop        ``fgvc_lib.train.fit``: decoded cache, batches cropped, flipped and normalized on the device
    resident    the same, but every step gets one batch that lies ready on the device: what the input could cost at most
    textbook    float32, ``DataLoader`` that decodes and transforms each image (workers = cores, pinned, persistent)
    cache only, textbook only    the input alone, on the device, with nothing trained on it
The ratios loop / resident (1 is a free input) and loop / textbook compare within this run, whatever else the machine
did. The loop computes in ``--precision``, by default what it would choose on a GPU and bfloat16 on a CPU; the textbook
loop is a tutorial's, in float32, so the second ratio is of everything that the loop does and not of the input alone.
Writes data/benchmarks/input_pipeline-<device>.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import timing
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18
from torchvision.transforms import v2

from fgvc_lib.config import Config
from fgvc_lib.data import Loader, Split, load
from fgvc_lib.train import fit, trainer
from fgvc_lib.train.machine import pick_device


class Resident(Loader):
    """One batch, made once and given out again and again."""

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        first = next(super().epoch(0))
        timing.synchronize(self.device)
        for _ in range(start, len(self)):
            yield first


def wall_seconds(work: Callable[[], Any], device: torch.device) -> float:
    """By the clock on the wall on a CPU too: workers are other processes."""
    timing.synchronize(device)
    start = time.perf_counter()
    work()
    timing.synchronize(device)
    return time.perf_counter() - start


def few(split: Split) -> Split:
    """Eight images: evaluation is not what is measured."""
    return Split(split.images[:8], split.labels[:8])


def textbook_loader(folder: Path, size: int, batch: int, classes: int | None, device: torch.device) -> Any:
    """``ImageFolder`` and ``transforms.v2`` in a ``DataLoader``, as the tutorials do it."""
    transform = v2.Compose(
        [
            v2.Resize((size, size)),
            v2.RandomCrop(size, size // 8, padding_mode="edge"),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    files = ImageFolder(str(folder), transform)
    files.samples = [(path, label) for path, label in files.samples if classes is None or label < classes]
    return DataLoader(
        files,
        batch,
        shuffle=True,
        drop_last=True,
        num_workers=os.cpu_count() or 1,
        pin_memory=device.type == "cuda",
        persistent_workers=True,
    )


class Textbook:
    """A plain float32 training loop, and its input alone.

    Its workers live for one turn: they would prefetch during the turns of others. What they have prefetched before the
    clock starts is used up first, so that the rate is one that they can keep.
    """

    def __init__(self, make_loader: Callable[[], Any], classes: int, steps: int, device: torch.device) -> None:
        self.make_loader, self.steps, self.device = make_loader, steps, device
        self.host_bytes: int | None = None
        self.model = resnet18(num_classes=classes).to(device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def _turn(self, work: Callable[[Tensor, Tensor], Any]) -> float:
        loader = self.make_loader()

        def batches() -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield from loader

        stream = batches()
        for _ in range(loader.num_workers * loader.prefetch_factor):
            next(stream)

        def steps() -> None:
            for _ in range(self.steps):
                images, labels = next(stream)
                work(images.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True))

        seconds = wall_seconds(steps, self.device)
        self.host_bytes = timing.memory(self.device).get("host_bytes")  # while the workers live
        return seconds

    def train(self) -> float:
        """Seconds of one turn of training."""

        def step(images: Tensor, labels: Tensor) -> None:
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(images), labels).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()

        return self._turn(step)

    def draw(self) -> float:
        """Seconds of one turn of input."""
        return self._turn(lambda images, labels: None)


def measure(size: int, args: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """All candidates at one image size."""
    root = Path(os.environ["FGVC_DATA"]) / "cars196_crops"
    start = time.perf_counter()
    data = load("cars196_crops", image_size=size, classes=args.classes)
    decoding = time.perf_counter() - start
    decoded = sum(len(split) for split in (data.train, data.val, data.test))
    data = dataclasses.replace(data, val=few(data.val), test=few(data.test))
    batch = args.batch or max(1, (256 if device.type == "cuda" else 16) * 112**2 // size**2)
    config = Config(
        backbone="resnet",
        backbone_args={"depth": 18},
        batch_size=batch,
        epochs=10_000,
        max_steps=args.steps,
        lr=0.01,
        precision=args.precision or ("auto" if device.type == "cuda" else "bfloat16"),
    )
    textbook = Textbook(
        lambda: textbook_loader(root / "train", size, batch, args.classes, device),
        len(data.classes),
        args.steps,
        device,
    )

    def draw() -> None:
        loader, left = Loader(data, "train", batch, train=True, seed=0, device=device), args.steps
        for epoch in range(args.steps):  # more than enough of them
            for images, _, _ in loader.epoch(epoch):
                assert images.shape == (batch, 3, size, size)
                if (left := left - 1) == 0:
                    return

    def ours() -> float:
        return fit(config, data=data, device=device).timing["train_seconds"]

    def resident() -> float:
        with mock.patch.object(trainer, "Loader", Resident):
            return fit(config, data=data, device=device).timing["train_seconds"]

    found = timing.take_turns(
        {
            "loop": ours,
            "resident": resident,
            "textbook": textbook.train,
            "cache only": lambda: wall_seconds(draw, device),
            "textbook only": textbook.draw,
        },
        repeats=args.repeats,
        device=device,
    )
    found["textbook"]["host_bytes"] = found["textbook only"]["host_bytes"] = textbook.host_bytes
    rates = {name: batch * args.steps / row["median"] for name, row in found.items()}
    return {
        "image_size": size,
        "batch_size": batch,
        "steps": args.steps,
        "images": len(data.train),
        "precision": {"loop": config.precision, "textbook": "float32"},
        "images_per_second": rates,
        "loop / resident": rates["loop"] / rates["resident"],
        "loop / textbook": rates["loop"] / rates["textbook"],
        "decoding_once": {"images": decoded, "seconds": decoding, "cached_bytes": data.train.images.nbytes},
        "workers": os.cpu_count(),
        "candidates": found,
    }


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default=None, help="cpu or cuda; by default the best there is")
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 224], help="sides of the images")
    parser.add_argument("--batch", type=int, help="images per step; by default 256 (cuda) or 16 (cpu) at 112 px")
    parser.add_argument("--steps", type=int, help="per turn; by default 100 (cuda) or 4 (cpu)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds that count")
    parser.add_argument("--classes", type=int, help="the first so many; by default all (cuda) or 8 (cpu)")
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16", "float16"), help="of the loop")
    parser.add_argument("--note", default="", help="what else the machine did, for the record")
    args = parser.parse_args()
    if "FGVC_DATA" not in os.environ:
        parser.exit(2, "set FGVC_DATA to the folder that holds cars196_crops\n")
    device = pick_device(args.device)
    args.steps = args.steps or (100 if device.type == "cuda" else 4)
    args.classes = args.classes or (None if device.type == "cuda" else 8)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FGVC_CACHE"] = cache  # an empty one, so that decoding is measured too
        sizes = [measure(size, args, device) for size in args.sizes]
    timing.write(
        "input_pipeline", device, {"backbone": "ResNet-18", "data": "cars196_crops", "sizes": sizes}, note=args.note
    )


if __name__ == "__main__":
    main()
