"""Exported files compute what the method computes, for any number of images, and nothing else is kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fgvc_lib import export as exporting
from fgvc_lib.backbones import vgg
from fgvc_lib.export import ExportError, export, write_program
from fgvc_lib.methods import METHODS
from fgvc_lib.methods.base import Method, Output
from fgvc_lib.train.model import Info

CLASSES = ("ant", "bee", "cät", "dog")
SIZE = 32
TINY: dict[str, dict[str, Any]] = {
    "ap_cnn": {"pyramid": {"channels": 4, "levels": 1}, "boxes": {"top_k": [2]}, "hidden": 4},
    "mutual_channel": {"xi": 8, "hidden": 8},
    "tasn": {
        "attention": {
            "backbone": {"backbone": "vgg", "depth": 11, "width": 8, "blocks": 2},
            "dilations": [[1, 2]],
            "input_size": 16,
        },
        "input_size": 16,
    },
}
INFO = Info(
    {"data_args": {"resize": SIZE + 8}},
    {},
    CLASSES,
    mean=(0.4, 0.5, 0.6),
    std=(0.2, 0.3, 0.4),
    image_size=SIZE,
    version="",
)


def make(name: str) -> Method:
    return METHODS[name](vgg(11, width=8, blocks=3), len(CLASSES), **TINY.get(name, {})).eval()


def eager(method: Method, images: Tensor) -> Tensor:
    """Normalized by hand, channel by channel."""
    normalized = torch.stack([(images[:, c] - INFO.mean[c]) / INFO.std[c] for c in range(3)], 1)
    with torch.no_grad():
        return method(normalized).logits


def run_onnx(path: Path, images: Tensor) -> Tensor:
    session = pytest.importorskip("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_exported_for_any_number_of_images(name: str, tmp_path: Path) -> None:
    method = make(name).train()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    path = export(method, INFO, tmp_path / "deeper" / "model.pt2")
    assert all(module.training for module in method.modules())  # it is left as it was
    for key, value in method.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)
    method.eval()
    notes = {"info.json": ""}
    program = torch.export.load(path, extra_files=notes).module()
    for count in (1, 2, 5):
        images = torch.rand(count, 3, SIZE, SIZE)
        torch.testing.assert_close(program(images), eager(method, images), rtol=1e-4, atol=1e-4)
    prepared = {"resize": SIZE + 8, "image_size": SIZE, "letterbox": False}
    assert json.loads(notes["info.json"]) == {"classes": list(CLASSES), **prepared}
    assert [p.name for p in path.parent.iterdir()] == ["model.pt2"]  # nothing half-written beside it


def test_onnx_computes_the_same(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    method = make("tasn")  # it has an operator that ONNX has not
    path = export(method, INFO, tmp_path / "model.onnx")
    for count in (1, 4):
        images = torch.rand(count, 3, SIZE, SIZE)
        torch.testing.assert_close(run_onnx(path, images), eager(method, images), rtol=1e-3, atol=1e-4)
    meta = pytest.importorskip("onnxruntime").InferenceSession(path).get_modelmeta().custom_metadata_map
    assert json.loads(meta["info"])["classes"] == list(CLASSES)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


class Small(Method):
    """As little as can be exported."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, len(CLASSES))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        return Output(self.linear(images.mean((2, 3))))


class Careless(Small):
    """A method whose prediction depends on what the images are, in Python."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        pooled = images.mean((2, 3))
        return Output(self.linear(pooled) if float(pooled.sum()) > 0 else self.linear(-pooled))


class Odd(Small):
    """A method with an operator that ONNX has not."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Output:
        pooled = images.mean((2, 3))
        return Output(self.linear(torch.special.zeta(pooled + 2, pooled + 2)))


def test_a_method_that_cannot_be_traced_says_so(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"torch\.export cannot trace Careless: \S"):
        export(Careless(), INFO, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.pt2").write_text("an earlier one")
    monkeypatch.setattr(exporting, "_open_pt2", lambda path: lambda images: torch.zeros(len(images), len(CLASSES)))
    with pytest.raises(ExportError, match=r"model\.pt2 does not compute what the method does .*largest difference"):
        export(Small(), INFO, tmp_path / "model.pt2")
    assert (tmp_path / "model.pt2").read_text() == "an earlier one"
    assert len(list(tmp_path.iterdir())) == 1


def test_bad_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"ends in \.pt2 or \.onnx, got 'model\.pth'"):
        export(Small(), INFO, tmp_path / "model.pth")
    other = Info({}, {}, CLASSES[:3], INFO.mean, INFO.std, SIZE, "")
    with pytest.raises(ValueError, match="info names 3 classes, but the method has 4"):
        export(Small(), other, tmp_path / "model.pt2")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"onnxruntime.* pip install fgvc-lib\[export\]"):
        export(Small(), INFO, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_what_onnx_cannot_express_is_one_sentence(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    with pytest.raises(ExportError, match=r"^ONNX cannot express Odd: [^\n]*zeta[^\n]*$"):
        export(Odd(), INFO, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Scaled(torch.nn.Module):
    """Two inputs, two outputs."""

    def forward(self, images: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
        scaled = images * factors[:, :, None, None]
        return scaled.mean((1, 2, 3)), scaled


def test_a_module_is_exported_with_all_its_inputs_and_outputs_by_name(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    inputs = {"images": torch.rand(3, 3, 4, 4), "factors": torch.tensor([[1.0], [2.0], [3.0]])}
    path = write_program(Scaled(), inputs, ["mean", "scaled"], tmp_path / "scaled.onnx", notes='{"of": "a test"}')
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    mean, scaled = session.run(["mean", "scaled"], {name: value[1:].numpy() for name, value in inputs.items()})
    expected = inputs["images"][1:] * torch.tensor([2.0, 3.0])[:, None, None, None]
    torch.testing.assert_close(torch.from_numpy(scaled), expected)
    torch.testing.assert_close(torch.from_numpy(mean), expected.mean((1, 2, 3)))
    assert json.loads(session.get_modelmeta().custom_metadata_map["info"]) == {"of": "a test"}
