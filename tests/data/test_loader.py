"""The loader: a pure function of seed, epoch, step and rank."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fgvc_lib.data import ImageData, Loader, Split
from fgvc_lib.data.augment import (
    AUGMENTATIONS,
    center_crop,
    random_color,
    random_crop,
    random_flip,
    random_resized_crop,
    random_rotation,
    random_vertical_flip,
)
from fgvc_lib.data.loader import balanced_order


def make_data(n=50, classes=5, size=8, stored=None, augment=("crop", "flip", "color", "resized_crop")):
    rng = np.random.default_rng(0)

    def split(count, side):
        pixels = rng.integers(0, 256, (count, 3, side, side), dtype=np.uint8)
        return Split(pixels, torch.arange(count) % classes)

    return ImageData(
        name="toy",
        fingerprint="0",
        classes=tuple("abcdefghij"[:classes]),
        train=split(n, stored or size),
        val=split(7, size),
        test=split(13, size),
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.3, 0.4),
        augment=augment,
    )


def loader(data, name="train", batch=10, **kwargs):
    return Loader(data, name, batch, **({"train": True, "seed": 3, "device": "cpu"} | kwargs))


def same(a, b):
    return len(a) == len(b) and all(
        torch.equal(x, y) for p, q in zip(a, b, strict=True) for x, y in zip(p, q, strict=True)
    )


class TestTraining:
    def test_two_loaders_are_bit_equal(self):
        data = make_data()
        assert same(list(loader(data).epoch(2)), list(loader(data).epoch(2)))

    def test_epochs_and_seeds_differ(self):
        data = make_data()
        first = next(loader(data).epoch(0))
        assert not torch.equal(first[2], next(loader(data).epoch(1))[2])
        assert not torch.equal(first[2], next(loader(data, seed=4).epoch(0))[2])

    @pytest.mark.parametrize("sampler", [None, (5, 2)])
    def test_resumes_in_the_middle(self, sampler):
        data = make_data()
        whole = list(loader(data, sampler=sampler).epoch(1))
        assert same(whole[3:], list(loader(data, sampler=sampler).epoch(1, start=3)))
        assert list(loader(data).epoch(1, start=5)) == []

    def test_an_epoch_sees_every_image_at_most_once_and_drops_the_rest(self):
        data = make_data(n=47)
        seen = torch.cat([indices for _, _, indices in loader(data).epoch(0)])
        assert len(loader(data)) == 4
        assert len(seen) == 40 == len(seen.unique())

    @pytest.mark.parametrize("sampler", [None, (5, 1)])
    def test_two_ranks_together_are_one_process(self, sampler):
        data = make_data()
        one = list(loader(data, sampler=sampler).epoch(0))
        ranks = [list(loader(data, sampler=sampler, rank=r, world_size=2).epoch(0)) for r in (0, 1)]
        if sampler:  # the groups are dealt to the ranks in order
            assert ranks[0][0][1].unique().tolist() == [0, 1, 2, 3, 4]
        joined = [tuple(torch.cat(pair) for pair in zip(a, b, strict=True)) for a, b in zip(*ranks, strict=True)]
        assert same(one, joined)

    def test_labels_belong_to_the_images(self):
        data = make_data(augment=())
        for images, labels, indices in loader(data).epoch(0):
            assert torch.equal(labels, data.train.labels[indices])
            back = (images * torch.tensor(data.std).view(3, 1, 1) + torch.tensor(data.mean).view(3, 1, 1)) * 255
            torch.testing.assert_close(back.round().byte().numpy(), data.train.images[indices.numpy()])

    def test_every_step_and_image_is_augmented_anew(self):
        data = make_data(n=20, augment=("color",))
        same_pixels = np.repeat(data.train.images[:1], 20, 0)
        data = dataclasses.replace(data, train=dataclasses.replace(data.train, images=same_pixels))
        images = torch.cat([images for epoch in (0, 1) for images, _, _ in loader(data).epoch(epoch)])
        assert len(images.flatten(1).unique(dim=0)) == 40

    def test_images_stored_larger_are_cropped(self):
        data = make_data(size=8, stored=12, augment=("crop",))
        assert next(loader(data).epoch(0))[0].shape == (10, 3, 8, 8)
        plain = make_data(size=8, stored=12, augment=())
        images, _, indices = next(loader(plain).epoch(0))
        center = torch.from_numpy(plain.train.images[indices.numpy()][:, :, 2:10, 2:10])
        torch.testing.assert_close(images[:, 0], (center[:, 0] / 255 - 0.5) / 0.2)


class TestEvaluation:
    @pytest.mark.parametrize("world_size", [1, 2, 3, 20])
    def test_every_sample_once_in_order_over_all_ranks(self, world_size):
        data = make_data()
        loaders = [loader(data, "test", 4, train=False, rank=r, world_size=world_size) for r in range(world_size)]
        batches = [[indices for _, _, indices in one.epoch(0)] for one in loaders]
        assert torch.cat([i for rank in batches for i in rank]).tolist() == list(range(13))
        assert [len(one) for one in loaders] == [len(rank) for rank in batches]

    def test_epoch_and_seed_change_nothing(self):
        data = make_data()
        a = list(loader(data, "val", 4, train=False, seed=0).epoch(0))
        assert same(a, list(loader(data, "val", 4, train=False, seed=9).epoch(5)))

    def test_batch_larger_than_the_split(self):
        assert len(next(loader(make_data(), "test", 100, train=False).epoch(0))[2]) == 13


class TestSampler:
    @settings(max_examples=30, deadline=None)
    @given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.data())
    def test_groups_of_p_distinct_classes_times_k(self, sizes, data):
        labels = torch.tensor([c for c, n in enumerate(sizes) for _ in range(n)])
        p, k = data.draw(st.integers(1, len(sizes))), data.draw(st.integers(1, 4))
        order = balanced_order(labels, p, k, count=6 * p * k, generator=torch.Generator().manual_seed(0))
        for group in labels[order].view(6, p, k):
            assert (group == group[:, :1]).all()
            assert len(group[:, 0].unique()) == p

    def test_classes_and_images_come_in_rounds(self):
        labels = torch.arange(12) % 3  # 3 classes of 4
        order = balanced_order(labels, 2, 2, count=12, generator=torch.Generator().manual_seed(1))
        assert sorted(order.tolist()) == list(range(12))  # 3 groups × 2 classes: each class twice, each image once

    def test_a_class_smaller_than_k_repeats(self):
        labels = torch.tensor([0, 1, 1, 1])
        order = balanced_order(labels, 2, 3, count=6, generator=torch.Generator())
        assert order.tolist().count(0) == 3


class TestRefusals:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"batch": 51}, "batch_size 51 is larger than the train split of 50 images"),
            ({"sampler": (10, 1)}, "wants 10 classes in a batch, but the split has 5"),
        ],
    )
    def test_one_sentence(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            loader(make_data(), **kwargs)

    def test_unknown_augmentation(self):
        with pytest.raises(ValueError, match="no augmentation twirl: choose from crop"):
            loader(make_data(augment=("twirl",)))

    def test_split_checks_its_arrays(self):
        data = make_data()
        with pytest.raises(ValueError, match="images must be uint8"):
            dataclasses.replace(data.test, images=data.test.images.astype(np.float32))
        with pytest.raises(ValueError, match=r"labels must be int64 of shape \(13,\)"):
            dataclasses.replace(data.test, labels=torch.zeros(12, dtype=torch.long))
        with pytest.raises(ValueError, match="boxes must have a row per image, expected 13, got 2"):
            dataclasses.replace(data.test, parts={"boxes": np.zeros((2, 4))})


class TestAugmentations:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def test_crop_is_a_window_of_the_extended_image(self):
        uniform = torch.rand(6, 2, generator=torch.Generator().manual_seed(1))
        out = random_crop(self.images, uniform, 8, padding=0.25)
        padded = torch.nn.functional.pad(self.images, (2, 2, 2, 2), mode="replicate")
        for image, wide, u in zip(out, padded, uniform, strict=True):
            y, x = (u * 5).long().tolist()  # positions 0 … 4
            assert torch.equal(image, wide[:, y : y + 8, x : x + 8])

    def test_crop_reaches_both_ends_of_a_larger_image(self):
        wide = torch.rand(2, 3, 10, 10)
        out = random_crop(wide, torch.tensor([[0.0, 0.0], [0.999, 0.999]]), 8)
        assert torch.equal(out[0], wide[0, :, :8, :8])
        assert torch.equal(out[1], wide[1, :, 2:, 2:])

    def test_flip(self):
        out = random_flip(self.images[:2], torch.tensor([[0.4], [0.6]]), 8)
        assert torch.equal(out[0], self.images[0].flip(2))
        assert torch.equal(out[1], self.images[1])

    def test_vertical_flip(self):
        out = random_vertical_flip(self.images[:2], torch.tensor([[0.4], [0.6]]), 8)
        assert torch.equal(out[0], self.images[0].flip(1))
        assert torch.equal(out[1], self.images[1])

    def test_rotation_by_a_right_angle_is_a_turn_of_the_pixels(self):
        out = random_rotation(self.images[:2], torch.tensor([[1.0], [0.5]]), 8, degrees=90)
        torch.testing.assert_close(out[0], self.images[0].rot90(1, (1, 2)), atol=1e-5, rtol=0)
        torch.testing.assert_close(out[1], self.images[1])

    def test_resized_crop_of_everything_is_the_image(self):
        out = random_resized_crop(self.images, torch.full((6, 3), 0.5), 8, scale=(1.0, 1.0))
        torch.testing.assert_close(out, self.images)

    def test_color_in_the_middle_changes_nothing_and_stays_in_range(self):
        torch.testing.assert_close(random_color(self.images, torch.full((6, 3), 0.5), 8), self.images)
        wild = random_color(self.images, torch.rand(6, 3), 8, strength=1.0)
        assert wild.min() >= 0
        assert wild.max() <= 1

    def test_all_keep_shape_and_need_the_draws_they_name(self):
        for draws, apply in AUGMENTATIONS.values():
            assert apply(self.images, torch.rand(6, draws), 8).shape == self.images.shape

    def test_center_crop(self):
        assert torch.equal(center_crop(self.images, 4), self.images[:, :, 2:6, 2:6])
