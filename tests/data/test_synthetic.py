"""Synthetic birds: frozen pixels, true parts, and a discriminative part that decides."""

import numpy as np
import pytest
import torch

from fgvc_lib.data import load
from fgvc_lib.data.bird_drawing import DRAWS, PARTS, PLAIN, draw_birds
from fgvc_lib.data.shapes import turn
from fgvc_lib.data.synthetic import CLASSES, MARKS, channel_statistics, crop_to_boxes, mask_boxes, mask_points

SMALL = {"classes": 8, "per_class": 3, "val_per_class": 1, "test_per_class": 2, "image_size": 48}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FGVC_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load("birds", **SMALL)


def uniform(n, seed=0):
    raw = np.random.PCG64(seed).random_raw((n, DRAWS))
    return (raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def looks(marks):
    return {key: np.array([mark.get(key, plain) for mark in marks], np.float32) for key, plain in PLAIN.items()}


def test_the_pixels_and_masks_are_frozen():
    # the difficulty of the set was measured on these pixels: a change of them is a new set
    assert load("birds").fingerprint == "005fd851cadc2adf"


def test_built_twice_is_bit_equal(small, tmp_path, monkeypatch):
    again = load("birds", **SMALL)
    assert again.fingerprint == small.fingerprint
    for name in ("train", "val", "test"):
        a, b = getattr(small, name), getattr(again, name)
        assert np.array_equal(a.images, b.images)
        for part in a.parts:
            np.testing.assert_array_equal(a.parts[part], b.parts[part])


def test_splits_and_seeds_hold_different_images(small):
    pixels = np.concatenate([small.train.images, small.val.images, small.test.images])
    assert len({image.tobytes() for image in pixels}) == len(pixels) == 8 * 6
    other = load("birds", **SMALL, seed=1)
    assert other.fingerprint != small.fingerprint


def test_more_images_begin_with_the_same(small):
    more = load("birds", **{**SMALL, "per_class": 5})
    assert np.array_equal(more.train.images[: len(small.train)], small.train.images)


def test_larger_images_show_the_same_birds(small):
    large = load("birds", **{**SMALL, "image_size": 96})
    halved = torch.nn.functional.avg_pool2d(torch.from_numpy(large.train.images).float(), 2)
    difference = (halved - torch.from_numpy(small.train.images).float()).abs().mean()
    assert difference < 4  # of 255
    np.testing.assert_allclose(np.nanmean(large.train.parts["points"] / 2 - small.train.parts["points"]), 0, atol=0.5)


def test_what_is_said_of_the_splits(small):
    assert [len(s) for s in (small.train, small.val, small.test)] == [24, 8, 16]
    assert small.classes == tuple(mark for _, mark in CLASSES[:8])
    assert small.train.labels.bincount().tolist() == [3] * 8
    assert small.image_size == 48
    assert small.part_names == PARTS
    assert [PARTS[p] for p in small.train.parts["discriminative"][:8]] == [part for part, _ in CLASSES[:8]]
    images = small.train.images / 255
    np.testing.assert_allclose(small.mean, images.mean((0, 2, 3)), atol=1e-4)
    np.testing.assert_allclose(small.std, images.std((0, 2, 3)), atol=1e-4)


def test_the_discriminative_part_is_always_to_be_seen():
    data = load("birds", per_class=30, val_per_class=1, test_per_class=1)
    masks = data.train.parts["masks"][np.arange(len(data.train)), data.train.parts["discriminative"]]
    assert masks.sum((1, 2)).min() >= 6
    assert np.isfinite(data.train.parts["boxes"][np.arange(len(data.train)), data.train.parts["discriminative"]]).all()


@pytest.mark.parametrize(("part", "mark"), CLASSES)
def test_a_mark_changes_its_part_and_nothing_else(part, mark):
    """Two birds with the same random numbers, with and without the mark, differ only where the part's box is."""
    p = PARTS.index(part)
    discriminative = np.full(8, p)
    marked = draw_birds(uniform(8), looks([MARKS[part][mark]] * 8), discriminative, size=64)
    plain = draw_birds(uniform(8), looks([{}] * 8), discriminative, size=64)
    # a leaf may be left out because of the mark's larger mask: compare birds whose leaves agree
    changed = (marked.images != plain.images).any(1)  # (8, 64, 64)
    boxes = mask_boxes(marked.masks | plain.masks)[:, p]
    agree = 0
    for difference, (x1, y1, x2, y2) in zip(changed, boxes.astype(int), strict=True):
        outside = difference.copy()
        outside[max(0, y1 - 4) : y2 + 4, max(0, x1 - 4) : x2 + 4] = False  # edges and tips thinner than half a pixel
        assert difference.any()
        agree += not outside.any()
    assert agree >= 6


def test_no_mark_is_that_of_another_class():
    marks = [b"".join(looks([MARKS[part][mark]])[key].tobytes() for key in PLAIN) for part, mark in CLASSES]
    assert len(set(marks)) == len(CLASSES) == 12


def test_boxes_and_points_by_hand():
    masks = np.zeros((1, 2, 6, 8), bool)
    masks[0, 0, 1:4, 2:7] = True
    boxes, points = mask_boxes(masks), mask_points(masks)
    assert boxes[0, 0].tolist() == [2, 1, 7, 4]
    assert points[0, 0].tolist() == [4.5, 2.5]
    assert np.isnan(boxes[0, 1]).all()
    assert np.isnan(points[0, 1]).all()


def test_turn_is_a_rotation():
    # tangent of the half angle 1: a quarter turn
    x, y = turn(np.float32(1), np.float32(0), 1.0)
    assert (x, y) == (0, -1)


def test_channel_statistics_are_exact():
    images = np.random.default_rng(0).integers(0, 256, (5, 2, 7, 7), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255, atol=1e-4)
    np.testing.assert_allclose(std, images.std((0, 2, 3)) / 255, atol=1e-4)


class TestOracleCrop:
    def test_the_middle_of_the_crop_is_the_middle_of_the_part(self, small):
        crops = load("birds_oracle", **SMALL)
        assert crops.train.images.shape == small.train.images.shape
        assert torch.equal(crops.train.labels, small.train.labels)
        assert crops.fingerprint not in (small.fingerprint, load("birds_oracle", **SMALL, margin=1.0).fingerprint)
        x1, y1, x2, y2 = small.train.parts["boxes"][0, small.train.parts["discriminative"][0]]
        cx, cy = (x1 + x2) / 2, (y1 + y2) / 2
        around = small.train.images[0, :, int(cy - 2) : int(cy + 2), int(cx - 2) : int(cx + 2)]
        middle = crops.train.images[0, :, 23:25, 23:25].mean((1, 2))
        assert (middle >= around.min((1, 2)) - 1).all()
        assert (middle <= around.max((1, 2)) + 1).all()

    def test_a_box_of_the_whole_image_is_the_image(self, small):
        whole = torch.tensor([0.0, 0, 48, 48]).expand(len(small.train), 4)
        crops = crop_to_boxes(small.train.images, whole, 48, 0.0)
        assert np.abs(crops.astype(int) - small.train.images).max() <= 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"classes": 13}, "2 to 12 classes of birds, got classes=13"),
        ({"classes": 1}, "2 to 12 classes of birds, got classes=1"),
        ({"per_class": 0}, "at least 1 image per class and split"),
        ({"image_size": 8}, "16 pixels.*image_size=8"),
    ],
)
def test_refusals(args, message):
    with pytest.raises(ValueError, match=message):
        load("birds", **args)
