"""Test images with what a data set knows of their parts, for the metrics that compare attention with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.loader import Loader
from fgvc_study.metrics.parts import NotApplicable


def need_parts(data: ImageData, *names: str) -> None:
    """Refuse data that does not know these of its parts."""
    for name in names:
        if name not in data.test.parts:
            raise NotApplicable(
                f"data set {data.name!r} does not know the {name} of its parts: use one that does, such as 'birds'"
            )


def batches_with_parts(data: ImageData, limit: int, device: str) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """Images, labels and parts of at most ``limit`` test images, chosen at random but always the same.

    Not evenly spaced: where classes take turns, as in the synthetic set, an even step would pass some of them over.
    """
    whole = data.test
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    keep = order[:limit].sort().values.numpy()
    parts = {name: np.asarray(values[keep]) for name, values in whole.parts.items()}
    part = dataclasses.replace(data, test=Split(np.asarray(whole.images[keep]), whole.labels[keep], parts))
    for images, labels, rows in Loader(part, "test", 64, train=False, seed=0, device=device).epoch(0):
        chosen = rows.cpu().numpy()
        yield images, labels, {name: torch.from_numpy(v[chosen]).to(images.device) for name, v in parts.items()}
