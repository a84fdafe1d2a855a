"""The attention sampler against an inverse transform in loops, and the properties that define it."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.layers.attention_sampler import (
    attention_sample,
    axis_magnification,
    limit_magnification,
    sampling_grid,
    sampling_positions,
)

sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def slow_limit(magnification, limit, rounds=100_000):
    """Clip, spread the loss over all cells, again and again."""
    m = list(magnification)
    for _ in range(rounds):
        clipped = [min(v, limit) for v in m]
        lost = sum(m) - sum(clipped)
        m = [v + lost / len(m) for v in clipped]
        if lost < 1e-14:
            break
    return m


def slow_positions(marginal, size, limit):
    """Invert the cumulative of one marginal by walking along it."""
    total = sum(marginal)
    mean = total / len(marginal)
    density = slow_limit([v / mean for v in marginal], limit) if total else [1.0] * len(marginal)
    points = []
    for k in range(size):
        share = k / (size - 1) * len(density) if size > 1 else 0.0
        position = 0.0
        for v in density:
            if share <= v:
                position += share / v if v else 0.0
                break
            share -= v
            position += 1
        points.append(min(position / len(density), 1.0))
    return points


def slow_sample(image, map_, size, limit):
    """Bilinear look-up at every output pixel of one image."""
    ys = slow_positions([float(row.max()) for row in map_], size[0], limit)
    xs = slow_positions([float(column.max()) for column in map_.T], size[1], limit)
    height, width = image.shape[1:]
    out = image.new_zeros(len(image), *size)
    for i, y in enumerate(ys):
        for j, x in enumerate(xs):
            py, px = y * (height - 1), x * (width - 1)
            top, left = min(int(py), height - 1), min(int(px), width - 1)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            a, b = py - top, px - left
            upper = (1 - b) * image[:, top, left] + b * image[:, top, right]
            lower = (1 - b) * image[:, bottom, left] + b * image[:, bottom, right]
            out[:, i, j] = (1 - a) * upper + a * lower
    return out


@pytest.mark.parametrize("limit", [1.0, 1.7, 4.0])
def test_equal_to_the_inverse_transform_in_loops(limit):
    images, maps = torch.rand(3, 2, 9, 11, dtype=torch.float64), torch.rand(3, 4, 5, dtype=torch.float64) ** 6
    fast = attention_sample(images, maps, (7, 6), limit=limit)
    slow = torch.stack([slow_sample(i, m, (7, 6), limit) for i, m in zip(images, maps, strict=True)])
    torch.testing.assert_close(fast, slow, atol=1e-9, rtol=1e-9)


def test_no_limit_is_the_inverse_transform_of_the_marginals():
    maps = torch.rand(5, 6, 4, dtype=torch.float64)
    grid = sampling_grid(maps, (8, 9))
    for b in range(5):
        y, x = (torch.tensor(slow_positions(m, n, 1e9)) for m, n in ((maps[b].amax(1), 8), (maps[b].amax(0), 9)))
        torch.testing.assert_close((grid[b, :, 0, 1] + 1) / 2, y.double(), atol=1e-6, rtol=0)
        torch.testing.assert_close((grid[b, 0, :, 0] + 1) / 2, x.double(), atol=1e-6, rtol=0)


def test_three_cells_by_hand():
    # magnifications 2, 1, 0 of mean 1: F(1/3) = 2/3, F(2/3) = 1, flat behind it
    positions = sampling_positions(torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64), 4)
    torch.testing.assert_close(positions, torch.tensor([[0, 1 / 6, 1 / 3, 1]], dtype=torch.float64))
    # flat in front: the first point stays at the edge, the next step is inside the second cell
    positions = sampling_positions(torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64), 4)
    torch.testing.assert_close(positions, torch.tensor([[0, 2 / 3, 5 / 6, 1]], dtype=torch.float64))


@pytest.mark.parametrize("size", [(5, 7), (16, 16), (40, 3), (1, 1)])
@pytest.mark.parametrize("value", [0.0, 1e-30, 3.0, 1e30])
def test_a_flat_map_is_plain_resizing(size, value):
    images = torch.rand(2, 3, 16, 13)
    plain = F.interpolate(images, size, mode="bilinear", align_corners=True)
    for limit, equal_zoom in ((None, False), (4.0, False), (1.0, False), (4.0, True)):
        sampled = attention_sample(images, torch.full((2, 6, 5), value), size, limit=limit, equal_zoom=equal_zoom)
        torch.testing.assert_close(sampled, plain, atol=1e-5, rtol=0)


def test_a_zero_map_among_others_leaves_them_alone():
    images, maps = torch.rand(3, 1, 8, 8), torch.rand(3, 4, 4)
    maps[1] = 0
    sampled = attention_sample(images, maps, (6, 6))
    torch.testing.assert_close(sampled[[0, 2]], attention_sample(images[[0, 2]], maps[[0, 2]], (6, 6)))
    plain = F.interpolate(images[1:2], (6, 6), mode="bilinear", align_corners=True)
    torch.testing.assert_close(sampled[1:2], plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("limit", [1.0, 1.5, 4.0, 6.9])
@pytest.mark.parametrize("cell", [(0, 0), (2, 3), (6, 7)])
def test_a_one_cell_map_magnifies_that_cell_by_the_limit_exactly(limit, cell):
    maps = torch.zeros(1, 7, 8)
    maps[0, cell[0], cell[1]] = 0.3
    y, x = axis_magnification(maps, limit=limit)
    expected_y, expected_x = torch.full((7,), (7 - limit) / 6), torch.full((8,), (8 - limit) / 7)
    expected_y[cell[0]] = expected_x[cell[1]] = limit
    assert y[0, cell[0]] == limit
    assert x[0, cell[1]] == limit
    torch.testing.assert_close(y[0], expected_y)
    torch.testing.assert_close(x[0], expected_x)
    # and so many more of the output's points lie in it, up to the one at each end
    size = 2000
    grid = sampling_grid(maps, (1, size), limit=limit)[0, 0, :, 0]
    inside = ((grid + 1) / 2 * 8 >= cell[1]) & ((grid + 1) / 2 * 8 <= cell[1] + 1)
    assert abs(int(inside.sum()) - limit * size / 8) <= 2


def test_without_a_limit_a_one_cell_map_takes_every_point_but_the_ends():
    maps = torch.zeros(1, 5, 5)
    maps[0, 1, 3] = 1
    x = (sampling_grid(maps, (6, 6))[0, 0, :, 0] + 1) / 2
    assert x[0] == 0
    assert x[-1] == 1
    assert ((x[1:-1] > 0.6) & (x[1:-1] < 0.8)).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 4), sizes, sizes, st.sampled_from([None, 1.0, 1.3, 4.0]), st.booleans(), st.integers(0, 999))
def test_positions_are_ordered_in_range_with_exact_ends_and_equal_steps_of_the_cumulative(
    batch, cells, size, limit, equal_zoom, seed
):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(batch, *cells, generator=generator, dtype=torch.float64) ** 4
    maps = maps * (torch.rand(maps.shape, generator=generator) < 0.6)  # empty cells, rows and maps too
    magnification = axis_magnification(maps, limit=limit, equal_zoom=equal_zoom)
    grid = sampling_grid(maps, size, limit=limit, equal_zoom=equal_zoom)
    assert grid.shape == (batch, *size, 2)
    assert (grid[..., 0] == grid[:, :1, :, 0]).all()
    assert (grid[..., 1] == grid[:, :, :1, 1]).all()
    for m, points in zip(magnification, (grid[:, :, 0, 1], grid[:, 0, :, 0]), strict=True):
        torch.testing.assert_close(m.mean(1), torch.ones(batch, dtype=torch.float64))
        assert (m >= 0).all()
        if limit is not None:
            assert (m <= limit).all()
        assert (points[:, 0] == -1).all()
        assert points.shape[1] == 1 or (points[:, -1] == 1).all()
        assert (points.diff(dim=1) >= 0).all()
        # F at the points, by linear interpolation of the running sum
        running = F.pad(m.cumsum(1), (1, 0)) / m.shape[1]
        at = (points + 1) / 2 * m.shape[1]
        left = at.long().clamp(max=m.shape[1] - 1)
        reached = running.gather(1, left) + (at - left) * m.gather(1, left) / m.shape[1]
        steps = reached.diff(dim=1)
        torch.testing.assert_close(steps, torch.full_like(steps, 1 / max(points.shape[1] - 1, 1)), atol=1e-9, rtol=0)


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 12), st.floats(1, 5), st.integers(0, 999))
def test_the_closed_form_is_where_clipping_at_one_limit_ends(cells, limit, seed):
    generator = torch.Generator().manual_seed(seed)
    m = torch.rand(2, cells, generator=generator, dtype=torch.float64) ** 5
    m = m / m.mean(1, keepdim=True)
    slow = torch.tensor([slow_limit(row.tolist(), limit) for row in m], dtype=torch.float64)
    torch.testing.assert_close(limit_magnification(m, limit), slow, atol=1e-6, rtol=1e-6)


def released_rounds(y, x, limit, rounds=5):
    """The official clipping: at ``limit`` and the smaller of the two peaks, then at the smaller peak of each round."""
    for i in range(rounds):
        cap = torch.minimum(y.max(), x.max())
        cap = cap.clamp(max=limit) if i == 0 else cap
        y, x = (m.clamp(max=cap) for m in (y, x))
        y, x = (m + 1 - m.mean() for m in (y, x))
    return y, x


def test_the_official_rounds_settle_above_their_limit_and_the_library_does_not():
    at = torch.linspace(0, 1, 512, dtype=torch.float64)
    for width in (0.02, 0.04, 0.08):  # squared blobs of 28 cells, enlarged to 512
        blob = torch.exp(-((at - 0.3) ** 2) / width**2) + 0.02
        maps = (blob[:, None] * blob)[None] ** 2
        official = released_rounds(*(m[0] for m in axis_magnification(maps)), 4.0)
        library = axis_magnification(maps, limit=4.0, equal_zoom=True)
        for ours, theirs in zip(library, official, strict=True):
            assert ours.max() <= 4
            assert 4 < theirs.max() < 5
            assert theirs.mean() == pytest.approx(1)


def test_a_limit_nothing_reaches_changes_nothing():
    m = torch.tensor([[0.5, 1.5, 1.0]])
    assert torch.equal(limit_magnification(m, 1.5), m)


def test_equal_zoom_clips_both_axes_at_the_smaller_peak():
    maps = torch.zeros(1, 6, 6)
    maps[0, 2, :] = 1  # a row: all columns alike, one row six times the mean
    y, x = axis_magnification(maps)
    assert y.amax() == 6
    torch.testing.assert_close(x, torch.ones_like(x))
    for magnification in axis_magnification(maps, equal_zoom=True):
        torch.testing.assert_close(magnification, torch.ones(1, 6))
    maps[0, 2, 4] = 3
    y, x = axis_magnification(maps, equal_zoom=True)
    torch.testing.assert_close(y.amax(), x.amax())
    y, x = axis_magnification(maps, equal_zoom=True, limit=1.5)
    assert y.amax() == x.amax() == 1.5


def test_two_blobs_magnify_their_ghosts():
    maps = torch.zeros(1, 5, 5)
    maps[0, 1, 1] = maps[0, 3, 3] = 1
    y, x = axis_magnification(maps)
    area = y[0, :, None] * x[0, None, :]
    assert area[1, 1] == area[3, 3] == area[1, 3] == area[3, 1] == 6.25
    assert area.sum() == 25


def test_only_ratios_matter_and_negative_values_count_as_zero():
    maps = torch.rand(2, 4, 4)
    torch.testing.assert_close(sampling_grid(1e-20 * maps, (5, 5)), sampling_grid(maps, (5, 5)))
    signed = torch.randn(2, 4, 4)
    assert torch.equal(sampling_grid(signed, (5, 5)), sampling_grid(signed.clamp(min=0), (5, 5)))


def test_flipping_the_image_and_the_map_flips_the_sample():
    images, maps = torch.rand(2, 3, 9, 9, dtype=torch.float64), torch.rand(2, 4, 5, dtype=torch.float64)
    sampled = attention_sample(images, maps, (6, 7), limit=2)
    torch.testing.assert_close(attention_sample(images.flip(3), maps.flip(2), (6, 7), limit=2), sampled.flip(3))
    torch.testing.assert_close(attention_sample(images.mT, maps.mT, (7, 6), limit=2), sampled.mT)


@pytest.mark.parametrize("equal_zoom", [False, True])
@pytest.mark.parametrize("limit", [None, 1.6])
def test_gradcheck_of_the_positions(limit, equal_zoom):
    maps = (0.1 + torch.rand(2, 3, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: sampling_grid(m, (5, 6), limit=limit, equal_zoom=equal_zoom), maps)


def test_gradcheck_through_the_sampled_image():
    images = torch.rand(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    maps = (0.1 + torch.rand(2, 3, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, m: attention_sample(i, m, (4, 5), limit=1.6), (images, maps))


def test_the_gradient_of_an_empty_or_one_cell_map_is_finite():
    maps = torch.zeros(2, 4, 4)
    maps[1, 2, 1] = 1
    for limit in (None, 3.0):
        leaf = maps.clone().requires_grad_()
        attention_sample(torch.rand(2, 1, 8, 8), leaf, (5, 5), limit=limit).square().sum().backward()
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_maps_are_sampled_in_float32(dtype):
    images, maps = torch.rand(1, 3, 64, 64), torch.rand(1, 5, 5).to(dtype)
    with torch.autocast("cpu", dtype=dtype):
        sampled = attention_sample(images, maps, (32, 32), limit=3)
        assert attention_sample(images.to(dtype), maps, (32, 32)).dtype == dtype
    assert sampled.dtype == torch.float32
    assert torch.equal(sampled, attention_sample(images, maps.float(), (32, 32), limit=3))


def test_not_finite_maps_do_not_index_out_of_range():
    maps = torch.rand(2, 4, 4)
    maps[0, 1, 1], maps[1, 2, 2] = float("nan"), float("inf")
    attention_sample(torch.rand(2, 1, 8, 8), maps, (5, 5), limit=2)


def test_bad_input_is_refused():
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match=r"one map each, got \(2, 3, 8, 8\) and maps \(1, 4, 4\)"):
        attention_sample(images, maps[:1], (4, 4))
    with pytest.raises(ValueError, match=r"\(B, h, w\), got torch.float32 of shape \(2, 1, 4, 4\)"):
        attention_sample(images, maps[:, None], (4, 4))
    with pytest.raises(ValueError, match=r"at least 1 .* got 0.5"):
        attention_sample(images, maps, (4, 4), limit=0.5)
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        attention_sample(images, maps, (4, 0))
