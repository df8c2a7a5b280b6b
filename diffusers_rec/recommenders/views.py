"""States of the views that an objective declares: histories in, one state of each out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffusers_rec.data.augment import MASKED
from diffusers_rec.data.batching import Batch
from diffusers_rec.data.history import History
from diffusers_rec.guidance import unwrapped
from diffusers_rec.objectives.views import Views, check_views
from diffusers_rec.recommenders.chains import items_at


class MaskedItem(nn.Module):
    """The vector that is encoded in place of a hidden item.

    It belongs to the model and not to the table, whose rows are the items that can be recommended, or to the encoder,
    which reads latents of any kind. It is zero before training.

    Args:
        dim: Latent width D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.zeros(dim))

    def forward(self, latents: Tensor, hidden: Tensor) -> Tensor:
        """Latents ``(B, L, D)`` with the vector where ``hidden`` ``(B, L)`` is True."""
        return torch.where(hidden[..., None], self.vector.to(latents.dtype), latents)


def run_views(model: Any, history: History, batch: Batch, generator: Generator) -> Views:
    """States of the declared views of all histories that are not empty.

    Args:
        model: A :class:`~diffusers_rec.DiffRec`.
        history: Histories as far as any query sees them.
        batch: Rows of which these are the first items; the next item is the target.
        generator: Source of everything random but dropout.

    Raises:
        ValueError: There are no training examples to draw from, or the views do not fit the model.
    """
    objective = model.objective
    if not objective.views:
        return Views()
    check_views(objective, model)  # it may have been assigned since the model was built
    rows = (history.lengths > 0).nonzero()[:, 0]
    history, examples = history.take(rows), model.examples
    targets = items_at(batch.items[rows], history.lengths[:, None])[:, 0]
    places = None if batch.starts is None else batch.starts[rows] + history.lengths
    states = {}
    for name, count in Counter(objective.views).items():
        if name == "dropout":
            views = [history] * count
        elif name == "augmented":
            views = objective.augmentations.any_of(history, count, generator)
        elif name != "same-target":
            views = [objective.augmentations.apply(name, history, generator) for _ in range(count)]
        elif examples is None:
            raise ValueError(
                "The view 'same-target' draws from the training examples. Call model.prepare(sequences, "
                "examples='every-prefix') before the first loss; train() does."
            )
        else:
            views = [examples.draw(history, targets, generator, places) for _ in range(count)]
        states[name] = tuple(_state(model, view) for view in views)
    return Views(states, targets)


def _state(model: Any, view: History) -> Tensor:
    """State after the last item of each history, ``(B, D)``."""
    if not len(view):
        nothing: Tensor = model.embedding(view.lengths)
        return nothing
    latents = model.embedding(view.items.clamp(min=0))
    if model.masked_item is not None:
        latents = model.masked_item(latents, view.items == MASKED)
    encoder: Any = unwrapped(model.denoiser).encoder
    context = encoder(view.with_latents(latents))
    state: Tensor = encoder.states(context, view.lengths[:, None])[:, 0]
    return state
