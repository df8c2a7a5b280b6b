"""What callers ask of a recommender, checked and in item indices: histories, candidates, items to leave out."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from diffusers_rec.core.errors import shown
from diffusers_rec.data.batching import pad
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import FeatureArray, Sequences, feature_arrays
from diffusers_rec.data.times import TimeArray, as_times
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary, listed

Items = Iterable[Hashable]

_UNORDERED = str, bytes, Mapping, set, frozenset


@dataclass(frozen=True)
class Requests:
    """B requests.

    Attributes:
        histories: Item indices, oldest first, ``(L_b,)`` each.
        candidates: Indices to choose among, ``(C_b,)`` each; one array for all requests, or none where all items are.
        excluded: Indices to leave out, ``(E_b,)`` each.
        times: Times of the items, like ``histories``; None where they are not known.
        features: Features of the users, name to ``(B, ...)``.
    """

    histories: list[IndexArray]
    candidates: list[IndexArray]
    excluded: list[IndexArray]
    times: list[TimeArray] | None = None
    features: Mapping[str, FeatureArray] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        vocabulary: Vocabulary,
        histories: Iterable[Items],
        *,
        candidates: Items | Iterable[Items] | None = None,
        exclude: Items | Iterable[Items] | None = None,
        exclude_seen: bool = True,
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
        drop: bool = False,
        may_be_empty: bool = False,
    ) -> Requests:
        """From raw ids, as :meth:`~diffusers_rec.Recommender.recommend` takes them."""
        if isinstance(histories, Sequences):
            times = _rows_of(histories) if times is None else times
            features = {**histories.features, **(features or {})}
        given = _lists(histories)
        rows = _encoded_histories(vocabulary, given, drop=drop, may_be_empty=may_be_empty)
        among = _selection(vocabulary, "candidates", candidates, len(rows), drop=drop)
        if not all(map(len, among)):
            raise ValueError("candidates is empty; it needs one item at least, for every history.")
        without = _selection(vocabulary, "exclude", exclude, len(rows), drop=drop) or [rows[0][:0]]
        seen = rows if exclude_seen else [rows[0][:0]] * len(rows)
        without = without if len(without) > 1 else without * len(rows)
        excluded = [np.concatenate(parts) for parts in zip(seen, without, strict=True)]
        of_items = None if times is None else _times(times, given, vocabulary, drop=drop)
        of_users = feature_arrays("features", features or {}, len(rows))
        return cls(rows, [np.unique(each) for each in among], excluded, of_items, of_users)

    def most_items(self, num_items: int) -> int:
        """How many items the request with the most candidates can have."""
        return max(map(len, self.candidates), default=num_items)

    def batches(self, size: int) -> Iterator[tuple[list[int], Requests]]:
        """Their places and up to so many requests, either all with an empty history or none, the empty ones last."""
        places = sorted(range(len(self.histories)), key=lambda place: not len(self.histories[place]))
        full = sum(len(row) > 0 for row in self.histories)
        for part in (places[:full], places[full:]):
            for start in range(0, len(part), size):
                some = part[start : start + size]
                yield some, self.take(some)

    def take(self, places: Sequence[int]) -> Requests:
        """Some of the requests."""
        return Requests(
            [self.histories[place] for place in places],
            [self.candidates[place] for place in places] if len(self.candidates) > 1 else self.candidates,
            [self.excluded[place] for place in places],
            None if self.times is None else [self.times[place] for place in places],
            {name: feature[list(places)] for name, feature in self.features.items()},
        )

    def history(self, max_length: int) -> History:
        """The last items of each history, padded."""
        return pad(self.histories, max_length, times=self.times, features=self.features)

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor | None]:
        """What is excluded, ``(B, E)``, and the candidates, ``(C,)`` or ``(B, C)``, padded with -1."""
        excluded = _padded(self.excluded).to(device)
        if len(self.candidates) > 1:
            return excluded, _padded(self.candidates).to(device)
        return excluded, torch.from_numpy(self.candidates[0]).to(device) if self.candidates else None


def _padded(rows: list[IndexArray]) -> Tensor:
    """Indices of each row, ``(B, N)``, padded behind with -1; N may be 0."""
    padded = np.full((len(rows), max(map(len, rows))), -1, np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(padded)


def _lists(histories: Iterable[Items]) -> list[list[Any]]:
    """Each history as a list of raw ids; errors name the history that they are about.

    Raises:
        ValueError: no histories.
        TypeError: histories that are no lists of ids; a set has no order.
    """
    if isinstance(histories, _UNORDERED) or not isinstance(histories, Iterable):
        raise TypeError(f"histories must be a list of histories, each a list of item ids, got {shown(histories)}.")
    if isinstance(histories, Sequences):  # of indices in its own vocabulary
        histories = map(histories.vocabulary.decode, histories)
    rows = []
    for number, history in enumerate(histories):
        if isinstance(history, _UNORDERED) or not isinstance(history, Iterable):
            raise TypeError(
                f"histories[{number}] must be a list of item ids, got {shown(history)}. One history alone is [[...]]."
            )
        rows.append(_ids(history, f"histories[{number}]"))
    if not rows:
        raise ValueError("histories is empty; give one history at least.")
    return rows


def _rows_of(sequences: Sequences) -> list[Any] | None:
    """The times of each sequence, where they are known."""
    return None if sequences.times is None else np.split(sequences.times, sequences.offsets[1:-1])


def _encoded_histories(
    vocabulary: Vocabulary, histories: list[list[Any]], *, drop: bool, may_be_empty: bool
) -> list[IndexArray]:
    """Item indices of each history.

    Raises:
        ValueError: an empty history, or an unknown id.
    """
    rows = []
    for number, history in enumerate(histories):
        rows.append(encode_ids(vocabulary, history, f"histories[{number}]", drop=drop))
        if not len(rows[-1]) and not may_be_empty:
            known = "holds no known item" if drop else "is empty"
            raise ValueError(
                f"histories[{number}] {known}; it needs one item at least. A model's recommend(empty='popularity') "
                "answers it with the most popular items."
            )
    return rows


def _times(
    times: Iterable[Iterable[Any]], histories: list[list[Any]], vocabulary: Vocabulary, *, drop: bool
) -> list[TimeArray]:
    """Times of each history's known items.

    Raises:
        ValueError: times that are not one an item, or that cannot be read.
        TypeError: times that are no lists of times.
    """
    if isinstance(times, _UNORDERED) or not isinstance(times, Iterable):
        raise TypeError(f"times must be a list of lists, one a history, got {shown(times)}.")
    rows = [_ids(row, f"times[{number}]") for number, row in enumerate(times)]
    if [len(row) for row in rows] != [len(history) for history in histories]:
        raise ValueError(
            f"times must hold one time for each item of each history, {shown([len(row) for row in histories])}, got "
            f"{shown([len(row) for row in rows])}."
        )
    flat = as_times([time for row in rows for time in row])
    known = [not drop or each in vocabulary for history in histories for each in history]
    ends = np.cumsum([len(row) for row in rows])[:-1]
    return [row[mask] for row, mask in zip(np.split(flat, ends), np.split(np.array(known, bool), ends), strict=True)]


def _selection(
    vocabulary: Vocabulary, name: str, ids: Items | Iterable[Items] | None, count: int, *, drop: bool
) -> list[IndexArray]:
    """Item indices of one list for all histories, of one list a history, or of none."""
    if ids is None:
        return []
    if isinstance(ids, str | bytes | Mapping) or not isinstance(ids, Iterable):
        raise TypeError(f"{name} must be a list of item ids, or one list a history, got {shown(ids)}.")
    if isinstance(ids, np.ndarray | Tensor):
        return [encode_ids(vocabulary, ids, name, drop=drop)]
    given: list[Any] = list(ids)
    if not any(is_list(each, vocabulary) for each in given):
        return [encode_ids(vocabulary, given, name, drop=drop)]
    if len(given) != count:
        raise ValueError(f"{name} holds {len(given)} lists for {count} histories. Give one list a history, or one.")
    return [encode_ids(vocabulary, each, f"{name}[{row}]", drop=drop) for row, each in enumerate(given)]


def is_list(each: Any, vocabulary: Vocabulary) -> bool:
    """Whether it is a list of ids rather than an id, which may be a tuple."""
    return isinstance(each, Iterable) and not isinstance(each, str | bytes) and each not in vocabulary


def encode_ids(vocabulary: Vocabulary, ids: Items, name: str, *, drop: bool = False) -> IndexArray:
    """Item indices; an error begins with the name of the argument."""
    given = _ids(ids, name)
    try:
        return vocabulary.encode([each for each in given if each in vocabulary] if drop else given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def _ids(ids: Items, name: str) -> list[Any]:
    try:
        return list(ids) if isinstance(ids, set | frozenset) else list(listed(ids, "ids"))
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
