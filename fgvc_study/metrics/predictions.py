"""Which test images a method gets right, kept so that images can be resampled later."""

from __future__ import annotations

import numpy as np

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.methods.base import Method
from fgvc_lib.train import predict


def correct(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Array ``test``: one bit for each test image in order, packed by ``numpy.packbits``; 1 where it is right."""
    logits, labels = predict(method, data, "test", device=device)
    return {"test": np.packbits((logits.argmax(1) == labels).numpy())}
