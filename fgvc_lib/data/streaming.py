"""The plain path for sets too large to decode once: a ``DataLoader`` that decodes every image anew.

At evaluation it gives the very images of the cache and :class:`~fgvc_lib.data.loader.Loader`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from fgvc_lib.data.decoding import MEAN, STD
from fgvc_lib.data.files import Files, Item
from fgvc_lib.data.images import read_image


class ImageFiles(Dataset[tuple[Tensor, int, int]]):
    """Image files as normalised tensors ``(3, S, S)``, with label and position.

    Args:
        items: the files.
        image_size: side of the images.
        resize: side to which files are resized before the crop; None for ``image_size``.
        train: crop at random (after extending images of just this size by an eighth on each side) and flip; otherwise
            take the centre.
        upright: see :func:`fgvc_lib.data.images.read_image`.
        mean, std: of the normalisation.
    """

    def __init__(
        self,
        items: Sequence[Item],
        *,
        image_size: int,
        resize: int | None = None,
        train: bool = False,
        upright: bool = True,
        mean: Sequence[float] = MEAN,
        std: Sequence[float] = STD,
    ) -> None:
        self.items, self.upright = items, upright
        resize = image_size if resize is None else resize
        if resize < image_size:
            raise ValueError(f"resize must be at least image_size, got resize={resize} and image_size={image_size}")
        padding = round(image_size / 8) if resize == image_size else None
        crop: list[v2.Transform] = [v2.CenterCrop(image_size)]
        if train:
            crop = [v2.RandomCrop(image_size, padding, padding_mode="edge"), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose(
            [
                v2.Resize((resize, resize)),  # on the PIL image: the same pixels as in the cache
                *crop,
                v2.ToImage(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(list(mean), list(std)),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        item = self.items[index]
        image: Tensor = self.transform(read_image(item.path, upright=self.upright))
        return image.as_subclass(Tensor), item.label, index


def stream(
    files: Files,
    split_name: str,
    batch_size: int,
    *,
    train: bool,
    image_size: int,
    resize: int | None = None,
    seed: int = 0,
    workers: int = 0,
) -> DataLoader[tuple[Tensor, int, int]]:
    """Batches ``(images, labels, indices)`` of a split, decoded by ``workers`` processes.

    Args:
        files: a listing with validation held out, such as ``select(folder_files(root=...))``.
        split_name: ``"train"``, ``"val"`` or ``"test"``.
        batch_size: images per batch; training leaves the last, smaller one out.
        train: shuffle and augment.
        image_size, resize: see :class:`ImageFiles`.
        seed: of the order and of the workers' augmentation.
        workers: processes; 0 decodes in this one.
    """
    if split_name not in ("train", "val", "test"):
        raise ValueError(f"no split {split_name!r}: choose train, val or test")
    dataset = ImageFiles(
        getattr(files, split_name), image_size=image_size, resize=resize, train=train, upright=files.upright
    )
    return DataLoader(
        dataset,
        batch_size,
        shuffle=train,
        drop_last=train,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(seed),
    )
