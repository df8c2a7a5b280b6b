"""What every recommender can do: recommend, and estimate how likely each item is, from the scores that it gives."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Self

import numpy.typing as npt
import torch
from torch import Tensor

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, check_int, require_extra
from diffusers_rec.core.randomness import generators_from, uniform
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.guidance import Guidance
from diffusers_rec.items.choice import Choice, inverse_cdf
from diffusers_rec.recommenders.index import Index
from diffusers_rec.recommenders.ranking import Scores, TopK, top_k, user_groups
from diffusers_rec.recommenders.requests import Items, Requests
from diffusers_rec.recommenders.scoring import SamplerChoice, Scorer, Seeds

Unknown = Literal["error", "drop"]
Empty = Literal["error", "popularity"]


@guarded
@dataclass(frozen=True, eq=False)  # tensors have no one answer to ==
class Recommendations:
    """What :meth:`Recommender.recommend` gives, best first, for B histories.

    Attributes:
        items: Raw item ids, up to k for each history; fewer where exclusions leave fewer.
        scores: Probability of each item, averaged over the seeds, ``(B, k)``; 0 where there is no item. Those of a
            calibrated model need not fall from item to item, because it ranks by a mixture of its own.
        std: Standard deviation of that probability over the seeds, ``(B, k)``.
    """

    items: list[list[Hashable]]
    scores: Tensor
    std: Tensor

    @property
    def spread(self) -> Tensor:
        """Deprecated name of :attr:`std`."""
        warn_deprecated("Recommendations.spread", "Recommendations.std")
        return self.std

    def to_frame(self, users: Iterable[Hashable] | None = None, *, backend: str = "polars") -> Any:
        """A data frame with a row for each recommendation.

        Args:
            users: Id of each history for the column ``user``; their numbers from 0 if None.
            backend: Library of the frame: ``"polars"``, ``"pandas"`` or ``"pyarrow"``.

        Returns:
            Columns ``user``, ``rank`` (from 1), ``item``, ``score`` and ``std``.

        Raises:
            ValueError: Another number of users than of histories, or another library.
            ImportError: narwhals or the library is missing (extra ``data``).
        """
        check_choice("backend", backend, ("polars", "pandas", "pyarrow"))
        nw = require_extra("narwhals", "data")
        names = list(range(len(self)) if users is None else users)
        if len(names) != len(self):
            raise ValueError(f"to_frame: expected {len(self)} users, one a history, got {len(names)}.")
        return nw.from_dict(table_columns(names, self), backend=backend).to_native()

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[list[tuple[Hashable, float, float]]]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> list[tuple[Hashable, float, float]]:
        """Item, score and standard deviation of each recommendation for history ``row``."""
        row = check_int("row", row)
        items = self.items[row]
        return list(zip(items, self.scores[row].tolist(), self.std[row].tolist(), strict=False))


def table_columns(users: Sequence[Hashable], found: Recommendations) -> dict[str, list[Any]]:
    """The columns of :meth:`Recommendations.to_frame`, a row for each recommendation."""
    lengths = list(map(len, found.items))
    return {
        "user": [name for name, length in zip(users, lengths, strict=True) for _ in range(length)],
        "rank": [rank for length in lengths for rank in range(1, length + 1)],
        "item": [item for row in found.items for item in row],
        "score": [each for row, length in zip(found.scores.tolist(), lengths, strict=True) for each in row[:length]],
        "std": [each for row, length in zip(found.std.tolist(), lengths, strict=True) for each in row[:length]],
    }


@guarded
class Recommender(Scorer):
    """Histories in, ranked items out.

    A model of any kind becomes a recommender by :meth:`score`, beside its vocabulary, its device and the length of the
    histories that it reads. Recommending, evaluation and ensembles are built on it.

    Attributes:
        popularity: Occurrences of each item in the training sequences, int64 ``(V,)``, which answer empty histories; a
            model need not have it.
    """

    made_by: ClassVar[str] = "DiffRec(items) or DiffRec.from_pretrained(folder)"
    popularity: Tensor

    def without_memory(self) -> Self:
        """The model whose network ranks alone, sharing its weights; itself where it has no memory."""
        return self

    def predict_proba(
        self,
        histories: Iterable[Items],
        *,
        unknown: Unknown = "error",
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
    ) -> Tensor:
        """The probability of every item to come next, averaged over the seeds: ``(B, V)``, in the vocabulary's order.

        A calibrated model gives its calibrated probabilities.

        Raises:
            ValueError: as :meth:`recommend`.
        """
        history = self.encode_histories(histories, unknown=unknown, times=times, features=features)
        with self.serving() as model:
            scores = model.score(history, **options_of(seeds, sampler, guidance))
            probabilities = torch.cat([_probabilities(group) for group in user_groups(scores)])
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
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
        index: Index | None = None,
        batch_size: int = 256,
    ) -> Recommendations:
        """The k likeliest next items for each history.

        Args:
            histories: Raw item ids, oldest first, or :class:`~diffusers_rec.Sequences`. The users need not have been in
                training.
            k: Number of items, at most that of the candidates; 10, or all candidates where they are fewer, when None.
            exclude_seen: Whether to leave out the items of the history.
            candidates: Ids to recommend among: one list for all histories, or a list of lists, one a history; all items
                when None.
            exclude: Ids to leave out, in either form.
            unknown: Treatment of ids that the model does not know: ``"error"`` refuses the call, ``"drop"`` goes on
                without them.
            empty: Treatment of histories without an item: ``"error"`` refuses the call, ``"popularity"`` answers with
                the items that occur most in the training sequences.
            times: Times of the items, one list a history, in the unit of the training log; for models that read them.
            features: Features of the users, name to one row a history; for models that read them.
            seeds: Noise draws to average (Algorithm 3): seeds, or their number; the model's own when None.
            sampler: Component, name, or config; the model's own when None.
            guidance: Scale of the model's guide, or a mapping of its settings; the guide's own when None.
            index: An index of the model's head that finds the items approximately, such as
                :class:`~diffusers_rec.BFloat16Index`; the ranking is exact when None.
            batch_size: Histories at once.

        Returns:
            Items, scores, and the standard deviation of each score over the seeds.

        Raises:
            ValueError: an empty history or an unknown id, unless the call allows it; k below 1 or above the number of
                candidates; lists that are not one a history; seeds that repeat; a sampler that does not exist or has
                more steps than the schedule; an index of another head; or weights that are not finite.
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
            times=times,
            features=features,
            drop=drops(unknown),
            may_be_empty=check_choice("empty", empty, ("error", "popularity")) == "popularity",
        )
        most = requests.most_items(len(self.vocabulary))
        k = min(10, most) if k is None else check_int("k", k)
        if not 1 <= k <= most:
            raise ValueError(f"k must lie in 1..{most}, the number of items to choose from, got {k}.")
        options = {"index": index, **options_of(seeds, sampler, guidance)}
        places, found = [], []
        for some, part in requests.batches(batch_size):
            places += some
            found.append(self._top_k(part, k, options))
        back = torch.tensor(places).argsort()
        items, scores, std = (
            torch.cat([getattr(part, name) for part in found]).cpu()[back] for name in ("items", "scores", "std")
        )
        ids = iter(self.vocabulary.decode(items[items >= 0].numpy()))
        return Recommendations([list(islice(ids, count)) for count in (items >= 0).sum(1).tolist()], scores, std)

    def list_overlap(
        self,
        histories: Iterable[Items],
        k: int = 10,
        *,
        unknown: Unknown = "error",
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        index: Index | None = None,
        batch_size: int = 256,
    ) -> float:
        """How far the lists stay the same with other settings of :meth:`recommend`, usually faster ones.

        The share of the items in the model's own lists that are also in the lists with the other settings, whatever
        their order. If ``model.list_overlap(histories, seeds=1)`` is near 1, one noise draw gives almost the same
        lists, and ``model.seeds = 1`` makes it the default.

        Args:
            histories: Raw item ids, oldest first, such as those of the validation.
            k: Number of items.
            unknown: See :meth:`recommend`.
            seeds: Noise draws to compare with the model's own; the same when None.
            sampler: Sampler to compare with the model's own; the same when None.
            index: Index to compare with the exact ranking; none when None.
            batch_size: Histories at once.

        Returns:
            A number from 0 to 1; 1 if all items are the same.

        Raises:
            ValueError: As :meth:`recommend`.
        """
        given = histories if isinstance(histories, Sequences) else list(histories)
        other: dict[str, Any] = {"seeds": seeds, "sampler": sampler, "index": index}
        some: dict[str, Any] = {"unknown": unknown, "batch_size": batch_size}
        own, found = (self.recommend(given, k, **some, **way).items for way in ({}, other))
        shared = sum(len({*one} & {*two}) for one, two in zip(own, found, strict=True))
        return shared / max(1, sum(map(len, own)))

    def sample_next(
        self,
        histories: Iterable[Items],
        samples: Seeds = 1,
        *,
        exclude_seen: bool = True,
        candidates: Items | Iterable[Items] | None = None,
        exclude: Items | Iterable[Items] | None = None,
        unknown: Unknown = "error",
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
        guidance: Guidance = None,
        batch_size: int = 256,
    ) -> Recommendations:
        """Draw next items from the probabilities that the model reports.

        The draws of a history are independent of one another. Histories share the seeds, so that equal histories have
        equal draws.

        Args:
            histories: Raw item ids, oldest first.
            samples: Draws of each history: their seeds, or their number.
            exclude_seen: See :meth:`recommend`.
            candidates: See :meth:`recommend`.
            exclude: See :meth:`recommend`.
            unknown: See :meth:`recommend`.
            times: See :meth:`recommend`.
            features: See :meth:`recommend`.
            guidance: See :meth:`recommend`.
            batch_size: Histories at once.

        Returns:
            One item a draw, in their order, and its probability among the items that may be drawn.

        Raises:
            ValueError: As :meth:`recommend`, or no item may be drawn.
        """
        check_bool("exclude_seen", exclude_seen)
        requests = Requests.of(
            self.vocabulary,
            histories,
            candidates=candidates,
            exclude=exclude,
            exclude_seen=exclude_seen,
            times=times,
            features=features,
            drop=drops(unknown),
        )
        generators = generators_from(samples)
        numbers = uniform((1, len(generators)), generators, device=self.device)
        places, items, scores = [], [], []
        for some, part in requests.batches(check_int("batch_size", batch_size, minimum=1)):
            drawn, probability = self._drawn(part, numbers, options_of(None, None, guidance))
            places += some
            items.append(drawn)
            scores.append(probability)
        back = torch.tensor(places).argsort()
        rows = torch.cat(items).cpu()[back].tolist()
        found = torch.cat(scores).cpu()[back]
        return Recommendations([self.vocabulary.decode(row) for row in rows], found, torch.zeros_like(found))

    def _drawn(self, requests: Requests, numbers: Tensor, options: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Items and their probabilities, ``(B, S)``, for numbers in [0, 1), ``(1, S)``."""
        choice = Choice(*requests.tensors(self.device))
        history, items, found = requests.history(self.history_length).to(self.device), [], []
        start = 0
        with self.serving() as model:
            for group in user_groups(model.score(history, **options)):
                scores = _probabilities(group).log()
                choice.take(slice(start, start + len(scores))).mask_(scores, slice(0, scores.shape[1]))
                start += len(scores)
                if not bool(scores.isfinite().any(1).all()):
                    raise ValueError("No item may be drawn: all are seen, excluded or no candidates. Allow more.")
                scores = scores.log_softmax(-1)
                drawn = inverse_cdf(scores, numbers)
                items.append(drawn)
                found.append(scores.exp().gather(1, drawn))
        return torch.cat(items), torch.cat(found)

    def _top_k(self, requests: Requests, k: int, options: Mapping[str, Any]) -> TopK:
        """For histories that are all empty, or none of which is."""
        choice = Choice(*requests.tensors(self.device))
        if not len(requests.histories[0]):
            scores = iter([self._popularity_scores(len(requests.histories))])
            return top_k(scores, k, excluded=choice.excluded, candidates=choice.candidates)
        history = requests.history(self.history_length).to(self.device)
        with self.serving() as model:
            return model._best(history, k, choice, **options)

    def _popularity_scores(self, users: int) -> Scores:
        """How likely each item is where nothing is known of the user."""
        counts = getattr(self, "popularity", None)
        if counts is None or not bool(counts.any()):
            raise ValueError(
                "empty='popularity' needs to know how often each item occurs. Call model.prepare(sequences) with "
                "the training sequences, as train() does."
            )
        shares = (counts.double() / counts.sum()).float().log()
        return Scores(slice(0, users), slice(0, len(counts)), shares.expand(users, -1))

    def encode_histories(
        self,
        histories: Iterable[Items],
        *,
        unknown: Unknown = "error",
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
    ) -> History:
        """Raw ids to item indices, the last :attr:`history_length` of each.

        Args:
            histories: Raw item ids, oldest first.
            unknown: Treatment of ids that the model does not know, as in :meth:`recommend`.
            times: Times of the items, one list a history.
            features: Features of the users, name to one row a history.
        """
        requests = Requests.of(self.vocabulary, histories, times=times, features=features, drop=drops(unknown))
        return requests.history(self.history_length).to(self.device)


def _probabilities(group: Iterable[Scores]) -> Tensor:
    """What is reported of all items for one group of users, ``(b, V)``; only one chunk's draws are held at once."""
    parts = []
    for chunk in group:
        log_probabilities = chunk.log_probabilities
        if chunk.calibrated is not None:
            columns = torch.arange(log_probabilities.shape[1], device=log_probabilities.device)
            log_probabilities, _ = chunk.calibrated(columns.expand(len(log_probabilities), -1))
        parts.append(log_probabilities)
    return torch.cat(parts, dim=1).exp()


def drops(unknown: Unknown) -> bool:
    """Whether ids that the model does not know are dropped; checks the argument of that name."""
    return check_choice("unknown", unknown, ("error", "drop")) == "drop"


def options_of(seeds: Seeds | None, sampler: SamplerChoice | None, guidance: Guidance = None) -> dict[str, Any]:
    """The options of :meth:`Recommender.score` that a call has given: a model need not know those that none has."""
    options = {"seeds": seeds, "sampler": sampler, "guidance": guidance}
    return {name: value for name, value in options.items() if value is not None}
