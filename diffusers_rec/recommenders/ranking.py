r"""Exact rankings in chunks of items, never holding more scores than a chunk.

An item's score is its probability averaged over S noise draws (Algorithm 3, line 9), kept as a logarithm:

.. math:: \log \bar p_v = \log \frac1S \sum_s \exp(\ell_{s,v} - z_s), \qquad z_s = \log \sum_v \exp \ell_{s,v}.

The normalisers :math:`z_s` need every item, so a catalogue of several chunks is gone through twice. What a memory
recalls (:mod:`diffusers_rec.recommenders.memory`) is mixed in behind the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int
from diffusers_rec.items.choice import Choice, among
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.memory import MemoryPrediction

Chunks = Iterable[tuple[slice, Tensor]]

CHUNK_SCORES = 2**22
"""How many scores (users x draws x items) are held at once, about 16 MiB in float32."""

UNRANKED = 2**62
"""The rank of a target that is left out of the ranking: beyond every cut-off, hence a miss."""


@dataclass(frozen=True)
class TopK:
    """The k best items of each of B users, best first.

    Attributes:
        items: indices, ``(B, k)``; -1 where fewer than k items were allowed.
        scores: probability averaged over the draws, ``(B, k)``; 0 at index -1.
        spread: standard deviation of that probability over the draws, ``(B, k)``; 0 with one draw.
    """

    items: Tensor
    scores: Tensor
    spread: Tensor


def score_chunks(head: ItemHead, latents: Tensor, chunk_scores: int = CHUNK_SCORES) -> Iterator[tuple[slice, Tensor]]:
    """Log-probability of each item under each draw, a chunk of items after another.

    Args:
        head: scores items.
        latents: ``(B, S, D)``.
        chunk_scores: the most scores to hold at once; one item a chunk at the least.

    Yields:
        A slice of item indices and the log-probabilities ``(B, S, chunk)``.
    """
    users, draws, _ = latents.shape
    with torch.autocast(latents.device.type, enabled=False):
        keys, bias = head.scoring_keys()
        queries = head.queries(latents.to(keys.dtype))
    size = max(1, check_int("chunk_scores", chunk_scores, minimum=1) // max(1, users * draws))
    chunks = [slice(start, min(start + size, len(keys))) for start in range(0, len(keys), size)]

    def logits(chunk: slice) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            return F.linear(queries, keys[chunk], None if bias is None else bias[chunk])

    if len(chunks) == 1:
        yield chunks[0], logits(chunks[0]).log_softmax(-1)
        return
    normaliser = queries.new_full((users, draws, 1), -math.inf)
    for chunk in chunks:
        scores = logits(chunk)
        top = scores.amax(-1, keepdim=True)
        normaliser = torch.logaddexp(normaliser, scores.sub_(top).exp_().sum(-1, keepdim=True).log_().add_(top))
    for chunk in chunks:
        yield chunk, logits(chunk).sub_(normaliser)


def _user_groups(latents: Tensor, num_items: int, chunk_scores: int) -> Iterator[slice]:
    """Users to rank together: as many as have their whole catalogue in one chunk; where not even one has, as many as
    have the means over their draws in one; or all.

    A catalogue in one chunk needs its scores once, one of several chunks twice, and again for ranks without the means.
    """
    users, draws, _ = latents.shape
    size = chunk_scores // max(1, draws * num_items) or chunk_scores // num_items or max(1, users)
    return (slice(start, start + size) for start in range(0, max(1, users), size))


def mean_over_draws(log_probabilities: Tensor) -> Tensor:
    """``(B, S, V)`` to the logarithm of the mean probability, ``(B, V)``."""
    if log_probabilities.shape[1] == 1:
        return log_probabilities[:, 0]
    mean = log_probabilities.exp().mean(1)
    if mean.numel() and mean.min() > _faint(mean):
        return mean.log_()
    top = log_probabilities.amax(1)  # the slower way, in which no probability is too small for its exponential
    return (log_probabilities - top[:, None]).exp_().mean(1).log_().add_(top)


def mean_chunks(
    head: ItemHead, latents: Tensor, recalled: MemoryPrediction | None = None, chunk_scores: int = CHUNK_SCORES
) -> Chunks:
    """The logarithm of each item's probability, averaged over the draws and mixed with what was recalled.

    Args:
        head: scores items.
        latents: ``(B, S, D)``.
        recalled: by the memory; the network alone when None.
        chunk_scores: see :func:`score_chunks`.

    Yields:
        A slice of item indices and ``(B, chunk)``.
    """
    for chunk, log_probabilities in score_chunks(head, latents, chunk_scores):
        scores = mean_over_draws(log_probabilities)
        if recalled is not None:
            scores = recalled.mix(scores, chunk, logarithms=True)
        yield chunk, scores


@explained
def top_k(
    head: ItemHead,
    latents: Tensor,
    k: int,
    *,
    recalled: MemoryPrediction | None = None,
    excluded: Tensor | None = None,
    candidates: Tensor | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> TopK:
    """The k items of highest mean probability.

    Args:
        head: scores items.
        latents: ``(B, S, D)``, S noise draws a user.
        k: how many, from 1 to V.
        recalled: by the memory; the network alone when None.
        excluded: item indices never to return, ``(B, E)``, padded with -1.
        candidates: the only items to return, ``(C,)``, or ``(B, C)`` padded with -1; probabilities stay those over all
            items.
        chunk_scores: see :func:`score_chunks`.

    Raises:
        ValueError: k outside 1..V, items that do not exist, or probabilities that are not numbers.
    """
    num_items = len(head.keys())
    if not 1 <= check_int("k", k) <= num_items:
        raise ValueError(f"k must lie in 1..{num_items}, the number of items, got {k}.")
    choice = Choice.of(num_items, len(latents), latents.device, excluded, candidates)
    found = []
    for users in _user_groups(latents, num_items, chunk_scores):
        known = None if recalled is None else recalled.take(users)
        request = (head, latents[users], k, known, choice.take(users), chunk_scores)
        part = _top_k(*request, logarithms=False)
        if bool(part.scores.isnan().any()):
            raise ValueError("The probabilities are not numbers: the model's weights hold NaN or infinities.")
        faint = (part.items >= 0) & (part.scores < _faint(part.scores))
        if bool(faint.any()):  # then only logarithms tell items apart
            part = _top_k(*request, logarithms=True)
            part.scores.exp_()
        found.append(part)
    parts = zip(*((part.items, part.scores, part.spread) for part in found), strict=True)
    items, scores, spread = (torch.cat(each) for each in parts)
    barred = items < 0
    return TopK(items, scores.masked_fill(barred, 0), spread.masked_fill(barred, 0))


def _faint(like: Tensor) -> float:
    """Below it, a draw that was lost to underflow would show in the mean over draws."""
    limits = torch.finfo(like.dtype)
    return limits.tiny / limits.eps


def _top_k(
    head: ItemHead,
    latents: Tensor,
    k: int,
    recalled: MemoryPrediction | None,
    choice: Choice,
    chunk_scores: int,
    *,
    logarithms: bool,
) -> TopK:
    """As :func:`top_k`, by mean probabilities or their ``logarithms``; -inf where nothing is allowed."""
    ours = 1.0 if recalled is None else 1 - recalled.share
    best = spread = latents.new_zeros((len(latents), 0), dtype=head.scoring_keys()[0].dtype)
    items = torch.zeros(best.shape, dtype=torch.int64, device=latents.device)
    for chunk, log_probabilities in score_chunks(head, latents, chunk_scores):
        scores = mean_over_draws(log_probabilities) if logarithms else log_probabilities.exp().mean(1)
        if recalled is not None:
            scores = recalled.mix(scores, chunk, logarithms=logarithms)
        choice.mask_(scores, chunk)
        chunk_best, chunk_index = scores.topk(min(k, scores.shape[1]), dim=1)
        kept = log_probabilities.gather(2, chunk_index[:, None].expand(-1, log_probabilities.shape[1], -1))
        best = torch.cat([best, chunk_best], dim=1)
        items = torch.cat([items, chunk_index + chunk.start], dim=1)
        spread = torch.cat([spread, kept.exp().std(1, correction=0) * ours], dim=1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        items, spread = items.gather(1, order), spread.gather(1, order)
    return TopK(items.masked_fill(best == -math.inf, -1), best, spread)


def most_popular(popularity: Tensor, k: int, *, excluded: Tensor, candidates: Tensor | None = None) -> TopK:
    """The k items that occur most, for B users of whom nothing is known.

    Args:
        popularity: How often each item occurs, ``(V,)``.
        k: Number of items.
        excluded: Item indices never to return, ``(B, E)``, padded with -1.
        candidates: The only items to return, as in :func:`top_k`.
    """
    choice = Choice.of(len(popularity), len(excluded), popularity.device, excluded, candidates)
    scores = (popularity.double() / popularity.sum()).float().repeat(len(excluded), 1)
    choice.mask_(scores, slice(0, len(popularity)))
    best, items = scores.topk(k, dim=1)
    barred = best == -math.inf
    return TopK(items.masked_fill(barred, -1), best.masked_fill(barred, 0), torch.zeros_like(best))


@explained
def target_ranks(
    head: ItemHead,
    latents: Tensor,
    targets: Tensor,
    *,
    excluded: Tensor,
    recalled: MemoryPrediction | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> tuple[Tensor, Tensor]:
    """The rank of each user's target among all items, 1 the best.

    Args:
        head: scores items.
        latents: ``(B, S, D)``.
        targets: ``(B,)``.
        excluded: items left out of the second ranking, ``(B, E)``, padded with -1.
        recalled: by the memory; the network alone when None.
        chunk_scores: see :func:`score_chunks`.

    Returns:
        Ranks among all items, and among those not excluded; see :func:`count_ranks`.
    """
    found = []
    for users in _user_groups(latents, len(head.keys()), chunk_scores):
        known = None if recalled is None else recalled.take(users)
        found.append(_target_ranks(head, latents[users], targets[users], known, excluded[users], chunk_scores))
    ranks, masked = (torch.cat(each) for each in zip(*found, strict=True))
    return ranks, masked


def _target_ranks(
    head: ItemHead,
    latents: Tensor,
    targets: Tensor,
    recalled: MemoryPrediction | None,
    excluded: Tensor,
    chunk_scores: int,
) -> tuple[Tensor, Tensor]:
    """As :func:`target_ranks`, of users that are ranked together."""
    if len(head.keys()) * len(latents) <= chunk_scores:
        chunks: Chunks = list(mean_chunks(head, latents, recalled, chunk_scores))
        return count_ranks(lambda: chunks, targets, excluded)
    return count_ranks(lambda: mean_chunks(head, latents, recalled, chunk_scores), targets, excluded)


def count_ranks(chunks: Callable[[], Chunks], targets: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks from scores that come in chunks. Ties, and scores that are not numbers, count against the target.

    Args:
        chunks: called twice; gives slices of item indices and scores ``(B, chunk)``.
        targets: ``(B,)``.
        excluded: items left out of the second ranking, ``(B, E)``, padded with -1.

    Returns:
        Ranks among all items, and among those not excluded, ``(B,)`` int64 each; :data:`UNRANKED` for a target that is
        itself excluded.
    """
    target_score = torch.full(targets.shape, math.nan, dtype=torch.float64, device=targets.device)
    for chunk, scores in chunks():
        inside = (targets >= chunk.start) & (targets < chunk.stop)
        column = (targets - chunk.start).clamp(0, scores.shape[1] - 1)
        target_score = torch.where(inside, scores.gather(1, column[:, None])[:, 0].double(), target_score)
    ranks, masked = torch.zeros_like(targets), torch.zeros_like(targets)
    for chunk, scores in chunks():
        not_below = ~(scores < target_score[:, None].to(scores.dtype))
        ranks += not_below.sum(1)
        masked += (not_below & ~among(scores, excluded, chunk)).sum(1)
    barred = (excluded == targets[:, None]).any(1)
    return ranks, torch.where(barred, UNRANKED, masked)
