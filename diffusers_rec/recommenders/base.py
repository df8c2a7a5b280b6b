"""What every recommender can do: recommend, and say how likely each item is, from what it draws.

A recommender draws latents and has a head that scores items by them; that is all that ranking and evaluation ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, check_int
from diffusers_rec.data.batching import pad
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.recommenders.ranking import TopK, mean_chunks, most_popular, top_k
from diffusers_rec.recommenders.requests import Items, Requests, encode_histories
from diffusers_rec.recommenders.serving import Written, check_finite, in_evaluation_mode
from diffusers_rec.recommenders.trainable import Trainable
from diffusers_rec.samplers import Sampler

Unknown = Literal["error", "drop"]
Empty = Literal["error", "popularity"]
Seeds = int | Sequence[int]
R = TypeVar("R", bound="Recommender")
SamplerChoice = Sampler | str | Mapping[str, Any]


@guarded
@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Recommendations:
    """What :meth:`Recommender.recommend` gives, best first, for B histories.

    Attributes:
        items: raw item ids, up to k for each history; fewer where exclusions leave fewer.
        scores: probability of each item, averaged over the seeds, ``(B, k)``; 0 where there is no item.
        spread: standard deviation of that probability over the seeds, ``(B, k)``.
    """

    items: list[list[Hashable]]
    scores: Tensor
    spread: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> list[tuple[Hashable, float, float]]:
        """Item, score and spread of each recommendation for history ``row``."""
        row = check_int("row", row)
        items = self.items[row]
        return list(zip(items, self.scores[row].tolist(), self.spread[row].tolist(), strict=False))


@guarded
class Recommender(Trainable, ABC):
    """Histories in, ranked items out.

    Attributes:
        vocabulary: the items that can be recommended.
        head: scores them by a latent.
        memory: what other users did next, mixed into the ranking.
        popularity: how often each item occurs in the training sequences, int64 ``(V,)``; zero where they are not known.
    """

    made_by: ClassVar[str] = "DiffRec(items) or DiffRec.from_pretrained(folder)"
    vocabulary: Vocabulary
    head: ItemHead
    memory: Memory
    popularity: Tensor
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
    def draw(self, history: History, seeds: Seeds | None, sampler: SamplerChoice | None) -> Tensor:
        """What :meth:`next_item_latents` gives, of a model in evaluation mode, where no gradient is wanted."""

    def next_item_latents(
        self, history: History, *, seeds: Seeds | None = None, sampler: SamplerChoice | None = None
    ) -> Tensor:
        """Draw the latent of the next item, without gradient.

        Args:
            history: B histories of at most :attr:`history_length` items.
            seeds: noise draws; the model's own when None.
            sampler: a component, a name, or a config; the model's own when None.

        Returns:
            What the head takes, ``(B, S, D)``.

        Raises:
            ValueError: items that are none of the model's or more than it reads, or a sampler of more steps than its
                schedule has.
        """
        items = history.items
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < len(self.vocabulary):
            raise ValueError(f"items must hold indices in 0..{len(self.vocabulary) - 1}, padding included.")
        if items.shape[1] > self.history_length:
            raise ValueError(f"The model reads {self.history_length} items at most, got {items.shape[1]}.")
        with self.serving() as model:
            return model.draw(history, seeds, sampler)

    def predict_proba(
        self,
        histories: Iterable[Items],
        *,
        unknown: Unknown = "error",
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
    ) -> Tensor:
        """The probability of every item to come next, averaged over the seeds: ``(B, V)``, in the vocabulary's order.

        Raises:
            ValueError: as :meth:`recommend`.
        """
        history = self.encode_histories(histories, unknown=unknown)
        with self.serving() as model:
            latents = model.draw(history, seeds, sampler)
            chunks = [scores for _, scores in mean_chunks(model.head, latents, model.memory.predict(history))]
        probabilities = torch.cat(chunks, dim=1).exp()
        if not bool(probabilities.isfinite().all()):
            raise ValueError("The probabilities are not numbers: the model's weights hold NaN or infinities.")
        return probabilities

    def recommend(
        self,
        histories: Iterable[Items],
        k: int | None = None,
        *,
        exclude_seen: bool = True,
        candidates: Items | Iterable[Items] | None = None,
        exclude: Items | Iterable[Items] | None = None,
        unknown: Unknown = "error",
        empty: Empty = "error",
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        batch_size: int = 256,
    ) -> Recommendations:
        """The k likeliest next items for each history.

        Args:
            histories: Raw item ids, oldest first. The users need not have been in training.
            k: Number of items, at most that of the candidates; 10, or all candidates where they are fewer, when None.
            exclude_seen: Whether to leave out the items of the history.
            candidates: Ids to recommend among: one list for all histories, or a list of lists, one a history; all items
                when None.
            exclude: Ids to leave out, in either form.
            unknown: Treatment of ids that the model does not know: ``"error"`` refuses the call, ``"drop"`` goes on
                without them.
            empty: Treatment of histories without an item: ``"error"`` refuses the call, ``"popularity"`` answers with
                the items that occur most in the training sequences.
            seeds: Noise draws to average (Algorithm 3): seeds, or their number; the model's own when None.
            sampler: Component, name, or config; the model's own when None.
            batch_size: Histories at once.

        Returns:
            Items, scores, and the spread of each score over the seeds.

        Raises:
            ValueError: an empty history or an unknown id, unless asked otherwise; k below 1 or above the number of
                candidates; lists that are not one a history; seeds that repeat; a sampler that does not exist or has
                more steps than the schedule; or weights that are not finite.
            TypeError: a history is a string, a set, or not iterable.
        """
        check_bool("exclude_seen", exclude_seen)
        check_int("batch_size", batch_size, minimum=1)
        requests = Requests.of(
            self.vocabulary,
            histories,
            candidates=candidates,
            exclude=exclude,
            exclude_seen=exclude_seen,
            drop=_drops(unknown),
            may_be_empty=check_choice("empty", empty, ("error", "popularity")) == "popularity",
        )
        most = requests.most_items(len(self.vocabulary))
        k = min(10, most) if k is None else check_int("k", k)
        if not 1 <= k <= most:
            raise ValueError(f"k must lie in 1..{most}, the number of items to choose from, got {k}.")
        places, found = [], []
        for some, part in requests.batches(batch_size):
            places += some
            found.append(self._top_k(part, k, seeds, sampler))
        back = torch.tensor(places).argsort()
        items, scores, spread = (
            torch.cat([getattr(part, name) for part in found]).cpu()[back] for name in ("items", "scores", "spread")
        )
        return Recommendations([self.vocabulary.decode(row[row >= 0].tolist()) for row in items], scores, spread)

    def _top_k(self, requests: Requests, k: int, seeds: Seeds | None, sampler: SamplerChoice | None) -> TopK:
        """For histories that are all empty, or none of which is."""
        excluded, candidates = requests.tensors(self.device)
        if not len(requests.histories[0]):
            if not bool(self.popularity.any()):
                raise ValueError(
                    "empty='popularity' needs to know how often each item occurs. Call model.prepare(sequences) with "
                    "the training sequences, as train() does."
                )
            return most_popular(self.popularity, k, excluded=excluded, candidates=candidates)
        history = self._padded(requests.histories)
        with self.serving() as model:
            latents = model.draw(history, seeds, sampler)
            recalled = model.memory.predict(history)
            return top_k(model.head, latents, k, recalled=recalled, excluded=excluded, candidates=candidates)

    def encode_histories(self, histories: Iterable[Items], *, unknown: Unknown = "error") -> History:
        """Raw ids to item indices, the last :attr:`history_length` of each."""
        return self._padded(encode_histories(self.vocabulary, histories, drop=_drops(unknown)))

    def _padded(self, rows: list[IndexArray]) -> History:
        return pad(rows, self.history_length).to(self.device)

    @contextmanager
    def serving(self: R) -> Iterator[R]:
        """A context without gradients that gives the model in evaluation mode: itself, or a twin with its tensors.

        Nothing is switched that another thread could see.

        Raises:
            ValueError: weights that are not finite.
        """
        self._written = check_finite(self, self._written)
        with torch.no_grad():
            yield in_evaluation_mode(self)


def _drops(unknown: Unknown) -> bool:
    return check_choice("unknown", unknown, ("error", "drop")) == "drop"
