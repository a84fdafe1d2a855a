"""A trained method as one file that runs without this library: ``torch.export`` (``.pt2``) or ONNX (``.onnx``).

>>> from fgvc_lib.train import load_trained
>>> method, info = load_trained("run")  # doctest: +SKIP
>>> export(method, info, "model.onnx")  # doctest: +SKIP

Open such files only if you trust where they come from, like any program.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fgvc_lib.methods import Method
from fgvc_lib.train.checkpoint import replacing
from fgvc_lib.train.model import Info

FORMATS = (".pt2", ".onnx")
"""Endings of the files, which choose the format."""


class ExportError(RuntimeError):
    """A method that cannot be exported, or a file that does not compute what the method computes."""


class Deployable(nn.Module):
    """What is exported: a method's prediction, with the normalization inside so that nobody can forget it.

    Args:
        method: used as it is; put it in evaluation mode.
        mean, std: per channel, of images scaled to [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, method: Method, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.method = method
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))  # (C, 1, 1)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, S, S)`` float32 in [0, 1] → logits ``(B, classes)`` float32; their softmax is the probability."""
        logits: Tensor = self.method((images - self.mean) / self.std).logits
        return logits.float()


def export(method: Method, info: Info, path: str | Path, *, rtol: float = 1e-3, atol: float = 1e-4) -> Path:
    """Write a method's prediction to ``path``, and keep the file only if it computes the same.

    The file takes ``images``, ``(B, C, S, S)`` float32 in [0, 1] with any B, and gives ``logits``. It also holds the
    class names, the side to resize an image to and the side of the center to cut out of it, as JSON: in ``info.json``
    of a ``.pt2``, in the metadata of an ONNX model. Before it gets its name it is opened again and compared with the
    method on random images, one and three at a time. The method is left as it is, on its device and in its mode; the
    file computes on the CPU (move the program of a ``.pt2`` with ``torch.export.passes.move_to_device_pass``; ONNX
    Runtime chooses by its providers).

    Args:
        method: any method of this library.
        info: that came with it from :func:`fgvc_lib.train.model.load_trained`.
        path: ends in ``.pt2`` or ``.onnx``; ONNX needs the packages of ``pip install fgvc-lib[export]``.
        rtol, atol: of the comparison; convolutions of other libraries sum in another order.

    Returns:
        The path.

    Raises:
        ValueError: another ending, or ``info`` of another method.
        ModuleNotFoundError: ONNX's packages are missing.
        ExportError: the method cannot be traced, or the file does not compute what the method does.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"an exported model ends in {' or '.join(FORMATS)}, got {path.name!r}")
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ModuleNotFoundError(f"ONNX needs {', '.join(missing)}: pip install fgvc-lib[export]")
    model = Deployable(copy.deepcopy(method).cpu().eval(), mean=info.mean, std=info.std).eval()
    shape = (len(info.mean), info.image_size, info.image_size)
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, *shape, generator=generator)
    with torch.no_grad():
        expected = {count: model(images[:count]) for count in (1, 3)}
    if expected[1].shape[1] != len(info.classes):
        raise ValueError(f"info names {len(info.classes)} classes, but the method has {expected[1].shape[1]}")
    prepared = {"resize": info.resize, "image_size": info.image_size, "letterbox": info.letterbox}
    notes = json.dumps({"classes": info.classes, **prepared}, ensure_ascii=False)

    program = _trace(model, images)
    with replacing(path) as temporary:
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={"info.json": notes})
            run = _open_pt2(temporary)
        else:
            _save_onnx(program, temporary, method, notes)
            run = _open_onnx(temporary)
        for count, logits in expected.items():
            _compare(path.name, run(images[:count]), logits, rtol=rtol, atol=atol)
    return path


def _trace(model: Deployable, images: Tensor) -> torch.export.ExportedProgram:
    """The graph of ``model`` for any number of images.

    ``strict`` reads the Python code: the other mode takes ``len(images)`` for a constant.
    """
    name = type(model.method).__name__
    with warnings.catch_warnings():
        # blocks inside a backbone note what passes through them (layers/attach.py), for pictures only
        warnings.filterwarnings("ignore", message="While compiling, we found certain side effects")
        try:
            return torch.export.export(
                model, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=True
            )  # fmt: skip
        except Exception as error:  # whatever the tracer meets in a method's code
            raise ExportError(f"torch.export cannot trace {name}: {_first_line(error)}") from error


def _open_pt2(path: Path) -> Callable[[Tensor], Tensor]:
    run: Callable[[Tensor], Tensor] = torch.export.load(path).module()
    return run


def _save_onnx(program: torch.export.ExportedProgram, path: Path, method: Method, notes: str) -> None:
    op: Any = importlib.import_module("onnxscript").opset18

    # what torch knows and ONNX does not; without annotations, which the converter would read
    def searchsorted(steps, values, out_int32=False, right=False):  # type: ignore[no-untyped-def]
        """TASN's sampler: for each value ``(B, M)``, how many of the ascending steps ``(B, N)`` lie below it."""
        ascending = op.Unsqueeze(steps, op.Constant(value_ints=[1]))  # (B, 1, N)
        below = op.Less(ascending, op.Unsqueeze(values, op.Constant(value_ints=[2])))  # (B, M, N)
        return op.ReduceSum(op.Cast(below, to=7), op.Constant(value_ints=[2]), keepdims=0)  # (B, M), 7: int64

    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            custom_translation_table={torch.ops.aten.searchsorted.Tensor: searchsorted},
        )
    except Exception as error:  # whatever the converter meets in a graph
        name = type(method).__name__
        raise ExportError(f"ONNX cannot express {name}: {_first_line(error.__cause__ or error)}") from error
    assert made is not None
    made.model.metadata_props["info"] = notes
    made.save(path)


def _open_onnx(path: Path) -> Callable[[Tensor], Tensor]:
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _compare(name: str, got: Tensor, expected: Tensor, *, rtol: float, atol: float) -> None:
    try:
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise ExportError(
            f"{name} does not compute what the method does ({_first_line(error)}; largest difference "
            f"{float((got - expected).abs().max()) if got.shape == expected.shape else float('nan'):.2g}): not kept"
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
