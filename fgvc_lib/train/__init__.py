"""The training engine: one readable loop, and what it needs to be fast, restartable and distributed."""

from fgvc_lib.train.build import build
from fgvc_lib.train.checkpoint import CheckpointError
from fgvc_lib.train.compiled import CompileError
from fgvc_lib.train.evaluate import evaluate, predict
from fgvc_lib.train.loop import Fitted, fit
from fgvc_lib.train.machine import Stopped
from fgvc_lib.train.random_state import seed_everything
from fgvc_lib.train.trained import Info, load_trained
from fgvc_lib.train.watch import NonFiniteLoss

__all__ = [
    "CheckpointError",
    "CompileError",
    "Fitted",
    "Info",
    "NonFiniteLoss",
    "Stopped",
    "build",
    "evaluate",
    "fit",
    "load_trained",
    "predict",
    "seed_everything",
]
