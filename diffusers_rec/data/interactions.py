"""Interaction logs: users, items and times."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sized
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, check_int
from diffusers_rec.data.sequences import Sequences, check_indices
from diffusers_rec.data.statistics import Statistics
from diffusers_rec.data.times import TimeArray, as_times
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary, factorize


@guarded
@dataclass(frozen=True, eq=False)
class Interactions:
    """A log of n interactions, one per row, in the order given.

    Args:
        users: Index of each row's user, int64 ``(n,)``.
        items: Index of each row's item, int64 ``(n,)``.
        times: Time of each row, int64 or float64 ``(n,)``; only the order matters.
        user_vocabulary: Raw ids of the users.
        item_vocabulary: Raw ids of the items.

    Raises:
        ValueError: no rows, unequal lengths, or an index outside its vocabulary.
        TypeError: indices that are not int64, or an argument that is not a Vocabulary.
    """

    made_by: ClassVar[str] = "read_interactions(), from_frame() or Interactions.from_arrays()"

    users: IndexArray
    items: IndexArray
    times: TimeArray
    user_vocabulary: Vocabulary
    item_vocabulary: Vocabulary

    def __post_init__(self) -> None:
        _check_rows(len(self.users), len(self.items), len(self.times))
        check_indices("Interactions.users", self.users, len(self.user_vocabulary))
        check_indices("Interactions.items", self.items, len(self.item_vocabulary))

    @classmethod
    def from_arrays(
        cls, users: Iterable[Hashable], items: Iterable[Hashable], times: npt.ArrayLike | None = None
    ) -> Interactions:
        """A log from columns of raw values.

        Args:
            users: Raw user ids, ``(n,)``: a list, array, tensor or series of anything hashable.
            items: Raw item ids, ``(n,)``.
            times: Numbers, datetimes or text (ISO dates, numbers), ``(n,)``; None if rows are ordered oldest first.

        Returns:
            The log, with vocabularies in order of first appearance. Dates become int64 nanoseconds.

        Raises:
            ValueError: no rows, unequal lengths, or a missing value; the message has its row (from 1).
            TypeError: ids that are not hashable, or times of another kind.
        """
        user_codes, user_vocabulary = factorize(_nonempty(users, "users"), "user")
        item_codes, item_vocabulary = factorize(_nonempty(items, "items"), "item")
        ordered = np.arange(len(user_codes)) if times is None else as_times(times)
        return cls(user_codes, item_codes, ordered, user_vocabulary, item_vocabulary)

    def __len__(self) -> int:
        return len(self.users)

    def __repr__(self) -> str:
        return f"Interactions({len(self.user_vocabulary)} users, {len(self.item_vocabulary)} items, {len(self)} rows)"

    def k_core(self, k: int) -> Interactions:
        """The largest part of the log in which every user and every item has at least k interactions.

        Row order and the order of the remaining ids in the vocabularies do not change.

        Raises:
            ValueError: k is below one, or no interaction remains.
            TypeError: k is not an integer.
        """
        k = check_int("Interactions.k_core: k", k, minimum=1)
        rows = np.arange(len(self))
        while rows.size:
            users, items = self.users[rows], self.items[rows]
            enough = (np.bincount(users)[users] >= k) & (np.bincount(items)[items] >= k)
            if enough.all():
                return self._take(rows)
            rows = rows[enough]
        raise ValueError(
            f"Interactions.k_core: no user and item have {k} interactions each after the others are removed "
            f"({len(self)} rows before). Use a smaller k."
        )

    def reindexed(self, vocabulary: Vocabulary, *, unknown: Literal["error", "drop"] = "error") -> Interactions:
        """The same log in the indices of another vocabulary of items, such as that of an existing system.

        :meth:`k_core` removes ids from a vocabulary, so it comes before.

        Args:
            vocabulary: Vocabulary of the items, with others or not.
            unknown: Treatment of the rows of items that it lacks: ``"error"`` or ``"drop"``; users without any other
                row are dropped with them.

        Raises:
            ValueError: an unknown item, unless rows are dropped, or no row remains.
        """
        check_choice("Interactions.reindexed: unknown", unknown, ("error", "drop"))
        occurring, places = np.unique(self.items, return_inverse=True)
        ids = self.item_vocabulary.decode(occurring)
        known = np.array([raw_id in vocabulary for raw_id in ids])
        if unknown == "drop" and known.any() and not known.all():
            return self._take(np.flatnonzero(known[places])).reindexed(vocabulary)
        return replace(self, items=vocabulary.encode(ids)[places], item_vocabulary=vocabulary)

    def statistics(self) -> Statistics:
        """Counts of the log, as in Table 1."""
        return Statistics(_num_distinct(self.users), _num_distinct(self.items), len(self))

    def sequences(self, *, times: bool = False) -> Sequences:
        """Each user's items, oldest first, with users in vocabulary order; rows of equal time stay in order.

        Args:
            times: Whether the sequences contain the times, for models that read them.
        """
        check_bool("Interactions.sequences: times", times)
        order = np.lexsort((self.times, self.users))  # stable
        lengths = np.bincount(self.users, minlength=len(self.user_vocabulary))
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return Sequences(
            self.items[order],
            offsets,
            self.user_vocabulary,
            self.item_vocabulary,
            self.times[order] if times else None,
        )

    def _take(self, rows: IndexArray) -> Interactions:
        users, user_vocabulary = _shrink(self.users[rows], self.user_vocabulary)
        items, item_vocabulary = _shrink(self.items[rows], self.item_vocabulary)
        return Interactions(users, items, self.times[rows], user_vocabulary, item_vocabulary)


def _nonempty(ids: Iterable[Hashable], name: str) -> Iterable[Hashable]:
    if isinstance(ids, Sized) and len(ids) == 0:
        raise ValueError(f"Interactions: expected at least one interaction, but {name} is empty.")
    return ids


def _check_rows(num_users: int, num_items: int, num_times: int) -> None:
    if not num_users == num_items == num_times:
        raise ValueError(
            f"Interactions: users, items and times must be equally long, got {num_users}, {num_items} and {num_times}."
            f" Each row is one interaction."
        )
    if num_users == 0:
        raise ValueError("Interactions: expected at least one interaction, got none.")


def _num_distinct(codes: IndexArray) -> int:
    return int(np.count_nonzero(np.bincount(codes)))


def _shrink(codes: IndexArray, vocabulary: Vocabulary) -> tuple[IndexArray, Vocabulary]:
    occurs = np.bincount(codes, minlength=len(vocabulary)) > 0
    renumbered = np.cumsum(occurs) - 1
    return renumbered[codes], Vocabulary(vocabulary.decode(np.flatnonzero(occurs)))
