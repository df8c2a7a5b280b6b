r"""Items drawn from distributions that many draws share, by the inverse of the cumulative distribution.

The distributions are never copied for each draw. Items that a draw may not take are stepped over: with masses
:math:`m_1, m_2, \dots` of the excluded items in the order of their indices, a number u in [0, 1) becomes
:math:`t = u\,(1 - \sum_i m_i)`, to which :math:`m_i` is added wherever t has reached the mass below item i. The item
whose part of the cumulative distribution holds t then has its probability among the items that are left.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.items.choice import barred, inverse_cdf

SMALL = 1e-3
"""Mass that is left of a distribution below which its differences are not exact enough in float32."""


class ItemDraws:
    """Draws from distributions ``(r, P, V)``, each shared by ``copies`` neighbouring rows, R = r copies rows in all.

    Args:
        scores: Log-probabilities up to a constant.
        whole: Those before ``top_p``, for a row whose likeliest items are all excluded.
        copies: Number of rows for each distribution.
        greedy: Whether to take the likeliest item.
        most: Number of draws of a row, of which the later ones may exclude the earlier.
    """

    def __init__(self, scores: Tensor, whole: Tensor, copies: int, *, greedy: bool, most: int) -> None:
        self.scores, self.whole, self.copies, self.greedy, self.most = scores, whole, copies, greedy, most
        self.row = torch.arange(len(scores) * copies, device=scores.device)[:, None] // copies
        # Of the cumulative distribution, the likeliest item needs the sum alone.
        self.cumulative = scores.logsumexp(-1, keepdim=True).exp() if greedy else scores.exp().cumsum_(-1)
        self._likeliest: Tensor | None = None

    def draw(self, place: Tensor, number: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """Items of the distributions ``place`` ``(R, 1)``, and their log-probabilities, float64.

        Args:
            place: Index of the distribution, ``(R, 1)``.
            number: Numbers in [0, 1), ``(R, 1)``.
            excluded: Items that may not be drawn, different ones, or -1, ``(R, E)``.
        """
        excluded = excluded.sort(1).values
        mass = self.scores[self.row, place, excluded.clamp(min=0)].exp() * (excluded >= 0)
        left = self.cumulative[self.row, place, -1] - mass.sum(1, keepdim=True)
        if self.greedy:
            item = self._first_of_the_likeliest(place, excluded)
            return item, self._log_probability(place, item, left)
        target = number.to(left) * left
        for index in range(excluded.shape[1]):  # step over what may not be drawn, from the lowest index upwards
            item, own = excluded[:, index : index + 1], mass[:, index : index + 1]
            before = self.cumulative[self.row, place, item.clamp(min=0)] - own
            target = target + torch.where((item >= 0) & (target >= before), own, 0.0)
        numbers = target.view(len(self.scores), 1, -1).expand(-1, self.scores.shape[1], -1).contiguous()
        found = torch.searchsorted(self.cumulative, numbers, right=True).transpose(1, 2).flatten(0, 1)
        item = found.gather(1, place).clamp(max=self.scores.shape[-1] - 1)
        log_probability = self._log_probability(place, item, left)
        missed = (item == excluded).any(1, keepdim=True) | self.scores[self.row, place, item].isneginf()
        inexact = (missed | (left < SMALL))[:, 0]
        if bool(inexact.any()):
            item[inexact], log_probability[inexact] = self._exact(
                self.row[inexact, 0], place[inexact, 0], number[inexact], excluded[inexact]
            )
        return item, log_probability

    def is_barred(self, place: Tensor, item: Tensor) -> Tensor:
        """Whether the items have no probability, ``(R, 1)``: nothing was left to draw."""
        return self.whole[self.row, place, item].isneginf()

    def _exact(self, row: Tensor, place: Tensor, number: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
        """Items of some rows whose distributions are copied, without what is excluded, in float64.

        If nothing is left of the likeliest, it is the likeliest of all that is left.
        """
        scores, whole = (barred(each[row, place].double(), excluded) for each in (self.scores, self.whole))
        none = scores.isneginf().all(1, keepdim=True)
        scores = torch.where(none, 0.0, scores).log_softmax(-1)
        item = torch.where(none, whole.argmax(1, keepdim=True), inverse_cdf(scores, number.double()))
        return item, scores.gather(1, item).masked_fill(none, 0.0)

    def _first_of_the_likeliest(self, place: Tensor, excluded: Tensor) -> Tensor:
        """The likeliest item that is not excluded, ``(R, 1)``."""
        if self._likeliest is None:
            self._likeliest = self.whole.topk(min(self.most, self.whole.shape[-1])).indices
        items = self._likeliest[self.row[:, 0], place[:, 0]]
        allowed = ~(items[..., None] == excluded[:, None]).any(-1)
        return items.gather(1, allowed.long().argmax(1, keepdim=True))

    def _log_probability(self, place: Tensor, item: Tensor, left: Tensor) -> Tensor:
        score = self.scores[self.row, place, item].double() - left.double().log()
        return score.where(score.isfinite(), 0.0)
