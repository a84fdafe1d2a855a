"""Batches from decoded images: gathered on the CPU, augmented and normalized on the training device.

What a batch holds is a pure function of ``(seed, epoch, step, rank)``, so a run resumes in the middle of an epoch
without replaying it, and the ranks of a distributed run together see the batches of a single process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from fgvc_lib.data.augment import AUGMENTATIONS, center_crop
from fgvc_lib.data.dataset import ImageData, Split
from fgvc_lib.data.splits import by_class


class Loader:
    """Iterate over one split.

    In training the split is shuffled anew in every epoch and the images that fill no whole batch are left out of that
    epoch. In evaluation the images come in order, unpadded: rank r reads the r-th contiguous part, so every sample
    counts exactly once over all ranks.

    Args:
        data: the set.
        split_name: ``"train"``, ``"val"`` or ``"test"``.
        batch_size: images per step **over all ranks**, a multiple of W; rank r gets rows ``r·batch_size/W …`` of the
            step's batch.
        train: shuffle and augment; otherwise evaluate.
        seed: of order and augmentation.
        device: where the batches go.
        sampler: ``None`` for plain shuffling, or ``(P, K)``: every rank's batch, a multiple of P·K, consists of groups
            of P classes × K images. Classes and the images of a class come in shuffled rounds, so that nothing repeats
            before its round is over; a class of fewer than K images repeats within a group. An epoch has as many steps
            as with plain shuffling.
        rank, world_size: of the distributed run.

    Raises:
        ValueError: an unknown split or augmentation, or a batch or sampler that asks for more than the split has.
    """

    def __init__(
        self,
        data: ImageData,
        split_name: str,
        batch_size: int,
        *,
        train: bool,
        seed: int,
        device: torch.device | str,
        sampler: tuple[int, int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.data = data
        self.split: Split = getattr(data, split_name)
        self.batch_size, self.train, self.seed, self.sampler = batch_size, train, seed, sampler
        self.device, self.rank, self.world_size = torch.device(device), rank, world_size
        if train:
            self._check_training(split_name)
        self._pixels = torch.from_numpy(self.split.images)  # (N, C, H, W) uint8, no copy
        channels = (1, len(data.mean), 1, 1)
        self._mean = torch.tensor(data.mean, device=self.device).view(channels)
        self._std = torch.tensor(data.std, device=self.device).view(channels)

    def _check_training(self, split_name: str) -> None:
        if self.batch_size > len(self.split):
            raise ValueError(
                f"batch_size {self.batch_size} is larger than the {split_name} split of {len(self.split)} images: "
                "lower batch_size or take more images"
            )
        unknown = [name for name in self.data.augment if isinstance(name, str) and name not in AUGMENTATIONS]
        if unknown:
            raise ValueError(f"no augmentation {', '.join(unknown)}: choose from {', '.join(AUGMENTATIONS)}")
        if self.sampler is not None:
            found = len(by_class(self.split.labels))
            if self.sampler[0] > found:
                raise ValueError(f"the sampler wants {self.sampler[0]} classes in a batch, but the split has {found}")

    def __len__(self) -> int:
        """Steps per epoch, on this rank."""
        if self.train:
            return len(self.split) // self.batch_size
        return -(-len(self._own_positions()) // self._rows())

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield the batches of one epoch, from step ``start`` on.

        Yields:
            images ``(b, C, S, S)`` float32, normalized, and labels ``(b,)`` int64, both on the device; the images'
            positions in the split ``(b,)`` int64, on the CPU.
        """
        batches = self._batches(epoch)
        steps = range(start, len(batches))
        if self.device.type != "cuda":
            for step in steps:
                yield self._finish(self._gather(batches[step]), batches[step], epoch, step)
            return
        # one thread gathers the next batch into pinned memory while the device works on this one
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._gather, batches[start]) if steps else None
            for step in steps:
                assert ahead is not None
                pixels = ahead.result()
                if step + 1 < len(batches):
                    ahead = pool.submit(self._gather, batches[step + 1])
                yield self._finish(pixels, batches[step], epoch, step)

    def _rows(self) -> int:
        """Images of a whole batch on this rank."""
        return max(1, self.batch_size // self.world_size)

    def _own_positions(self) -> Tensor:
        """Positions that this rank evaluates."""
        n = len(self.split)
        return torch.arange(n * self.rank // self.world_size, n * (self.rank + 1) // self.world_size)

    def _batches(self, epoch: int) -> list[Tensor]:
        """Positions of each batch on this rank."""
        if not self.train:
            return list(torch.split(self._own_positions(), self._rows()))[: len(self)]  # of nothing, split gives one
        generator = _generator(self.seed, epoch)
        n = len(self) * self.batch_size
        if self.sampler is None:
            order = torch.randperm(len(self.split), generator=generator)[:n]
        else:
            order = balanced_order(self.split.labels, *self.sampler, count=n, generator=generator)
        rows = self._rows()
        return list(order.view(-1, self.world_size, rows)[:, self.rank])

    def _gather(self, indices: Tensor) -> Tensor:
        if self.device.type != "cuda":
            return self._pixels[indices]
        out = torch.empty((len(indices), *self._pixels.shape[1:]), dtype=torch.uint8, pin_memory=True)
        return torch.index_select(self._pixels, 0, indices, out=out)

    def _finish(self, pixels: Tensor, indices: Tensor, epoch: int, step: int) -> tuple[Tensor, Tensor, Tensor]:
        images = pixels.to(self.device, non_blocking=True)
        labels = self.split.labels[indices].to(self.device, non_blocking=True)
        size = self.data.image_size
        images = images.float().mul_(1 / 255)
        if self.train:
            # drawn for the whole step, used for this rank's rows: the same images whatever the number of ranks
            generator, rows = _generator(self.seed, epoch, step), self._rows()
            for augmentation in self.data.augment:
                if not isinstance(augmentation, str):
                    images = self._transform(augmentation, images, epoch, step)
                    continue
                draws, apply = AUGMENTATIONS[augmentation]
                uniform = torch.rand(self.batch_size, draws, generator=generator)
                uniform = uniform[self.rank * rows : (self.rank + 1) * rows].to(self.device, non_blocking=True)
                images = apply(images, uniform, size)
        images = center_crop(images, size)
        return ((images - self._mean) / self._std).contiguous(), labels, indices

    def _transform(self, transform: Callable[[Tensor], Tensor], images: Tensor, epoch: int, step: int) -> Tensor:
        """Each image by itself, with the global generator seeded for it, which such transforms draw from."""
        first = self.rank * len(images)
        with torch.random.fork_rng(devices=[]):
            changed = []
            for row, image in enumerate(images, first):
                torch.manual_seed(_generator(self.seed, epoch, step, row).initial_seed())
                changed.append(transform(image))
        return torch.stack(changed)


def balanced_order(labels: Tensor, p: int, k: int, *, count: int, generator: torch.Generator) -> Tensor:
    """``count`` positions in groups of ``p`` distinct classes × ``k`` images, one class after the other.

    Classes come in shuffled rounds; a group that spans two rounds takes from the second only classes it does not have.
    The images of a class come in shuffled rounds of their own.
    """
    members = [torch.tensor(positions) for positions in by_class(labels)]
    queues: list[list[int]] = [[] for _ in members]
    waiting: list[int] = []
    order: list[int] = []
    while len(order) < count:
        if len(waiting) < p:
            fresh = torch.randperm(len(members), generator=generator).tolist()
            # classes still waiting go first and to the end of the new round, so a group never has one twice
            waiting += [c for c in fresh if c not in waiting] + [c for c in fresh if c in waiting]
        group, waiting = waiting[:p], waiting[p:]
        for c in group:
            queue = queues[c]
            while len(queue) < k:
                queue += members[c][torch.randperm(len(members[c]), generator=generator)].tolist()
            order += queue[:k]
            del queue[:k]
    return torch.tensor(order, dtype=torch.long)


def _generator(*key: int) -> torch.Generator:
    """A CPU generator seeded by all of ``key``; SeedSequence keeps neighboring keys independent."""
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    return torch.Generator().manual_seed(seed & 0x7FFF_FFFF_FFFF_FFFF)
