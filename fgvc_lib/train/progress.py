"""What a run shows while it runs: a bar, a line an epoch, and TensorBoard on request."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm


class ProgressBar:
    """A tqdm bar with loss terms, images per second and time left, and lines above it; scalars for TensorBoard.

    Args:
        total: optimizer steps of the run.
        start: steps done before a resume.
        show: draw the bar and write the lines.
        tensorboard: folder of the event files, None for none.

    Raises:
        ModuleNotFoundError: TensorBoard is asked for and not installed.
    """

    def __init__(self, total: int, *, start: int = 0, show: bool = True, tensorboard: Path | None = None) -> None:
        self._bar = tqdm(
            total=total, initial=start, unit="step", dynamic_ncols=True, **({} if show else {"disable": True})
        )
        self._writer: Any = None
        if tensorboard is not None:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ModuleNotFoundError as error:
                raise ModuleNotFoundError("TensorBoard is not installed: pip install tensorboard") from error
            self._writer = SummaryWriter(str(tensorboard), purge_step=start)

    def note(self, text: str) -> None:
        """Write a line above the bar."""
        if not self._bar.disable:
            self._bar.write(text, file=sys.stderr)

    def step(self, step: int, terms: Mapping[str, float], *, lr: float, images: int) -> None:
        """After an optimizer step."""
        if not self._bar.disable:
            rate = self._bar.format_dict["rate"] or 0.0  # steps per second
            shown = {name: f"{value:.3f}" for name, value in terms.items()}
            self._bar.set_postfix(shown | {"img/s": f"{rate * images:.0f}"}, refresh=False)
        self._bar.update()
        if self._writer is not None:
            for name, value in terms.items():
                self._writer.add_scalar(f"train/{name}", value, step)
            self._writer.add_scalar("train/lr", lr, step)

    def epoch(self, step: int, row: Mapping[str, Any]) -> None:
        """After an epoch, with its row of the history."""
        if not self._bar.disable:
            clock = self._bar.format_dict
            done = max(clock["n"] - clock["initial"], 1)
            left = self._bar.format_interval(clock["elapsed"] * (clock["total"] - clock["n"]) / done)
            names = list(row)
            terms = names[names.index("loss") + 1 : names.index("train_accuracy")]
            parts = f" ({', '.join(f'{name} {row[name]:.3f}' for name in terms)})" if len(terms) > 1 else ""
            accuracies = {name: row[f"{name}_accuracy"] for name in ("train", "val")}  # NaN without validation images
            shown = ", ".join(f"{name} {value:.1%}" for name, value in accuracies.items() if math.isfinite(value))
            self.note(f"epoch {row['epoch']}: loss {row['loss']:.3f}{parts}, accuracy {shown}, {left} left")
        if self._writer is not None:
            for name in ("train_accuracy", "val_accuracy", "val_loss"):
                self._writer.add_scalar(f"epoch/{name}", row[name], step)
            self._writer.flush()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the terminal and the event file in order, also after an error."""
        self._bar.close()
        if self._writer is not None:
            self._writer.close()
