r"""What a run will need of memory and work, counted on tensors that have a shape and no values.

A method is built, and takes a training step and an evaluation batch, under
:class:`torch._subclasses.fake_tensor.FakeTensorMode` at the real batch size:

.. math::
    \text{memory} &= 4 P + \text{buffers} + 4 P_t\, k + \max(A_{\text{step}}, A_{\text{evaluation}}) \\
    k &= [\text{momentum} > 0] + [\text{processes} > 1] \\
    \text{work} &= \text{FLOP of a step} \cdot \text{steps}

with P parameters, of them :math:`P_t` trained, which have a momentum and the copy that DistributedDataParallel
sends, and A the most bytes alive at once that operators made: the batch, activations kept for the backward pass,
temporaries, gradients. A multiply-add is two FLOP, and only matrix products and convolutions count. Not in it: what
kernels use inside, the allocator's gaps and the CUDA context (about a tenth more), and the work of evaluations.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from fgvc_lib.config import Config
from fgvc_lib.methods import Method
from fgvc_lib.train.evaluation import BATCH_SIZE
from fgvc_lib.train.model import build_for
from fgvc_lib.train.schedule import start_phase, stretches, train_mode
from fgvc_lib.train.trainer import check_micro_batches


@dataclass(frozen=True)
class Shape:
    """What of a data set decides the cost of a run: counts of images, and their size."""

    classes: int
    train: int
    test: int
    channels: int = 3
    image_size: int = 224


@dataclass(frozen=True)
class Estimate:
    """Of one run.

    Attributes:
        memory: bytes on each device.
        flops: of all training steps together.
    """

    memory: int
    flops: float


def operation_counter() -> FlopCounterMode:
    """Torch's counter of FLOP, in which the backward pass of a convolution with groups is not counted as a dense one.

    Its gradients cost what its forward pass does, each; torch counts the one of a depthwise weight ``channels`` times.
    """
    return FlopCounterMode(
        display=False, custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward_flop}
    )


def _convolution_backward_flop(
    grad: Sequence[int],
    x: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    asked: Sequence[bool],  # of input, weight and bias
    **_: Any,
) -> int:
    """FLOP of the gradients that are asked for; a position of the smaller map meets every weight once."""
    smaller = x if transposed else grad
    return 2 * smaller[0] * math.prod(smaller[2:]) * math.prod(weight) * int(sum(asked[:2]))


def estimate(config: Config, shape: Shape, *, processes: int = 1) -> Estimate:
    """Memory and work of a run that has no pretrained weights in its configuration.

    ``float16`` and ``bfloat16`` are counted as such, ``auto`` as float32: an upper bound.

    Raises:
        ValueError: a configuration that no method can be built from, or that fits neither the data nor the processes.
    """
    # the plain formula of attention has the products that the counter knows
    with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
        method = build_for(config, num_classes=shape.classes, channels=shape.channels, image_size=shape.image_size)
        check_micro_batches(config, processes, method.sampler)
        epoch = shape.train // config.batch_size
        if epoch == 0:
            raise ValueError(f"a batch of {config.batch_size} is larger than the {shape.train} training images")
        total = min(config.epochs * epoch, config.max_steps or config.epochs * epoch)
        batch = config.batch_size // (processes * config.grad_accum_steps)
        alive, trained, flops = 0, 0, 0.0
        for stretch in stretches(method.phases(), total):
            start_phase(method, stretch.phase, config)
            train_mode(method)
            trained = max(trained, sum(p.nbytes for p in method.parameters() if p.requires_grad))
            used, count = step(method, shape, batch, precision=config.precision)
            alive = max(alive, used)
            flops += count * config.grad_accum_steps * processes * (stretch.stop - stretch.start)
        alive = max(alive, evaluation(method, shape, min(BATCH_SIZE, shape.test)))
        fixed = sum(t.nbytes for t in (*method.parameters(), *method.buffers()))
        return Estimate(fixed + trained * ((config.momentum > 0) + (processes > 1)) + alive, flops)


def step(method: Method, shape: Shape, batch: int, *, precision: str = "float32") -> tuple[int, int]:
    """Most bytes alive in a forward and backward pass beyond the parameters, and FLOP.

    Args:
        method: in training mode, made under the ``FakeTensorMode`` that is on, or real.
        shape: of its images.
        batch: their number.
        precision: of autocast; ``auto`` is float32 here.
    """
    dtype = getattr(torch, "float32" if precision == "auto" else precision)
    with AliveBytes() as alive, operation_counter() as counter:
        images, labels = _images(shape, batch), torch.zeros(batch, dtype=torch.int64)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype is not torch.float32):
            loss = method(images, labels).loss
        loss.backward()
    for parameter in method.parameters():
        parameter.grad = None
    return alive.peak, int(counter.get_total_flops())


def evaluation(method: Method, shape: Shape, batch: int) -> int:
    """Most bytes alive in a prediction beyond the parameters; leaves the method in evaluation mode."""
    method.eval()
    with torch.no_grad(), AliveBytes() as alive:
        method(_images(shape, batch))
    peak: int = alive.peak
    return peak


def _images(shape: Shape, batch: int) -> Tensor:
    size = (batch, shape.channels, shape.image_size, shape.image_size)
    return torch.empty(size, memory_format=torch.channels_last).zero_()


class AliveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that operators made while this was on and that are still alive, and the most at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: set[int] = set()
        self.now: int = 0
        self.peak: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default:
            return args[0].dtype is torch.bool or 0  # a check asks for a value where there is none: all is well
        result = func(*args, **(kwargs or {}))
        inputs = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                storage = x.untyped_storage()
                if storage._cdata not in self.known | inputs:  # neither a view nor in place
                    self.known.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _freed(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size
