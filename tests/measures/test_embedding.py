"""Measures of features, on features made by hand."""

import pytest
import torch

from fgvc_lib.measures.embedding import best_threshold_accuracy, class_means, pairs


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
