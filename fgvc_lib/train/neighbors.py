"""The training images that a trained method finds most like a new one: the nearest in its embedding."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fgvc_lib.data import ImageData, Loader
from fgvc_lib.train.inference import Prediction, Predictor, embedding, known


class Neighbor(NamedTuple):
    """A training image near to another image.

    Attributes:
        position: in the training split.
        name: its file's name, or its position where the set is not made of files.
        label: its class.
        similarity: cosine of the two embeddings, in [-1, 1].
    """

    position: int
    name: str
    label: str
    similarity: float


class Neighbors:
    """The training images of a set, ready to be compared with predictions.

    Args:
        predictor: whose embedding decides what is near.
        data: the set that it was trained on, or another one of these images.
    """

    def __init__(self, predictor: Predictor, data: ImageData) -> None:
        self.data = data
        loader = Loader(data, "train", predictor.batch_size, train=False, seed=0, device=predictor.device)
        with torch.no_grad():
            found = [known(embedding(predictor.method(images).maps)) for images, _, _ in loader.epoch(0)]
        self.embeddings: Tensor = F.normalize(torch.cat(found), dim=1)  # (N, d)

    def __call__(self, prediction: Prediction, count: int = 5) -> list[Neighbor]:
        """The ``count`` training images nearest to a predicted one, the nearest first."""
        similarities = self.embeddings @ F.normalize(known(prediction.embedding), dim=0)  # (N,)
        values, positions = similarities.topk(min(count, len(similarities)))
        split = self.data.train
        return [
            Neighbor(i, split.keys[i] if split.keys else str(i), self.data.classes[split.labels[i]], value)
            for i, value in zip(positions.tolist(), values.tolist(), strict=True)
        ]

    def picture(self, prediction: Prediction, found: list[Neighbor]) -> Image.Image:
        """The predicted image and its neighbors side by side, as the method saw them."""
        size, gap = prediction.image.width, prediction.image.width // 16
        strip = Image.new("RGB", ((1 + len(found)) * (size + gap) - gap, size), "white")
        strip.paste(prediction.image, (0, 0))
        for column, neighbor in enumerate(found, 1):
            pixels = np.asarray(self.data.train.images[neighbor.position]).transpose(1, 2, 0).squeeze()
            edge = (pixels.shape[0] - size) // 2  # training images may be stored with a margin
            strip.paste(Image.fromarray(pixels[edge : edge + size, edge : edge + size]), (column * (size + gap), 0))
        return strip
