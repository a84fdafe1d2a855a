"""Classifier heads: from a pooled feature ``(B, C)`` to logits ``(B, num_classes)``."""

from typing import Literal

from torch import nn

Head = Literal["linear", "bn_elu"]


def make_head(kind: Head, in_features: int, num_classes: int, *, hidden: int) -> nn.Module:
    """One linear layer, the plain baseline's, or :func:`bn_elu_head` of this width."""
    if kind == "linear":
        return nn.Linear(in_features, num_classes)
    return bn_elu_head(in_features, num_classes, hidden=hidden)


def bn_elu_head(in_features: int, num_classes: int, *, hidden: int = 512) -> nn.Sequential:
    """BN → FC → BN → ELU → FC, the head that MC-Loss and AP-CNN release.

    It lifts a plain network by itself, so a method that brings it is compared with a baseline that has it too.

    Args:
        in_features: channels of the pooled feature.
        num_classes: number of logits.
        hidden: width between the two linear layers; 512 in both releases for 200 classes.
    """
    return nn.Sequential(
        nn.BatchNorm1d(in_features),
        nn.Linear(in_features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ELU(inplace=True),
        nn.Linear(hidden, num_classes),
    )
