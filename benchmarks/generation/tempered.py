"""A rival that is as sure as it should be: a model whose logits are divided by a temperature, chosen on validation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from diffusers_rec import History, Holdout, Recommender, Scores
from diffusers_rec.evaluation import evaluate_gap
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds

TEMPERATURES = (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)


class Tempered(Recommender):
    """The distributions of a model to the power of 1 / temperature."""

    def __init__(self, model: Recommender, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature, self.vocabulary = model, temperature, model.vocabulary

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def history_length(self) -> int:
        return self.model.history_length

    def without_memory(self) -> Tempered:
        return Tempered(self.model.without_memory(), self.temperature)

    def score(
        self, history: History, *, seeds: Seeds | None = None, sampler: SamplerChoice | None = None
    ) -> Iterator[Scores]:
        for chunk in self.model.score(history, seeds=seeds, sampler=sampler):
            yield replace(chunk, log_probabilities=chunk.log_probabilities / self.temperature)


def tempered(model: Recommender, validation: Holdout, *, exclude_seen: bool) -> Tempered:
    """The model at the temperature with the least negative log-likelihood of the next item of validation users."""
    every = [Tempered(model, temperature) for temperature in TEMPERATURES]
    return min(every, key=lambda each: evaluate_gap(each, validation, 0, exclude_seen=exclude_seen).nll)
