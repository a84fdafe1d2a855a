"""Data sets as decoded images, and the loader that makes batches of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any
from urllib.error import URLError

from fgvc_lib.config import check_arguments
from fgvc_lib.data.cub200 import cub100_files, cub_files
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.decoding import decode_all
from fgvc_lib.data.files import Files
from fgvc_lib.data.handwritten import digits, mnist
from fgvc_lib.data.image_folder import cars196_crops_files, folder_files
from fgvc_lib.data.loader import Loader
from fgvc_lib.data.real import aircraft_files, cars_files, flowers_files, pets_files
from fgvc_lib.data.synthetic import birds, birds_oracle

ARRAYS: dict[str, Callable[..., ImageData]] = {
    "birds": birds,
    "birds_oracle": birds_oracle,
    "digits": digits,
    "mnist": mnist,
}
LISTINGS: dict[str, Callable[..., Files]] = {
    "cub": cub_files,
    "cub100": cub100_files,
    "cars": cars_files,
    "cars196_crops": cars196_crops_files,
    "aircraft": aircraft_files,
    "flowers": flowers_files,
    "pets": pets_files,
    "folder": folder_files,
}
"""The sets of image files, which :func:`~fgvc_lib.data.decoding.decode_all` decodes."""
DATASETS: dict[str, Callable[..., ImageData | Files]] = {**ARRAYS, **LISTINGS}
"""Name in a configuration → function of plain keyword arguments."""
OPTIONS: dict[str, Callable[..., ImageData]] = {"birds_oracle": birds, **dict.fromkeys(LISTINGS, decode_all)}
"""Name → the function whose keyword arguments the set takes besides its own."""


def load(name: str, **args: Any) -> ImageData:
    """The data set ``name``, ready to train on.

    Args:
        name: a key of :data:`DATASETS`.
        **args: keyword arguments of that function, and of its :data:`OPTIONS`, plain data.

    Raises:
        ValueError: an unknown name or argument, or a set that cannot be made as asked.
        FileNotFoundError: files that are not there; the sentence says where they should be.
        OSError: a download that failed.
    """
    if name not in DATASETS:
        raise ValueError(f"no data set {name!r}: choose from {', '.join(DATASETS)}")
    check_arguments(DATASETS[name], args, f"data set {name!r}", options=OPTIONS.get(name))
    try:
        if name in ARRAYS:
            return ARRAYS[name](**args)
        options = {key: value for key, value in args.items() if key in inspect.signature(decode_all).parameters}
        own = {key: value for key, value in args.items() if key not in options}
        return decode_all(LISTINGS[name](**own), **options)
    except (RuntimeError, URLError) as error:  # what torchvision's downloads raise
        if not args.get("download"):
            raise
        reason = " ".join(str(error).split())
        raise OSError(
            f"{name} cannot be downloaded ({reason}): check the network, or fetch its files by hand"
        ) from error


__all__ = ["DATASETS", "ImageData", "Loader", "Split", "load"]
