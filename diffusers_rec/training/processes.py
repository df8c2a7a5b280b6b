"""The processes that train together, usually one: their device, their order and their communication.

accelerate selects the device. No ``Accelerator`` is created, because it would read mixed precision, gradient
accumulation and other settings from environment variables and from an earlier ``Accelerator`` in the process.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import require_extra
from diffusers_rec.data.batching import Batch, TrainingBatches


class Processes:
    """The current process within the group of launched processes.

    Args:
        device: Device of the process, ``"cpu"``; the device that accelerate selects if None.

    Attributes:
        device: Device of this process.
        count: Number of processes.
        rank: Number of this process, from 0.

    Raises:
        ImportError: The library accelerate is missing (extra ``train``).
        ValueError: Accelerate connected fewer processes than were launched, or has already placed them on another
            device.
    """

    def __init__(self, device: str | None = None) -> None:
        accelerate = require_extra("accelerate", "train")
        self._utils = accelerate.utils
        # accelerate connects processes without GPU only if cpu=True.
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        self._state = accelerate.PartialState(cpu=on_cpu or self._utils.parse_flag_from_env("ACCELERATE_USE_CPU"))
        self.device: torch.device = self._state.device
        self.count: int = self._state.num_processes
        self.rank: int = self._state.process_index
        launched = int(os.environ.get("WORLD_SIZE", "1"))
        if launched != self.count:
            raise ValueError(
                f"{launched} processes were launched, but accelerate joined {self.count}. "
                "Give device='cpu' on a machine with fewer GPUs than processes."
            )
        if device == "cpu" != self.device.type:  # an earlier use of accelerate has selected the device
            if self.count > 1:
                raise ValueError(f"device='cpu', but accelerate has already joined the processes on {self.device}.")
            self.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def together(self, model: nn.Module) -> nn.Module:
        """Wrap the model so that gradients are averaged over the processes."""
        if self.count == 1:
            return model
        device = None if self.device.type == "cpu" else [self.device.index]
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=device)
        # Buffers are equal in all processes; broadcasting those of a memory would take longer than a step.
        wrapped.broadcast_buffers = False  # not an argument: its name depends on the version of PyTorch
        return wrapped

    def rounds(self, batches: TrainingBatches, epoch: int) -> int:
        """Number of batches per process in an epoch."""
        return math.ceil(batches.num_batches(epoch) / self.count)

    def share(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Every ``count``-th batch; the first batch fills up the last round, so that no process waits."""
        if self.count == 1:
            yield from batches.epoch(epoch)
            return
        yielded = 0
        for batch in batches.epoch(epoch, self.rank, self.count):
            yielded += 1
            yield batch
        if yielded < self.rounds(batches, epoch):
            yield next(iter(batches.epoch(epoch)))

    def joined(self, part: Tensor) -> Tensor:
        """Concatenate the tensors ``(M, ...)`` of all processes; M may differ."""
        if self.count == 1:
            return part
        lengths = self._utils.gather(torch.tensor([len(part)], device=part.device)).tolist()
        padded = self._utils.gather(self._utils.pad_across_processes(part)).tensor_split(self.count)
        return torch.cat([each[:length] for each, length in zip(padded, lengths, strict=True)])

    def any_of(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        return flag if self.count == 1 else bool(self.summed(torch.tensor(float(flag), device=self.device)))

    def summed(self, part: Tensor) -> Tensor:
        """Sum over all processes."""
        return self._utils.reduce(part, reduction="sum")

    def wait(self) -> None:
        """Wait until every process has called this method."""
        self._state.wait_for_everyone()
