"""Evaluation by ranking every item, with the history's items excluded and included, from one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import InitVar, dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import explained, guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.data.vocabulary import IndexArray
from diffusers_rec.evaluation.calibration import ProbabilityMetrics, ProbabilityReport
from diffusers_rec.evaluation.metrics import metric_names
from diffusers_rec.evaluation.ranks import UserRanks
from diffusers_rec.guidance import Guidance
from diffusers_rec.recommenders.base import Recommender, options_of
from diffusers_rec.recommenders.ranking import Scores, target_ranks, user_groups
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds

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
        probabilities: Comparison of the reported probabilities with what users took; None unless it was asked for.
    """

    excluding_seen: dict[str, float]
    including_seen: dict[str, float]
    num_users: int
    probabilities: ProbabilityReport | None = None
    user_ranks: InitVar[UserRanks | None] = None
    _ranks: ClassVar[UserRanks | None] = None  # no field, so that asdict and == are of numbers alone

    def __post_init__(self, user_ranks: UserRanks | None) -> None:
        object.__setattr__(self, "_ranks", user_ranks)

    @property
    def ranks(self) -> UserRanks:
        """Rank of every held-out item, user by user: for other metrics, data frames and tests of significance.

        Raises:
            ValueError: a report that was built without.
        """
        if self._ranks is None:
            raise ValueError("The report has no ranks. Those of evaluate() and the baselines have.")
        return self._ranks

    def metrics(self, names: Iterable[str] | None = None, *, exclude_seen: bool = True) -> dict[str, float]:
        """The metrics by name, such as ``"ndcg@10"``.

        Args:
            names: Names such as ``["mrr", "recall@50"]``, see :func:`metric_by_user`; HR and NDCG at the cut-offs of
                the evaluation if None.
            exclude_seen: Whether the items of the user's history are left out of the ranking.

        Raises:
            ValueError: another name, or names for a report without ranks.
        """
        if names is not None:
            return self.ranks.metrics(names, exclude_seen=exclude_seen)
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
    probabilities: bool = False,
    batch_size: int = 256,
    progress: bool = False,
) -> Report:
    """HR and NDCG of the held-out items among all items; ``report.metrics(["mrr", "recall@10"])`` gives other metrics.

    Args:
        model: A trained model.
        holdout: Histories and what came next, one item or several a user; items are matched with the model's by id.
        ks: Cut-offs.
        seeds: Noise draws to average; the model's own when None.
        sampler: Component, name, or config; the model's own when None.
        guidance: Scale of the model's guide, or a mapping of its settings; the guide's own when None.
        memory: Whether the model's memory is mixed in; False ranks by the network alone.
        probabilities: Whether to compare the reported probabilities with what users took, as
            ``report.probabilities``.
        batch_size: Users at once, fewer where the catalogue is large.
        progress: Whether to show a bar (needs the ``train`` extra).

    Raises:
        ValueError: the holdout has items that the model does not know.
    """
    holdout = holdout.reindexed(model.vocabulary)
    options = options_of(seeds, sampler, guidance)
    if not check_bool("memory", memory):
        model = model.without_memory()
    check_bool("progress", progress)
    size = min(check_int("batch_size", batch_size, minimum=1), max(1, SCORES_AT_ONCE // len(model.vocabulary)))
    names = metric_names(ks)
    watch = None
    if check_bool("probabilities", probabilities):
        watch = ProbabilityMetrics(len(model.vocabulary), getattr(model, "popularity", None))
    with model.serving() as served:

        def score(histories: Sequences) -> Iterator[Scores]:
            return served.score(pad(histories, served.history_length).to(served.device), **options)

        ranks = rank_holdout(holdout, score, batch_size=size, device=model.device, watch=watch, progress=progress)
    return report_of(ranks, names, None if watch is None else watch.report())


def report_of(ranks: UserRanks, names: Iterable[str], probabilities: ProbabilityReport | None = None) -> Report:
    """The named metrics of ranks, see :func:`metric_by_user`."""
    names = list(names)
    metrics = ranks.metrics(names), ranks.metrics(names, exclude_seen=False)
    return Report(*metrics, len(ranks), probabilities, user_ranks=ranks)


def rank_holdout(
    holdout: Holdout,
    score: Callable[[Sequences], Iterable[Scores]],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    watch: ProbabilityMetrics | None = None,
    progress: bool = False,
) -> UserRanks:
    """Rank every held-out item, some users at once.

    Args:
        holdout: Histories and what followed.
        score: Function of histories that gives the scores of all items.
        batch_size: Users at once.
        device: Device of the scores.
        watch: What looks at the scores on the way.
        progress: Whether to show a bar.
    """
    targets = holdout.following.without_repeats()
    chunks = [_most_targets_first(rows, targets) for rows in user_chunks(holdout, batch_size)]
    ranks, unseen = [], []
    for rows in progress_bar(chunks, show=progress, total=len(chunks), text="evaluate"):
        histories = holdout.histories.take(rows)
        columns = pad(targets.take(rows), fill=-1).items.to(device)
        seen = pad(histories, fill=-1).items.to(device)
        scores = score(histories)
        if watch is not None:
            scores = watch.watch(scores, columns[:, 0], seen)
        found = _target_ranks(scores, columns, seen)
        ranks.append(found[0].cpu())
        unseen.append(found[1].cpu())
    return UserRanks(targets.take(np.concatenate(chunks)), torch.cat(unseen), torch.cat(ranks))


def user_chunks(holdout: Holdout, batch_size: int) -> list[IndexArray]:
    """Users of like history length together, so that little padding is computed."""
    order = np.argsort(holdout.histories.lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def _most_targets_first(rows: IndexArray, targets: Sequences) -> IndexArray:
    return rows[np.argsort(-targets.lengths[rows], kind="stable")]


def _target_ranks(scores: Iterable[Scores], targets: Tensor, excluded: Tensor) -> tuple[Tensor, Tensor]:
    """Ranks of several targets a user, end to end: among all items, and among those not excluded.

    Args:
        scores: Scores of B users, those with the most targets first.
        targets: Item indices, ``(B, M)``, padded with -1.
        excluded: Items left out of the second ranking, ``(B, E)``, padded with -1.
    """
    ranks, unseen = torch.zeros_like(targets), torch.zeros_like(targets)
    for group in user_groups(scores):
        chunks = [Scores(chunk.users, chunk.items, chunk.log_probabilities) for chunk in group]  # without the draws
        first = chunks[0].users.start
        for column in range(targets.shape[1]):
            count = int((targets[chunks[0].users, column] >= 0).sum())
            users = slice(first, first + count)
            part = [Scores(slice(0, count), chunk.items, chunk.log_probabilities[:count]) for chunk in chunks]
            if count:
                found = target_ranks(part, targets[users, column], excluded=excluded[users])
                ranks[users, column], unseen[users, column] = found
    return ranks[targets >= 0], unseen[targets >= 0]
