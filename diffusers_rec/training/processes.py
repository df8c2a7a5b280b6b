"""The processes that train together, in most cases one: their device, their order, and what they exchange.

accelerate places them. No ``Accelerator`` is made: it would take mixed precision, gradient accumulation and more from
environment variables and from an earlier ``Accelerator`` in the process, against the settings of the training.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from itertools import islice

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import require_extra
from diffusers_rec.data.batching import Batch, TrainingBatches


class Processes:
    """This process among those that were launched.

    Args:
        device: ``"cpu"``, or None for what accelerate finds.

    Attributes:
        device: Device of this process.
        count: Number of processes.
        rank: Number of this process, from 0.

    Raises:
        ImportError: accelerate is missing (extra ``train``).
        ValueError: accelerate joined fewer processes than were launched, or has placed them on another device before.
    """

    def __init__(self, device: str | None = None) -> None:
        accelerate = require_extra("accelerate", "train")
        self._utils = accelerate.utils
        # accelerate joins the processes of a CPU machine only with cpu=True.
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
        if device == "cpu" != self.device.type:  # an earlier use of accelerate has placed this process
            if self.count > 1:
                raise ValueError(f"device='cpu', but accelerate has already joined the processes on {self.device}.")
            self.device = torch.device("cpu")

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.rank == 0

    def together(self, model: nn.Module) -> nn.Module:
        """The model, its gradients averaged over the processes."""
        if self.count == 1:
            return model
        device = None if self.device.type == "cpu" else [self.device.index]
        wrapped = nn.parallel.DistributedDataParallel(model, device_ids=device)
        # Buffers are equal in all processes; to send those of a memory at every step would cost more than the step.
        wrapped.broadcast_buffers = False  # no argument: its name differs between versions of torch
        return wrapped

    def rounds(self, batches: TrainingBatches, epoch: int) -> int:
        """Batches that each process takes in an epoch."""
        return math.ceil(batches.num_batches(epoch) / self.count)

    def share(self, batches: TrainingBatches, epoch: int) -> Iterator[Batch]:
        """Every ``count``-th batch; the last round is filled up with the first batch, so that no process waits."""
        if self.count == 1:
            yield from batches.epoch(epoch)
            return
        yielded = 0
        for batch in islice(batches.epoch(epoch), self.rank, None, self.count):
            yielded += 1
            yield batch
        if yielded < self.rounds(batches, epoch):
            yield next(iter(batches.epoch(epoch)))

    def joined(self, part: Tensor) -> Tensor:
        """The parts of all processes end to end, ``(M, ...)`` each, whose M may differ."""
        if self.count == 1:
            return part
        lengths = self._utils.gather(torch.tensor([len(part)], device=part.device)).tolist()
        padded = self._utils.gather(self._utils.pad_across_processes(part)).tensor_split(self.count)
        return torch.cat([each[:length] for each, length in zip(padded, lengths, strict=True)])

    def any_of(self, flag: bool) -> bool:
        """Whether the flag is true in any process."""
        return flag if self.count == 1 else bool(self.summed(torch.tensor(float(flag), device=self.device)))

    def summed(self, part: Tensor) -> Tensor:
        """The sum over the processes."""
        return self._utils.reduce(part, reduction="sum")

    def wait(self) -> None:
        """Return once every process has called it."""
        self._state.wait_for_everyone()
