"""Evaluation by ranking every item, with the history's items excluded and included, from one pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import explained, guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.data.vocabulary import IndexArray
from diffusers_rec.evaluation.metrics import ranking_metrics
from diffusers_rec.guidance import Guidance
from diffusers_rec.recommenders.base import Recommender, SamplerChoice, Seeds, options_of
from diffusers_rec.recommenders.ranking import target_ranks

SCORES_AT_ONCE = 2**28
"""The most scores (users x items) that a batch may have, 1 GiB in float32; one user at the least."""


@guarded
@dataclass(frozen=True)
class Report:
    """Metrics over U users, every item ranked; :meth:`metrics` gives them.

    Attributes:
        excluding_seen: With the items of the user's history left out of the ranking; a target among them is a miss.
        including_seen: With all items.
        num_users: U.
    """

    excluding_seen: dict[str, float]
    including_seen: dict[str, float]
    num_users: int

    def metrics(self, *, exclude_seen: bool = True) -> dict[str, float]:
        """The metrics by name, such as ``"ndcg@10"``.

        Args:
            exclude_seen: Whether the items of the user's history are left out of the ranking.
        """
        return self.excluding_seen if check_bool("exclude_seen", exclude_seen) else self.including_seen

    @property
    def masked(self) -> dict[str, float]:
        """Deprecated name of ``metrics(exclude_seen=True)``."""
        warn_deprecated("Report.masked", "Report.metrics(exclude_seen=True)")
        return self.excluding_seen

    @property
    def unmasked(self) -> dict[str, float]:
        """Deprecated name of ``metrics(exclude_seen=False)``."""
        warn_deprecated("Report.unmasked", "Report.metrics(exclude_seen=False)")
        return self.including_seen


@explained
def evaluate(
    model: Recommender,
    holdout: Holdout,
    *,
    ks: Iterable[int] = (5, 10, 20),
    seeds: Seeds | None = None,
    sampler: SamplerChoice | None = None,
    guidance: Guidance = None,
    memory: bool = True,
    batch_size: int = 256,
    progress: bool = False,
) -> Report:
    """HR and NDCG of the held-out items among all items.

    Args:
        model: A trained model.
        holdout: Histories and the items that came next; items are matched with the model's by id.
        ks: Cut-offs.
        seeds: Noise draws to average; the model's own when None.
        sampler: Component, name, or config; the model's own when None.
        guidance: Scale of the model's guide, or a mapping of its settings; the guide's own when None.
        memory: Whether the model's memory is mixed in; False ranks by the network alone.
        batch_size: Users at once, fewer where the catalogue is large.
        progress: Whether to show a bar (needs the ``train`` extra).

    Raises:
        ValueError: the holdout has items that the model does not know.
    """
    holdout = holdout.reindexed(model.vocabulary)
    options = options_of(seeds, sampler, guidance)
    ranks, unseen = [], []
    if not check_bool("memory", memory):
        model = model.without_memory()
    check_bool("progress", progress)
    size = min(check_int("batch_size", batch_size, minimum=1), max(1, SCORES_AT_ONCE // len(model.vocabulary)))
    batches = user_chunks(holdout, size)
    for rows in progress_bar(batches, show=progress, total=len(batches), text="evaluate"):
        histories = holdout.histories.take(rows)
        targets = torch.from_numpy(holdout.targets[rows]).to(model.device)
        seen = pad(histories, fill=-1).items.to(model.device)
        with model.serving() as served:
            history = pad(histories, model.history_length).to(model.device)
            found = target_ranks(served.score(history, **options), targets, excluded=seen)
        ranks.append(found[0].cpu())
        unseen.append(found[1].cpu())
    ks = list(ks)
    return Report(ranking_metrics(torch.cat(unseen), ks), ranking_metrics(torch.cat(ranks), ks), num_users=len(holdout))


def user_chunks(holdout: Holdout, batch_size: int) -> list[IndexArray]:
    """Users of like history length together, so that little padding is computed."""
    order = np.argsort(holdout.histories.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
