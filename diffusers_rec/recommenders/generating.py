"""Several items at once: gaps that are filled in, and slates of items that are proposed together."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_int, shown
from diffusers_rec.core.randomness import generators_from
from diffusers_rec.data.batching import pad
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary
from diffusers_rec.guidance import Guidance, Guide
from diffusers_rec.items.choice import Choice
from diffusers_rec.processes.mask import MaskProcess
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.process import Process
from diffusers_rec.recommenders.chains import Chain
from diffusers_rec.recommenders.requests import Items, Requests, encode_ids
from diffusers_rec.samplers import Sampler, UnmaskSampler

NUM_LISTED = 10
"""Items of each position's distribution that an answer lists."""


class _Gap:
    """The item of a sequence that is to be filled in."""

    def __repr__(self) -> str:
        return "GAP"

    def __reduce__(self) -> str:  # a copy, and what a worker process gets, is the same object
        return "GAP"


GAP = _Gap()
"""Stands in a sequence where :meth:`DiffRec.complete <diffusers_rec.DiffRec.complete>` fills in an item."""


@guarded
@dataclass(frozen=True, eq=False)
class Completions:
    """What :meth:`DiffRec.complete <diffusers_rec.DiffRec.complete>` and ``slate`` give, for B sequences.

    Attributes:
        items: Raw item ids, ``items[row][sample]``: the sequence with its gaps filled in, or the slate. The samples of
            a row are in the order of their log-likelihood.
        log_likelihood: Logarithm of the probability of the items of each sample under the distributions that they were
            drawn from, in the order in which they were drawn, ``(B, S)``; None if the sampler does not know it.
        marginals: For each row and each of its gaps the likeliest items that may stand there and their
            probabilities, while the other gaps are open.
    """

    items: list[list[list[Hashable]]]
    log_likelihood: Tensor | None
    marginals: list[list[list[tuple[Hashable, float]]]]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> list[list[Hashable]]:
        return self.items[row]

    def __iter__(self) -> Iterator[list[list[Hashable]]]:
        return iter(self.items)


@dataclass(frozen=True)
class Blanks:
    """B sequences of which some positions are to be filled in, in item indices.

    Attributes:
        histories: What stands before the first gap, ``(L_b,)`` each.
        windows: What follows, up to K positions, -1 at the gaps; empty where there is no gap.
    """

    histories: list[IndexArray]
    windows: list[IndexArray]

    @classmethod
    def of(cls, vocabulary: Vocabulary, sequences: Iterable[Items], most: int) -> tuple[Blanks, list[list[Hashable]]]:
        """From raw ids and :data:`GAP`.

        Args:
            vocabulary: Items that the model knows.
            sequences: Sequences, oldest item first.
            most: Largest number of positions K that the model fills in together.

        Returns:
            The blanks, and the sequences as lists.

        Raises:
            ValueError: No sequence has a gap, a gap has nothing before it, gaps are too far apart, or an id is unknown.
            TypeError: A sequence is a string, a set, or not iterable.
        """
        if isinstance(sequences, str | bytes | Mapping | set | frozenset) or not isinstance(sequences, Iterable):
            raise TypeError(f'sequences must be a list of sequences, got {shown(sequences)}. Write [["a", GAP, "c"]].')
        given = [_listed(sequence, row) for row, sequence in enumerate(sequences)]
        if not any(each is GAP for sequence in given for each in sequence):
            raise ValueError(
                "complete: expected a gap in one sequence at least, got none. Write diffusers_rec.GAP where an item is "
                "missing."
            )
        histories, windows = [], []
        for row, sequence in enumerate(given):
            places = [place for place, each in enumerate(sequence) if each is GAP]
            first = places[0] if places else len(sequence)
            if places and not first:
                raise ValueError(
                    f"sequences[{row}] begins with a gap: nothing is known of what came before. Put an item in front, "
                    "or call recommend(empty='popularity') for the most popular items."
                )
            if places and places[-1] - first >= most:
                raise ValueError(
                    f"sequences[{row}] spans {places[-1] - first + 1} positions from its first gap to its last, but "
                    f"the model fills in {most} together. Train with a larger k, such as joint(items, "
                    f"k={places[-1] - first + 1})."
                )
            known = encode_ids(vocabulary, [each for each in sequence if each is not GAP], f"sequences[{row}]")
            histories.append(known[:first])
            window = np.full(min(most, len(sequence) - first), -1, np.int64)
            is_known = np.array([each is not GAP for each in sequence[first : first + most]], bool)
            window[is_known] = known[first : first + int(is_known.sum())]
            windows.append(window)
        return cls(histories, windows), given

    def batches(self, size: int) -> Iterator[tuple[list[int], Blanks]]:
        """Places of up to ``size`` sequences whose windows are of one length, and these; not those without a gap."""
        for length in sorted({len(window) for window in self.windows} - {0}):
            places = [place for place, window in enumerate(self.windows) if len(window) == length]
            for start in range(0, len(places), size):
                some = places[start : start + size]
                yield some, Blanks([self.histories[i] for i in some], [self.windows[i] for i in some])

    def queries(self, longest: int, device: torch.device) -> tuple[History, Queries, Tensor]:
        """Padded histories of the last ``longest`` items, one query each, and the windows' items ``(B, 1, K)``."""
        history = pad(self.histories, longest).to(device)
        window = torch.from_numpy(np.stack(self.windows)).to(device)[:, None]
        visible = history.lengths[:, None]
        positions = visible[..., None] + torch.arange(window.shape[-1], device=device)
        count = torch.full_like(visible, window.shape[-1])
        return history, Queries(visible, positions, count, torch.zeros_like(visible), window >= 0), window


@dataclass(frozen=True)
class Filled:
    """What was filled in, for B sequences.

    Attributes:
        items: Item indices of the windows, ``(B, S, K)``.
        log_likelihood: Log-likelihood of each sample, ``(B, S)``; None if the sampler does not know it.
        marginals: Likeliest items of each position while the gaps are open, and their probabilities, ``(B, K, N)``.
    """

    items: Tensor
    log_likelihood: Tensor | None
    marginals: tuple[Tensor, Tensor]


def gap_distributions(model: Any, blanks: Blanks, places: Tensor, choice: Choice) -> Iterator[tuple[slice, Tensor]]:
    """The distribution of the item at one gap of each sequence, while the other gaps are open.

    Args:
        model: A :class:`~diffusers_rec.DiffRec` in evaluation mode, without gradients.
        blanks: B sequences whose windows are of one length.
        places: Positions of the gaps within the windows, ``(B,)``.
        choice: Items that may be filled in.

    Yields:
        Rows r, and log-probabilities ``(r, V)``.
    """
    chain = _chain(model, blanks, choice, MaskProcess(model.schedule), generators_from(1))
    last = torch.full((len(places), 1), model.schedule.num_timesteps, device=model.device)
    at = places.to(model.device)[:, None, None]
    for rows, scores in chain.predictor.distributions(chain.start, last, places=at):
        yield rows, scores[:, 0]


def fill(
    model: Any,
    blanks: Blanks,
    choice: Choice,
    sampler: Sampler,
    seeds: int | Sequence[int],
    guidance: Guidance = None,
    *,
    distinct: bool = True,
) -> Filled:
    """Fill in the gaps of B sequences whose windows are of one length.

    Args:
        model: A :class:`~diffusers_rec.DiffRec` in evaluation mode, without gradients.
        blanks: The sequences.
        choice: Items that may be filled in.
        sampler: Chain.
        seeds: Draws: seeds, or their number.
        guidance: Guidance of this call.
        distinct: Whether no item may stand twice in a sample of a chain; the sampler ``unmask`` has its own setting.

    Raises:
        ValueError: Fewer items may be filled in than there are gaps, or a guide cannot reach what it wants.
    """
    generators, process = generators_from(seeds), sampler.own_process(model.process)
    if sampler.num_steps == 1 and not isinstance(sampler, UnmaskSampler):
        raise ValueError(
            f"A slate needs items, but one step of the sampler {sampler.registered_name!r} gives the mean of many. Use "
            "sampler='unmask', or a chain of several steps."
        )
    chain = _chain(model, blanks, choice, process, generators, guidance, distinct=distinct)
    last = torch.full((len(chain.start), 1), model.schedule.num_timesteps, device=model.device)
    blank = torch.zeros_like(chain.start[:, :1])
    if isinstance(chain.predictor.denoiser, Guide) and chain.predictor.allowed is not None:
        known, own = chain.predictor.decided(blank)[:, 0], getattr(sampler, "distinct", distinct)
        chain.predictor.denoiser.check_request(known, chain.predictor.allowed, distinct=own)
    likeliest = [
        part.exp().topk(min(NUM_LISTED, part.shape[-1])) for _, part in chain.predictor.distributions(blank, last)
    ]
    marginals = torch.cat([each.indices for each in likeliest]), torch.cat([each.values for each in likeliest])
    if isinstance(sampler, UnmaskSampler):
        found = sampler.fill(chain.predictor, process, chain.start, generators)
        return Filled(found.items, found.log_likelihood, marginals)
    latents = sampler.sample(chain.predictor, process, chain.start, generators)
    return Filled(chain.predictor.nearest(latents, distinct=distinct), None, marginals)


def _chain(
    model: Any,
    blanks: Blanks,
    choice: Choice,
    process: Process,
    generators: Sequence[Generator],
    guidance: Guidance = None,
    *,
    distinct: bool = True,
) -> Chain:
    """The chain that fills in the gaps."""
    history, queries, window = blanks.queries(model.max_length - len(blanks.windows[0]), model.device)
    barred = torch.zeros(len(history), len(model.vocabulary), device=model.device)
    choice.mask_(barred, slice(0, barred.shape[1]))
    allowed = barred == 0
    for gaps, choices in zip(queries.gaps.sum(-1)[:, 0].tolist(), allowed.sum(1).tolist(), strict=True):
        if choices < (gaps if distinct else 1):
            raise ValueError(
                f"{gaps} items are to be filled in, but only {choices} may be: the others are seen, excluded or no "
                "candidates. Ask for fewer, or allow more."
            )
    return Chain(model, history, queries, process, generators, guidance, items=window, allowed=allowed)


def completed(
    model: Any,
    blanks: Blanks,
    requests: Requests,
    sampler: Sampler,
    seeds: int | Sequence[int],
    guidance: Guidance,
    batch_size: int,
    *,
    distinct: bool = True,
) -> Completions:
    """Fill in the gaps of any sequences; the items are those of the windows, without what stands before them."""
    count = len(blanks.windows)
    items: list[list[list[Hashable]]] = [[] for _ in range(count)]
    marginals: list[list[list[tuple[Hashable, float]]]] = [[] for _ in range(count)]
    draws = len(generators_from(seeds))
    known: Tensor | None = torch.zeros(count, draws, dtype=torch.float64)
    decode = model.vocabulary.decode
    for places, part in blanks.batches(check_int("batch_size", batch_size, minimum=1)):
        excluded, candidates = requests.take(places).tensors(model.device)
        with model.serving() as serving:
            found = fill(serving, part, Choice(excluded, candidates), sampler, seeds, guidance, distinct=distinct)
        order = torch.arange(draws).expand(len(places), -1)
        if found.log_likelihood is None:
            known = None
        elif known is not None:
            known[places], order = found.log_likelihood.cpu().sort(dim=1, descending=True, stable=True)
        windows = found.items.cpu().gather(1, order[..., None].expand_as(found.items))
        likeliest, probability = (each.cpu().tolist() for each in found.marginals)
        for row, place in enumerate(places):
            items[place] = [decode(sample) for sample in windows[row].tolist()]
            gaps = np.flatnonzero(part.windows[row] < 0)
            marginals[place] = [
                [(item, p) for item, p in zip(decode(likeliest[row][gap]), probability[row][gap], strict=True) if p]
                for gap in gaps
            ]
    return Completions(items, known, marginals)


def with_known(completions: Completions, sequences: list[list[Hashable]]) -> Completions:
    """The whole sequences, in place of their windows."""
    draws = max(map(len, completions.items))
    items = []
    for sequence, windows in zip(sequences, completions.items, strict=True):
        first = next((place for place, each in enumerate(sequence) if each is GAP), len(sequence))
        whole = [[*sequence[:first], *window, *sequence[first + len(window) :]] for window in windows]
        items.append(whole or [list(sequence) for _ in range(draws)])
    return Completions(items, completions.log_likelihood, completions.marginals)


def _listed(sequence: Items, row: int) -> list[Any]:
    if isinstance(sequence, str | bytes | Mapping | set | frozenset) or not isinstance(sequence, Iterable):
        raise TypeError(f"sequences[{row}] must be a list of item ids and GAP, got {shown(sequence)}.")
    return list(sequence)
