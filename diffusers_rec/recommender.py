"""What every recommender can do: recommend, and say how likely each item is, from what it draws.

A recommender draws latents and has a head that scores items by them; that is all that ranking and evaluation ask for.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusers_rec.data.batching import pad
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.errors import check_bool, check_int
from diffusers_rec.heads import ItemHead
from diffusers_rec.memory import Memory
from diffusers_rec.ranking import mean_chunks, top_k
from diffusers_rec.samplers import Sampler

Seeds = int | Sequence[int]
SamplerChoice = Sampler | str | Mapping[str, Any]


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
        items = self.items[row]
        return list(zip(items, self.scores[row].tolist(), self.spread[row].tolist(), strict=False))


class Recommender(nn.Module, ABC):
    """Histories in, ranked items out.

    Attributes:
        vocabulary: the items that can be recommended.
        head: scores them by a latent.
        memory: what other users did next, mixed into the ranking.
    """

    vocabulary: Vocabulary
    head: ItemHead
    memory: Memory

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @property
    @abstractmethod
    def history_length(self) -> int:
        """How many of the last items of a history are used."""

    @abstractmethod
    def next_item_latents(
        self, items: Tensor, lengths: Tensor, *, seeds: Seeds | None = None, sampler: SamplerChoice | None = None
    ) -> Tensor:
        """Draw the latent of the next item from item indices, without gradient.

        Args:
            items: padded behind, ``(B, L)``, at most :attr:`history_length` of them.
            lengths: ``(B,)``.
            seeds: noise draws; the model's own when None.
            sampler: a component, a name, or a config; the model's own when None.

        Returns:
            What the head takes, ``(B, S, D)``.

        Raises:
            ValueError: more items than the model reads, or a sampler of more steps than its schedule has.
        """

    def predict_proba(
        self,
        histories: Iterable[Iterable[Hashable]],
        *,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
    ) -> Tensor:
        """The probability of every item to come next, averaged over the seeds: ``(B, V)``, in the vocabulary's order.

        Raises:
            ValueError: as :meth:`recommend`.
        """
        history = self.encode_histories(histories)
        latents = self.next_item_latents(*history, seeds=seeds, sampler=sampler)
        with self.serving():
            chunks = [scores for _, scores in mean_chunks(self.head, latents, self.memory.recall(*history))]
        return torch.cat(chunks, dim=1).exp()

    def recommend(
        self,
        histories: Iterable[Iterable[Hashable]],
        k: int = 10,
        *,
        exclude_seen: bool = True,
        candidates: Iterable[Hashable] | None = None,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        batch_size: int = 256,
    ) -> Recommendations:
        """The k likeliest next items for each history.

        Args:
            histories: raw item ids, oldest first, one item at least. The users need not have been in training.
            k: how many, at most as many as there are candidates.
            exclude_seen: leave out the items of the history.
            candidates: recommend among these ids alone; all when None.
            seeds: noise draws to average (Algorithm 3): seeds, or their number; the model's own when None.
            sampler: a component, a name, or a config; the model's own when None.
            batch_size: histories at once.

        Returns:
            Items, scores, and the spread of each score over the seeds.

        Raises:
            ValueError: an empty history, an unknown item id, k below 1 or above the number of candidates, seeds that
                repeat, a sampler that does not exist or has more steps than the schedule.
            TypeError: a history is a string or not iterable.
        """
        check_bool("exclude_seen", exclude_seen)
        check_int("batch_size", batch_size, minimum=1)
        rows = self._indices(histories)
        allowed = None if candidates is None else torch.from_numpy(np.unique(self._encoded(candidates, "candidates")))
        most = len(self.vocabulary) if allowed is None else len(allowed)
        if not 1 <= check_int("k", k) <= most:
            raise ValueError(f"k must lie in 1..{most}, the number of items to choose from, got {k}.")
        found = []
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            history = self._padded(some)
            latents = self.next_item_latents(*history, seeds=seeds, sampler=sampler)
            recalled = self.memory.recall(*history)
            excluded = pad(some, fill=-1)[0].to(self.device) if exclude_seen else None
            with self.serving():
                found.append(top_k(self.head, latents, k, recalled=recalled, excluded=excluded, candidates=allowed))
        indices = torch.cat([part.items for part in found]).cpu()
        return Recommendations(
            [self.vocabulary.decode(row[row >= 0].tolist()) for row in indices],
            torch.cat([part.scores for part in found]).cpu(),
            torch.cat([part.spread for part in found]).cpu(),
        )

    def encode_histories(self, histories: Iterable[Iterable[Hashable]]) -> tuple[Tensor, Tensor]:
        """Raw ids to item indices ``(B, L)``, the last :attr:`history_length` of each, and lengths ``(B,)``."""
        return self._padded(self._indices(histories))

    def _padded(self, rows: list[np.ndarray[Any, Any]]) -> tuple[Tensor, Tensor]:
        items, lengths = pad(rows, self.history_length)
        return items.to(self.device), lengths.to(self.device)

    def _indices(self, histories: Iterable[Iterable[Hashable]]) -> list[np.ndarray[Any, Any]]:
        if isinstance(histories, (str, bytes, Mapping)) or not isinstance(histories, Iterable):
            raise TypeError(f"histories must be a list of histories, each a list of item ids, got {histories!r}.")
        rows = []
        for number, history in enumerate(histories):
            if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Iterable):
                raise TypeError(
                    f"histories[{number}] must be a list of item ids, got {history!r}. One history alone is [[...]]."
                )
            rows.append(self._encoded(history, f"histories[{number}]"))
        if not rows:
            raise ValueError("histories is empty; give one history at least.")
        return rows

    def _encoded(self, ids: Iterable[Hashable], name: str) -> np.ndarray[Any, Any]:
        """Item indices of raw ids, one at least; errors say which argument they are about."""
        try:
            indices = self.vocabulary.encode(ids)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from error
        if not len(indices):
            raise ValueError(f"{name} is empty; it needs one item at least.")
        return indices

    @contextmanager
    def serving(self) -> Iterator[None]:
        """A context with dropout off and no gradients; afterwards every part is as it was."""
        training = [module for module in self.modules() if module.training]
        for module in training:
            module.training = False
        try:
            with torch.no_grad():
                yield
        finally:
            for module in training:
                module.training = True
