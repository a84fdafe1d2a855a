"""What a trained method gets right and wrong: one HTML file that needs nothing beside it, and its tables as CSV."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Template
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import binomtest
from torch import Tensor

from fgvc_lib.data import ImageData, Split
from fgvc_lib.train.checkpoint import replacing
from fgvc_lib.train.evaluation import calibration, score
from fgvc_lib.train.model import Info

PAGE = Path(__file__).with_suffix(".html")
PAIRS, PICTURES = 8, 4
"""How many pairs of classes are shown, and how many mistakes of each kind."""


def write_report(folder: Path, info: Info, data: ImageData, split: str, logits: Tensor, labels: Tensor) -> Path:
    """Write ``report.html``, ``classes.csv``, ``confusion.csv`` and ``predictions.csv``.

    The page has the scores, a table of the classes, the confusion matrix, the pairs of classes that are confused most
    and the most confident mistakes with their pictures, and the calibration.

    Args:
        folder: made if it is not there.
        info: of the model.
        data, split: what was predicted.
        logits, labels: from :func:`fgvc_lib.train.evaluation.predict` on that split.

    Returns:
        The path of the page.

    Raises:
        ValueError: a split without images.
    """
    if not len(labels):
        raise ValueError(f"{data.name} has no {split} images to report on")
    images: Split = getattr(data, split)
    probabilities = logits.softmax(1)  # (N, C)
    sure, guess = probabilities.max(1)  # (N,), (N,)
    counts = confusion(labels, guess, len(data.classes))
    classes = class_table(counts, data.classes)
    predictions = prediction_table(images, data.classes, labels, probabilities)
    folder.mkdir(parents=True, exist_ok=True)
    classes.to_csv(folder / "classes.csv", index=False)
    pd.DataFrame(counts, data.classes, data.classes).to_csv(folder / "confusion.csv", index_label="class")
    predictions.to_csv(folder / "predictions.csv", index=False, errors="backslashreplace")

    order = sure.argsort(descending=True).tolist()  # the most confident first

    def taken(true: int, called: int) -> list[int]:
        return [i for i in order if labels[i] == true and guess[i] == called]

    def picture(i: int) -> tuple[str, str]:
        return _image(images.images[i]), f"{predictions['file'][i]}: {data.classes[guess[i]]} {sure[i]:.0%}"

    scores = score(logits, labels, data.classes)
    right = int((guess == labels).sum())
    low, high = binomtest(right, len(labels)).proportion_ci(method="wilson")  # within [0, 1] for few images too
    shown = {
        "accuracy": f"{scores['accuracy']:.1%}, 95 % interval {low:.1%} to {high:.1%}",
        "macro accuracy": f"{scores['macro_accuracy']:.1%}, the mean over classes",
        "loss": f"{scores['loss']:.3f} nats",
        "calibration error": f"{scores['calibration_error']:.1%}",
        "model": f"{info.config['method']} on {info.config['backbone']}, {info.image_size} × {info.image_size} pixels",
        "data": f"{data.name}, {split}: {len(labels)} images; the model was trained on {info.data['name']}",
    }
    if scores["without_images"]:
        shown["nothing known about"] = ", ".join(scores["without_images"])
    text = Template(PAGE.read_text(encoding="utf8"), autoescape=True, trim_blocks=True, lstrip_blocks=True).render(
        title=f"{data.name}, {split}",
        heading=f"{data.name}: {scores['accuracy']:.1%} of {len(labels)} images right",
        shown=shown,
        table=classes.to_html(index=False, border=0, na_rep="", float_format="{:.1%}".format),
        names=data.classes,
        counts=counts,
        pairs=confused_pairs(counts),
        wrong=[i for i in order if guess[i] != labels[i]],
        taken=taken,
        picture=picture,
        confusion=_chart(confusion_figure(counts, data.classes)),
        calibration=_chart(calibration_figure(logits, labels)),
        calibrated=calibration_sentence(sure, guess == labels),
        most=PICTURES,
    )
    with replacing(folder / "report.html") as temporary:
        temporary.write_text(text, encoding="utf8", errors="backslashreplace")
    return folder / "report.html"


def confusion(labels: Tensor, guess: Tensor, classes: int) -> np.ndarray:
    """``(C, C)`` counts: true classes in rows, predicted ones in columns."""
    counts: np.ndarray = (labels * classes + guess).bincount(minlength=classes**2).view(classes, classes).numpy()
    return counts


def class_table(counts: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """A row a class that has images, the worst first: how many, how many of them and of those so called are right."""
    right, real, called = counts.diagonal(), counts.sum(1), counts.sum(0)
    others = counts - np.diag(right)
    table = pd.DataFrame({"class": classes, "images": real, "right": right})
    table["accuracy"] = table["right"] / table["images"]
    table["precision"] = table["right"] / called
    table["mostly taken for"] = [f"{classes[row.argmax()]} ({row.max()})" if row.any() else "" for row in others]
    worst: pd.DataFrame = table[real > 0].sort_values("accuracy", kind="stable", ignore_index=True)
    return worst


def prediction_table(images: Split, classes: Sequence[str], labels: Tensor, probabilities: Tensor) -> pd.DataFrame:
    """A row an image: its file or number, class, prediction and the probability of that."""
    sure, guess = probabilities.max(1)
    return pd.DataFrame(
        {
            "file": list(images.keys) or [str(i) for i in range(len(labels))],
            "class": [classes[i] for i in labels.tolist()],
            "predicted": [classes[i] for i in guess.tolist()],
            "probability": sure.numpy().round(4),
        }
    )


def calibration_sentence(sure: Tensor, right: Tensor) -> str:
    """Whether the probabilities promise too much or too little on the whole."""
    promised, kept = float(sure.mean()), float(right.float().mean())
    word = "over" if promised > kept else "under"
    return f"The predictions promise {promised:.1%} on average and {kept:.1%} are right: {word}confident."


def confusion_figure(counts: np.ndarray, classes: Sequence[str]) -> Figure:
    """Rows are true classes, in fractions; few classes have names and numbers."""
    few = len(classes) <= 40
    side = min(4 + 0.25 * len(classes), 12)
    figure = Figure((side, side), layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(counts / np.maximum(counts.sum(1, keepdims=True), 1), cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, label="fraction of the true class", shrink=0.7)
    axes.set(xlabel="predicted", ylabel="true")
    if few:
        axes.set_xticks(range(len(classes)), classes, rotation=90, parse_math=False)
        axes.set_yticks(range(len(classes)), classes, parse_math=False)
    if len(classes) <= 20:
        for row, column in np.argwhere(counts).tolist():
            dark = counts[row, column] > counts[row].sum() / 2
            axes.text(column, row, counts[row, column], ha="center", va="center", color="white" if dark else "black")
    return figure


def calibration_figure(logits: Tensor, labels: Tensor) -> Figure:
    """The reliability diagram, in groups of equally many images."""
    promised, kept, size = calibration(logits, labels)
    figure = Figure((4.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="black", lw=0.8)
    error = (kept * (1 - kept) / size) ** 0.5
    axes.errorbar(promised, kept, error, fmt="o", capsize=2)
    axes.set(xlabel="probability of the prediction", ylabel="fraction that is right", xlim=(0, 1.02), ylim=(0, 1.05))
    return figure


def confused_pairs(counts: np.ndarray) -> list[tuple[int, int]]:
    """The pairs of classes that are confused most, in both directions together."""
    both = np.triu(counts + counts.T, 1)
    order = np.argsort(-both, axis=None, kind="stable")[:PAIRS].tolist()
    return [divmod(i, len(counts)) for i in order if both.flat[i]]


def _image(pixels: np.ndarray) -> str:
    """``(C, S, S)`` bytes as the address of an image in the page."""
    content = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(content, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"


def _chart(figure: Figure) -> str:
    """A figure as the address of an image in the page."""
    content = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of writings that the font has not; the tables have them
        figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"
