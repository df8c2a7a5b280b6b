"""Rankers without a model, for the row that every table needs."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.evaluation.full_ranking import Report, user_chunks
from diffusers_rec.evaluation.metrics import ranking_metrics
from diffusers_rec.ranking import count_ranks


def evaluate_popularity(train: Sequences, holdout: Holdout, *, ks: Iterable[int] = (5, 10, 20)) -> Report:
    """Every item ranked by how often it occurs in ``train``, the same for all users; ties count against it."""
    num_items = len(train.vocabulary)
    counts = torch.from_numpy(np.bincount(train.items, minlength=num_items)).double()
    ranks, masked = [], []
    for rows in user_chunks(holdout, 1024):
        scores = [(slice(0, num_items), counts.expand(len(rows), -1))]
        targets = torch.from_numpy(holdout.targets[rows])
        seen, _ = pad(holdout.histories.take(rows), fill=-1)
        found = count_ranks(lambda scores=scores: scores, targets, seen, num_items)  # type: ignore[misc]
        ranks.append(found[0])
        masked.append(found[1])
    ks = list(ks)
    return Report(ranking_metrics(torch.cat(masked), ks), ranking_metrics(torch.cat(ranks), ks), len(holdout))
