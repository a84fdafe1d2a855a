"""The six methods and their baselines, each a forward pass with its own loss."""

from fgvc_lib.methods.base import Method, Output, Phase
from fgvc_lib.methods.baseline import Baseline
from fgvc_lib.methods.center import Center

METHODS: dict[str, type[Method]] = {
    "baseline": Baseline,
    "center": Center,
}
"""Name in a configuration → class, constructed as ``METHODS[name](backbone, num_classes, **method_args)``."""

__all__ = ["METHODS", "Baseline", "Center", "Method", "Output", "Phase"]
