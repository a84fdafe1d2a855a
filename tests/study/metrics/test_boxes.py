"""Box and mask measures on a method whose maps are written by hand."""

import numpy as np
import pytest
import torch

from fgvc_lib.backbones import resnet
from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import APCNN, Baseline
from fgvc_lib.methods.base import Method, Output
from fgvc_study.metrics import METRICS, boxes
from fgvc_study.metrics.boxes import near_a_point, points_in_boxes, roi_parts, roi_points, stages

NAN = float("nan")


def rectangle(x1, y1, x2, y2):
    mask = np.zeros((8, 8), bool)
    mask[y1:y2, x1:x2] = True
    return mask


def two_images() -> ImageData:
    """Two images of 8 × 8 with two parts each; part 0 decides the first image, part 1 the second."""
    boxes = np.array([[[0, 0, 2, 2], [4, 4, 8, 8]], [[0, 0, 2, 2], [6, 0, 8, 2]]], np.float32)
    masks = np.array([[rectangle(*box) for box in image.astype(int)] for image in boxes])
    points = (boxes[..., :2] + boxes[..., 2:]) / 2
    points[1, 0] = np.nan  # not visible
    parts = {"masks": masks, "boxes": boxes, "points": points, "discriminative": np.array([0, 1])}
    split = Split(np.zeros((2, 3, 8, 8), np.uint8), torch.arange(2), parts)
    return ImageData("two", "0", ("a", "b"), split, split, split, (0.0,) * 3, (1.0,) * 3)


class Written(Method):
    """Answers two images with fixed maps."""

    def __init__(self, **maps):
        super().__init__()
        self.maps = maps

    def forward(self, images, labels=None):
        return Output(torch.zeros(len(images), 2), {}, self.maps)


def peak_at(*cells):
    mask = torch.full((len(cells), 1, 8, 8), 0.5)
    for i, (row, column) in enumerate(cells):
        mask[i, 0, row, column] = 1
    return mask


def written() -> Written:
    level4 = torch.tensor([[[0, 0, 2, 2], [NAN] * 4], [[0, 0, 4, 4], [4, 4, 8, 8]]])
    level5 = torch.tensor([[[0.0, 0, 8, 4]], [[0, 0, 8, 4]]])
    union = torch.tensor([[[0.0, 0, 8, 4]], [[0, 0, 8, 8]]])
    return Written(
        mask_level4=peak_at((1, 1), (5, 5)),
        mask_level5=peak_at((0, 7), (0, 7)),
        boxes_level4=level4,
        boxes_level5=level5,
        union_box=union,
    )


class TestRoiParts:
    def test_by_hand(self):
        found = roi_parts(written(), two_images(), "cpu")
        assert found["level4/recall"] == 0.5  # the first image's part only
        assert found["level4/recall_elsewhere"] == 0.5  # 0 0 2 2 lies in the second image's box 0 0 4 4
        assert found["level4/area"] == pytest.approx((4 / 64 + 16 / 64) / 2)
        assert found["level5/recall"] == found["all/recall"] == found["union/recall"] == 1
        assert found["all/area"] == pytest.approx(((4 + 32) / 2 + (16 + 16 + 32) / 3) / 2 / 64)
        assert found["union/area"] == 0.75
        assert found["level4/pointing"] == 0.5
        assert found["level4/pointing_elsewhere"] == 0
        assert found["level4/pointing_any"] == 0.5  # (5, 5) is no part of the second bird
        assert found["level5/pointing"] == found["level5/pointing_any"] == 0.5
        assert found["level5/pointing_elsewhere"] == 0.5  # (0, 7) is the second image's part, not the first's

    def test_an_even_mask_has_mass_one(self):
        even = torch.full((2, 1, 4, 4), 0.3)
        found = roi_parts(Written(mask_level5=even), two_images(), "cpu")
        assert found["level5/mass"] == pytest.approx(1)
        assert found["level5/saturated"] == 0

    def test_saturated_cells_are_counted_at_both_ends(self):
        mask = torch.tensor([[0.0, 0.5], [0.5, 0.995]]).expand(2, 1, 2, 2)
        assert roi_parts(Written(mask_level5=mask), two_images(), "cpu")["level5/saturated"] == 0.5

    def test_a_method_with_one_stage_has_masks_but_no_boxes(self):
        found = roi_parts(Written(mask_level5=peak_at((0, 0), (0, 0))), two_images(), "cpu")
        assert {name.split("/")[1] for name in found} == {
            "pointing",
            "pointing_elsewhere",
            "pointing_any",
            "mass",
            "saturated",
        }

    def test_masks_look_where_the_backbone_looks(self, monkeypatch):
        """Position (1, 1) of a ResNet's 2 × 2 map on 8 px looks at pixel 4, on part 1, and not at pixel 6."""
        data, mask = two_images(), torch.tensor([[0.0, 0.0], [0.0, 1.0]]).expand(2, 1, 2, 2)
        data.test.parts["masks"][:] = [rectangle(6, 6, 8, 8), rectangle(4, 4, 5, 5)]
        data.test.parts["points"][:] = [[7, 7], [4.5, 4.5]]
        data.test.parts["discriminative"][:] = 1
        monkeypatch.setattr(boxes, "collect_maps", lambda *_: {"mask_level5": mask})
        method = TestStages.method()
        found = roi_parts(method, data, "cpu")
        assert found["level5/pointing"] == found["level5/pointing_any"] == found["level5/pointing_elsewhere"] == 1
        assert found["level5/mass"] == pytest.approx(4)
        data.test.parts["points"][:, 0] = np.nan
        points = roi_points(method, data, "cpu", tolerance=0.01)
        assert points["level5/pointing"] == points["level5/pointing_elsewhere"] == 1

    def test_no_masks_or_no_truth_is_refused(self):
        with pytest.raises(ValueError, match="masks are needed, such as method 'ap_cnn' has, got Written"):
            roi_parts(Written(), two_images(), "cpu")
        bare = two_images()
        bare.test.parts.pop("discriminative")
        with pytest.raises(ValueError, match="data set 'two' does not know the discriminative of its parts"):
            roi_parts(written(), bare, "cpu")


class TestRoiPoints:
    def test_by_hand(self):
        found = roi_points(written(), two_images(), "cpu", tolerance=0.125)  # one pixel
        # the first image's points are (1, 1) and (6, 6), the second's only visible one (7, 1)
        assert found["level4/points"] == pytest.approx((0.5 + 0) / 2)
        assert found["level4/points_elsewhere"] == pytest.approx((0 + 1) / 2)
        assert found["level5/points"] == pytest.approx((0.5 + 1) / 2)
        assert found["union/points"] == pytest.approx((0.5 + 1) / 2)
        assert found["level4/pointing"] == 0.5  # (1.5, 1.5) is near (1, 1); (5.5, 5.5) far from (7, 1)
        assert found["level4/pointing_elsewhere"] == 0.5  # and near (6, 6)
        assert found["level5/pointing"] == 0.5  # (7.5, 0.5) is near (7, 1)

    def test_images_without_a_point_do_not_count(self):
        boxes = torch.tensor([[[0.0, 0, 8, 8]], [[0.0, 0, 8, 8]]])
        points = torch.tensor([[[1.0, 1.0], [NAN, NAN]], [[NAN, NAN], [NAN, NAN]]])
        share = points_in_boxes(boxes, points)
        assert share[0] == 1
        assert share[1].isnan()
        assert points_in_boxes(torch.full((2, 1, 4), NAN), points)[0] == 0
        near = near_a_point(torch.tensor([[1.0, 4.0], [0.0, 0.0]]), points, tolerance=3)
        assert near[0] == 1
        assert near[1].isnan()

    def test_no_points_are_refused(self):
        bare = two_images()
        bare.test.parts.pop("points")
        with pytest.raises(ValueError, match="does not know the points"):
            roi_points(written(), bare, "cpu")


class TestStages:
    @staticmethod
    def method(stages=2):
        torch.manual_seed(0)
        backbone = resnet("small", width=4)
        return APCNN(backbone, 3, pyramid={"channels": 4, "gate_reduction": 1}, hidden=8, stages=stages)

    @staticmethod
    def data() -> ImageData:
        images = np.random.default_rng(0).integers(0, 255, (12, 3, 32, 32), np.uint8)
        split = Split(images, torch.arange(12) % 3)
        return ImageData("noise", "0", ("a", "b", "c"), split, split, split, (0.5,) * 3, (0.2,) * 3)

    @pytest.mark.parametrize("configured", ["logits", "probabilities"])
    def test_agrees_with_the_method_itself(self, configured):
        method, data = self.method(), self.data()
        method.average = configured
        found = stages(method, data, "cpu")
        assert method.average == configured
        images = (torch.from_numpy(data.test.images) / 255 - 0.5) / 0.2
        labels = data.test.labels
        for average in ("logits", "probabilities"):
            method.average = average
            assert found[average] == pytest.approx((method(images).logits.argmax(1) == labels).float().mean())
        method.average = configured
        method.inference_stages = 1
        assert found["stage1"] == pytest.approx((method(images).logits.argmax(1) == labels).float().mean())
        assert 0 <= found["changed"] <= 1

    def test_one_stage(self):
        found = stages(self.method(stages=1), self.data(), "cpu")
        assert found["stage1"] == found["logits"]
        assert found["changed"] == 0
        assert "stage2" not in found

    def test_another_method_is_refused(self):
        with pytest.raises(ValueError, match="stages are measured of method 'ap_cnn', got Baseline"):
            stages(Baseline(resnet("small", width=4), 3), self.data(), "cpu")


def test_the_names():
    assert METRICS["roi_parts"] is roi_parts
    assert METRICS["roi_points"] is roi_points
    assert METRICS["stages"] is stages
