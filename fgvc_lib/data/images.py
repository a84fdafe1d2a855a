"""One image file → one square of RGB bytes, or one sentence that says what is wrong with the file."""

from __future__ import annotations

import importlib
import io
import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

with suppress(ModuleNotFoundError):  # the photographs of iPhones, where the package is installed
    importlib.import_module("pillow_heif").register_heif_opener()

EXTENSIONS = (
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""Files with these endings are images, in capitals too."""
RAW = (".arw", ".cr2", ".cr3", ".dng", ".jxl", ".nef", ".orf", ".raf", ".rw2")
"""So are these, but nothing here reads them."""
GRAY = (124, 116, 104)
"""ImageNet's mean, of the bars beside an image that keeps its proportions."""


def readable() -> set[str]:
    """Those of :data:`EXTENSIONS` that Pillow reads here: AVIF depends on its build, HEIC on pillow-heif."""
    return set(EXTENSIONS) & set(Image.registered_extensions())


class BadImage(ValueError):
    """An image file that cannot be used."""


def read_image(source: str | Path | bytes, *, upright: bool = True) -> Image.Image:
    """Decode a file to RGB.

    Gray, palette, CMYK and YCbCr images are converted; 16-bit gray is scaled to 8 bits; transparent pixels are laid
    over white; of an animation the first frame is taken.

    Args:
        source: path of the file, or its bytes.
        upright: turn the image as its EXIF orientation says. Off for sets whose coordinates count in stored pixels.

    Raises:
        BadImage: the file is missing, empty, truncated, no image, too large, or of an unusable kind.
    """
    name = f"an image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            image.load()
            return to_rgb(image, upright=upright)
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError, Warning) as error:
        empty = not source or (
            not isinstance(source, bytes) and os.path.isfile(source) and os.path.getsize(source) == 0
        )
        reason = "the file is empty" if empty else " ".join(str(error).split()).replace(f"{name!r}", "").strip()
        raise BadImage(f"{name} cannot be read as an image: {reason or type(error).__name__}") from error


def to_rgb(image: Image.Image, *, upright: bool = True) -> Image.Image:
    """Any mode → RGB, upright, as described in :func:`read_image`."""
    if upright:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image.copy()
    if image.mode == "F":
        raise ValueError("floating-point images have no known range: convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError(f"gray levels from {levels.min()} to {levels.max()} are not 16-bit")
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int, *, crop: int | None = None, letterbox: bool = False) -> Image.Image:
    """Resize to ``size`` × ``size``, bilinear with anti-aliasing; ``crop`` cuts out the center.

    Training, evaluation and prediction prepare every image by :func:`read_image` and this.

    Args:
        image: RGB.
        size: of the square, in pixels.
        crop: side of the center that is cut out.
        letterbox: keep the image's proportions, between two gray bars; else both axes are resized on their own.
    """
    if letterbox:
        resized = ImageOps.pad(image, (size, size), Image.Resampling.BILINEAR, color=GRAY)
    else:
        resized = image.resize((size, size), Image.Resampling.BILINEAR)
    if crop is None or crop == size:
        return resized
    edge = (size - crop) // 2
    return resized.crop((edge, edge, edge + crop, edge + crop))
