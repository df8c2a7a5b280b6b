r"""Batching: sequences in, padded training batches out.

An *example* is a run of consecutive items of one user with some of them marked as targets; what lies before a target is
its history. Three ways to cut a user's items :math:`v_0, \dots, v_{L-1}` into examples:

- ``every-prefix``: each of :math:`v_1, \dots, v_{L-1}` is the target of its own example;
- ``last-target``: one example, its target :math:`v_{L-1}`;
- ``all-positions``: windows that overlap by one item, every item of a window but the first a target; so each of
  :math:`v_1, \dots, v_{L-1}` is a target once, at a fraction of the rows.

Examples of like length share a batch, so that little padding is computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.entrances import explained, guarded
from diffusers_rec.core.errors import check_int, shown
from diffusers_rec.data.batch_dataset import BatchDataset
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import FeatureArray, Sequences, check_history, feature_arrays, places_within
from diffusers_rec.data.times import TimeArray
from diffusers_rec.data.vocabulary import IndexArray

Examples = Literal["every-prefix", "last-target", "all-positions"]

_POOL = 64  # batches that are sorted by length together: enough to trim well, few enough to mix well


@guarded
@dataclass(frozen=True, eq=False)
class Batch:
    """B rows of items and the targets among them. A target's history is everything before its position.

    Args:
        history: Rows of up to T items, targets included, with whatever else is known of them.
        positions: Positions of the targets in the rows, int64 ``(B, Q)``; -1 where there is no target.
        num_targets: Number of targets; counted if left out.
        starts: Index of the first item of each row in the items of the training sequences, ``(B,)``, by which a row is
            known as an example; None if the rows come from elsewhere.

    Raises:
        ValueError: shapes that do not fit one another, or targets in the padding.
    """

    made_by: ClassVar[str] = "Batch(History(items, lengths), positions)"

    history: History
    positions: Tensor
    num_targets: int = -1
    starts: Tensor | None = None

    @classmethod
    def next_item(cls, history: History, target: Tensor) -> Batch:
        """One target behind each history, as in a training loop of one's own.

        Args:
            history: B histories, such as :meth:`History.of_items <diffusers_rec.History.of_items>`.
            target: Index of the next item of each, ``(B,)``.

        Raises:
            ValueError: another number of targets than of histories, or a negative target.
        """
        if target.shape != history.lengths.shape:
            raise ValueError(f"Batch.next_item: expected {len(history)} targets, got {tuple(target.shape)}.")
        if bool((target < 0).any()):
            raise ValueError(f"Batch.next_item: targets are item indices from 0, got {int(target.min())}.")
        items = F.pad(history.items, (0, 1)).scatter(1, history.lengths[:, None], target[:, None].to(history.items))
        times = None if history.times is None else F.pad(history.times, (0, 1))
        rows = History(items, history.lengths + 1, times=times, features=history.features)
        return cls(rows, history.lengths[:, None], len(history))

    def __post_init__(self) -> None:
        given = check_int("Batch: num_targets", self.num_targets, minimum=-1)
        self._check_tensors()
        if given >= 0 and self.items.device.type != "cpu":
            return  # a look would wait for the GPU; batches come from the CPU
        self._check_numbers()
        counted = int((self.positions >= 0).sum())
        if given not in (-1, counted):
            raise ValueError(f"Batch: num_targets is {given}, but positions hold {counted} targets.")
        object.__setattr__(self, "num_targets", counted)

    def _check_tensors(self) -> None:
        if self.positions.dtype not in (torch.int32, torch.int64):
            raise TypeError(f"Batch: positions must be int64, got {self.positions.dtype}.")
        if self.positions.ndim != 2 or len(self.positions) != len(self.history):
            raise ValueError(
                f"Batch: expected items (B, T) and positions (B, Q), got {tuple(self.items.shape)} and "
                f"{tuple(self.positions.shape)}."
            )
        if self.starts is not None and (self.starts.dtype != torch.int64 or self.starts.shape != self.lengths.shape):
            raise ValueError(
                f"Batch: starts must be int64 ({len(self)},), got {tuple(self.starts.shape)} of {self.starts.dtype}."
            )
        parts = self.items, self.lengths, self.positions, self.starts
        devices = {str(tensor.device) for tensor in parts if tensor is not None}
        if len(devices) > 1:
            raise ValueError(f"Batch: all tensors must be on one device, got {sorted(devices)}.")

    def _check_numbers(self) -> None:
        """Refuses what would read padding as items."""
        if bool((self.lengths > self.items.shape[1]).any()):
            raise ValueError(
                f"Batch: a row of {self.items.shape[1]} items cannot have {int(self.lengths.max())} of them."
            )
        if bool((self.positions >= self.lengths[:, None]).any()):
            raise ValueError("Batch: a target lies behind the end of its row; positions must stay below lengths.")
        if bool((self.positions < -1).any()) or bool((self.items < 0).any()) or bool((self.lengths < 0).any()):
            raise ValueError("Batch: items and lengths are numbers from 0, positions from -1, which is no target.")

    @property
    def items(self) -> Tensor:
        """Item indices, int64 ``(B, T)``."""
        return self.history.items

    @property
    def lengths(self) -> Tensor:
        """Items a row, int64 ``(B,)``."""
        return self.history.lengths

    def __len__(self) -> int:
        return len(self.history)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch on another device."""
        history = self.history.to(device, non_blocking=non_blocking)
        starts = None if self.starts is None else self.starts.to(device, non_blocking=non_blocking)
        return Batch(history, self.positions.to(device, non_blocking=non_blocking), self.num_targets, starts)


@guarded
class TrainingBatches:
    """Training batches, epoch after epoch; every example of an epoch comes exactly once.

    The order depends on ``seed`` and the epoch's number alone, and touches no global random state.

    Args:
        sequences: The training sequences; those of one item give no example.
        examples: How sequences become examples, see the module's text.
        max_length: Most items a row, the target included; older items are left out.
        batch_targets: Most targets a batch, unless a single row has more.
        seed: Seed of the order of the examples, and of the cuts of ``"all-positions"``.

    Raises:
        ValueError: settings out of range, an unknown word for ``examples``, or no sequence of two items.
        TypeError: settings that are not integers, or sequences that are none.
    """

    made_by: ClassVar[str] = "TrainingBatches(sequences)"

    def __init__(
        self,
        sequences: Sequences,
        *,
        examples: Examples = "every-prefix",
        max_length: int = 50,
        batch_targets: int = 256,
        seed: int = 0,
    ) -> None:
        if examples not in CUTS:
            raise ValueError(f"TrainingBatches: examples must be one of {', '.join(CUTS)}, got {examples!r}.")
        if not (sequences.lengths >= 2).any():
            raise ValueError(
                f"TrainingBatches: no example, as none of the {len(sequences)} sequences has two items "
                f"(a history and a target). Check the split, or filter with Interactions.k_core."
            )
        self.sequences = sequences
        self.examples = examples
        self.max_length = check_int("TrainingBatches: max_length", max_length, minimum=2)
        self.batch_targets = check_int("TrainingBatches: batch_targets", batch_targets, minimum=1)
        self.seed = check_int("TrainingBatches: seed", seed, minimum=0)

    @property
    def num_targets(self) -> int:
        """Targets an epoch."""
        lengths = self.sequences.lengths
        each = np.minimum(lengths, 2) if self.examples == "last-target" else lengths
        return int(np.maximum(each - 1, 0).sum())

    def target_counts(self) -> Tensor:
        """How often each item is a target in an epoch, int64 ``(V,)``."""
        lengths = self.sequences.lengths
        place = places_within(lengths)
        last = np.repeat(lengths - 1, lengths)
        target = (place > 0) & ((place == last) | (self.examples != "last-target"))
        counts = np.bincount(self.sequences.items[target], minlength=len(self.sequences.vocabulary))
        return torch.from_numpy(counts)

    def num_batches(self, epoch: int) -> int:
        """Batches of one epoch; the same for all epochs but under all-positions, where the cuts move."""
        if self.examples != "all-positions":
            return -(-self.num_targets // self.batch_targets)
        return len(self._plan(self._generator(epoch))[2]) - 1

    def epoch(self, epoch: int, rank: int = 0, count: int = 1) -> Iterator[Batch]:
        """The batches of one epoch, or the share of one of several processes.

        Args:
            epoch: Number of the epoch, from 0.
            rank: Number of the first batch.
            count: Distance from each batch to the next.
        """
        check_int("TrainingBatches: rank", rank, minimum=0)
        check_int("TrainingBatches: count", count, minimum=1)
        generator = self._generator(epoch)
        starts, stops, cuts = self._plan(generator)
        order = generator.permutation(len(cuts) - 1)[rank::count]
        return (self._batch(starts[cuts[i] : cuts[i + 1]], stops[cuts[i] : cuts[i + 1]]) for i in order.tolist())

    def dataset(self, *, rank: int | None = None, num_ranks: int | None = None, even: bool = False) -> BatchDataset:
        """The batches as a dataset of PyTorch, divided among processes and the workers of a ``DataLoader``.

        Pass it as ``DataLoader(batches.dataset(), batch_size=None, num_workers=2)``, and call ``set_epoch`` on it
        before each epoch. Each batch of an epoch comes in one worker of one rank. The numbers of batches of two ranks
        differ by one at most.

        Args:
            rank: Number of this process; that of ``torch.distributed`` or of the variable ``RANK`` if None.
            num_ranks: Number of processes; that of ``torch.distributed`` or of the variable ``WORLD_SIZE`` if None.
                Use 1 where the training library divides the batches itself.
            even: Whether ranks with one batch less repeat the first batch of the epoch, so that no process waits for
                a gradient of the others.

        Raises:
            ValueError: A rank outside 0..num_ranks-1.
        """
        return BatchDataset(self, rank=rank, num_ranks=num_ranks, even=even)

    def _generator(self, epoch: int) -> np.random.Generator:
        number = check_int("TrainingBatches: epoch", epoch, minimum=0)
        return np.random.Generator(np.random.PCG64([self.seed, number]))

    def _plan(self, generator: np.random.Generator) -> tuple[IndexArray, IndexArray, IndexArray]:
        """Examples in an order where ``cuts`` parts them into batches."""
        starts, stops = CUTS[self.examples](self.sequences, self.max_length, generator)
        shuffled = generator.permutation(len(starts))
        lengths = (stops - starts)[shuffled]
        targets = self._num_questions(lengths)
        pools = (np.cumsum(targets) - 1) // (_POOL * self.batch_targets)
        # Every other pool runs from long to short, so that a batch on the border of two pools needs no padding either.
        by_length = np.lexsort((np.where(pools % 2, -lengths, lengths), pools))
        order = shuffled[by_length]
        return starts[order], stops[order], _cut(targets[by_length], self.batch_targets)

    def _num_questions(self, lengths: IndexArray) -> IndexArray:
        return lengths - 1 if self.examples == "all-positions" else np.ones_like(lengths)

    def _batch(self, starts: IndexArray, stops: IndexArray) -> Batch:
        history = windows(self.sequences, starts, stops)
        last, first = history.lengths[:, None] - 1, torch.from_numpy(starts)
        if self.examples != "all-positions":
            return Batch(history, last, len(history), first)
        places = torch.arange(1, history.items.shape[1]).expand(len(history), -1)
        return Batch(history, places.where(places <= last, -1), int(last.sum()), first)


def windows(sequences: Sequences, starts: IndexArray, stops: IndexArray) -> History:
    """Consecutive items, at least one, between indices of ``sequences.items``, with what is known of their users."""
    features: dict[str, FeatureArray] = {}
    if sequences.features:  # a window is not empty, so that its user is the last of those whose items begin no later
        users = np.searchsorted(sequences.offsets, starts, side="right") - 1
        features = {name: feature[users] for name, feature in sequences.features.items()}
    return _gather(sequences.items, sequences.times, features, starts, stops)


@explained
def pad(
    histories: Sequences | Sequence[npt.ArrayLike],
    max_length: int | None = None,
    *,
    fill: int = 0,
    times: Sequence[npt.ArrayLike] | None = None,
    features: Mapping[str, npt.ArrayLike] | None = None,
) -> History:
    """Histories as one padded value, for inference.

    Args:
        histories: B sequences of item indices, oldest first, each ``(L_b,)``; a history may be empty. The times and
            features of :class:`~diffusers_rec.Sequences` come along.
        max_length: Number of latest items to keep; all when None.
        fill: Index in the padding.
        times: One sequence of times a history, ``(L_b,)``; only for histories in a list.
        features: Name to one row a history, ``(B, ...)``; only for histories in a list.

    Returns:
        Items, int64 ``(B, L)``, padded with ``fill`` on the right up to the longest kept (L >= 1); lengths, int64
        ``(B,)``; times, padded with 0, and features, where there are any.

    Raises:
        ValueError: no histories, max_length below 1, a history that is not ``(L_b,)`` with indices from 0, or times or
            features that are not one a history.
        TypeError: indices, max_length or fill that are not integers.
    """
    if max_length is None:
        max_length = max([1, *map(len, histories)])  # type: ignore[arg-type]
    max_length, fill = check_int("pad: max_length", max_length, minimum=1), check_int("pad: fill", fill)
    if len(histories) == 0:
        raise ValueError("pad: expected at least one history, got none.")
    if isinstance(histories, Sequences):
        if times is not None or features is not None:
            raise ValueError("pad: Sequences carry their own times and features. Use sequences.with_features({...}).")
        stops = histories.offsets[1:]
        starts = np.maximum(histories.offsets[:-1], stops - max_length)
        return _gather(histories.items, histories.times, histories.features, starts, stops, fill)
    rows = [check_history("pad", history, row)[-max_length:] for row, history in enumerate(histories)]
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    stops = np.cumsum(lengths)
    return _gather(
        np.concatenate(rows),
        None if times is None else _flat_times(times, list(map(len, histories)), max_length),  # type: ignore[arg-type]
        feature_arrays("pad", features or {}, len(rows)),
        stops - lengths,
        stops,
        fill,
    )


def _flat_times(times: Sequence[npt.ArrayLike], lengths: list[int], max_length: int) -> TimeArray:
    """The latest times of each history, end to end."""
    rows = [np.asarray(row) for row in times]
    if [row.shape for row in rows] != [(length,) for length in lengths]:
        raise ValueError(
            f"pad: expected one time an item, {shown(lengths)} a history, got {shown([len(row) for row in rows])}."
        )
    return np.concatenate([row[-max_length:] for row in rows])


def _gather(
    items: IndexArray,
    times: TimeArray | None,
    features: Mapping[str, FeatureArray],
    starts: IndexArray,
    stops: IndexArray,
    fill: int = 0,
) -> History:
    """The windows of some users, whose ``features`` have one row a window."""
    lengths = stops - starts
    places = np.arange(max(lengths.max(), 1))
    inside = places < lengths[:, None]
    chosen = (starts[:, None] + places)[inside]

    def padded(values: npt.NDArray[Any], fill: int) -> Tensor:
        rows = np.full(inside.shape, fill, values.dtype)
        rows[inside] = values[chosen]
        return torch.from_numpy(rows)

    return History(
        padded(items, fill),
        torch.from_numpy(lengths),
        times=None if times is None else padded(times, 0),
        features={name: torch.tensor(feature) for name, feature in features.items()},
    )


def _cut(targets: IndexArray, most: int) -> IndexArray:
    """Where to cut rows so that each part has at most ``most`` targets, or is a single row; from 0 to the end."""
    total = np.cumsum(targets)
    cuts = [0]
    while cuts[-1] < len(targets):
        taken = total[cuts[-1] - 1] if cuts[-1] else 0
        cuts.append(max(cuts[-1] + 1, int(np.searchsorted(total, taken + most, side="right"))))
    return np.array(cuts)


def _every_prefix(sequences: Sequences, max_length: int, _: np.random.Generator) -> tuple[IndexArray, IndexArray]:
    place = places_within(sequences.lengths)
    stops = np.flatnonzero(place > 0) + 1
    return stops - np.minimum(place[stops - 1] + 1, max_length), stops


def _last_target(sequences: Sequences, max_length: int, _: np.random.Generator) -> tuple[IndexArray, IndexArray]:
    stops = sequences.offsets[1:][sequences.lengths >= 2]
    return stops - np.minimum(sequences.lengths[sequences.lengths >= 2], max_length), stops


def _all_positions(
    sequences: Sequences, max_length: int, generator: np.random.Generator
) -> tuple[IndexArray, IndexArray]:
    long_enough = sequences.lengths >= 2
    offsets, targets = sequences.offsets[:-1][long_enough], sequences.lengths[long_enough] - 1
    step = max_length - 1
    first = np.where(targets > step, generator.integers(1, max_length, len(targets)), targets)
    counts = 1 - (first - targets) // step  # the first window, then as many as the other targets need
    window = places_within(counts)
    offsets, targets, first = (np.repeat(x, counts) for x in (offsets, targets, first))
    begins = np.where(window > 0, first + (window - 1) * step, 0)
    return offsets + begins, offsets + np.minimum(first + window * step, targets) + 1


CUTS = {"every-prefix": _every_prefix, "last-target": _last_target, "all-positions": _all_positions}
"""Windows of the examples of each kind, first item and end, as indices of ``sequences.items``."""
