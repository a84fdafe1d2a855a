"""Attention pyramid: gates against loops over the formulae, the pathway by hand, and the switches."""

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fgvc_lib.layers.attention_pyramid import (
    AttentionPyramid,
    ChannelGate,
    PooledLateral,
    SpatialGate,
    bottom_up_pathway,
    feature_pyramid,
)


def maps(channels=8, sizes=((6, 5), (3, 3), (2, 1)), batch=2):
    return [torch.randn(batch, channels, *size) for size in sizes]


def test_spatial_gate_is_the_sigmoid_of_a_scatter():
    gate, (f, *_) = SpatialGate(8), maps()
    b, c, h, w = f.shape
    logits = torch.zeros(b, 1, h + 2, w + 2)  # a transposed convolution paints its kernel around every cell
    for i in range(h):
        for j in range(w):
            for k in range(c):
                logits[:, 0, i : i + 3, j : j + 3] += f[:, k, i, j, None, None] * gate.conv.weight[k, 0]
    expected = torch.sigmoid(logits[:, :, 1:-1, 1:-1] + gate.conv.bias)
    torch.testing.assert_close(gate(f), expected)


def test_spatial_gate_starts_unsaturated_at_any_width():
    for channels in (16, 256):
        logits = torch.logit(SpatialGate(channels)(torch.randn(4, channels, 8, 8)))
        assert 0.4 < logits.std() < 0.75  # 1 / sqrt(3), less the padding's share


def test_channel_gate_is_two_matrix_products():
    gate, (f, *_) = ChannelGate(8, reduction=4), maps()
    first, _, second, _ = gate.layers
    for image in range(2):
        pooled = torch.stack([f[image, k].sum() / 30 for k in range(8)])
        hidden = (first.weight[:, :, 0, 0] @ pooled + first.bias).clamp(min=0)
        assert hidden.shape == (2,)
        expected = torch.sigmoid(second.weight[:, :, 0, 0] @ hidden + second.bias)
        torch.testing.assert_close(gate(f)[image, :, 0, 0], expected)
    assert ChannelGate(8, reduction=100).layers[0].out_channels == 1


def test_pathway_by_hand():
    averaged = bottom_up_pathway([torch.tensor(8.0), torch.tensor(4.0), torch.tensor(0.0)])
    assert [float(a) for a in averaged] == [8.0, 6.0, 3.0]


def test_attended_feature_is_the_sum_of_both_products():
    attention, features = AttentionPyramid(8, 3, reduction=2), maps()
    out = attention(features)
    channel = [gate(f) for gate, f in zip(attention.channel_gates, features, strict=True)]
    channel = [channel[0], (channel[1] + channel[0]) / 2, channel[2] / 2 + channel[1] / 4 + channel[0] / 4]
    for k, f in enumerate(features):
        mask = attention.spatial_gates[k](f)
        torch.testing.assert_close(out.masks[k], mask)
        torch.testing.assert_close(out.gates[k], channel[k])
        torch.testing.assert_close(out.features[k], mask * f + channel[k] * f)
        assert out.features[k].shape == f.shape
        assert out.masks[k].shape == (2, 1, *f.shape[2:])


def test_switches_take_their_summand_away():
    features = maps()
    full = AttentionPyramid(8, 3)

    def switched(**switches):
        attention = AttentionPyramid(8, 3, **switches)
        attention.load_state_dict(full.state_dict(), strict=False)
        return attention(features)

    both = full(features)
    for k, f in enumerate(features):
        torch.testing.assert_close(switched(channel=False).features[k], both.masks[k] * f)
        torch.testing.assert_close(switched(spatial=False).features[k], both.gates[k] * f)
        torch.testing.assert_close(switched(pathway=False).gates[k], full.channel_gates[k](f))
        plain = switched(spatial=False, channel=False)
        assert torch.equal(plain.features[k], f)
        torch.testing.assert_close(plain.masks[k], torch.sigmoid(f.mean(1, keepdim=True)))
    assert switched(channel=False).gates == []


def test_gradients_in_float64():
    attention = AttentionPyramid(2, 2, reduction=1).double()
    features = [torch.randn(1, 2, 3, 2, dtype=torch.float64), torch.randn(1, 2, 2, 1, dtype=torch.float64)]
    for f in features:
        f.requires_grad_()
    assert gradcheck(lambda *f: tuple(attention(f).features), features)


def test_the_pyramid_starts_uniform_without_biases():
    block = feature_pyramid([64, 64], 64).layer_blocks[0][0]
    bound = (3 / (9 * 64)) ** 0.5  # Kaiming's with slope 1
    assert 0.99 * bound < block.weight.abs().max() <= bound
    assert not block.bias.any()


def test_the_pathway_lets_the_top_level_teach_the_finest_gate():
    attention, features = AttentionPyramid(8, 3), maps()
    attention(features).features[2].square().sum().backward()
    assert attention.channel_gates[0].layers[0].weight.grad.any()
    assert attention.spatial_gates[0].conv.weight.grad is None  # spatial masks stay on their level


def test_pooled_lateral_adds_one_vector_per_image():
    lateral = PooledLateral(4, 3)
    x = torch.randn(5, 4, 3, 2)
    added = lateral(x) - lateral.local(x)
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added))
    conv, norm, _ = lateral.pooled
    vector = F.batch_norm(x.mean((2, 3)) @ conv.weight[:, :, 0, 0].T, None, None, norm.weight, norm.bias, training=True)
    torch.testing.assert_close(added[:, :, 0, 0], vector.relu(), atol=1e-5, rtol=1e-5)
    assert norm.momentum == 0.01
    assert feature_pyramid([4], 3, momentum=0.1).inner_blocks[-1].local[1].momentum == 0.1


def test_feature_pyramid_top_down_by_hand():
    pyramid = feature_pyramid([3, 4], 5).eval()
    fine, top = torch.randn(2, 3, 4, 4), torch.randn(2, 4, 2, 2)
    out = pyramid(OrderedDict(a=fine, b=top))
    p_top = pyramid.inner_blocks[1](top)
    p_fine = pyramid.inner_blocks[0](fine) + p_top.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(out["b"], pyramid.layer_blocks[1](p_top))
    torch.testing.assert_close(out["a"], pyramid.layer_blocks[0](p_fine))


@settings(max_examples=15, deadline=None)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 5),
    sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=4),
)
def test_any_shape_keeps_its_shape(batch, channels, sizes):
    features = maps(channels, sizes, batch)
    out = AttentionPyramid(channels, len(sizes))(features)
    assert [f.shape for f in out.features] == [f.shape for f in features]
    assert all(((m >= 0) & (m <= 1)).all() for m in out.masks)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_keeps_masks_in_float32(dtype):
    attention, features = AttentionPyramid(8, 3), maps()
    with torch.autocast("cpu", dtype=dtype):
        out = attention(features)
    assert all(m.dtype == torch.float32 and m.isfinite().all() for m in out.masks)
    assert all(f.isfinite().all() for f in out.features)


def test_wrong_number_of_levels_is_refused():
    with pytest.raises(ValueError, match="built for 2 levels, got 3 maps"):
        AttentionPyramid(8, 2)(maps())
