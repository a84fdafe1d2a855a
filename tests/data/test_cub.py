"""CUB-200-2011: the official layout, on a small made-up copy and on the real thing."""

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from fgvc_lib.data import cub200, load
from fgvc_lib.data.files import data_root


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path):
    """Two classes of four 20 × 10 images, two of them training; each image is one gray level, its number times ten."""
    base = tmp_path / "CUB_200_2011"
    tables = {name: [] for name in ("images", "image_class_labels", "train_test_split", "bounding_boxes", "part_locs")}
    names = ["001.Blue_bird", "002.Red_bird"]
    for i in range(1, 9):
        c = (i - 1) // 4
        path = f"{names[c]}/{i}.png"
        (base / "images" / names[c]).mkdir(parents=True, exist_ok=True)
        Image.new("L", (20, 10), 10 * i).save(base / "images" / path)
        tables["images"].append(f"{i} {path}")
        tables["image_class_labels"].append(f"{i} {c + 1}")
        tables["train_test_split"].append(f"{i} {i % 2}")
        tables["bounding_boxes"].append(f"{i} 2.0 1.0 10.0 5.0")
        tables["part_locs"] += [f"{i} 1 10.0 5.0 1", f"{i} 2 0.0 0.0 0"]
    (base / "parts").mkdir()
    for name, rows in tables.items():
        place = base / "parts" if name == "part_locs" else base
        (place / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (base / "classes.txt").write_text("".join(f"{i + 1} {name}\n" for i, name in enumerate(names)))
    (base / "parts" / "parts.txt").write_text("1 beak\n2 left eye\n")
    return tmp_path


def test_official_split_labels_boxes_points(root):
    data = load("cub", root=str(root), image_size=20, val_fraction=0.5)
    assert data.classes == ("Blue bird", "Red bird")
    assert data.part_names == ("beak", "left eye")
    assert sorted(data.test.images[:, 0, 0, 0].tolist()) == [20, 40, 60, 80]
    assert sorted(np.concatenate([data.train.images, data.val.images])[:, 0, 0, 0].tolist()) == [10, 30, 50, 70]
    for split in (data.train, data.val, data.test):
        assert ((split.images[:, 0, 0, 0] > 40).astype(int) == split.labels.numpy()).all()
        assert split.parts["object_boxes"].tolist() == [[2, 2, 12, 12]] * len(split)  # 20 × 10 → 20 × 20
        assert split.parts["points"][:, 0].tolist() == [[10, 10]] * len(split)
        assert np.isnan(split.parts["points"][:, 1]).all()


def test_a_box_is_cut_out_and_its_points_move_with_it(root):
    whole = load("cub", root=str(root), image_size=20, val_fraction=0.0)
    image = Image.new("L", (20, 10), 0)
    image.paste(200, (2, 1, 12, 6))  # the box is bright, the rest is not
    for path in (root / "CUB_200_2011" / "images").rglob("*.png"):
        image.save(path)
    data = load("cub", root=str(root), image_size=20, val_fraction=0.0, crop="box")
    assert (data.train.images == 200).all()
    assert data.train.parts["object_boxes"].tolist() == [[0, 0, 20, 20]] * 4
    assert data.train.parts["points"][:, 0].tolist() == [[16, 16]] * 4  # (10 - 2) · 20/10, (5 - 1) · 20/5
    assert data.fingerprint != whole.fingerprint


def test_classes_by_name_and_from_a_file(root, tmp_path):
    (tmp_path / "classes").write_text("Red bird\n")
    for wanted in (["Red bird"], str(tmp_path / "classes")):
        data = load("cub", root=str(root), image_size=8, classes=wanted)
        assert data.classes == ("Red bird",)
        assert set(data.test.images[:, 0, 0, 0].tolist()) == {60, 80}
        assert data.test.labels.tolist() == [0, 0]
    assert load("cub", root=str(root), image_size=8, classes=["Red bird", "Blue bird"]).classes[0] == "Blue bird"
    with pytest.raises(ValueError, match="cub has no class 'Green bird': its classes are Blue bird, Red bird"):
        load("cub", root=str(root), image_size=8, classes=["Green bird"])
    with pytest.raises(FileNotFoundError, match="nowhere is not there: classes must be a number, a list, or a file"):
        load("cub", root=str(root), image_size=8, classes=str(tmp_path / "nowhere"))


def test_the_hundred_classes_are_the_same_from_the_archive_and_from_a_copy(root, monkeypatch, tmp_path):
    monkeypatch.setattr(cub200, "CUB100", tmp_path / "names")
    (tmp_path / "names").write_text("Red bird\n")
    archive = load("cub100", root=str(root), image_size=8, val_fraction=0.5)
    assert archive.name == "cub100"
    assert archive.classes == ("Red bird",)
    assert archive.train.parts["object_boxes"].tolist() == [[0, 0, 8, 8]]
    (root / "cub100").mkdir()
    (root / "CUB_200_2011").rename(root / "cub100" / "CUB_200_2011")
    copy = load("cub100", root=str(root), image_size=8, val_fraction=0.5)
    assert copy.train.labels.tolist() == archive.train.labels.tolist()
    assert copy.train.images[:, 0, 4, 4].tolist() == archive.train.images[:, 0, 4, 4].tolist()
    assert copy.train.parts["object_boxes"].tolist() != [[0, 0, 8, 8]]  # a copy is cropped already: taken whole


def test_a_hundred_names_are_listed():
    names = cub200.CUB100.read_text(encoding="utf8").splitlines()
    assert len(set(names)) == 100


def test_boxes_and_parts_are_not_needed_to_classify(root):
    whole = load("cub", root=str(root), image_size=20)
    shutil.rmtree(root / "CUB_200_2011" / "parts")
    (root / "CUB_200_2011" / "bounding_boxes.txt").unlink()
    data = load("cub", root=str(root), image_size=20)
    assert np.array_equal(data.test.images, whole.test.images)
    assert (data.part_names, dict(data.test.parts)) == ((), {})
    with pytest.raises(FileNotFoundError, match=r"bounding_boxes\.txt is not there"):
        load("cub", root=str(root), image_size=20, crop="box")


def test_one_folder_more_or_less(root):
    expected = load("cub", root=str(root), image_size=20).fingerprint
    assert load("cub", root=str(root / "CUB_200_2011"), image_size=20).fingerprint == expected
    (root / "CUB_200_2011").rename(root / "inner")
    (root / "CUB_200_2011").mkdir()
    (root / "inner").rename(root / "CUB_200_2011" / "CUB_200_2011")
    assert load("cub", root=str(root), image_size=20).fingerprint == expected


@pytest.mark.skipif("FGVC_DATA" not in os.environ, reason="FGVC_DATA names no folder of real photographs")
def test_the_copy_is_near_the_archive():
    """The first classes are there twice, in original size and as the copy's crops."""
    if not all((data_root() / name).is_dir() for name in ("cub10", "cub100")):
        pytest.skip("FGVC_DATA has not both cub10 and cub100")
    shared = sorted(
        {line.split(".", 1)[1] for line in (data_root("cub10") / "CUB_200_2011/classes.txt").read_text().splitlines()}
        & {
            line.split(".", 1)[1]
            for line in (data_root("cub100") / "CUB_200_2011/classes.txt").read_text().splitlines()
        }
    )
    classes = [name.replace("_", " ") for name in shared]
    copy = load("cub100", image_size=128, classes=classes)
    archive = load("cub", root="cub10", image_size=128, classes=classes, crop="box")
    assert copy.classes == archive.classes
    for name in ("train", "val", "test"):
        one, other = getattr(copy, name), getattr(archive, name)
        assert one.labels.tolist() == other.labels.tolist()
        difference = np.abs(one.images.astype(int) - other.images)
        assert difference.mean() < 4  # of 255
        np.testing.assert_allclose(one.parts["points"], other.parts["points"], atol=0.6)


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("image_class_labels.txt", "5 1", "does not lie in the folder of its class"),
        ("train_test_split.txt", None, "train_test_split.txt has no row for image 8"),
    ],
)
def test_tables_that_disagree_are_refused(root, file, row, message):
    path = root / "CUB_200_2011" / file
    lines = path.read_text().splitlines()
    lines[4 if row else 7] = row or ""
    path.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        load("cub", root=str(root))


def test_missing_table_and_missing_image_are_named(root):
    (root / "CUB_200_2011" / "images" / "002.Red_bird" / "7.png").unlink()
    with pytest.raises(ValueError, match=r"7\.png"):
        load("cub", root=str(root), image_size=16)
    (root / "CUB_200_2011" / "parts" / "parts.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"parts\.txt is not there"):
        load("cub", root=str(root))


@pytest.mark.skipif("FGVC_DATA" not in os.environ, reason="set FGVC_DATA to the folder that holds the data sets")
def test_the_real_birds():
    folder = data_root("cub10" if (data_root() / "cub10").is_dir() else "")
    if not (folder / "CUB_200_2011").is_dir():
        pytest.skip("FGVC_DATA holds no CUB_200_2011")
    data = load("cub", root=str(folder), classes=3, image_size=64)
    assert data.classes == ("Black footed Albatross", "Laysan Albatross", "Sooty Albatross")
    assert len(data.train) + len(data.val) == 30 + 30 + 30
    assert len(data.test) == 30 + 30 + 28
    assert len(data.part_names) == 15
    points, boxes = data.test.parts["points"], data.test.parts["object_boxes"]
    seen = ~np.isnan(points[..., 0])
    assert seen.mean() > 0.6
    # the parts of a bird lie in the bird's box, up to a pixel or two of annotation noise
    inside = (points >= boxes[:, None, :2] - 3).all(-1) & (points <= boxes[:, None, 2:] + 3).all(-1)
    assert inside[seen].mean() > 0.98
    assert torch.equal(data.test.labels.unique(), torch.arange(3))
