"""Folders of images: how they are understood, that a copy is split the same, and what is refused."""

import os
import shutil
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fgvc_lib.data import load
from fgvc_lib.data.files import data_root, select
from fgvc_lib.data.image_folder import folder_files, labeled_files


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FGVC_CACHE", str(tmp_path / "cache"))
    if "FGVC_DATA" not in os.environ:
        monkeypatch.setenv("FGVC_DATA", str(tmp_path))


count = iter(range(10**6))


def save(path, *, size=(40, 30)):
    """An image that no other one equals."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(next(count)).integers(0, 256, (size[1] // 10, size[0] // 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize(size).save(path)


def fill(root, *, classes=("crow", "owl", "wren"), each=6):
    for name in classes:
        for i in range(each):
            save(root / name / f"{i}.png", size=(40 + 10 * i, 30))
    return root


def listed(root):
    """Class and file of the images that are held out, by listing and not by loading."""
    chosen = select(folder_files(root=str(root)))
    return {split: sorted(i.key for i in getattr(chosen, split)) for split in ("train", "val", "test")}


class TestSplit:
    def test_a_copy_a_link_and_another_name_are_split_the_same(self, tmp_path):
        root = fill(tmp_path / "my_birds", each=40)
        shutil.copytree(root, tmp_path / "birds_2026")
        os.symlink(root, tmp_path / "linked")
        first = listed(root)
        assert [len(first[split]) for split in ("train", "val", "test")] == [81, 9, 30]
        assert first["test"][0] == "crow/23.png"
        assert listed(tmp_path / "birds_2026") == listed(tmp_path / "linked") == first
        loaded = [load("folder", root=str(tmp_path / name), image_size=8) for name in ("my_birds", "birds_2026")]
        assert loaded[0].fingerprint == loaded[1].fingerprint

    def test_the_split_is_this_one(self, tmp_path):
        # a fixed answer: a change of it would train on what others have tested on
        root = fill(tmp_path / "set", classes=("crow", "owl"), each=8)
        assert listed(root)["test"] == ["crow/2.png", "crow/7.png", "owl/4.png", "owl/6.png"]

    def test_how_a_file_system_writes_accents_makes_no_difference(self, tmp_path):
        for form in ("NFC", "NFD"):
            name = unicodedata.normalize(form, "Möwe")
            for i in range(8):
                save(tmp_path / form / name / f"Flügel {i}.png")
                save(tmp_path / form / "owl" / f"{i}.png")
        assert listed(tmp_path / "NFC") == listed(tmp_path / "NFD")
        assert folder_files(root=str(tmp_path / "NFD")).classes == ("Möwe", "owl")  # composed, as they are typed
        both = tmp_path / "both"
        shutil.copytree(tmp_path / "NFC", both / "train")
        shutil.copytree(tmp_path / "NFD", both / "test")
        assert len(folder_files(root=str(both)).test) == 16

    def test_names_that_are_not_utf8(self, tmp_path):
        root = fill(tmp_path / "set")
        os.rename(root / "owl" / "0.png", os.fsencode(root / "owl") + b"/\xe9.png")
        assert len(load("folder", root=str(root), image_size=8).test) == 6
        os.rename(root / "owl", os.fsencode(root) + b"/M\xf6we")
        with pytest.raises(ValueError, match=r"the name of '.*M\\udcf6we' is not UTF-8: rename the folder"):
            folder_files(root=str(root))


class TestLayouts:
    def test_one_folder_per_class(self, tmp_path):
        root = fill(tmp_path / "set")
        data = load("folder", root=str(root), image_size=16, test_fraction=0.34, val_fraction=0.25)
        assert data.classes == ("crow", "owl", "wren")
        assert [s.labels.bincount().tolist() for s in (data.train, data.val, data.test)] == [[3] * 3, [1] * 3, [2] * 3]
        assert data.train.images.shape == (9, 3, 16, 16)
        assert data.summary == (
            "set: 3 classes ('crow', 'owl', 'wren'), 9 training, 3 validation, 6 test images; "
            "34% of each class held out for the test"
        )
        assert [key.split("/")[0] for key in data.val.keys] == ["crow", "owl", "wren"]

    @pytest.mark.parametrize(
        ("train", "val", "test"),
        [("train", "val", "test"), ("Train", "valid", "TEST"), ("training", "Validation", "testing")],
    )
    def test_train_val_and_test_whatever_they_are_called(self, tmp_path, train, val, test):
        for name, each in ((train, 5), (val, 2), (test, 3)):
            fill(tmp_path / "set" / name, each=each)
        data = load("folder", root=str(tmp_path / "set"), image_size=8)
        assert data.classes == ("crow", "owl", "wren")
        assert [len(data.train), len(data.val), len(data.test)] == [15, 6, 9]
        assert data.val.keys[0] == "val/crow/0.png"  # by the split's own name, whatever the folder's
        assert data.summary.endswith("; split as given")

    def test_train_and_val(self, tmp_path):
        fill(tmp_path / "set" / "train")
        fill(tmp_path / "set" / "val", each=2)
        data = load("folder", root=str(tmp_path / "set"), image_size=8)
        assert data.classes == ("crow", "owl", "wren")  # not train and val
        assert [len(data.train), len(data.val), len(data.test)] == [18, 6, 0]

    def test_train_and_test(self, tmp_path):
        fill(tmp_path / "set" / "train")
        save(tmp_path / "set" / "test" / "owl" / "deep" / "x.png")
        (tmp_path / "set" / "test" / "owl" / "notes.txt").write_text("no image")
        with pytest.warns(UserWarning, match="no test image of 'crow', 'wren', so the test says nothing of it"):
            data = load("folder", root=str(tmp_path / "set"), image_size=16)
        assert data.test.labels.tolist() == [1]  # the owl stays the second class
        assert [len(data.train), len(data.val)] == [15, 3]
        assert data.summary.endswith("passed over: 1 .txt")

    def test_train_alone_is_split_like_a_folder_without_it(self, tmp_path):
        fill(tmp_path / "set" / "train")
        data = load("folder", root=str(tmp_path / "set"), image_size=16)
        assert [len(data.train), len(data.val), len(data.test)] == [9, 3, 6]

    def test_an_unlabeled_test_is_passed_over_and_named(self, tmp_path):
        fill(tmp_path / "set" / "train")
        save(tmp_path / "set" / "test" / "1.png")
        with pytest.warns(UserWarning, match="images passed over: 1 in test, which has no folder per class"):
            data = load("folder", root=str(tmp_path / "set"), image_size=16)
        assert len(data.test) == 6

    def test_a_class_may_be_called_train(self, tmp_path):
        root = fill(tmp_path / "set", classes=("bus", "car", "train"))
        assert folder_files(root=str(root)).classes == ("bus", "car", "train")

    def test_class_with_one_image_is_trained_and_not_tested(self, tmp_path):
        root = fill(tmp_path / "set")
        save(root / "emu" / "only.png")
        with pytest.warns(UserWarning, match="no test image of 'emu'"):
            data = load("folder", root=str(root), image_size=16)
        emu = data.classes.index("emu")
        assert (data.train.labels == emu).sum() == 1
        assert emu not in data.val.labels.tolist() + data.test.labels.tolist()

    @pytest.mark.skipif("FGVC_DATA" not in os.environ, reason="set FGVC_DATA to the folder that holds the data sets")
    def test_real_cars(self):
        if not (data_root() / "cars196_crops").is_dir():
            pytest.skip("FGVC_DATA holds no cars196_crops")
        data = load("cars196_crops", image_size=32, classes=2, per_class=5)
        assert len(data.train) == 10
        assert data.classes[0] == "001.AM_General_Hummer_SUV_2000"


class TestJunk:
    def test_copies_that_jupyter_makes_do_not_leak_into_the_test(self, tmp_path):
        root = fill(tmp_path / "set", each=24)
        for path in list(root.glob("*/*.png")):
            copy = path.parent / ".ipynb_checkpoints" / f"{path.stem}-checkpoint.png"
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(path, copy)
        with pytest.warns(UserWarning, match=r"set: images passed over: 72 hidden in \.ipynb_checkpoints"):
            data = load("folder", root=str(root), image_size=8)
        assert len(data.train) + len(data.val) + len(data.test) == 72

    def test_copies_across_splits_are_told(self, tmp_path):
        root = fill(tmp_path / "set" / "train")
        shutil.copytree(root / "owl", tmp_path / "set" / "test" / "owl")
        for name in ("crow", "wren"):
            save(tmp_path / "set" / "test" / name / "new.png")
        expected = "6 images that are held out are copies of training images ('test/owl/0.png of train/owl/0.png'"
        with pytest.warns(UserWarning, match=expected.replace("(", r"\(")):
            load("folder", root=str(tmp_path / "set"), image_size=8, val_fraction=0.0)

    def test_images_beside_the_classes_are_told(self, tmp_path):
        root = fill(tmp_path / "set")
        save(root / "loose.png")
        with pytest.warns(UserWarning, match="1 beside the folders of the classes in set"):
            data = load("folder", root=str(root), image_size=8)
        assert len(data.train) + len(data.val) + len(data.test) == 18


class TestRefused:
    def refused(self, root, sentence, call=folder_files, **options):
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            call(root=str(root), **options)

    def test_what_is_no_folder(self, tmp_path):
        self.refused(tmp_path / "nowhere", "nowhere is not there: give the folder that holds one folder of images per")
        (tmp_path / "birds.zip").write_bytes(b"PK")
        self.refused(tmp_path / "birds.zip", r"birds\.zip is an archive: unpack it and give the folder that holds")
        (tmp_path / "list.txt").write_text("")
        self.refused(tmp_path / "list.txt", r"list\.txt is a file: give a CSV of labels or the folder that holds")

    def test_without_images_or_without_classes(self, tmp_path):
        (tmp_path / "empty").mkdir()
        self.refused(tmp_path / "empty", "empty has no images: put the images of each class into a folder of its own")
        save(tmp_path / "loose" / "1.png")
        self.refused(tmp_path / "loose", "loose has images, but no folders of images: .* `fgvc predict` takes images")
        for name in ("train", "test"):
            save(tmp_path / "flat" / name / "1.png")
        self.refused(tmp_path / "flat", "has test and train with images, but no folder per class in them")
        root = fill(tmp_path / "set")
        (root / "zebra").mkdir()
        self.refused(root, "class 'zebra' of .*set has no images: add some or remove its folder")
        (root / "zebra" / "1.heic").write_bytes(b"")
        self.refused(root, r"class 'zebra' of .*set has no images but 1 \.heic")

    def test_one_class_is_nothing_to_tell_apart(self, tmp_path):
        self.refused(fill(tmp_path / "jpg", classes=("jpg",)), "jpg has one class, 'jpg': classes to tell apart need")
        fill(tmp_path / "split" / "train", classes=("owl",))
        self.refused(tmp_path / "split", "split has one class, 'owl'")

    def test_splits_and_classes_side_by_side_or_inside_out(self, tmp_path):
        root = fill(tmp_path / "mixed" / "train").parent
        fill(root, classes=("crow",))
        self.refused(root, "mixed has train and beside them 'crow': split folders or classes")
        fill(tmp_path / "turned" / "crow", classes=("train", "test"))
        fill(tmp_path / "turned" / "owl", classes=("train", "test"))
        self.refused(tmp_path / "turned", "turned has crow/test: put the splits on top, test/crow")
        for name in ("val", "valid", "train"):
            fill(tmp_path / "twice" / name)
        self.refused(tmp_path / "twice", "has train and val and valid: keep one folder for each split")

    def test_classes_that_are_not_trained(self, tmp_path):
        fill(tmp_path / "set" / "train")
        fill(tmp_path / "set" / "test", classes=("crow", "emu", "kiwi"))
        self.refused(tmp_path / "set", "test has classes that train has not: 'emu', 'kiwi'$")
        fill(tmp_path / "only" / "test")
        self.refused(tmp_path / "only", "only has test but no train: `fgvc evaluate` scores a model on it")


class TestLabeled:
    """To score a model on."""

    CLASSES = ("crow", "emu", "owl", "wren")

    def keys(self, root, **options):
        files = labeled_files(root=str(root), classes=self.CLASSES, **options)
        assert files.classes == self.CLASSES
        assert not files.train
        return [(item.key, item.label) for item in files.test]

    def test_all_of_a_folder_with_some_of_the_classes(self, tmp_path):
        keys = self.keys(fill(tmp_path / "set", classes=("owl", "crow"), each=5))
        assert len(keys) == 10
        assert keys[0] == ("crow/0.png", 0)
        assert keys[-1] == ("owl/4.png", 2)
        assert len(self.keys(fill(tmp_path / "one", classes=("wren",), each=5))) == 5

    def test_of_a_split_folder_the_test_or_what_is_asked_for(self, tmp_path):
        for name, each in (("train", 5), ("valid", 2), ("test", 3)):
            fill(tmp_path / "set" / name, each=each)
        assert len(self.keys(tmp_path / "set")) == 9
        assert len(self.keys(tmp_path / "set", split="val")) == 6
        fill(tmp_path / "only" / "test", each=3)
        assert len(self.keys(tmp_path / "only")) == 9
        with pytest.raises(ValueError, match="only has no val, but test"):
            self.keys(tmp_path / "only", split="val")

    def test_classes_that_the_model_does_not_know_are_named(self, tmp_path):
        root = fill(tmp_path / "set", classes=("crow", "kiwi", "moa"))
        expected = "classes that the model does not know: 'kiwi', 'moa'; it knows 'crow', 'emu', 'owl', 'wren'"
        with pytest.raises(ValueError, match=expected):
            self.keys(root)


class TestTable:
    """Labels from a CSV."""

    @pytest.fixture
    def photos(self, tmp_path):
        for i in range(12):
            save(tmp_path / "photos" / f"IMG {i:02d}.JPG")
        return tmp_path

    def table(self, photos, text, *, name="birds.csv", encoding="utf8"):
        (photos / name).write_text(text, encoding=encoding)
        return str(photos / name)

    def rows(self, *, split=None, delimiter=","):
        labels = ["wren"] * 4 + ["crow"] * 4 + ["Möwe"] * 4
        header = ["file", "label", *(["split"] if split else [])]
        rows = [
            [f"photos/IMG {i:02d}.JPG", label, *([split[i % 4]] if split else [])] for i, label in enumerate(labels)
        ]
        return "\n".join(delimiter.join(row) for row in [header, *rows]) + "\n"

    def test_without_splits_it_is_split_like_a_folder(self, photos):
        data = load("folder", root=self.table(photos, self.rows()), image_size=8)
        assert data.name == "birds"
        assert data.classes == ("Möwe", "crow", "wren")
        assert [len(data.train), len(data.val), len(data.test)] == [6, 3, 3]
        for split in (data.train, data.val, data.test):
            for key, label in zip(split.keys, split.labels.tolist(), strict=True):
                name, number = key.split("/")[0], int(key[-6:-4])
                assert data.classes[label] == name == ["wren", "crow", "Möwe"][number // 4]

    @pytest.mark.parametrize(("delimiter", "encoding"), [(",", "utf8"), (";", "utf-8-sig"), ("\t", "utf8")])
    def test_with_splits_as_spreadsheets_write_it(self, photos, delimiter, encoding):
        text = self.rows(split=["train", "Train", "valid", "test"], delimiter=delimiter)
        chosen = listed(self.table(photos, text, encoding=encoding))
        assert [len(chosen[split]) for split in ("train", "val", "test")] == [6, 3, 3]
        assert chosen["val"] == [f"val/{c}/photos/IMG {i:02d}.JPG" for c, i in (("Möwe", 10), ("crow", 6), ("wren", 2))]

    def test_to_score_a_model_on(self, photos):
        files = labeled_files(root=self.table(photos, self.rows()), classes=("crow", "Möwe", "owl", "wren"))
        assert [item.label for item in files.test] == [0] * 4 + [1] * 4 + [3] * 4
        with pytest.raises(ValueError, match=r"birds\.csv has classes that the model does not know: 'Möwe'"):
            labeled_files(root=str(photos / "birds.csv"), classes=("crow", "owl", "wren"))

    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            ("name,class\na,b\n", "must begin with the columns file,label or file,label,split, got 'name,class'"),
            (
                "file,label\nphotos/IMG 00.JPG,\n",
                "line 2: every image needs a file and a label, got 'photos/IMG 00.JPG', ''",
            ),
            (
                "file,label,split\nphotos/IMG 00.JPG,a,\n",
                "line 2: every image needs a file, a label and a split of train, val or test, got",
            ),
            (
                "file,label\nphotos/IMG 00.JPG,a\nphotos/IMG 00.JPG,b\n",
                "line 3: photos/IMG 00.JPG is there twice, and one image has one label",
            ),
            ("file,label\nx.jpg,a\ny.jpg,b\n", r"names 2 files that are not in .*: 'x.jpg', 'y.jpg'"),
            ("file,label\n", "names no image that can be read"),
            ("file,label\nphotos/IMG 00.JPG,a\n", "has one class, 'a'"),
        ],
    )
    def test_what_is_wrong_is_told_with_its_line(self, photos, text, sentence):
        with pytest.raises(ValueError, match=sentence):
            folder_files(root=self.table(photos, text))

    def test_a_table_that_is_not_utf8_is_told(self, photos):
        with pytest.raises(ValueError, match=r"birds\.csv is not UTF-8: save it as that"):
            folder_files(root=self.table(photos, self.rows(), encoding="latin1"))
        quoted = self.rows().replace("file,label", '"file","label"')
        assert len(folder_files(root=self.table(photos, quoted)).classes) == 3

    def test_what_cannot_be_read_is_told(self, photos):
        (photos / "photos" / "a.dng").write_bytes(b"")
        root = self.table(photos, self.rows() + "photos/a.dng,wren\n")
        with pytest.warns(UserWarning, match=r"birds: images passed over: 1 \.dng that cannot be read"):
            load("folder", root=root, image_size=8)
