"""What a chapter takes on a free Colab machine: measured where this build measured it, estimated otherwise.

A chapter of the build ran as a whole in ``seconds``; of these its runs trained for ``training`` seconds, in ``steps``
steps. On a GPU only the training is faster:

    seconds on a free GPU ≈ seconds - training + steps · STEP

and a GPU holds no more than the whole process does on a CPU, and the CUDA context:

    GPU memory ≲ peak of the process + CONTEXT
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime

import nbformat

from pipeline.project import build_folder, chapters, executed_path

STEP = 0.03
"""Seconds of one training step of these small networks on a T4: launching some hundred kernels, forward and back."""
CONTEXT = 0.5 * 2**30
"""Bytes that CUDA takes for itself."""


@dataclass(frozen=True)
class Cost:
    """Of one chapter in one build; ``runs`` are those that it trained itself and did not find from an earlier build."""

    chapter: str
    device: str
    seconds: float
    runs: int
    training: float
    steps: int
    peak_bytes: float

    @property
    def gpu_seconds(self) -> float:
        """Estimated, of the whole chapter on a free GPU."""
        return self.seconds - self.training + self.steps * STEP


def cost(profile: str, chapter: str) -> Cost | None:
    """What this build measured of a chapter; None where it was not run."""
    path = executed_path(profile, chapter)
    if not path.exists():
        return None
    metadata = nbformat.read(path, as_version=4).metadata
    run, device = metadata["papermill"], metadata.get("fgvc", {}).get("device", {})
    start = datetime.fromisoformat(run["start_time"]).timestamp()
    records = [
        json.loads(record.read_text(encoding="utf8"))
        for record in (build_folder(profile) / "results" / chapter).glob("*.json")
        if start <= record.stat().st_mtime <= start + run["duration"]
    ]
    timing = [record["timing"] for record in records]
    return Cost(
        chapter,
        device.get("type", ""),
        run["duration"],
        len(records),
        min(sum(times["train_seconds"] for times in timing), run["duration"]),
        int(sum(times["steps"] for times in timing)),
        max((record["memory"]["peak_bytes"] for record in records), default=0.0),
    )


def page(profile: str) -> str:
    """A table in markdown with a row for each chapter that was run."""
    lines = [
        "| Chapter | Minutes, measured | of them training | Minutes on a free GPU, estimated | "
        "Memory, measured | GPU memory, estimated |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for found in filter(None, (cost(profile, chapter) for chapter in chapters())):
        on_cpu = found.device == "cpu" and found.runs
        row = [
            f"{{doc}}`/notebooks/{found.chapter}`",
            _minutes(found.seconds),
            _minutes(found.training) if found.runs else "none",
            _minutes(found.gpu_seconds) if on_cpu else "",
            f"{found.peak_bytes / 2**30:.1f} GB" if found.runs else "",
            f"≤ {(found.peak_bytes + CONTEXT) / 2**30:.1f} GB" if on_cpu else "",
        ]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}"
