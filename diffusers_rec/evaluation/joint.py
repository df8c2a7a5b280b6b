r"""The likelihood of several items that followed together, and of items left out between others.

For K items that followed a history, the chain rule in an order :math:`\sigma` is

.. math:: \log p(v_1, \dots, v_K) = \sum_i \log p\big(v_{\sigma(i)} \mid \text{history}, v_{\sigma(1)}, \dots,
          v_{\sigma(i-1)}\big).

Every factor is a gap among known items. Known items that follow the history without a gap belong to it, so that the
order from left to right asks for the next item K times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_choice, check_int
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.items.choice import Choice
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.generating import Blanks, gap_distributions
from diffusers_rec.recommenders.ranking import distributions

ORDERS = "left-to-right", "random", "factorised"


@dataclass(frozen=True)
class GapReport:
    """How well held-out items were predicted.

    Attributes:
        log_probabilities: Logarithm of the probability of each item, float64 ``(U,)``.
        ranks: Rank of each item, 1 the best, ``(U,)``.
    """

    log_probabilities: npt.NDArray[np.float64]
    ranks: npt.NDArray[np.int64]

    @property
    def nll(self) -> float:
        """Mean negative log-probability, in nats."""
        return float(-self.log_probabilities.mean())

    def hit_rate(self, k: int) -> float:
        """Share of the items among the k likeliest."""
        return float((self.ranks <= check_int("k", k, minimum=1)).mean())


@explained
def evaluate_gap(
    model: Recommender,
    holdout: Holdout,
    place: int,
    known: Sequence[int] = (),
    *,
    excluded: Sequence[int] = (),
    exclude_seen: bool = True,
    batch_size: int = 256,
) -> GapReport:
    """Predict one of the items that followed, given some of the others. The network alone predicts.

    Args:
        model: A model that predicts items, as of ``presets.joint``; or another recommender, which predicts the next
            item, where all items before ``place`` are known and none behind it.
        holdout: Histories and what followed; users with fewer than ``max(place, *known) + 1`` items are left out.
        place: Place of the item among those that followed, from 0.
        known: Places of the items that are given.
        excluded: Places of further items that are left out of the distribution, though the model does not see them.
        exclude_seen: Whether the items of the history and those given are left out of the distribution.
        batch_size: Users at once.

    Raises:
        ValueError: A negative place, the place of the item among the others, or gaps further apart than the model fills
            in together.
    """
    places = [check_int("place", each, minimum=0) for each in (place, *known, *excluded)]
    if place in places[1:]:
        raise ValueError(f"The item at place {place} is asked for, so that it cannot be known or excluded as well.")
    check_bool("exclude_seen", exclude_seen)
    rows = _rows(holdout, max(places) + 1)
    shown = np.tile(_marks(rows.items.shape[1], known), (len(rows.items), 1))
    questions = _Questions(rows, np.full(len(rows.items), place), shown, list(excluded))
    return _asked(model, questions, exclude_seen, check_int("batch_size", batch_size, minimum=1))


@explained
def evaluate_joint(
    model: Recommender,
    holdout: Holdout,
    k: int,
    order: str = "left-to-right",
    *,
    orders: int = 4,
    join: bool = True,
    exclude_seen: bool = True,
    seed: int = 0,
    batch_size: int = 256,
) -> npt.NDArray[np.float64]:
    """Log-likelihood of the next k items of each user, by the chain rule. The network alone predicts.

    Args:
        model: A model that predicts items, as of ``presets.joint``; another recommender for ``"left-to-right"``.
        holdout: Histories and what followed; users with fewer than k items are left out.
        k: Number of items.
        order: ``"left-to-right"``; ``"random"``, the mean over several orders a user; or ``"factorised"``, each item
            given the history alone.
        orders: Number of random orders a user.
        join: Whether known items that follow the history without a gap join it; otherwise they stay in the query.
        exclude_seen: Whether the items of the history, and those that are given, are left out of the distributions.
        seed: Seed of the orders.
        batch_size: Users at once.

    Returns:
        Nats for all k items, float64 ``(U,)``.

    Raises:
        ValueError: An unknown order, no user with k items, or more items than the model fills in together.
    """
    check_choice("order", order, ORDERS)
    check_bool("join", join)
    check_bool("exclude_seen", exclude_seen)
    check_int("batch_size", batch_size, minimum=1)
    rows = _rows(holdout, check_int("k", k, minimum=1))
    generator = np.random.default_rng(check_int("seed", seed, minimum=0))
    repeats = check_int("orders", orders, minimum=1) if order == "random" else 1
    total = np.zeros(len(rows.items))
    for _ in range(repeats):
        rank = np.tile(np.arange(k), (len(rows.items), 1))
        if order == "random":
            rank = generator.permuted(rank, axis=1)
        for turn in range(k):
            place = (rank == turn).argmax(1)
            known = np.zeros_like(rank, bool) if order == "factorised" else rank < turn
            found = _asked(model, _Questions(rows, place, known), exclude_seen, batch_size, join=join)
            total += found.log_probabilities
    return total / repeats


@dataclass(frozen=True)
class _Rows:
    """Histories, and the first k items that followed each, ``(U, k)``."""

    histories: list[npt.NDArray[np.int64]]
    items: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Questions:
    """One gap a user: its ``place`` ``(U,)`` among the items, of which some are ``known`` ``(U, k)``.

    Items at the places ``excluded`` are left out of the distributions as well.
    """

    rows: _Rows
    place: npt.NDArray[np.int64]
    known: npt.NDArray[np.bool_]
    excluded: list[int] = field(default_factory=list)


def _rows(holdout: Holdout, k: int) -> _Rows:
    users = np.flatnonzero(holdout.following.lengths >= k).tolist()
    if not users:
        raise ValueError(f"No user of the holdout has {k} items that followed. Ask for fewer.")
    items = np.stack([holdout.following[user][:k] for user in users])
    return _Rows([holdout.histories[user] for user in users], items)


def _marks(k: int, places: Sequence[int]) -> npt.NDArray[np.bool_]:
    marks = np.zeros(k, bool)
    marks[list(places)] = True
    return marks


def _asked(
    model: Recommender, questions: _Questions, exclude_seen: bool, batch_size: int, *, join: bool = True
) -> GapReport:
    """Probability and rank of the item at every gap."""
    rows = questions.rows
    joins = isinstance(model, DiffRec) and model.denoiser.prediction == "items"
    model, most = model.without_memory(), len(questions.known[0])
    if isinstance(model, DiffRec) and joins and most > model.noising.max_noised(model.max_length - 1):
        raise ValueError(
            f"The model fills in {model.noising.max_noised(model.max_length - 1)} items together, but {most} are asked "
            "for. Ask for fewer, or train with a larger k."
        )
    histories, windows, places = [], [], []
    for row in range(len(questions.place)):
        items, known, place = rows.items[row], questions.known[row], int(questions.place[row])
        first = int(np.argmin(known)) if join else 0
        if not joins and not np.array_equal(known, np.arange(len(known)) < place):
            raise ValueError(
                f"{type(model).__name__} predicts the next item alone: it does not see past a gap, on either side. "
                "Use a model that predicts items, such as presets.joint."
            )
        histories.append(np.concatenate([rows.histories[row], items[:first]]))
        windows.append(np.where(known, items, -1)[first:] if joins else np.full(1, -1))
        places.append(place - first if joins else 0)
    blanks = Blanks(histories, windows)
    targets = np.take_along_axis(rows.items, questions.place[:, None], 1)[:, 0]
    further = rows.items[:, questions.excluded]
    known_items = [window[window >= 0] for window in windows]
    seen = [np.concatenate(each) for each in zip(histories, known_items, further, strict=True)]
    return report_of_gaps(model, blanks, places, targets, seen if exclude_seen else None, batch_size)


def report_of_gaps(
    model: Recommender,
    blanks: Blanks,
    places: Sequence[int],
    targets: npt.NDArray[np.int64],
    excluded: Sequence[npt.NDArray[np.int64]] | None,
    batch_size: int,
) -> GapReport:
    """Probability and rank of the item at one gap of each sequence.

    Args:
        model: As of :func:`evaluate_gap`.
        blanks: U sequences.
        places: Place of the gap within each window.
        targets: Items at the gaps, ``(U,)``.
        excluded: Items that are left out of the distributions, one array a sequence; none if None.
        batch_size: Sequences at once.
    """
    log_probabilities, ranks = np.zeros(len(targets)), np.zeros(len(targets), np.int64)
    for some, part in blanks.batches(batch_size):
        seen = None if excluded is None else pad([excluded[row] for row in some], fill=-1).items
        at = torch.tensor([places[row] for row in some])
        with model.serving() as served:
            for rows, scores in _distributions(served, part, at, seen):
                mine = np.array(some)[rows]
                own = scores.gather(1, torch.from_numpy(targets[mine])[:, None])
                log_probabilities[mine] = own[:, 0].double().numpy()
                ranks[mine] = 1 + (scores > own).sum(1).numpy()
    return GapReport(log_probabilities, ranks)


def _distributions(
    model: Recommender, part: Blanks, places: Tensor, seen: Tensor | None
) -> Iterator[tuple[slice, Tensor]]:
    """Log-probabilities of all items at one position of each sequence, ``(b, V)``."""
    if isinstance(model, DiffRec) and model.denoiser.prediction == "items":
        yield from gap_distributions(model, part, places, Choice(seen, None))
        return
    history = pad(part.histories, model.history_length).to(model.device)
    yield from distributions(model.score(history), Choice(seen, None))
