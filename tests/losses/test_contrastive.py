"""The contrastive loss: both terms alive, the margin where it should be, a mean over pairs."""

import pytest
import torch

from fgvc_lib.losses.contrastive import ContrastiveLoss, contrastive_loss


def reference(a, b, same, margin):
    total = 0.0
    for left, right, s in zip(a, b, same, strict=True):
        d = sum((u - v) ** 2 for u, v in zip(left, right, strict=True)) ** 0.5
        total = total + (d**2 if s else max(margin - d, 0 * d) ** 2)
    return total / len(a)


def test_by_hand():
    a = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.3, 0.4], [0.3, 0.0], [3.0, 4.0]])
    same = torch.tensor([True, False, False])
    # d² = 0.25; (0.5 − 0.3)² = 0.04; beyond the margin: 0
    torch.testing.assert_close(contrastive_loss(a, b, same), torch.tensor((0.25 + 0.04) / 3))
    torch.testing.assert_close(ContrastiveLoss(margin=0.5)(a, b, same), contrastive_loss(a, b, same))
    torch.testing.assert_close(contrastive_loss(a, b, same, margin=6.0), torch.tensor((0.25 + 5.7**2 + 1) / 3))


def test_equals_the_loop_with_its_gradient():
    a, b = (torch.randn(7, 3).double().requires_grad_() for _ in range(2))
    same = torch.arange(7) % 2 == 0
    value, expected = contrastive_loss(a, b, same, margin=2.5), reference(a, b, same, 2.5)
    torch.testing.assert_close(value, expected)
    for got, want in zip(torch.autograd.grad(value, (a, b)), torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(got, want)
    torch.autograd.gradcheck(lambda u, v: contrastive_loss(u, v, same, margin=2.5), (a, b))


def test_negative_pairs_are_pushed_apart_until_the_margin_and_no_further():
    b = torch.zeros(1, 2)
    different = torch.tensor([False])
    for d, pushed in ((0.1, True), (0.49, True), (0.51, False), (3.0, False)):
        a = torch.tensor([[d, 0.0]], requires_grad=True)
        contrastive_loss(a, b, different, margin=0.5).backward()
        # descending the gradient −2(β − d) moves a away from b
        expected = -2 * (0.5 - d) if pushed else 0.0
        torch.testing.assert_close(a.grad, torch.tensor([[expected, 0.0]]))


def test_positive_pairs_are_pulled_together_at_any_distance():
    a = torch.tensor([[0.1, 0.0], [30.0, 40.0]], requires_grad=True)
    contrastive_loss(a, torch.zeros(2, 2), torch.tensor([True, True])).backward()
    torch.testing.assert_close(a.grad, a.detach())  # 2 a / N


def test_gradient_is_finite_at_distance_zero():
    a = torch.ones(2, 3, requires_grad=True)
    loss = contrastive_loss(a, torch.ones(2, 3), torch.tensor([True, False]))
    torch.testing.assert_close(loss, torch.tensor(0.125))
    loss.backward()
    assert a.grad.isfinite().all()


def test_scale_does_not_depend_on_the_number_of_pairs():
    a, b, same = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([True, False, True, False])
    twice = contrastive_loss(a.repeat(2, 1), b.repeat(2, 1), same.repeat(2))
    torch.testing.assert_close(twice, contrastive_loss(a, b, same))


def test_no_pair_is_zero_with_a_graph():
    a = torch.empty(0, 3, requires_grad=True)
    loss = contrastive_loss(a, torch.empty(0, 3), torch.empty(0, dtype=torch.bool))
    assert loss == 0
    loss.backward()
    assert a.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_inside_autocast(dtype):
    a = (300 * torch.randn(4, 8)).to(dtype).requires_grad_()  # squares overflow float16
    with torch.autocast("cpu", dtype=dtype):
        loss = contrastive_loss(a, torch.zeros_like(a), torch.tensor([True, True, False, False]))
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert a.grad.isfinite().all()


def test_bad_input_is_refused():
    good, same = torch.zeros(2, 3), torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"two \(N, r\) of the same shape, got \(2, 3\) and \(3, 3\)"):
        contrastive_loss(good, torch.zeros(3, 3), same)
    with pytest.raises(ValueError, match=r"bool of shape \(2,\), got torch.int64 of shape \(2,\)"):
        contrastive_loss(good, good, torch.tensor([1, 0]))
    with pytest.raises(ValueError, match=r"bool of shape \(2,\), got torch.bool of shape \(\)"):
        contrastive_loss(good, good, torch.tensor(True))  # one label for a whole half-batch
    for margin in (0.0, -1.0):
        with pytest.raises(ValueError, match="margin must be positive, or no pair is ever pushed apart"):
            ContrastiveLoss(margin=margin)(good, good, torch.tensor([True, False]))
        with pytest.raises(ValueError, match="margin must be positive, or no pair is ever pushed apart"):
            contrastive_loss(good, good, same, margin=margin)
