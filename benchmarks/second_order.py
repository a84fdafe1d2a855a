"""What second order costs: bilinear pooling and channel interaction against the formulae written down literally, and
CIN's training step over its baseline's beside the ratio of their multiply-adds. CCI is there twice: as the library
computes it, averages of Z' without the maps, and as the paper writes it, the maps first.

    python benchmarks/second_order.py            # cuda if there is one; up to ResNet-50 at 448 px
    python benchmarks/second_order.py --device cpu --step-repeats 3        # about five minutes on an idle core

The subjects take turns, so that a busy machine slows all of them alike; ``median`` and ``fastest`` are kept. On a
CPU one thread works and its own processor time is taken, so that other processes count less.
Writes data/benchmarks/second_order-<device>.json.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timing import arguments, peak_bytes, timed, write
from torch import Tensor
from training import multiply_adds, training_step

from fgvc_lib.backbones import resnet
from fgvc_lib.layers.bilinear import BilinearPool
from fgvc_lib.layers.channel_interaction import ContrastiveChannelInteraction, SelfChannelInteraction
from fgvc_lib.methods import CIN

NUM_CLASSES = 196
# depth of the ResNet, image size, images (P × 5): last maps of 8², 7², 14² and 14²
SETTINGS = {
    "cpu": (("small", 64, 20), ("18", 224, 10), ("18", 448, 5), ("50", 448, 5)),
    "cuda": (("18", 224, 20), ("18", 448, 20), ("50", 448, 20)),
}
ROWS: dict[str, dict[str, Any]] = {
    "baseline": {"block": "none", "contrast": "none"},
    "SCI": {"contrast": "none"},
    "SCI + Cont": {"contrast": "features"},
    "SCI + CCI": {},
    "SCI + CCI, as written": {},
}


class AsWritten(ContrastiveChannelInteraction):
    """The maps Z' first, then their averages."""

    def features(self, sci: SelfChannelInteraction, x: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self(sci, x, a, b)
        return left.mean((2, 3)), right.mean((2, 3))


def literal_bilinear(x: Tensor) -> Tensor:
    """The outer product of every location, then their sum, the root and the norm."""
    flat = x.flatten(2).transpose(1, 2)  # (B, L, M)
    outer = flat[:, :, :, None] * flat[:, :, None, :]  # (B, L, M, M)
    y = outer.mean(1).flatten(1)
    y = y.sign() * (y.abs() + 1e-5).sqrt()
    norm: Tensor = y.norm(dim=1, keepdim=True)
    return y / norm


def literal_sci(sci: SelfChannelInteraction, x: Tensor) -> Tensor:
    """exp, row sums and quotient, then Y = WX and Z of X and Y."""
    flat = x.flatten(2)
    weights = torch.exp(-(flat @ flat.transpose(1, 2)) / flat.shape[2])
    y = (weights / weights.sum(2, keepdim=True)) @ flat
    return sci.combine(x, y.view_as(x))


def literal_cci(
    sci: SelfChannelInteraction, cci: ContrastiveChannelInteraction, x: Tensor, a: Tensor, b: Tensor
) -> tuple[Tensor, Tensor]:
    """Pair by pair, each side from the formula."""

    def relation(flat: Tensor) -> Tensor:
        weights = torch.exp(-(flat @ flat.T) / flat.shape[1])
        return weights / weights.sum(1, keepdim=True)

    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for i, j in zip(a.tolist(), b.tolist(), strict=True):
        for side, own, other in ((0, x[i], x[j]), (1, x[j], x[i])):
            w, v = relation(own.flatten(1)), relation(other.flatten(1))
            y, u = (w @ own.flatten(1)).mean(1), (v @ other.flatten(1)).mean(1)
            w = (w - cci.psi(torch.cat([y, u])) * v).abs()
            sides[side].append(sci.combine(own[None], (w @ own.flatten(1)).view_as(own)[None])[0])
    return torch.stack(sides[0]), torch.stack(sides[1])


def compare(
    mine: Callable[[Tensor], Tensor],
    literal: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Time and memory of both ways, forward and backward, after checking that they agree."""
    torch.testing.assert_close(mine(x), literal(x), rtol=1e-2, atol=1e-3)
    x = x.requires_grad_()
    g = torch.randn_like(mine(x))
    calls = {
        name: (lambda f=f: torch.autograd.grad(f(x), x, g)) for name, f in (("library", mine), ("literal", literal))
    }
    return {
        "shape": list(x.shape),
        "seconds": timed(calls, repeats=repeats, device=device),
        "peak_bytes": {name: peak_bytes(call, device) for name, call in calls.items()},
    }


def layers(channels: int, side: int, batch: int, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """The layers on post-ReLU maps."""
    x = F.relu(torch.randn(batch, channels, side, side, device=device))
    pool = BilinearPool()
    sci = SelfChannelInteraction(channels).to(device)
    cci = ContrastiveChannelInteraction(channels).to(device)
    a, b = torch.arange(batch, device=device).chunk(2)
    subjects: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
        "bilinear pooling": (pool, literal_bilinear),
        "SCI": (sci, lambda x: literal_sci(sci, x)),
        "CCI": (lambda x: torch.stack(cci(sci, x, a, b)), lambda x: torch.stack(literal_cci(sci, cci, x, a, b))),
        "CCI, averaged": (
            lambda x: torch.stack(cci.features(sci, x, a, b)),
            lambda x: torch.stack(literal_cci(sci, cci, x, a, b)).mean((3, 4)),
        ),
    }
    return {
        name: compare(mine, literal, x.detach().clone(), repeats=repeats, device=device)
        for name, (mine, literal) in subjects.items()
    }


def build(row: str, depth: str) -> CIN:
    """One row of the ablation."""
    backbone = resnet(depth)
    method = CIN(backbone, NUM_CLASSES, **ROWS[row])
    if row == "SCI + CCI, as written":
        method.cci = AsWritten(backbone.channels[backbone.last])
    return method


def steps(depth: str, size: int, batch: int, precision: str, *, repeats: int, device: torch.device) -> dict[str, Any]:
    """Forward, loss, backward and SGD of each row, over the baseline's, beside the multiply-adds."""
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = (torch.arange(batch, device=device) // 5) % NUM_CLASSES
    calls: dict[str, Callable[[], Any]] = {}
    for row in ROWS:
        method = build(row, depth).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        calls[row] = training_step(method, images, labels, precision)
    seconds = timed(calls, repeats=repeats, device=device, warmup=2 if device.type == "cuda" else 1)
    counts = {row: multiply_adds(partial(build, row, depth), size, batch=batch) for row in ROWS}
    return {
        "backbone": f"resnet {depth}",
        "image_size": size,
        "batch": batch,
        "precision": precision,
        "seconds": seconds,
        "peak_bytes": {row: peak_bytes(call, device) for row, call in calls.items()},
        "multiply_adds_per_image": counts,
        "over_baseline": {
            row: {
                **{kind: seconds[row][kind] / seconds["baseline"][kind] for kind in seconds[row]},
                "multiply_adds": counts[row] / counts["baseline"],
            }
            for row in ROWS
        },
    }


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=5, help="rounds of the layers")
    parser.add_argument(
        "--step-repeats", type=int, help="rounds of the training steps; by default 20 (cuda) or 3 (cpu)"
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    cuda = device.type == "cuda"
    step_repeats = args.step_repeats or (20 if cuda else 3)
    torch.manual_seed(0)
    if not cuda:
        torch.set_num_threads(1)
    results = {
        "repeats": args.repeats,
        "step_repeats": step_repeats,
        "threads": torch.get_num_threads(),
        "layers": layers(512 if cuda else 256, 14, 20 if cuda else 10, repeats=args.repeats, device=device),
        "steps": [
            steps(depth, size, batch, args.precision, repeats=step_repeats, device=device)
            for depth, size, batch in SETTINGS[args.device]
        ],
    }
    write("second_order", device, results, note=args.note)


if __name__ == "__main__":
    main()
