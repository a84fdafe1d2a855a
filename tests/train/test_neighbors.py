"""What is near in the embedding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.train.inference import Predictor
from fgvc_lib.train.model import build, describe
from fgvc_lib.train.neighbors import Neighbors


@pytest.mark.parametrize("margin", [0, 8])
def test_the_nearest_are_those_of_the_largest_cosine(margin: int) -> None:
    """Training images may be stored with a margin, which evaluation cuts off."""
    rng = np.random.default_rng(0)
    large = rng.integers(0, 256, (6, 3, 16 + margin, 16 + margin), dtype=np.uint8)
    small = rng.integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    train, test = Split(large, torch.arange(6) % 2), Split(small, torch.arange(2))
    data = ImageData("toy", "0", ("a", "b"), train, test, test, (0.5,) * 3, (0.3,) * 3)
    config = Config(backbone_args={"depth": "small", "width": 8}, data_args={"resize": 16 + margin})
    predictor = Predictor(build(config, data), describe(config, data), batch_size=4)
    edge = margin // 2
    centers = large[:, :, edge : edge + 16, edge : edge + 16]
    with torch.no_grad():
        images = (torch.from_numpy(np.concatenate([centers, small])) / 255 - 0.5) / 0.3
        features = F.normalize(predictor.method(images).maps["features"].mean((2, 3)), dim=1)
    expected = features[:6] @ features[6]

    (prediction,) = Predictor(predictor.method, describe(config.replace(data_args={}), data))(
        small[0].transpose(1, 2, 0)
    )
    found = Neighbors(predictor, data)(prediction, 4)
    assert [neighbor.position for neighbor in found] == expected.argsort(descending=True)[:4].tolist()
    assert [neighbor.similarity for neighbor in found] == pytest.approx(expected.sort(descending=True)[0][:4].tolist())
    assert found[0].label == "ab"[found[0].position % 2]
    assert found[0].name == str(found[0].position)
    strip = np.asarray(Neighbors(predictor, data).picture(prediction, found[:1]))
    assert np.array_equal(strip[:, :16], small[0].transpose(1, 2, 0))
    assert np.array_equal(strip[:, 17:], centers[found[0].position].transpose(1, 2, 0))
    assert len(Neighbors(predictor, data)(prediction, 99)) == 6
