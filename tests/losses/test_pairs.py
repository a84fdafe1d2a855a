"""Pairs and triplets by labels."""

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.losses.pairs import all_triplets, disjoint_pairs


@given(labels=st.lists(st.integers(0, 5), max_size=24), seed=st.integers(0, 2**20))
@settings(max_examples=150, deadline=None)
def test_every_image_is_in_one_pair_and_kinds_are_balanced(labels, seed):
    a, b = disjoint_pairs(torch.tensor(labels, dtype=torch.int64), generator=torch.Generator().manual_seed(seed))
    count = len(labels) // 2
    assert a.shape == b.shape == (count,)
    used = torch.cat([a, b]).tolist()
    assert len(set(used)) == 2 * count
    assert all(0 <= i < len(labels) for i in used)
    positives = sum(labels[i] == labels[j] for i, j in zip(a.tolist(), b.tolist(), strict=True))
    possible = sum(n // 2 for n in Counter(labels).values())
    wanted = min(count // 2, possible)
    assert positives >= wanted
    if max(Counter(labels).values(), default=0) <= len(labels) // 2:
        assert positives <= wanted + 1  # two classes of 6: three pairs of each kind cannot be


@pytest.mark.parametrize(("p", "k"), [(4, 5), (2, 4), (8, 4), (3, 3)])
def test_classes_times_images_give_both_kinds(p, k):
    labels = torch.arange(p).repeat_interleave(k)  # the order in which the sampler delivers them
    a, b = disjoint_pairs(labels)
    same = labels[a] == labels[b]
    assert same.sum() == len(a) // 2
    assert (~same).sum() == len(a) - len(a) // 2


def test_halves_of_a_class_sorted_batch_have_no_positive_pair():
    labels = torch.arange(4).repeat_interleave(5)  # what a public port pairs
    assert not (labels[:10] == labels[10:]).any()


def test_all_classes_meet_in_negative_pairs():
    labels, generator, met = torch.arange(4).repeat_interleave(5), torch.Generator().manual_seed(0), Counter()
    for _ in range(200):
        a, b = disjoint_pairs(labels, generator=generator)
        met.update(tuple(sorted(pair)) for pair in zip(labels[a].tolist(), labels[b].tolist(), strict=True))
    for pair in itertools.combinations(range(4), 2):
        assert 0.6 < met[pair] / (200 * 5 / 6) < 1.4
    for c in range(4):
        assert 0.6 < met[c, c] / (200 * 5 / 4) < 1.4


def test_a_single_pair_is_of_either_kind():
    labels, seen = torch.tensor([0, 0, 1]), set()  # half of one pair is none: it is not made positive
    for seed in range(20):
        a, b = disjoint_pairs(labels, generator=torch.Generator().manual_seed(seed))
        seen.add(bool(labels[a] == labels[b]))
    assert seen == {True, False}


def test_a_function_of_the_generator():
    labels = torch.arange(4).repeat_interleave(5)
    first, again, other = (disjoint_pairs(labels, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_pairs_and_triplets_leave_negative_labels_alone():
    a, b = disjoint_pairs(torch.tensor([-1, -1, 700, 700]))
    assert set(torch.cat([a, b]).tolist()) == {0, 1, 2, 3}
    assert len(all_triplets(torch.tensor([-1, -1, 700, 700]))[0]) == 8


def test_triplets_are_all_there_are():
    labels = [0, 1, 0, 2, 1, 0]
    expected = {
        (i, j, k)
        for i, j, k in itertools.product(range(6), repeat=3)
        if i != j and labels[i] == labels[j] and labels[i] != labels[k]
    }
    got = list(zip(*(t.tolist() for t in all_triplets(torch.tensor(labels))), strict=True))
    assert len(got) == len(expected)
    assert set(got) == expected
    assert len(all_triplets(torch.arange(4).repeat_interleave(5))[0]) == 1200


@pytest.mark.parametrize("labels", [[], [3], [1, 2, 3], [1, 1]])
def test_batches_without_triplets(labels):
    assert all(t.shape == (0,) for t in all_triplets(torch.tensor(labels, dtype=torch.int64)))


def test_bad_labels_are_refused():
    for function in (disjoint_pairs, all_triplets):
        with pytest.raises(ValueError, match=r"integers of shape \(B,\), got torch.float32 of shape \(3,\)"):
            function(torch.zeros(3))
        with pytest.raises(ValueError, match=r"got torch.int64 of shape \(3, 1\)"):
            function(torch.zeros(3, 1, dtype=torch.int64))
