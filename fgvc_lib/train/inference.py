"""A trained method on new images: probabilities, where it looked, and what it resembles.

>>> from fgvc_lib.train import Predictor
>>> predictor = Predictor.load("run")  # doctest: +SKIP
>>> predictor("bird.jpg")[0].best()  # doctest: +SKIP
[('wren', 0.93), ('owl', 0.05), ('crow', 0.02)]
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fgvc_lib.data.images import EXTENSIONS, BadImage, read_image, square, to_rgb
from fgvc_lib.data.listing import counted, images_below
from fgvc_lib.methods import Method
from fgvc_lib.methods.base import Output
from fgvc_lib.train.checkpoint import replacing
from fgvc_lib.train.model import Info, load_trained

Source = str | Path | bytes | Image.Image | np.ndarray
"""Path of an image file, its bytes, a Pillow image of any mode, or uint8 ``(H, W)`` gray or ``(H, W, 3)`` RGB."""


@dataclass(frozen=True)
class Prediction:
    """What a method says of one image.

    Attributes:
        source: the image, as it was given.
        classes: their names.
        probabilities: ``(C,)``, in the order of the classes.
        image: the square that the method saw, RGB or gray.
        attention: ``(h, w)``, non-negative; None where the method has no spatial map.
        embedding: ``(d,)``, the feature that the class is told by; None where the method names none.
    """

    source: Source
    classes: tuple[str, ...]
    probabilities: Tensor
    image: Image.Image
    attention: Tensor | None
    embedding: Tensor | None

    def best(self, count: int = 3) -> list[tuple[str, float]]:
        """The most probable classes and their probabilities, best first."""
        values, indices = self.probabilities.topk(min(count, len(self.classes)))
        return [(self.classes[c], value) for c, value in zip(indices.tolist(), values.tolist(), strict=True)]

    def overlay(self, *, strength: float = 0.5) -> Image.Image:
        """The image with the attention over it.

        Raises:
            ValueError: the method has no spatial map.
        """
        if self.attention is None:
            raise ValueError("the method has no spatial map to lay over an image")
        return overlay(self.image, self.attention, strength=strength)


class Predictor:
    """A trained method, ready for images.

    Args:
        method: moved to ``device`` and put in evaluation mode.
        info: that came with it.
        device: where to compute.
        batch_size: images at once.
        flips: average the probabilities of each image and its mirror image.
    """

    def __init__(
        self,
        method: Method,
        info: Info,
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 32,
        flips: bool = False,
    ) -> None:
        self.method, self.info, self.device = method.to(device).eval(), info, torch.device(device)
        self.batch_size, self.flips = batch_size, flips

    @classmethod
    def load(
        cls, model: str | Path, *, device: torch.device | str = "cpu", batch_size: int = 32, flips: bool = False
    ) -> Predictor:
        """From the folder of a run or a ``model.pt``; the other arguments are those of the class."""
        method, info = load_trained(model)
        return cls(method, info, device=device, batch_size=batch_size, flips=flips)

    def __call__(self, *images: Source) -> list[Prediction]:
        """Predict these images.

        Raises:
            BadImage: one of them cannot be read.
        """
        return list(self.stream(images))

    def stream(self, images: Iterable[Source], *, skipped: list[BadImage] | None = None) -> Iterator[Prediction]:
        """Predict images batch by batch, however many there are.

        Args:
            images: read when their batch is due.
            skipped: what cannot be read is left out and noted here; without it, the first one is an error.
        """
        waiting = self._prepared(images, skipped)
        while batch := list(islice(waiting, self.batch_size)):
            squares = [picture for _, picture in batch]
            pixels = self.normalize(squares)
            output = self._forward(pixels)
            probabilities, attention = output.logits.float().softmax(1), attention_map(output.maps)
            if self.flips:
                mirrored = self._forward(pixels.flip(3))
                probabilities = (probabilities + mirrored.logits.float().softmax(1)) / 2
            features = embedding(output.maps)
            for i, (source, picture) in enumerate(batch):
                yield Prediction(
                    source,
                    self.info.classes,
                    probabilities[i].cpu(),
                    picture,
                    None if attention is None else attention[i],
                    None if features is None else features[i],
                )

    def prepare(self, source: Source) -> Image.Image:
        """The square that the method sees of an image, as evaluation in training has prepared it.

        Raises:
            BadImage: it cannot be read.
        """
        info = self.info
        picture = square(_rgb(source), info.resize, crop=info.image_size, letterbox=info.letterbox)
        return picture.convert("L") if len(self.info.mean) == 1 else picture

    def normalize(self, squares: Sequence[Image.Image]) -> Tensor:
        """Squares from :meth:`prepare` → ``(B, C, S, S)`` on the device, as the method takes them."""
        size, shape = self.info.image_size, (1, len(self.info.mean), 1, 1)
        arrays = [np.asarray(picture).reshape(size, size, -1) for picture in squares]
        pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
        mean, std = torch.tensor(self.info.mean).view(shape), torch.tensor(self.info.std).view(shape)
        return ((pixels - mean) / std).to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _forward(self, pixels: Tensor) -> Output:
        output: Output = self.method(pixels)
        return output

    def _prepared(
        self, images: Iterable[Source], skipped: list[BadImage] | None
    ) -> Iterator[tuple[Source, Image.Image]]:
        for source in images:
            try:
                yield source, self.prepare(source)
            except BadImage as error:
                if skipped is None:
                    raise
                skipped.append(error)


def _rgb(source: Source) -> Image.Image:
    if isinstance(source, (str, Path, bytes)):
        return read_image(source)
    return to_rgb(Image.fromarray(source) if isinstance(source, np.ndarray) else source)


def image_files(paths: Sequence[Path]) -> tuple[list[Path], str]:
    """The image files among ``paths``: files as given, folders with all images below them, sorted.

    Returns:
        The files, and in words what is passed over in the folders.

    Raises:
        FileNotFoundError: a path that is not there.
        ValueError: no image at all.
    """
    files: list[Path] = []
    passed = []
    for path in paths:
        if path.is_dir():
            found = images_below(path)
            files += found.images
            passed += [counted(kinds) for kinds in (found.dropped, found.others) if kinds]
        elif path.exists():
            files.append(path)
        else:
            raise FileNotFoundError(f"{path} is not there")
    if not files:
        passed_over = f"; passed over: {', '.join(passed)}" if passed else ""
        raise ValueError(f"{', '.join(map(str, paths))} has no images ({' '.join(EXTENSIONS)}){passed_over}")
    return files, ", ".join(passed)


def write_embeddings(path: Path, predictions: Iterable[Prediction]) -> tuple[int, int]:
    """Write a row for each prediction.

    Args:
        path: ends in ``.npz``, for the arrays ``embeddings`` ``(N, d)`` float32 and ``files`` ``(N,)``, or in ``.csv``.
        predictions: of files.

    Returns:
        N and d.
    """
    found = [(str(prediction.source), known(prediction.embedding).numpy()) for prediction in predictions]
    files, rows = [name for name, _ in found], np.stack([row for _, row in found])
    with replacing(path) as temporary:
        if path.suffix == ".npz":
            with temporary.open("wb") as binary:
                np.savez_compressed(binary, embeddings=rows, files=np.array(files))
        else:
            with temporary.open("w", newline="", encoding="utf8", errors="backslashreplace") as text:
                table = csv.writer(text)
                table.writerow(["file", *range(rows.shape[1])])
                table.writerows([name, *row] for name, row in zip(files, rows.tolist(), strict=True))
    return len(rows), rows.shape[1]


def embedding(maps: dict[str, Tensor]) -> Tensor | None:
    """``(B, d)``: a method's own embedding, else the mean of its last features over all positions."""
    if "embedding" in maps:
        return maps["embedding"].float().cpu()
    return maps["features"].float().mean((2, 3)).cpu() if "features" in maps else None


def known(embedding: Tensor | None) -> Tensor:
    """The embedding, or an error that says that the method has none."""
    if embedding is None:
        raise ValueError("the method has neither an embedding nor features among its maps: it cannot compare images")
    return embedding


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
