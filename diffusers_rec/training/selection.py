"""Warnings about validations that cannot choose an epoch."""

from __future__ import annotations

import numpy as np

from diffusers_rec.core.errors import warn_caller
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.training.config import TrainingConfig

MANY = 0.2
"""Above this share of targets in their own histories, leaving seen items out is probably not what is wanted."""


def warn_of_repeats(validation: Holdout, config: TrainingConfig) -> None:
    """Warn where many targets count as misses for being in their own histories."""
    histories = validation.histories
    owner = np.repeat(np.arange(len(validation)), histories.lengths)
    repeated = len(np.unique(owner[histories.items == validation.targets[owner]]))
    if config.exclude_seen and repeated > MANY * len(validation):
        warn_caller(
            f"{repeated} of {len(validation)} validation targets are in their own histories, and count as misses "
            "because exclude_seen=True leaves seen items out. Where users return to items, use "
            "TrainingConfig(exclude_seen=False), in the shell --include-seen."
        )


def warn_of_zeros(best_score: float, config: TrainingConfig) -> None:
    """Warn where no validation was better than another because all were 0."""
    if best_score == 0:
        seen = ", or exclude_seen=False (--include-seen) where users return to items" if config.exclude_seen else ""
        warn_caller(
            f"{config.select_by} was 0 in every validation, so the first validated epoch was kept. Use a metric with a "
            f"larger cut-off, such as select_by='hr@100' (--select-by hr@100){seen}."
        )
