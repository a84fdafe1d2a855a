"""Measures of a feature space: how compact classes are, how well distances verify, how far centers lag."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.loader import Loader
from fgvc_lib.methods.base import Method


@torch.no_grad()
def embed(method: Method, data: ImageData, split: str, device: str, *, limit: int = 2_500) -> tuple[Tensor, Tensor]:
    """Features ``(N, d)`` and labels ``(N,)`` of at most ``limit`` evenly spaced images of a split, on the CPU.

    The feature is ``maps["embedding"]``, or the globally averaged last map ``maps["features"]``.
    """
    method.eval()
    data = thinned(data, split, limit)
    features, labels = [], []
    for images, targets, _ in Loader(data, split, 256, train=False, seed=0, device=device).epoch(0):
        maps = method(images).maps
        x = maps["embedding"] if "embedding" in maps else maps["features"].mean((2, 3))
        features.append(x.float().cpu())
        labels.append(targets.cpu())
    return torch.cat(features), torch.cat(labels)


def thinned(data: ImageData, split: str, limit: int) -> ImageData:
    """The same data with at most ``limit`` images in ``split``, evenly spaced, so that every class stays."""
    whole = getattr(data, split)
    if len(whole) <= limit:
        return data
    keep = np.linspace(0, len(whole) - 1, limit).astype(int)
    part: Any = {split: Split(np.asarray(whole.images[keep]), whole.labels[keep])}
    return dataclasses.replace(data, **part)


def class_means(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Classes that occur, ``(n,)``, and the mean feature of each, ``(n, d)``."""
    classes = torch.unique(labels)
    return classes, torch.stack([features[labels == c].mean(0) for c in classes])


def compactness(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """How compact and how far apart the test classes are.

    ``intra``: mean distance of a feature to its class mean. ``margin``: mean distance of a class mean to the nearest
    other one. ``ratio``: intra / margin, free of the scale of the features; lower is more compact.
    """
    features, labels = embed(method, data, "test", device)
    classes, means = class_means(features, labels)
    own = means[torch.searchsorted(classes, labels)]
    distance = (features - own).norm(dim=1)
    between = torch.cdist(means, means).fill_diagonal_(float("inf")).amin(1)
    return {
        "intra": float(distance.mean()),
        "margin": float(between.mean()),
        "ratio": float(distance.mean() / between.mean()),
    }


def verification(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """Are two test images of one class? Scored by cosine and by Euclidean distance of their features.

    Up to 20,000 pairs, half of them positive, drawn from the test split with a fixed seed. ``auc`` and ``auc_l2``:
    area under the ROC curve; ``accuracy``: at the best threshold of one half of the pairs, measured on the other.
    """
    features, labels = embed(method, data, "test", device)
    first, second, same = pairs(labels, 20_000)
    cosine = torch.cosine_similarity(features[first], features[second])
    l2 = -(features[first] - features[second]).norm(dim=1)
    return {
        "auc": float(roc_auc_score(same, cosine)),
        "auc_l2": float(roc_auc_score(same, l2)),
        "accuracy": best_threshold_accuracy(cosine, same),
    }


def pairs(labels: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` index pairs, alternately of one class and of two, and whether each is of one class."""
    g = torch.Generator().manual_seed(0)
    first = torch.randint(len(labels), (20 * count,), generator=g)
    second = torch.randint(len(labels), (20 * count,), generator=g)
    same = labels[first] == labels[second]
    distinct = first != second
    n = min(count // 2, int((same & distinct).sum()), int((~same).sum()))
    keep = torch.cat([(same & distinct).nonzero()[:n, 0], (~same).nonzero()[:n, 0]])
    keep = keep.view(2, n).T.reshape(-1)  # alternate, so that any prefix is balanced
    return first[keep], second[keep], same[keep]


def best_threshold_accuracy(score: Tensor, same: Tensor) -> float:
    """Accuracy on the second half of the pairs with the threshold that is best on the first."""
    half = len(score) // 2
    order = score[:half].argsort(descending=True)
    hits = same[:half][order].long()
    # calling the k best-scored pairs "same": hits among them, and misses among the rest, k = 1 … half
    right = hits.cumsum(0) + (1 - hits).sum() - (1 - hits).cumsum(0)
    threshold = score[:half][order][right.argmax()]
    return float(((score[half:] >= threshold) == same[half:]).float().mean())


def center_drift(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """How far the learned centers are from the true means of the training features.

    ``drift``: mean distance between the two. ``relative``: divided by the mean distance of a feature to its true
    mean, so that 1 is as far as a typical sample.
    """
    centers = getattr(getattr(method, "center_loss", None), "centers", None)
    if centers is None:
        raise ValueError("center_drift needs a method with centers: use method 'center'")
    features, labels = embed(method, data, "train", device)
    classes, means = class_means(features, labels)
    drift = (centers.detach().cpu()[classes] - means).norm(dim=1).mean()
    spread = (features - means[torch.searchsorted(classes, labels)]).norm(dim=1).mean()
    return {"drift": float(drift), "relative": float(drift / spread)}


def features_2d(method: Method, data: ImageData, device: str) -> dict[str, float | np.ndarray]:
    """The first two feature dimensions of up to 1,500 images of train and of test, for pictures.

    Arrays ``train``, ``test`` float16 ``(n, 2)`` and ``train_labels``, ``test_labels`` uint8 ``(n,)``.
    """
    found: dict[str, float | np.ndarray] = {}
    for split in ("train", "test"):
        features, labels = embed(method, data, split, device, limit=1_500)
        found[split] = features[:, :2].numpy().astype(np.float16)
        found[f"{split}_labels"] = labels.numpy().astype(np.uint8)
    return found
