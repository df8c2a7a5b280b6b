"""State that training changes, and the training step."""

from __future__ import annotations

import copy

import torch
from torch import Generator, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer
from torch.optim.swa_utils import get_ema_multi_avg_fn

from diffusers_rec.core.errors import check_class
from diffusers_rec.data.batching import Batch
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.training.config import TrainingConfig
from diffusers_rec.training.precision import resolved
from diffusers_rec.training.processes import Processes


class Learner:
    """A model, its optimizer and the moving average of its weights.

    Args:
        model: Model, prepared and on its device.
        optimizer: Optimizer of the parameters, with the initial learning rates.
        config: Settings of the training.
        processes: Processes that train together.

    Attributes:
        average: Moving average of the model; None without ``average_decay``.
    """

    def __init__(self, model: Recommender, optimizer: Optimizer, config: TrainingConfig, processes: Processes) -> None:
        self.model, self.optimizer, self.config, self.processes = model, optimizer, config, processes
        self.average = copy.deepcopy(model).requires_grad_(False) if config.average_decay else None
        self._averaged = None if self.average is None else (list(self.average.parameters()), list(model.parameters()))
        self._initial_rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._low = resolved(config.precision, processes.device) == "bf16"
        self._wrapped: nn.Module | None = None

    @property
    def evaluated(self) -> Recommender:
        """Model that is validated and saved."""
        return self.model if self.average is None else self.average

    def rates(self, epochs_done: float) -> list[float]:
        """Learning rate of each parameter group after a number of epochs."""
        return [self.config.rate(epochs_done, initial=initial) for initial in self._initial_rates]

    def start_epoch(self) -> None:
        """Set training mode. The processes must have equal weights at the first call."""
        self._wrapped = self._wrapped or self.processes.together(self.model)
        self._wrapped.train()

    def step(self, batch: Batch, generator: Generator, *, number: int, epochs_done: float) -> dict[str, float]:
        """Run one step of the optimizer, and update the timestep sampler and the average.

        Args:
            batch: Batch of this process.
            generator: Generator of all random numbers of the step.
            number: Number of the step in the run, from 0.
            epochs_done: Number of epochs so far, with a fraction.

        Returns:
            Mean of each term of the loss over the batch.

        Raises:
            ValueError: The loss is not finite.
            TypeError: The model returns no loss.
        """
        if self._wrapped is None:
            raise RuntimeError("Learner.step: expected start_epoch() first. Call it once per epoch.")
        for group, rate in zip(self.optimizer.param_groups, self.rates(epochs_done), strict=True):
            group["lr"] = rate
        device = self.processes.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self._low):
            loss = self._wrapped(batch.to(device, non_blocking=True), generator)
        check_class(f"{type(self.model).__name__}.forward(batch, generator)", loss, Loss)
        if not torch.isfinite(loss.total):
            raise diverged(f"the loss is {float(loss.total.detach())}", int(epochs_done) + 1)
        loss.total.backward()
        if self.config.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.update({name: self.processes.joined(part) for name, part in loss.observed.items()})
        self._update_average(number)
        return {name: float(value) for name, value in loss.named.items()}

    def end_epoch(self, epoch: int) -> None:
        """Check the weights, because no later loss would reveal an error, and give the average what has none.

        Buffers, such as the number of updates, are counts and features.

        Raises:
            ValueError: Weights are not finite.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise diverged("not all weights are finite after the last step", epoch)
        if self.average is not None:
            for ours, theirs in zip(self.average.buffers(), self.model.buffers(), strict=True):
                ours.copy_(theirs)

    def _update_average(self, step: int) -> None:
        if self._averaged is not None:
            decay = min(self.config.average_decay, (1 + step) / (10 + step))
            get_ema_multi_avg_fn(decay)(*self._averaged, step)  # type: ignore[no-untyped-call]


def diverged(sign: str, epoch: int) -> ValueError:
    """Error of a run that has diverged."""
    return ValueError(f"Training diverged: {sign} in epoch {epoch}. Lower the learning rate, or set clip_norm.")
