"""Image files: listings, decoding, bad files."""

import os

import numpy as np
import pytest
from PIL import Image

from fgvc_lib.data import load
from fgvc_lib.data.decoding import decode_all
from fgvc_lib.data.files import Files, Item, select
from fgvc_lib.data.image_folder import folder_files


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    if "FGVC_DATA" not in os.environ:
        monkeypatch.setenv("FGVC_DATA", str(tmp_path))


def save(path, *, size=(40, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


@pytest.fixture
def birds_folder(tmp_path):
    root = tmp_path / "set"
    for c, name in enumerate(("crow", "owl", "wren")):
        for i in range(6):
            save(root / name / f"{i}.png", size=(40 + 10 * i, 30), seed=10 * c + i)
    return root


class TestDecoding:
    def test_the_label_stays_with_its_image(self, tmp_path):
        root = tmp_path / "gray"
        for level in (0, 100, 200):
            for i in range(8):
                (root / f"{level:03d}").mkdir(parents=True, exist_ok=True)
                Image.new("L", (20, 20), level + i).save(root / f"{level:03d}" / f"{i}.png")
        data = load("folder", root=str(root), image_size=8)
        for split in (data.train, data.val, data.test):
            assert (split.images[:, 0, 0, 0] // 100).tolist() == split.labels.tolist()

    def test_second_time_from_the_cache_and_bit_equal(self, birds_folder, monkeypatch):
        first = load("folder", root=str(birds_folder), image_size=16)
        monkeypatch.setattr("fgvc_lib.data.decoding._decode_split", lambda *a, **k: pytest.fail("decoded twice"))
        second = load("folder", root=str(birds_folder), image_size=16)
        assert second.fingerprint == first.fingerprint
        assert np.array_equal(first.train.images, second.train.images)

    def test_fingerprint_follows_content_and_settings_but_not_time_or_place(self, birds_folder, tmp_path):
        def fingerprint(root=birds_folder, **args):
            return load("folder", root=str(root), **{"image_size": 16, **args}).fingerprint

        first = fingerprint()
        os.utime(birds_folder / "owl" / "0.png", (0, 0))
        assert fingerprint() == first
        assert fingerprint(image_size=20) != first
        assert fingerprint(seed=1) != first
        moved = tmp_path / "moved"
        moved.mkdir()
        birds_folder.rename(moved / "set")
        assert fingerprint(moved / "set") == first
        save(moved / "set" / "owl" / "0.png", seed=99)
        assert fingerprint(moved / "set") != first

    def test_subsets(self, birds_folder):
        data = load("folder", root=str(birds_folder), image_size=16, classes=2, per_class=2)
        assert data.classes == ("crow", "owl")
        assert data.train.labels.tolist() == [0, 0, 1, 1]
        with pytest.raises(ValueError, match="has 3 classes, got classes=4"):
            load("folder", root=str(birds_folder), classes=4)

    def test_resize_keeps_a_margin_for_training_only(self, birds_folder):
        data = load("folder", root=str(birds_folder), image_size=16, resize=20)
        assert data.train.images.shape[-1] == 20
        assert data.test.images.shape[-1] == data.image_size == 16
        whole = load("folder", root=str(birds_folder), image_size=20)
        assert np.array_equal(data.test.images, whole.test.images[:, :, 2:18, 2:18])
        with pytest.raises(ValueError, match="resize must be at least image_size, got resize=10"):
            load("folder", root=str(birds_folder), image_size=16, resize=10)

    def test_unknown_augmentation(self, birds_folder):
        with pytest.raises(ValueError, match="no augmentation twirl"):
            load("folder", root=str(birds_folder), augment=["twirl"])


class TestBadFiles:
    @pytest.fixture
    def with_bad(self, birds_folder):
        (birds_folder / "owl" / "0.png").write_bytes(b"")
        whole = (birds_folder / "wren" / "1.png").read_bytes()
        (birds_folder / "wren" / "1.png").write_bytes(whole[: len(whole) // 2])
        return birds_folder

    def test_an_error_names_the_file_and_leaves_no_cache(self, with_bad, tmp_path):
        for _ in range(2):
            with pytest.raises(ValueError, match=r"(owl.0|wren.1)\.png.*set skip_bad"):
                load("folder", root=str(with_bad), image_size=16)
        assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]

    def test_skipped_and_counted_and_no_label_moves(self, with_bad):
        for _ in range(2):  # decoded, then from the cache
            data = load("folder", root=str(with_bad), image_size=16, skip_bad=True)
            assert sorted(data.skipped) == ["owl/0.png", "wren/1.png"]
            assert len(data.train) + len(data.val) + len(data.test) == 16
        files = select(folder_files(root=str(with_bad)))
        kept = [item for item in files.train if item.key not in data.skipped]
        assert [item.label for item in kept] == data.train.labels.tolist()
        for item, image in zip(kept, data.train.images, strict=True):
            expected = Image.open(item.path).resize((16, 16), Image.Resampling.BILINEAR)
            assert np.array_equal(np.asarray(expected).transpose(2, 0, 1), image)

    def test_a_class_of_which_nothing_is_left(self, birds_folder):
        for path in (birds_folder / "owl").iterdir():
            path.write_bytes(b"")
        with pytest.raises(ValueError, match="class 'owl' of set has no training image"):
            load("folder", root=str(birds_folder), image_size=16, skip_bad=True)


class TestParts:
    def test_boxes_and_points_move_with_resize_and_crop(self, tmp_path):
        save(tmp_path / "a.png", size=(40, 20))
        points = np.array([[20.0, 10.0], [np.nan, np.nan]])
        item = Item(tmp_path / "a.png", "a.png", 0, box=(0, 0, 40, 10), points=points)
        files = Files("toy", ("a",), [item], [item], part_names=("middle", "none"))
        data = decode_all(files, image_size=60, resize=80, val_fraction=0)
        assert data.train.parts["object_boxes"].tolist() == [[0, 0, 80, 40]]
        assert data.train.parts["points"][0, 0].tolist() == [40, 40]
        assert data.test.parts["object_boxes"].tolist() == [[-10, -10, 70, 30]]
        assert data.test.parts["points"][0, 0].tolist() == [30, 30]
        assert np.isnan(data.test.parts["points"][0, 1]).all()

    def test_a_letterbox_keeps_proportions_and_moves_the_parts(self, tmp_path):
        Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "a.png")
        item = Item(tmp_path / "a.png", "a.png", 0, box=(0, 0, 40, 10), points=np.array([[20.0, 10.0]]))
        files = Files("toy", ("a",), [item], [item], part_names=("middle",))
        data = decode_all(files, image_size=60, resize=80, val_fraction=0, letterbox=True)
        assert data.fingerprint != decode_all(files, image_size=60, resize=80, val_fraction=0).fingerprint
        red = (data.train.images[0, 0] == 255) & (data.train.images[0, 1] == 0)  # 80 × 40 of 80 × 80
        assert red.all(1).nonzero()[0].tolist() == list(range(20, 60))
        assert data.train.images[0, :, 0, 0].tolist() == [124, 116, 104]
        assert data.train.parts["object_boxes"].tolist() == [[0, 20, 80, 40]]
        assert data.train.parts["points"].tolist() == [[[40, 40]]]
        assert data.test.parts["points"].tolist() == [[[30, 30]]]
