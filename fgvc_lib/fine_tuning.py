"""What a run on a folder of photographs starts from: a network that has seen ImageNet, and rates that suit it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fgvc_lib.config import Config


def fine_tuning(root: str | Path, *, pretrained: bool = True) -> Config:
    """The configuration that ``fgvc train FOLDER`` starts from.

    EfficientNet-Lite0, whose ImageNet weights a package carries, at 128 px: minutes on two CPU cores for some hundred
    images. New layers learn ten times as fast as the pretrained ones; the stem and the fine maps, half of the work,
    keep what they know; weight decay spares norms and biases; labels are smoothed; crops, flips and light changes of
    color make more of few images. Change any of it with :meth:`~fgvc_lib.config.Config.replace`.

    >>> fine_tuning("my_birds").replace(epochs=40).backbone_args["name"]
    'tf_efficientnet_lite0'

    Args:
        root: one folder of images for each class; relative to ``FGVC_DATA`` unless absolute.
        pretrained: False for fresh weights, all learning at the one rate that they need.
    """
    kept: dict[str, Any] = {"frozen_stages": 3, "backbone_lr_scale": 0.1} if pretrained else {}
    return Config(
        backbone="timm",
        backbone_args={"name": "tf_efficientnet_lite0", "conv_head": False, "pretrained": pretrained},
        data="folder",
        data_args={"root": str(root), "image_size": 128, "augment": ["resized_crop", "flip", "color"]},
        epochs=20,
        batch_size=32,
        weight_decay=1e-4,
        norm_weight_decay=0.0,
        warmup=0.1,
        label_smoothing=0.1,
        **kept,
    )
