r"""Noising strategies: which positions of a sequence carry noise.

A sequence of length p + 1 ends with the target at position p. A strategy turns p into a **query**: K consecutive
corrupted positions that see each other and the first ``visible`` items of the sequence, which are clean. The paper
(Eq. 7) corrupts only the target, so K = 1 and ``visible`` = p. Each of B histories has Q independent queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.errors import check_bool
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.noising.queries import Queries


class NoisingStrategy(Component, ABC, kind="noising"):
    """Turns target positions into queries. See the docstring of the module.

    Args:
        independent_steps: Whether each noised position has its own timestep, instead of one timestep per query.
    """

    entrances = "max_noised", "queries", "training", "serving", "timestep_shape"
    noises_history: ClassVar[bool] = False
    """Whether, in training, the denoiser is also given noised copies of the items of the history."""
    draws_gaps: bool = False
    """Whether training draws which positions of a query keep their items, whatever their steps are."""

    def __init__(self, *, independent_steps: bool = False) -> None:
        self.independent_steps = check_bool("independent_steps", independent_steps)

    @property
    def new_items(self) -> int:
        """Number of positions that a query adds after the history at serving time."""
        return 1

    @abstractmethod
    def max_noised(self, max_length: int) -> int:
        """Largest K for sequences of at most ``max_length`` items."""

    @abstractmethod
    def queries(self, targets: Tensor, width: int) -> Queries:
        """Queries to train the prediction of the items at ``targets``.

        Args:
            targets: Target positions, ``(B, Q)``; -1 where there is no query.
            width: Number of noised positions K, at least that of the longest query.
        """

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        """Queries of a training batch; by default those of :meth:`queries`, and nothing is drawn.

        Args:
            targets: See :meth:`queries`.
            width: See :meth:`queries`.
            generator: Generator for a strategy that draws its queries.
        """
        return self.queries(targets, width)

    def questions(self, targets: Tensor, width: int) -> Queries:
        """Deprecated name of :meth:`queries`."""
        warn_deprecated("NoisingStrategy.questions", "NoisingStrategy.queries")
        return self.queries(targets, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        """One query per history, for the item that follows it, Q = 1.

        Args:
            lengths: Number of items in each history, ``(B,)``.
            width: Number of noised positions K.
        """
        return self.queries(lengths[:, None], width)

    def timestep_shape(self, queries: Queries) -> torch.Size:
        """Shape of the timesteps: ``(B, Q)``, or ``(B, Q, K)`` with ``independent_steps``."""
        return queries.positions.shape if self.independent_steps else queries.visible.shape
