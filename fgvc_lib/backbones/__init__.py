"""Backbones: ResNet, VGG, LeNet++ and timm's convolutional networks, cut into named stages.

Every method sees a backbone through three things: ``stages`` (names in order), ``channels`` and ``strides``
(per stage), and ``forward``, which returns the map of every stage. ``resume`` runs the stages above a given
map, which a second pass over a cropped feature needs.

>>> import torch
>>> net = resnet("small", width=16)
>>> {name: tuple(x.shape[1:]) for name, x in net(torch.zeros(1, 3, 64, 64)).items()}
{'layer1': (16, 32, 32), 'layer2': (32, 16, 16), 'layer3': (64, 8, 8)}
"""

from collections.abc import Callable, Mapping
from typing import Any

from fgvc_lib.backbones.backbone import Backbone
from fgvc_lib.backbones.lenet import lenet_pp
from fgvc_lib.backbones.resnet import resnet
from fgvc_lib.backbones.timm_network import timm_network
from fgvc_lib.backbones.vgg import vgg

BACKBONES: dict[str, Callable[..., Backbone]] = {
    "resnet": resnet,
    "vgg": vgg,
    "lenet_pp": lenet_pp,
    "timm": timm_network,
}
"""Name in a configuration → constructor."""


def from_settings(settings: Mapping[str, Any], what: str) -> Backbone:
    """A backbone from plain data, ``{"backbone": "vgg", "depth": 11}``; a message calls the settings ``what``."""
    arguments = dict(settings)
    name = arguments.pop("backbone", None)
    if name not in BACKBONES:
        raise ValueError(
            f"{what} must name its backbone, one of {', '.join(BACKBONES)}, like {{'backbone': 'vgg', 'depth': 11}}; "
            f"got {dict(settings)!r}"
        )
    return BACKBONES[name](**arguments)


__all__ = ["BACKBONES", "Backbone", "from_settings", "lenet_pp", "resnet", "timm_network", "vgg"]
