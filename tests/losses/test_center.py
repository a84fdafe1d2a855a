"""Center loss against the paper's Eq. 2-5, worked by hand and spelled out literally."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fgvc_lib.losses.center import CenterLoss, center_loss, update_centers


def literal_loss(features, labels, centers):
    """Eq. 2, one sample and one coordinate at a time."""
    total = 0.0
    for x, y in zip(features.tolist(), labels.tolist(), strict=True):
        total += 0.5 * sum((a - b) ** 2 for a, b in zip(x, centers[y].tolist(), strict=True))
    return total


def literal_update(centers, features, labels, alpha):
    """Eq. 4, one class at a time."""
    new = centers.clone()
    for j in range(len(centers)):
        mine = [x for x, y in zip(features, labels.tolist(), strict=True) if y == j]
        delta = sum((centers[j] - x for x in mine), torch.zeros_like(centers[j])) / (1 + len(mine))
        new[j] = centers[j] - alpha * delta
    return new


def test_two_classes_by_hand():
    centers = torch.tensor([[0.0, 0.0], [1.0, 1.0]])
    features = torch.tensor([[3.0, 4.0], [1.0, 3.0]], requires_grad=True)
    labels = torch.tensor([0, 1])
    loss = center_loss(features, labels, centers, reduction="sum")
    assert loss.item() == pytest.approx(0.5 * 25 + 0.5 * 4)
    loss.backward()
    assert torch.equal(features.grad, torch.tensor([[3.0, 4.0], [0.0, 2.0]]))  # Eq. 3
    update_centers(centers, features.detach(), labels, alpha=0.5)
    # one sample a class: a quarter of the way
    assert torch.allclose(centers, torch.tensor([[0.75, 1.0], [1.0, 1.5]]))


def test_zero_features_with_repeated_and_missing_classes():
    """Ten classes, 2-D zero features, labels 0, 0, 2, 1, the smoke case of a widely copied port."""
    centers = torch.arange(20.0).reshape(10, 2)
    features = torch.zeros(4, 2, requires_grad=True)
    labels = torch.tensor([0, 0, 2, 1])
    loss = center_loss(features, labels, centers, reduction="sum")
    # half of 2·(0² + 1²) + (4² + 5²) + (2² + 3²)
    assert loss.item() == pytest.approx(0.5 * (2 * 1 + 41 + 13))
    loss.backward()
    assert torch.equal(features.grad, -centers[labels])
    before = centers.clone()
    update_centers(centers, features.detach(), labels, alpha=0.5)
    assert torch.allclose(centers[0], before[0] * (1 - 0.5 * 2 / 3))  # twice in the batch
    assert torch.allclose(centers[1:3], before[1:3] * (1 - 0.5 * 1 / 2))  # once
    assert torch.equal(centers[3:], before[3:])  # absent


@given(
    m=st.integers(1, 7), n=st.integers(1, 5), d=st.integers(1, 6), alpha=st.floats(0, 1), seed=st.integers(0, 2**31 - 1)
)
@settings(max_examples=40, deadline=None)
def test_equals_the_literal_formulae(m, n, d, alpha, seed):
    g = torch.Generator().manual_seed(seed)
    centers = torch.randn(n, d, generator=g, dtype=torch.float64)
    features = torch.randn(m, d, generator=g, dtype=torch.float64)
    labels = torch.randint(n, (m,), generator=g)
    loss = literal_loss(features, labels, centers)
    assert center_loss(features, labels, centers, reduction="sum").item() == pytest.approx(loss)
    assert center_loss(features, labels, centers).item() == pytest.approx(loss / m)
    expected = literal_update(centers, features, labels, alpha)
    torch.testing.assert_close(update_centers(centers.clone(), features, labels, alpha=alpha), expected)


def test_gradcheck():
    centers = torch.randn(3, 4, dtype=torch.float64)
    features = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 2, 2, 1, 0])
    for reduction in ("mean", "sum"):
        assert gradcheck(lambda x, r=reduction: center_loss(x, labels, centers, reduction=r), features)


def test_both_reductions_give_parallel_gradients_of_the_whole_loss():
    """With one reduction for both terms, λ weighs them the same: Eq. 5's gradient only changes its length."""
    x, w = torch.randn(6, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    labels, centers = torch.tensor([0, 1, 2, 3, 1, 1]), torch.randn(4, 3, dtype=torch.float64)
    grads = {}
    for reduction in ("mean", "sum"):
        features = x.clone().requires_grad_()
        ce = torch.nn.functional.cross_entropy(features @ w.T, labels, reduction=reduction)
        (ce + 0.3 * center_loss(features, labels, centers, reduction=reduction)).backward()
        grads[reduction] = features.grad
    torch.testing.assert_close(grads["sum"], len(x) * grads["mean"])


def test_step_does_not_depend_on_batch_size_beyond_the_count():
    """α k / (1 + k) of the way to the batch mean: 0.25 for one sample, 0.464 for 13 (α = 0.5)."""
    for k, way in ((1, 0.25), (13, 0.5 * 13 / 14)):
        centers = torch.zeros(1, 2)
        update_centers(centers, torch.ones(k, 2), torch.zeros(k, dtype=torch.long), alpha=0.5)
        torch.testing.assert_close(centers, torch.full((1, 2), way))


def test_centers_are_state_not_parameters():
    loss = CenterLoss(3, 2)
    assert list(loss.parameters()) == []
    restored = CenterLoss(3, 2)
    restored.load_state_dict(loss.state_dict())
    assert torch.equal(restored.centers, loss.centers)
    assert loss.to(torch.float64).centers.dtype == torch.float64


@pytest.mark.parametrize("width", [2, 48])
def test_centers_start_uniform_in_a_range_that_gives_a_center_the_length_one_on_average(width):
    centers = CenterLoss(2000, width).centers
    bound = (3 / width) ** 0.5
    assert 0.99 * bound < centers.abs().max() <= bound
    assert centers.square().sum(1).mean().item() == pytest.approx(1, rel=0.05)


def test_no_gradient_flows_into_the_centers():
    centers, features = torch.randn(3, 2, requires_grad=True), torch.randn(4, 2, requires_grad=True)
    loss = center_loss(features, torch.tensor([0, 2, 1, 0]), centers)
    to_features, to_centers = torch.autograd.grad(loss, (features, centers), allow_unused=True)
    assert to_features.any()
    assert to_centers is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_centers_stay_float32_in_a_model_of_half_precision(dtype):
    loss, labels = CenterLoss(2, 3), torch.tensor([0, 1])
    before = loss.centers.clone()
    torch.nn.Sequential(loss).to(dtype)
    assert torch.equal(loss.centers, before)
    features = torch.full((2, 3), 6e4, dtype=dtype)
    for _ in range(8):
        loss.update(features, labels)
    assert loss.centers.dtype == torch.float32
    assert loss.centers.isfinite().all()
    assert loss(features, labels).dtype == torch.float32


def test_gradients_sample_by_sample():
    features, labels, centers = torch.randn(4, 3), torch.tensor([0, 2, 1, 0]), torch.randn(3, 3)
    one = torch.func.grad(lambda x, y: center_loss(x[None], y[None], centers))
    torch.testing.assert_close(torch.func.vmap(one)(features, labels), features - centers[labels])


def test_centers_move_in_training_only():
    loss = CenterLoss(2, 2).eval()
    before = loss.centers.clone()
    loss.update(torch.ones(1, 2), torch.tensor([0]))
    assert torch.equal(loss.centers, before)
    loss.train().update(torch.ones(1, 2), torch.tensor([0]))
    assert not torch.equal(loss.centers, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_stays_finite_in_float32(dtype):
    loss = CenterLoss(3, 4)
    features = (200 * torch.randn(5, 4)).to(dtype).requires_grad_()  # squares overflow float16
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = loss(features, torch.tensor([0, 1, 2, 0, 1]))
    assert value.dtype == torch.float32
    assert value.isfinite()
    value.backward()
    assert features.grad.isfinite().all()
    loss.update(features.detach(), torch.tensor([0, 1, 2, 0, 1]))
    assert loss.centers.dtype == torch.float32
    assert loss.centers.isfinite().all()


def test_two_ranks_equal_one_process(run_ranks):
    def one_rank(rank, world_size):
        import torch

        from fgvc_lib.losses.center import update_centers

        centers = torch.arange(6.0).reshape(3, 2)
        features = torch.linspace(-1, 2, 12).reshape(6, 2)
        labels = torch.tensor([0, 0, 1, 0, 1, 1])
        mine = slice(0, 2) if rank == 0 else slice(2, 6)  # uneven parts
        return update_centers(centers, features[mine], labels[mine], alpha=0.7)

    first, second = run_ranks(one_rank)
    whole = literal_update(
        torch.arange(6.0).reshape(3, 2),
        torch.linspace(-1, 2, 12).reshape(6, 2),
        torch.tensor([0, 0, 1, 0, 1, 1]),
        0.7,
    )
    assert torch.equal(first, second)
    torch.testing.assert_close(first, whole)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.tensor([0, 1]),
            r"features must be floats \(batch, 2\) like the centers, got .*\(2, 3\)",
        ),
        (torch.zeros(2), torch.tensor([0, 1]), r"features must be floats \(batch, 2\)"),
        (torch.zeros(2, 2, dtype=torch.long), torch.tensor([0, 1]), r"must be floats .* got torch.int64"),
        (
            torch.zeros(2, 2),
            torch.tensor([0]),
            r"labels must be integers of shape \(2,\), got torch.int64 of shape \(1,\)",
        ),
        (torch.zeros(2, 2), torch.tensor([0.0, 1.0]), r"labels must be integers of shape \(2,\), got torch.float32"),
        (torch.zeros(2, 2), torch.tensor([0, 4]), r"labels must lie in \[0, 3\], got 0 to 4"),
        (torch.zeros(2, 2), torch.tensor([-1, 0]), r"labels must lie in \[0, 3\], got -1 to 0"),
    ],
)
def test_bad_input_is_refused_and_loses_nothing(features, labels, message):
    loss = CenterLoss(4, 2)
    before = loss.centers.clone()
    with pytest.raises(ValueError, match=message):
        loss(features, labels)
    with pytest.raises(ValueError, match=message):
        loss.update(features, labels)
    assert torch.equal(loss.centers, before)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "must be positive, got 0 and 2"),
        ({"alpha": 1.5}, r"alpha must lie in \[0, 1\], got 1.5"),
    ],
)
def test_bad_construction_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        CenterLoss(**{"num_classes": 2, "feature_dim": 2, **arguments})


def test_another_reduction_is_refused():
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', got 'none'"):
        center_loss(torch.zeros(1, 2), torch.tensor([0]), torch.zeros(1, 2), reduction="none")


def test_batch_of_one():
    loss = CenterLoss(3, 2)
    assert loss(torch.zeros(1, 2), torch.tensor([2])).item() == pytest.approx(
        0.5 * float(loss.centers[2].square().sum())
    )


def test_compiles_without_a_graph_break():
    compiled = torch.compile(center_loss, backend="eager", fullgraph=True)
    features, labels, centers = torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), torch.randn(2, 2)
    torch.testing.assert_close(compiled(features, labels, centers), center_loss(features, labels, centers))
