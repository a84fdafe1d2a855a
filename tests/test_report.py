"""The report: its numbers by hand, its pictures, and that the page needs nothing beside it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from fgvc_lib.data import ImageData, Split
from fgvc_lib.report import calibration_sentence, class_table, confusion, write_report
from fgvc_lib.train.evaluation import calibration
from fgvc_lib.train.model import Info

CLASSES = ("ant", "bee <b>", "$5 猫", "absent")
LABELS = torch.tensor([0, 0, 0, 0, 1, 1, 2])
GUESS = torch.tensor([0, 0, 1, 1, 1, 0, 2])
SURE = torch.tensor([0.9, 0.8, 0.95, 0.5, 0.7, 0.6, 0.99])


def logits() -> torch.Tensor:
    """Whose softmax gives ``SURE`` to ``GUESS`` and the rest to the other classes alike."""
    p = ((1 - SURE) / 3)[:, None].repeat(1, 4)
    p[torch.arange(7), GUESS] = SURE
    return p.log()


def a_set(channels: int = 3) -> ImageData:
    pixels = np.zeros((7, channels, 16, 16), np.uint8)
    pixels += (30 * np.arange(7, dtype=np.uint8))[:, None, None, None]  # each image has a level of its own
    keys = tuple(f"photo {i}.jpg" for i in range(7))
    split = Split(pixels, LABELS, keys=keys)
    return ImageData("birds & bees", "0", CLASSES, split, split, split, (0.5,) * channels, (0.5,) * channels)


INFO = Info({"method": "baseline", "backbone": "resnet"}, {"name": "set"}, CLASSES, (0.5,) * 3, (0.5,) * 3, 16, "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = write_report(tmp_path_factory.mktemp("report") / "new", INFO, a_set(), "test", logits(), LABELS)
    assert page.name == "report.html"
    return page.parent


def test_the_tables_by_hand(folder: Path) -> None:
    counts = pd.read_csv(folder / "confusion.csv", index_col="class")
    assert counts.columns.tolist() == counts.index.tolist() == list(CLASSES)
    assert counts.to_numpy().tolist() == [[2, 2, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    classes = pd.read_csv(folder / "classes.csv", keep_default_na=False)
    assert classes["class"].tolist() == ["ant", "bee <b>", "$5 猫"]  # the worst first, none without images
    assert classes["images"].tolist() == [4, 2, 1]
    assert classes["accuracy"].tolist() == [0.5, 0.5, 1.0]
    assert classes["precision"].tolist() == pytest.approx([2 / 3, 1 / 3, 1.0])
    assert classes["mostly taken for"].tolist() == ["bee <b> (2)", "ant (1)", ""]
    predictions = pd.read_csv(folder / "predictions.csv")
    assert predictions.loc[2].tolist() == ["photo 2.jpg", "ant", "bee <b>", 0.95]
    assert len(predictions) == 7


def test_the_page_needs_nothing_beside_it_and_shows_the_mistakes(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf8")
    sources = re.findall(r'(?:src|href)="([^"]{0,30})', page)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert "bee <b>" not in page  # names are text, not markup
    assert "birds &amp; bees: 57.1% of 7 images right" in page
    assert "accuracy</th><td>57.1%, 95 % interval 25.0% to 84.2%" in page
    assert "nothing known about</th><td>absent" in page
    assert "2 of 4 ant are taken for bee &lt;b&gt;" in page
    assert "1 of 2 bee &lt;b&gt; are taken for ant" in page
    # the pictures under the most confident mistakes, the most confident first
    last = page.split("The most confident mistakes")[1].split("Calibration")[0]
    found = re.findall(r"base64,([^\"]*)\"><figcaption>photo (\d).jpg: (.*?) (\d+)%", last)
    assert [(int(i), sure) for _, i, _, sure in found] == [(2, "95"), (5, "60"), (3, "50")]
    for code, i, _, _ in found:
        with Image.open(io.BytesIO(base64.b64decode(code))) as picture:
            assert abs(picture.getpixel((8, 8))[0] - 30 * int(i)) < 4


def test_gray_images_many_classes_and_no_mistake(tmp_path: Path) -> None:
    labels = torch.arange(60)
    pixels = np.zeros((60, 1, 8, 8), np.uint8)
    names = tuple(f"class {i}" for i in range(60))
    split = Split(pixels, labels)
    data = ImageData("many", "0", names, split, split, split, (0.5,), (0.5,))
    page = write_report(tmp_path, INFO, data, "val", 9 * torch.eye(60), labels).read_text()
    assert "What is confused most</h2>\n<p>Nothing.</p>" in page
    assert pd.read_csv(tmp_path / "predictions.csv")["file"].tolist() == list(range(60))
    empty = Split(pixels[:0], labels[:0])
    none = ImageData("none", "0", names, split, split, empty, (0.5,), (0.5,))
    with pytest.raises(ValueError, match="none has no test images to report on"):
        write_report(tmp_path / "nothing", INFO, none, "test", torch.zeros(0, 60), labels[:0])
    assert not (tmp_path / "nothing").exists()


def test_confusion_has_true_classes_in_rows() -> None:
    counts = confusion(torch.tensor([0, 0, 1]), torch.tensor([1, 1, 1]), 2)
    assert counts.tolist() == [[0, 2], [0, 1]]
    assert class_table(counts, ("a", "b"))["accuracy"].tolist() == [0.0, 1.0]


def test_calibration_by_hand() -> None:
    promised, kept, size = calibration(logits(), LABELS, groups=2)
    assert size.tolist() == [4, 3]
    assert promised == pytest.approx([(0.5 + 0.6 + 0.7 + 0.8) / 4, (0.9 + 0.95 + 0.99) / 3])
    assert kept == pytest.approx([0.5, 2 / 3])
    assert calibration_sentence(SURE, GUESS == LABELS).endswith("77.7% on average and 57.1% are right: overconfident.")
    assert calibration_sentence(torch.tensor([0.5]), torch.tensor([True])).endswith("underconfident.")
