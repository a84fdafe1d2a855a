"""ROI pyramid: boxes against a slow reference and torchvision's suppression, on random and crafted masks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import batched_nms

from fgvc_lib.layers.roi_pyramid import ROIPyramid, anchor_boxes, random_boxes, roi_boxes, suppress_border, top_boxes

NAN = float("nan")


def overlap(a, b):
    w = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    h = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    area = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return w * h / (area - w * h)


def slow_boxes(mask, image_size, *, size, top_k, border, mean_with_border=True, iou=0.05):
    """One image, cell by cell, from the description."""
    (h, w), (height, width) = mask.shape, image_size
    rows, columns = int(border * h + 1e-6), int(border * w + 1e-6)
    side = size * min(height, width)
    inner, candidates = [], []
    for i in range(rows, h - rows):
        for j in range(columns, w - columns):
            cx, cy = (j + 0.5) * width / w, (i + 0.5) * height / h
            box = (
                max(cx - side / 2, 0.0),
                max(cy - side / 2, 0.0),
                min(cx + side / 2, width),
                min(cy + side / 2, height),
            )
            inner.append(float(mask[i, j]))
            candidates.append((float(mask[i, j]), box))
    mean = sum(inner) / (h * w if mean_with_border else len(inner))
    candidates = [c for c in candidates if c[0] > mean]
    candidates.sort(key=lambda c: -c[0])  # stable: the first cell of equals stays first
    kept = []
    for _, box in candidates:
        if all(overlap(box, other) <= iou for other in kept):
            kept.append(box)
    kept = kept[:top_k] + [(NAN,) * 4] * (top_k - len(kept))
    return torch.tensor(kept)


@pytest.mark.parametrize("mean_with_border", [True, False])
@pytest.mark.parametrize("border", [0.0, 0.2])
def test_boxes_equal_the_slow_reference(border, mean_with_border):
    mask = torch.rand(3, 1, 10, 7)
    settings = {"size": 0.3, "top_k": 4, "border": border, "mean_with_border": mean_with_border}
    boxes = roi_boxes(mask, (50, 42), **settings)
    for i in range(3):
        expected = slow_boxes(mask[i, 0], (50, 42), **settings)
        torch.testing.assert_close(boxes[i], expected, equal_nan=True)


def test_top_boxes_are_the_first_of_torchvisions_batched_nms():
    boxes = anchor_boxes((8, 8), (64, 64), size=2 / 7)
    scores = torch.rand(5, 64)
    scores[scores < 0.3] = -torch.inf
    image, cell = torch.where(scores.isfinite())
    keep = batched_nms(boxes[cell], scores[image, cell], image, 0.05)
    chosen = top_boxes(scores, boxes, top_k=3, iou=0.05)
    for i in range(5):
        torch.testing.assert_close(chosen[i], boxes[cell[keep[image[keep] == i]]][:3])


def test_without_suppression_a_box_is_still_taken_once():
    boxes = anchor_boxes((4, 4), (32, 32), size=0.5)
    scores = torch.rand(1, 16)
    torch.testing.assert_close(top_boxes(scores, boxes, top_k=3, iou=1.0)[0], boxes[scores[0].topk(3).indices])


def test_official_box_sizes_around_the_centers_of_the_squares():
    boxes = anchor_boxes((56, 56), (448, 448), size=1 / 7)
    center = boxes.view(56, 56, 4)[20, 30]
    torch.testing.assert_close(center, torch.tensor([30.5 * 8 - 32, 20.5 * 8 - 32, 30.5 * 8 + 32, 20.5 * 8 + 32]))
    torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0.0, 36.0, 36.0]))  # cut at the image


def test_border_is_rounded_down_and_zeroed():
    zeroed, inner = suppress_border(torch.ones(1, 10, 4), border=0.2)  # two rows, no column
    assert inner.sum() == 6 * 4
    assert zeroed[0, :2].sum() == zeroed[0, -2:].sum() == 0
    assert zeroed.sum() == 24
    assert suppress_border(torch.ones(1, 100, 100), border=0.29)[1].sum() == 42 * 42
    rows = suppress_border(torch.ones(1, 14, 20), border=0.2, released=True)[1]  # officially one more unless it divides
    assert rows.any(1).nonzero().flatten().tolist() == [*range(2, 11)]
    assert rows.any(0).nonzero().flatten().tolist() == [*range(4, 16)]
    with pytest.raises(ValueError, match=r"fraction in \[0, 0.5\), got 0.5"):
        suppress_border(torch.ones(1, 4, 4), border=0.5)


def test_one_peak_gives_one_box_around_it():
    mask = torch.full((1, 1, 8, 8), 0.1)
    mask[0, 0, 4, 3] = 0.9
    boxes = roi_boxes(mask, (64, 64), size=2 / 8, top_k=3, border=0.0)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([3.5 * 8 - 8, 4.5 * 8 - 8, 3.5 * 8 + 8, 4.5 * 8 + 8]))
    assert boxes[0, 1:].isnan().all()


def test_two_levels_of_score_give_the_higher_first():
    mask = torch.full((1, 1, 8, 8), 0.1)
    mask[0, 0, 1, 1], mask[0, 0, 6, 6] = 0.6, 0.8
    boxes = roi_boxes(mask, (64, 64), size=2 / 8, top_k=2, border=0.0)
    centers = (boxes[0, :, :2] + boxes[0, :, 2:]) / 2
    torch.testing.assert_close(centers, torch.tensor([[52.0, 52.0], [12.0, 12.0]]))


@pytest.mark.parametrize("size", [(7, 9), (5, 11), (14, 14), (28, 28)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_constant_mask_has_no_box(size, dtype):
    """Whatever the constant: the mean of equal numbers is off by rounding for about a quarter of them."""
    masks = torch.linspace(0, 1, 300, dtype=dtype)[:, None, None, None].expand(300, 1, *size)
    assert roi_boxes(masks, (63, 81), size=0.2, top_k=1, border=0.0).isnan().all()
    assert roi_boxes(masks, (63, 81), size=0.2, top_k=1, border=0.2, mean_with_border=False).isnan().all()


def test_boxes_that_overlap_by_exactly_the_limit_stay():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 2.0, 1.0]])  # half of one is the other
    scores = torch.tensor([[0.9, 0.8]])
    assert torch.equal(top_boxes(scores, boxes, top_k=2, iou=0.5)[0], boxes)
    assert top_boxes(scores, boxes, top_k=2, iou=0.49)[0, 1].isnan().all()


def test_merging_encloses_the_alike():
    boxes = torch.tensor(
        [[0.0, 0, 10, 10], [2, 0, 12, 10], [0, 2, 10, 12], [6, 0, 16, 10], [20, 20, 30, 30], [40, 40, 50, 50]]
    )
    scores = torch.tensor([[1.0, 0.95, 0.85, 0.99, -torch.inf, 0.5]])  # alike, too low, too far, struck out, apart
    expected = torch.tensor([[0.0, 0, 12, 10], [40, 40, 50, 50], [NAN] * 4])
    torch.testing.assert_close(top_boxes(scores, boxes, top_k=3, iou=0.05, merge=True)[0], expected, equal_nan=True)
    plain = top_boxes(scores, boxes, top_k=3, iou=0.05)[0]
    torch.testing.assert_close(plain, torch.cat([boxes[[0, 5]], expected[2:]]), equal_nan=True)


def test_random_boxes_lie_anywhere_inside_with_their_size():
    boxes = torch.tensor([[0.0, 0.0, 16.0, 8.0], [NAN] * 4]).expand(2000, 2, 4)
    drawn = random_boxes(boxes, (40, 64), generator=torch.Generator().manual_seed(0))
    assert drawn[:, 1].isnan().all()
    x1, y1, x2, y2 = drawn[:, 0].unbind(1)
    torch.testing.assert_close(x2 - x1, torch.full((2000,), 16.0))
    torch.testing.assert_close(y2 - y1, torch.full((2000,), 8.0))
    assert 0 <= x1.min() < 1 < 47 < x1.max() <= 48
    assert 0 <= y1.min() < 1 < 31 < y1.max() <= 32


def test_the_borders_zeros_lower_the_mean():
    mask = torch.full((1, 1, 10, 10), 0.5)
    assert not roi_boxes(mask, (80, 80), size=0.2, top_k=1, border=0.1).isnan().any()
    assert roi_boxes(mask, (80, 80), size=0.2, top_k=1, border=0.1, mean_with_border=False).isnan().all()
    mask[0, 0, 0, 0] = 1.0  # the best cell lies in the border
    assert roi_boxes(mask, (80, 80), size=0.2, top_k=1, border=0.1)[0, 0, 0] > 0


def test_not_a_number_in_a_mask_gives_no_box_in_that_image_only():
    mask = torch.rand(2, 1, 6, 6)
    mask[0, 0, 2, 2] = NAN
    boxes = roi_boxes(mask, (48, 48), size=0.3, top_k=2, border=0.0)
    assert boxes[0].isnan().all()
    assert not boxes[1, 0].isnan().any()


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    h=st.integers(1, 9),
    w=st.integers(1, 9),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    size=st.floats(0.05, 1.5),
    border=st.floats(0, 0.49),
    top_k=st.integers(1, 6),
)
def test_boxes_lie_inside_the_image_absent_ones_last(batch, h, w, height, width, size, border, top_k):
    boxes = roi_boxes(torch.rand(batch, 1, h, w), (height, width), size=size, top_k=top_k, border=border)
    assert boxes.shape == (batch, top_k, 4)
    absent = boxes.isnan().any(2)
    assert torch.equal(absent, boxes.isnan().all(2))
    assert (absent[:, 1:] >= absent[:, :-1]).all()
    x1, y1, x2, y2 = boxes[~absent].unbind(1)
    assert ((x1 >= 0) & (y1 >= 0) & (x2 <= width) & (y2 <= height) & (x1 < x2) & (y1 < y2)).all()


def test_a_batch_equals_its_images_one_at_a_time():
    masks = [torch.rand(4, 1, s, s) for s in (16, 8, 4)]
    pyramid = ROIPyramid()
    together = pyramid(masks, (64, 64))
    assert [b.shape for b in together] == [(4, 5, 4), (4, 3, 4), (4, 1, 4)]
    for i in range(4):
        alone = pyramid([m[i : i + 1] for m in masks], (64, 64))
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a[0], b[i], equal_nan=True)


def test_half_precision_masks_work_and_no_gradient_flows():
    mask = torch.rand(1, 1, 8, 8, requires_grad=True)
    assert not roi_boxes(mask, (64, 64), size=0.3, top_k=2).requires_grad
    half = roi_boxes(mask.detach().bfloat16(), (64, 64), size=0.3, top_k=2)
    assert half.dtype == torch.float32
    assert not half[:, 0].isnan().any()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"mask must be \(B, 1, h, w\), got shape \(2, 3, 4, 4\)"):
        roi_boxes(torch.rand(2, 3, 4, 4), (8, 8), size=0.3, top_k=1)
    with pytest.raises(ValueError, match="same levels, got 2 and 3"):
        ROIPyramid(sizes=(0.1, 0.2))
    with pytest.raises(ValueError, match="top_k at least 1"):
        ROIPyramid(top_k=(5, 3, 0))
