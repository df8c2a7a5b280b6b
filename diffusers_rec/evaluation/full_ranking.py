"""Evaluation by ranking every item, with the history's items left out (masked) and left in, from one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.data.vocabulary import IndexArray
from diffusers_rec.evaluation.metrics import ranking_metrics
from diffusers_rec.recommenders.base import Recommender, SamplerChoice, Seeds
from diffusers_rec.recommenders.ranking import target_ranks


@dataclass(frozen=True)
class Report:
    """Metrics over U users, every item ranked.

    Attributes:
        masked: with the items of the user's history left out of the ranking; a target among them is a miss.
        unmasked: with all items.
        num_users: U.
    """

    masked: dict[str, float]
    unmasked: dict[str, float]
    num_users: int


@explained
def evaluate(
    model: Recommender,
    holdout: Holdout,
    *,
    ks: Iterable[int] = (5, 10, 20),
    seeds: Seeds | None = None,
    sampler: SamplerChoice | None = None,
    memory: bool = True,
    batch_size: int = 256,
    progress: bool = False,
) -> Report:
    """HR and NDCG of the held-out items among all items.

    Args:
        model: A trained model.
        holdout: Histories and the items that came next; items are matched with the model's by id.
        ks: cut-offs.
        seeds: noise draws to average; the model's own when None.
        sampler: a component, a name, or a config; the model's own when None.
        memory: mix in what the model's memory recalls; False ranks by the network alone.
        batch_size: users at once.
        progress: show a bar (needs the ``train`` extra).

    Raises:
        ValueError: the holdout has items that the model does not know.
    """
    holdout = holdout.reindexed(model.vocabulary)
    ranks, masked = [], []
    check_bool("memory", memory)
    check_bool("progress", progress)
    batches = user_chunks(holdout, check_int("batch_size", batch_size, minimum=1))
    for rows in progress_bar(batches, show=progress, total=len(batches), text="evaluate"):
        histories = holdout.histories.take(rows)
        history = pad(histories, model.history_length).to(model.device)
        latents = model.next_item_latents(history, seeds=seeds, sampler=sampler)
        targets = torch.from_numpy(holdout.targets[rows]).to(model.device)
        seen = pad(histories, fill=-1).items.to(model.device)
        with torch.no_grad():
            found = target_ranks(
                model.head,
                latents,
                targets,
                excluded=seen,
                recalled=model.memory.predict(history) if memory else None,
            )
        ranks.append(found[0].cpu())
        masked.append(found[1].cpu())
    ks = list(ks)
    return Report(ranking_metrics(torch.cat(masked), ks), ranking_metrics(torch.cat(ranks), ks), num_users=len(holdout))


def user_chunks(holdout: Holdout, batch_size: int) -> list[IndexArray]:
    """Users of like history length together, so that little padding is computed."""
    order = np.argsort(holdout.histories.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
