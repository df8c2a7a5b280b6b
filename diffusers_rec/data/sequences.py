"""Sequences of items, one a user, and their splits: leave-one-out, by time, and of files of one's own.

All sequences lie end to end in one array; user u owns ``items[offsets[u]:offsets[u + 1]]``, oldest first. The times of
the interactions lie in an array beside it, and a feature of the users is an array of one row a user.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_choice, check_int, shown
from diffusers_rec.data.statistics import Statistics
from diffusers_rec.data.times import TimeArray, TimePoint, time_point
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
            users: Distinct user indices, ``(W,)`` with W >= 1.

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

    def without_repeats(self) -> Sequences:
        """The same sequences with each item of a user once, where it came first."""
        owner = self._owners()
        _, first = np.unique(owner * len(self.vocabulary) + self.items, return_index=True)
        kept = np.zeros(len(self.items), bool)
        kept[first] = True
        return self._where(kept)

    def leave_one_out(self, short: Short = "error") -> Split:
        """The last item of each user for the test, the one before it for validation, the rest for training.

        Args:
            short: Treatment of users of fewer than three items: "error" refuses them, "drop" leaves them out,
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
        older = long._without_last(np.full(len(long), 1))
        return Split(
            train=train,
            validation=long._held_out(histories, last - 1),
            test=long._held_out(older, last),
            before_test=older if train is histories else self._without_last(np.where(is_short, 0, 1)),
        )

    def leave_last_out(self, k: int) -> Split:
        """Each user's last k items for the test, the one before for validation, the rest for training.

        For models that are asked for several items: :func:`~diffusers_rec.evaluation.evaluate_joint`,
        :func:`~diffusers_rec.evaluation.evaluate_gap`. Users with fewer than k + 3 items are trained on as a whole.

        Args:
            k: Number of items.

        Raises:
            ValueError: No user has k + 3 items, or k below 1.
        """
        held = np.where(self.lengths >= check_int("leave_last_out: k", k, minimum=1) + 3, k + 1, 0)
        if not held.any():
            raise ValueError(f"leave_last_out: no user has the {k + 3} items that k={k} needs. Use a smaller k.")
        behind = np.repeat(self.lengths, self.lengths) - places_within(self.lengths)  # 1 for the last item of a user
        held_of = np.repeat(held, self.lengths)
        parts = behind > held_of, (behind == held_of) & (held_of > 0), behind < held_of
        return Split.of(*(self._where(part) for part in parts))

    def split_by_time(self, validation: TimePoint, test: TimePoint) -> Split:
        """Two points in time, the same for all users: older items train, newer ones are held out.

        Interactions before ``validation`` are for training, those from there to ``test`` for validation, the others for
        the test. So no model learns from anything that is newer than a held-out item (Ji et al. 2023, *A Critical Study
        on Data Leakage in Recommender System Offline Evaluation*), and a user has any number of held-out items. Users
        without an item before a part are left out of it.

        Args:
            validation: Start of the validation: a time in the unit of the log, a date, or a share of the interactions
                such as ``"80%"``.
            test: Start of the test, in the same forms.

        Raises:
            ValueError: Sequences without times, points that are no times or do not ascend, or a part without users.
        """
        times = self._clock()
        first = time_point("split_by_time: validation", validation, times)
        second = time_point("split_by_time: test", test, times)
        if not first < second:
            raise ValueError(f"split_by_time: validation must start before the test, got {first} and {second}.")
        before, after = times < first, times >= second
        return Split.of(self._where(before), self._where(~before & ~after), self._where(after))

    def _clock(self) -> TimeArray:
        """The times, one clock for all users."""
        if self.times is None:
            raise ValueError("split_by_time: the sequences have no times. Keep them with sequences(times=True).")
        if len(self) > 1 and (self.times == places_within(self.lengths)).all():
            raise ValueError(
                "split_by_time: the times are places in each user's sequence, 0, 1, 2, ..., as files of sequences give "
                "them. Use a log with a time column, or leave_one_out()."
            )
        return self.times

    def _owners(self) -> IndexArray:
        """The row of each interaction's user, ``(n,)``."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def _where(self, kept: npt.NDArray[np.bool_]) -> Sequences:
        """Some of the interactions of the same users, ``(n,)``."""
        lengths = np.bincount(self._owners()[kept], minlength=len(self))
        return self._at(kept, lengths, self.users, self.features)

    def _followed_by(self, later: Sequences) -> Sequences:
        """Each user's items, then the same user's in ``later``."""
        order = np.argsort(np.concatenate([self._owners(), later._owners()]), kind="stable")
        times = None if self.times is None or later.times is None else np.concatenate([self.times, later.times])[order]
        items = np.concatenate([self.items, later.items])[order]
        return Sequences(
            items, _offsets(self.lengths + later.lengths), self.users, self.vocabulary, times, self.features
        )

    def _without_empty(self) -> Sequences:
        """The users who have items."""
        return self.take(np.flatnonzero(self.lengths)) if (self.lengths == 0).any() else self

    def _of_users(self, users: Vocabulary) -> Sequences:
        """The sequences of ``users``, empty for those who have none here."""
        if users == self.users:
            return self
        if self.features and len(users) > len(self):
            raise ValueError("Split.of: features need the same users in every part. Add them to the split's parts.")
        rows = users.encode(self.users.ids)
        lengths = np.zeros(len(users), np.int64)
        lengths[rows] = self.lengths
        return replace(self.take(np.argsort(rows)), offsets=_offsets(lengths), users=users)

    def _held_out(self, histories: Sequences, places: IndexArray) -> Holdout:
        """Histories, and one item of each user, at ``places``, ``(U,)``."""
        following = self._at(places, np.ones(len(self), np.int64), self.users, self.features)
        return Holdout(histories, following.items, following)

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
    """What came after the history of each user: one target, the next item, or several.

    Args:
        histories: U sequences; ``histories.users`` says whose.
        targets: The item that followed, int64 ``(U,)``.
        following: All that followed, the target first, of the same users; the targets alone if None.

    Raises:
        ValueError: Another number of targets than of histories, an index outside the vocabulary, or ``following`` of
            other users, of other items or with other first items.
        TypeError: Histories that are no sequences, or targets that are not int64.
    """

    made_by: ClassVar[str] = "sequences.leave_one_out().test"

    histories: Sequences
    targets: IndexArray
    following: Sequences = None  # type: ignore[assignment]  # never None after __post_init__

    def __post_init__(self) -> None:
        histories = self.histories
        check_indices("Holdout.targets", self.targets, len(histories.vocabulary))
        if len(self.targets) != len(histories):
            raise ValueError(f"Holdout: expected one target a history, got {len(self.targets)} for {len(histories)}.")
        if self.following is None:
            one_each = Sequences(self.targets, np.arange(len(histories) + 1), histories.users, histories.vocabulary)
            object.__setattr__(self, "following", one_each)
        elif self.following.users != histories.users or self.following.vocabulary != histories.vocabulary:
            raise ValueError("Holdout: following must have the users and items of histories. Use Holdout.of.")
        elif not np.array_equal(_first_items(self.following), self.targets):
            raise ValueError("Holdout: targets must be the first items of following. Use Holdout.of.")

    @classmethod
    def of(cls, histories: Sequences, following: Sequences) -> Holdout:
        """From what came before and after a point, without the users who lack one of the two.

        Args:
            histories: U sequences, any of them empty.
            following: What followed, of the same users and vocabulary, any of them empty.

        Raises:
            ValueError: Other users or items, or nobody with both.
        """
        if following.users != histories.users or following.vocabulary != histories.vocabulary:
            raise ValueError("Holdout.of: following must have the users and items of histories, in the same order.")
        rows = np.flatnonzero((histories.lengths > 0) & (following.lengths > 0))
        if not rows.size:
            raise ValueError(
                f"Holdout.of: none of {len(histories)} users has an item in the history and one after it. Choose "
                "another split."
            )
        kept = following.take(rows)
        return cls(histories.take(rows), _first_items(kept), kept)

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
        matched = _matched("holdout", np.concatenate([self.histories.items, self.following.items]), own, vocabulary)
        items = np.split(matched, [len(self.histories.items)])
        histories, following = (
            replace(part, items=each, vocabulary=vocabulary)
            for part, each in zip((self.histories, self.following), items, strict=True)
        )
        return Holdout(histories, _first_items(following), following)

    def take(self, users: npt.ArrayLike) -> Holdout:
        """The histories and targets of some users, as :meth:`Sequences.take`.

        Args:
            users: Distinct user indices, ``(W,)`` with W >= 1.

        Raises:
            ValueError: No users, or one twice.
        """
        following = self.following.take(users)
        return Holdout(self.histories.take(users), _first_items(following), following)

    def sample(self, users: int, seed: int) -> Holdout:
        """So many of the users, all where there are fewer, chosen by ``seed`` and in their order here."""
        number = min(check_int("Holdout.sample: users", users, minimum=1), len(self))
        generator = np.random.default_rng(check_int("Holdout.sample: seed", seed, minimum=0))
        rows = generator.choice(len(self), number, replace=False)
        rows.sort()
        return self.take(rows)


@guarded
@dataclass(frozen=True, eq=False)
class Split:
    """Sequences to train on, and what is held out from them; all parts share the vocabulary of items.

    Args:
        train: The training sequences.
        validation: Histories, as in ``train``, and what followed, to choose the epoch and the settings by.
        test: Histories with the items of the validation, and what followed.
        before_test: Everything that is older than the test, for :meth:`final`; None if it is not known.
    """

    made_by: ClassVar[str] = "sequences.leave_one_out()"

    train: Sequences
    validation: Holdout
    test: Holdout
    before_test: Sequences | None = None

    @classmethod
    def of(cls, train: Sequences, validation: Sequences, test: Sequences) -> Split:
        """A split of one's own, such as three files.

        Users and items are matched by id. The items of ``validation`` follow those of ``train``, and the items of
        ``test`` follow both. Users without a history are left out of validation and test.

        Args:
            train: The training sequences.
            validation: Items that followed, held out for validation.
            test: Items that followed those, held out for the test.

        Raises:
            ValueError: A part in which nobody has items and a history, or features of some users only.
        """
        parts = train, validation, test
        items, users = _merged(part.vocabulary for part in parts), _merged(part.users for part in parts)
        before, between, after = (part.reindexed(items)._of_users(users) for part in parts)
        if not len(before.items):
            raise ValueError("Split.of: the training sequences have no items. Choose a later split.")
        known = before._followed_by(between)
        return cls(
            before._without_empty(),
            _part("validation", before, between),
            _part("test", known, after),
            known._without_empty(),
        )

    def final(self) -> Sequences:
        """All items before the test: what ``train`` and ``validation`` hold together, for the last fit.

        ``train(model, split.final(), config=...)`` trains without validation, for the number of epochs that a training
        with validation has chosen.

        Raises:
            ValueError: A split that was built without them.
        """
        if self.before_test is None:
            raise ValueError(
                "Split.final: the split has no before_test. Build it with Split.of(train, validation, test)."
            )
        return self.before_test


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


def _part(name: str, histories: Sequences, following: Sequences) -> Holdout:
    """The validation or the test of a split."""
    try:
        return Holdout.of(histories, following)
    except ValueError as error:
        raise ValueError(f"Split.of: there is no {name}. {error}") from error


def _merged(vocabularies: Iterable[Vocabulary]) -> Vocabulary:
    """All ids, in the order of their first appearance; the first vocabulary itself if it has them all."""
    first, *others = vocabularies
    kinds = {type(raw_id).__name__ for each in (first, *others) for raw_id in each.ids[:1]}
    if len(kinds) > 1:
        raise ValueError(
            f"Split.of: the parts have ids of different types, {' and '.join(sorted(kinds))}, so that equal ids would "
            "not match. Read all parts with ids of one type: one id that is no number makes a column text."
        )
    merged = dict.fromkeys([*first.ids, *(raw_id for other in others for raw_id in other.ids)])
    return first if len(merged) == len(first) else Vocabulary(merged)


def _first_items(sequences: Sequences) -> IndexArray:
    """The first item of each user, ``(U,)``; every user needs one.

    Raises:
        ValueError: A user without items.
    """
    if not (sequences.lengths > 0).all():
        raise ValueError("Holdout: every user needs an item that followed. Holdout.of leaves out those without.")
    return sequences.items[sequences.offsets[:-1]]


def _offsets(lengths: IndexArray) -> IndexArray:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
