r"""Whether reported probabilities come true: likelihood, calibration error and Brier score of next-item predictions.

With the probability :math:`p_u` of user u's held-out item and a list of k items, of which item j is reported with
:math:`p_{uj}` and is the held-out one or not, :math:`y_{uj} \in \{0, 1\}`:

.. math:: \mathrm{NLL} = -\frac1U \sum_u \log p_u, \qquad
          \mathrm{ECE} = \sum_b \frac{n_b}{n} \Big| \frac1{n_b} \sum_{(u,j) \in b} (p_{uj} - y_{uj}) \Big|, \qquad
          \mathrm{Brier} = \frac1U \sum_u (p_{u1} - y_{u1})^2,

where the bins b hold equal numbers of listed items of like probability (Naeini et al. 2015).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int
from diffusers_rec.items.choice import Choice
from diffusers_rec.recommenders.calibration import log_popularity
from diffusers_rec.recommenders.ranking import Scores, columns_within, group_top_k, user_groups

BINS = 15
"""Bins of the calibration error."""


@dataclass(frozen=True)
class ProbabilityReport:
    """How the probabilities that a model reports compare with what U users took.

    Attributes:
        nll: Negative log-likelihood of the held-out items, in nats a user.
        nll_uniform: That of the uniform distribution.
        nll_popularity: That of the items' popularity in training, one action added to each; NaN where it is unknown.
        ece: Expected calibration error of the listed items.
        brier: Mean squared error of the first item's probability.
        first_stated: Mean probability that the first item is reported with.
        first_true: Share of users who took the first item.
        first_is_likeliest: Share of users whose first item is also the likeliest one of their list, since a calibrated
            model ranks by another mixture.
    """

    nll: float
    nll_uniform: float
    nll_popularity: float
    ece: float
    brier: float
    first_stated: float
    first_true: float
    first_is_likeliest: float


class ProbabilityMetrics:
    """Collects what a :class:`ProbabilityReport` needs while scores pass by.

    Args:
        num_items: V.
        popularity: How often each item occurs in training, int64 ``(V,)``; None where it is unknown.
        k: Length of the lists.
    """

    def __init__(self, num_items: int, popularity: Tensor | None, k: int = 10) -> None:
        self.num_items, self.k = num_items, min(k, num_items)
        self.popularity = popularity if popularity is not None and bool(popularity.any()) else None
        self._likelihoods: list[Tensor] = []
        self._marks: list[Tensor] = []
        self._stated: list[Tensor] = []
        self._true: list[Tensor] = []

    def watch(self, scores: Iterable[Scores], targets: Tensor, seen: Tensor) -> Iterator[Scores]:
        """The same scores, one group of users after another, which are looked at on the way.

        Args:
            scores: Scores of B users.
            targets: Item indices, ``(B,)``.
            seen: Items left out of the lists, ``(B, E)``, padded with -1.
        """
        choice = Choice(seen, None)
        if self.popularity is not None:
            self._marks.append(log_popularity(self.popularity, targets).cpu())
        for group in user_groups(scores):
            kept: list[Scores] = []
            listed, _ = group_top_k(self._look(group, targets, kept), self.k, choice)
            taken = listed.items == targets[kept[0].users, None]
            self._stated.append(listed.scores.double().masked_fill(listed.items < 0, math.nan).cpu())
            self._true.append(taken.double().cpu())
            yield from kept

    def _look(self, group: Iterable[Scores], targets: Tensor, kept: list[Scores]) -> Iterator[Scores]:
        """The chunks of a group one by one; what is ``kept`` of them holds no draws."""
        likelihoods = []
        for chunk in group:
            column, inside = columns_within(targets[chunk.users, None], chunk.items)
            likelihoods.append(chunk.reported(column)[0].double().masked_fill(~inside, -math.inf)[:, 0])
            kept.append(Scores(chunk.users, chunk.items, chunk.log_probabilities))
            yield chunk
        self._likelihoods.append(torch.stack(likelihoods).amax(0).cpu())

    def report(self) -> ProbabilityReport:
        """The metrics of all that has passed."""
        stated, true = torch.cat(self._stated), torch.cat(self._true)
        is_item = ~stated.isnan()
        with_list = is_item[:, 0]
        first, came_true = stated[with_list, 0], true[with_list, 0]
        return ProbabilityReport(
            nll=-float(torch.cat(self._likelihoods).mean()),
            nll_uniform=math.log(self.num_items),
            nll_popularity=-float(torch.cat(self._marks).mean()) if self._marks else math.nan,
            ece=expected_calibration_error(stated[is_item], true[is_item]),
            brier=float((first - came_true).square().mean()),
            first_stated=float(first.mean()),
            first_true=float(came_true.mean()),
            first_is_likeliest=float((first >= stated.nan_to_num(0.0)[with_list].amax(1)).double().mean()),
        )


@explained
def expected_calibration_error(stated: Tensor, true: Tensor, bins: int = BINS) -> float:
    """Mean distance between probability and frequency over bins of equally many predictions.

    Args:
        stated: Probabilities, float64 ``(n,)``.
        true: Outcomes ``(n,)``: 1 where the prediction came true, else 0.
        bins: Number of bins.

    Raises:
        ValueError: Two shapes, no prediction, or no bin.
    """
    check_int("bins", bins, minimum=1)
    if stated.shape != true.shape or stated.ndim != 1 or not len(stated):
        raise ValueError(
            "expected_calibration_error: expected probabilities (n,) and as many outcomes, got "
            f"{tuple(stated.shape)} and {tuple(true.shape)}."
        )
    order = stated.argsort(stable=True)
    gaps = (stated - true)[order].tensor_split(bins)
    return float(torch.stack([gap.sum().abs() for gap in gaps]).sum() / len(stated))
