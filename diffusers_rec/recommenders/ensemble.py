r"""Several trainings as one recommender, whose probabilities are averaged.

.. math:: \bar p_\theta(v \mid \text{history}) = \frac1M \sum_m p_{\theta_m}(v \mid \text{history})

Trainings that differ in their seed alone agree on what the data says and disagree on the rest (deep ensembles,
Lakshminarayanan et al. 2017). The mean usually ranks better than its members, and the spread of a score, next to
nothing between the noise draws of one trained model, here tells how far the networks disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import reduce
from itertools import accumulate, chain
from os import PathLike
from typing import cast

import torch
from torch import Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.base import Recommender, SamplerChoice, Seeds
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.memory import Memory, MemoryPrediction, NoMemory


@guarded
class Ensemble(Recommender):
    """Recommends, and is evaluated, as one :class:`~diffusers_rec.DiffRec` is.

    Its draws are those of all members, each of which makes as many, from the same seeds. The members may be of any make
    and width. The networks are averaged, the memories are, and then the two are mixed: the mean of the members where
    every memory has the same share of a history. The memories' disagreement is not in the spread.

    Args:
        members: trained on the same items, with histories of one length, on one device.

    Raises:
        ValueError: no member, or members that differ in items or in the length of their histories.
        TypeError: a member that is no :class:`~diffusers_rec.DiffRec`, or one alone that is in no list.
    """

    def __init__(self, members: Iterable[DiffRec]) -> None:
        super().__init__()
        if isinstance(members, DiffRec):
            raise TypeError("Ensemble: expected a list of models, got one alone. Write Ensemble([model]).")
        listed = list(members)
        if not listed:
            raise ValueError("Ensemble: expected one member at least, got none.")
        for number, member in enumerate(listed):
            if not isinstance(member, DiffRec):
                raise TypeError(f"Ensemble: member {number} must be a DiffRec, got {type(member).__name__}.")
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
        self._places = _places([member.embedding.dim + 1 for member in listed])
        self.head = _JointHead(listed, self._places)
        without = all(isinstance(member.memory, NoMemory) for member in listed)
        self.memory = NoMemory() if without else _JointMemory(listed)

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
        return cls([DiffRec.from_pretrained(directory) for directory in directories]).eval()

    @property
    def device(self) -> torch.device:
        return self._first.device

    @property
    def history_length(self) -> int:
        return self._first.history_length

    @property
    def popularity(self) -> Tensor:  # type: ignore[override]  # the members' own, counted on the same items
        """How often each item occurs in what the members were trained on, together."""
        return torch.stack([cast(DiffRec, member).popularity for member in self.members]).sum(0)

    @property
    def _first(self) -> DiffRec:
        return cast(DiffRec, self.members[0])

    def draw(self, history: History, seeds: Seeds | None, sampler: SamplerChoice | None) -> Tensor:
        """Draw from every member, see :meth:`Recommender.draw`.

        Args:
            history: B histories.
            seeds: noise draws of each member; the first one's own when None.
            sampler: of every member; each one's own when None.

        Returns:
            ``(B, M S, D_1 + 1 + ... + D_M + 1)``: a draw fills its member's place and marks it with a one.
        """
        seeds = self._first.seeds if seeds is None else seeds
        drawn = [cast(DiffRec, member).draw(history, seeds, sampler) for member in self.members]
        draws = drawn[0].shape[1]
        dtype = reduce(torch.promote_types, (latents.dtype for latents in drawn))
        joint = drawn[0].new_zeros(len(history), len(drawn) * draws, self._places[-1].stop, dtype=dtype)
        for number, (latents, place) in enumerate(zip(drawn, self._places, strict=True)):
            own = joint[:, number * draws : (number + 1) * draws, place]
            own[..., :-1], own[..., -1] = latents, 1
        return joint


def _places(widths: Sequence[int]) -> list[slice]:
    """Where each of some widths lies, one behind the other."""
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


class _JointHead(ItemHead):
    """The members' heads side by side: a draw meets the keys of the member whose place it fills, and no others.

    A member's bias is one more dimension of its keys. The members are held outside the module tree: they are in it as
    the ensemble's.
    """

    def __init__(self, members: Sequence[DiffRec], places: Sequence[slice]) -> None:
        super().__init__()
        self._held, self._places = tuple(members), tuple(places)

    def queries(self, latent: Tensor) -> Tensor:
        parts = []
        for member, place in zip(self._held, self._places, strict=True):
            own, mark = latent[..., place].tensor_split([-1], dim=-1)
            parts += [member.head.queries(own) * mark, mark]
        return torch.cat(parts, dim=-1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        parts = []
        for member in self._held:
            keys, bias = member.head.scoring_keys(items)
            parts += [keys, keys.new_zeros(len(keys), 1) if bias is None else bias[:, None]]
        return torch.cat(parts, dim=1)


class _JointMemory(Memory):
    """What the members' memories recall, each with its part of the mass."""

    def __init__(self, members: Sequence[DiffRec]) -> None:
        super().__init__()
        self._held = tuple(members)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Of the members' memories, which are held outside the module tree as the heads are."""
        return chain.from_iterable(member.memory.buffers(recurse) for member in self._held)

    def fit(self, sequences: Sequences) -> None:
        for member in self._held:
            member.memory.fit(sequences)

    def predict(self, history: History) -> MemoryPrediction | None:
        answers = (member.memory.predict(history) for member in self._held)
        recalled = [answer for answer in answers if answer is not None]
        if not recalled:
            return None
        part = len(self._held)
        return MemoryPrediction(
            torch.cat([each.items for each in recalled], dim=1),
            torch.cat([each.mass / part for each in recalled], dim=1),
            torch.stack([each.share / part for each in recalled]).sum(0),
        )
