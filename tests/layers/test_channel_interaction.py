"""SCI and CCI against the formulae, one entry at a time."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from fgvc_lib.layers.channel_interaction import (
    ContrastiveChannelInteraction,
    SelfChannelInteraction,
    channel_relation,
    self_channel_interaction,
    shifted_means,
    suppress,
)


def reference_relation(x, s):
    """W of one image, (c, l) → (c, c), entry by entry; s carries the sign."""
    c = len(x)
    w = torch.zeros(c, c, dtype=x.dtype)
    for i in range(c):
        scores = [float(s * (x[i] * x[k]).sum()) for k in range(c)]
        total = sum(math.exp(v) for v in scores)
        for j in range(c):
            w[i, j] = math.exp(scores[j]) / total
    return w


def test_by_hand():
    # channels (1, 0), (0, 1), (1, 1) on two locations: XXᵀ = [[1, 0, 1], [0, 1, 1], [1, 1, 2]]
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]).view(1, 3, 1, 2)
    w = channel_relation(x, scale="none")[0]
    e = math.exp(-1)
    torch.testing.assert_close(w[0], torch.tensor([e, 1.0, e]) / (1 + 2 * e))
    torch.testing.assert_close(w[2], torch.tensor([e, e, e * e]) / (2 * e + e * e))
    assert w[0].argmax() == 1  # the channel that it never fires with


@given(
    batch=st.integers(1, 3),
    c=st.integers(1, 6),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    scale=st.sampled_from(["positions", "none"]),
    positive=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_equals_the_formula_on_any_shape(batch, c, h, w, scale, positive):
    x = torch.randn(batch, c, h, w).double()
    s = (1 if positive else -1) * (1 / (h * w) if scale == "positions" else 1)
    relation = channel_relation(x, scale=scale, positive=positive)
    expected = torch.stack([reference_relation(image.flatten(1), s) for image in x])
    torch.testing.assert_close(relation, expected)
    torch.testing.assert_close(relation.sum(2), torch.ones(batch, c).double())
    y = self_channel_interaction(x, scale=scale, positive=positive)
    torch.testing.assert_close(y, (expected @ x.flatten(2)).view_as(x))


def test_gradients_of_both_ways_agree():
    x = torch.randn(2, 4, 2, 3).double().requires_grad_()
    torch.autograd.gradcheck(channel_relation, (x,))
    torch.autograd.gradcheck(self_channel_interaction, (x,))
    g = torch.randn(2, 4, 2, 3).double()
    literal = (channel_relation(x) @ x.flatten(2)).view_as(x)
    (expected,) = torch.autograd.grad(literal, x, g)
    (got,) = torch.autograd.grad(self_channel_interaction(x), x, g)
    torch.testing.assert_close(got, expected)


def test_channels_last_maps_give_the_same():
    x = torch.randn(2, 5, 3, 4)
    last = x.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(self_channel_interaction(last), self_channel_interaction(x))
    torch.testing.assert_close(channel_relation(last), channel_relation(x))


def test_permuting_locations_permutes_y_and_permuting_channels_permutes_w():
    x = torch.randn(1, 4, 2, 3).double()
    places, channels = torch.randperm(6), torch.randperm(4)
    moved = x.flatten(2)[:, :, places].view_as(x)
    torch.testing.assert_close(channel_relation(moved), channel_relation(x))
    torch.testing.assert_close(
        self_channel_interaction(moved).flatten(2), self_channel_interaction(x).flatten(2)[:, :, places]
    )
    torch.testing.assert_close(channel_relation(x[:, channels]), channel_relation(x)[:, channels][:, :, channels])


def test_unscaled_softmax_favors_dead_channels():
    # half-normal maps, 20 of 512 channels dead: 3.9 % of the channels
    x = torch.randn(1, 512, 7, 7).abs()
    x[:, :20] = 0
    alive = slice(20, None)
    unscaled = channel_relation(x, scale="none")[0, alive, :20].sum(1).mean()
    scaled = channel_relation(x)[0, alive, :20].sum(1).mean()
    assert unscaled > 0.7
    assert 0.039 < scaled < 0.08
    large = torch.randn(1, 512, 14, 14).abs()
    large[:, :20] = 0
    assert channel_relation(large, scale="none")[0, alive, :20].sum(1).mean() > 0.999
    y = self_channel_interaction(large, scale="none")[0, alive]
    assert y.abs().mean() < 1e-3 * large.mean()  # Y is empty


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", ["positions", "none"])
def test_large_maps_stay_finite_inside_autocast(dtype, scale):
    x = (200 * torch.randn(2, 6, 5, 5)).to(dtype)
    sci = SelfChannelInteraction(6, scale=scale)
    with torch.autocast("cpu", dtype=dtype):
        assert channel_relation(x, scale=scale).dtype == torch.float32
        z = sci(x.requires_grad_())
        z.float().sum().backward()
    assert z.isfinite().all()
    assert x.grad.isfinite().all()
    torch.testing.assert_close(
        channel_relation(x, scale=scale).double(), channel_relation(x.detach().double(), scale=scale), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("normalize", [True, False])
def test_block_is_phi_of_y_plus_x(normalize):
    sci = SelfChannelInteraction(4, scale="none", normalize=normalize).double()
    x = torch.randn(2, 4, 3, 3).double()
    y = torch.stack([reference_relation(i.flatten(1), -1.0) @ i.flatten(1) for i in x]).view_as(x)
    phi = F.conv2d(y, sci.phi.weight, sci.phi.bias, padding=1)
    torch.testing.assert_close(sci(x), (phi / 2 if normalize else phi) + x)  # √4 = 2
    torch.testing.assert_close(sci.relation(x), channel_relation(x, scale="none"))


def test_phi_trains_at_the_same_rate_at_every_width():
    """Where W is uniform, φ sees c copies of one map; without the factor a step changes its output c times as much."""

    def change(c, normalize):
        sci = SelfChannelInteraction(c, normalize=normalize).double()
        before = sci(x := m.expand(-1, c, -1, -1))[:, 0]  # channels alike: W = 1/c
        (slope,) = torch.autograd.grad((before * g).sum(), sci.phi.weight)
        with torch.no_grad():
            sci.phi.weight -= 0.1 * slope
        return sci(x)[:, 0] - before

    m, g = torch.rand(2, 1, 4, 4).double(), torch.randn(2, 4, 4).double()
    one = change(1, normalize=True)
    for c in (4, 64):
        torch.testing.assert_close(change(c, normalize=True), one)
        torch.testing.assert_close(change(c, normalize=False), c * one)


def cci_reference(cci, sci, xa, xb):
    """Both sides of one pair, (c, h, w) each, in the order of the formulae."""
    s = -1 / xa[0].numel() if sci.scale == "positions" else -1.0
    c = len(xa)
    wa, wb = reference_relation(xa.flatten(1), s), reference_relation(xb.flatten(1), s)
    ya, yb = (w @ x.flatten(1) for w, x in ((wa, xa), (wb, xb)))
    if cci.map_size is None:
        ya, yb = ya.mean(1), yb.mean(1)
    eta = cci.psi(torch.cat([ya.flatten(), yb.flatten()]))
    gamma = cci.psi(torch.cat([yb.flatten(), ya.flatten()]))
    sides = []
    for own, other, factor, x in ((wa, wb, eta, xa), (wb, wa, gamma, xb)):
        w = torch.zeros(c, c, dtype=x.dtype)
        for i in range(c):
            for j in range(c):
                w[i, j] = abs(own[i, j] - factor * other[i, j])
        y = (w @ x.flatten(1)).view_as(x)
        sides.append(sci.phi(y[None])[0] * sci.factor + x)
    return sides


@pytest.mark.parametrize("map_size", [None, (2, 3)])
@pytest.mark.parametrize("scale", ["positions", "none"])
def test_cci_equals_the_formula(map_size, scale):
    sci = SelfChannelInteraction(4, scale=scale).double()
    cci = ContrastiveChannelInteraction(4, map_size=map_size).double()
    torch.nn.init.constant_(cci.psi.bias, 0.8)
    x = torch.randn(5, 4, 2, 3).double()
    a, b = torch.tensor([0, 3]), torch.tensor([4, 1])
    left, right = cci(sci, x, a, b)
    for n in range(2):
        expected = cci_reference(cci, sci, x[a[n]], x[b[n]])
        torch.testing.assert_close(left[n], expected[0])
        torch.testing.assert_close(right[n], expected[1])


def test_swapping_a_and_b_swaps_the_outputs():
    sci, cci = SelfChannelInteraction(4).double(), ContrastiveChannelInteraction(4).double()
    x = torch.randn(4, 4, 3, 3).double()
    a, b = torch.tensor([0, 1]), torch.tensor([2, 3])
    left, right = cci(sci, x, a, b)
    swapped_left, swapped_right = cci(sci, x, b, a)
    torch.testing.assert_close(swapped_left, right)
    torch.testing.assert_close(swapped_right, left)
    assert not torch.allclose(left, right)


def test_cci_without_suppression_is_sci():
    sci, cci = SelfChannelInteraction(4).double(), ContrastiveChannelInteraction(4).double()
    torch.nn.init.zeros_(cci.psi.weight)
    torch.nn.init.zeros_(cci.psi.bias)
    x = torch.randn(2, 4, 3, 3).double()
    left, right = cci(sci, x, torch.tensor([0]), torch.tensor([1]))
    torch.testing.assert_close(torch.cat([left, right]), sci(x))
    # an image against itself with η = 1 has nothing of its own left: only φ's bias is added
    torch.nn.init.ones_(cci.psi.bias)
    same, _ = cci(sci, x, torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(same, x[:1] + sci.phi.bias[None, :, None, None] / 2)


def test_cci_gradients():
    sci, cci = SelfChannelInteraction(3).double(), ContrastiveChannelInteraction(3).double()
    x = torch.randn(2, 3, 2, 2).double().requires_grad_()
    pair = torch.tensor([0]), torch.tensor([1])
    torch.autograd.gradcheck(lambda t: cci(sci, t, *pair), (x,))
    torch.stack(cci(sci, x, *pair)).square().sum().backward()
    for p in [x, *sci.parameters(), *cci.parameters()]:
        assert p.grad.any()


@pytest.mark.parametrize("map_size", [None, "that of the maps"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (2, 3), (5, 3)])
def test_features_are_those_of_the_maps(shape, memory_format, map_size):
    sci = SelfChannelInteraction(4).double().to(memory_format=memory_format)
    cci = ContrastiveChannelInteraction(4, map_size=map_size and shape).double()
    x = torch.randn(5, 4, *shape).double().contiguous(memory_format=memory_format)
    pairs = torch.tensor([0, 3]), torch.tensor([4, 1])
    for features, z in zip(cci.features(sci, x, *pairs), cci(sci, x, *pairs), strict=True):
        torch.testing.assert_close(features, z.flatten(1) if map_size else z.mean((2, 3)))


def test_features_have_the_gradients_of_the_maps():
    sci, cci = SelfChannelInteraction(3).double(), ContrastiveChannelInteraction(3).double()
    x = torch.randn(3, 3, 2, 3).double().requires_grad_()
    pairs = torch.tensor([0, 1]), torch.tensor([1, 2])
    torch.autograd.gradcheck(lambda t: cci.features(sci, t, *pairs), (x,))
    torch.autograd.gradgradcheck(lambda t: cci.features(sci, t, *pairs), (x,))
    inputs = [x, *sci.parameters(), *cci.parameters()]
    short = torch.autograd.grad(torch.stack(cci.features(sci, x, *pairs)).square().sum(), inputs)
    long = torch.autograd.grad(torch.stack(cci(sci, x, *pairs)).mean((3, 4)).square().sum(), inputs)
    for one, other in zip(short, long, strict=True):
        torch.testing.assert_close(one, other)


def test_shifted_means_by_hand():
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    # moved so that the cell to the lower right, right, … is averaged: sums over what stays in the map, over 4 cells
    expected = torch.tensor([[1.0, 3.0, 2.0], [4.0, 10.0, 6.0], [3.0, 7.0, 4.0]]) / 4
    torch.testing.assert_close(shifted_means(x)[0, 0], expected)


def test_suppress_has_the_gradient_of_its_formula():
    w, factors = torch.rand(4, 3, 3).double().requires_grad_(), torch.rand(4, 1, 1).double().requires_grad_()
    torch.autograd.gradcheck(suppress, (w, factors))
    torch.autograd.gradgradcheck(suppress, (w, factors))
    literal = torch.cat([(w[:2] - factors[:2] * w[2:]).abs(), (w[2:] - factors[2:] * w[:2]).abs()])
    torch.testing.assert_close(suppress(w, factors), literal)
    equal = torch.ones(2, 3, 3, requires_grad=True)  # |·| at zero: no slope, and nothing infinite
    suppress(equal, torch.ones(2, 1, 1)).sum().backward()
    assert torch.equal(equal.grad, torch.zeros(2, 3, 3))


def test_cci_under_checkpointing_and_function_transforms():
    sci, cci = SelfChannelInteraction(3).double(), ContrastiveChannelInteraction(3).double()
    x = torch.randn(3, 3, 2, 3).double().requires_grad_()
    pairs = torch.tensor([0, 1]), torch.tensor([1, 2])

    def loss(t):
        return torch.stack(cci.features(sci, t, *pairs)).square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    (again,) = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)
    torch.testing.assert_close(again, expected)
    torch.testing.assert_close(torch.func.grad(loss)(x), expected)
    batches = torch.stack([x, 2 * x])
    torch.testing.assert_close(torch.func.vmap(loss)(batches), torch.stack([loss(batches[0]), loss(batches[1])]))


def test_no_pairs_still_give_every_parameter_a_gradient():
    sci, cci = SelfChannelInteraction(3), ContrastiveChannelInteraction(3)
    none = torch.empty(0, dtype=torch.int64)
    x = torch.randn(1, 3, 2, 2)
    for (left, right), shape in ((cci(sci, x, none, none), (0, 3, 2, 2)), (cci.features(sci, x, none, none), (0, 3))):
        assert left.shape == right.shape == shape
        parameters = [*sci.parameters(), *cci.parameters()]
        for gradient in torch.autograd.grad(left.sum() + right.sum(), parameters):
            assert not gradient.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cci_inside_autocast(dtype):
    sci, cci = SelfChannelInteraction(6), ContrastiveChannelInteraction(6)
    x = torch.randn(4, 6, 4, 4)
    pair = torch.tensor([0, 1]), torch.tensor([2, 3])
    with torch.autocast("cpu", dtype=dtype):
        half = torch.stack(cci(sci, x.to(dtype), *pair))
        features = torch.stack(cci.features(sci, x.to(dtype), *pair))
    torch.testing.assert_close(half.float(), torch.stack(cci(sci, x, *pair)), atol=0.05, rtol=0.05)
    torch.testing.assert_close(features.float(), half.float().mean((3, 4)), atol=0.02, rtol=0.02)
    half.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in [*sci.parameters(), *cci.parameters()])


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"must be \(B, c, h, w\), got \(2, 3\)"):
        channel_relation(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="scale must be 'positions' or 'none', got 'channels'"):
        SelfChannelInteraction(3, scale="channels")(torch.zeros(1, 3, 2, 2))
    cci = ContrastiveChannelInteraction(3, map_size=(2, 2))
    one = torch.tensor([0])
    with pytest.raises(ValueError, match="set up for maps of 2×2, got 3×2: set map_size"):
        cci(SelfChannelInteraction(3), torch.zeros(1, 3, 3, 2), one, one)
