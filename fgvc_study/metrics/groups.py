"""Which parts the channels of a class look at: MC-Loss's groups of channels against the ground truth of parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.dataset import ImageData
from fgvc_lib.losses.mutual_channel import group_diversity
from fgvc_lib.methods.base import Method
from fgvc_lib.methods.mutual_channel import MutualChannel, class_maps
from fgvc_study.metrics.channels import channel_parts_of
from fgvc_study.metrics.known_parts import batches_with_parts, need_parts
from fgvc_study.metrics.parts import NotApplicable, distinct_parts, mass_on_part


@torch.no_grad()
def group_parts(method: Method, data: ImageData, device: str, *, limit: int = 480) -> dict[str, float | np.ndarray]:
    """How many parts the ξ channels of an image's true class peak on, and whether on the part that decides.

    On at most ``limit`` test images, chosen at random but always the same. A channel lies on the part its map peaks
    on, or within half a stride of; one that is zero everywhere lies on none. Means over images:

    ``parts``: different parts among the channels of the true class. ``on_part``: share of those channels on any part.
    ``discriminative``: fraction of them on the discriminative part. ``mass``: share of the true class's attention, the
    maximum over its channels, within the discriminative part; ``mass_even``: what an even map would have there. ``h``:
    of :func:`fgvc_lib.losses.mutual_channel.group_diversity`, over all classes. Array ``by_class``, ``(c, P + 1)``: how
    many of its channels a class has on each part, in its own images, the last column for none; NaN for a class without
    images.

    Raises:
        ValueError: another method than MC-Loss, or data without ``masks`` and ``discriminative`` parts.
    """
    method = groups_of(method)
    need_parts(data, "masks", "discriminative")
    classes, count = method.num_classes, len(data.part_names)
    center = method.backbone.centers[method.backbone.last]
    found: dict[str, list[Tensor]] = {}
    by_class, images_of = torch.zeros(classes, count + 1), torch.zeros(classes)
    for images, labels, known in batches_with_parts(data, limit, device):
        features = method(images).maps["features"].float()  # (B, N, h, w)
        mine = class_maps(features, labels, classes)  # (B, ξ, h, w)
        own, decides = known["masks"], known["discriminative"]  # (B, P, H, W), (B,)
        parts = channel_parts_of(mine, own, center=center)  # (B, ξ)
        part = own[torch.arange(len(own), device=own.device), decides]  # (B, H, W)
        share, even = mass_on_part(mine.amax(1).clamp(min=0), part, center=center)
        batch = {
            "parts": distinct_parts(parts).float(),
            "on_part": (parts >= 0).float().mean(1),
            "discriminative": (parts == decides[:, None]).float().mean(1),
            "mass": share,
            "mass_even": even,
            "h": group_diversity(features, classes).mean(1),
        }
        for name, values in batch.items():
            found.setdefault(name, []).append(values.cpu())
        votes = torch.nn.functional.one_hot(parts.where(parts >= 0, count), count + 1).float().sum(1)  # (B, P + 1)
        by_class.index_add_(0, labels.cpu(), votes.cpu())
        images_of += torch.bincount(labels.cpu(), minlength=classes)
    means: dict[str, float | np.ndarray] = {name: float(torch.cat(v).nanmean()) for name, v in found.items()}
    return means | {"by_class": (by_class / images_of[:, None]).numpy().astype(np.float32)}


def groups_of(method: Method) -> MutualChannel:
    """The method in evaluation mode, refused where it is another one than MC-Loss."""
    if not isinstance(method, MutualChannel):
        raise NotApplicable(
            f"channels of classes are those of MC-Loss, got {type(method).__name__}: use method 'mutual_channel'"
        )
    method.eval()
    return method
