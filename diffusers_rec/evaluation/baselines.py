"""Rankers without a model, for the rows that every table needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.evaluation.full_ranking import Report, rank_holdout, report_of
from diffusers_rec.evaluation.metrics import metric_names
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.recommenders.ranking import Scores

USERS_AT_ONCE = 256


@explained
def evaluate_popularity(train: Sequences, holdout: Holdout, *, ks: Iterable[int] = (5, 10, 20)) -> Report:
    """Every item ranked by how often it occurs in ``train``, the same for all users; ties count against it.

    Raises:
        ValueError: the holdout has items that are not in the vocabulary of ``train``.
    """
    counts = torch.from_numpy(np.bincount(train.items, minlength=len(train.vocabulary))).double()
    return _evaluate(lambda histories: counts.expand(len(histories), -1), holdout.reindexed(train.vocabulary), ks)


@explained
def evaluate_item_to_item(train: Sequences, holdout: Holdout, *, ks: Iterable[int] = (5, 10, 20)) -> Report:
    r"""Items ranked by the sum of their cosines with the items of the history (Sarwar et al. 2001).

    .. math:: s_v = \sum_{h \in \text{history}} \frac{|U_h \cap U_v|}{\sqrt{|U_h|\,|U_v|}}

    with :math:`U_v` the users who have v in ``train``.

    Raises:
        ValueError: the holdout has items that are not in the vocabulary of ``train``.
    """
    num_items = len(train.vocabulary)
    users = np.repeat(np.arange(len(train)), train.lengths)
    pairs = torch.from_numpy(np.unique(np.stack([users, train.items]), axis=1))
    popularity = torch.bincount(pairs[1], minlength=num_items).clamp(min=1).float()
    owned = torch.sparse_coo_tensor(pairs, popularity[pairs[1]].rsqrt(), (len(train), num_items), check_invariants=True)
    owned = owned.coalesce()

    def scores(histories: Sequences) -> Tensor:
        history = pad(histories)
        # A repeated item counts once, whatever the order in which the marks are written.
        marks = torch.zeros(len(history), num_items)
        marks.scatter_reduce_(1, history.items, history.mask.float(), "amax")
        return torch.sparse.mm(owned.t(), torch.sparse.mm(owned, marks.T)).T

    return _evaluate(scores, holdout.reindexed(train.vocabulary), ks)


@explained
def evaluate_memory(memory: Memory, holdout: Holdout, *, ks: Iterable[int] = (5, 10, 20)) -> Report:
    """Items ranked by what a fitted memory predicts, without a network; ties count against an item.

    A memory holds indices and no ids: ``holdout`` needs the vocabulary of the sequences that it was fitted to, see
    :meth:`Holdout.reindexed <diffusers_rec.data.Holdout.reindexed>`.
    """
    num_items = len(holdout.histories.vocabulary)
    device = next((held.device for held in memory.buffers()), torch.device("cpu"))

    def scores(histories: Sequences) -> Tensor:
        predicted = memory.predict(pad(histories).to(device))
        if predicted is None:
            return torch.zeros(len(histories), num_items)
        return predicted.within(slice(0, num_items)).cpu()

    return _evaluate(scores, holdout, ks)


def _evaluate(scores: Callable[[Sequences], Tensor], holdout: Holdout, ks: Iterable[int]) -> Report:
    """The report of whatever gives every item a score for histories, ``(B, V)``."""

    def score(histories: Sequences) -> list[Scores]:
        return [Scores(slice(0, len(histories)), slice(0, len(histories.vocabulary)), scores(histories))]

    return report_of(rank_holdout(holdout, score, batch_size=USERS_AT_ONCE), metric_names(ks))
