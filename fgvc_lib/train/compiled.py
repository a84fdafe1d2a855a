"""``torch.compile``, with one sentence where it cannot work."""

from __future__ import annotations

import torch
import torch._dynamo
from torch import Tensor, nn

from fgvc_lib.methods import Method, Output


class CompileError(RuntimeError):
    """``torch.compile`` does not work here, or not for this method."""


class Compiled(nn.Module):
    """A method whose forward pass is compiled; the parameters stay the method's own.

    Compilation happens in the first step, and so do its errors: it needs a C++ compiler on a CPU and Triton on a GPU.
    """

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method
        self._forward = torch.compile(method.forward)

    def forward(self, images: Tensor, labels: Tensor) -> Output:
        try:
            return self._forward(images, labels)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = str(error.__cause__ or error).strip().splitlines()[0][:200]
            raise CompileError(
                f"torch.compile failed for {type(self.method).__name__} ({cause}): set compile to false, "
                "or install what it needs (a C++ compiler for CPUs, Triton for GPUs)"
            ) from error
