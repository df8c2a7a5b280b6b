"""Validation: the score that selects the epoch, and warnings about scores that cannot select one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from diffusers_rec.core.errors import check_float, warn_caller
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.evaluation.full_ranking import evaluate
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.training.config import TrainingConfig
from diffusers_rec.training.processes import Processes

Metric = Callable[[Recommender, Holdout], float]

MANY = 0.2
"""Share of targets in their own histories above which excluding seen items is probably a mistake."""


def metric_name(metric: Metric | None) -> str:
    """Name of a metric in the history, without ``validation_``; empty if None."""
    name = getattr(metric, "__name__", "metric")
    return "" if metric is None else name if name.isidentifier() else "metric"


class Validation:
    """Scores a model on held-out targets.

    Args:
        holdout: Histories and targets.
        config: Settings of the training, which define the metric if ``metric`` is None.
        metric: Function of a model and the holdout; larger is better.
        processes: Processes of the run, which all get the same score.
    """

    def __init__(self, holdout: Holdout, config: TrainingConfig, metric: Metric | None, processes: Processes) -> None:
        self.holdout, self.config, self.metric, self.processes = holdout, config, metric, processes

    @property
    def recorded(self) -> str:
        """Name of the score in the history."""
        return f"validation_{self.config.select_by if self.metric is None else metric_name(self.metric)}"

    def __call__(self, model: Recommender, *, progress: bool = False) -> tuple[float, dict[str, float]]:
        """Score a model.

        Args:
            model: Model to score; its mode does not change.
            progress: Whether to show a progress bar.

        Returns:
            Score, and the values that the history records.
        """
        if self.metric is not None:
            score = self._score(self.metric, model)
            return score, {self.recorded: score}
        report = evaluate(
            model, self.holdout, ks=self.config.cutoffs, seeds=self.config.validation_seeds, progress=progress
        )
        metrics = report.metrics(exclude_seen=self.config.exclude_seen)
        return metrics[self.config.select_by], {f"validation_{name}": value for name, value in metrics.items()}

    def _score(self, metric: Metric, model: Recommender) -> float:
        with model.serving() as serving:
            score = check_float(f"{metric_name(metric)}(model, validation)", metric(serving, self.holdout))
        if self.processes.count == 1:
            return score
        of_main = torch.tensor(score if self.processes.is_main else 0.0, dtype=torch.float64)
        return float(self.processes.summed(of_main.to(self.processes.device)))

    def warn_of_repeats(self) -> None:
        """Warn if many targets count as misses because they are in their own histories."""
        histories, users = self.holdout.histories, len(self.holdout)
        owner = np.repeat(np.arange(users), histories.lengths)
        repeated = len(np.unique(owner[histories.items == self.holdout.targets[owner]]))
        if self.metric is None and self.config.exclude_seen and repeated > MANY * users:
            warn_caller(
                f"{repeated} of {users} validation targets are in their own histories, and count as misses "
                "because exclude_seen=True excludes seen items. If users return to items, use "
                "TrainingConfig(exclude_seen=False), on the command line --include-seen."
            )

    def warn_of_zeros(self, best_score: float) -> None:
        """Warn if all validation scores were 0."""
        if self.metric is None and best_score == 0:
            seen = ", or exclude_seen=False (--include-seen) if users return to items"
            warn_caller(
                f"{self.config.select_by} was 0 in every validation, so the first validated epoch was kept. Use a "
                "metric with a larger cut-off, such as select_by='hr@100' "
                f"(--select-by hr@100){seen if self.config.exclude_seen else ''}."
            )
