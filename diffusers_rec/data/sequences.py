"""Sequences of items, one a user, and the leave-one-out split.

All sequences lie end to end in one array; user u owns ``items[offsets[u]:offsets[u + 1]]``, oldest first. The times of
the interactions lie in an array beside it, and a feature of the users is an array of one row a user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_choice, check_int, shown
from diffusers_rec.data.statistics import Statistics
from diffusers_rec.data.times import TimeArray
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary

Short = Literal["error", "drop", "train"]
FeatureArray = npt.NDArray[Any]


@guarded
@dataclass(frozen=True, eq=False)
class Sequences:
    """U users' item indices, oldest first, and what else is known of the interactions and the users.

    Args:
        items: All sequences end to end, int64 ``(n,)``.
        offsets: Start of each sequence, and the end of the last, int64 ``(U + 1,)``.
        users: Raw ids of the users.
        vocabulary: Raw ids of the items.
        times: Time of each interaction, int64 or float64 ``(n,)``; None where the model does not need them.
        features: Name to an array of one row a user, ``(U, ...)``; :meth:`with_features` converts other forms.

    Raises:
        ValueError: offsets that do not cut ``items`` into one sequence a user, an index outside the vocabulary, or
            times or features of another length.
        TypeError: arrays of another dtype, or vocabularies that are none.
    """

    made_by: ClassVar[str] = "read_interactions(...).sequences()"

    items: IndexArray
    offsets: IndexArray
    users: Vocabulary
    vocabulary: Vocabulary
    times: TimeArray | None = None
    features: Mapping[str, FeatureArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_indices("Sequences.items", self.items, len(self.vocabulary))
        check_indices("Sequences.offsets", self.offsets, len(self.items) + 1)
        ends = self.offsets[[0, -1]].tolist() if len(self.offsets) else []
        if len(self.offsets) != len(self.users) + 1 or ends != [0, len(self.items)] or (self.lengths < 0).any():
            raise ValueError(
                f"Sequences: offsets must be {len(self.users) + 1} ascending numbers from 0 to {len(self.items)}, "
                f"got {len(self.offsets)} from {ends[:1]} to {ends[1:]}. Interactions.sequences() builds them."
            )
        if self.times is not None and self.times.shape != self.items.shape:
            raise ValueError(
                f"Sequences: expected one time an interaction, {self.items.shape}, got {self.times.shape}."
            )
        for name, feature in self.features.items():
            check_feature("Sequences", name, feature, len(self.users))

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, user: int) -> IndexArray:
        if not isinstance(user, int | np.integer) or isinstance(user, bool):
            raise TypeError(f"Sequences: expected one user index, got {shown(user)}. Several come with take().")
        if not -len(self) <= user < len(self):
            raise IndexError(f"Sequences: expected a user index below {len(self)}, got {user}.")
        user %= len(self)
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def __iter__(self) -> Iterator[IndexArray]:
        return (self.items[start:stop] for start, stop in zip(self.offsets[:-1], self.offsets[1:], strict=True))

    def __repr__(self) -> str:
        return f"Sequences({len(self)} users, {len(self.vocabulary)} items, {len(self.items)} rows)"

    @property
    def lengths(self) -> IndexArray:
        """Items a user, int64 ``(U,)``."""
        return np.diff(self.offsets)

    def statistics(self) -> Statistics:
        """The sequences' row of Table 1; users without items and items that do not occur are not counted."""
        num_items = int(np.count_nonzero(np.bincount(self.items))) if len(self.items) else 0
        return Statistics(int(np.count_nonzero(self.lengths)), num_items, len(self.items))

    def take(self, users: npt.ArrayLike) -> Sequences:
        """The sequences of some users, in the order given.

        Args:
            users: distinct user indices, ``(W,)`` with W >= 1.

        Raises:
            ValueError: no users, or one twice.
        """
        rows = np.asarray(users)
        if not rows.size:
            raise ValueError("Sequences: take expected at least one user index, got none.")
        lengths = self.lengths[rows]
        places = np.repeat(self.offsets[rows], lengths) + places_within(lengths)
        features = {name: feature[rows] for name, feature in self.features.items()}
        return self._at(places, lengths, Vocabulary(self.users.decode(rows)), features)

    def with_features(self, features: Mapping[str, npt.ArrayLike]) -> Sequences:
        """The same sequences with features of the users, beside those that they have.

        Args:
            features: Name to numbers of one row a user, in the order of ``users``, ``(U, ...)``: an array, a tensor or
                nested lists. Fractions become float32, as weights are; text needs an encoding first, such as that of a
                :class:`~diffusers_rec.data.Vocabulary`.

        Raises:
            ValueError: another number of rows than of users.
            TypeError: features that are no numbers.
        """
        return replace(self, features={**self.features, **feature_arrays("with_features", features, len(self))})

    def reindexed(self, vocabulary: Vocabulary) -> Sequences:
        """The same sequences with the item indices of another vocabulary, matched by id.

        Args:
            vocabulary: Item ids, in any order; those that never occur here are ignored.

        Raises:
            ValueError: an item that occurs here is not in the vocabulary.
        """
        if vocabulary == self.vocabulary:
            return self
        return replace(
            self, items=_matched("sequences", self.items, self.vocabulary, vocabulary), vocabulary=vocabulary
        )

    def leave_one_out(self, short: Short = "error") -> Split:
        """The last item of each user for the test, the one before it for validation, the rest for training.

        Args:
            short: what to do with users of fewer than three items: "error" refuses them, "drop" leaves them out,
                "train" keeps all their items in ``train`` and leaves them out of validation and test.

        Raises:
            ValueError: short users under "error", nobody with three items, or another word for ``short``.
        """
        check_choice("leave_one_out: short", short, ("error", "drop", "train"))
        is_short = self.lengths < 3
        if is_short.all() or (short == "error" and is_short.any()):
            raise self._too_short(is_short)
        long = self.take(np.flatnonzero(~is_short)) if is_short.any() else self
        histories = long._without_last(np.full(len(long), 2))
        train = self._without_last(np.where(is_short, 0, 2)) if short == "train" and is_short.any() else histories
        last = long.offsets[1:] - 1
        return Split(
            train=train,
            validation=Holdout(histories, long.items[last - 1]),
            test=Holdout(long._without_last(np.full(len(long), 1)), long.items[last]),
        )

    def _without_last(self, counts: IndexArray) -> Sequences:
        lengths = self.lengths - counts
        kept = places_within(self.lengths) < np.repeat(lengths, self.lengths)
        return self._at(kept, lengths, self.users, self.features)

    def _at(
        self, places: npt.NDArray[Any], lengths: IndexArray, users: Vocabulary, features: Mapping[str, FeatureArray]
    ) -> Sequences:
        """Some of the interactions, ``lengths`` of them for each of ``users``."""
        times = None if self.times is None else self.times[places]
        return Sequences(self.items[places], _offsets(lengths), users, self.vocabulary, times, features)

    def _too_short(self, is_short: npt.NDArray[np.bool_]) -> ValueError:
        first = ", ".join(map(repr, self.users.decode(np.flatnonzero(is_short)[:5])))
        return ValueError(
            f"leave_one_out: every user needs at least 3 items, but {is_short.sum()} of {len(self)} have fewer "
            f"(first: {first}). Filter with Interactions.k_core(3), or pass short='drop' or short='train'; "
            f"at least one user must have 3."
        )


@guarded
@dataclass(frozen=True, eq=False)
class Holdout:
    """One target a user: the item that follows the history.

    Args:
        histories: U sequences; ``histories.users`` says whose.
        targets: the item that followed, int64 ``(U,)``.

    Raises:
        ValueError: another number of targets than of histories, or an index outside the vocabulary.
        TypeError: histories that are no sequences, or targets that are not int64.
    """

    made_by: ClassVar[str] = "sequences.leave_one_out().test"

    histories: Sequences
    targets: IndexArray

    def __post_init__(self) -> None:
        check_indices("Holdout.targets", self.targets, len(self.histories.vocabulary))
        if len(self.targets) != len(self.histories):
            raise ValueError(
                f"Holdout: expected one target a history, got {len(self.targets)} for {len(self.histories)}."
            )

    def __len__(self) -> int:
        return len(self.targets)

    def reindexed(self, vocabulary: Vocabulary) -> Holdout:
        """As :meth:`Sequences.reindexed`, of histories and targets.

        Raises:
            ValueError: an item that occurs here is not in the vocabulary.
        """
        own = self.histories.vocabulary
        if vocabulary == own:
            return self
        matched = _matched("holdout", np.concatenate([self.histories.items, self.targets]), own, vocabulary)
        items, targets = np.split(matched, [len(self.histories.items)])
        return Holdout(replace(self.histories, items=items, vocabulary=vocabulary), targets)

    def sample(self, users: int, seed: int) -> Holdout:
        """So many of the users, all where there are fewer, chosen by ``seed`` and in their order here."""
        number = min(check_int("Holdout.sample: users", users, minimum=1), len(self))
        generator = np.random.default_rng(check_int("Holdout.sample: seed", seed, minimum=0))
        rows = generator.choice(len(self), number, replace=False)
        rows.sort()
        return Holdout(self.histories.take(rows), self.targets[rows])


@guarded
@dataclass(frozen=True, eq=False)
class Split:
    """The leave-one-out split; all parts share the vocabulary of items.

    Args:
        train: sequences without their last two items.
        validation: histories as in ``train``, target the last item but one.
        test: histories up to the last item but one, target the last item.
    """

    train: Sequences
    validation: Holdout
    test: Holdout


def places_within(lengths: IndexArray) -> IndexArray:
    """0, 1, 2, ... within each of several runs laid end to end, ``(sum(lengths),)``."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def check_history(name: str, history: npt.ArrayLike, row: int) -> IndexArray:
    """One history of several, as int64 ``(L,)``; anything but item indices is refused."""
    indices: npt.NDArray[Any] = np.asarray(history)
    if indices.size == 0:
        return np.zeros(0, np.int64)
    if indices.dtype.kind not in "iu":
        raise TypeError(f"{name}: history {row} has dtype {indices.dtype}; expected item indices (Vocabulary.encode).")
    if indices.ndim != 1 or indices.min() < 0:
        raise ValueError(
            f"{name}: history {row} must be (L,) indices from 0, got {indices.shape} from {indices.min()}."
        )
    return indices.astype(np.int64)


def feature_arrays(name: str, features: Mapping[str, npt.ArrayLike], users: int) -> dict[str, FeatureArray]:
    """Features of users as arrays of numbers, ``(U, ...)`` each; fractions in float32."""
    if not isinstance(features, Mapping):
        raise TypeError(f"{name}: features must be a mapping of name to one row a user, got {shown(features)}.")
    arrays: dict[str, FeatureArray] = {}
    for key, values in features.items():
        array = np.asarray(values)
        check_feature(name, key, array, users)
        arrays[key] = array.astype(np.float32) if array.dtype.kind == "f" else array
    return arrays


def check_feature(name: str, key: str, array: FeatureArray, users: int) -> None:
    """Refuses anything but numbers of one row a user."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
        raise TypeError(
            f"{name}: feature {key!r} must hold numbers, got {getattr(array, 'dtype', type(array).__name__)}. Text "
            "becomes numbers with Vocabulary(values).encode(values)."
        )
    if not array.ndim or len(array) != users:
        raise ValueError(f"{name}: feature {key!r} needs one row for each of {users} users, got {array.shape}.")


def check_indices(name: str, values: npt.NDArray[Any], size: int) -> None:
    """Refuses anything but int64 ``(n,)`` in 0..size-1."""
    if not isinstance(values, np.ndarray) or values.dtype != np.int64:
        raise TypeError(f"{name}: expected an int64 array, got {getattr(values, 'dtype', type(values).__name__)}.")
    if values.ndim != 1:
        raise ValueError(f"{name}: expected shape (n,), got {values.shape}.")
    if values.size and (values.min() < 0 or values.max() >= size):
        raise ValueError(f"{name}: expected indices in 0..{size - 1}, got {values.min()}..{values.max()}.")


def _matched(name: str, items: IndexArray, own: Vocabulary, other: Vocabulary) -> IndexArray:
    """The indices in another vocabulary of items of one's own."""
    occurring, place = np.unique(items, return_inverse=True)
    try:
        return other.encode(own.decode(occurring))[place]
    except ValueError as error:
        raise ValueError(f"The model does not know all items of the {name}. {error}") from error


def _offsets(lengths: IndexArray) -> IndexArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
