r"""Discrete flow of user vectors from popular items.

At step n, with :math:`t = 1 - n / N`, each item has its clean value with probability t, else a draw from a prior that
knows how many users have the item:

.. math:: x_{n,v} = \begin{cases} x_{0,v} & \text{with probability } t, \\
          z_v \sim \mathrm{Bernoulli}(\text{share of the users that have } v) & \text{otherwise.} \end{cases}

A reverse step from n to n - 1 moves along the predicted velocity :math:`(\hat x_0 - x_n) / (1 - t)` for the time
:math:`1 / N`, which gives the probability of a one: :math:`p = x_n + (\hat x_0 - x_n) / n`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import uniform
from diffusers_rec.data.batching import Examples
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.processes.schedules.lookup import MAX_TIMESTEPS
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.user_vectors import UserVectorModel


@guarded
class UserVectorFlow(UserVectorModel, model_name="user-vector-flow"):
    r"""Flow matching of binary user vectors (Liu et al. 2025, *FlowCF*), with the squared error as loss.

    The chain has ``num_steps`` steps, the last of those of the flow, and takes the likelier value of each item. Items
    of the history keep the value 1. See the module for the equations.

    Args:
        items: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        num_timesteps: Number of steps N.
        num_steps: Number of steps of the chain that ranks, at most N.
        widths: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        max_length: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        timesteps: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        step_dim: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        dropout: Dropout rate of the corrupted vector and of the hidden layers.
        temperature: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        seed: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.

    Attributes:
        shares: Share of the training users that have each item, ``(V,)``; zero until :meth:`prepare` counts them.
    """

    shares: Tensor

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        num_timesteps: int = 9,
        num_steps: int = 2,
        widths: Sequence[int] = (300, 300),
        max_length: int = 1000,
        timesteps: TimestepSampler | str | Mapping[str, Any] = "uniform",
        step_dim: int = 10,
        dropout: float = 0.1,
        temperature: float = 0.1,
        seed: int = 0,
    ) -> None:
        num_timesteps = check_int("num_timesteps", num_timesteps, minimum=1, maximum=MAX_TIMESTEPS)
        super().__init__(
            items,
            num_timesteps=num_timesteps,
            widths=widths,
            max_length=max_length,
            oldest_weight=1.0,
            timesteps=timesteps,
            step_dim=step_dim,
            dropout=dropout,
            hidden_dropout=dropout,
            temperature=temperature,
            seed=seed,
        )
        self.num_steps = check_int("num_steps", num_steps, minimum=1, maximum=num_timesteps)
        self.register_buffer("shares", torch.zeros(len(self.vocabulary)))

    def prepare(self, sequences: Sequences, *, examples: Examples = "every-prefix") -> Self:
        """Count the users of each item, and the items' popularity; :func:`~diffusers_rec.training.train` calls it.

        Args:
            sequences: Training sequences; items are matched with the model's by id.
            examples: How they become examples; has no effect.

        Raises:
            ValueError: The sequences have items that the model does not know.
        """
        own, size = sequences.reindexed(self.vocabulary), len(self.vocabulary)
        user = np.repeat(np.arange(len(own)), own.lengths)
        item = np.unique(user * size + own.items) % size
        self.shares.copy_(torch.from_numpy(np.bincount(item, minlength=size) / len(own)))
        return super().prepare(sequences, examples=examples)

    @property
    def _course(self) -> Sequence[int]:
        """The last ``num_steps`` steps."""
        return range(self.num_steps, 0, -1)

    def _corrupt(self, x0: Tensor, timesteps: Tensor, generator: Generator) -> Tensor:
        """Replace values by draws from the prior."""
        drawn, numbers = (uniform(x0.shape, generator, device=x0.device) for _ in range(2))
        prior = (drawn < self.shares).to(x0.dtype)
        return torch.where(numbers < self._time(timesteps)[:, None], x0, prior)

    def _reverse(self, x0: Tensor, xn: Tensor, n: int, history: Tensor) -> Tensor:
        """The likelier value of each item, 1 for those of the history."""
        one = torch.lerp(xn, x0.to(xn.dtype), 1 / n) > 0.5
        return (one | (history > 0)).to(xn.dtype)

    def _loss_weight(self, timesteps: Tensor) -> Tensor:
        """1 at all steps."""
        return torch.ones_like(timesteps)

    def _seen_step(self, timesteps: Tensor) -> Tensor:
        """The time t, as the angle of a full turn."""
        return 2 * torch.pi * self._time(timesteps)

    def _time(self, timesteps: Tensor) -> Tensor:
        return 1 - timesteps.double() / self.num_timesteps
