"""Zoom-in: the union box by hand, the identity, and the resize against a loop."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fgvc_lib.layers.roi_zoom import roi_zoom, union_box

NAN = float("nan")


def whole(batch, image_size):
    return torch.tensor([[0.0, 0.0, image_size[1], image_size[0]]]).expand(batch, 4)


def test_union_box_by_hand():
    boxes = torch.tensor(
        [
            [[10.0, 20.0, 30.0, 40.0], [5.0, 25.0, 20.0, 50.0], [NAN] * 4],
            [[NAN] * 4] * 3,
        ]
    )
    expected = torch.tensor([[5.0, 20.0, 30.0, 50.0], [0.0, 0.0, 64.0, 48.0]])  # no box: the whole image
    assert torch.equal(union_box(boxes, (48, 64)), expected)


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
)
def test_zoom_of_the_whole_image_is_the_identity(batch, h, w, height, width):
    features = torch.randn(batch, 2, h, w)
    zoomed = roi_zoom(features, whole(batch, (height, width)), (height, width))
    torch.testing.assert_close(zoomed, features, atol=1e-5, rtol=1e-5)


def test_zoom_equals_bilinear_reading_cell_by_cell():
    features, box, (height, width) = torch.randn(1, 2, 6, 5), (8.0, 4.0, 30.0, 40.0), (48, 40)
    x1, y1, x2, y2 = (v / 8 for v in box)  # cells of 8 pixels
    expected = torch.zeros(1, 2, 6, 5)

    def read(y, x):
        y, x = min(max(y, 0), 5), min(max(x, 0), 4)
        i, j = math.floor(y), math.floor(x)
        i2, j2 = min(i + 1, 5), min(j + 1, 4)
        top = (1 - x + j) * features[0, :, i, j] + (x - j) * features[0, :, i, j2]
        low = (1 - x + j) * features[0, :, i2, j] + (x - j) * features[0, :, i2, j2]
        return (1 - y + i) * top + (y - i) * low

    for i in range(6):
        for j in range(5):
            expected[0, :, i, j] = read(y1 + (i + 0.5) * (y2 - y1) / 6 - 0.5, x1 + (j + 0.5) * (x2 - x1) / 5 - 0.5)
    torch.testing.assert_close(roi_zoom(features, torch.tensor([box]), (height, width)), expected)


@given(low=st.floats(0, 40), side=st.floats(0.1, 24))
def test_a_constant_stays_constant_up_to_the_edge(low, side):
    """Also where bilinear reading reaches beyond the map: a box thinner than a position, or at the image's edge."""
    for box in ([0.0, 0.0, side, side], [low, 64 - side, low + side, 64.0], [64 - side, low, 64.0, low + side]):
        zoomed = roi_zoom(torch.ones(1, 1, 8, 8), torch.tensor([box]), (64, 64))
        torch.testing.assert_close(zoomed, torch.ones(1, 1, 8, 8), atol=1e-5, rtol=0)


def test_each_image_has_its_own_box_and_halves_are_doubled():
    features = torch.arange(8.0).expand(2, 1, 8, 8)  # column numbers
    boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0], [16.0, 0.0, 48.0, 64.0]])
    zoomed = roi_zoom(features, boxes, (64, 64))
    torch.testing.assert_close(zoomed[0], features[0])
    torch.testing.assert_close(zoomed[1, 0, 0], 1.75 + torch.arange(8) / 2)


def test_gradients_in_float64_reach_the_features_only():
    features = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    boxes = torch.tensor([[1.0, 2.0, 9.0, 8.0], [0.0, 0.0, 12.0, 9.0]], requires_grad=True)
    assert gradcheck(lambda f: roi_zoom(f, boxes, (9, 12)), features)
    roi_zoom(features, boxes, (9, 12)).sum().backward()
    assert boxes.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_type(dtype):
    features = torch.randn(2, 3, 4, 4).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        zoomed = roi_zoom(features, whole(2, (32, 32)), (32, 32))
    assert zoomed.dtype == dtype
    torch.testing.assert_close(zoomed, features)


def test_other_than_one_box_per_image_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 4\), got boxes of shape \(3, 4\)"):
        roi_zoom(torch.zeros(2, 1, 4, 4), torch.zeros(3, 4), (8, 8))
