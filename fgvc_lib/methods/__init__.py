"""The six methods and their baselines, each a forward pass with its own loss."""

from fgvc_lib.methods.ap_cnn import APCNN
from fgvc_lib.methods.base import Method, Output, Phase
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.bcnn import BilinearCNN
from fgvc_lib.methods.center import Center
from fgvc_lib.methods.cin import BASES, CIN
from fgvc_lib.methods.mutual_channel import MutualChannel
from fgvc_lib.methods.tasn import TASN

METHODS: dict[str, type[Method]] = BASES | {"cin": CIN}
"""Name in a configuration → class, constructed as ``METHODS[name](backbone, num_classes, **method_args)``."""

__all__ = [
    "APCNN",
    "CIN",
    "METHODS",
    "TASN",
    "Baseline",
    "BilinearCNN",
    "Center",
    "Method",
    "MutualChannel",
    "Output",
    "Phase",
]
