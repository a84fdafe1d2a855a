"""What holds for every loss, at any size, for any type of number: one table of losses, a property a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fgvc_lib.losses.center import CenterLoss, center_loss
from fgvc_lib.losses.contrastive import ContrastiveLoss, contrastive_loss
from fgvc_lib.losses.distillation import DistillationLoss, distillation_loss
from fgvc_lib.losses.mutual_channel import MutualChannelLoss, channel_mask, mutual_channel_loss
from fgvc_lib.losses.pairwise_confusion import PairwiseConfusion, pairwise_confusion


class Case(NamedTuple):
    """A loss at a size: float64 inputs that want a gradient, the function of them, and its module twin."""

    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    module: Callable[..., Tensor]


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def center(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    reduction = draw(st.sampled_from(["mean", "sum"]))
    labels, module = torch.randint(classes, (size,)), CenterLoss(classes, width, reduction=reduction)
    return Case(
        (floats(size, width),),
        lambda x: center_loss(x, labels, module.centers, reduction=reduction),
        lambda x: module(x, labels),
    )


def contrastive(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    same, margin = torch.rand(size) < 0.5, draw(st.floats(0.01, 10))
    return Case(
        (floats(size, width), floats(size, width)),
        lambda a, b: contrastive_loss(a, b, same, margin=margin),
        lambda a, b: ContrastiveLoss(margin=margin)(a, b, same),
    )


def distillation(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    options = {"temperature": draw(st.floats(0.5, 50)), "square_temperature": draw(st.booleans())}
    return Case(
        (floats(size, classes), floats(size, classes)),
        lambda student, teacher: distillation_loss(student, teacher, detach_teacher=False, **options),
        lambda student, teacher: DistillationLoss(detach_teacher=False, **options)(student, teacher),
    )


def confusion(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    labels = torch.randint(classes, (size,))
    return Case(
        (floats(size, classes),), lambda x: pairwise_confusion(x, labels), lambda x: PairwiseConfusion()(x, labels)
    )


def mutual_channel(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    channels = classes + draw(st.integers(0, 2 * classes + 1))  # equal groups or of two sizes
    labels, drop = torch.randint(classes, (size,)), draw(st.sampled_from([0.0, 0.4, 0.5]))
    cross = draw(st.sampled_from(["max", "avg"]))
    weighting = draw(st.sampled_from(["paper", "share", "released"]))
    module = MutualChannelLoss(classes, mu=2, lam=3, drop=drop, cross_channel=cross, weighting=weighting)

    def function(x: Tensor) -> Tensor:
        keep = channel_mask(channels, classes, drop=drop, generator=torch.Generator().manual_seed(1))
        terms = mutual_channel_loss(x, labels, classes, keep=keep, cross_channel=cross, weighting=weighting)
        return 2 * terms.dis - 6 * terms.div

    return Case(
        (floats(size, channels, width, draw(st.integers(1, 4))),),
        function,
        lambda x: torch.stack([*module(x, labels, torch.Generator().manual_seed(1)).values()]).sum(),
    )


@st.composite
def cases(draw: Callable[..., int], make: Callable[..., Case]) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return make(draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw)


LOSSES = [center, contrastive, distillation, confusion, mutual_channel]
every_loss = pytest.mark.parametrize("make", LOSSES, ids=lambda make: make.__name__)
ROUNDED = [torch.float32, torch.float16, torch.bfloat16]


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_the_type_of_the_input_changes_the_value_by_rounding_only(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    """float64 stays float64; all else is computed in float32, so halves lose nothing but their own digits."""
    case = data.draw(cases(make))
    assert case.function(*case.inputs).dtype == torch.float64
    for dtype in ROUNDED:
        rounded = [x.to(dtype) for x in case.inputs]
        value = case.function(*rounded)
        assert value.dtype == torch.float32
        assert value.shape == ()
        exact = case.function(*(x.double() for x in rounded))
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_every_input_gets_a_finite_gradient_of_its_own_shape_and_type(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    case = data.draw(cases(make))
    for dtype in [torch.float64, *ROUNDED]:
        inputs = [x.to(dtype).requires_grad_() for x in case.inputs]
        before = [x.detach().clone() for x in inputs]
        for x, slope in zip(inputs, torch.autograd.grad(case.function(*inputs), inputs), strict=True):
            assert (slope.shape, slope.dtype) == (x.shape, dtype)
            assert slope.isfinite().all()
        assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))  # nothing is changed in place


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_the_module_is_the_function_and_the_layout_in_memory_is_no_matter(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    case = data.draw(cases(make))
    expected = case.function(*case.inputs)
    torch.testing.assert_close(case.module(*case.inputs), expected)
    turned = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in case.inputs]
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in case.inputs]
    for inputs in (turned, strided):
        torch.testing.assert_close(case.function(*inputs), expected)


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_the_gradient_is_that_of_finite_differences(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    assert torch.autograd.gradcheck(case.function, [x.requires_grad_() for x in case.inputs])
