"""Training augmentations in batches, on the device that trains.

Each is a function of the images and of uniform numbers in [0, 1) drawn beforehand on the CPU, one row per image,
so that the result is the same on every device layout: a rank of several draws for the whole batch of a step and
uses its own rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def center_crop(images: Tensor, size: int) -> Tensor:
    """The middle ``size`` × ``size`` pixels; what evaluation sees of images stored larger."""
    top, left = (images.shape[-2] - size) // 2, (images.shape[-1] - size) // 2
    return images[..., top : top + size, left : left + size]


def random_crop(images: Tensor, uniform: Tensor, size: int, *, padding: float = 0.125) -> Tensor:
    """A random window of ``size`` × ``size`` pixels.

    Images stored larger than ``size`` are cropped as they are. Images of just this size are first extended on each
    side by ``padding`` of it, repeating the border pixels.

    Args:
        images: ``(B, C, H, W)``.
        uniform: ``(B, 2)``, row and column of the window.
        size: side of the window.
        padding: extension on each side as a fraction of ``size``, for images of just this size.
    """
    b, _, h, w = images.shape
    pad = round(padding * size) if h == w == size else 0
    room = torch.tensor([h, w], device=images.device) + 2 * pad - size + 1  # positions a window can take
    top, left = ((uniform * room).long() - pad).unbind(1)  # (B,)
    offsets = torch.arange(size, device=images.device)
    rows = (top[:, None] + offsets).clamp(0, h - 1)  # (B, size)
    columns = (left[:, None] + offsets).clamp(0, w - 1)  # (B, size)
    batch = torch.arange(b, device=images.device)[:, None, None]
    return images[batch, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)  # (B, C, size, size)


def random_flip(images: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Mirror every second image, by chance, left to right; ``uniform`` is ``(B, 1)``."""
    return torch.where(uniform[:, :, None, None] < 0.5, images.flip(3), images)


def random_resized_crop(
    images: Tensor, uniform: Tensor, size: int, *, scale: tuple[float, float] = (0.5, 1.0)
) -> Tensor:
    """A random square window, resized to ``size`` × ``size`` by bilinear interpolation.

    Args:
        images: ``(B, C, H, W)`` floats.
        uniform: ``(B, 3)``: area, row and column of the window.
        size: side of the result.
        scale: smallest and largest area of the window, as fractions of the image's.
    """
    low, high = scale
    side = (low + (high - low) * uniform[:, 0]).sqrt()  # (B,), of the image's side
    shift = (1 - side)[:, None] * (2 * uniform[:, 1:] - 1)  # (B, 2), center y x in [-1, 1]
    theta = images.new_zeros(len(images), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = side
    theta[:, 0, 2], theta[:, 1, 2] = shift[:, 1], shift[:, 0]
    grid = F.affine_grid(theta, [len(images), images.shape[1], size, size], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def random_color(images: Tensor, uniform: Tensor, size: int, *, strength: float = 0.2) -> Tensor:
    """Change brightness, contrast and saturation, each by a factor in ``1 ± strength``; ``uniform`` is ``(B, 3)``.

    Args:
        images: ``(B, C, H, W)`` floats in [0, 1]; the result is clamped to it.
        uniform: ``(B, 3)``: brightness, contrast, saturation.
        size: unused; every augmentation has it.
        strength: largest relative change.
    """
    brightness, contrast, saturation = (1 + strength * (2 * uniform - 1))[:, :, None, None, None].unbind(1)
    images = images * brightness
    images = images.mean((1, 2, 3), keepdim=True).lerp(images, contrast)
    return images.mean(1, keepdim=True).lerp(images, saturation).clamp(0, 1)


def random_vertical_flip(images: Tensor, uniform: Tensor, size: int) -> Tensor:
    """Mirror every second image, by chance, top to bottom; ``uniform`` is ``(B, 1)``."""
    return torch.where(uniform[:, :, None, None] < 0.5, images.flip(2), images)


def random_rotation(images: Tensor, uniform: Tensor, size: int, *, degrees: float = 15.0) -> Tensor:
    """Turn each image about its center, by up to ``degrees`` either way; the edge's pixels fill the corners.

    Args:
        images: ``(B, C, H, H)`` floats.
        uniform: ``(B, 1)``.
        size: unused; every augmentation has it.
        degrees: largest angle.
    """
    angle = math.radians(degrees) * (2 * uniform[:, 0] - 1)  # (B,)
    cosine, sine, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    theta = torch.stack([cosine, -sine, zero, sine, cosine, zero], 1).view(-1, 2, 3)  # (B, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


class Augmentation(NamedTuple):
    """``apply(images, uniform, size)`` and how many uniform numbers it uses per image."""

    draws: int
    apply: Callable[[Tensor, Tensor, int], Tensor]


AUGMENTATIONS: dict[str, Augmentation] = {
    "crop": Augmentation(2, random_crop),
    "resized_crop": Augmentation(3, random_resized_crop),
    "flip": Augmentation(1, random_flip),
    "vertical_flip": Augmentation(1, random_vertical_flip),
    "rotation": Augmentation(1, random_rotation),
    "color": Augmentation(3, random_color),
}
"""Name in ``ImageData.augment`` → augmentation."""
