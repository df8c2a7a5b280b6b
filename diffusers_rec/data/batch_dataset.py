r"""The batches of an epoch as a dataset of PyTorch, for loops that a ``DataLoader`` feeds.

Of the batches :math:`0, \dots, N-1` of an epoch, rank r of R gets r, r + R, r + 2R, ..., and its W workers take turns:
worker w gets every W-th of these from the w-th. So each batch comes once, and a loader gives those of its rank in their
order, for any number of workers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import distributed
from torch.utils.data import IterableDataset, get_worker_info

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int


class Epochs(Protocol):
    """What gives batches by the number of the epoch: :class:`~diffusers_rec.TrainingBatches`."""

    def epoch(self, epoch: int, rank: int = 0, count: int = 1) -> Iterator[Any]:
        """The batches ``rank``, ``rank + count``, ... of an epoch."""

    def num_batches(self, epoch: int) -> int:
        """Number of batches of an epoch."""


@guarded
class BatchDataset(IterableDataset[Any]):
    """The batches of one rank, for ``DataLoader(dataset, batch_size=None)``. See :meth:`TrainingBatches.dataset`.

    Args:
        batches: Source of the batches.
        rank: Number of this process; that of ``torch.distributed`` or of the variable ``RANK`` if None.
        num_ranks: Number of processes; that of ``torch.distributed`` or of the variable ``WORLD_SIZE`` if None.
        even: Whether ranks with one batch less repeat the first batch of the epoch.

    Raises:
        ValueError: A rank outside 0..num_ranks-1.
    """

    def __init__(
        self, batches: Epochs, *, rank: int | None = None, num_ranks: int | None = None, even: bool = False
    ) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        if num_ranks is None:
            num_ranks = distributed.get_world_size() if together else int(os.environ.get("WORLD_SIZE", "1"))
        self.num_ranks = check_int("BatchDataset: num_ranks", num_ranks, minimum=1)
        if rank is None:
            rank = 0 if num_ranks == 1 else distributed.get_rank() if together else int(os.environ.get("RANK", "0"))
        self.rank = check_int("BatchDataset: rank", rank, minimum=0, maximum=self.num_ranks - 1)
        self.batches, self.even = batches, check_bool("BatchDataset: even", even)
        self._epoch = torch.zeros((), dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # workers that persist see a change

    @property
    def epoch(self) -> int:
        """Number of the epoch, from 0."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration.

        Args:
            epoch: Number of the epoch, from 0.
        """
        self._epoch.fill_(check_int("BatchDataset: epoch", epoch, minimum=0))

    def __len__(self) -> int:
        """Number of batches of this rank in the epoch."""
        count = self.batches.num_batches(self.epoch)
        return -(-count // self.num_ranks) if self.even else self._own(count)

    def __iter__(self) -> Iterator[Any]:
        info, epoch = get_worker_info(), self.epoch
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        yield from self.batches.epoch(epoch, self.rank + self.num_ranks * worker, self.num_ranks * workers)
        if self.even:
            own = self._own(self.batches.num_batches(epoch))
            if own < len(self) and own % workers == worker:
                yield next(self.batches.epoch(epoch))

    def _own(self, count: int) -> int:
        return len(range(self.rank, count, self.num_ranks))
