"""The sets that torchvision reads, on tiny made-up copies of their layouts."""

import numpy as np
import pytest
import scipy.io
from PIL import Image

from fgvc_lib.data import load


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))


def save(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 10), (level, level, level)).save(path, quality=100)


def levels(split):
    return split.images[:, 0, 0, 0].astype(int)


def test_aircraft(tmp_path):
    base = tmp_path / "fgvc-aircraft-2013b" / "data"
    for i in range(8):
        save(base / "images" / f"{i:07d}.jpg", 30 * i)
    (base / "variants.txt").write_text("707-320\nA310\n")
    rows = {i: f"{i:07d} {'707-320' if i < 4 else 'A310'}" for i in range(8)}
    split = {"trainval": (0, 1, 2, 4, 5, 6), "test": (3, 7), "train": (0, 4), "val": (1, 5)}
    for name, members in split.items():
        (base / f"images_variant_{name}.txt").write_text("\n".join(rows[i] for i in members))
    data = load("aircraft", image_size=8, val_fraction=0.3)
    assert data.classes == ("707-320", "A310")
    assert len(data.train) == 4
    assert len(data.val) == 2
    for part in (data.train, data.val, data.test):
        assert ((levels(part) >= 115).astype(int) == part.labels.numpy()).all()


def test_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    for name, first in (("Abyssinian", 0), ("pug", 120)):
        for i in range(4):
            save(base / "images" / f"{name}_{i}.jpg", first + 10 * i)
    (base / "annotations").mkdir()
    rows = {name: [f"{name}_{i} {c} 1 1" for i in range(4)] for c, name in ((1, "Abyssinian"), (2, "pug"))}
    (base / "annotations" / "trainval.txt").write_text("\n".join(rows["Abyssinian"][:3] + rows["pug"][:3]))
    (base / "annotations" / "test.txt").write_text("\n".join(rows["Abyssinian"][3:] + rows["pug"][3:]))
    data = load("pets", image_size=8)
    assert [name.lower() for name in data.classes] == ["abyssinian", "pug"]
    assert (len(data.train), len(data.val), len(data.test)) == (4, 2, 2)
    for part in (data.train, data.val, data.test):
        assert ((levels(part) >= 100).astype(int) == part.labels.numpy()).all()


def test_cars_and_what_to_do_without_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no longer offered for download: lay .*stanford_cars out with devkit/"
    ):
        load("cars")
    base = tmp_path / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    names = np.empty(2, object)
    names[:] = ["Audi A", "BMW B"]
    scipy.io.savemat(base / "devkit" / "cars_meta.mat", {"class_names": names})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.empty(6, dtype=[("class", object), ("fname", object)])
        for i in range(6):
            rows[i] = (1 + i // 3, f"{i:05d}.jpg")
            save(base / f"cars_{split}" / f"{i:05d}.jpg", 40 * i)
        scipy.io.savemat(base / file, {"annotations": rows})
    (base / "cars_test" / "cars_test").mkdir()  # as Kaggle's copy is packed
    with pytest.raises(FileNotFoundError, match=r"cars_test holds another cars_test: move its images one folder up"):
        load("cars", image_size=8)
    (base / "cars_test" / "cars_test").rmdir()
    data = load("cars", image_size=8)
    assert data.classes == ("Audi A", "BMW B")
    assert (len(data.train), len(data.val), len(data.test)) == (4, 2, 6)
    for part in (data.train, data.val, data.test):
        assert ((levels(part) >= 100).astype(int) == part.labels.numpy()).all()


def test_flowers(tmp_path, monkeypatch):
    base = tmp_path / "flowers-102"
    for i in range(1, 7):
        save(base / "jpg" / f"image_{i:05d}.jpg", 30 * i)
    scipy.io.savemat(base / "imagelabels.mat", {"labels": np.array([[1, 1, 1, 2, 2, 2]])})
    scipy.io.savemat(base / "setid.mat", {"trnid": [[1, 4]], "valid": [[2, 5]], "tstid": [[3, 6]]})
    monkeypatch.setattr("torchvision.datasets.Flowers102._check_integrity", lambda self: True)  # sums of the real files
    data = load("flowers", image_size=8, classes=2)
    assert data.classes[1] == "flower 002"
    assert (len(data.train), len(data.val), len(data.test)) == (2, 2, 2)
    for part in (data.train, data.val, data.test):
        assert ((levels(part) >= 105).astype(int) == part.labels.numpy()).all()
    official = load("flowers", image_size=8, classes=2, official_val=True)
    found = [np.round(levels(part) / 30).astype(int).tolist() for part in (official.train, official.val, official.test)]
    assert found == [[1, 4], [2, 5], [3, 6]]


def test_a_download_is_whole_or_not_there(tmp_path, monkeypatch):
    def half(self):
        (tmp_path / "seen").write_text(str(self._base_folder))
        self._base_folder.mkdir(parents=True)
        raise OSError("no route")

    monkeypatch.setattr("torchvision.datasets.OxfordIIITPet._download", half)
    with pytest.raises(OSError, match="no route"):
        load("pets", download=True)
    assert not (tmp_path / "oxford-iiit-pet").exists()
    assert (tmp_path / "seen").read_text() != str(tmp_path / "oxford-iiit-pet")
