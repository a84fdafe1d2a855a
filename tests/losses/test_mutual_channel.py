"""Mutual-channel loss: hand-worked values, a loop written from the formulas, invariants, gradients."""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.losses._mutual_channel_kernel import mutual_channel_loss as kernel
from fgvc_lib.losses.mutual_channel import (
    MutualChannelLoss,
    channel_groups,
    channel_mask,
    diversity_weights,
    group_diversity,
    group_scores,
    mutual_channel_loss,
    paper_weights,
)


def loop(features, num_classes, keep=None):
    """g and h, one class, one position and one channel at a time, masking by zero as the paper writes it."""
    batch, _, height, width = features.shape
    g, h, start = [], [], 0
    for classes, xi in channel_groups(features.shape[1], num_classes):
        for _ in range(classes):
            for b in range(batch):
                group = features[b, start : start + xi].reshape(xi, height * width)
                p = torch.stack([f.exp() / f.exp().sum() for f in group])
                if keep is not None:
                    group = torch.stack([f * float(keep[start + j]) for j, f in enumerate(group)])
                g.append(sum(max(group[:, k]) for k in range(height * width)) / (height * width))
                h.append(sum(max(p[:, k]) for k in range(height * width)))
            start += xi
    return (torch.stack(v).view(num_classes, batch).T for v in (g, h))


def gradient(value, x):
    return torch.autograd.grad(value, x, retain_graph=True)[0]


# ------------------------------------------------------------------------------------------------- groups and masks


def test_groups_of_the_published_networks():
    assert channel_groups(600, 200) == [(200, 3)]
    assert channel_groups(2048, 200) == [(152, 10), (48, 11)]
    assert channel_groups(512, 200) == [(88, 2), (112, 3)]
    assert channel_groups(2048, 196) == [(108, 10), (88, 11)]
    assert channel_groups(512, 102) == [(100, 5), (2, 6)]
    assert channel_groups(7, 7) == [(7, 1)]
    with pytest.raises(ValueError, match="8 classes, 7 channels"):
        channel_groups(7, 8)
    with pytest.raises(ValueError, match="0 classes"):
        channel_groups(7, 0)


@given(st.integers(1, 40), st.integers(0, 60))
def test_groups_use_every_channel_and_differ_by_one_at_most_the_small_ones_first(num_classes, more):
    runs = channel_groups(num_classes + more, num_classes)
    assert sum(classes for classes, _ in runs) == num_classes
    assert sum(classes * xi for classes, xi in runs) == num_classes + more
    assert [xi for _, xi in runs] in ([runs[0][1]], [runs[0][1], runs[0][1] + 1])


@pytest.mark.parametrize(
    ("xi", "drop", "masked"),
    [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (10, 0.5, 5), (11, 0.4, 4), (10, 0.3, 3), (3, 0, 0)],
)
def test_mask_drops_floor_of_the_fraction_in_every_class(xi, drop, masked):
    keep = channel_mask(20 * xi, 20, drop=drop).view(20, xi)
    assert (~keep).sum(1).tolist() == [masked] * 20


def test_mask_has_no_rounding_slip_and_keeps_a_channel():
    assert int((~channel_mask(100, 1, drop=0.29)).sum()) == 29  # 0.29 * 100 < 29 in floating point
    assert channel_mask(12, 4, drop=0.999).view(4, 3).sum(1).tolist() == [1] * 4
    for drop in (1.0, -0.1):
        with pytest.raises(ValueError, match=r"drop must lie in \[0, 1\)"):
            channel_mask(12, 4, drop=drop)


def test_mask_is_a_function_of_its_generator_and_every_channel_has_its_turn():
    draw = lambda g: channel_mask(2 * 3 + 1, 3, generator=g)  # noqa: E731
    first, second = (torch.Generator().manual_seed(5) for _ in range(2))
    torch.manual_seed(1)
    a = [draw(first) for _ in range(200)]
    torch.manual_seed(2)
    b = [draw(second) for _ in range(200)]
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    kept = torch.stack(a).float().mean(0)
    assert ((kept[:4] - 1 / 2).abs() < 0.15).all()  # classes of two channels
    assert ((kept[4:] - 2 / 3).abs() < 0.15).all()  # the class of three


# ------------------------------------------------------------------------------------------------------ the two terms


def test_scores_worked_by_hand():
    # two classes of two channels on a map of 1 × 3
    features = torch.tensor([[1.0, 0, 2], [0, 4, 1], [3, 3, 0], [0, 6, 3]]).view(1, 4, 1, 3)
    assert group_scores(features, 2).tolist() == [[pytest.approx(7 / 3), 4.0]]  # (1 + 4 + 2)/3, (3 + 6 + 3)/3
    keep = torch.tensor([True, False, False, True])
    assert group_scores(features, 2, keep=keep).tolist() == [[1.0, 3.0]]
    assert group_scores(features, 2, keep=keep, cross_channel="avg").tolist() == [[0.5, 1.5]]  # zeros are averaged in


def test_diversity_worked_by_hand():
    # softmax over positions: channel 0 (¼, ¾), channel 1 (½, ½): h = ½ + ¾
    features = torch.tensor([[0, math.log(3)], [5, 5]]).view(1, 2, 1, 2)
    torch.testing.assert_close(group_diversity(features, 1), torch.tensor([[1.25]]))


def test_gradients_worked_by_hand():
    features = torch.tensor([[0, math.log(3)], [5, 5]], dtype=torch.float64).view(1, 2, 1, 2).requires_grad_()
    # position 0 is won by channel 1, position 1 by channel 0: dh/dF = p ([won] − Σ of what the channel won)
    h = gradient(group_diversity(features, 1).sum(), features).view(2, 2)
    expected = torch.tensor([[0.25 * (0 - 0.75), 0.75 * (1 - 0.75)], [0.5 * (1 - 0.5), 0.5 * (0 - 0.5)]])
    torch.testing.assert_close(h, expected.double())
    g = gradient(group_scores(features, 1).sum(), features).view(2, 2)
    assert g.tolist() == [[0, 0], [0.5, 0.5]]  # channel 1 wins both positions, 1 / HW each


def test_a_tie_goes_to_the_first_channel_for_both_terms():
    same = torch.rand(1, 1, 2, 2, dtype=torch.float64).repeat(1, 3, 1, 1).requires_grad_()
    g = gradient(group_scores(same, 1).sum(), same)
    assert g[0, 0].eq(0.25).all()
    assert not g[0, 1:].any()
    keep = torch.tensor([False, True, True])
    assert gradient(group_scores(same, 1, keep=keep).sum(), same)[0, :, 0, 0].tolist() == [0, 0.25, 0]
    # exactly one tie, at position 0: channel 0 wins it, as it does position 1
    partly = torch.tensor([[0.0, 3, -1000], [0, -1000, 3]], dtype=torch.float64).view(1, 2, 1, 3).requires_grad_()
    p, won = partly.detach().flatten(2)[0].softmax(1), torch.tensor([[1.0, 1, 0], [0, 0, 1]], dtype=torch.float64)
    slope = gradient(group_diversity(partly, 1).sum(), partly)
    torch.testing.assert_close(slope.flatten(2)[0], p * (won - (won * p).sum(1, keepdim=True)))
    # channel 0 wins everywhere, so it has Σ won = 1 and no gradient: identical maps are a saddle of h
    torch.testing.assert_close(gradient(group_diversity(same, 1).sum(), same), torch.zeros_like(same))


@pytest.mark.parametrize(("channels", "num_classes"), [(6, 2), (7, 3), (11, 4), (5, 5), (4, 1)])
def test_equals_the_loop_values_and_gradients_uneven_groups_included(channels, num_classes):
    features = torch.rand(3, channels, 2, 3, dtype=torch.float64).add_(0.1).requires_grad_()
    keep = channel_mask(channels, num_classes)
    g, h = loop(features, num_classes, keep)
    ours_g, ours_h = group_scores(features, num_classes, keep=keep), group_diversity(features, num_classes)
    torch.testing.assert_close(ours_g, g)
    torch.testing.assert_close(ours_h, h)
    weights = torch.rand_like(g)
    for ours, literal in ((ours_g, g), (ours_h, h)):
        torch.testing.assert_close(
            gradient((ours * weights).sum(), features), gradient((literal * weights).sum(), features)
        )
    labels = torch.arange(3) % num_classes
    terms = mutual_channel_loss(features, labels, num_classes, keep=keep)
    torch.testing.assert_close(terms.dis, F.cross_entropy(g, labels))
    torch.testing.assert_close(terms.div, h.mean())


@given(
    seed=st.integers(0, 999),
    num_classes=st.integers(1, 5),
    more=st.integers(0, 9),
    height=st.integers(1, 4),
    width=st.integers(1, 4),
    scale=st.floats(0.01, 30),
)
@settings(max_examples=60, deadline=None)
def test_h_lies_between_one_and_the_smaller_of_channels_and_positions(seed, num_classes, more, height, width, scale):
    torch.manual_seed(seed)
    features = torch.randn(2, num_classes + more, height, width, dtype=torch.float64) * scale
    h = group_diversity(features, num_classes)
    xi = torch.cat(
        [torch.full((n,), x, dtype=torch.float64) for n, x in channel_groups(num_classes + more, num_classes)]
    )
    assert (h >= 1 - 1e-9).all()
    assert (h <= xi.clamp(max=height * width) + 1e-9).all()


def test_h_is_one_for_identical_maps_and_xi_for_disjoint_ones():
    same = torch.randn(2, 2, 1, 3, 4).repeat(1, 1, 5, 1, 1).flatten(1, 2)
    torch.testing.assert_close(group_diversity(same, 2), torch.ones(2, 2))
    one_hot = 60 * torch.eye(5)[:, :5].view(1, 5, 1, 5)
    torch.testing.assert_close(group_diversity(one_hot, 1), torch.full((1, 1), 5.0))


def test_one_channel_a_class_has_no_diversity_gradient_and_no_mask():
    features = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    h = group_diversity(features, 3)
    torch.testing.assert_close(h, torch.ones_like(h))
    torch.testing.assert_close(gradient(h.sum(), features), torch.zeros_like(features))
    torch.testing.assert_close(group_scores(features, 3, keep=channel_mask(3, 3)), features.mean((2, 3)))


def test_masked_channels_get_no_gradient_from_dis_and_do_from_div():
    features = torch.rand(4, 9, 3, 3, requires_grad=True)
    keep = channel_mask(9, 3)
    terms = mutual_channel_loss(features, torch.tensor([0, 1, 2, 0]), 3, keep=keep)
    dis, div = gradient(terms.dis, features), gradient(terms.div, features)
    assert not dis[:, ~keep].any()
    assert dis[:, keep].abs().sum((0, 2, 3)).gt(0).all()
    assert div.abs().sum((0, 2, 3)).gt(0).all()


def test_signed_maps_leave_masked_channels_out_instead_of_letting_a_zero_win():
    features = torch.tensor([-3.0, -1.0]).view(1, 2, 1, 1)
    assert group_scores(features, 1, keep=torch.tensor([True, False])).item() == -3


@pytest.mark.parametrize("cross_channel", ["max", "avg"])
def test_gradcheck(cross_channel):
    features = torch.randn(2, 7, 2, 3, dtype=torch.float64, requires_grad=True)
    keep, labels = channel_mask(7, 3), torch.tensor([2, 0])
    assert torch.autograd.gradcheck(
        lambda x: tuple(mutual_channel_loss(x, labels, 3, keep=keep, cross_channel=cross_channel)), (features,)
    )


def test_permuting_classes_positions_or_channels_of_a_class_changes_nothing():
    features, labels = torch.rand(3, 6, 2, 4), torch.tensor([0, 1, 2])
    expected = mutual_channel_loss(features, labels, 3)
    order = torch.tensor([2, 0, 1])
    grouped = features.view(3, 3, 2, 2, 4)
    inverse = order.argsort()
    for moved, y in (
        (grouped[:, order].flatten(1, 2), inverse[labels]),
        (grouped.flip(2).flatten(1, 2), labels),
        (features.flip(3), labels),
    ):
        torch.testing.assert_close(mutual_channel_loss(moved, y, 3), expected)


@pytest.mark.parametrize("channels", [6, 8])
def test_memory_layout_does_not_matter(channels):
    features, labels = torch.rand(2, channels, 3, 5), torch.tensor([2, 0])
    keep = channel_mask(channels, 3)
    results = []
    for x in (features, features.contiguous(memory_format=torch.channels_last), features.mT.contiguous().mT):
        x = x.clone(memory_format=torch.preserve_format).requires_grad_()
        terms = mutual_channel_loss(x, labels, 3, keep=keep)
        results.append((terms, gradient(terms.dis - terms.div, x)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


# --------------------------------------------------------------------------------------------------------- the kernel


@given(
    num_classes=st.integers(1, 4),
    more=st.integers(0, 9),
    batch=st.integers(0, 4),
    masked=st.booleans(),
    cross_channel=st.sampled_from(["max", "avg"]),
    weighting=st.sampled_from(["paper", "share", "released"]),
)
def test_the_kernel_equals_the_plain_formulation(num_classes, more, batch, masked, cross_channel, weighting):
    torch.manual_seed(more)
    channels = num_classes + more
    features = torch.randn(batch, channels, 2, 3, dtype=torch.float64, requires_grad=True)
    labels, keep = torch.arange(batch) % num_classes, channel_mask(channels, num_classes) if masked else None
    same_terms_and_gradients(features, labels, num_classes, keep=keep, cross_channel=cross_channel, weighting=weighting)


def same_terms_and_gradients(features, labels, num_classes, **options):
    ours, plain = (loss(features, labels, num_classes, **options) for loss in (kernel, mutual_channel_loss))
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(ours, plain, strict=True):
        torch.testing.assert_close(gradient(mine, features), gradient(theirs, features))


@pytest.mark.parametrize("xi", [1, 255, 256, 257, 300, 513])
def test_the_kernel_counts_the_winners_of_large_groups(xi):
    """An index beyond 255 does not fit a byte: every channel wins a position here, the last ones too."""
    features = torch.rand(2, xi, 20, 30, dtype=torch.float64)
    order = torch.randperm(600)[:xi]
    features.flatten(2)[:, torch.arange(xi), order] += 5
    same_terms_and_gradients(features.requires_grad_(), torch.zeros(2, dtype=torch.long), 1)
    slope = gradient(kernel(features, torch.zeros(2, dtype=torch.long), 1).div, features)
    assert (slope.flatten(2)[:, torch.arange(xi), order] > 0).all() or xi == 1


def test_the_kernel_gives_ties_to_the_first_channel_too():
    same = torch.rand(2, 1, 2, 2, dtype=torch.float64).repeat(1, 6, 1, 1).requires_grad_()
    partly = torch.tensor([[0.0, 3, -1000], [0, -1000, 3]], dtype=torch.float64).view(1, 2, 1, 3).requires_grad_()
    same_terms_and_gradients(partly, torch.tensor([0]), 1)
    same_terms_and_gradients(same, torch.tensor([0, 1]), 2, keep=torch.tensor([False, True, True, True, False, True]))


def test_a_batch_that_goes_through_the_kernel_in_pieces(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    features = torch.rand(5, 7, 64, 130, dtype=torch.float64, requires_grad=True)  # two images a piece, the last alone
    same_terms_and_gradients(features, torch.tensor([0, 1, 2, 1, 0]), 3, keep=channel_mask(7, 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [mutual_channel_loss, kernel])
def test_half_maps_are_computed_in_float32(dtype, loss):
    features = (8 * torch.rand(4, 12, 3, 3)).to(dtype).requires_grad_()
    labels, keep = torch.tensor([0, 2, 1, 3]), channel_mask(12, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = loss(features, labels, 4, keep=keep)
    wide = features.detach().float().requires_grad_()
    expected = mutual_channel_loss(wide, labels, 4, keep=keep)
    torch.testing.assert_close(terms, expected)
    for ours, theirs in zip(terms, expected, strict=True):
        torch.testing.assert_close(gradient(ours, features), gradient(theirs, wide).to(dtype))


def test_large_activations_stay_finite():
    features = torch.full((2, 4, 2, 2), 1e4).requires_grad_()
    terms = mutual_channel_loss(features, torch.tensor([0, 1]), 2)
    assert gradient(terms.dis - terms.div, features).isfinite().all()


@pytest.mark.parametrize("loss", [mutual_channel_loss, kernel])
def test_compiles_into_one_graph_for_any_number_of_images_channels_and_classes(loss):
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler itself, about the machine
        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend="aot_eager")
        for batch, channels, classes in ((2, 6, 3), (3, 8, 3), (4, 13, 5)):
            features = torch.rand(batch, channels, 2, 3, requires_grad=True)
            labels, keep = torch.arange(batch) % classes, channel_mask(channels, classes)
            ours = compiled(features, labels, classes, keep=keep)
            plain = mutual_channel_loss(features, labels, classes, keep=keep)
            torch.testing.assert_close(ours, plain)
            (slope,) = torch.autograd.grad(ours.dis - 2 * ours.div, features)
            torch.testing.assert_close(slope, gradient(plain.dis - 2 * plain.div, features))


# ---------------------------------------------------------------------------------------------------- weights, module


@pytest.mark.parametrize(("channels", "num_classes"), [(12, 4), (14, 4)])
def test_released_form_has_the_gradient_of_the_paper_form(channels, num_classes):
    """CE + α L_dis + β Σ_runs (1 − mean h / ξ), written out, against μ (L_dis − λ L_div)."""
    alpha, beta = 1.5, 20.0
    features = torch.rand(3, channels, 2, 3, dtype=torch.float64, requires_grad=True)
    labels, keep = torch.tensor([0, 3, 1]), channel_mask(channels, num_classes)
    terms = mutual_channel_loss(features, labels, num_classes, keep=keep, weighting="released")
    h, released, start = group_diversity(features, num_classes), alpha * terms.dis, 0
    runs = channel_groups(channels, num_classes)
    for classes, xi in runs:
        released = released + beta * (1 - h[:, start : start + classes].mean() / xi)
        start += classes
    mu, lam = paper_weights(alpha=alpha, beta=beta, xi=1)  # "released" divides by ξ already
    ours = mu * (terms.dis - lam * terms.div)
    torch.testing.assert_close(released, ours + beta * len(runs))
    torch.testing.assert_close(gradient(released, features), gradient(ours, features))
    if len(runs) == 1:  # even groups: the paper's own form, λ = β / (α ξ)
        mu, lam = paper_weights(alpha=alpha, beta=beta, xi=3)
        paper = mutual_channel_loss(features, labels, num_classes, keep=keep)
        torch.testing.assert_close(gradient(mu * (paper.dis - lam * paper.div), features), gradient(released, features))


def test_released_weights_convert_to_those_of_the_paper():
    assert paper_weights(alpha=1.5, beta=20.0, xi=3) == pytest.approx((1.5, 4.4444444))
    with pytest.raises(ValueError, match="alpha must be positive"):
        paper_weights(alpha=0.0, beta=20.0, xi=3)


def test_class_weights_of_uneven_groups():
    paper, share, released = (diversity_weights(2048, 200, weighting=w) for w in ("paper", "share", "released"))
    torch.testing.assert_close(paper, torch.full((200,), 1 / 200).double())
    xi = torch.tensor([10.0] * 152 + [11.0] * 48, dtype=torch.float64)
    torch.testing.assert_close(share, 1 / (200 * xi))
    # with equal maps everywhere the released sum counts both runs once
    torch.testing.assert_close((released * xi)[:152].sum().item(), 1.0)
    torch.testing.assert_close((released * xi)[152:].sum().item(), 1.0)
    torch.testing.assert_close(diversity_weights(600, 200, weighting="released"), torch.full((200,), 1 / 600).double())


def test_module_is_the_function_with_weights_and_a_drawn_mask():
    features, labels = torch.rand(2, 9, 2, 2), torch.tensor([0, 2])
    module = MutualChannelLoss(3, mu=0.5, lam=4.0)
    terms = module(features, labels, generator=torch.Generator().manual_seed(3))
    keep = channel_mask(9, 3, generator=torch.Generator().manual_seed(3))
    raw = mutual_channel_loss(features, labels, 3, keep=keep)
    assert list(terms) == ["dis", "div"]
    torch.testing.assert_close(terms["dis"], 0.5 * raw.dis)
    torch.testing.assert_close(terms["div"], -0.5 * 4.0 * raw.div)
    assert not list(module.parameters())
    for part in ("dis", "div"):
        assert list(MutualChannelLoss(3, parts=part)(features, labels)) == [part]


def test_module_masks_anew_at_every_step_unless_switched_off():
    features, labels = torch.rand(2, 9, 2, 2), torch.tensor([0, 2])
    for drop, many in ((0.5, True), (0.0, False)):
        module = MutualChannelLoss(3, drop=drop)
        assert (len({module(features, labels)["dis"].item() for _ in range(8)}) > 1) is many


def test_bad_input_is_refused_with_what_came():
    features, labels = torch.rand(2, 6, 2, 2), torch.tensor([0, 2])
    for bad in (features[0], features.long(), features[:, :, :0], features.flatten(2)):
        for refuses in (mutual_channel_loss, kernel, lambda x, y, c: MutualChannelLoss(c)(x, y)):
            with pytest.raises(ValueError, match=r"features must be a float map \(B, N, H, W\) from before"):
                refuses(bad, labels, 3)
    with pytest.raises(ValueError, match=r"of shape \(2, 5, 192\): give the tokens of a transformer, \(B, HW, N\)"):
        MutualChannelLoss(10)(torch.rand(2, 5, 192), labels)
    with pytest.raises(ValueError, match="7 classes, 6 channels"):
        mutual_channel_loss(features, labels, 7)
    for bad in (labels[:1], labels.float(), labels.bool()):
        with pytest.raises(ValueError, match=r"labels must be integers of shape \(2,\), got"):
            mutual_channel_loss(features, bad, 3)
    for bad in (torch.ones(5, dtype=torch.bool), torch.ones(6)):
        with pytest.raises(ValueError, match=r"keep must be bool of shape \(6,\), got"):
            mutual_channel_loss(features, labels, 3, keep=bad)
    for loss in (mutual_channel_loss, kernel):  # classes of 1, 2, 2 channels
        with pytest.raises(ValueError, match="keep hides every channel of a class: keep at least one for each"):
            loss(features[:, :5], labels, 3, keep=torch.tensor([False, True, True, True, True]))
        with pytest.raises(ValueError, match="keep hides every channel of a class"):
            loss(features[:, :5], labels, 3, keep=torch.tensor([True, True, True, False, False]))
    with pytest.raises(ValueError, match="cross_channel must be 'max' or 'avg', got 'sum'"):
        mutual_channel_loss(features, labels, 3, cross_channel="sum")
    with pytest.raises(ValueError, match=r"weighting must be .* got 'mean'"):
        mutual_channel_loss(features, labels, 3, weighting="mean")
    with pytest.raises(ValueError, match=r"parts must be .* got 'none'"):
        MutualChannelLoss(3, parts="none")
    with pytest.raises(ValueError, match=r"must not be negative, got -1 and 10"):
        MutualChannelLoss(3, mu=-1)
