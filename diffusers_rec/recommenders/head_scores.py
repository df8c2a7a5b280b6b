r"""Scores of latents by a head, in chunks of items, never holding more scores than a chunk.

An item's score is its probability averaged over S noise draws (Algorithm 3, line 9), kept as a logarithm:

.. math:: \log \bar p_v = \log \frac1S \sum_s \exp(\ell_{s,v} - z_s), \qquad z_s = \log \sum_v \exp \ell_{s,v}.

The normalisers :math:`z_s` need every item, so a catalogue of several chunks is gone through twice. What a memory
predicts (:mod:`diffusers_rec.recommenders.memory`) is mixed in after the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.calibration import CalibratedScores, CalibratedUsers, Evidence
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.ranking import Scores

CHUNK_SCORES = 2**22
"""How many scores (users x draws x items) are held at once, about 16 MiB in float32."""

Chunks = tuple[list[slice], Callable[[slice], Tensor]]
"""Chunks of the items, and a function that gives the logits of one, ``(B, S, chunk)``."""


@torch.no_grad()
def head_scores(
    head: ItemHead,
    latents: Tensor,
    memory: MemoryPrediction | None = None,
    *,
    evidence: Evidence | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Iterator[Scores]:
    """The logarithm of each item's probability, averaged over the draws and mixed with what a memory predicts.

    Args:
        head: Head that scores items.
        latents: S noise draws a user, ``(B, S, D)``.
        memory: Prediction of a memory; the network alone when None.
        evidence: Calibration of the probabilities that are reported; None reports those that the ranking is by.
        chunk_scores: Largest number of scores to hold at once; one item a chunk at the least.
    """
    users, draws, _ = latents.shape
    for group in user_slices(users, draws, len(head.keys()), chunk_scores):
        own = None if memory is None else memory.take(group)
        known = None if evidence is None else evidence.take(group)
        chunks, logits = head_logits(head, latents[group], chunk_scores)
        normaliser = None if len(chunks) == 1 else log_normaliser(chunks, logits)
        shared = None if known is None else _calibrated(known, head, latents[group], chunk_scores)
        for items in chunks:
            scored, calibrated = logits(items), None
            if shared is not None:
                kept = scored.clone() if len(chunks) > 1 else scored  # the scores of several chunks are written to
                calibrated = CalibratedScores(shared, items, kept)
            yield _scores(group, items, scored, normaliser, own, calibrated)


def _calibrated(evidence: Evidence, head: ItemHead, latents: Tensor, chunk_scores: int) -> CalibratedUsers:
    """What calibrated probabilities of some users need beside the logits of a chunk."""
    return CalibratedUsers(
        evidence,
        lambda: log_normaliser(*head_logits(head, latents, chunk_scores), evidence.calibration.temperature),
        lambda: logits_of(head, latents, evidence.seen.clamp(min=0)),
    )


def _scores(
    users: slice,
    items: slice,
    logits: Tensor,
    normaliser: Tensor | None,
    memory: MemoryPrediction | None,
    calibrated: CalibratedScores | None,
) -> Scores:
    """Scores of a chunk, from its logits under each draw, ``(b, S, c)``."""
    one_draw = logits.shape[1] == 1
    if one_draw and memory is None:
        return Scores(users, items, _log_probabilities(logits, normaliser)[:, 0], calibrated=calibrated)
    probabilities = logits.softmax(-1) if normaliser is None else (logits - normaliser).exp_()
    mean = probabilities[:, 0] if one_draw else probabilities.mean(1)
    if underflows(mean):
        mean = mean_over_draws(_log_probabilities(logits, normaliser))
        mean = mean if memory is None else memory.mix(mean, items, logarithms=True)
    else:
        mean = (mean if memory is None else memory.mix(mean, items)).log_()

    def std(columns: Tensor) -> Tensor:
        chosen = probabilities.gather(2, columns[:, None].expand(-1, probabilities.shape[1], -1))
        deviation = chosen.std(1, correction=0)
        return deviation if memory is None else deviation * (1 - memory.share)

    return Scores(users, items, mean, None if one_draw else std, calibrated)


def mean_over_draws(log_probabilities: Tensor) -> Tensor:
    """``(B, S, V)`` to the logarithm of the mean probability, ``(B, V)``; none is too small for its exponential."""
    if log_probabilities.shape[1] == 1:
        return log_probabilities[:, 0]
    top = log_probabilities.amax(1)
    return (log_probabilities - top[:, None]).exp_().mean(1).log_().add_(top)


def underflows(mean: Tensor) -> bool:
    """Whether a draw that was lost to underflow can show in a mean probability."""
    limits = torch.finfo(mean.dtype)
    return bool(mean.numel()) and not bool(mean.min() > limits.tiny / limits.eps)


def score_chunks(head: ItemHead, latents: Tensor, chunk_scores: int = CHUNK_SCORES) -> Iterator[tuple[slice, Tensor]]:
    """Log-probability of each item under each draw, a chunk of items after another.

    Args:
        head: Head that scores items.
        latents: ``(B, S, D)``.
        chunk_scores: Largest number of scores to hold at once; one item a chunk at the least.

    Yields:
        A slice of item indices and the log-probabilities ``(B, S, chunk)``.
    """
    chunks, logits = head_logits(head, latents, chunk_scores)
    normaliser = None if len(chunks) == 1 else log_normaliser(chunks, logits)
    for items in chunks:
        yield items, _log_probabilities(logits(items), normaliser)


@torch.no_grad()
def probabilities_of(
    head: ItemHead, latents: Tensor, items: Tensor, temperatures: Sequence[float], chunk_scores: int = CHUNK_SCORES
) -> Tensor:
    """Probabilities of some items a user, averaged over the draws, at each of several temperatures.

    Args:
        head: Head that scores items.
        latents: S noise draws a user, ``(B, S, D)``.
        items: Item indices, ``(B, E)``.
        temperatures: T numbers by which the logits are divided.
        chunk_scores: Largest number of scores to hold at once; one item a chunk at the least.

    Returns:
        float64, ``(T, B, E)``.
    """
    users, draws, _ = latents.shape
    found = []
    for group in user_slices(users, draws, len(head.keys()), chunk_scores):
        chunks, logits = head_logits(head, latents[group], chunk_scores)
        sums = []
        for chunk in chunks:
            scores = logits(chunk)
            sums.append(torch.stack([(scores / temperature).logsumexp(-1) for temperature in temperatures]))
        chosen = logits_of(head, latents[group], items[group])
        divided = torch.stack([chosen / temperature for temperature in temperatures])
        found.append((divided - torch.stack(sums).logsumexp(0)[..., None]).double().exp().mean(2))
    return torch.cat(found, dim=1)


def logits_of(head: ItemHead, latents: Tensor, items: Tensor) -> Tensor:
    """Logits of some items a user under each draw: ``(B, S, D)`` and ``(B, E)`` to ``(B, S, E)``."""
    with torch.autocast(latents.device.type, enabled=False):
        keys, bias = head.scoring_keys()
        scores = head.queries(latents.to(keys.dtype)) @ keys[items].mT
    return scores if bias is None else scores + bias[items][:, None]


def _log_probabilities(logits: Tensor, normaliser: Tensor | None) -> Tensor:
    return logits.log_softmax(-1) if normaliser is None else logits.sub_(normaliser)


def head_logits(head: ItemHead, latents: Tensor, chunk_scores: int) -> Chunks:
    """Chunks of the items, and a function that gives the logits of one, ``(B, S, chunk)``."""
    users, draws, _ = latents.shape
    with torch.autocast(latents.device.type, enabled=False):
        keys, bias = head.scoring_keys()
        queries = head.queries(latents.to(keys.dtype))

    def logits(items: slice) -> Tensor:
        with torch.autocast(latents.device.type, enabled=False):
            scores = queries @ keys[items].T
            return scores if bias is None else scores.add_(bias[items])

    return item_chunks(len(keys), users * draws, chunk_scores), logits


def item_chunks(num_items: int, rows: int, chunk_scores: int) -> list[slice]:
    """Ranges of the items of which so many rows hold no more than ``chunk_scores`` scores; one item at the least."""
    size = max(1, check_int("chunk_scores", chunk_scores, minimum=1) // max(1, rows))
    return [slice(start, min(start + size, num_items)) for start in range(0, num_items, size)]


def log_normaliser(chunks: Sequence[slice], logits: Callable[[slice], Tensor], temperature: float = 1.0) -> Tensor:
    """Logarithm of the sum over all items of exp(logits / temperature), ``(B, S, 1)``."""
    total: Tensor | None = None
    for items in chunks:
        scores = logits(items)
        top = scores.amax(-1, keepdim=True)
        mass = (scores - top).div_(temperature).exp_().sum(-1, keepdim=True).log_().add_(top / temperature)
        total = mass if total is None else torch.logaddexp(total, mass)
    if total is None:
        raise ValueError("The head has no items to score.")
    return total


def user_slices(users: int, draws: int, num_items: int, chunk_scores: int) -> Iterator[slice]:
    """Groups of users that are scored together.

    A user has draws x num_items scores. If they fit in ``chunk_scores``, a group is as large as fits, because scores of
    one chunk are computed once, those of several chunks twice. Otherwise, a group is as large as the means over the
    draws fit, num_items numbers for each user. If not even one user's fit, all users are one group.
    """
    size = chunk_scores // max(1, draws * num_items) or chunk_scores // num_items or max(1, users)
    return (slice(start, min(start + size, users)) for start in range(0, max(1, users), size))
