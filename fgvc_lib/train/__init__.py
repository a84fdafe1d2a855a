"""The training engine: one readable loop, and what it needs to be fast, restartable and distributed.

Read ``trainer.py`` from top to bottom; every other file holds one part of it.
"""

from fgvc_lib.train.checkpoint import CheckpointError
from fgvc_lib.train.evaluation import evaluate, predict
from fgvc_lib.train.inference import Prediction, Predictor, image_files, write_embeddings
from fgvc_lib.train.machine import Stopped
from fgvc_lib.train.model import build, check_settings, load_trained, run_folder
from fgvc_lib.train.neighbors import Neighbors
from fgvc_lib.train.trainer import CompileError, Fitted, NonFiniteLoss, fit

__all__ = [
    "CheckpointError",
    "CompileError",
    "Fitted",
    "Neighbors",
    "NonFiniteLoss",
    "Prediction",
    "Predictor",
    "Stopped",
    "build",
    "check_settings",
    "evaluate",
    "fit",
    "image_files",
    "load_trained",
    "predict",
    "run_folder",
    "write_embeddings",
]
