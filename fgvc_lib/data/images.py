"""One image file → one square of RGB bytes, or one sentence that says what is wrong with the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 100_000_000
"""Images with more pixels are refused before they are decoded."""


class BadImage(ValueError):
    """An image file that cannot be used."""


def read_image(path: Path, *, upright: bool = True, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode a file to RGB.

    Gray, palette, CMYK and YCbCr images are converted; 16-bit gray is scaled to 8 bits; transparent pixels are laid
    over white; of an animation the first frame is taken.

    Args:
        path: of the file.
        upright: turn the image as its EXIF orientation says. Off for sets whose coordinates count in stored pixels.
        max_pixels: larger images are refused, against decompression bombs.

    Raises:
        BadImage: the file is missing, empty, truncated, no image, too large, or of an unusable kind.
    """
    try:
        with Image.open(path) as image:
            if image.width * image.height > max_pixels:
                raise BadImage(f"{path} has {image.width} × {image.height} pixels, more than {max_pixels:,}")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image) if upright else image)
    except BadImage:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError, Image.DecompressionBombError, Warning) as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "the file is empty" if empty else " ".join(str(error).split()).replace(f"{str(path)!r}", "").strip()
        raise BadImage(f"{path} cannot be read as an image: {reason or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Any mode → RGB, as described in :func:`read_image`."""
    if image.mode == "RGB":
        return image.copy()
    if image.mode == "F":
        raise BadImage("floating-point images have no known range: convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit gray; Pillow's own conversion would clip it to white
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise BadImage(f"gray levels from {levels.min()} to {levels.max()} are not 16-bit")
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize to ``size`` × ``size``, both axes on their own, bilinear with anti-aliasing."""
    return image.resize((size, size), Image.Resampling.BILINEAR)
