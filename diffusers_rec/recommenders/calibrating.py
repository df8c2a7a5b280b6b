"""Fitting a calibration: the four numbers under which the validation targets are likeliest.

The temperature (Guo et al. 2017) and the factor of the seen items are chosen from grids. At each pair of them, the
shares come from expectation maximisation (Jelinek & Mercer 1980). It finds the optimum because the likelihood is
concave in the shares.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.data.batching import pad
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.base import Seeds
from diffusers_rec.recommenders.calibration import Calibration, Evidence
from diffusers_rec.recommenders.head_scores import probabilities_of
from diffusers_rec.recommenders.memory import Memory

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
    """Probabilities of U users' targets under each part, and of the items of their histories together.

    Attributes:
        network: Of the target, float64 ``(temperatures, U)``.
        network_seen: Of the history, ``(temperatures, U)``.
        memory: Of the target, ``(U,)``.
        memory_seen: Of the history, ``(U,)``.
        known: Whether the memory predicts anything, ``(U,)``.
        popularity: Of the target, ``(U,)``.
        popularity_seen: Of the history, ``(U,)``.
        repeated: Whether the target is in the history, ``(U,)``.
    """

    network: Tensor
    network_seen: Tensor
    memory: Tensor
    memory_seen: Tensor
    known: Tensor
    popularity: Tensor
    popularity_seen: Tensor
    repeated: Tensor


def fitted(model: Calibratable, holdout: Holdout, users: int | None, seed: int) -> Calibration:
    """The calibration under which the targets are likeliest; see :meth:`DiffRec.calibrate <diffusers_rec.DiffRec>`."""
    holdout = holdout.reindexed(model.vocabulary)
    if not len(holdout):
        raise ValueError("calibrate: expected one validation target at least, got none.")
    number = _number_of_users(model) if users is None else check_int("users", users, minimum=1)
    holdout = holdout.sample(number, check_int("seed", seed, minimum=0))
    starts = range(0, len(holdout), _USERS_AT_ONCE)
    parts = [_likelihoods(model, holdout, slice(start, start + _USERS_AT_ONCE)) for start in starts]
    return most_likely(Likelihoods(*(torch.cat(part, dim=-1) for part in zip(*parts, strict=True))))


def _number_of_users(model: Calibratable) -> int:
    draws = model.seeds if isinstance(model.seeds, int) else len(model.seeds)
    most, fewest = USERS
    return min(most, max(fewest, SCORES // (draws * len(model.vocabulary))))


def _likelihoods(model: Calibratable, holdout: Holdout, rows: slice) -> Likelihoods:
    """Those of some users."""
    index = torch.arange(len(holdout))[rows].numpy()
    history = pad(holdout.histories.take(index), model.history_length).to(model.device)
    target = torch.from_numpy(holdout.targets[index]).to(model.device)[:, None]
    evidence = Evidence.of(Calibration(), history, model.memory.predict(history), model.popularity)
    asked = torch.cat([target, evidence.seen.clamp(min=0)], dim=1)
    network = probabilities_of(model.head, model.next_item_latents(history), asked, TEMPERATURES)
    memory_seen, popularity_seen = evidence.mass_of_seen()
    found = Likelihoods(
        network[..., 0],
        (network[..., 1:] * (evidence.seen >= 0)).sum(-1),
        evidence.remembered(slice(0, len(model.vocabulary)), target)[:, 0],
        memory_seen[:, 0],
        evidence.known[:, 0],
        evidence.popular(target)[:, 0],
        popularity_seen[:, 0],
        (evidence.seen == target).any(1),
    )
    return Likelihoods(*(part.cpu() for part in found))


def most_likely(likelihoods: Likelihoods) -> Calibration:
    """The calibration that maximises the likelihood of the targets."""
    found = []
    for (row, temperature), factor in product(enumerate(TEMPERATURES), FACTORS):
        parts = _parts(likelihoods, row, factor)
        shares, log_likelihood = mixture_weights(parts, bool(likelihoods.known.any()))
        found.append((log_likelihood, temperature, factor, shares))
    _, temperature, factor, (own, remembered, popular) = max(found)
    memory = remembered / (own + remembered) if own + remembered else 0.0
    popularity = min(max(popular, SMALLEST_POPULARITY), LARGEST_SHARE)
    return Calibration(temperature, min(memory, LARGEST_SHARE), popularity, factor)


def _parts(likelihoods: Likelihoods, row: int, factor: float) -> Tensor:
    """Probabilities of the targets under network, memory and popularity, with the factor of seen items, ``(3, U)``.

    Where the memory predicts nothing, its share falls to the network.
    """
    network, network_seen, memory, memory_seen, known, popularity, popularity_seen, repeated = likelihoods
    own = 1 - (1 - factor) * repeated.double()
    alone = network[row] / (1 - (1 - factor) * network_seen[row])
    remembered = torch.where(known, memory / (1 - (1 - factor) * memory_seen), alone)
    return own * torch.stack([alone, remembered, popularity / (1 - (1 - factor) * popularity_seen)])


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
