r"""Rankings of scores that come in chunks, whatever model gives them.

A model gives the logarithm of each item's probability, :math:`\log p_v`, in chunks of users and items
(:class:`Scores`): all items of a group of users come before the next group's. :func:`top_k` keeps the best of each
chunk; :func:`target_ranks` counts the items that are above a target.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained, guarded
from diffusers_rec.core.errors import check_class, check_int
from diffusers_rec.items.choice import Choice

UNRANKED = 2**62
"""The rank of a target that is left out of the ranking: beyond every cut-off, hence a miss."""

_LARGEST_LOGARITHM = 1e-3
"""Above it, a number is no logarithm of a probability, whatever the rounding."""


@guarded
@dataclass(frozen=True, eq=False)
class Scores:
    """How likely each item of a chunk comes next for each user of a group.

    Args:
        users: Rows of the history, from ``start`` to ``stop``.
        items: Item indices, from ``start`` to ``stop``.
        log_probabilities: Logarithms of the probabilities, averaged over what the model draws, ``(b, c)``.
        std: Standard deviation of the probabilities over what the model draws, for columns of ``log_probabilities``,
            int64 ``(b, k)`` to ``(b, k)``; None where the model draws nothing.
        calibrated: Log-probabilities to be reported in place of those that the ranking is by, and their standard
            deviations, for columns, int64 ``(b, k)`` to two of ``(b, k)``; None where they are the same.

    Raises:
        ValueError: log-probabilities of another shape than users and items.
        TypeError: log-probabilities that are not floating point.
    """

    users: slice
    items: slice
    log_probabilities: Tensor
    std: Callable[[Tensor], Tensor] | None = None
    calibrated: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    made_by: ClassVar[str] = "Scores.of_logits(logits)"

    def __post_init__(self) -> None:
        if not self.log_probabilities.is_floating_point():
            raise TypeError(
                f"Scores: log_probabilities must be floating point, got {self.log_probabilities.dtype}. Convert them "
                "or use Scores.of_logits(logits)."
            )
        shape = self.users.stop - self.users.start, self.items.stop - self.items.start
        if tuple(self.log_probabilities.shape) != shape:
            raise ValueError(
                f"Scores: expected log_probabilities of {shape[0]} users and {shape[1]} items, got "
                f"{tuple(self.log_probabilities.shape)}."
            )

    @classmethod
    def of_logits(cls, logits: Tensor) -> Scores:
        """One chunk of all users and items, whose probabilities are the softmax of ``logits``, ``(B, V)``."""
        return cls(slice(0, logits.shape[0]), slice(0, logits.shape[1]), logits.log_softmax(-1))

    def std_of(self, columns: Tensor) -> Tensor:
        """Standard deviation of the probabilities of chosen columns, ``(b, k)``; 0 where the model draws nothing."""
        if self.std is None:
            return self.log_probabilities.new_zeros(columns.shape)
        return self.std(columns)

    def reported(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of chosen columns and the standard deviations of the probabilities, ``(b, k)`` each."""
        if self.calibrated is not None:
            return self.calibrated(columns)
        return self.log_probabilities.gather(1, columns), self.std_of(columns)


@dataclass(frozen=True)
class TopK:
    """The k best items of each of B users, best first.

    Attributes:
        items: Item indices, ``(B, k)``; -1 where fewer than k items were allowed.
        scores: Probability, averaged over the draws, ``(B, k)``; 0 at index -1.
        std: Standard deviation of that probability over the draws, ``(B, k)``; 0 with one draw.
    """

    items: Tensor
    scores: Tensor
    std: Tensor

    @classmethod
    def joined(cls, parts: Sequence[TopK]) -> TopK:
        """Those of several groups of users."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("items", "scores", "std")))


@explained
def top_k(
    scores: Iterable[Scores], k: int, *, excluded: Tensor | None = None, candidates: Tensor | None = None
) -> TopK:
    """The k likeliest items.

    Args:
        scores: Log-probabilities of B users, as :meth:`Recommender.score <diffusers_rec.Recommender.score>` gives them.
        k: Number of items, from 1 to V.
        excluded: Item indices never to return, ``(B, E)``, padded with -1.
        candidates: The only items to return, ``(C,)``, or ``(B, C)`` padded with -1; probabilities stay those over all
            items.

    Raises:
        ValueError: k outside 1..V, items that do not exist, chunks in another order, or scores that are no
            log-probabilities.
    """
    check_int("k", k)
    choice, found, num_items = Choice(excluded, candidates), [], 0
    for group in user_groups(scores):
        best, size = group_top_k(group, k, choice)
        if not num_items:
            num_items = size
            choice.check(num_items)
            if not 1 <= k <= num_items:
                raise ValueError(f"k must lie in 1..{num_items}, the number of items, got {k}.")
        found.append(best)
    if not found:
        raise ValueError("top_k: expected scores of one user at least, got none.")
    return TopK.joined(found)


@dataclass(frozen=True)
class _Best:
    """The best items of some users: indices, what they are ranked by, and what is reported, ``(b, k)`` each."""

    items: Tensor
    ranked_by: Tensor
    log_probabilities: Tensor
    std: Tensor


def group_top_k(group: Iterator[Scores], k: int, choice: Choice) -> tuple[TopK, int]:
    """The best items of one group of users, and V."""
    chunk = next(group)
    found = _top_k_of_chunk(chunk, k, choice)
    for chunk in group:
        found = _best(found, _top_k_of_chunk(chunk, k, choice), k)
    if not bool((found.ranked_by <= _LARGEST_LOGARITHM).all()):
        raise no_probabilities(found.ranked_by)
    barred = found.ranked_by == -math.inf
    scores = found.log_probabilities.exp().masked_fill_(barred, 0)
    return TopK(found.items.masked_fill(barred, -1), scores, found.std.masked_fill(barred, 0)), chunk.items.stop


def _top_k_of_chunk(chunk: Scores, k: int, choice: Choice) -> _Best:
    # A copy, which may be written to; an item of no probability stays above those that are not allowed.
    scores = chunk.log_probabilities.clamp(min=torch.finfo(chunk.log_probabilities.dtype).min)
    choice.take(chunk.users).mask_(scores, chunk.items)
    best, column = scores.topk(max(0, min(k, scores.shape[1])), dim=1)
    return _Best(column + chunk.items.start, best, *chunk.reported(column))


def _best(one: _Best, other: _Best, k: int) -> _Best:
    """The k best of two."""
    ranked_by, order = torch.cat([one.ranked_by, other.ranked_by], dim=1).topk(
        min(k, one.ranked_by.shape[1] + other.ranked_by.shape[1]), dim=1
    )
    items, log_probabilities, std = (
        torch.cat([getattr(one, name), getattr(other, name)], dim=1).gather(1, order)
        for name in ("items", "log_probabilities", "std")
    )
    return _Best(items, ranked_by, log_probabilities, std)


def no_probabilities(log_probabilities: Tensor) -> ValueError:
    """The error about numbers that are no log-probabilities."""
    if bool(log_probabilities.isnan().any()):
        return ValueError("The probabilities are not numbers: the model's weights hold NaN or infinities.")
    return ValueError(
        f"The scores are no log-probabilities: the largest is {float(log_probabilities.max()):.4g}, above 0. "
        "Give Scores.of_logits(logits), or the logits' log_softmax."
    )


@explained
def target_ranks(scores: Iterable[Scores], targets: Tensor, *, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """The rank of each user's target, 1 the best. Ties, and scores that are not numbers, count against the target.

    The scores of one group of users are held at once. Any numbers can be ranked, log-probabilities or not.

    Args:
        scores: Scores of B users, as :meth:`Recommender.score <diffusers_rec.Recommender.score>` gives them.
        targets: Item indices, ``(B,)``.
        excluded: Items left out of the second ranking, ``(B, E)``, padded with -1.

    Returns:
        Ranks among all items, and among those not excluded, ``(B,)`` int64 each; :data:`UNRANKED` for a target that is
        itself excluded.

    Raises:
        ValueError: chunks in another order.
        TypeError: something else than chunks.
    """
    ranks, unseen = torch.zeros_like(targets), torch.zeros_like(targets)
    others = excluded.sort(1).values
    others[:, 1:][others[:, 1:] == others[:, :-1]] = -1  # each excluded item counts once
    for group in user_groups(scores):
        chunks = [(chunk.users, chunk.items, chunk.log_probabilities) for chunk in group]
        users = chunks[0][0]
        target = torch.full(targets[users].shape, math.nan, dtype=chunks[0][2].dtype, device=targets.device)
        for _, items, values in chunks:
            column, inside = columns_within(targets[users, None], items)
            target = torch.where(inside[:, 0], values.gather(1, column)[:, 0], target)
        for _, items, values in chunks:
            above = values.shape[1] - _count_below(values, target)
            column, inside = columns_within(others[users], items)
            ranks[users] += above
            unseen[users] += above - (~(values.gather(1, column) < target[:, None]) & inside).sum(1)
    barred = (excluded == targets[:, None]).any(1)
    return ranks, torch.where(barred, UNRANKED, unseen)


def _count_below(values: Tensor, target: Tensor) -> Tensor:
    """How many of each row are below its target, ``(B,)``."""
    # Comparing into floats takes a fifth of the time of a sum of booleans. float32 counts as far as 2^24.
    dtype = torch.float32 if values.shape[1] < 2**24 else torch.float64
    below = torch.empty(values.shape, dtype=dtype, device=values.device)
    return torch.lt(values, target[:, None], out=below).sum(1).long()


def columns_within(indices: Tensor, items: slice) -> tuple[Tensor, Tensor]:
    """Columns of a chunk where items lie, and which lie in it; the columns of the others mean nothing."""
    inside = (indices >= items.start) & (indices < items.stop)
    return (indices - items.start).clamp(0, items.stop - items.start - 1), inside


def user_groups(scores: Iterable[Scores]) -> Iterator[Iterator[Scores]]:
    """The chunks of each group of users.

    Raises:
        ValueError: chunks in another order.
    """
    for _, group in groupby(_in_order(scores), key=lambda chunk: (chunk.users.start, chunk.users.stop)):
        yield group


def distributions(scores: Iterable[Scores], choice: Choice) -> Iterator[tuple[slice, Tensor]]:
    """The distribution of each user among the items that are allowed.

    Args:
        scores: Log-probabilities of B users.
        choice: Items that are allowed.

    Yields:
        Users, and their log-probabilities ``(b, V)``; minus infinity where an item is not allowed.
    """
    for group in user_groups(scores):
        chunks = list(group)
        users, together = chunks[0].users, torch.cat([chunk.log_probabilities for chunk in chunks], dim=1)
        choice.take(users).mask_(together, slice(0, together.shape[1]))
        yield users, together.log_softmax(-1)


def _in_order(scores: Iterable[Scores]) -> Iterator[Scores]:
    users, items, num_items = slice(0, 0), slice(0, 0), 0
    if isinstance(scores, Scores):
        raise TypeError("Recommender.score must yield Scores, not return one: yield Scores.of_logits(logits).")
    for chunk in scores:
        check_class("A chunk of Recommender.score(history)", chunk, Scores)
        begins = chunk.users.start == users.stop and chunk.items.start == 0 and items.stop == num_items
        follows = chunk.users == users and chunk.items.start == items.stop
        if not begins and not follows:
            raise ValueError(
                f"Scores: users {_range(chunk.users)} and items {_range(chunk.items)} came after users {_range(users)} "
                f"and items {_range(items)}. All items of a group of users come before the next group's."
            )
        if chunk.users.start == 0:
            num_items = chunk.items.stop
        users, items = chunk.users, chunk.items
        yield chunk
    if items.stop != num_items:
        raise ValueError(
            f"Scores: users {_range(users)} have {items.stop} items, those before them {num_items}. All items of a "
            "group of users come before the next group's."
        )


def _range(part: slice) -> str:
    return f"{part.start}..{part.stop - 1}"


def joined(chunks: Sequence[Scores]) -> Scores:
    """Chunks of neighbouring users as one; each group has all items."""
    if len(chunks) == 1:
        return chunks[0]
    first, last = chunks[0].users.start, chunks[-1].users.stop
    groups: dict[int, list[Scores]] = {}
    for chunk in chunks:
        groups.setdefault(chunk.users.start, []).append(chunk)
    rows = [torch.cat([chunk.log_probabilities for chunk in group], dim=1) for group in groups.values()]

    def over_chunks(columns: Tensor, read: Callable[[Scores, Tensor], Tensor]) -> Tensor:
        found = torch.zeros(columns.shape, dtype=rows[0].dtype, device=columns.device)
        for chunk in chunks:
            users = slice(chunk.users.start - first, chunk.users.stop - first)
            column, inside = columns_within(columns[users], chunk.items)
            found[users] = torch.where(inside, read(chunk, column), found[users])
        return found

    def std(columns: Tensor) -> Tensor:
        return over_chunks(columns, Scores.std_of)

    def calibrated(columns: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = over_chunks(columns, lambda chunk, column: chunk.reported(column)[0])
        return log_probabilities, over_chunks(columns, lambda chunk, column: chunk.reported(column)[1])

    whole = torch.cat(rows)
    return Scores(
        slice(first, last),
        slice(0, whole.shape[1]),
        whole,
        std if any(chunk.std is not None for chunk in chunks) else None,
        calibrated if any(chunk.calibrated is not None for chunk in chunks) else None,
    )
