r"""Negatives: the items that a loss compares a target with.

The cost of a full softmax is :math:`M V D` for M targets. A sampled softmax draws N items. Item v is expected
:math:`N q_v` times, and the log-Q correction of the scores keeps the normaliser unbiased:

.. math:: \mathcal L_i = -s_{i v_i} + \log \Big( e^{s_{i v_i}}
          + \sum_{j:\, v_j \neq v_i} e^{s_{i v_j} - \log (N q_{v_j})} \Big)

The score of the target is not corrected, because the target is always included. Drawn items that equal the target are
excluded from its row. Bengio & Senécal 2008; Yi et al. 2019; Klenitskiy & Vasilev 2023 for sequential recommendation.

The losses of pairs (:mod:`diffusers_rec.objectives.sampled`) compare with the same items, without the correction.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_bool, check_float, check_int
from diffusers_rec.core.registry import Component
from diffusers_rec.items.cross_entropy import relative


@dataclass(frozen=True)
class NegativeSample:
    """Items that M targets are compared with: N that they share, or N of its own for each.

    Attributes:
        items: Item indices, with repetitions, ``(N,)`` or ``(M, N)``.
        log_expected: Logarithm of the expected number of occurrences of each item among the N, next to a different
            target; float32, like ``items``.
    """

    items: Tensor
    log_expected: Tensor

    def of(self, rows: Tensor) -> NegativeSample:
        """Sample of some targets; ``rows`` selects them."""
        return self if self.items.ndim == 1 else NegativeSample(self.items[rows], self.log_expected[rows])


class Negatives(Component, ABC, kind="negatives"):
    """Draws the items that the targets of a batch are compared with.

    The counts of :meth:`fit` belong to the training data, not to the model. A checkpoint does not contain them, and
    serving does not need them. ``train`` calls :meth:`fit`. Your own training loop must call it before the first loss.
    """

    entrances = "fit", "draw"

    def fit(self, counts: Tensor | npt.ArrayLike) -> None:
        """Learn how often each item is a target in the training data.

        Args:
            counts: Counts of the items as targets, ``(V,)``, as
                :meth:`~diffusers_rec.data.TrainingBatches.target_counts` returns them.

        Raises:
            TypeError: The counts are not numbers.
            ValueError: The counts are not of shape ``(V,)``, not finite, or negative.
        """

    @abstractmethod
    def draw(self, targets: Tensor, num_items: int, generator: Generator) -> NegativeSample | None:
        """Draw negatives for a batch.

        Args:
            targets: Item indices of the targets, ``(M,)``.
            num_items: Number of items V.
            generator: Generator of the random numbers.

        Returns:
            A sample on the device of ``targets``, or None for all items.

        Raises:
            ValueError: :meth:`fit` was not called, or was called with another number of items.
        """


class AllItems(Negatives, name="all"):
    """All items, that is, the full softmax (Eq. 8). The default."""

    def draw(self, targets: Tensor, num_items: int, generator: Generator) -> None:
        return None


class UniformNegatives(Negatives, name="uniform"):
    """Items drawn uniformly with replacement, one sample per batch or one per target.

    A sample that a batch shares costs one matrix product. Of its own, each target has as few as one negative, as in
    SASRec (Kang & McAuley 2018); these are never the target itself.

    Args:
        count: Number N of items in a sample.
        shared: Whether all targets of a batch share one sample.
    """

    def __init__(self, count: int = 1024, *, shared: bool = True) -> None:
        self.count = check_int("count", count, minimum=1)
        self.shared = check_bool("shared", shared)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if not self.shared and "next" in model.objective.passes:
            raise ValueError(
                f"The parts do not fit: the objective {model.objective.registered_name!r} has the pass 'next', whose "
                "targets are others than those that the negatives are drawn for. Use negatives with shared=True."
            )

    def draw(self, targets: Tensor, num_items: int, generator: Generator) -> NegativeSample:
        shape, choices = ((self.count,), num_items) if self.shared else ((len(targets), self.count), num_items - 1)
        items = torch.randint(max(1, choices), shape, generator=generator, device=generator.device).to(targets.device)
        if not self.shared:
            items = (items + 1 + targets[:, None]) % num_items
        expected = torch.full(shape, math.log(self.count / max(1, choices)), device=targets.device)
        return NegativeSample(items, expected)


class _FittedNegatives(Negatives):
    """Negatives that depend on the counts of the items as targets."""

    _counts: Tensor | None = None

    def fit(self, counts: Tensor | npt.ArrayLike) -> None:
        self._counts = _checked(counts)
        self._learn(self._counts)

    @abstractmethod
    def _learn(self, counts: Tensor) -> None:
        """Prepare tables for all draws from counts in float64 on the CPU."""

    def _fitted(self, num_items: int) -> Tensor:
        name = type(self).__name__
        if self._counts is None:
            raise ValueError(
                f"{name} needs to know how often each item is a target, which no checkpoint holds. Call "
                "model.prepare(sequences) with the training sequences before the first loss, as train() does."
            )
        if len(self._counts) != num_items:
            raise ValueError(f"{name} was fitted to {len(self._counts)} items, but the model has {num_items}.")
        return self._counts


def _checked(counts: Tensor | npt.ArrayLike) -> Tensor:
    try:
        found = torch.as_tensor(counts).to("cpu", torch.float64, copy=True)
    except (TypeError, RuntimeError) as error:
        raise TypeError(f"counts must be a tensor or an array of V numbers, got {type(counts).__name__}.") from error
    if found.ndim != 1 or not bool(((found >= 0) & found.isfinite()).all()):
        raise ValueError(f"counts must hold how often each item is a target, (V,) from 0, got {found}.")
    return found


class PopularityNegatives(_FittedNegatives, name="popularity"):
    r"""Items drawn with :math:`q_v \propto (c_v + 1)^\gamma` for an item that is a target :math:`c_v` times.

    Args:
        count: Number N of items in a sample.
        power: Exponent gamma; 0 draws uniformly, 1 in proportion to popularity.
    """

    def __init__(self, count: int = 1024, *, power: float = 0.75) -> None:
        self.count = check_int("count", count, minimum=1)
        self.power = check_float("power", power, minimum=0)

    def _learn(self, counts: Tensor) -> None:
        self._upto = self._weight(counts).cumsum(0)

    def draw(self, targets: Tensor, num_items: int, generator: Generator) -> NegativeSample:
        counts = self._fitted(num_items)
        total = self._upto[-1]
        # torch.multinomial supports at most 2^24 items.
        point = torch.rand(self.count, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        items = torch.searchsorted(self._upto, point * total, right=True).clamp(max=num_items - 1)
        expected = (self.count * self._weight(counts[items]) / total).log().float()
        return NegativeSample(items.to(targets.device), expected.to(targets.device))

    def _weight(self, counts: Tensor) -> Tensor:
        return (counts + 1) ** self.power


class InBatchNegatives(_FittedNegatives, name="in-batch"):
    r"""The targets of the batch. Nothing is drawn, but an item that is never a target is never a negative.

    Each target is compared with the M - 1 other targets: :math:`N = M - 1`, and :math:`q_v \propto c_v` for an item
    that is a target :math:`c_v` times, at least once.
    """

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if model.noising.max_noised(model.max_length) > 1:
            raise ValueError(
                f"The parts do not fit: under the noising {model.noising} an item is a target more often than in "
                "the data, whose counts correct in-batch negatives. Use negatives='uniform' or 'popularity'."
            )

    def _learn(self, counts: Tensor) -> None:
        present = counts.clamp(min=1)
        self._log_share = (present / present.sum()).log().float()

    def draw(self, targets: Tensor, num_items: int, generator: Generator) -> NegativeSample:
        self._fitted(num_items)
        self._log_share = self._log_share.to(targets.device)  # once, because each transfer would wait for the GPU
        return NegativeSample(targets, self._log_share[targets] + math.log(max(1, len(targets) - 1)))


def sampled_cross_entropy(
    positive: Tensor, negative: Tensor, target: Tensor, sample: NegativeSample, weights: Tensor | None = None
) -> Tensor:
    """Mean log-Q corrected cross-entropy of M targets against N negatives.

    Args:
        positive: Scores of the targets, ``(M,)``.
        negative: Scores of the items of the sample, ``(M, N)``.
        target: Item indices of the targets, ``(M,)``.
        sample: Sample of negatives.
        weights: Weights of the targets in the mean, ``(M,)``; all equal if None.
    """
    negative = negative - sample.log_expected.to(negative.dtype)
    negative = negative.masked_fill(sample.items == target[:, None], -math.inf)
    normaliser = torch.cat([positive[:, None], negative], dim=1).logsumexp(1)
    losses = normaliser - positive
    return losses.mean() if weights is None else (losses * relative(weights.to(losses.dtype))).mean()
