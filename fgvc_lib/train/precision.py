"""Which numbers the forward pass computes in."""

from __future__ import annotations

import torch


class Precision:
    """Autocast and the gradient scaler that goes with it.

    Args:
        name: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"auto"``: bfloat16 where the GPU computes in it
            natively (compute capability 8), float16 on older GPUs, float32 on a CPU. Bfloat16 on a CPU is worth
            asking for where the CPU has matrix units for it (AMX): about twice the speed.
        device: where the method runs.

    Attributes:
        dtype: of autocast, or ``torch.float32`` for none.
        scaler: enabled for float16 only, whose gradients would underflow; otherwise it does nothing.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name == "auto":
            name = "float32"
            if device.type == "cuda":
                name = "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"
        self.device_type = device.type
        self.dtype: torch.dtype = getattr(torch, name)
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "float16")

    def autocast(self) -> torch.autocast:
        """For the forward pass, the loss included."""
        return torch.autocast(self.device_type, dtype=self.dtype, enabled=self.dtype is not torch.float32)
