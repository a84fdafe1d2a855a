"""Held-out images: per class, deterministic, whatever the class sizes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fgvc_lib.data.splits import by_class, hash_order, hold_out, take_per_class

labels_lists = st.lists(st.integers(0, 4), min_size=1, max_size=40)


def keys_for(labels):
    return [f"class{c}/{i}.jpg" for i, c in enumerate(labels)]


@given(labels_lists, st.floats(0, 0.9), st.integers(0, 3))
def test_every_sample_once_and_every_class_in_both_parts(labels, fraction, seed):
    kept, held = hold_out(keys_for(labels), torch.tensor(labels), fraction=fraction, seed=seed)
    assert sorted(kept.tolist() + held.tolist()) == list(range(len(labels)))
    for c in set(labels):
        n = labels.count(c)
        count = sum(labels[i] == c for i in held.tolist())
        expected = 0 if fraction == 0 or n == 1 else min(max(1, int(fraction * n + 0.5)), n - 1)
        assert count == expected


def test_the_split_is_the_same_on_every_machine():
    # a fixed answer: a change of it would silently change every validation split
    _, held = hold_out([f"{i}.jpg" for i in range(20)], torch.tensor([0, 1] * 10), fraction=0.2)
    assert held.tolist() == [1, 2, 6, 17]


def test_another_class_does_not_move_the_split():
    labels = [0] * 10 + [1] * 10
    keys = keys_for(labels)
    _, both = hold_out(keys, torch.tensor(labels), fraction=0.3)
    _, first = hold_out(keys[:10], torch.tensor(labels[:10]), fraction=0.3)
    assert [i for i in both.tolist() if i < 10] == first.tolist()


def test_seeds_differ():
    labels = torch.zeros(50, dtype=torch.long)
    splits = [hold_out(keys_for([0] * 50), labels, fraction=0.2, seed=s)[1].tolist() for s in (0, 1)]
    assert splits[0] != splits[1]


def test_per_class_takes_so_many_and_all_of_a_small_class():
    labels = torch.tensor([0] * 10 + [1] * 2)
    chosen = take_per_class(keys_for(labels.tolist()), labels, count=3)
    assert labels[chosen].tolist() == [0, 0, 0, 1, 1]
    more = take_per_class(keys_for(labels.tolist()), labels, count=4)
    assert set(chosen.tolist()) < set(more.tolist())  # a larger subset holds the smaller


def test_errors_say_what_came():
    with pytest.raises(ValueError, match=r"must be in \[0, 1\), got 1"):
        hold_out(["a"], torch.tensor([0]), fraction=1)
    with pytest.raises(ValueError, match="per_class must be at least 1, got 0"):
        take_per_class(["a"], torch.tensor([0]), count=0)


def test_by_class_and_hash_order():
    assert by_class(torch.tensor([2, 0, 2, 0])) == [[1, 3], [0, 2]]
    assert by_class(torch.tensor([], dtype=torch.long)) == []
    assert sorted(hash_order(["a", "b", "c"], [0, 2], seed=0)) == [0, 2]
