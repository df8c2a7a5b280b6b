"""Recommenders that fill in several items together, beside ranking the next one."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable, Iterable
from typing import Any

import numpy as np

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, check_int
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.guidance import Guidance
from diffusers_rec.processes.noising import NoisingStrategy
from diffusers_rec.recommenders.base import Recommender, Unknown
from diffusers_rec.recommenders.generating import GAP, Blanks, Completions, completed, with_known
from diffusers_rec.recommenders.requests import Items, Requests
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds
from diffusers_rec.samplers import Sampler


@guarded
class Completing(Recommender):
    """A recommender whose denoiser may predict items, so that several are filled in together."""

    denoiser: Denoiser
    noising: NoisingStrategy

    @abstractmethod
    def _built(self, sampler: SamplerChoice, **settings: Any) -> Sampler:
        """A sampler of one call, with defaults of settings that it may have."""

    def complete(
        self,
        sequences: Iterable[Iterable[Hashable]],
        samples: Seeds = 1,
        *,
        exclude_seen: bool = True,
        candidates: Items | Iterable[Items] | None = None,
        exclude: Items | Iterable[Items] | None = None,
        sampler: SamplerChoice = "unmask",
        guidance: Guidance = None,
        batch_size: int = 256,
    ) -> Completions:
        """Fill in the gaps of sequences, given what stands on either side.

        What stands before the first gap is the history; the model sees as many positions from there on as it fills in
        together. The network alone fills them in: a memory ranks, but does not draw.

        Args:
            sequences: Raw item ids, oldest first, with :data:`~diffusers_rec.GAP` where an item is missing.
            samples: Samples of each sequence: their seeds, or their number. Sequences share the seeds, so that a
                sequence has the same samples in any call.
            exclude_seen: Whether no item may stand twice in a sequence.
            candidates: See :meth:`recommend`.
            exclude: See :meth:`recommend`.
            sampler: Component, name, or config: ``"unmask"``, or a chain of the model's process.
            guidance: Guidance of this call, as in :meth:`sample`.
            batch_size: Sequences at once.

        Returns:
            Whole sequences, the likeliest sample first. A sequence without a gap stays as it is.

        Raises:
            ValueError: No gap at all, a gap with nothing before it, gaps further apart than the model fills in
                together, unknown ids, or more gaps than items that may be filled in.
            TypeError: The denoiser does not predict items.
        """
        k = self._joint("complete")
        blanks, given = Blanks.of(self.vocabulary, sequences, k)
        known = [[each for each in sequence if each is not GAP] for sequence in given]
        requests = Requests.of(
            self.vocabulary, known, candidates=candidates, exclude=exclude, exclude_seen=exclude_seen, may_be_empty=True
        )
        chosen = self._built(sampler, distinct=check_bool("exclude_seen", exclude_seen))
        found = completed(self, blanks, requests, chosen, samples, guidance, batch_size, distinct=exclude_seen)
        return with_known(found, given)

    def slate(
        self,
        histories: Iterable[Iterable[Hashable]],
        k: int | None = None,
        samples: Seeds | None = None,
        *,
        exclude_seen: bool = True,
        candidates: Items | Iterable[Items] | None = None,
        exclude: Items | Iterable[Items] | None = None,
        unknown: Unknown = "error",
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
        batch_size: int = 256,
    ) -> Completions:
        """Propose the next k items together, none of them twice.

        Args:
            histories: Raw item ids, oldest first.
            k: Number of items; as many as the model fills in together when None.
            samples: Samples of each history: their seeds, or their number; None gives the slate that takes the
                likeliest item at every step.
            exclude_seen: Whether to leave out the items of the history.
            candidates: See :meth:`recommend`.
            exclude: See :meth:`recommend`.
            unknown: See :meth:`recommend`.
            sampler: Component, name, or config: ``"unmask"``, or a chain of the model's process.
            guidance: Guidance of this call, as in :meth:`sample`.
            batch_size: Histories at once.

        Returns:
            Slates, the likeliest sample first.

        Raises:
            ValueError: An empty history, an unknown id, a k that is more than the model fills in together or than
                there are items to choose from, or a sampler of one step or with ``distinct=False``.
            TypeError: The denoiser does not predict items.
        """
        most = self._joint("slate")
        k = most if k is None else check_int("k", k, minimum=1)
        if k > most:
            raise ValueError(
                f"k must lie in 1..{most}, as many items as the model fills in together, got {k}. Ask for fewer, or "
                "train with a larger k."
            )
        requests = Requests.of(
            self.vocabulary,
            histories,
            candidates=candidates,
            exclude=exclude,
            exclude_seen=check_bool("exclude_seen", exclude_seen),
            drop=check_choice("unknown", unknown, ("error", "drop")) == "drop",
        )
        greedy = {"name": "unmask", "order": "confidence", "temperature": 0.0}
        chosen = self._built(greedy if sampler is None and samples is None else sampler or "unmask", distinct=True)
        if not getattr(chosen, "distinct", True):
            raise ValueError("A slate has no item twice, but the sampler has distinct=False. Use distinct=True.")
        blanks = Blanks(requests.histories, [np.full(k, -1)] * len(requests.histories))
        return completed(self, blanks, requests, chosen, 1 if samples is None else samples, guidance, batch_size)

    def _joint(self, call: str) -> int:
        """How many positions the model fills in together.

        Raises:
            TypeError: The denoiser does not predict items.
        """
        if self.denoiser.prediction != "items":
            raise TypeError(
                f"{call} needs a denoiser that predicts items, but {self.denoiser.registered_name!r} predicts "
                f"{self.denoiser.prediction}. Build the model with presets.joint(items)."
            )
        return self.noising.max_noised(self.max_length - 1)
