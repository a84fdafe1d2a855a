"""What ``book/live`` shows in the reader's browser: ``python -m pipeline.live FOLDER``.

The networks of ``data/networks`` as ONNX files that also give what they look at; the features of Center Loss from its
records; the parameters of the birds; and the still pictures that stand there until a reader's browser has loaded the
rest.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from fgvc_lib.config import Config
from fgvc_lib.data.bird_drawing import PLAIN
from fgvc_lib.data.synthetic import CLASSES, MARKS, birds
from fgvc_lib.export import Deployable, write_program
from fgvc_lib.layers.attention_sampler import axis_magnification, limit_magnification, magnified_grid, sample_at
from fgvc_lib.layers.trilinear import average_map
from fgvc_lib.methods import APCNN, TASN, Baseline, MutualChannel
from fgvc_lib.train import load_trained
from fgvc_study import plan, record
from fgvc_study.figures import COLORS, scatter_2d, style
from pipeline.networks import FOLDER, NETWORKS
from pipeline.project import parameters

POINTS = 40  # of each digit
SWEEPS = {"lambda": "weight", "alpha": "alpha"}  # of chapter 2, and the argument that each varies
LIMITS = (1.0, 8.0)  # of the magnification along an axis


class Shown(Deployable):
    """A network that gives more than its prediction."""

    outputs: ClassVar[tuple[str, ...]]


class PlainMaps(Shown):
    """The plain network and its class activation maps."""

    outputs = ("logits", "maps")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``(B, 3, S, S)`` → logits ``(B, C)`` and the map of every class ``(B, C, h, w)``, whose mean is the logit."""
        method = self.method
        assert isinstance(method, Baseline)
        features = method.backbone(self.normalized(images))[method.backbone.last]  # (B, N, h, w)
        maps = torch.einsum("cn,bnhw->bchw", method.head.weight, features)
        return method.head(features.mean((2, 3))), maps


class ChannelMaps(Shown):
    """MC-Loss and its ξ channels of each class."""

    outputs = ("logits", "maps")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """``(B, 3, S, S)`` → logits ``(B, C)`` and the channels ``(B, C ξ, h, w)``, class by class."""
        out = self.method(self.normalized(images))
        return out.logits, out.maps["features"]


class SampledImage(Shown):
    """TASN with its magnification limit as an input."""

    outputs = ("logits", "maps", "sampled", "grid")

    def forward(self, images: Tensor, limit: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # type: ignore[override]
        """``(B, 3, 2S, 2S)`` and ``(B, 1)`` → logits, the average attention map ``(B, 1, h, w)``, the sampled image
        ``(B, 3, S, S)`` in [0, 1], and where its columns and rows come from, ``(B, 2, S)`` in [0, 1].
        """
        method = self.method
        assert isinstance(method, TASN)
        chosen = average_map(method.attend(self.normalized(images))[0])[:, 0]  # (B, h, w)
        rows, columns = axis_magnification(chosen)
        limited = limit_magnification(rows, limit), limit_magnification(columns, limit)
        grid = magnified_grid(*limited, method.input_size)  # (B, S, S, 2)
        sampled = sample_at(images, grid)
        features = method.backbone(self.normalized(sampled))[method.backbone.last]
        axes = (torch.stack([grid[:, 0, :, 0], grid[:, :, 0, 1]], dim=1) + 1) / 2  # (B, 2, S)
        return method.master_head(features.mean((2, 3))), chosen[:, None], sampled, axes


class PyramidMasks(Shown):
    """AP-CNN's first stage and its spatial masks."""

    outputs = ("logits", "level3", "level4", "level5")

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        """``(B, 3, S, S)`` → logits and a mask of each level ``(B, 1, h, w)``, the finest first."""
        method = self.method
        assert isinstance(method, APCNN)
        attended, logits = method.stage(method.backbone(self.normalized(images)))
        return torch.stack(list(logits.values())).mean(0), *attended.masks


SHOWN: dict[str, type[Shown]] = {
    "plain": PlainMaps,
    "mutual_channel": ChannelMaps,
    "tasn": SampledImage,
    "ap_cnn": PyramidMasks,
}


def network(name: str) -> tuple[Shown, dict[str, Any], dict[str, Tensor]]:
    """A committed network as it is shown, what the page says of it, and examples of its inputs."""
    method, info = load_trained(FOLDER / f"{name}.pt")
    size = info.image_size
    inputs = {"images": torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))}
    facts: dict[str, Any] = {"title": NETWORKS[name], "size": size, "outputs": SHOWN[name].outputs}
    if isinstance(method, TASN):
        limit = method.sampling.limit
        assert limit is not None
        inputs["limit"] = torch.tensor([[1.5], [limit], [LIMITS[1]]])
        facts["limit"] = {"value": limit, "low": LIMITS[0], "high": LIMITS[1]}
    if isinstance(method, MutualChannel):
        facts["channels"] = method.backbone.out_channels // len(info.classes)
    return SHOWN[name](method, mean=info.mean, std=info.std).eval(), facts, inputs


def answer(model: Shown, facts: Mapping[str, Any], images: Tensor) -> tuple[Tensor, ...]:
    """What a network gives for images ``(B, 3, S, S)`` in [0, 1], with the limit that it was trained with."""
    limit = [torch.full((len(images), 1), facts["limit"]["value"])] if "limit" in facts else []
    with torch.inference_mode():
        outputs: tuple[Tensor, ...] = model(images, *limit)
    return outputs


def accuracy(model: Shown, facts: Mapping[str, Any]) -> float:
    """Of a network, as it is shown, on the test birds."""
    split = birds(image_size=facts["size"]).test
    right = 0
    for start in range(0, len(split), 100):
        images = torch.from_numpy(split.images[start : start + 100] / np.float32(255))
        right += int((answer(model, facts, images)[0].argmax(1) == split.labels[start : start + 100]).sum())
    return right / len(split)


def write_networks(folder: Path) -> dict[str, Any]:
    """Export every network; what the page says of them."""
    said = {}
    for name in NETWORKS:
        model, facts, inputs = network(name)
        write_program(model, inputs, model.outputs, folder / f"{name}.onnx", notes=json.dumps(facts))
        said[name] = facts | {"accuracy": accuracy(model, facts)}
    return said


def bird_parameters() -> dict[str, Any]:
    """What the drawing of a bird takes beside random numbers: the look of a plain bird, and of each class its mark."""
    marks = [{"name": name, "part": part, "look": MARKS[part][name]} for part, name in CLASSES]
    return {"plain": PLAIN, "marks": marks}


def center_loss() -> dict[str, Any]:
    """The two-dimensional features of chapter 2, a frame for each λ and each α: the same test digits in all."""
    for profile in ("photos", "quick"):
        experiments = plan.read("02_center_loss", parameters(profile, "02_center_loss")).experiments
        frames = {sweep: _frames(experiments[sweep].variants.values(), key) for sweep, key in SWEEPS.items()}
        if all(frames.values()):
            return frames
    raise ValueError("chapter 2 has no recorded features: train them with `python -m fgvc_study plan 02_center_loss`")


def _frames(variants: Iterable[Sequence[Config]], setting: str) -> list[dict[str, Any]]:
    """One frame for each variant with a record, of its first seed; coordinates in thousandths of the panel."""
    frames = []
    for configs in variants:
        found = record.find(configs[0])
        if found is None:
            continue
        arrays = found.load_arrays()
        labels = arrays["features_2d/test_labels"]
        chosen = np.concatenate([np.flatnonzero(labels == digit)[:POINTS] for digit in range(10)])
        points, centers = arrays["features_2d/test"], arrays["features_2d/centers"]
        middle = (points.max(0) + points.min(0)) / 2
        half = float(np.ptp(points, axis=0).max()) / 2  # both axes alike: round clusters stay round
        panel = {"points": points[chosen], "centers": centers}
        frames.append(
            {
                "value": float(configs[0].method_args[setting]),
                **{name: np.rint((x - middle) / half * 1000).astype(int).tolist() for name, x in panel.items()},
                "digits": labels[chosen].tolist(),
                "accuracy": found.final["test_accuracy"],
                "ratio": found.final["compactness/ratio"],
                "scale": half,
                "seed": configs[0].seed,
            }
        )
    return frames


def draw_stills(folder: Path, frames: Sequence[Mapping[str, Any]]) -> None:
    """The pictures that stand where nothing moves; ``frames`` are those of Center Loss."""
    style()
    split = {size: birds(image_size=size).test for size in (64, 128)}
    chosen = [0, 3, 6]
    figure, axes = plt.subplots(len(chosen), len(NETWORKS), figsize=(7.2, 5.6), squeeze=False)
    for column, name in enumerate(NETWORKS):
        model, facts, _ = network(name)
        images = torch.from_numpy(split[facts["size"]].images[chosen] / np.float32(255))
        logits, maps, *rest = answer(model, facts, images)
        predicted = logits.argmax(1)
        for row, axis in enumerate(axes[:, column]):
            shown, heat = (rest[0] if name == "tasn" else images)[row], maps[row]
            if name == "plain":
                heat = heat[int(predicted[row])][None]
            if name == "mutual_channel":
                own = int(predicted[row]) * facts["channels"]
                heat = heat[own : own + facts["channels"]].amax(0, keepdim=True)
            axis.imshow(shown.permute(1, 2, 0).numpy(), extent=(0, 1, 0, 1))
            if name != "tasn":  # its picture is the map's effect
                axis.imshow(heat[0].numpy(), extent=(0, 1, 0, 1), alpha=0.45, interpolation="bilinear")
            axis.set(xticks=[], yticks=[])
            axis.set_xlabel(CLASSES[int(predicted[row])][1], fontsize=9)
        axes[0, column].set_title(facts["title"].partition(",")[0])
    figure.savefig(folder / "networks.webp", dpi=160, pil_kwargs={"quality": 85})
    plt.close(figure)

    figure, axes = plt.subplots(2, 3, figsize=(7.2, 5.0))
    for axis in axes.flat[len(frames) :]:
        axis.remove()
    for axis, frame in zip(axes.flat, frames, strict=False):
        scatter_2d(axis, np.array(frame["points"]), np.array(frame["digits"]))
        axis.set(title=f"λ = {frame['value']:g}", xticks=[], yticks=[])
    figure.savefig(folder / "center_loss.webp", dpi=160, pil_kwargs={"quality": 85})
    plt.close(figure)

    figure, axis = plt.subplots(figsize=(7.2, 2.6))
    place = np.linspace(0, 1, 200)
    peaks = [np.exp(-(((place - middle) / 0.08) ** 2) / 2) for middle in (0.25, 0.5, 0.75)]
    for peak, color in zip(peaks, COLORS, strict=False):
        axis.plot(place, peak, color=color)
    axis.plot(place, np.max(peaks, axis=0), color=COLORS[8], ls=":", lw=2.5, label="maximum")
    axis.set(xticks=[], yticks=[], xlabel="position")
    axis.legend()
    figure.savefig(folder / "peaks.svg")
    plt.close(figure)


def main() -> None:
    """Make everything into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    said = {"networks": write_networks(folder), "birds": bird_parameters()}
    (folder / "playground.json").write_text(json.dumps(said, separators=(",", ":")), encoding="utf8")
    sweeps = center_loss()
    (folder / "center_loss.json").write_text(json.dumps(sweeps, separators=(",", ":")), encoding="utf8")
    draw_stills(folder, sweeps["lambda"])


if __name__ == "__main__":
    main()
