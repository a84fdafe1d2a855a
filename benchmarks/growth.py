"""How does cost grow with classes, channels, map size and resolution?

    python benchmarks/growth.py                      # cuda if there is one
    python benchmarks/growth.py --device cpu         # half a minute on an idle machine

Each subject runs at four sizes of one thing, everything else fixed, the sizes taking turns. A straight line through
the logarithms of size and time has the exponent s of time ∝ size^s as its slope; every round gives one, and the median
over the rounds is kept with the lowest and highest. The exponent of the bytes that operators allocate at most at once
needs no rounds. Exponents below the arithmetic's say that something fixed, a launch of a kernel say, still shows.

Losses and layers run forward and backward, sampler and boxes forward, as in training. On a CPU one thread works and its
processor time counts. Writes data/benchmarks/growth-<device>.json.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from timing import arguments, clocked, peak_bytes, take_turns, without_rounds, write
from torch import Tensor

from fgvc_lib.layers.attention_sampler import attention_sample
from fgvc_lib.layers.bilinear import BilinearPool
from fgvc_lib.layers.channel_interaction import SelfChannelInteraction
from fgvc_lib.layers.roi_pyramid import ROIPyramid
from fgvc_lib.losses._mutual_channel_kernel import mutual_channel_loss
from fgvc_lib.losses.mutual_channel import channel_mask

Call = Callable[[], Any]


class Subject(NamedTuple):
    """``make(size)`` prepares the call at one of ``sizes`` of ``variable``."""

    what: str
    variable: str
    fixed: str
    sizes: Sequence[int]
    make: Callable[[int], Call]


def backward(of: Callable[[Tensor], Tensor], x: Tensor) -> Call:
    """Forward and the gradient of the input."""
    x = x.requires_grad_()
    g = torch.ones_like(of(x))
    return lambda: torch.autograd.grad(of(x), x, g)


def mutual_channel(batch: int, classes: int, channels: int, device: torch.device) -> Call:
    """The loss with its mask on 14 × 14 maps."""
    x = torch.rand(batch, channels, 14, 14, device=device)
    labels = torch.arange(batch, device=device) % classes

    def loss(x: Tensor) -> Tensor:
        keep = channel_mask(channels, classes).to(device)
        terms = mutual_channel_loss(x, labels, classes, keep=keep)
        return terms.dis - terms.div

    return backward(loss, x)


def layer(module: Callable[[Tensor], Tensor], batch: int, channels: int, side: int, device: torch.device) -> Call:
    """A layer on maps as they come out of a ReLU."""
    return backward(module, torch.randn(batch, channels, side, side, device=device).relu())


def sampler(batch: int, side: int, device: torch.device) -> Call:
    """Images of ``side`` sampled to half of it."""
    images, maps = torch.rand(batch, 3, side, side, device=device), torch.rand(batch, 28, 28, device=device) ** 8 + 1e-3
    return lambda: attention_sample(images, maps, (side // 2, side // 2), limit=4.0)


def boxes(batch: int, side: int, device: torch.device) -> Call:
    """The boxes of three levels at strides 8, 16, 32."""
    rois = ROIPyramid()
    masks = [torch.rand(batch, 1, side // stride, side // stride, device=device) for stride in (8, 16, 32)]
    return lambda: rois(masks, (side, side))


def subjects(device: torch.device) -> list[Subject]:
    """What is measured: on a GPU with more images, so that the work outweighs the launches."""
    times = 8 if device.type == "cuda" else 1

    def sci(channels: int, side: int) -> Call:
        return layer(SelfChannelInteraction(channels).to(device), 2 * times, channels, side, device)

    def bilinear(channels: int, side: int) -> Call:
        return layer(BilinearPool(), 4 * times, channels, side, device)

    return [
        Subject(
            "MC-Loss", "classes", "3 channels a class, 14 × 14", (50, 100, 200, 400),
            lambda n: mutual_channel(8 * times, n, 3 * n, device),
        ),
        Subject(
            "MC-Loss", "channels", "100 classes, 14 × 14", (200, 400, 800, 1600),
            lambda n: mutual_channel(8 * times, 100, n, device),
        ),
        Subject("bilinear pooling", "channels", "14 × 14", (128, 256, 512, 1024), lambda n: bilinear(n, 14)),
        Subject("bilinear pooling", "side of the map", "128 channels", (14, 28, 56, 112), lambda n: bilinear(128, n)),
        Subject("SCI", "channels", "14 × 14", (64, 128, 256, 512), lambda n: sci(n, 14)),
        Subject("SCI", "side of the map", "64 channels", (14, 28, 56, 112), lambda n: sci(64, n)),
        Subject(
            "attention sampler", "side of the image", "28 × 28 maps, to half the side", (128, 256, 512, 1024),
            lambda n: sampler(4 * times, n, device),
        ),
        Subject(
            "ROI pyramid", "side of the image", "strides 8, 16, 32", (224, 448, 896, 1792),
            lambda n: boxes(4 * times, n, device),
        ),
    ]  # fmt: skip


def exponent(values: Mapping[int, float]) -> float:
    """The slope s of the least-squares line log value = s · log size + constant."""
    x, y = [math.log(size) for size in values], [math.log(value) for value in values.values()]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    products = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return products / sum((a - mean_x) ** 2 for a in x)


def measure(subject: Subject, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Times and bytes at every size, and the exponents."""
    calls = {size: subject.make(size) for size in subject.sizes}
    candidates = {str(size): clocked(call, device) for size, call in calls.items()}
    found = take_turns(candidates, repeats=repeats, device=device, warmup=2)
    used = {size: peak_bytes(call, device) for size, call in calls.items()}
    rounds = [exponent({size: found[str(size)]["seconds"][i] for size in calls}) for i in range(repeats)]
    return {
        "what": subject.what,
        "variable": subject.variable,
        "fixed": subject.fixed,
        "seconds": without_rounds(found),
        "peak_bytes": {str(size): value for size, value in used.items()},
        "exponent": {"median": statistics.median(rounds), "lowest": min(rounds), "highest": max(rounds)},
        "exponent_of_bytes": exponent(used),
    }


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    device = torch.device(args.device)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(1)
    growth = [measure(subject, repeats=args.repeats, device=device) for subject in subjects(device)]
    write("growth", device, {"repeats": args.repeats, "growth": growth}, note=args.note)


if __name__ == "__main__":
    main()
