"""Training examples by their target: a history and another one with the same next item are views of one interest.

Qiu et al. 2022, *DuoRec*, Sec. 4.3.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.randomness import uniform
from diffusers_rec.data.batching import CUTS, Examples, TrainingBatches, windows
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.data.vocabulary import IndexArray


@guarded
class SameTarget:
    """Draws another training example with the same target.

    Args:
        sequences: Training sequences.
        examples: Split of sequences into examples. For ``"all-positions"``, each target is an example with all that
            precedes it, as for ``"every-prefix"``.
        max_length: Largest number of items of an example, its target included.

    Raises:
        ValueError: No sequence has two items, or a setting is out of range.
    """

    made_by: ClassVar[str] = "SameTarget(sequences)"

    def __init__(self, sequences: Sequences, *, examples: Examples = "every-prefix", max_length: int = 50) -> None:
        cut: Examples = "every-prefix" if examples == "all-positions" else examples
        batches = TrainingBatches(sequences, examples=cut, max_length=max_length)  # which checks the settings
        self.sequences = batches.sequences
        starts, stops = CUTS[cut](sequences, batches.max_length, np.random.default_rng(0))
        targets = sequences.items[stops - 1]
        by_target = np.argsort(targets, kind="stable")
        self._starts, self._stops = starts[by_target], stops[by_target]
        self._offsets = np.searchsorted(targets[by_target], np.arange(len(sequences.vocabulary) + 1))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self  # it never changes

    def draw(self, history: History, targets: Tensor, generator: Generator, places: Tensor | None = None) -> History:
        """Draw the history of another example for each target, uniformly.

        A history stays as it is if no other example has its target.

        Args:
            history: B histories without their targets.
            targets: Items that come next, ``(B,)``.
            generator: Source of the draws.
            places: Index of each target in the items of the sequences, ``(B,)``, by which the example itself is known.
                If None, it is known by its items: equal histories are drawn less often than others.

        Returns:
            B histories on the device of the given ones.
        """
        own, items = history.to("cpu"), targets.cpu().numpy()
        first, count = self._offsets[items], self._offsets[items + 1] - self._offsets[items]
        drawn, step = uniform((2, len(items)), generator, device=torch.device("cpu")).numpy()
        place = (drawn * count).astype(np.int64)
        # A step from the example itself to any other leaves the draw uniform over the others.
        step = 1 + (step * (count - 1)).astype(np.int64)
        if places is None:
            itself = _equal(self._histories(first + place), own).numpy()
        else:
            itself = self._stops[np.minimum(first + place, len(self._stops) - 1)] - 1 == places.cpu().numpy()
        place = np.where(itself, place + step, place) % np.maximum(count, 1)
        others = torch.from_numpy(count > 1)
        return _rows(others, self._histories(first + place), own).to(history.items.device)

    def _histories(self, places: IndexArray) -> History:
        """Histories of examples without their targets; of any example where a place is behind the last."""
        places = np.minimum(places, len(self._starts) - 1)
        history = windows(self.sequences, self._starts[places], self._stops[places])
        return replace(history, lengths=history.lengths - 1).first(history.items.shape[1] - 1)


def _equal(one: History, other: History) -> Tensor:
    """Whether two histories have the same items, ``(B,)``."""
    width = min(one.items.shape[1], other.items.shape[1])
    same = (one.items[:, :width] == other.items[:, :width]) | ~one.mask[:, :width]
    return (one.lengths == other.lengths) & same.all(1)


def _rows(of_one: Tensor, one: History, other: History) -> History:
    """Rows of one history where ``of_one`` ``(B,)``, else of another; padded to the longer of the two."""
    width = max(one.items.shape[1], other.items.shape[1])

    def chosen(mine: Tensor, its: Tensor) -> Tensor:
        return torch.where(of_one.view(-1, *[1] * (mine.ndim - 1)), mine, its)

    def padded(mine: Tensor, its: Tensor) -> Tensor:
        return chosen(*(F.pad(part, (0, width - part.shape[1])) for part in (mine, its)))

    return History(
        padded(one.items, other.items),
        chosen(one.lengths, other.lengths),
        times=None if one.times is None or other.times is None else padded(one.times, other.times),
        features={name: chosen(one.features[name], feature) for name, feature in other.features.items()},
    )
