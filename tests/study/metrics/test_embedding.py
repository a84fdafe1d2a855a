"""Measures of features, on features made by hand."""

import math

import numpy as np
import pytest
import torch

from fgvc_lib.data import ImageData, Split
from fgvc_lib.losses.center import CenterLoss
from fgvc_lib.methods import Method, Output
from fgvc_study.metrics.embedding import (
    best_threshold_accuracy,
    center_drift,
    class_means,
    compactness,
    embed,
    features_2d,
    pairs,
    verification,
)


def test_class_means_by_hand():
    features = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0]])
    classes, means = class_means(features, torch.tensor([1, 1, 4]))
    assert classes.tolist() == [1, 4]
    assert means.tolist() == [[1.0, 0.0], [5.0, 5.0]]


def test_pairs_are_balanced_distinct_and_labelled_right():
    labels = torch.arange(60) % 6
    first, second, same = pairs(labels, 200)
    assert len(first) == 200
    assert torch.equal(labels[first] == labels[second], same)
    assert (first != second).all()
    assert int(same.sum()) == 100
    assert int(same[:50].sum()) == 25  # any prefix is balanced
    again = pairs(labels, 200)
    assert torch.equal(again[0], first)


def test_best_threshold_is_chosen_on_one_half_and_measured_on_the_other():
    score = torch.tensor([0.9, 0.1, 0.8, 0.2, 0.95, 0.15, 0.7, 0.3])
    same = torch.tensor([1, 0, 1, 0, 1, 0, 0, 1]).bool()
    # threshold 0.8 on the first four; on the last four 0.95, 0.15 and 0.7 are right, 0.3 is missed
    assert best_threshold_accuracy(score, same) == pytest.approx(0.75)


class Given(Method):
    """The first row of an image is its feature; centers where they are given."""

    def __init__(self, *, centers=None):
        super().__init__()
        if centers is not None:
            self.center_loss = CenterLoss(2, 2)
            self.center_loss.centers.copy_(torch.tensor(centers))

    def forward(self, images, labels=None):
        return Output(images[:, 0, 0], maps={"embedding": images[:, 0, 0]})


class Mapped(Method):
    def forward(self, images, labels=None):
        return Output(images[:, 0, 0], maps={"features": images})


def a_set(rows, labels):
    """Images of 2 × 2 pixels whose first row is given, in units of 1 after normalisation."""
    pixels = np.zeros((len(rows), 1, 2, 2), np.uint8)
    pixels[:, 0, 0] = rows
    split = Split(pixels, torch.tensor(labels))
    return ImageData("points", "0", ("a", "b"), split, split, split, (0.0,), (1 / 255,))


# class a at (0, 0) and (2, 0), mean (1, 0); class b at (10, 0) and (10, 4), mean (10, 2)
POINTS = a_set([[0, 0], [2, 0], [10, 0], [10, 4]], [0, 0, 1, 1])


def test_compactness_by_hand():
    found = compactness(Given(), POINTS, "cpu")
    assert found["intra"] == pytest.approx((1 + 1 + 2 + 2) / 4)
    assert found["margin"] == pytest.approx(math.sqrt(81 + 4))
    assert found["ratio"] == pytest.approx(1.5 / math.sqrt(85))


def test_the_feature_without_an_embedding_is_the_averaged_map():
    features, labels = embed(Mapped(), POINTS, "test", "cpu")
    torch.testing.assert_close(features, torch.tensor([[0.0], [0.5], [2.5], [3.5]]))
    assert labels.tolist() == [0, 0, 1, 1]
    features, labels = embed(Mapped(), POINTS, "test", "cpu", limit=2)
    assert labels.tolist() == [0, 1]


def test_classes_far_apart_are_verified_without_an_error():
    rows = [[200 + i, 0] for i in range(20)] + [[0, 200 + i] for i in range(20)]
    found = verification(Given(), a_set(rows, [0] * 20 + [1] * 20), "cpu")
    assert found == {"auc": 1.0, "auc_l2": 1.0, "accuracy": 1.0}


def test_center_drift_by_hand():
    # centres are 3 and 4 away from the means (1, 0) and (10, 2); features 1.5 from their mean
    found = center_drift(Given(centers=[[4.0, 0.0], [10.0, 6.0]]), POINTS, "cpu")
    assert found["drift"] == pytest.approx(3.5)
    assert found["relative"] == pytest.approx(3.5 / 1.5)
    with pytest.raises(ValueError, match="center_drift needs a method with centers"):
        center_drift(Given(), POINTS, "cpu")


def test_points_for_pictures_are_the_first_two_dimensions():
    plain = features_2d(Given(), POINTS, "cpu")
    assert set(plain) == {"train", "test", "train_labels", "test_labels"}
    assert plain["test"].dtype == np.float16
    assert plain["test"].tolist() == [[0, 0], [2, 0], [10, 0], [10, 4]]
    assert plain["test_labels"].tolist() == [0, 0, 1, 1]
