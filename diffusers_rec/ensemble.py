r"""Several trainings as one recommender, whose probabilities are averaged.

.. math:: \bar p(v \mid \text{history}) = \frac1M \sum_m p_{\theta_m}(v \mid \text{history})

Trainings that differ in their seed alone agree on what the data says and disagree on the rest (deep ensembles,
Lakshminarayanan et al. 2017): the mean ranks better than its members, and the spread of a score, next to nothing
between the noise draws of one trained model, here tells how far the trainings disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate
from os import PathLike
from typing import cast

import torch
from torch import Tensor, nn

from diffusers_rec.data.sequences import Sequences
from diffusers_rec.heads import ItemHead
from diffusers_rec.memory import Memory, NoMemory, Recalled
from diffusers_rec.pipeline import DiffRec
from diffusers_rec.recommender import Recommender, SamplerChoice, Seeds


class Ensemble(Recommender):
    """Recommends, and is evaluated, as one :class:`~diffusers_rec.DiffRec` is.

    Its draws are those of all members, each of which makes as many. The members may be of any make and width. The
    networks are averaged, the memories are, and then the two are mixed: the mean of the members where their memories
    have equal shares.

    Args:
        members: trained on the same items, with histories of one length.

    Raises:
        ValueError: no member, or members that differ in items or in the length of their histories.
        TypeError: a member that is no :class:`~diffusers_rec.DiffRec`.
    """

    def __init__(self, members: Iterable[DiffRec]) -> None:
        super().__init__()
        found = list(members)
        if not found:
            raise ValueError("Ensemble: expected one member at least, got none.")
        for number, member in enumerate(found):
            if not isinstance(member, DiffRec):
                raise TypeError(f"Ensemble: member {number} must be a DiffRec, got {type(member).__name__}.")
            if member.vocabulary != found[0].vocabulary:
                raise ValueError(
                    f"Ensemble: members 0 and {number} have different items ({len(found[0].vocabulary)} and "
                    f"{len(member.vocabulary)}). Train them on the same data."
                )
            if member.history_length != found[0].history_length:
                raise ValueError(
                    f"Ensemble: member 0 reads {found[0].history_length} items of a history, member {number} "
                    f"{member.history_length}. Train them with the same max_length."
                )
        self.vocabulary = found[0].vocabulary
        self.members = nn.ModuleList(found)
        self._places = _places([member.embedding.dim + 1 for member in found])
        self.head = _JointHead([member.head for member in found], self._places)
        memories = [member.memory for member in found]
        self.memory = _JointMemory(memories) if any(not isinstance(each, NoMemory) for each in memories) else NoMemory()

    @classmethod
    def from_pretrained(cls, directories: Iterable[str | PathLike[str]]) -> Ensemble:
        """Of checkpoints, one a member.

        Raises:
            FileNotFoundError: there is no checkpoint in one of them.
            ValueError: one is damaged, foreign, of a newer format, or they do not fit one another.
        """
        return cls([DiffRec.from_pretrained(directory) for directory in directories]).eval()

    @property
    def device(self) -> torch.device:
        return self._first.device

    @property
    def history_length(self) -> int:
        return self._first.history_length

    @property
    def _first(self) -> DiffRec:
        return cast(DiffRec, self.members[0])

    def next_item_latents(
        self, items: Tensor, lengths: Tensor, *, seeds: Seeds | None = None, sampler: SamplerChoice | None = None
    ) -> Tensor:
        """Draw from every member, see :meth:`Recommender.next_item_latents`.

        Args:
            items: ``(B, L)``.
            lengths: ``(B,)``.
            seeds: noise draws of each member; the first one's own when None.
            sampler: of every member; each one's own when None.

        Returns:
            ``(B, M S, D_1 + 1 + ... + D_M + 1)``: a draw fills its member's place and marks it with a one.
        """
        seeds = self._first.seeds if seeds is None else seeds
        drawn = [
            cast(DiffRec, member).next_item_latents(items, lengths, seeds=seeds, sampler=sampler)
            for member in self.members
        ]
        draws = drawn[0].shape[1]
        joint = drawn[0].new_zeros(len(items), len(drawn) * draws, self._places[-1].stop)
        for number, (latents, place) in enumerate(zip(drawn, self._places, strict=True)):
            own = joint[:, number * draws : (number + 1) * draws, place]
            own[..., :-1], own[..., -1] = latents, 1
        return joint


def _places(widths: Sequence[int]) -> list[slice]:
    """Where each of some widths lies, one behind the other."""
    return [slice(end - width, end) for width, end in zip(widths, accumulate(widths), strict=True)]


class _JointHead(ItemHead):
    """The members' heads side by side: a draw meets the keys of the member whose place it fills, and no others.

    A member's bias is one more dimension of its keys. The heads are held outside the module tree, as they belong to the
    members.
    """

    def __init__(self, heads: Sequence[ItemHead], places: Sequence[slice]) -> None:
        super().__init__()
        self._held, self._places = tuple(heads), tuple(places)

    def queries(self, latent: Tensor) -> Tensor:
        parts = []
        for head, place in zip(self._held, self._places, strict=True):
            own, mark = latent[..., place].tensor_split([-1], dim=-1)
            parts += [head.queries(own) * mark, mark]
        return torch.cat(parts, dim=-1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        parts = []
        for head in self._held:
            keys, bias = head.scoring_keys(items)
            parts += [keys, keys.new_zeros(len(keys), 1) if bias is None else bias[:, None]]
        return torch.cat(parts, dim=1)


class _JointMemory(Memory):
    """What the members' memories recall, each with its part of the mass."""

    def __init__(self, memories: Sequence[Memory]) -> None:
        super().__init__()
        self._held = tuple(memories)

    def fit(self, sequences: Sequences) -> None:
        for memory in self._held:
            memory.fit(sequences)

    def recall(self, items: Tensor, lengths: Tensor) -> Recalled:
        found = [recalled for memory in self._held if (recalled := memory.recall(items, lengths)) is not None]
        part = len(self._held)
        return Recalled(
            torch.cat([recalled.items for recalled in found], dim=1),
            torch.cat([recalled.mass / part for recalled in found], dim=1),
            torch.stack([recalled.share / part for recalled in found]).sum(0),
        )
