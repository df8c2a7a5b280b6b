r"""Timestep samplers: which diffusion steps are trained on.

Sampling one step per question, :math:`n \sim p_n`, and weighing its loss estimates the loss over all N steps without
bias (Eq. 18). The weight :math:`1 / (N p_n)` estimates the **mean** over n, the paper's :math:`1 / p_n` the **sum**.
The scale decides the balance against the recommendation loss; the default is the mean.
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
"""Losses kept for each step, at most."""


class TimestepSampler(Component, ABC, kind="timesteps"):
    """Draws timesteps and the weights that keep the expectation.

    Args:
        num_timesteps: N.
        estimate: ``"mean"`` or ``"sum"`` over the N steps; what weighted losses average to.
        start_share: in [0, 1); this share of the draws is at n = N, where one-step inference starts. The weights
            account for it.
    """

    entrances = "sample", "update", "load_state_dict"

    def __init__(self, num_timesteps: int = 1000, *, estimate: str = "mean", start_share: float = 0.0) -> None:
        self.num_timesteps = check_int("num_timesteps", num_timesteps, minimum=1, maximum=MAX_TIMESTEPS)
        self.estimate = check_choice("estimate", estimate, ("mean", "sum"))
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
        """p_n without the start share, for n = 1..N, ``(N,)`` float64, positive, summing to one."""

    def probabilities(self) -> Tensor:
        """p_n for n = 1..N, ``(N,)`` float64."""
        probabilities = self._probabilities() * (1 - self.start_share)
        probabilities[-1] += self.start_share
        return probabilities

    def sample(
        self, shape: Sequence[int], generator: Generator, device: torch.device | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw timesteps.

        Args:
            shape: of the draw, ``(B, Q)`` or ``(B, Q, K)``.
            generator: the only source of randomness.
            device: where to put the result; the generator's device when None.

        Returns:
            Timesteps in 1..N, int64, and their weights, float32, both of ``shape``.
        """
        probabilities = self.probabilities()
        uniform = torch.rand(*shape, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        cumulative = probabilities.cumsum(0)
        index = torch.searchsorted(cumulative / cumulative[-1], uniform, right=True)
        scale = self.num_timesteps if self.estimate == "mean" else 1
        weights = (1 / (scale * probabilities[index])).to(torch.float32)
        return (index + 1).to(device or generator.device), weights.to(device or generator.device)

    def update(self, timesteps: Tensor, losses: Tensor) -> None:
        """Learn from the unweighted loss at each drawn timestep; both of any one shape. Nothing by default."""

    def state_dict(self) -> dict[str, Tensor]:
        """What :meth:`update` has learned, as tensors."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Put back what :meth:`state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} keeps no state, got {', '.join(state)}.")


class UniformTimestepSampler(TimestepSampler, name="uniform"):
    r""":math:`p_n = 1 / N`."""

    def _probabilities(self) -> Tensor:
        return torch.full((self.num_timesteps,), 1 / self.num_timesteps, dtype=torch.float64)


class ImportanceTimestepSampler(TimestepSampler, name="importance"):
    r"""Harder steps more often: :math:`p_n \propto \sqrt{\mathbb E[L_n^2]}` (Eq. 18).

    The expectation is the mean over the last ``history`` losses seen at step n. Until every step has that many, steps
    are drawn uniformly (the warm-up).

    Nichol & Dhariwal 2021, *Improved DDPM*, Sec. 3.3; the default of Du et al. 2023, Sec. 4.5.1.

    Args:
        num_timesteps: N.
        history: recent losses kept for each step.
        uniform_share: in [0, 1]; mixed with the uniform distribution in this share, which bounds the weights.
        estimate: see :class:`TimestepSampler`.
        start_share: see :class:`TimestepSampler`.
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
        """Enter losses into the histories of their steps, oldest out first.

        Raises:
            ValueError: shapes differ, a timestep outside 1..N, or a loss that is not finite.
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
        latest = rank >= arrivals[index] - self.history  # of more arrivals than places, the last ones stay
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
