"""What is measured on a trained method, by the name that an experiment gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.methods.base import Method
from fgvc_study.metrics.adversarial import fgsm
from fgvc_study.metrics.boxes import roi_parts, roi_points, stages
from fgvc_study.metrics.channels import complements
from fgvc_study.metrics.cost import cost
from fgvc_study.metrics.embedding import center_drift, compactness, features_2d, verification
from fgvc_study.metrics.groups import group_parts
from fgvc_study.metrics.parts import NotApplicable
from fgvc_study.metrics.points import group_points, point_magnification
from fgvc_study.metrics.predictions import correct
from fgvc_study.metrics.sampling import channel_parts, magnification, part_net

Metric = Callable[[Method, ImageData, str], Mapping[str, float | np.ndarray]]

METRICS: dict[str, Metric] = {
    "center_drift": center_drift,
    "channel_parts": channel_parts,
    "compactness": compactness,
    "complements": complements,
    "correct": correct,
    "cost": cost,
    "features_2d": features_2d,
    "fgsm": fgsm,
    "group_parts": group_parts,
    "group_points": group_points,
    "magnification": magnification,
    "part_net": part_net,
    "point_magnification": point_magnification,
    "roi_parts": roi_parts,
    "roi_points": roi_points,
    "stages": stages,
    "verification": verification,
}
"""Name → ``metric(method, data, device)``; numbers go to a record's ``final``, arrays beside it."""

__all__ = ["METRICS", "Metric", "NotApplicable"]
