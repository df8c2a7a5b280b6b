r"""The k best items of a head, computed for those items alone where that is possible.

:func:`~diffusers_rec.recommenders.ranking.top_k` ranks whatever scores a model gives. For one head, less is needed. The
order of the items is that of

.. math:: \bar p_\theta(v) + \frac{\lambda}{1 - \lambda}\, q(v),

so what a memory predicts is added at its items and no dense q is built; the log-probabilities, the deviations over the
draws and the calibration are computed for k items. Items, scores and deviations are the same, up to rounding and the
order of ties.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.items.choice import Choice
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.calibration import CalibratedUsers, Evidence
from diffusers_rec.recommenders.head_scores import (
    CHUNK_SCORES,
    Chunks,
    head_logits,
    head_scores,
    log_normaliser,
    logits_of,
    mean_over_draws,
    underflows,
    user_slices,
)
from diffusers_rec.recommenders.largest import largest
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.ranking import TopK, no_probabilities, top_k

_SCORES = 2**20
"""How many scores of one group of users are held at once: what a cache holds."""

_PIECE, _SPARE = 2**19, 64
"""Number of scores computed at once of a catalogue that is not held, and of items kept in addition to 4 k."""


@dataclass(frozen=True, eq=False)
class Shortlist:
    """Items among which the best of b users are, and what makes probabilities of logits.

    Attributes:
        items: Indices of items that are allowed, none twice, ``(b, C)``, padded with -1.
        logits: Their logits under each of S draws, ``(b, S, C)``; those of the padding mean nothing.
        logits_of: Gives the logits of other items, int64 ``(b, E)`` to ``(b, S, E)``.
        normaliser: Gives the logarithm of the sum over all items of exp(logits / temperature), ``(b, S, 1)``.
    """

    items: Tensor
    logits: Tensor
    logits_of: Callable[[Tensor], Tensor]
    normaliser: Callable[[float], Tensor]


class Search(Protocol):
    """Finds the shortlist of b users for k items, from S latents each, ``(b, S, D)``; None where it cannot.

    ``temperature`` is one at which its normaliser will be asked for.
    """

    def __call__(
        self,
        head: ItemHead,
        latents: Tensor,
        k: int,
        choice: Choice,
        memory: MemoryPrediction | None,
        *,
        temperature: float = 1,
    ) -> Shortlist | None: ...


@torch.no_grad()
def best_items(
    head: ItemHead,
    latents: Tensor,
    k: int,
    choice: Choice,
    memory: MemoryPrediction | None = None,
    *,
    evidence: Evidence | None = None,
    search: Search | None = None,
) -> TopK:
    """The k likeliest items.

    Args:
        head: Head that scores items.
        latents: S noise draws a user, ``(B, S, D)``. Draws that are all equal are ranked once.
        k: Number of items, from 1 to V.
        choice: Items that are allowed.
        memory: Prediction of a memory; the network alone when None.
        evidence: Calibration of the probabilities that are reported; None reports those that the ranking is by.
        search: What finds the shortlists; :func:`scan`, which is exact, if None.

    Raises:
        ValueError: items that do not exist, or probabilities that are not numbers.
    """
    num_items = len(head.keys())
    choice.check(num_items)
    if latents.shape[1] > 1 and bool((latents == latents[:, :1]).all()):
        latents = latents[:, :1]
    with torch.autocast(latents.device.type, enabled=False):
        found = [
            _best_of_group(
                head,
                latents[group],
                k,
                choice.take(group),
                None if memory is None else memory.take(group),
                None if evidence is None else evidence.take(group),
                search or scan,
            )
            for group in user_slices(len(latents), latents.shape[1], num_items, _SCORES)
        ]
    return found[0] if len(found) == 1 else TopK.joined(found)


def _best_of_group(
    head: ItemHead,
    latents: Tensor,
    k: int,
    choice: Choice,
    memory: MemoryPrediction | None,
    evidence: Evidence | None,
    search: Search,
) -> TopK:
    asked = {}
    if evidence is not None:
        memory = evidence.memory  # the same, so that its items are sorted once
        asked["temperature"] = evidence.calibration.temperature
    listed = search(head, latents, k, choice, memory, **asked)
    if listed is not None:
        return _best(listed, k, memory, evidence)
    scores = head_scores(head, latents, memory, evidence=evidence)
    return top_k(scores, k, excluded=choice.excluded, candidates=choice.candidates)


def scan(
    head: ItemHead,
    latents: Tensor,
    k: int,
    choice: Choice,
    memory: MemoryPrediction | None,
    *,
    chunks_of: Callable[[ItemHead, Tensor, int], Chunks] = head_logits,
    some_of: Callable[[ItemHead, Tensor, Tensor], Tensor] = logits_of,
    temperature: float = 1,
) -> Shortlist | None:
    """The k best items themselves, from the logits of all; a :class:`Search`.

    ``chunks_of`` and ``some_of`` give the same logits, of chunks and of some items.

    None where probabilities among the best are too small for float32.
    """
    chunks, logits = chunks_of(head, latents, CHUNK_SCORES)
    if len(chunks) > 1:
        pieces = chunks_of(head, latents, _PIECE)
        return _scan_once(partial(some_of, head, latents), k, choice, memory, *pieces, temperature)
    held = logits(chunks[0])
    draws = held.shape[1]
    top = held.amax(-1, keepdim=True)
    odds = (held - top).exp_()
    total = odds.sum(-1, keepdim=True)
    if draws == 1:
        ranked, whole = odds[:, 0], total[:, 0]
    else:
        ranked, whole = ((draws * total).reciprocal().mT @ odds)[:, 0], total.new_ones(1)
    if memory is not None:
        ranked.scatter_add_(1, memory.items, (memory.mass / (1 - memory.share)).to(ranked.dtype) * whole)
    choice.mask_(ranked, chunks[0])
    best, items = largest(ranked, k)
    if underflows(best.where(best > -math.inf, 1)):
        return None

    def logits_of(items: Tensor) -> Tensor:
        return held.gather(2, items[:, None].expand(-1, draws, -1))

    def normaliser(temperature: float) -> Tensor:
        return total.log() + top if temperature == 1 else log_normaliser(chunks, lambda _: held, temperature)

    return Shortlist(items.masked_fill(best == -math.inf, -1), logits_of(items), logits_of, normaliser)


def _scan_once(
    logits_at: Callable[[Tensor], Tensor],
    k: int,
    choice: Choice,
    memory: MemoryPrediction | None,
    chunks: list[slice],
    logits: Callable[[slice], Tensor],
    expected: float,
) -> Shortlist | None:
    r"""The shortlist of a catalogue that is not held at once, whose logits are computed once.

    The mean over the draws needs the normalisers :math:`Z_s`, known at the end. Until then items are ranked by
    :math:`\sum_s e^{\ell_{s,v}} / \tilde Z_s`, with those of the first chunk, and more than k are kept. The others have
    at most :math:`\max_s \tilde Z_s / (S Z_s)` times the smallest sum kept. None where that does not prove that the k
    best are kept. The normalisers at the ``expected`` temperature come from the same logits.
    """
    most = min(4 * k + _SPARE, chunks[-1].stop)
    first = logits(chunks[0])
    top = first.amax(-1, keepdim=True)
    total = tempered = weights = torch.zeros_like(top)
    sums, items = top.new_empty(len(top), 0), top.new_empty(len(top), 0, dtype=torch.int64)
    for chunk in chunks:
        odds = (logits(chunk) if chunk.start else first).sub_(top)
        if expected != 1:
            tempered = tempered + (odds / expected).exp_().sum(-1, keepdim=True)
        total = total + odds.exp_().sum(-1, keepdim=True)
        weights = weights if chunk.start else total.reciprocal()
        ranked = (weights.mT @ odds)[:, 0]
        choice.mask_(ranked, chunk)
        values, columns = largest(ranked, most, above=sums[:, -1:] if sums.shape[1] == most else None)
        sums, order = torch.cat([sums, values], dim=1).topk(min(most, chunk.stop), dim=1)
        items = torch.cat([items, columns + chunk.start], dim=1).gather(1, order)
    items = items.masked_fill(sums == -math.inf, -1)
    plain = total.log() + top
    shares = (logits_at(items.clamp(min=0)) - plain).exp().mean(1).masked_fill(items < 0, -math.inf)
    bound = (weights * total * top.shape[1]).reciprocal().amax(1) * sums[:, -1:]
    best = shares.topk(k, dim=1).values
    if not bool((total + tempered).isfinite().all()) or underflows(sums.where(items >= 0, 1)):
        return None
    if underflows(best.where(best > -math.inf, 1)) or not bool((best[:, -1:] >= bound).all()):
        return None
    users = [slice(row, row + 1) for row in range(len(items))]
    rows = [with_memory(items[row], choice.take(row), None if memory is None else memory.take(row)) for row in users]
    items = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

    def normaliser(temperature: float) -> Tensor:
        if temperature == expected != 1:
            return tempered.log() + top / expected
        return plain if temperature == 1 else log_normaliser(chunks, logits, temperature)

    return Shortlist(items, logits_at(items.clamp(min=0)), logits_at, normaliser)


def with_memory(found: Tensor, choice: Choice, memory: MemoryPrediction | None) -> Tensor:
    """Items found for one user, padded with -1, and those that the memory predicts, as far as they are allowed."""
    if memory is not None:
        found = torch.cat([found.flatten(), memory.items[0]])
    found = torch.unique(found[found >= 0])
    if choice.candidates is not None:
        found = found[torch.isin(found, choice.candidates)]
    return found if choice.excluded is None else found[~torch.isin(found, choice.excluded)]


def _best(listed: Shortlist, k: int, memory: MemoryPrediction | None, evidence: Evidence | None) -> TopK:
    """The best of a shortlist, mixed with a memory, and what is reported of them."""
    draws = listed.logits - listed.normaliser(1)
    ranked_by, shown = mean_over_draws(draws), listed.items.clamp(min=0)
    mass = None if memory is None else memory.at(shown)
    if memory is not None and mass is not None:
        network = ranked_by + torch.log1p(-memory.share).to(ranked_by.dtype)
        ranked_by = torch.logaddexp(network, mass.log().to(ranked_by.dtype))
    if bool(ranked_by.isnan().any()):
        raise no_probabilities(ranked_by)
    best, order = ranked_by.masked_fill(listed.items < 0, -math.inf).topk(min(k, shown.shape[1]), dim=1)
    items, barred = listed.items.gather(1, order), best == -math.inf
    of_draws = order[:, None].expand(-1, draws.shape[1], -1)
    if evidence is None:
        scores = best.exp()
        std = draws.gather(2, of_draws).exp().std(1, correction=0)
        std = std if memory is None else std * (1 - memory.share).to(std.dtype)
    else:
        users = CalibratedUsers(
            evidence,
            lambda: listed.normaliser(evidence.calibration.temperature),
            lambda: listed.logits_of(evidence.seen.clamp(min=0)),
        )
        remembered = evidence.share_of(items if mass is None else mass.gather(1, order))
        items = items.clamp(min=0)
        log_probabilities, std = users.probabilities(
            listed.logits.gather(2, of_draws), remembered, evidence.popular(items), evidence.repeated(items)
        )
        scores = log_probabilities.exp()
    short = 0, k - items.shape[1]
    return TopK(
        F.pad(items.masked_fill(barred, -1), short, value=-1),
        F.pad(scores.masked_fill(barred, 0), short),
        F.pad(std.masked_fill(barred, 0), short),
    )
