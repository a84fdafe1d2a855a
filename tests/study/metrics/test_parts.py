"""Part measurements on cases small enough to work by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.backbones import resnet, vgg
from fgvc_study.metrics.parts import (
    box_area,
    box_coverage,
    box_recall,
    dilate,
    distinct_parts,
    mass_on_part,
    peak_parts,
    peaks,
    pointing_game,
    position_of_pixel,
)


def rectangle(size, x1, y1, x2, y2):
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def one_hot_map(h, w, row, column):
    m = torch.zeros(h, w)
    m[row, column] = 1
    return m


class TestPositions:
    @pytest.mark.parametrize("make", [lambda: resnet("small", width=4), lambda: vgg(11, width=8, blocks=3)])
    def test_a_dot_at_the_center_of_a_position_moves_the_map_around_that_position(self, make):
        """64 px to 8 × 8 (VGG: 16 × 16) positions: with even, positive weights the response is symmetric about it."""
        backbone = make().double().eval().requires_grad_(False)
        for p in backbone.parameters():
            if p.ndim == 4:
                torch.nn.init.constant_(p, 1.0)
        x = backbone.centers[backbone.last] + 4 * backbone.strides[backbone.last]  # where position 4 looks
        dot = (1 - (torch.arange(64) + 0.5 - x).abs()).clamp(min=0).double()  # one pixel, or two with x between them
        response = backbone((dot[:, None] * dot).expand(1, 3, 64, 64))[backbone.last].sum((0, 1))
        for axis in (0, 1):
            profile = response.sum(axis)
            assert float(profile @ torch.arange(len(profile)).double() / profile.sum()) == pytest.approx(4, abs=1e-6)

    def test_by_hand(self):
        assert position_of_pixel(2, 4).tolist() == [0, 0.25, 0.75, 1]  # squares of two pixels, their centers at 1 and 3
        assert position_of_pixel(2, 4, center=0.5).tolist() == [0, 0.5, 1, 1]  # pixels 0 and 2

    def test_every_score_follows_the_center(self):
        """Position (4, 4) of a ResNet's 8 × 8 map looks at pixel 32, not at 36."""
        looks, square = rectangle(64, 30, 30, 35, 35), rectangle(64, 34, 34, 38, 38)
        hot, masks = one_hot_map(8, 8, 4, 4)[None], torch.stack([square, looks])
        assert peaks(hot[None], (64, 64), center=0.5).tolist() == [[[32.5, 32.5]]]
        assert peak_parts(hot[None], masks[None], center=0.5).tolist() == [[1]]
        assert pointing_game(hot.expand(2, 8, 8), masks, center=0.5).tolist() == [0, 1]
        share, even = mass_on_part(hot.expand(2, 8, 8), masks, center=0.5)  # its pixels are 28 to 35
        assert share.tolist() == [pytest.approx(4 / 64), pytest.approx(25 / 64)]
        assert even[1] == pytest.approx(25 / 64 / 64)


class TestPeaks:
    def test_same_size_gives_the_pixel_center_as_x_y(self):
        assert peaks(one_hot_map(4, 6, 1, 5)[None, None], (4, 6)).tolist() == [[[5.5, 1.5]]]

    def test_a_corner_cell_of_a_coarse_map_lies_in_its_own_quarter(self):
        # 2 × 2 map on 8 × 8: the bilinear map is flat from the border to the cell's center, so the first pixel wins
        assert peaks(one_hot_map(2, 2, 0, 0)[None, None], (8, 8)).tolist() == [[[0.5, 0.5]]]
        x, y = peaks(one_hot_map(2, 2, 1, 1)[None, None], (8, 8))[0, 0].tolist()
        assert x > 4
        assert y > 4

    def test_neighbors_pull_the_peak_inside_its_cell(self):
        m = torch.zeros(1, 1, 1, 4)
        m[..., 1], m[..., 2] = 1.0, 0.9
        x = peaks(m, (1, 16))[0, 0, 0].item()
        assert 4 < x < 8

    def test_wrong_rank_is_refused(self):
        with pytest.raises(ValueError, match=r"maps must be \(B, K, h, w\), got shape \(3, 4\)"):
            peaks(torch.zeros(3, 4), (4, 4))


class TestPointingGame:
    def test_hit_miss_and_nothing_to_hit(self):
        maps = torch.stack([one_hot_map(8, 8, 2, 2)] * 3)
        masks = torch.stack([rectangle(8, 2, 2, 4, 4), rectangle(8, 3, 2, 5, 4), rectangle(8, 0, 0, 0, 0)])
        hits = pointing_game(maps, masks)
        assert hits[:2].tolist() == [1, 0]
        assert hits[2].isnan()

    def test_tolerance_is_a_distance_to_the_edge_of_the_mask(self):
        maps, mask = one_hot_map(8, 8, 0, 0)[None], rectangle(8, 2, 0, 3, 1)[None]
        # the peak's center is at x = 0.5, the mask begins at x = 2
        assert pointing_game(maps, mask, tolerance=1.49).item() == 0
        assert pointing_game(maps, mask, tolerance=1.5).item() == 1

    def test_negative_tolerance_is_refused(self):
        with pytest.raises(ValueError, match="tolerance must not be negative, got -1"):
            pointing_game(torch.zeros(1, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool), tolerance=-1)


class TestDilate:
    @settings(max_examples=20, deadline=None)
    @given(st.floats(0, 4), st.integers(0, 2**31))
    def test_equals_the_slow_definition(self, tolerance, seed):
        mask = torch.rand(1, 1, 7, 9, generator=torch.Generator().manual_seed(seed)) < 0.05
        grown = dilate(mask, tolerance=tolerance)[0, 0].tolist()
        inside = mask[0, 0].nonzero().tolist()
        for row in range(7):
            for column in range(9):
                near = any(
                    max(abs(row - r) - 0.5, 0) ** 2 + max(abs(column - c) - 0.5, 0) ** 2 <= tolerance**2
                    for r, c in inside
                )
                assert grown[row][column] == near


class TestMass:
    def test_even_map_has_the_area_share(self):
        share, area = mass_on_part(torch.ones(1, 4, 4), rectangle(8, 0, 0, 4, 4)[None])
        assert share.item() == area.item() == 0.25

    def test_half_covered_cell_counts_half(self):
        # the one hot cell covers pixels 0-1 × 0-1; the part its left half
        share, area = mass_on_part(one_hot_map(4, 4, 0, 0)[None], rectangle(8, 0, 0, 1, 8)[None])
        assert share.item() == 0.5
        assert area.item() == 0.125

    def test_map_that_does_not_divide_the_image(self):
        share, _ = mass_on_part(torch.ones(1, 3, 3), torch.ones(1, 8, 8, dtype=torch.bool))
        assert share.item() == pytest.approx(1)

    def test_no_mass_or_no_part_is_nan(self):
        assert mass_on_part(torch.zeros(1, 2, 2), torch.ones(1, 4, 4, dtype=torch.bool))[0].isnan()
        share, area = mass_on_part(torch.ones(1, 2, 2), torch.zeros(1, 4, 4, dtype=torch.bool))
        assert share.isnan()
        assert area.isnan()

    def test_negative_map_is_refused(self):
        with pytest.raises(ValueError, match="must not be negative to have a mass, got -1"):
            mass_on_part(-torch.ones(1, 2, 2), torch.ones(1, 4, 4, dtype=torch.bool))


class TestPeakParts:
    def test_each_channel_gets_its_part(self):
        masks = torch.stack([rectangle(8, 0, 0, 2, 2), rectangle(8, 6, 6, 8, 8)])[None]
        maps = torch.stack([one_hot_map(8, 8, 7, 7), one_hot_map(8, 8, 1, 0), one_hot_map(8, 8, 4, 4)])[None]
        assert peak_parts(maps, masks).tolist() == [[1, 0, -1]]

    def test_on_a_part_beats_near_an_earlier_one(self):
        masks = torch.stack([rectangle(8, 3, 3, 4, 4), rectangle(8, 4, 3, 5, 4)])[None]
        assert peak_parts(one_hot_map(8, 8, 3, 4)[None, None], masks, tolerance=3.0).tolist() == [[1]]

    def test_distinct_parts(self):
        parts = torch.tensor([[1, 0, 1, -1], [2, 2, 2, 2], [-1, -1, -1, -1], [3, 1, 0, 2]])
        assert distinct_parts(parts).tolist() == [2, 1, 0, 4]


class TestBoxes:
    def test_share_of_the_part_by_the_best_single_box(self):
        part = torch.tensor([[2.0, 2.0, 6.0, 6.0]])
        boxes = torch.tensor([[[0.0, 0.0, 4.0, 8.0], [3.0, 2.0, 9.0, 6.0], [float("nan")] * 4]])
        assert box_coverage(boxes, part).tolist() == [0.75]  # halves do not add up
        assert box_recall(boxes, part).tolist() == [1]
        assert box_recall(boxes, part, coverage=0.8).tolist() == [0]

    def test_no_overlap_no_box_no_part(self):
        part = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).expand(3, 4).clone()
        boxes = torch.tensor([[[4.0, 0.0, 6.0, 2.0]], [[float("nan")] * 4], [[0.0, 0.0, 2.0, 2.0]]])
        part[2] = float("nan")
        coverage = box_coverage(boxes, part)
        assert coverage[:2].tolist() == [0, 0]
        assert coverage[2].isnan()
        assert box_recall(boxes, part)[2].isnan()
        assert box_coverage(torch.zeros(3, 0, 4), part)[0] == 0

    def test_area_leaves_absent_boxes_out(self):
        boxes = torch.tensor([[[0.0, 0.0, 4.0, 4.0], [float("nan")] * 4], [[float("nan")] * 4] * 2])
        area = box_area(boxes, (8, 8))
        assert area[0] == 0.25
        assert area[1].isnan()
