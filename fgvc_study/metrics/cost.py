"""What a method costs: parameters and multiply-adds."""

from __future__ import annotations

import numpy as np
import torch

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.methods.base import Method
from fgvc_study.estimate import operation_counter


def cost(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Cost of prediction and of one training step, on images of the data's size.

    ``parameters``: all of them; ``parameters_used``: those that a prediction reads. ``multiply_adds``: of one image's
    prediction, matrix products and convolutions only; ``train_multiply_adds``: of forward and backward, an image.
    """
    channels = len(data.mean)
    images = torch.randn(8, channels, data.image_size, data.image_size, device=device)
    labels = torch.arange(8, device=device) % len(data.classes)
    found: dict[str, float | np.ndarray] = {"parameters": float(sum(p.numel() for p in method.parameters()))}

    # a parameter that no gradient of the prediction reaches is not read
    method.eval()
    parameters = list(method.parameters())
    frozen = [p for p in parameters if not p.requires_grad]
    method.requires_grad_(True)
    grads = torch.autograd.grad(method(images[:2]).logits.sum(), parameters, allow_unused=True)
    found["parameters_used"] = float(sum(p.numel() for p, g in zip(parameters, grads, strict=True) if g is not None))
    for parameter in frozen:
        parameter.requires_grad_(False)

    with torch.no_grad(), operation_counter() as counter:
        method(images[:1])
    found["multiply_adds"] = counter.get_total_flops() / 2
    before = {name: buffer.clone() for name, buffer in method.state_dict().items()}
    generators = [(g, g.get_state()) for g in (method.shared_generator, method.rank_generator)]
    method.train()
    with operation_counter() as counter:
        method(images, labels).loss.backward()
    found["train_multiply_adds"] = counter.get_total_flops() / 2 / len(images)
    method.zero_grad()
    method.load_state_dict(before)  # BatchNorm's statistics and the generators as they were
    for generator, state in generators:
        generator.set_state(state)
    method.eval()
    return found
