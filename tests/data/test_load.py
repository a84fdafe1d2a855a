"""``load`` and the digits."""

import os
import re

import numpy as np
import pytest
import torch

from fgvc_lib.data import DATASETS, load
from fgvc_lib.data.files import data_root
from fgvc_lib.data.handwritten import _enlarge


def test_unknown_names_and_arguments():
    with pytest.raises(ValueError, match="no data set 'bird': choose from birds, birds_oracle, digits"):
        load("bird")
    with pytest.raises(ValueError, match="'birds': unknown argument clases: choose from classes, per_class"):
        load("birds", clases=3)
    with pytest.raises(ValueError, match="'cub': unknown argument size: choose from root, download, crop, image_size"):
        load("cub", size=3)
    with pytest.raises(ValueError, match="'folder': the argument root is needed"):
        load("folder")
    with pytest.raises(ValueError, match="'folder': resize must be a valid integer, got '40'"):
        load("folder", root="x", resize="40")


@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"birds", "birds_oracle", "digits", "folder"}))
def test_without_files_the_error_says_what_to_do(name, monkeypatch, tmp_path):
    monkeypatch.delenv("FGVC_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="set the environment variable FGVC_DATA"):
        load(name)
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load(name)


def test_root_is_relative_to_the_variable(monkeypatch, tmp_path):
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))
    assert data_root("x") == tmp_path / "x"
    assert data_root("/y") == data_root("/y").absolute()


def test_digits_are_frozen_and_stratified():
    data = load("digits")
    assert data.fingerprint == "4f867793e5e5afa2"
    assert data.train.images.shape[1:] == (1, 28, 28)
    assert len(data.train) + len(data.val) + len(data.test) == 1797
    for split, fraction in ((data.test, 0.25), (data.val, 0.75 * 0.15)):
        counts = split.labels.bincount()
        assert (counts / 179.7 - fraction).abs().max() < 0.01
    assert load("digits", seed=1).fingerprint != data.fingerprint


def test_enlarging_is_torchs_bilinear():
    image = np.random.default_rng(0).integers(0, 17, (3, 8, 8))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image)[:, None].double(), (28, 28), mode="bilinear", align_corners=False
    )[:, 0]
    difference = _enlarge(image) - (expected.numpy() * 255 / 16)
    assert np.abs(difference).max() <= 0.5 + 1e-9


@pytest.mark.skipif("FGVC_DATA" not in os.environ, reason="set FGVC_DATA to the folder that holds the data sets")
def test_mnist_on_the_real_files():
    if not (data_root() / "MNIST").is_dir():
        pytest.skip("FGVC_DATA holds no MNIST")
    data = load("mnist", per_class=50)
    assert len(data.train) == 500
    assert data.train.labels.bincount().tolist() == [50] * 10
    assert len(data.val) == 6000
    assert len(data.test) == 10000
    assert data.test.images.mean() / 255 == pytest.approx(0.1325, abs=1e-3)
