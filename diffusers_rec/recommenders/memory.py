r"""Memory: what other users did next, beside what the network predicts.

A low-dimensional softmax blurs rare transitions that a table simply keeps. A memory predicts, from the history, a
distribution q over a few items, which the ranking mixes with the network's own:

.. math:: p(v \mid \text{history}) = (1 - \lambda)\, \bar p_\theta(v) + \lambda\, q(v)

as in nearest-neighbour language models (Khandelwal et al. 2020). It is filled from the training sequences, not learned
by gradient, and saved with the weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.deprecation import deprecated_names, warn_deprecated
from diffusers_rec.core.errors import check_float, check_int, check_same, warn_caller
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences, places_within
from diffusers_rec.data.vocabulary import IndexArray

NO_ITEM = 2**62
"""Padding after the distinct items of a memory's prediction; larger than any item, so that rows stay ascending."""

_COMPARED = 2**20
"""So many pairs of items are compared rather than sorted."""


@dataclass(frozen=True)
class MemoryPrediction:
    r"""What a memory predicts for B histories, sparse: E items each, the rest has no mass.

    Attributes:
        items: Item indices, ``(B, E)``; repetitions add up.
        mass: :math:`\lambda q`, ``(B, E)``, from 0.
        share: Sum of each row of ``mass``, ``(B, 1)``: lambda, below 1, or 0 where nothing is known. It is given rather
            than summed, so that a history has the same share in any batch.
    """

    items: Tensor
    mass: Tensor
    share: Tensor

    def take(self, rows: slice) -> MemoryPrediction:
        """The predictions for some histories."""
        if rows == slice(0, len(self.items)):
            return self
        return MemoryPrediction(self.items[rows], self.mass[rows], self.share[rows])

    @cached_property
    def distinct(self) -> MemoryPrediction:
        """The same prediction, ascending, each item once; rows with fewer items are padded with :data:`NO_ITEM`."""
        items, order = self.items.sort(dim=1, stable=True)
        new = F.pad(items[:, 1:] != items[:, :-1], (1, 0), value=True)
        place = new.cumsum(1) - 1
        shape = len(items), int(place[:, -1].max()) + 1 if items.numel() else 0
        found = torch.full(shape, NO_ITEM, device=items.device).scatter_(1, place, items)
        mass = self.mass.new_zeros(shape).scatter_add_(1, place, self.mass.gather(1, order))
        return MemoryPrediction(found, mass, self.share)

    def at(self, items: Tensor) -> Tensor:
        """The mass of any items, ``(B, k)`` like ``items``; 0 for -1."""
        if items.numel() * self.items.shape[1] <= _COMPARED:
            return (self.mass[:, None] * (self.items[:, None] == items[..., None])).sum(2)
        place, known = places_in(self.distinct.items, items)
        return torch.where(known, self.distinct.mass.gather(1, place), 0)

    def mix(self, network: Tensor, chunk: slice, *, logarithms: bool = False) -> Tensor:
        """The mixture with the network's probabilities for a chunk of items.

        Args:
            network: Mean probabilities of the network, or their logarithms, ``(B, chunk)``.
            chunk: Range of items.
            logarithms: Whether logarithms are taken and given.
        """
        mass = self.within(chunk).to(network.dtype)
        if not logarithms:
            return mass.add_(network * (1 - self.share).to(network.dtype))
        mixed = network + torch.log1p(-self.share).to(network.dtype)
        # Only at the predicted items, because a logarithm of every item is slow. An item of another chunk stands for
        # one of this chunk, whose own mass is right.
        place = (self.items - chunk.start).clamp(0, mass.shape[1] - 1)
        return mixed.scatter(1, place, torch.logaddexp(mixed.gather(1, place), mass.gather(1, place).log()))

    def within(self, chunk: slice) -> Tensor:
        """The mass of a chunk of items, dense, ``(B, chunk)``."""
        size = chunk.stop - chunk.start
        column = torch.where((self.items >= chunk.start) & (self.items < chunk.stop), self.items - chunk.start, size)
        mass = self.mass.new_zeros(self.items.shape[0], size + 1)
        return mass.scatter_add_(1, column, self.mass)[:, :-1]


def places_in(table: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Where items ``(B, k)`` stand in ascending rows ``(B, E)``, E from 1, and whether they do, ``(B, k)`` each."""
    place = torch.searchsorted(table, items.contiguous()).clamp_(max=table.shape[1] - 1)
    return place, table.gather(1, place) == items


class Memory(nn.Module, Component, ABC, kind="memory"):
    """Predicts the items that followed similar histories in training."""

    entrances = "fit", "predict"

    @abstractmethod
    def fit(self, sequences: Sequences) -> None:
        """Fill it from the training sequences, forgetting what it held."""

    @abstractmethod
    def predict(self, history: History) -> MemoryPrediction | None:
        """The share of the probability that the memory gives to each item.

        Args:
            history: B histories.

        Returns:
            None where the memory has no part in the ranking at all.
        """

    def recall(self, items: Tensor, lengths: Tensor) -> MemoryPrediction | None:
        """Deprecated name of :meth:`predict`.

        Args:
            items: Item indices, ``(B, L)``.
            lengths: Items a row, ``(B,)``.
        """
        warn_deprecated("Memory.recall(items, lengths)", "Memory.predict(History(items, lengths))")
        return self.predict(History(items, lengths))


class NoMemory(Memory, name="none"):
    """The network alone. The default."""

    def fit(self, sequences: Sequences) -> None:
        pass

    def predict(self, history: History) -> None:
        return None


class TransitionMemory(Memory, name="transitions"):
    r"""Counts of which item came near which, the nearer the more.

    .. math:: c_{xv} = \frac{1}{\sqrt{n_x}} \sum_{i < j \le i + w} (j - i)^{-1/2}
              \big( [x_i = x, x_j = v] + b\, [x_i = v, x_j = x] \big),
              \qquad q(v) \propto \sum_{d=0}^{w-1} \gamma^d\, c_{x_{L-d}, v}

    over all positions i, j of all training sequences, with :math:`n_x` occurrences of x, so that a popular item's word
    grows with the root of them alone. Of every x the largest M counts are kept, 8 M bytes an item. Unfitted, the memory
    knows nothing, leaves the ranking to the network, and warns.

    Args:
        num_items: V.
        share: Share lambda of the memory in the mixture, below 1.
        window: Largest distance w between two items.
        decay: Factor gamma from one item of the history to the one before it.
        backward: Weight b of a transition for its reverse.
        neighbours: Number M of counts kept for each item.
    """

    items: Tensor
    counts: Tensor

    def __init__(
        self,
        num_items: int,
        *,
        share: float = 0.4,
        window: int = 10,
        decay: float = 0.8,
        backward: float = 0.5,
        neighbours: int = 100,
    ) -> None:
        super().__init__()
        self.num_items = check_int("num_items", num_items, minimum=1)
        self.share = check_float("share", share, minimum=0, below=1)
        self.window = check_int("window", window, minimum=1)
        self.decay = check_float("decay", decay, minimum=0, maximum=1)
        self.backward = check_float("backward", backward, minimum=0)
        self.neighbours = check_int("neighbours", neighbours, minimum=1)
        shape = self.num_items, min(self.neighbours, self.num_items)
        self.register_buffer("items", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("counts", torch.zeros(shape))

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("items of the memory", self.num_items, "items of the vocabulary", len(model.vocabulary))

    def fit(self, sequences: Sequences) -> None:
        if len(sequences.vocabulary) != self.num_items:
            raise ValueError(
                f"The memory holds {self.num_items} items, but the sequences have {len(sequences.vocabulary)}."
            )
        pairs: IndexArray = np.zeros(0, np.int64)
        counts: npt.NDArray[Any] = np.zeros(0)
        place = places_within(sequences.lengths)
        for gap in range(1, self.window + 1):  # gap by gap, so that no more than the distinct pairs are held
            later = np.flatnonzero(place >= gap)
            if not len(later):
                break
            x, v = sequences.items[later - gap], sequences.items[later]
            weight = np.full(len(later), gap**-0.5)
            found = [pairs, x * self.num_items + v]
            weights = [counts, weight]
            if self.backward:
                found.append(v * self.num_items + x)
                weights.append(self.backward * weight)
            pairs, index = np.unique(np.concatenate(found), return_inverse=True)
            counts = np.bincount(index, np.concatenate(weights), minlength=len(pairs))
        x, v = pairs // self.num_items, pairs % self.num_items
        occurrences = np.bincount(sequences.items, minlength=self.num_items)
        self._keep(x, v, counts / np.sqrt(occurrences[x]))

    def _keep(self, x: IndexArray, v: IndexArray, counts: npt.NDArray[np.float64]) -> None:
        """The largest counts of every x."""
        order = np.lexsort((v, -counts, x))
        x, v, counts = x[order], v[order], counts[order]
        rank = places_within(np.bincount(x, minlength=self.num_items))
        kept = rank < self.items.shape[1]
        at = torch.from_numpy(x[kept]), torch.from_numpy(rank[kept])
        self.items.zero_()
        self.counts.zero_()
        self.items[at] = torch.from_numpy(v[kept]).to(self.items)
        self.counts[at] = torch.from_numpy(counts[kept]).to(self.counts)

    def predict(self, history: History) -> MemoryPrediction:
        items, lengths = history.items, history.lengths
        back = torch.arange(min(self.window, items.shape[1]), device=items.device)
        place = lengths[:, None] - 1 - back
        latest = items.gather(1, place.clamp(min=0))
        mass = self.counts[latest] * (self.decay**back * (place >= 0))[..., None]
        mass = mass.flatten(1)
        total = mass.sum(1, keepdim=True)
        if not torch.compiler.is_compiling() and not bool(total.any()) and not bool(self.counts.any()):
            warn_caller(
                "The memory has counted nothing, so that the network alone ranks. Call model.prepare(sequences) with "
                "the training sequences, as train() does."
            )
        share = torch.where(total > 0, self.share, 0.0)
        return MemoryPrediction(
            self.items[latest].flatten(1).long(), mass * (share / total.clamp(min=torch.finfo(total.dtype).tiny)), share
        )


__getattr__ = deprecated_names(__name__, {"Recalled": ("MemoryPrediction", MemoryPrediction)})
