"""DropBlock: cells by hand, the scale, the guard, and what is drawn how often."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck

from fgvc_lib.layers.roi_drop import cells_inside, draw_boxes, roi_drop

NAN = float("nan")
ABSENT = torch.full((1, 4), NAN)
WHOLE = torch.tensor([[0.0, 0.0, 32.0, 32.0]])


def test_positions_are_inside_by_their_center():
    boxes = torch.tensor([[3.9, 0.0, 12.1, 20.0], [4.0, 4.0, 12.0, 12.0], [NAN] * 4])
    cells = cells_inside(boxes, (4, 3), (32, 24))  # centers at 4, 12, 20, 28
    assert cells[0].tolist() == [[True, True, False]] * 2 + [[False] * 3] * 2
    assert cells[1].nonzero().tolist() == [[0, 0]]  # left and top edges count, right and bottom do not
    assert not cells[2].any()


def test_dropped_cells_are_zero_and_the_rest_scaled_by_area_over_kept_area():
    features = torch.ones(1, 2, 4, 4)
    within = torch.tensor([[0.0, 0.0, 32.0, 16.0]])  # the upper eight cells
    dropped = torch.tensor([[0.0, 0.0, 16.0, 8.0]])  # two of them
    out = roi_drop(features, dropped, within, (32, 32))
    assert (out[0, :, 0, :2] == 0).all()
    torch.testing.assert_close(out[0, 0, 0, 2:], torch.tensor([8 / 6, 8 / 6]))
    torch.testing.assert_close(out[0, 0, :2].sum(), features[0, 0, :2].sum())
    torch.testing.assert_close(roi_drop(features, dropped, None, (32, 32)).max(), torch.tensor(16 / 14))


def test_nothing_to_drop_changes_nothing():
    features = torch.randn(1, 2, 4, 4)
    assert torch.equal(roi_drop(features, ABSENT, WHOLE, (32, 32)), features)


def test_a_box_over_the_whole_union_is_not_dropped():
    features = torch.randn(1, 2, 4, 4)
    box = torch.tensor([[8.0, 8.0, 24.0, 24.0]])
    assert torch.equal(roi_drop(features, box, box, (32, 32)), features)
    assert torch.equal(roi_drop(features, WHOLE, box, (32, 32)), features)
    speck = torch.tensor([[9.0, 9.0, 9.5, 9.5]])  # a union without any cell
    assert torch.equal(roi_drop(features, WHOLE, speck, (32, 32)), features)


def test_the_guard_bounds_the_scale():
    features = torch.ones(1, 1, 4, 4)
    dropped = torch.tensor([[0.0, 0.0, 32.0, 24.0]])  # a quarter stays
    assert roi_drop(features, dropped, WHOLE, (32, 32), min_kept=0.25).max() == 4
    assert torch.equal(roi_drop(features, dropped, WHOLE, (32, 32), min_kept=0.26), features)


coordinates = st.floats(-5, 40)


@settings(max_examples=60, deadline=None)
@given(
    dropped=st.tuples(coordinates, coordinates, coordinates, coordinates),
    within=st.tuples(coordinates, coordinates, coordinates, coordinates),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
)
def test_never_a_non_finite_value(dropped, within, dtype):
    features = torch.full((1, 1, 5, 7), 100, dtype=dtype)
    out = roi_drop(features, torch.tensor([dropped]), torch.tensor([within]), (32, 32))
    assert out.isfinite().all()
    assert out.dtype == dtype
    assert out.max() <= 1001


def test_gradients_in_float64():
    features = torch.randn(1, 1, 4, 4, dtype=torch.float64, requires_grad=True)
    dropped = torch.tensor([[0.0, 0.0, 16.0, 8.0]])
    assert gradcheck(lambda f: roi_drop(f, dropped, WHOLE, (32, 32)), features)


def levels(n):
    """Two levels of up to two boxes, named by their first number; the second level has one box only."""
    fine = torch.tensor([[1.0] * 4, [2.0] * 4]).expand(n, 2, 4)
    top = torch.tensor([[3.0] * 4, [NAN] * 4]).expand(n, 2, 4)
    return [fine, top]


def test_levels_and_boxes_are_drawn_at_their_rates():
    n = 20000
    three = [*levels(n), torch.full((n, 1, 4), 4.0)]
    drawn = draw_boxes(three, rates=(0.3, 0.3, 0.2), generator=torch.Generator().manual_seed(0))[:, 0]
    found = [(drawn == name).float().mean().item() for name in (1, 2, 3, 4)] + [drawn.isnan().float().mean().item()]
    assert found == pytest.approx([0.15, 0.15, 0.3, 0.2, 0.2], abs=0.015)


def test_a_level_without_boxes_drops_nothing():
    absent = [torch.full((50, 2, 4), NAN)]
    assert draw_boxes(absent, rates=(1.0,), generator=torch.Generator()).isnan().all()


def test_the_draw_is_a_function_of_the_generator_and_takes_the_same_numbers_whatever_the_rates():
    states = []
    for rates in ((0.0, 0.0), (0.4, 0.6)):
        generator = torch.Generator().manual_seed(3)
        first = draw_boxes(levels(8), rates=rates, generator=generator)
        states.append(generator.get_state())
        again = draw_boxes(levels(8), rates=rates, generator=torch.Generator().manual_seed(3))
        assert torch.equal(first.nan_to_num(), again.nan_to_num())
    assert torch.equal(*states)


def test_bad_rates_are_refused():
    generator = torch.Generator()
    with pytest.raises(ValueError, match="got 1 for 2 levels"):
        draw_boxes(levels(2), rates=(0.3,), generator=generator)
    with pytest.raises(ValueError, match=r"sum to at most 1, got \(0.7, 0.7\)"):
        draw_boxes(levels(2), rates=(0.7, 0.7), generator=generator)
    with pytest.raises(ValueError, match="fraction in"):
        roi_drop(torch.zeros(1, 1, 2, 2), ABSENT, WHOLE, (32, 32), min_kept=0.0)
