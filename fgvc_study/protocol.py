"""From the parameters that all chapters share to the configuration that their variants start from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fgvc_lib.backbones import BACKBONES
from fgvc_lib.config import Config
from fgvc_study.experiment import vary


def network(name: str, *, pretrained: bool = False) -> dict[str, Any]:
    """``backbone`` and ``backbone_args`` of a configuration, from one name.

    Args:
        name: ``"small"``, three stages of one residual block for 64 px images on a CPU; ``"resnet50"``, ``"vgg16"``,
            ``"vgg16_bn"`` and their like from torchvision; another key of :data:`fgvc_lib.backbones.BACKBONES`; else
            timm's name of a network.
        pretrained: start from ImageNet weights.
    """
    weights = {"pretrained": True} if pretrained else {}
    if name == "small":
        return {"backbone": "resnet", "backbone_args": {"depth": "small", "width": 16} | weights}
    if found := re.fullmatch(r"resnet(\d+)", name):
        return {"backbone": "resnet", "backbone_args": {"depth": int(found[1])} | weights}
    if found := re.fullmatch(r"vgg(\d+)(_bn)?", name):
        return {"backbone": "vgg", "backbone_args": {"depth": int(found[1]), "batch_norm": bool(found[2])} | weights}
    if name in BACKBONES:
        return {"backbone": name, "backbone_args": weights}
    return {"backbone": "timm", "backbone_args": {"name": name} | weights}


def configuration(
    *,
    dataset: str,
    backbone: str,
    image_size: int | None = None,
    pretrained: bool = False,
    settings: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Config:
    """The common protocol with a chapter's parameters: every variant of its experiments starts from this.

    SGD with momentum 0.9 and weight decay 5e-4, linear warm-up over a tenth of the run, then cosine to zero; random
    crops and flips; the last epoch counts, and the test split is used once.

    Args:
        dataset: a key of :data:`fgvc_lib.data.DATASETS`.
        backbone, pretrained: as of :func:`network`.
        image_size: of the data set, in pixels; None where it has a size of its own.
        settings: further fields of :class:`fgvc_lib.config.Config` that a profile changes; mappings are merged.
        **knobs: ``epochs``, ``batch_size``, ``lr``, ``max_steps``, …
    """
    data_args = {} if image_size is None else {"image_size": image_size}
    start = Config(data=dataset, data_args=data_args, warmup=0.1, **network(backbone, pretrained=pretrained), **knobs)
    return vary(start, **(settings or {}))
