r"""Calibration: probabilities that come true as often as they state.

The mixture of network and memory that ranks best is not the one that is likeliest. What is reported is a mixture of its
own, of network, memory and popularity:

.. math:: p(v \mid \text{history}) = (1 - \pi) \big( (1 - w)\, \tilde p_\theta(v) + w\, \tilde q(v) \big)
          + \pi\, \tilde n(v), \qquad
          p_\theta(v) = \frac1S \sum_s \mathrm{softmax}_v(\ell_s / T), \qquad
          n(v) = \frac{n_v + 1}{\sum_u (n_u + 1)}

with the logits :math:`\ell_s` of S noise draws, the memory's prediction q, and how often each item occurs in training,
:math:`n_v`. The tilde multiplies the items of the history by a factor :math:`\rho` and normalises again: few logs have
an item twice in a sequence, but a network expects it. The four numbers are fitted on validation
by :meth:`DiffRec.calibrate <diffusers_rec.DiffRec.calibrate>`. The ranking keeps its own mixture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_class, check_float
from diffusers_rec.core.lazy import lazy
from diffusers_rec.data.history import History
from diffusers_rec.items.choice import among
from diffusers_rec.recommenders.memory import MemoryPrediction


@dataclass(frozen=True)
class Calibration:
    """The four numbers of a calibrated model.

    Args:
        temperature: T, by which logits are divided.
        memory: Share w of the memory wherever it predicts anything.
        popularity: Share of the items' popularity.
        seen: Factor of the items of the history.
    """

    temperature: float = 1.0
    memory: float = 0.0
    popularity: float = 0.0
    seen: float = 1.0

    def __post_init__(self) -> None:
        for name in ("temperature", "seen"):
            object.__setattr__(self, name, check_float(name, getattr(self, name), above=0))
        for name in ("memory", "popularity"):
            object.__setattr__(self, name, check_float(name, getattr(self, name), minimum=0, below=1))

    @classmethod
    def of(cls, spec: Calibration | Mapping[str, Any] | None) -> Calibration | None:
        """A calibration from its settings; None stays None."""
        if isinstance(spec, Mapping):
            unknown = sorted(set(spec) - set(asdict(cls())))
            if unknown:
                raise ValueError(f"Calibration: expected {', '.join(asdict(cls()))}, got also {unknown}.")
            return cls(**spec)
        return None if spec is None else check_class("calibration", spec, Calibration)

    def config(self) -> dict[str, float]:
        """The four numbers, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What a calibration needs to know of some users beside their logits.

    Attributes:
        calibration: The four numbers.
        memory: The memory's prediction for b users; None without one.
        counts: How often each item occurs in training, int64 ``(V,)``.
        seen: Items of the histories, each once, ``(b, E)``, padded with -1.
    """

    calibration: Calibration
    memory: MemoryPrediction | None
    counts: Tensor
    seen: Tensor

    @classmethod
    def of(
        cls, calibration: Calibration, history: History, memory: MemoryPrediction | None, counts: Tensor
    ) -> Evidence:
        """That of histories."""
        return cls(calibration, memory, counts, distinct(history))

    def take(self, users: slice) -> Evidence:
        """That of some users."""
        memory = None if self.memory is None else self.memory.take(users)
        return Evidence(self.calibration, memory, self.counts, self.seen[users])

    @lazy
    def known(self) -> Tensor:
        """Whose memory predicts anything, ``(b, 1)``."""
        if self.memory is None:
            return torch.zeros(self.seen.shape[0], 1, dtype=torch.bool, device=self.seen.device)
        return self.memory.share > 0

    def remembered(self, items: Tensor) -> Tensor:
        """Prediction q for a few items, ``(b, k)`` to float64 ``(b, k)``; 0 where the memory predicts nothing."""
        return self.share_of(items if self.memory is None else self.memory.at(items))

    def share_of(self, mass: Tensor) -> Tensor:
        """Prediction q, float64 ``(b, k)``, for the memory's mass; 0 without one, whatever is given."""
        if self.memory is None:
            return torch.zeros(mass.shape, dtype=torch.float64, device=mass.device)
        return _normalised(mass, self.memory)

    def remembered_within(self, items: slice, columns: Tensor) -> Tensor:
        """Prediction q for chosen columns of a chunk of items, float64 ``(b, k)``."""
        if self.memory is None:
            return torch.zeros(columns.shape, dtype=torch.float64, device=columns.device)
        return _normalised(self.memory.within(items).gather(1, columns), self.memory)

    def popular(self, items: Tensor) -> Tensor:
        """Popularity n of items, float64 in their shape."""
        return (self.counts[items] + 1).double() / self._actions

    @lazy
    def _actions(self) -> Tensor:
        return self.counts.sum() + len(self.counts)

    def mass_of_seen(self) -> tuple[Tensor, Tensor]:
        """Mass of the items of the history under the memory and under popularity, float64 ``(b, 1)`` each."""
        popular = self.popular(self.seen.clamp(min=0)) * (self.seen >= 0)
        if self.memory is None:
            remembered = torch.zeros_like(popular)
        else:
            remembered = self.share_of(self.memory.mass * self.repeated(self.memory.items))
        return remembered.sum(1, keepdim=True), popular.sum(1, keepdim=True)

    def repeated(self, items: Tensor) -> Tensor:
        """Which items are in the history, ``(b, k)``."""
        return self._repeats.gather(1, items.clamp(min=0))

    @lazy
    def _repeats(self) -> Tensor:
        return among(self.seen, slice(0, len(self.counts)))


@dataclass(frozen=True, eq=False)
class CalibratedUsers:
    """What the chunks of b users share, computed once.

    Attributes:
        evidence: What is known of the users.
        normaliser: Gives the logarithm of the sum of exp(logits / T) over all items, ``(b, S, 1)``.
        logits_of_seen: Gives the logits of the items of the histories, ``(b, S, E)``.
    """

    evidence: Evidence
    normaliser: Callable[[], Tensor]
    logits_of_seen: Callable[[], Tensor]

    def network(self, logits: Tensor) -> Tensor:
        """Probabilities of some items under each draw, float64 ``(b, S, k)`` like their logits."""
        return (logits.double() / self.evidence.calibration.temperature - self._total).exp()

    @lazy
    def shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Shares of network, memory and popularity, float64 ``(b, 1)``."""
        calibration = self.evidence.calibration
        memory = calibration.memory * self.evidence.known.double()
        own = 1 - calibration.popularity
        return own * (1 - memory), own * memory, torch.full_like(memory, calibration.popularity)

    @lazy
    def left(self) -> tuple[Tensor, Tensor, Tensor]:
        """What network, memory and popularity sum to after the factor of the seen items, float64 ``(b, 1)``."""
        factor = self.evidence.calibration.seen
        network = self.network(self.logits_of_seen()).mean(1) * (self.evidence.seen >= 0)
        parts = network.sum(1, keepdim=True), *self.evidence.mass_of_seen()
        network, remembered, popular = (1 - (1 - factor) * mass.clamp(max=1) for mass in parts)
        return network, remembered, popular

    def probabilities(
        self, logits: Tensor, remembered: Tensor, popular: Tensor, repeated: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of k items for each user and standard deviations of the probabilities, ``(b, k)`` each.

        Args:
            logits: Logits under each draw, ``(b, S, k)``.
            remembered: Prediction q, float64 ``(b, k)``.
            popular: Popularity n, float64 ``(b, k)``.
            repeated: Whether an item is in the history, ``(b, k)``.
        """
        draws = self.network(logits)
        factor = 1 - (1 - self.evidence.calibration.seen) * repeated.double()
        parts = zip(self.shares, (draws.mean(1), remembered, popular), self.left, strict=True)
        mixture = sum(share * part / rest for share, part, rest in parts)
        deviation = draws.std(1, correction=0) * (self.shares[0] / self.left[0]) * factor
        return (factor * mixture).log().to(logits.dtype), deviation.to(logits.dtype)

    @lazy
    def _total(self) -> Tensor:
        return self.normaliser().double()


@dataclass(frozen=True, eq=False)
class CalibratedScores:
    """Calibrated probabilities of a chunk of items, computed for the columns that are asked for.

    Attributes:
        users: What the chunks of the b users share.
        items: Range of the chunk's items.
        logits: Logits of each draw, ``(b, S, c)``.
    """

    users: CalibratedUsers
    items: slice
    logits: Tensor

    @torch.no_grad()
    def __call__(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen columns, int64 ``(b, k)``, and standard deviations of the probabilities."""
        evidence = self.users.evidence
        return self.users.probabilities(
            self.logits.gather(2, columns[:, None].expand(-1, self.logits.shape[1], -1)),
            evidence.remembered_within(self.items, columns),
            evidence.popular(columns + self.items.start),
            among(evidence.seen, self.items).gather(1, columns),
        )


def _normalised(mass: Tensor, memory: MemoryPrediction) -> Tensor:
    return mass.double() / memory.share.double().clamp(min=torch.finfo(torch.float64).tiny)


def distinct(history: History) -> Tensor:
    """Items of each history once, ``(B, L)``, padded with -1."""
    items = history.items.masked_fill(~history.mask, -1).sort(1).values
    repeated = torch.zeros_like(items, dtype=torch.bool)
    repeated[:, 1:] = items[:, 1:] == items[:, :-1]
    return items.masked_fill(repeated, -1)


def log_popularity(counts: Tensor, items: Tensor) -> Tensor:
    """Logarithm of the items' share of all actions, one action added to each item, float64 like ``items``.

    Args:
        counts: How often each item occurs in training, int64 ``(V,)``.
        items: Item indices, any shape.
    """
    return (counts[items] + 1).double().log() - math.log(int(counts.sum()) + len(counts))
