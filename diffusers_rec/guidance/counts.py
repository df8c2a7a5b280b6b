r"""Independent positions, given how many of them have an attribute.

Let the K positions of a set be independent, position j with the attribute with probability :math:`a_j`. Given that m of
them have it, the distribution of position k is

.. math:: p(v_k = v \mid m) \propto p(v_k = v)\; P\Big(\sum_{j \ne k} b_j = m - b(v)\Big),
          \qquad b_j \sim \text{Bernoulli}(a_j),

where b(v) is 1 for items with the attribute and 0 for others. This is Doob's h-transform of a chain that draws one
position after another. The sum of the other positions follows from the Poisson-binomial recursion.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def given_count(log_probabilities: Tensor, has: Tensor, items: Tensor, wanted: int) -> Tensor:
    """Distributions of the open positions, given that ``wanted`` of all K have the attribute.

    Where so many cannot be reached, because several positions were drawn at once, the nearest number that can be
    reached takes its place.

    Args:
        log_probabilities: Log-probabilities of the items, ``(R, K, V)``.
        has: Which items have the attribute, bool ``(V,)``.
        items: Items that are decided, -1 elsewhere, ``(R, K)``.
        wanted: Wanted number m, in 0..K.

    Returns:
        Log-probabilities, ``(R, K, V)``; those of decided positions are unchanged.
    """
    decided, item_has = items >= 0, has[items.clamp(min=0)]
    with_it, without = (
        torch.where(decided, torch.where(item_has == value, 0.0, -torch.inf), mass)
        for value, mass in zip((True, False), _masses(log_probabilities, has), strict=True)
    )
    others = _counts_of_others(with_it, without)
    whole = torch.logaddexp(others[:, 0] + without[:, :1], _one_more(others[:, 0]) + with_it[:, :1])
    distance = (torch.arange(whole.shape[1], device=whole.device) - wanted).abs()
    count = distance.expand_as(whole).masked_fill(whole.isneginf(), whole.shape[1]).argmin(1)[:, None]
    place = count[..., None].expand(*items.shape, 1)
    tilts = [
        (rest.gather(2, place)[..., 0] - whole.gather(1, count)).masked_fill(decided, 0.0).to(log_probabilities)
        for rest in (_one_more(others), others)
    ]
    return torch.where(has, tilts[0][..., None], tilts[1][..., None]).add_(log_probabilities)


def _masses(log_probabilities: Tensor, has: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the probability of the items with and without the attribute, float64 ``(R, K)``."""
    sides = torch.stack([has, ~has], dim=1).to(log_probabilities)
    masses = (log_probabilities.exp() @ sides).double().log()
    if bool(masses.isneginf().any()):  # no item, or smaller than a floating-point number
        masses = torch.stack(
            [log_probabilities.masked_fill(~side, -torch.inf).logsumexp(-1) for side in (has, ~has)], dim=-1
        ).double()
    return masses[..., 0], masses[..., 1]


def _counts_of_others(with_it: Tensor, without: Tensor) -> Tensor:
    """Log-probabilities of the number 0..K with the attribute, each position left out in turn, ``(R, K, K + 1)``."""
    rows, width = with_it.shape
    counts = with_it.new_full((rows, width, width + 1), -torch.inf)
    counts[..., 0] = 0.0
    for place in range(width):
        chance, none = with_it[:, place, None, None], without[:, place, None, None]
        grown = torch.logaddexp(counts + none, _one_more(counts) + chance)
        left_out = torch.arange(width, device=with_it.device) == place
        counts = torch.where(left_out[:, None], counts, grown)
    return counts


def _one_more(counts: Tensor) -> Tensor:
    """Log-probabilities of the number after one more position with the attribute."""
    return F.pad(counts[..., :-1], (1, 0), value=-torch.inf)
