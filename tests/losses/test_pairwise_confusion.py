"""Pairwise Confusion: hand-worked values, a literal loop, gradients, odd batches."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.losses.pairwise_confusion import PairwiseConfusion, pairwise_confusion


def loop(logits, labels):
    p, half, total = logits.softmax(1), len(logits) // 2, 0.0
    for i in range(half):
        if labels[i] != labels[i + half]:
            total = total + sum((p[i, k] - p[i + half, k]) ** 2 for k in range(logits.shape[1]))
    return total / len(logits)


def test_worked_by_hand():
    sure = torch.tensor([[50.0, 0], [0, 50.0]])
    torch.testing.assert_close(pairwise_confusion(sure, torch.tensor([0, 1])), torch.tensor(1.0))  # (1 + 1) / 2 images
    assert pairwise_confusion(sure, torch.tensor([1, 1])).item() == 0  # one class: nothing to confuse
    assert pairwise_confusion(torch.zeros(2, 2), torch.tensor([0, 1])).item() == 0  # already confused


@given(seed=st.integers(0, 999), batch=st.integers(1, 9), classes=st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_equals_the_loop_for_any_batch_and_lies_in_the_unit_interval(seed, batch, classes):
    torch.manual_seed(seed)
    logits, labels = 5 * torch.randn(batch, classes, dtype=torch.float64), torch.randint(classes, (batch,))
    value = pairwise_confusion(logits, labels)
    torch.testing.assert_close(value, torch.as_tensor(loop(logits, labels), dtype=torch.float64))
    assert 0 <= value <= 1


def test_gradcheck_and_direction():
    logits, labels = torch.randn(5, 3, dtype=torch.float64, requires_grad=True), torch.tensor([0, 1, 2, 0, 1])
    assert torch.autograd.gradcheck(lambda x: pairwise_confusion(x, labels), (logits,))
    (slope,) = torch.autograd.grad(pairwise_confusion(logits, labels), logits)
    assert slope[0].any()
    assert slope[3].any()
    assert not slope[4].any()  # of an odd batch the last has no partner
    assert pairwise_confusion(logits - 0.1 * slope, labels) < pairwise_confusion(logits, labels)


def test_batch_of_one_has_a_zero_gradient_that_is_there():
    logits = torch.randn(1, 3, requires_grad=True)
    value = pairwise_confusion(logits, torch.tensor([1]))
    assert value.item() == 0
    assert torch.autograd.grad(value, logits)[0].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(dtype):
    logits = torch.randn(4, 3).to(dtype).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = PairwiseConfusion()(logits, torch.arange(4) % 3)
    assert value.dtype == torch.float32
    assert torch.autograd.grad(value, logits)[0].isfinite().all()


def test_bad_input_is_refused_with_what_came():
    logits, labels = torch.randn(4, 3), torch.arange(4) % 3
    with pytest.raises(ValueError, match=r"logits must be floats \(B, C\), got"):
        pairwise_confusion(logits[0], labels)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(4,\), got .*\(3,\)"):
        pairwise_confusion(logits, labels[:3])
