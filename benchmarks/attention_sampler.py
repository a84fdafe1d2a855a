"""What TASN costs: the sampler against loops, its share of the training step, and the step over the baseline's.

    python benchmarks/attention_sampler.py      # cuda if there is one: ResNet-50, 512 → 224 px
    python benchmarks/attention_sampler.py --device cpu        # a small ResNet, 128 → 64 px, and the published setting

The sampler alone is timed at 512 → 224 px, 64 images, everywhere. It meets two loops with the same result. ``literal``
is what the released operator does, in plain Python: image by image, the clipping round by round, the table entry by
entry, the output pixel by pixel (timed on a few images, its time multiplied up). ``per image`` keeps only the loop over
images and does the rest by NumPy on whole arrays.

On a CPU everything runs on one thread and its processor time is taken, which other programs on the machine hardly
change; on a GPU, wall time after synchronising. The subjects take turns; ``median`` and ``fastest`` are kept.
Writes data/benchmarks/attention_sampler-<device>.json.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from timing import arguments, timed, write
from training import multiply_adds, training_step

from fgvc_lib.backbones import resnet
from fgvc_lib.layers.attention_sampler import attention_sample, sampling_grid
from fgvc_lib.layers.trilinear import average_map, random_maps, trilinear_attention
from fgvc_lib.methods import Method
from fgvc_lib.methods.tasn import TASN

NUM_CLASSES = 196
LIMIT = 4.0


class Setting(NamedTuple):
    """Depth of the ResNet, side of the source images, images, arguments of the method, rounds."""

    depth: str
    side: int
    batch: int
    sizes: dict[str, Any]
    repeats: int


ATTENTION = {"backbone": "resnet", "depth": "small", "strides": [1, 1, 2]}
SMALL = Setting("small", 128, 64, {"input_size": 64, "attention": {"input_size": 64, "backbone": ATTENTION}}, 20)
PUBLISHED = Setting("50", 512, 64, {"input_size": 224, "attention": {"input_size": 224}}, 20)
SETTINGS = {"cpu": (SMALL, PUBLISHED._replace(batch=4, repeats=2)), "cuda": (PUBLISHED,)}
SUBJECTS: dict[str, dict[str, Any]] = {
    "baseline": {"structure": "resize", "detail": None},  # the same net on plainly resized images
    "uniform": {"structure": "uniform", "detail": "uniform"},
    "structure": {"detail": None},
    "structure, detail, distillation": {},
}
WHOLE = "structure, detail, distillation"

Numbers = dict[str, float]


def build(name: str, setting: Setting) -> Method:
    """One of the networks compared."""
    return TASN(resnet(setting.depth), NUM_CLASSES, **setting.sizes, **SUBJECTS[name])


def literal_axis(marginal: list[float], size: int, limit: float, *, rounds: int) -> list[float]:
    """Points along one axis: clip and redistribute, then walk along the running sum, one entry at a time."""
    cells = len(marginal)
    mean = sum(marginal) / cells
    magnification = [value / mean for value in marginal]
    for _ in range(rounds):
        lost = 0.0
        for n in range(cells):
            if magnification[n] > limit:
                lost += magnification[n] - limit
                magnification[n] = limit
        for n in range(cells):
            magnification[n] += lost / cells
    points, cell, before = [], 0, 0.0
    for k in range(size - 1):
        share = k * cells / (size - 1)
        while before + magnification[cell] < share:
            before += magnification[cell]
            cell += 1
        points.append((cell + (share - before) / magnification[cell]) / cells)
    return [*points, 1.0]


def literal_sample(
    images: np.ndarray, maps: np.ndarray, size: tuple[int, int], limit: float, *, rounds: int = 200
) -> np.ndarray:
    """The sampler as one writes it down first; enough rounds of clipping to meet the closed form."""
    out = np.zeros((len(images), images.shape[1], *size), images.dtype)
    height, width = images.shape[2:]
    for b in range(len(images)):
        image, here = images[b], maps[b]
        ys = literal_axis([float(max(row)) for row in here], size[0], limit, rounds=rounds)
        xs = literal_axis([float(max(column)) for column in here.T], size[1], limit, rounds=rounds)
        for i in range(size[0]):
            y = ys[i] * (height - 1)
            top = min(int(y), height - 2)
            for j in range(size[1]):
                x = xs[j] * (width - 1)
                left = min(int(x), width - 2)
                v, u = y - top, x - left
                for c in range(len(image)):
                    out[b, c, i, j] = (1 - v) * ((1 - u) * image[c, top, left] + u * image[c, top, left + 1]) + v * (
                        (1 - u) * image[c, top + 1, left] + u * image[c, top + 1, left + 1]
                    )
    return out


def numpy_axis(marginal: np.ndarray, size: int, limit: float, *, rounds: int) -> np.ndarray:
    """:func:`literal_axis` on whole arrays."""
    magnification = marginal / marginal.mean()
    for _ in range(rounds):
        clipped = magnification.clip(max=limit)
        magnification = clipped + (magnification - clipped).mean()
    running = np.concatenate([[0], magnification.cumsum()])
    return np.interp(np.linspace(0, 1, size), running / running[-1], np.linspace(0, 1, len(running)))


def numpy_sample(
    images: np.ndarray, maps: np.ndarray, size: tuple[int, int], limit: float, *, rounds: int = 200
) -> np.ndarray:
    """One image after the other, each by NumPy."""
    sampled = []
    height, width = images.shape[2:]
    for image, here in zip(images, maps, strict=True):
        y = numpy_axis(here.max(1), size[0], limit, rounds=rounds) * (height - 1)
        x = numpy_axis(here.max(0), size[1], limit, rounds=rounds) * (width - 1)
        top, left = y.astype(int).clip(max=height - 2), x.astype(int).clip(max=width - 2)
        v, u = (y - top)[:, None].astype(image.dtype), (x - left)[None].astype(image.dtype)
        rows, below = image[:, top], image[:, top + 1]
        upper = (1 - u) * rows[:, :, left] + u * rows[:, :, left + 1]
        lower = (1 - u) * below[:, :, left] + u * below[:, :, left + 1]
        sampled.append((1 - v) * upper + v * lower)
    return np.stack(sampled)


def sampler_against_loops(*, device: torch.device, repeats: int, literal_images: int) -> dict[str, Any]:
    """Seconds for 64 images at 512 → 224 px with maps of 28×28, after a check that all three agree."""
    batch, size = 64, (224, 224)
    images = torch.rand(batch, 3, 512, 512)
    maps = torch.rand(batch, 28, 28) ** 8 + 1e-3
    here = images.to(device), maps.to(device)
    arrays = images.numpy(), maps.numpy().astype(np.float64)
    few = arrays[0][:literal_images], arrays[1][:literal_images]

    fast = attention_sample(*here, size, limit=LIMIT).cpu()
    by_numpy = torch.from_numpy(numpy_sample(*arrays, size, LIMIT))
    literal = torch.from_numpy(literal_sample(*few, size, LIMIT))
    # neighboring pixels of this noise differ by up to 1: an error of 1e-3 is a thousandth of a pixel
    torch.testing.assert_close(fast, by_numpy, atol=1e-3, rtol=0)
    torch.testing.assert_close(fast[:literal_images], literal, atol=1e-3, rtol=0)

    seconds = timed(
        {
            "batched": lambda: attention_sample(*here, size, limit=LIMIT),
            "batched, positions only": lambda: sampling_grid(here[1], size, limit=LIMIT),
        },
        repeats=repeats,
        device=device,
    )
    # rounds=5 as in the released operator
    cpu = torch.device("cpu")
    slow = timed({"per image": lambda: numpy_sample(*arrays, size, LIMIT, rounds=5)}, repeats=3, device=cpu)
    by_loops = {"literal": lambda: literal_sample(*few, size, LIMIT, rounds=5)}
    slow |= timed(by_loops, repeats=2, device=cpu, warmup=0)
    slow["literal"] = {kind: value * batch / literal_images for kind, value in slow["literal"].items()}
    seconds |= slow
    return {
        "seconds": seconds,
        "literal_images": literal_images,
        "times_faster_than": {
            name: {kind: seconds[name][kind] / seconds["batched"][kind] for kind in ("median", "fastest")}
            for name in ("literal", "per image")
        },
    }


def step_over_baseline(setting: Setting, *, precision: str, device: torch.device) -> dict[str, Any]:
    """Training steps, the sampler's and the attention's share of the whole method's, and the work beside the time."""
    depth, side, batch, sizes, repeats = setting
    images = torch.randn(batch, 3, side, side, device=device)
    labels = torch.arange(batch, device=device) % NUM_CLASSES
    methods = {name: build(name, setting).to(device) for name in SUBJECTS}
    steps = {name: training_step(method, images, labels, precision) for name, method in methods.items()}
    whole = methods[WHOLE]
    assert isinstance(whole, TASN)
    assert whole.attention_net is not None
    with torch.no_grad():
        height, width = whole.attention_size
        features = whole.attention_net(images[..., :height, :width])[0]
    attention = trilinear_attention(features)
    structure = average_map(attention)
    detail = random_maps(attention, generator=whole.rank_generator)

    def sample() -> None:
        whole.sample(images, structure)
        whole.sample(images, detail)

    parts = {"sampler": sample, "trilinear attention": lambda: trilinear_attention(features)}
    seconds = timed(steps | parts, repeats=repeats, device=device, warmup=min(3, repeats))
    counts = {name: multiply_adds(partial(build, name, setting), side) for name in SUBJECTS}
    return {
        "backbone": f"resnet {depth}",
        "image_size": side,
        "input_size": sizes["input_size"],
        "attention_map": list(features.shape[1:]),
        "batch": batch,
        "precision": precision,
        "repeats": repeats,
        "seconds": seconds,
        "share_of_step": {
            name: {kind: seconds[name][kind] / seconds[WHOLE][kind] for kind in seconds[name]} for name in parts
        },
        "over_baseline": {
            name: {kind: seconds[name][kind] / seconds["baseline"][kind] for kind in seconds[name]} for name in SUBJECTS
        },
        "multiply_adds_per_image": counts,
        "multiply_adds_over_baseline": {name: count / counts["baseline"] for name, count in counts.items()},
    }


def main() -> None:
    """Run, print and write."""
    parser = arguments(__doc__)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--repeats", type=int, default=20, help="rounds of the sampler")
    parser.add_argument("--literal-images", type=int, default=2, help="how many images the literal loop is timed on")
    args = parser.parse_args()

    device = torch.device(args.device)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(1)
    result = {
        "clock": "wall" if device.type == "cuda" else "processor time of one thread",
        "repeats": args.repeats,
        "sampler, 64 images, 512 → 224 px": sampler_against_loops(
            device=device, repeats=args.repeats, literal_images=args.literal_images
        ),
        "steps": [
            step_over_baseline(setting, precision=args.precision, device=device) for setting in SETTINGS[args.device]
        ],
    }
    write("attention_sampler", device, result, note=args.note)


if __name__ == "__main__":
    main()
