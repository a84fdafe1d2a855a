"""A trained method on new image files: probabilities, and where it looked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fgvc_lib.data.image_folder import EXTENSIONS, images_below
from fgvc_lib.data.images import read_image, square
from fgvc_lib.methods import Method
from fgvc_lib.train.model import Info


@dataclass(frozen=True)
class Prediction:
    """What a method says of one file.

    Attributes:
        path: of the file.
        probabilities: ``(C,)``, in the order of the classes.
        image: the square that the method saw, RGB or gray.
        attention: ``(h, w)``, non-negative; None where the method has no spatial map.
    """

    path: Path
    probabilities: Tensor
    image: Image.Image
    attention: Tensor | None


def image_files(paths: Sequence[Path]) -> list[Path]:
    """The image files among ``paths``: files as given, folders with all images below them, sorted.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: no image at all.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += images_below(path)
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} is not there")
    if not files:
        raise ValueError(f"{', '.join(map(str, paths))} has no images ({' '.join(EXTENSIONS)})")
    return files


@torch.no_grad()
def predict_files(
    method: Method,
    info: Info,
    files: Sequence[Path],
    *,
    batch_size: int = 32,
    device: torch.device | str = "cpu",
) -> Iterator[Prediction]:
    """Predict image files, prepared as the evaluation images of training were.

    Args:
        method: moved to ``device``, used in evaluation mode.
        info: that came with it.
        files: images of any size and mode.
        batch_size: images at once.
        device: where to compute.

    Raises:
        ValueError: a file that cannot be read, named.
    """
    method.to(device).eval()
    size = info.image_size
    resize = int(info.config["data_args"].get("resize") or size)
    edge = (resize - size) // 2
    shape = (1, len(info.mean), 1, 1)
    mean, std = torch.tensor(info.mean).view(shape), torch.tensor(info.std).view(shape)
    for start in range(0, len(files), batch_size):
        batch = files[start : start + batch_size]
        squares = []
        for file in batch:
            image = square(read_image(file), resize).crop((edge, edge, edge + size, edge + size))
            squares.append(image.convert("L" if len(info.mean) == 1 else "RGB"))
        arrays = [np.asarray(image).reshape(size, size, -1) for image in squares]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255  # (b, C, S, S)
        output = method(((pixels - mean) / std).to(device, memory_format=torch.channels_last))
        probabilities = output.logits.float().softmax(1).cpu()
        attention = attention_map(output.maps)
        for i, file in enumerate(batch):
            yield Prediction(file, probabilities[i], squares[i], None if attention is None else attention[i])


def attention_map(maps: dict[str, Tensor]) -> Tensor | None:
    """One map ``(B, h, w)`` per image: the mean over a method's attention maps, else over its features' channels."""
    for prefix in ("attention", "mask", "features"):
        for name, value in maps.items():
            if name.startswith(prefix) and value.ndim == 4 and value.shape[-2:].numel() > 1:
                return value.float().abs().mean(1).cpu()
    return None


def overlay(image: Image.Image, attention: Tensor, *, strength: float = 0.5) -> Image.Image:
    """``image`` with ``attention`` ``(h, w)`` laid over it, scaled from its least to its largest value.

    Args:
        image: of any size.
        attention: enlarged to it bilinearly.
        strength: weight of the colors in the mixture.
    """
    from matplotlib import colormaps

    low, high = attention.min(), attention.max()
    scaled = (attention - low) / (high - low).clamp_min(1e-12)
    large = F.interpolate(scaled[None, None], (image.height, image.width), mode="bilinear", align_corners=False)[0, 0]
    colors = (255 * colormaps["viridis"](large.numpy())[..., :3]).astype(np.uint8)  # (H, W, 3)
    return Image.blend(image.convert("RGB"), Image.fromarray(colors), strength)
