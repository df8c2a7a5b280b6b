"""Fitting a calibration to validation targets, each number by the score that it matters for.

The shares and the factor of the seen items make the targets likeliest: at each factor of a grid, the shares come from
expectation maximisation (Jelinek & Mercer 1980), which finds the optimum because the likelihood is concave in them. The
temperature (Guo et al. 2017) has the best log score of "is this the target" over the items of the recommended lists,
which people look at. By likelihood it would flatten the lists, because most targets are in none.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.data.batching import pad
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.calibration import Calibration, Evidence
from diffusers_rec.recommenders.head_scores import head_scores, probabilities_of
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.recommenders.ranking import top_k
from diffusers_rec.recommenders.scoring import Seeds

TEMPERATURES = [2 ** (quarter / 4) for quarter in range(-4, 9)]
"""Temperatures tried, from 1/2 to 4."""

FACTORS = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0]
"""Factors of the seen items tried. None is 0: an item of the history stays possible."""

SMALLEST_POPULARITY, LARGEST_SHARE = 1e-3, 0.999
"""Bounds of the shares: every item stays possible, and the network always has a part."""

USERS = 4096, 512
"""Validation users looked at, and the fewest where the catalogue is large."""

SCORES = 2**29
"""Scores (users x draws x items) above which fewer users are looked at."""

LISTED = 10
"""Items of a list."""

_ROUNDS, _USERS_AT_ONCE = 60, 256


class Calibratable(Protocol):
    """What fitting needs of a model."""

    vocabulary: Vocabulary
    popularity: Tensor
    head: ItemHead
    memory: Memory
    seeds: Seeds

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        ...

    @property
    def history_length(self) -> int:
        """Number of items of a history that the model reads."""
        ...

    def next_item_latents(self, history: History) -> Tensor:
        """Latents of the next item, ``(B, S, D)``."""
        ...


class Likelihoods(NamedTuple):
    """Probabilities of U users' targets and of K listed items under each part, and of their histories together.

    Attributes:
        network: Of the target, float64 ``(temperatures, U)``.
        network_seen: Of the history, ``(temperatures, U)``.
        memory: Of the target, ``(U,)``.
        memory_seen: Of the history, ``(U,)``.
        known: Whether the memory predicts anything, ``(U,)``.
        popularity: Of the target, ``(U,)``.
        popularity_seen: Of the history, ``(U,)``.
        repeated: Whether the target is in the history, ``(U,)``.
        network_listed: Of the listed items, none of them in the history, ``(temperatures, K, U)``.
        memory_listed: Of the listed items, ``(K, U)``.
        popularity_listed: Of the listed items, ``(K, U)``.
        taken: Whether a listed item is the target, ``(K, U)``; NaN where the list is shorter.
    """

    network: Tensor
    network_seen: Tensor
    memory: Tensor
    memory_seen: Tensor
    known: Tensor
    popularity: Tensor
    popularity_seen: Tensor
    repeated: Tensor
    network_listed: Tensor
    memory_listed: Tensor
    popularity_listed: Tensor
    taken: Tensor


def fitted(model: Calibratable, holdout: Holdout, users: int | None, seed: int) -> Calibration:
    """The calibration of a model on held-out items; see :meth:`DiffRec.calibrate <diffusers_rec.DiffRec.calibrate>`."""
    holdout = holdout.reindexed(model.vocabulary)
    if not len(holdout):
        raise ValueError("calibrate: expected one validation target at least, got none.")
    number = _number_of_users(model) if users is None else check_int("users", users, minimum=1)
    holdout = holdout.sample(number, check_int("seed", seed, minimum=0))
    rows = range(len(holdout))
    groups = [rows[start : start + _USERS_AT_ONCE] for start in rows[::_USERS_AT_ONCE]]
    parts = [_likelihoods(model, holdout.take(group)) for group in groups]
    return best_calibration(Likelihoods(*(torch.cat(part, dim=-1) for part in zip(*parts, strict=True))))


def _number_of_users(model: Calibratable) -> int:
    draws = model.seeds if isinstance(model.seeds, int) else len(model.seeds)
    most, fewest = USERS
    return min(most, max(fewest, SCORES // (draws * len(model.vocabulary))))


def _likelihoods(model: Calibratable, holdout: Holdout) -> Likelihoods:
    """Those of a few users."""
    history = pad(holdout.histories, model.history_length).to(model.device)
    target = torch.from_numpy(holdout.targets).to(model.device)[:, None]
    memory, latents = model.memory.predict(history), model.next_item_latents(history)
    evidence = Evidence.of(Calibration(), history, memory, model.popularity)
    seen, k = pad(holdout.histories, fill=-1).items.to(model.device), min(LISTED, len(model.vocabulary))
    listed = top_k(head_scores(model.head, latents, memory), k, excluded=seen).items
    shown = listed.clamp(min=0)
    asked = torch.cat([target, shown, evidence.seen.clamp(min=0)], dim=1)
    network = probabilities_of(model.head, latents, asked, TEMPERATURES)
    memory_seen, popularity_seen = evidence.mass_of_seen()
    found = Likelihoods(
        network[..., 0],
        (network[..., 1 + shown.shape[1] :] * (evidence.seen >= 0)).sum(-1),
        evidence.remembered(target)[:, 0],
        memory_seen[:, 0],
        evidence.known[:, 0],
        evidence.popular(target)[:, 0],
        popularity_seen[:, 0],
        (evidence.seen == target).any(1),
        network[..., 1 : 1 + shown.shape[1]].mT,
        evidence.remembered(shown).T,
        evidence.popular(shown).T,
        torch.where(listed < 0, math.nan, (listed == target).double()).T,
    )
    return Likelihoods(*(part.cpu() for part in found))


def best_calibration(likelihoods: Likelihoods) -> Calibration:
    """The calibration with the best score of the lists, of those that are likeliest at each temperature."""
    found = []
    for row, temperature in enumerate(TEMPERATURES):
        _, factor, shares = max(_shares(likelihoods, row, factor) for factor in FACTORS)
        listed = (likelihoods.network_listed[row], likelihoods.memory_listed, likelihoods.popularity_listed)
        found.append(
            (
                list_score(shares, _parts(likelihoods, row, factor, *listed), likelihoods.taken),
                temperature,
                factor,
                shares,
            )
        )
    _, temperature, factor, (own, remembered, popular) = max(found)
    memory = remembered / (own + remembered) if own + remembered else 0.0
    popularity = min(max(popular, SMALLEST_POPULARITY), LARGEST_SHARE)
    return Calibration(temperature, min(memory, LARGEST_SHARE), popularity, factor)


def _shares(likelihoods: Likelihoods, row: int, factor: float) -> tuple[float, float, list[float]]:
    """Log-likelihood of the targets under the likeliest shares, the factor, and the shares."""
    targets = _parts(likelihoods, row, factor, likelihoods.network[row], likelihoods.memory, likelihoods.popularity)
    own = 1 - (1 - factor) * likelihoods.repeated.double()
    shares, log_likelihood = mixture_weights(own * targets, bool(likelihoods.known.any()))
    return log_likelihood, factor, shares


def _parts(found: Likelihoods, row: int, factor: float, network: Tensor, memory: Tensor, popularity: Tensor) -> Tensor:
    """Probabilities under the three, ``(..., U)`` each, divided by what is left after the factor of seen items.

    Where the memory predicts nothing, its share falls to the network. The result is ``(3, ..., U)``.
    """
    alone = network / (1 - (1 - factor) * found.network_seen[row])
    remembered = torch.where(found.known, memory / (1 - (1 - factor) * found.memory_seen), alone)
    return torch.stack([alone, remembered, popularity / (1 - (1 - factor) * found.popularity_seen)])


def list_score(shares: list[float], parts: Tensor, taken: Tensor) -> float:
    """Mean over users of the log score of their lists, the sum over the items of log p or log(1 - p).

    Args:
        shares: Of network, memory and popularity.
        parts: Probabilities of K listed items, ``(3, K, U)``.
        taken: Whether an item is the target, ``(K, U)``; NaN where there is no item.
    """
    p = torch.einsum("p,pku->ku", torch.tensor(shares, dtype=parts.dtype), parts).clamp(1e-12, 1 - 1e-12)
    return float(torch.where(taken == 1, p.log(), (-p).log1p()).where(~taken.isnan(), 0.0).sum(0).mean())


def mixture_weights(parts: Tensor, with_memory: bool = True) -> tuple[list[float], float]:
    """The shares that maximise the mean logarithm of a mixture, by expectation maximisation, and that mean.

    Args:
        parts: Probabilities of U targets under network, memory and popularity, float64 ``(3, U)``; the last above 0.
        with_memory: Whether the memory may have a share.
    """
    weights = torch.tensor([0.5, 0.25 if with_memory else 0.0, 0.25], dtype=torch.float64)
    weights = weights / weights.sum()
    for _ in range(_ROUNDS):
        joint = weights[:, None] * parts
        weights = (joint / joint.sum(0)).mean(1)
    return weights.tolist(), float((weights @ parts).log().mean())
