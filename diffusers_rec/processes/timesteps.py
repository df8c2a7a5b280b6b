r"""Timestep samplers: which diffusion steps are trained on.

One step :math:`n \sim p_n` is drawn per query. Its weighted loss is an unbiased estimate of the loss over all N steps
(Eq. 18). The weight :math:`1 / (N p_n)` estimates the **mean** over n; the paper's :math:`1 / p_n` estimates the
**sum**. The choice determines the weight relative to the recommendation loss; the default is the mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_choice, check_float, check_int, check_same
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules.lookup import MAX_TIMESTEPS

MAX_HISTORY = 10_000
"""Maximum number of losses that are kept for each step."""


class TimestepSampler(Component, ABC, kind="timesteps"):
    """Draws timesteps and their weights, which keep the expectation of the loss.

    Args:
        num_timesteps: Number of steps N.
        estimate: Expectation of the weighted losses: their ``"mean"`` or ``"sum"`` over the N steps, or their mean as
            ``"drawn"``, where all weights are 1.
        start_share: Share of the draws at n = N, where one-step serving starts, in [0, 1). The weights account for it,
            except for ``"drawn"``, where step N counts more.
    """

    entrances = "sample", "update", "load_state_dict"

    def __init__(self, num_timesteps: int = 1000, *, estimate: str = "mean", start_share: float = 0.0) -> None:
        self.num_timesteps = check_int("num_timesteps", num_timesteps, minimum=1, maximum=MAX_TIMESTEPS)
        self.estimate = check_choice("estimate", estimate, ("mean", "sum", "drawn"))
        self.start_share = check_float("start_share", start_share, minimum=0, below=1)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same(
            "num_timesteps of the timestep sampler",
            self.num_timesteps,
            "num_timesteps of the schedule",
            model.schedule.num_timesteps,
        )

    @abstractmethod
    def _probabilities(self) -> Tensor:
        """Return p_n without the start share for n = 1..N, float64 ``(N,)``, positive, with sum one."""

    def probabilities(self) -> Tensor:
        """Return p_n for n = 1..N, float64 ``(N,)``."""
        probabilities = self._probabilities() * (1 - self.start_share)
        probabilities[-1] += self.start_share
        return probabilities

    def sample(
        self, shape: Sequence[int], generator: Generator, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw timesteps.

        Args:
            shape: Shape of the draw, ``(B, Q)`` or ``(B, Q, K)``.
            generator: Generator of the random numbers.
            device: Device of the result; the device of the generator if None.

        Returns:
            Timesteps in 1..N, int64, and their weights, float32, both of ``shape``.
        """
        probabilities = self.probabilities()
        uniform = torch.rand(*shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        cumulative = probabilities.cumsum(0)
        index = torch.searchsorted(cumulative / cumulative[-1], uniform, right=True)
        weights = self._weights(probabilities[index]).to(torch.float32)
        return (index + 1).to(device or generator.device), weights.to(device or generator.device)

    def _weights(self, probabilities: Tensor) -> Tensor:
        """Weights of drawn steps, from their probabilities."""
        if self.estimate == "drawn":
            return torch.ones_like(probabilities)
        return 1 / ((self.num_timesteps if self.estimate == "mean" else 1) * probabilities)

    def update(self, timesteps: Tensor, losses: Tensor) -> None:
        """Learn from the unweighted loss at each drawn timestep, of the same shape; does nothing by default."""

    def state_dict(self) -> dict[str, Tensor]:
        """State that :meth:`update` has learned, as tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore a result of :meth:`state_dict`."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {', '.join(state)}.")


class UniformTimestepSampler(TimestepSampler, name="uniform"):
    r"""The same probability for every step, :math:`p_n = 1 / N`."""

    def _probabilities(self) -> Tensor:
        return torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)


class ImportanceTimestepSampler(TimestepSampler, name="importance"):
    r"""Draws steps with larger losses more often, :math:`p_n \propto \sqrt{\mathbb E[L_n^2]}` (Eq. 18).

    The expectation is estimated by the mean over the last ``history`` losses at step n. Until every step has this many,
    steps are drawn uniformly (the warm-up).

    Nichol & Dhariwal 2021, *Improved DDPM*, Sec. 3.3; the default of Du et al. 2023, Sec. 4.5.1.

    Args:
        num_timesteps: Number of steps N.
        history: Number of recent losses that are kept for each step.
        uniform_share: Share of the uniform distribution in a mixture, in [0, 1], which bounds the weights.
        estimate: See :class:`TimestepSampler`.
        start_share: See :class:`TimestepSampler`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        history: int = 10,
        uniform_share: float = 0.001,
        estimate: str = "mean",
        start_share: float = 0.0,
    ) -> None:
        super().__init__(num_timesteps, estimate=estimate, start_share=start_share)
        self.history = check_int("history", history, minimum=1, maximum=MAX_HISTORY)
        self.uniform_share = check_float("uniform_share", uniform_share, minimum=0, maximum=1)
        self._losses = torch.zeros(self.num_timesteps, self.history, dtype=torch.float64, device="cpu")
        self._seen = torch.zeros(self.num_timesteps, dtype=torch.int64, device="cpu")

    @property
    def warm(self) -> bool:
        """Whether every step has a full history, so that probabilities follow the losses."""
        return bool((self._seen >= self.history).all())

    def _probabilities(self) -> Tensor:
        uniform = torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)
        if not self.warm:
            return uniform
        size = self._losses.square().mean(1).sqrt()
        total = size.sum()
        if total == 0:
            return uniform
        return (1 - self.uniform_share) * size / total + self.uniform_share * uniform

    def update(self, timesteps: Tensor, losses: Tensor) -> None:
        """Add losses to the histories of their steps and remove the oldest.

        Raises:
            ValueError: The shapes differ, a timestep is outside 1..N, or a loss is not finite.
        """
        if timesteps.shape != losses.shape:
            raise ValueError(
                f"timesteps and losses must have one shape, got {tuple(timesteps.shape)} and {tuple(losses.shape)}."
            )
        index = timesteps.detach().reshape(-1).cpu().long() - 1
        values = losses.detach().reshape(-1).cpu().to(torch.float64)
        if not bool(torch.isfinite(values).all()):
            raise ValueError("The losses hold values that are not finite: training has diverged. Lower the rate.")
        if index.numel() and (int(index.min()) < 0 or int(index.max()) >= self.num_timesteps):
            raise ValueError(f"timesteps must lie in 1..{self.num_timesteps}.")
        order = torch.argsort(index, stable=True)
        index, values = index[order], values[order]
        arrivals = torch.bincount(index, minlength=self.num_timesteps)
        rank = torch.arange(len(index)) - (arrivals.cumsum(0) - arrivals)[index]
        latest = rank >= arrivals[index] - self.history  # if there are too many, keep the last ones
        slot = (self._seen[index] + rank) % self.history
        self._losses[index[latest], slot[latest]] = values[latest]
        self._seen += arrivals

    def state_dict(self) -> dict[str, Tensor]:
        return {"losses": self._losses.clone(), "seen": self._seen.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        expected = {"losses": self._losses, "seen": self._seen}
        for name, tensor in expected.items():
            if name not in state or state[name].shape != tensor.shape:
                got = tuple(state[name].shape) if name in state else "nothing"
                raise ValueError(f"The state of {type(self).__name__} needs {name} {tuple(tensor.shape)}, got {got}.")
        for name, tensor in expected.items():
            tensor.copy_(state[name])
