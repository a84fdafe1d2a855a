"""Accuracy under the fast gradient sign method (Goodfellow, Shlens, Szegedy; ICLR 2015)."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.data.loader import Loader
from fgvc_lib.methods.base import Method
from fgvc_study.metrics.embedding import thinned

EPSILONS = (0.02, 0.05, 0.1, 0.2)
"""Largest change of a pixel, with pixels in [0, 1]."""


def fgsm(method: Method, data: ImageData, device: str, *, limit: int = 1_000) -> dict[str, float | np.ndarray]:
    r"""Test accuracy after one step of the attack on the cross-entropy.

    .. math:: \tilde x = \mathrm{clip}_{[0, 1]}(x + \epsilon\, \mathrm{sign}\, \nabla_x L_S(x, y))

    On at most ``limit`` test images, evenly spaced. Keys ``eps0.1`` … hold the accuracy at each of
    :data:`EPSILONS`, ``clean`` without an attack. One step is a weak attack: good for
    comparing methods, no proof of robustness.
    """
    method.eval()
    mean = torch.tensor(data.mean, device=device).view(1, -1, 1, 1)
    std = torch.tensor(data.std, device=device).view(1, -1, 1, 1)
    data = thinned(data, "test", limit)
    hits = dict.fromkeys((0.0, *EPSILONS), 0)
    for images, labels, _ in Loader(data, "test", 256, train=False, seed=0, device=device).epoch(0):
        images = images.detach().requires_grad_()
        with torch.enable_grad():
            loss = F.cross_entropy(method(images).logits.float(), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, images)
        pixels = images.detach() * std + mean
        for eps in hits:
            attacked = (pixels + eps * gradient.sign()).clamp(0, 1)
            with torch.no_grad():
                hits[eps] += int((method((attacked - mean) / std).logits.argmax(1) == labels).sum())
    return {("clean" if eps == 0 else f"eps{eps:g}"): n / len(data.test) for eps, n in hits.items()}
