"""Data sets as decoded images, and the loader that makes batches of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.error import URLError

from fgvc_lib.config import check_arguments
from fgvc_lib.data.cub200 import cub, cub100
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.handwritten import digits, mnist
from fgvc_lib.data.image_folder import cars196_crops, folder
from fgvc_lib.data.loader import Loader
from fgvc_lib.data.real import aircraft, cars, flowers, pets
from fgvc_lib.data.synthetic import birds, birds_oracle

DATASETS: dict[str, Callable[..., ImageData]] = {
    "birds": birds,
    "birds_oracle": birds_oracle,
    "digits": digits,
    "mnist": mnist,
    "cub": cub,
    "cub100": cub100,
    "cars": cars,
    "cars196_crops": cars196_crops,
    "aircraft": aircraft,
    "flowers": flowers,
    "pets": pets,
    "folder": folder,
}
"""Name in a configuration → function of plain keyword arguments."""


def load(name: str, **args: Any) -> ImageData:
    """The data set ``name``, ready to train on.

    Args:
        name: a key of :data:`DATASETS`.
        **args: keyword arguments of that function, plain data.

    Raises:
        ValueError: an unknown name or argument, or a set that cannot be made as asked.
        FileNotFoundError: files that are not there; the sentence says where they should be.
        OSError: a download that failed.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}: choose from {', '.join(DATASETS)}")
    check_arguments(DATASETS[name], args, f"data set {name!r}")
    try:
        return DATASETS[name](**args)
    except (RuntimeError, URLError) as error:  # what torchvision's downloads raise
        if not args.get("download"):
            raise
        reason = " ".join(str(error).split())
        raise OSError(
            f"{name} cannot be downloaded ({reason}): check the network, or fetch its files by hand"
        ) from error


__all__ = ["DATASETS", "ImageData", "Loader", "Split", "load"]
