r"""Several trainings as one recommender, whose probabilities are averaged.

.. math:: \bar p_\theta(v \mid \text{history}) = \frac1M \sum_m p_{\theta_m}(v \mid \text{history})

Trainings that differ in their seed alone agree on what the data says and disagree on the rest (deep ensembles,
Lakshminarayanan et al. 2017). The mean usually ranks better than its members. The standard deviation of a score, close
to zero over the noise draws of one trained model, also measures here how far the members disagree:

.. math:: \sigma^2 = \frac1M \sum_m \big( \sigma_m^2 + p_m^2 \big) - \bar p^2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Sequence
from os import PathLike
from typing import Self, cast

import torch
from torch import Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.data.history import History
from diffusers_rec.guidance import Guidance
from diffusers_rec.recommenders.base import Recommender, options_of
from diffusers_rec.recommenders.loading import load_pretrained
from diffusers_rec.recommenders.ranking import Scores, joined, user_groups
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds


@guarded
class Ensemble(Recommender):
    """Recommends, and is evaluated, as one :class:`~diffusers_rec.DiffRec` is.

    The members may be of any kind and width.

    Args:
        members: Recommenders of the same items, with histories of one length, on one device.

    Raises:
        ValueError: no member, or members that differ in items or in the length of their histories.
        TypeError: a member that is no :class:`~diffusers_rec.Recommender`, or one alone that is in no list.
    """

    def __init__(self, members: Iterable[Recommender]) -> None:
        super().__init__()
        if isinstance(members, Recommender):
            raise TypeError("Ensemble: expected a list of models, got one alone. Write Ensemble([model]).")
        listed = list(members)
        if not listed:
            raise ValueError("Ensemble: expected one member at least, got none.")
        for number, member in enumerate(listed):
            if not isinstance(member, Recommender):
                raise TypeError(f"Ensemble: member {number} must be a Recommender, got {type(member).__name__}.")
            if member.vocabulary != listed[0].vocabulary:
                raise ValueError(
                    f"Ensemble: members 0 and {number} have different items ({len(listed[0].vocabulary)} and "
                    f"{len(member.vocabulary)}), or the same in another order. Train them on the same data."
                )
            if member.history_length != listed[0].history_length:
                raise ValueError(
                    f"Ensemble: member 0 reads {listed[0].history_length} items of a history, member {number} "
                    f"{member.history_length}. Train them with the same max_length and noising."
                )
        if len(set(map(id, listed))) < len(listed):
            raise ValueError("Ensemble: a member came twice, and would count twice. Give each once.")
        self.vocabulary = listed[0].vocabulary
        self.members = nn.ModuleList(listed)

    @classmethod
    def from_pretrained(cls, directories: Iterable[str | PathLike[str]]) -> Ensemble:
        """Of checkpoints, one a member.

        Raises:
            FileNotFoundError: there is no checkpoint in one of them.
            ValueError: one is damaged, foreign, of a newer format, or they do not fit one another.
            TypeError: one folder alone that is in no list.
        """
        if isinstance(directories, str | PathLike):
            raise TypeError(
                f"Ensemble: expected a list of folders, got {directories!r} alone. Write [{directories!r}]."
            )
        return cls([load_pretrained(directory) for directory in directories]).eval()

    @property
    def device(self) -> torch.device:
        return self._listed[0].device

    @property
    def history_length(self) -> int:
        return self._listed[0].history_length

    @property
    def popularity(self) -> Tensor:  # type: ignore[override]  # the members' own, counted on the same items
        """How often each item occurs in what the members were trained on, together."""
        zeros = torch.zeros(len(self.vocabulary), dtype=torch.int64, device=self.device)
        return torch.stack([getattr(member, "popularity", zeros) for member in self._listed]).sum(0)

    @property
    def _listed(self) -> list[Recommender]:
        return [cast(Recommender, member) for member in self.members]

    def score(
        self,
        history: History,
        *,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
    ) -> Iterator[Scores]:
        """The mean of the members' probabilities, see :meth:`Recommender.score`.

        Args:
            history: B histories.
            seeds: Noise draws of each member; each one's own when None.
            sampler: Sampler of every member; each one's own when None.
            guidance: Guidance of every member; each one's own when None.
        """
        options = options_of(seeds, sampler, guidance)
        members = [member.score(history, **options) for member in self._listed]
        return (_mean(block) for block in _blocks(members))

    def without_memory(self) -> Self:
        """The ensemble of the members' networks alone, sharing their weights; itself where none has a memory."""
        alone = [member.without_memory() for member in self._listed]
        if all(one is other for one, other in zip(alone, self._listed, strict=True)):
            return self
        networks = copy.copy(self)
        networks._modules = {**self._modules, "members": nn.ModuleList(alone)}
        return networks


def _blocks(members: Sequence[Iterable[Scores]]) -> Iterator[list[Scores]]:
    """The members' scores of the same users, block by block: as few users as all members have groups for."""
    groups = [user_groups(scores) for scores in members]
    waiting: list[list[Scores]] = [[] for _ in members]
    while True:
        ends = [chunks[-1].users.stop if chunks else -1 for chunks in waiting]
        if min(ends) == max(ends) >= 0:
            yield [joined(chunks) for chunks in waiting]
            waiting = [[] for _ in members]
            ends = [-1] * len(members)
        behind = ends.index(min(ends))
        more = next(groups[behind], None)
        if more is None:
            if any(waiting):
                raise ValueError("Ensemble: the members gave scores of different users for the same histories.")
            return
        waiting[behind] += more


def _mean(members: list[Scores]) -> Scores:
    """Of the members' scores of some users, all items at once."""
    log_probabilities = torch.stack([member.log_probabilities for member in members])

    def std(columns: Tensor) -> Tensor:
        p = log_probabilities.gather(2, columns.expand(len(members), -1, -1)).exp()
        return _total_std(p, torch.stack([member.std_of(columns) for member in members]))

    def calibrated(columns: Tensor) -> tuple[Tensor, Tensor]:
        log_p, deviations = map(torch.stack, zip(*(member.reported(columns) for member in members), strict=True))
        return log_p.logsumexp(0) - math.log(len(members)), _total_std(log_p.exp(), deviations)

    mean = log_probabilities.logsumexp(0) - math.log(len(members))
    known = any(member.calibrated is not None for member in members)
    return Scores(members[0].users, members[0].items, mean, std, calibrated if known else None)


def _total_std(probabilities: Tensor, deviations: Tensor) -> Tensor:
    """Standard deviation over members and draws, of the members' ``(M, b, k)``."""
    return (deviations.square().mean(0) + probabilities.var(0, correction=0)).sqrt()
