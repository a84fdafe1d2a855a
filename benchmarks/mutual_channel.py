"""What the mutual-channel loss costs: time and extra memory against two other formulations, and a training step.

    python benchmarks/mutual_channel.py                         # cuda if there is one
    python benchmarks/mutual_channel.py --device cpu --note "nothing else running"

Forward and backward of CE(g) − λ h on two maps: 32 × 600 × 14 × 14 (200 classes of 3 channels) and 64 × 2048 × 14 × 14
(152 of 10 and 48 of 11). The formulations, which all give the same loss and gradient:

``ours``            the library's kernel, which trains
``released``        as the official implementation goes about it: a mask of Python lists, shuffled class by class and
                    repeated for the batch; uneven groups gathered class by class; maximum by a transposed max-pool
``released, lean``  the same pooling without the Python mask and without the gathering
``stock``           softmax, ``max``, sum
``stock, amax``     the same with ``amax``, which shares ties and needs no indices

The diversity alone, of ready-made distributions, is set against sums of distances between all pairs of a class's
channels: Euclidean and Kullback–Leibler pair by pair, and Euclidean by inner products, which forms no pairs of maps.

The mask is drawn at every call. On the CPU one thread is used and its processor time counted. Extra memory is the peak
of what is allocated during one forward and backward, above what was there before: temporaries, what is saved, and the
map's gradient. Writes data/benchmarks/mutual_channel-<device>.json.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timing import arguments, peak_bytes, timed, write
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from training import training_step

from fgvc_lib.backbones import resnet
from fgvc_lib.losses._mutual_channel_kernel import mutual_channel_loss
from fgvc_lib.losses.mutual_channel import channel_groups, channel_mask
from fgvc_lib.methods.mutual_channel import MutualChannel

LAM = 10.0
MAPS = {"32×600×14×14": (32, 600), "64×2048×14×14": (64, 2048)}
NUM_CLASSES, SIDE = 200, 14

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
Numbers = dict[str, float]


# ------------------------------------------------------------------------------------------------------- formulations


def ours(x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """The library."""
    terms = mutual_channel_loss(x, labels, NUM_CLASSES, keep=keep)
    return terms.dis - LAM * terms.div


def by_stock_operators(x: Tensor, labels: Tensor, keep: Tensor, maximum: Callable[[Tensor], Tensor]) -> Tensor:
    """Multiply by the mask, softmax over positions, maximum over a class's channels."""
    maps = x.flatten(2)  # (B, N, HW)
    masked, p = maps * keep.to(x.dtype)[:, None], maps.softmax(2)
    runs = channel_groups(x.shape[1], NUM_CLASSES)
    sizes = [classes * xi for classes, xi in runs]
    split = (
        (lambda m: [m]) if len(runs) == 1 else (lambda m: torch.split(m, sizes, 1))
    )  # splitting copies on the way back
    g = [maximum(m.unflatten(1, run)).mean(2) for m, run in zip(split(masked), runs, strict=True)]
    h = [maximum(m.unflatten(1, run)).sum(2) for m, run in zip(split(p), runs, strict=True)]
    return F.cross_entropy(torch.cat(g, 1), labels) - LAM * torch.cat(h, 1).mean()


def stock(x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """``max`` with its indices."""
    return by_stock_operators(x, labels, keep, lambda maps: maps.max(2).values)


def stock_amax(x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """``amax``."""
    return by_stock_operators(x, labels, keep, lambda maps: maps.amax(2))


def pool_channels(x: Tensor, xi: int) -> Tensor:
    """Maximum over neighboring channels by a two-dimensional max-pool with channels and columns swapped."""
    return F.max_pool2d(x.transpose(3, 1), (1, xi), (1, xi)).transpose(3, 1).contiguous()


def by_max_pool(x: Tensor, labels: Tensor, mask: Tensor, split: Callable[[Tensor], list[Tensor]]) -> Tensor:
    """``split`` takes the one or two runs of equal groups out of a map."""
    runs = channel_groups(x.shape[1], NUM_CLASSES)
    g, h = [], []
    for maps, masked, (_, xi) in zip(split(x), split(x * mask), runs, strict=True):
        p = maps.flatten(2).softmax(2).reshape(maps.shape)  # (B, classes · ξ, H, W)
        h.append(pool_channels(p, xi).flatten(2).sum(2))
        g.append(F.avg_pool2d(pool_channels(masked, xi), (SIDE, SIDE)).flatten(1))
    return F.cross_entropy(torch.cat(g, 1), labels) - LAM * torch.cat(h, 1).mean()


def released_lean(x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """Max-pool as released; the mask a tensor, the runs split off."""
    sizes = [classes * xi for classes, xi in channel_groups(x.shape[1], NUM_CLASSES)]
    mask = keep.to(x.dtype)[None, :, None, None]
    return by_max_pool(x, labels, mask, lambda maps: [maps] if len(sizes) == 1 else list(torch.split(maps, sizes, 1)))


def released(x: Tensor, labels: Tensor, keep: Tensor) -> Tensor:
    """As released; ``keep`` plays no part."""
    runs = channel_groups(x.shape[1], NUM_CLASSES)
    row: list[int] = []
    for classes, xi in runs:
        group = [1] * (xi - xi // 2) + [0] * (xi // 2)
        for _ in range(classes):
            random.shuffle(group)
            row += group
    mask = torch.from_numpy(np.array([row] * len(x)).astype("float32")).reshape(len(x), -1, 1, 1).to(x.device)

    def gather(maps: Tensor) -> list[Tensor]:
        if len(runs) == 1:
            return [maps]
        (small, xi), (large, more) = runs
        edge = small * xi
        first = [maps[:, list(range(i * xi, (i + 1) * xi))] for i in range(small)]
        second = [maps[:, list(range(edge + i * more, edge + (i + 1) * more))] for i in range(large)]
        return [torch.cat(first, 1), torch.cat(second, 1)]

    return by_max_pool(x, labels, mask, gather)


FORMULATIONS: dict[str, Loss] = {
    "ours": ours,
    "released": released,
    "released, lean": released_lean,
    "stock": stock,
    "stock, amax": stock_amax,
}


# -------------------------------------------------------------------------------------------------------- measurement


def extra_bytes(call: Callable[[], Any], device: torch.device) -> int:
    """Peak of the bytes allocated during ``call``, not the first one, above those before it.

    On the CPU by every report of the allocator, what kernels use inside included.
    """
    if device.type == "cuda":
        return peak_bytes(call, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        call()
    events = profiler.profiler.kineto_results.events()
    reports = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    return int(np.cumsum([nbytes for _, nbytes in reports]).max())


def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written per second by copying half a gibibyte on the GPU."""
    source = torch.empty(2**27, device=device)
    target = torch.empty_like(source)
    copied = timed({"copy": lambda: target.copy_(source)}, repeats=5, calls=20, device=device)
    return 2 * source.nbytes / copied["copy"]["fastest"]


def ratios(values: Mapping[str, float], to: str) -> dict[str, float]:
    return {name: round(value / values[to], 3) for name, value in values.items()}


def loss_alone(batch: int, channels: int, *, device: torch.device, repeats: int, compiled: bool) -> dict[str, Any]:
    """Every formulation on one map, after a check that they agree."""
    # positive and hardly a tie, so that all gradients agree
    x = torch.rand(batch, channels, SIDE, SIDE, device=device).add_(0.1).requires_grad_()
    labels = torch.arange(batch, device=device) % NUM_CLASSES

    def gradient(loss: Loss, keep: Tensor) -> Tensor:
        return torch.autograd.grad(loss(x, labels, keep), x)[0]

    losses = dict(FORMULATIONS)
    if compiled:  # the Python mask cannot be compiled
        for name in ("ours", "released, lean", "stock", "stock, amax"):
            losses[f"{name}, compiled"] = torch.compile(FORMULATIONS[name], fullgraph=True, dynamic=False)
    keep = channel_mask(channels, NUM_CLASSES).to(device)
    expected = gradient(stock, keep)
    for name, loss in losses.items():
        if name != "released":  # which draws its own mask
            differing = ~torch.isclose(gradient(loss, keep), expected, atol=1e-7, rtol=1e-4)
            # two channels can be so close that rounding decides which of them wins a position
            assert differing.sum() <= 1e-5 * x.numel(), f"{name} differs from stock at {int(differing.sum())} places"
    del expected

    def call(loss: Loss) -> Callable[[], None]:
        def run() -> None:
            gradient(loss, channel_mask(channels, NUM_CLASSES).to(device, non_blocking=True))

        return run

    calls = {name: call(loss) for name, loss in losses.items()}
    inner = 20 if device.type == "cuda" else 1
    slow = {"released": calls.pop("released")}
    seconds = timed(calls, repeats=repeats, calls=inner, device=device)
    seconds |= timed(slow, repeats=1, calls=1, device=device, warmup=0)  # many seconds a call where groups are uneven
    extra = {name: extra_bytes(run, device) for name, run in (calls | slow).items()}
    medians = {name: found["median"] for name, found in seconds.items()}
    result: dict[str, Any] = {
        "map_bytes": x.nbytes,
        "seconds": seconds,
        "times_slower_than_ours": ratios(medians, "ours"),
        "extra_bytes": extra,
        "extra_maps": {name: round(value / x.nbytes, 2) for name, value in extra.items()},
        "extra_over_stock": ratios(extra, "stock"),
    }
    if compiled:
        result["times_slower_than_ours_compiled"] = ratios(medians, "ours, compiled")
    if device.type == "cuda":
        floor = 3 * x.nbytes / copy_bandwidth(device)  # the map read twice, its gradient written once
        result["floor_seconds"] = floor
        result["over_floor"] = {name: round(value / floor, 2) for name, value in medians.items()}
    return result


def euclidean_by_pairs(p: Tensor) -> Tensor:
    """Σ ‖p_a − p_b‖² over all ordered pairs of a class's channels."""
    return (p[:, :, :, None] - p[:, :, None]).square().sum()  # of (B, c, ξ, ξ, HW)


def euclidean_by_products(p: Tensor) -> Tensor:
    """The same as ‖p_a‖² + ‖p_b‖² − 2 p_a·p_b."""
    gram = p @ p.mT  # (B, c, ξ, ξ)
    square = gram.diagonal(dim1=2, dim2=3)  # (B, c, ξ)
    return (square[..., None] + square[..., None, :] - 2 * gram).sum()


def divergence_by_pairs(p: Tensor) -> Tensor:
    """Σ KL(p_a ‖ p_b) over all ordered pairs."""
    logp = p.log()
    return (p[:, :, :, None] * (logp[:, :, :, None] - logp[:, :, None])).sum()


def diversity_alone(xi: int, *, device: torch.device, repeats: int) -> dict[str, Any]:
    """Forward and backward of 8 images with 20 classes of ξ channels, from the distributions on."""
    p = torch.rand(8, 20, xi, SIDE * SIDE, device=device).softmax(3).requires_grad_()
    sums: dict[str, Callable[[Tensor], Tensor]] = {
        "maximum": lambda p: p.amax(2).sum(),
        "Euclidean, pair by pair": euclidean_by_pairs,
        "Euclidean, inner products": euclidean_by_products,
        "Kullback–Leibler, pair by pair": divergence_by_pairs,
    }
    torch.testing.assert_close(euclidean_by_pairs(p), euclidean_by_products(p), atol=1e-3, rtol=1e-2)
    calls = {name: (lambda f=f: torch.autograd.grad(f(p), p)) for name, f in sums.items()}
    seconds = timed(calls, repeats=repeats, calls=20 if device.type == "cuda" else 2, device=device)
    medians = {name: found["median"] for name, found in seconds.items()}
    return {"seconds": seconds, "over_the_maximum": ratios(medians, "maximum")}


def step_over_baseline(*, device: torch.device, repeats: int, batch: int) -> dict[str, Any]:
    """A training step of ResNet-18 with a 600 × 14 × 14 map at 224 px, with the loss and without it."""
    net = resnet(18, strides=(1, 2, 2, 1), last_channels=600).to(device)
    images = torch.randn(batch, 3, 224, 224, device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    settings: dict[str, dict[str, Any]] = {"baseline": {"mu": 0.0}, "mutual channel": {"xi": 3}}
    steps = {
        name: training_step(MutualChannel(net, NUM_CLASSES, **arguments).to(device), images, labels)
        for name, arguments in settings.items()
    }
    seconds = timed(steps, repeats=repeats, calls=5 if device.type == "cuda" else 1, device=device)
    return {
        "setting": f"ResNet-18, {batch} images of 224 px, float32, map 600 × 14 × 14",
        "seconds": seconds,
        "over_baseline": {k: seconds["mutual channel"][k] / seconds["baseline"][k] for k in ("median", "fastest")},
    }


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, help="by default 20 (cuda) or 5 (cpu)")
    parser.add_argument("--step-repeats", type=int, help="by default 10 (cuda) or 3 (cpu)")
    parser.add_argument("--step-batch", type=int, help="by default 32 (cuda) or 8 (cpu)")
    parser.add_argument("--no-compile", action="store_true", help="where there is no compiler")
    args = parser.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    device = torch.device(args.device)
    repeats, step_repeats, step_batch = (20, 10, 32) if device.type == "cuda" else (5, 3, 8)
    repeats, step_repeats = args.repeats or repeats, args.step_repeats or step_repeats
    note = args.note
    if device.type == "cpu":
        torch.set_num_threads(1)
        note = f"one thread, its processor time. {note}".strip()
    results: dict[str, Any] = {
        name: loss_alone(batch, channels, device=device, repeats=repeats, compiled=not args.no_compile)
        for name, (batch, channels) in MAPS.items()
    }
    for xi in (3, 10):
        results[f"diversity of ξ = {xi} channels a class"] = diversity_alone(xi, device=device, repeats=repeats)
    results["training step"] = step_over_baseline(
        device=device, repeats=step_repeats, batch=args.step_batch or step_batch
    )
    write("mutual_channel", device, results, note=note)


if __name__ == "__main__":
    main()
