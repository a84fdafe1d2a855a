"""What is measured on a trained method, by the name that a configuration gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.measures.adversarial import fgsm
from fgvc_lib.measures.boxes import roi_parts, roi_points, stages
from fgvc_lib.measures.channels import complements
from fgvc_lib.measures.cost import cost
from fgvc_lib.measures.embedding import center_drift, compactness, features_2d, verification
from fgvc_lib.measures.groups import group_parts
from fgvc_lib.measures.predictions import correct
from fgvc_lib.measures.sampling import channel_parts, magnification, part_net
from fgvc_lib.methods.base import Method

Measure = Callable[[Method, ImageData, str], Mapping[str, float | np.ndarray]]

MEASURES: dict[str, Measure] = {
    "center_drift": center_drift,
    "channel_parts": channel_parts,
    "compactness": compactness,
    "complements": complements,
    "correct": correct,
    "cost": cost,
    "features_2d": features_2d,
    "fgsm": fgsm,
    "group_parts": group_parts,
    "magnification": magnification,
    "part_net": part_net,
    "roi_parts": roi_parts,
    "roi_points": roi_points,
    "stages": stages,
    "verification": verification,
}
"""Name → ``measure(method, data, device)``; numbers go to a record's ``final``, arrays beside it."""

__all__ = ["MEASURES", "Measure"]
