"""What holds for every layer, on maps of any size: one table of layers, a property a test."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fgvc_lib.layers.attention_net import MultiDilationConv
from fgvc_lib.layers.attention_pyramid import AttentionPyramid, ChannelGate, PooledLateral, SpatialGate, feature_pyramid
from fgvc_lib.layers.attention_sampler import attention_sample
from fgvc_lib.layers.bilinear import BilinearPool
from fgvc_lib.layers.channel_interaction import ContrastiveChannelInteraction, SelfChannelInteraction
from fgvc_lib.layers.head import bn_elu_head, make_head
from fgvc_lib.layers.non_local import NonLocalBlock
from fgvc_lib.layers.roi_drop import roi_drop
from fgvc_lib.layers.roi_pyramid import ROIPyramid
from fgvc_lib.layers.roi_zoom import roi_zoom, union_box
from fgvc_lib.layers.trilinear import TrilinearAttention

Draw = Callable[..., Any]


class Case(NamedTuple):
    """A layer at a size: its inputs, batch first, the layer of them, and the shape of the result."""

    inputs: tuple[Tensor, ...]
    layer: Callable[..., Tensor]
    shape: tuple[int, ...]


def maps(batch: int, channels: int, h: int, w: int) -> Tensor:
    return torch.rand(batch, channels, h, w, dtype=torch.float64)


def boxes(batch: int, count: int) -> Tensor:
    """``count`` boxes an image inside 60 × 80 pixels, some of them absent."""
    corners = torch.rand(batch, count, 4, dtype=torch.float64) * torch.tensor([40.0, 30.0, 40.0, 30.0])
    found = torch.cat([corners[..., :2], corners[..., :2] + corners[..., 2:] + 1], dim=-1)
    return found.masked_fill(torch.rand(batch, count, 1) < 0.2, torch.nan)


def bilinear(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    n = draw(st.integers(1, 4))
    layer = BilinearPool(root=draw(st.booleans()), normalize=draw(st.booleans()))
    return Case((maps(b, c, h, w), maps(b, n, h, w)), layer, (b, c * n))


def bilinear_of_one_stream(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w) - 0.5,), BilinearPool(), (b, c * c))


def self_channel_interaction(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    layer = SelfChannelInteraction(
        c,
        scale=draw(st.sampled_from(["positions", "none"])),
        positive=draw(st.booleans()),
        normalize=draw(st.booleans()),
    )
    return Case((maps(b, c, h, w),), layer, (b, c, h, w))


def contrastive_channel_interaction(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    sci = SelfChannelInteraction(c).double()
    cci = ContrastiveChannelInteraction(c, map_size=draw(st.sampled_from([None, (h, w)]))).double()

    def layer(left: Tensor, right: Tensor) -> Tensor:
        pairs = torch.arange(left.shape[0])
        return torch.cat(cci(sci, torch.cat([left, right]), pairs, pairs + left.shape[0]), dim=1)

    return Case((maps(b, c, h, w), maps(b, c, h, w)), layer, (b, 2 * c, h, w))


def non_local(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    layer = NonLocalBlock(c, reduction=draw(st.integers(1, 3)))
    nn.init.ones_(layer.out[1].weight)  # it starts as the identity
    return Case((maps(b, c, h, w),), layer, (b, c, h, w))


def trilinear(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    layer = TrilinearAttention(relation_norm=draw(st.booleans()), scale=draw(st.floats(0.5, 8)))
    return Case((maps(b, c, h, w),), layer, (b, c, h, w))


def attention_sampler(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    limit = draw(st.none() | st.floats(1, 4))
    layer = partial(attention_sample, size=size, limit=limit, equal_zoom=draw(st.booleans()))
    return Case((maps(b, c, 7, 5), maps(b, 1, h, w)[:, 0]), layer, (b, c, *size))


def multi_dilation(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    dilations = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3))
    layer = MultiDilationConv(c, 3, dilations=dilations)
    return Case((maps(b, c, h, w),), layer, (b, 3, h, w))


def spatial_gate(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w),), SpatialGate(c), (b, 1, h, w))


def channel_gate(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w),), ChannelGate(c, reduction=draw(st.integers(1, 16))), (b, c, 1, 1))


def pooled_lateral(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w),), PooledLateral(c, 3), (b, 3, h, w))


def pyramid(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    """Feature pyramid and attention pyramid over two stages, the finer one with two to three times the cells."""
    layer = nn.ModuleList(
        [feature_pyramid([c, c + 1], 3), AttentionPyramid(3, 2, spatial=draw(st.booleans()))]
    ).double()

    def forward(fine: Tensor, coarse: Tensor) -> Tensor:
        features, attend = layer.eval()
        return attend([*features({"fine": fine, "coarse": coarse}).values()]).features[0]  # type: ignore[no-any-return]

    fine = maps(b, c, 2 * h + 1, 3 * w)
    return Case((fine, maps(b, c + 1, h, w)), forward, (b, 3, *fine.shape[2:]))


def zoom(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    found = union_box(boxes(b, draw(st.integers(1, 3))), (60, 80))

    def forward(x: Tensor) -> Tensor:
        return roi_zoom(x, found[: x.shape[0]], (60, 80))

    return Case((maps(b, c, h, w),), forward, (b, c, h, w))


def drop(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    dropped, within = boxes(b, 1)[:, 0], union_box(boxes(b, 2), (60, 80))

    def forward(x: Tensor) -> Tensor:
        return roi_drop(x, dropped[: x.shape[0]], within[: x.shape[0]], (60, 80))

    return Case((maps(b, c, h, w),), forward, (b, c, h, w))


def plain_head(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w).mean((2, 3)),), make_head("linear", c, h, hidden=1), (b, h))


def released_head(b: int, c: int, h: int, w: int, draw: Draw) -> Case:
    return Case((maps(b, c, h, w).mean((2, 3)),), bn_elu_head(c, h, hidden=w), (b, h))


@st.composite
def cases(draw: Draw, make: Callable[..., Case]) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**20)))
    case = make(*(draw(st.integers(1, most)) for most in (3, 5, 5, 5)), draw)
    if isinstance(case.layer, nn.Module):  # BatchNorm counts the batch in training
        case.layer.double().eval()
    return case


LAYERS = [
    bilinear,
    bilinear_of_one_stream,
    self_channel_interaction,
    contrastive_channel_interaction,
    non_local,
    trilinear,
    attention_sampler,
    multi_dilation,
    spatial_gate,
    channel_gate,
    pooled_lateral,
    pyramid,
    zoom,
    drop,
    plain_head,
    released_head,
]
BOUND_TO_THE_BATCH = (zoom, drop)  # their boxes are of the whole batch: the first images are compared
every_layer = pytest.mark.parametrize("make", LAYERS, ids=lambda make: make.__name__)


@every_layer
@given(data=st.data())
@settings(max_examples=10)
def test_shape_and_gradient(make: Callable[..., Case], data: st.DataObject) -> None:
    """The documented shape in the input's type; every input a finite gradient; nothing changed in place."""
    case = data.draw(cases(make))
    inputs = [x.requires_grad_() for x in case.inputs]
    before = [x.detach().clone() for x in inputs]
    result = case.layer(*inputs)
    assert (tuple(result.shape), result.dtype) == (case.shape, torch.float64)
    assert result.isfinite().all()
    for x, slope in zip(inputs, torch.autograd.grad(result.square().sum(), inputs), strict=True):
        assert slope.shape == x.shape
        assert slope.isfinite().all()
    assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))


@every_layer
@given(data=st.data())
@settings(max_examples=10)
def test_a_batch_is_its_images_one_at_a_time(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    whole = case.layer(*case.inputs)
    images = [0] if make in BOUND_TO_THE_BATCH else range(len(whole))
    for i in images:
        torch.testing.assert_close(case.layer(*(x[i : i + 1] for x in case.inputs)), whole[i : i + 1])


@every_layer
@given(data=st.data())
@settings(max_examples=5)
def test_an_empty_batch_gives_an_empty_result(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    assert case.layer(*(x[:0] for x in case.inputs)).shape == (0, *case.shape[1:])


@every_layer
@given(data=st.data())
@settings(max_examples=3)
def test_a_second_derivative_is_right_or_refused(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    inputs = [x.requires_grad_() for x in case.inputs]
    slopes = torch.autograd.grad(case.layer(*inputs).pow(3).sum(), inputs, create_graph=True, allow_unused=True)
    try:
        torch.autograd.grad(sum(slope.sum() for slope in slopes if slope is not None), inputs, allow_unused=True)
    except RuntimeError:  # one of torch's own operators has none
        return
    torch.autograd.gradgradcheck(case.layer, inputs, fast_mode=True)  # by random projections: any size in seconds


@every_layer
@given(data=st.data())
@settings(max_examples=5)
def test_the_layout_in_memory_is_no_matter(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    turned = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in case.inputs]  # channels-last and the like
    torch.testing.assert_close(case.layer(*turned), case.layer(*case.inputs))


@every_layer
@given(data=st.data(), dtype=st.sampled_from([torch.bfloat16, torch.float16]))
@settings(max_examples=5)
def test_half_precision_is_finite_and_near(make: Callable[..., Case], data: st.DataObject, dtype: torch.dtype) -> None:
    case = data.draw(cases(make))
    exact = case.layer(*case.inputs)
    if make in (contrastive_channel_interaction, pyramid):
        return  # held in float64 by their own wrapper; their halves are tested beside the layers
    if isinstance(case.layer, nn.Module):
        case.layer.float()
    with torch.autocast("cpu", dtype=dtype):
        rough = case.layer(*(x.float() for x in case.inputs))
    assert rough.isfinite().all()
    torch.testing.assert_close(rough.double(), exact, rtol=0.1, atol=0.1)


@every_layer
@given(data=st.data())
@settings(max_examples=5)
def test_activation_checkpointing_changes_no_gradient(make: Callable[..., Case], data: st.DataObject) -> None:
    """It runs the layer again in the backward pass and lets saved tensors be read once."""
    case = data.draw(cases(make))
    inputs = [x.requires_grad_() for x in case.inputs]
    plain = torch.autograd.grad(case.layer(*inputs).square().sum(), inputs)
    result: Tensor = checkpoint(case.layer, *inputs, use_reentrant=False)
    for x, y in zip(torch.autograd.grad(result.square().sum(), inputs), plain, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    "make",
    [make for make in LAYERS if make is not contrastive_channel_interaction],  # its own gradient is for autograd alone
    ids=lambda make: make.__name__,
)
@given(data=st.data())
@settings(max_examples=3)
def test_functional_gradients_are_those_of_autograd(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    found = torch.func.grad(lambda *x: case.layer(*x).square().sum(), tuple(range(len(case.inputs))))(*case.inputs)
    inputs = [x.requires_grad_() for x in case.inputs]
    for x, y in zip(found, torch.autograd.grad(case.layer(*inputs).square().sum(), inputs), strict=True):
        torch.testing.assert_close(x, y)


@every_layer
@given(data=st.data())
@settings(max_examples=1, phases=[Phase.generate])
def test_compiles_once_for_every_batch_size(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    twice = tuple(torch.cat([x, x, x]) for x in case.inputs)
    if make in BOUND_TO_THE_BATCH:
        twice = case.inputs
    compiled = torch.compile(case.layer, dynamic=True, fullgraph=True, backend="aot_eager")
    for inputs in (case.inputs, twice):
        torch.testing.assert_close(compiled(*inputs), case.layer(*inputs))


@given(
    batch=st.integers(1, 3),
    sizes=st.lists(st.tuples(st.integers(1, 7), st.integers(1, 7)), min_size=1, max_size=3),
    border=st.sampled_from([0.0, 0.1, 0.3]),
    seed=st.integers(0, 2**20),
)
def test_the_boxes_of_a_pyramid_are_those_of_each_level_and_image_alone(batch, sizes, border, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = [torch.rand(batch, 1, h, w, generator=generator) for h, w in sizes]
    sizes_, counts = [0.3] * len(sizes), [*range(1, len(sizes) + 1)]
    found = ROIPyramid(sizes=sizes_, top_k=counts, border=border)(masks, (60, 80))
    for mask, count, level in zip(masks, counts, found, strict=True):
        assert level.shape == (batch, count, 4)
        for i in range(batch):
            (alone,) = ROIPyramid(sizes=[0.3], top_k=[count], border=border)([mask[i : i + 1]], (60, 80))
            torch.testing.assert_close(level[i], alone[0], equal_nan=True)
        inside = level[~level.isnan()].view(-1, 4)
        assert (inside[:, :2] >= 0).all()
        assert (inside[:, 2:] <= torch.tensor([80, 60])).all()
        assert (inside[:, 2:] > inside[:, :2]).all()
