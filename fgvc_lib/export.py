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
from collections.abc import Callable, Mapping, Sequence
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
        logits: Tensor = self.method(self.normalized(images)).logits
        return logits.float()

    def normalized(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the method was trained on them."""
        return (images - self.mean) / self.std


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
    model = Deployable(copy.deepcopy(method).cpu(), mean=info.mean, std=info.std)
    shape = (len(info.mean), info.image_size, info.image_size)
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        classes = model.eval()(images).shape[1]
    if classes != len(info.classes):
        raise ValueError(f"info names {len(info.classes)} classes, but the method has {classes}")
    prepared = {"resize": info.resize, "image_size": info.image_size, "letterbox": info.letterbox}
    notes = json.dumps({"classes": info.classes, **prepared}, ensure_ascii=False)
    return write_program(model, {"images": images}, ["logits"], path, notes=notes, rtol=rtol, atol=atol)


def write_program(
    model: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: str | Path,
    *,
    notes: str,
    rtol: float = 1e-3,
    atol: float = 1e-4,
) -> Path:
    """:func:`export` for any module, such as one that gives a method's maps beside its logits.

    Args:
        model: takes the inputs in their order and returns a tensor, or a tuple of them; used in evaluation mode.
        inputs: by name, with the batch first, of three examples; the file takes any number.
        outputs: names of what the model returns.
        path: ends in ``.pt2`` or ``.onnx``.
        notes: JSON that the file carries.
        rtol, atol: of the comparison with the model, on one example and on three.

    Raises:
        ValueError, ModuleNotFoundError, ExportError: see :func:`export`.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"an exported model ends in {' or '.join(FORMATS)}, got {path.name!r}")
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if importlib.util.find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ModuleNotFoundError(f"ONNX needs {', '.join(missing)}: pip install fgvc-lib[export]")
    examples = [[value[:count] for value in inputs.values()] for count in (1, 3)]
    with torch.no_grad():
        expected = [_listed(model.eval()(*example)) for example in examples]
    program = _trace(model, tuple(inputs.values()))
    with replacing(path) as temporary:
        if path.suffix == ".pt2":
            torch.export.save(program, temporary, extra_files={"info.json": notes})
            run = _open_pt2(temporary)
        else:
            _save_onnx(program, temporary, _name(model), notes, list(inputs), outputs)
            run = _open_onnx(temporary, list(inputs), outputs)
        for example, wanted in zip(examples, expected, strict=True):
            for got, right in zip(run(example), wanted, strict=True):
                _compare(path.name, got, right, rtol=rtol, atol=atol)
    return path


def _listed(returned: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [returned] if isinstance(returned, Tensor) else list(returned)


def _name(model: nn.Module) -> str:
    return type(model.method if isinstance(model, Deployable) else model).__name__


def _trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """The graph of ``model`` for any number of images.

    ``strict`` reads the Python code: the other mode takes ``len(images)`` for a constant.
    """
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings():
        # blocks inside a backbone note what passes through them (layers/attach.py), for pictures only
        warnings.filterwarnings("ignore", message="While compiling, we found certain side effects")
        try:
            return torch.export.export(model, inputs, dynamic_shapes=tuple({0: batch} for _ in inputs), strict=True)
        except Exception as error:  # whatever the tracer meets in a method's code
            raise ExportError(f"torch.export cannot trace {_name(model)}: {_first_line(error)}") from error


def _open_pt2(path: Path) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    module = torch.export.load(path).module()
    return lambda inputs: _listed(module(*inputs))


def _save_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    name: str,
    notes: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> None:
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
            input_names=inputs,
            output_names=outputs,
            custom_translation_table={torch.ops.aten.searchsorted.Tensor: searchsorted},
        )
    except Exception as error:  # whatever the converter meets in a graph
        raise ExportError(f"ONNX cannot express {name}: {_first_line(error.__cause__ or error)}") from error
    assert made is not None
    made.model.metadata_props["info"] = notes
    made.save(path)


def _open_onnx(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[Sequence[Tensor]], list[Tensor]]:
    runtime: Any = importlib.import_module("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(values: Sequence[Tensor]) -> list[Tensor]:
        fed = {name: value.numpy() for name, value in zip(inputs, values, strict=True)}
        return [torch.from_numpy(found) for found in session.run(list(outputs), fed)]

    return run


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
