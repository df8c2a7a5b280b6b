r"""Classifier-free guidance: extrapolation from the unconditional to the conditional prediction.

.. math:: \hat f = f_\theta(x_n, n \mid \varnothing)
          + w\, \big( f_\theta(x_n, n \mid \text{history}) - f_\theta(x_n, n \mid \varnothing) \big)

Ho & Salimans 2022, *Classifier-Free Diffusion Guidance*; for sequential recommendation Yang et al. 2023, *DreamRec*. In
training, the history is hidden from a share of the queries, so one network learns both predictions. A guided chain
needs one encoding, two conditions, and two predictions per step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.guidance.base import Guide
from diffusers_rec.guidance.interval import acting, check_interval
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource


class _Condition(NamedTuple):
    """Conditions with and without the history; the latter is None if it is not needed."""

    given: Any
    null: Any


class ClassifierFreeGuide(Guide, name="classifier-free"):
    """Trains with and without the history, and extrapolates between the two predictions when serving.

    Args:
        base: A denoiser, its name or its config.
        drop: Probability p in [0, 1) that a query of a training batch sees nothing of its history.
        scale: Guidance scale w; 1 is the conditional prediction, 0 the unconditional one.
        start: Share of the steps, from N downwards, after which guidance starts, in [0, 1]; for predictions of items
            see
            :mod:`diffusers_rec.guidance.interval`.
        stop: Share of the steps, from N downwards, after which guidance stops, in [0, 1].
        schedule: See :class:`Guide`.
        embedding: See :class:`Guide`.
        head: See :class:`Guide`.
        dim: See :class:`Guide`.
        max_length: See :class:`Guide`.
        seed: See :class:`Guide`.
    """

    per_call = "scale", "start", "stop"
    needs_training = True
    scale: float
    start: float
    stop: float

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        drop: float = 0.1,
        scale: float = 1.0,
        start: float = 0.0,
        stop: float = 1.0,
        schedule: NoiseSchedule,
        embedding: ItemEmbedding | None = None,
        head: ItemHead | None = None,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(
            base, schedule=schedule, embedding=embedding, head=head, dim=dim, max_length=max_length, seed=seed
        )
        self.drop = check_float("drop", drop, minimum=0, below=1)
        self._set(scale=scale, start=start, stop=stop)

    def hidden(self, queries: Queries, generator: Generator) -> bool | Tensor:
        """Queries that see nothing of the history: a share ``drop`` of them, and those that the base selects."""
        drawn = torch.rand(queries.visible.shape, generator=generator, device=generator.device) < self.drop
        return drawn.to(queries.visible.device) | super().hidden(queries, generator)

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        if not isinstance(model.source, ZeroSource):
            raise ValueError(
                f"The parts do not fit: a chain that is centred by the source {model.source} shows the history to the "
                "unconditional prediction as well. Use source='zero' with the guide 'classifier-free'."
            )

    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        given = self.base.condition(context, queries, null=null)
        if self.training or self.scale == 1:
            return _Condition(given, None)
        return _Condition(given, self.base.condition(context, queries, null=True))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        given: Tensor = self.base(xn, timesteps, condition.given)
        if condition.null is None:
            return given
        null = self.base(xn, timesteps, condition.null)
        if self.start == 0 and self.stop == 1:
            return null + self.scale * (given - null)
        together = self.prediction == "items" and timesteps.ndim > 2
        acts = acting(self.start, self.stop, timesteps, self.schedule.num_timesteps, together=together)
        scale = torch.where(acts, self.scale, 1.0).to(given.dtype)
        return null + scale.reshape(*scale.shape, *(1,) * (given.ndim - scale.ndim)) * (given - null)

    def _set(self, **settings: Any) -> None:
        self.scale = check_float("scale", settings["scale"], minimum=0)
        self.start, self.stop = check_interval(settings["start"], settings["stop"])
