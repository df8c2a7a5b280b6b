"""Vocabularies: a two-way map between raw ids and the indices 0..size-1.

All other code works on indices and returns raw ids only to users. No index is reserved for padding, which lengths
describe.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import shown

IndexArray = npt.NDArray[np.int64]


@guarded
class Vocabulary:
    """A fixed two-way map between raw ids and the indices 0..size-1.

    Args:
        ids: Raw ids, each once, in the order of their indices, or a mapping of each id to its index. NumPy scalars
            become Python scalars.

    Raises:
        ValueError: no ids, a repeated id, a missing one (None, NaN), or indices that are not 0..size-1, each once.
        TypeError: an id that is not hashable, a str in place of a sequence of ids, a set, which has no order, or a
            mapping to something else than indices.
    """

    made_by: ClassVar[str] = "Vocabulary(ids)"

    def __init__(self, ids: Iterable[Hashable]) -> None:
        raw = [plain(i) for i in (_by_index(ids) if isinstance(ids, Mapping) else listed(ids, "ids"))]
        codes, self._index = number(raw, "id")
        if not raw:
            raise ValueError("Vocabulary: expected at least one id, got none.")
        if len(self._index) < len(raw):
            repeated = raw[int(np.argmax(codes != np.arange(len(raw))))]
            raise ValueError(
                f"Vocabulary: every id must occur once, but {len(raw) - len(self._index)} of {len(raw)} are repeats, "
                f"the first {shown(repeated)}. Pass dict.fromkeys(ids) to keep first appearances."
            )
        self._ids = tuple(raw)

    @property
    def ids(self) -> tuple[Hashable, ...]:
        """The raw ids in order of their indices."""
        return self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._ids)

    def __contains__(self, raw_id: object) -> bool:
        return isinstance(raw_id, Hashable) and raw_id in self._index

    def __eq__(self, other: object) -> bool:
        return self._ids == other._ids if isinstance(other, Vocabulary) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._ids)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self._ids[:3])) + (", ..." if len(self) > 3 else "")
        return f"Vocabulary({shown}; size={len(self)})"

    def encode(self, ids: Iterable[Hashable]) -> IndexArray:
        """Indices of raw ids.

        Args:
            ids: Raw ids, ``(n,)``, in any order, with or without repeats.

        Returns:
            Indices in 0..size-1, int64 ``(n,)``.

        Raises:
            ValueError: an id is not in the vocabulary.
            TypeError: a str or a set in place of a sequence of ids, or an id that is not hashable.
        """
        raw = listed(ids, "ids")
        try:
            indices = np.fromiter(map(self._index.get, raw, repeat(-1)), np.int64, len(raw))
        except TypeError:
            raise _unhashable(raw, "id") from None
        if (indices < 0).any():
            raise self._unknown(list(dict.fromkeys(plain(raw[row]) for row in np.flatnonzero(indices < 0))))
        return indices

    def decode(self, indices: npt.ArrayLike) -> list[Hashable]:
        """Raw ids of indices.

        Args:
            indices: Integers in 0..size-1, ``(n,)``.

        Raises:
            ValueError: an index is out of range, or there is more than one axis.
            TypeError: an index is not an integer.
        """
        array = np.asarray(indices)
        if array.ndim != 1:
            raise ValueError(f"Vocabulary: expected indices of shape (n,), got {array.shape}. Decode row by row.")
        if array.size == 0:
            return []
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"Vocabulary: expected integer indices, got dtype {array.dtype}. encode() converts raw ids."
            )
        outside = (array < 0) | (array >= len(self))
        if outside.any():
            raise ValueError(
                f"Vocabulary: indices must lie in 0..{len(self) - 1}, got {array[outside][0]} "
                f"at place {np.argmax(outside)}. Drop padding before decoding."
            )
        return [self._ids[index] for index in array.tolist()]

    def to_json(self) -> list[str | int]:
        """The ids as a list that JSON preserves.

        Raises:
            TypeError: an id is neither str nor int.
        """
        return [_json_id(raw_id) for raw_id in self._ids]

    @classmethod
    def from_json(cls, ids: list[str | int]) -> Vocabulary:
        """The vocabulary of a list from :meth:`to_json`.

        Raises:
            TypeError: the argument is not a list of str and int.
        """
        if not isinstance(ids, list):
            raise TypeError(f"Vocabulary: expected the list that to_json returns, got {type(ids).__name__}.")
        return cls(_json_id(raw_id) for raw_id in ids)

    def _unknown(self, unknown: list[Hashable]) -> ValueError:
        some = ", ".join(map(shown, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
        message = f"Vocabulary: {len(unknown)} unknown id{'s' * (len(unknown) > 1)} among {len(self)} known: {some}."
        kinds = sorted({type(raw_id).__name__ for raw_id in self._ids})
        kind = type(unknown[0]).__name__
        if kind not in kinds:
            return ValueError(
                f"{message} The vocabulary has {' and '.join(kinds)} ids, {shown(unknown[0])} is a {kind}. "
                f"Convert the ids first."
            )
        return ValueError(f"{message} Drop them, or build the vocabulary from data that contains them.")


def _by_index(indices: Mapping[Hashable, Any]) -> list[Hashable]:
    """The ids of a mapping in the order of their indices; in their own if all map to None, as in dict.fromkeys."""
    given = {raw_id: plain(index) for raw_id, index in indices.items()}
    if all(index is None for index in given.values()):
        return list(given)
    for raw_id, index in given.items():
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(
                f"Vocabulary: expected a mapping of ids to indices, got {shown(raw_id)}: {shown(index)}. Pass "
                "list(mapping) if its keys are the ids in the order of their indices."
            )
    ids = {index: raw_id for raw_id, index in given.items()}
    empty = next((index for index in range(len(given)) if index not in ids), None)
    if empty is not None:
        raise ValueError(
            f"Vocabulary: {len(given)} ids need the indices 0..{len(given) - 1}, each once, but {empty} has no id. If "
            "0 is padding, pass {id: index - 1}, and items - 1 to the model. If indices are missing or repeated, pass "
            "sorted(mapping, key=mapping.get), which numbers the ids anew."
        )
    return [ids[index] for index in range(len(given))]


def factorize(ids: Iterable[Hashable], name: str) -> tuple[IndexArray, Vocabulary]:
    """Codes ``(n,)`` of raw ids, and their vocabulary in order of first appearance.

    Args:
        ids: Raw ids, ``(n,)``.
        name: Kind of the ids ("user", "item"), for errors.

    Raises:
        ValueError: no ids, or a missing one (None, NaN).
        TypeError: an id that is not hashable.
    """
    codes, index = number(listed(ids, f"{name}s"), name)
    return codes, Vocabulary(index.keys())


class FirstSeen(dict[Hashable, int]):
    """Numbers of keys by first appearance: a lookup of a new key assigns the next number."""

    def __missing__(self, key: Hashable) -> int:
        self[key] = code = len(self)
        return code


def number(ids: list[Hashable], name: str) -> tuple[IndexArray, FirstSeen]:
    """Codes ``(n,)`` by first appearance, and the numbering; a missing id is refused, with its row in the message."""
    index = FirstSeen()
    try:
        codes = np.fromiter(map(index.__getitem__, ids), np.int64, len(ids))
    except TypeError:
        raise _unhashable(ids, name) from None
    missing = next((code for raw_id, code in index.items() if is_missing(raw_id)), None)
    if missing is not None:
        row = int(np.argmax(codes == missing))
        raise ValueError(
            f"Expected an id in every row, but the {name} in row {row + 1}, counted from 1, is missing "
            f"({shown(plain(ids[row]))}). Drop it."
        )
    return codes, index


def listed(ids: Iterable[Hashable], name: str) -> list[Hashable]:
    """Raw ids as a list of Python objects, from lists, arrays, tensors and series; sets are refused."""
    if isinstance(ids, set | frozenset):
        raise TypeError(
            f"Expected {name} in an order, got a {type(ids).__name__}, whose order differs from run to run. "
            f"Pass a list, for instance sorted(...)."
        )
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise TypeError(f"Expected {name} as a sequence of ids, got {shown(ids)}. Wrap a single id in a list.")
    if getattr(ids, "ndim", 1) != 1:
        raise ValueError(f"Expected {name} of shape (n,), got {tuple(getattr(ids, 'shape', ()))}. Flatten it first.")
    for method in ("tolist", "to_list", "to_pylist"):  # NumPy, torch and pandas; Polars; PyArrow
        if hasattr(ids, method):
            return list(getattr(ids, method)())
    return list(ids)


def plain(value: Any) -> Any:
    """A NumPy scalar as a Python scalar; anything else unchanged."""
    return value.item() if isinstance(value, np.generic) else value


def is_missing(value: Any) -> bool:
    """Whether a value means "no value": None, NaN, NaT or pandas' NA."""
    if value is None:
        return True
    try:
        return bool(value != value)  # noqa: PLR0124 - only NaN and similar values differ from themselves
    except (TypeError, ValueError):
        return type(value).__name__ == "NAType"


def _json_id(raw_id: object) -> str | int:
    if isinstance(raw_id, str | int) and not isinstance(raw_id, bool):
        return raw_id
    raise TypeError(
        f"Vocabulary: only str and int ids can be saved, got {shown(raw_id)} ({type(raw_id).__name__}). "
        f"Convert the ids with str() before building the interactions."
    )


def _unhashable(ids: list[Hashable], name: str) -> TypeError:
    row, raw_id = next(((row, i) for row, i in enumerate(ids) if not isinstance(i, Hashable)), (0, ids[0]))
    return TypeError(
        f"Every {name} must be hashable, but row {row + 1}, counted from 1, is a {type(raw_id).__name__}: "
        f"{shown(raw_id)}. Use str, int or tuple ids."
    )
