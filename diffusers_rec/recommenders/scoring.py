"""The contract of what ranks items, and its answers to tensors of item indices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.choice import Choice
from diffusers_rec.recommenders.ranking import Scores, TopK, top_k, user_groups
from diffusers_rec.recommenders.serving import Written, check_finite, in_evaluation_mode
from diffusers_rec.recommenders.trainable import Trainable
from diffusers_rec.samplers import Sampler

Seeds = int | Sequence[int]
SamplerChoice = Sampler | str | Mapping[str, Any]
S = TypeVar("S", bound="Scorer")


@guarded
class Scorer(Trainable, ABC):
    """Histories of item indices in, scores and rankings out.

    Attributes:
        vocabulary: Items that can be recommended.
    """

    vocabulary: Vocabulary
    kept_for_serving: ClassVar[tuple[str, ...]] = ("_written",)
    """Attributes that serving keeps from call to call, in evaluation mode alone; they are never copied or saved."""
    _written: Written | None = None

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def history_length(self) -> int:
        """How many of the last items of a history are used."""

    @property
    def max_length(self) -> int:
        """The most items of a training example: a whole history and its target."""
        return self.history_length + 1

    @abstractmethod
    def score(
        self, history: History, *, seeds: Seeds | None = None, sampler: SamplerChoice | None = None
    ) -> Iterator[Scores]:
        """How likely each item comes next, in chunks of users and items.

        All items of a group of users come before the next group's. A model that scores the whole catalogue at once
        gives ``yield Scores.of_logits(logits)``, with logits ``(B, V)``. It is called in evaluation mode and without
        gradients by everything that ranks.

        Args:
            history: B histories of at most :attr:`history_length` items, on the model's device.
            seeds: Noise draws to average: seeds, or their number; the model's own when None. A model that draws nothing
                ignores it.
            sampler: Component, name, or config; the model's own when None. A model without one ignores it.
        """

    def scores(
        self, items: Tensor, lengths: Tensor | None = None, *, padding: int | None = None, **options: Any
    ) -> Tensor:
        """Log-probabilities of all items, by which the model ranks.

        Args:
            items: Item indices, oldest first, int64 ``(B, L)``; the last :attr:`history_length` are used.
            lengths: Number of items in each row, ``(B,)``, with the padding behind them; full rows if None.
            padding: Index of the padding, before or behind the items, in place of ``lengths``. Ids that count from 1
                with padding 0, as in RecBole, are ``items - 1`` with ``padding=-1``.
            options: ``seeds``, ``sampler`` and ``guidance``, as in :meth:`score`.

        Returns:
            Log-probabilities, ``(B, V)``, in the order of the vocabulary.

        Raises:
            ValueError: an index that is no item, an empty history, or lengths that do not fit.
        """
        history = self._checked(History.of_items(items, lengths, padding=padding))
        with self.serving() as model:
            groups = user_groups(model.score(history, **options))
            return torch.cat([torch.cat([chunk.log_probabilities for chunk in group], dim=1) for group in groups])

    def top_k(
        self,
        items: Tensor,
        lengths: Tensor | None = None,
        k: int = 10,
        *,
        padding: int | None = None,
        exclude_seen: bool = True,
        **options: Any,
    ) -> TopK:
        """The k likeliest next items of each history, as item indices.

        Args:
            items: As in :meth:`scores`.
            lengths: As in :meth:`scores`.
            k: Number of items.
            padding: As in :meth:`scores`.
            exclude_seen: Whether to leave out the given items, also those before the last :attr:`history_length`.
            options: As in :meth:`scores`, and ``index``, as in :meth:`Recommender.recommend
                <diffusers_rec.Recommender.recommend>`.

        Returns:
            Items ``(B, k)``, -1 where fewer are left, with their probabilities and standard deviations. Those of a
            calibrated model are not ``scores().exp()``, by which it ranks.

        Raises:
            ValueError: as :meth:`scores`, or k outside 1..V.
        """
        check_bool("exclude_seen", exclude_seen)
        if not 1 <= check_int("k", k) <= len(self.vocabulary):
            raise ValueError(f"k must lie in 1..{len(self.vocabulary)}, the number of items, got {k}.")
        whole = History.of_items(items, lengths, padding=padding)
        seen = whole.items.where(whole.mask, -1).to(self.device) if exclude_seen else None
        with self.serving() as model:
            return model._best(self._checked(whole), k, Choice(seen, None), **options)

    def _best(self, history: History, k: int, choice: Choice, *, index: Any = None, **options: Any) -> TopK:
        """The k best allowed items of histories that are not empty; called in evaluation mode and without gradients."""
        if index is not None:
            raise ValueError(
                f"index: expected none for {type(self).__name__}, because an index ranks by the head of one DiffRec. "
                "Leave index out."
            )
        return top_k(self.score(history, **options), k, excluded=choice.excluded, candidates=choice.candidates)

    def _checked(self, history: History) -> History:
        """The last items of histories that are not empty, on the model's device."""
        real = history.items[history.mask]
        if not len(history) or not bool(history.lengths.all()):
            row = int((history.lengths == 0).nonzero()[0]) if len(history) else 0
            raise ValueError(
                f"The history of row {row} is empty; each needs one item at least. recommend(empty='popularity') takes "
                "empty ones."
            )
        if not 0 <= int(real.min()) <= int(real.max()) < len(self.vocabulary):
            raise ValueError(
                f"items must hold indices of the vocabulary, 0..{len(self.vocabulary) - 1}, got {int(real.min())} to "
                f"{int(real.max())}. Give the index of the padding as padding=; ids from 1 are items - 1."
            )
        last = history.last(self.history_length)
        return History(last.items.where(last.mask, 0), last.lengths).to(self.device)

    @contextmanager
    def serving(self: S) -> Iterator[S]:
        """A context without gradients that gives the model in evaluation mode: itself, or a copy sharing its tensors.

        Nothing is switched that another thread could see.

        Raises:
            ValueError: weights that are not finite.
        """
        model = in_evaluation_mode(self)
        with torch.no_grad():  # for the check as well: threads that build graphs of one weight can block one another
            model._written = check_finite(model, model._written)
            yield model

    def train(self, mode: bool = True) -> Self:
        """Switch the mode, and drop what was kept for serving: torch does not count the writes of fused optimizers."""
        for name in self.kept_for_serving:
            setattr(self, name, None)
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in self.kept_for_serving}
