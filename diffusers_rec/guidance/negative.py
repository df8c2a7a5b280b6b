r"""Away from another history.

.. math:: \hat f = f_\theta(x_n, n \mid \text{history})
          + w\, \big( f_\theta(x_n, n \mid \text{history}) - f_\theta(x_n, n \mid \text{negative}) \big)

This is classifier-free guidance with a negative history in place of none (negative prompts), so that it needs no
training of its own. For items that are predicted by a head that is linear in f, the logits are extrapolated in the same
way. To steer away from an attribute, use the guide ``attribute`` with a negative scale.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float, check_int, shown
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.guidance.base import Guide
from diffusers_rec.guidance.interval import acting, check_interval
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource


class _Pair(NamedTuple):
    """Contexts or conditions of the given and of the negative history; the latter is None if it is not needed."""

    given: Any
    negative: Any


class NegativeGuide(Guide, name="negative"):
    """Extrapolates from the prediction after a negative history to that after the given one.

    Args:
        base: A denoiser, its name or its config.
        history: Item indices of the negative history, oldest first; in the guidance of a call raw ids. The last items
            count, as many as half of ``max_length``. Without a history, the guide changes nothing.
        scale: Scale w, at least 0; 0 is the prediction of ``base``.
        start: Share of the chain after which the guide starts, in [0, 1]; see :mod:`diffusers_rec.guidance.interval`.
        stop: Share of the chain after which the guide stops, in [0, 1].
        embedding: Item embedding of the negative history, shared and not owned.
        schedule: See :class:`Guide`.
        head: See :class:`Guide`.
        dim: See :class:`Guide`.
        max_length: See :class:`Guide`.
        seed: See :class:`Guide`.

    Raises:
        ValueError: An empty history, or a setting out of range.
        TypeError: A history that is no list of items.
    """

    per_call = "history", "scale", "start", "stop"
    call_needs = "history"
    embedding: ItemEmbedding
    history: list[int] | None
    scale: float
    start: float
    stop: float

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        history: Sequence[int] | None = None,
        scale: float = 1.0,
        start: float = 0.0,
        stop: float = 1.0,
        embedding: ItemEmbedding,
        schedule: NoiseSchedule,
        head: ItemHead | None = None,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(
            base, schedule=schedule, embedding=embedding, head=head, dim=dim, max_length=max_length, seed=seed
        )
        self._set(history=history, scale=scale, start=start, stop=stop)

    @classmethod
    def of_call(cls, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        if settings.get("history") is None:
            return dict(settings)
        try:
            return {**settings, "history": vocabulary.encode(settings["history"]).tolist()}
        except (TypeError, ValueError) as error:
            raise type(error)(f"negative: history: {error}") from error

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        if self.history is not None and max(self.history) >= len(model.vocabulary):
            raise ValueError(
                f"negative: history must hold item indices in 0..{len(model.vocabulary) - 1}, got {max(self.history)}."
            )
        if not isinstance(model.source, ZeroSource):
            raise ValueError(
                f"The parts do not fit: a chain that is centred by the source {model.source} shows the history to the "
                "negative prediction as well. Use source='zero' with the guide 'negative'."
            )

    def encode(self, history: History) -> _Pair:
        given = self.base.encode(history)
        if self.training or self.history is None or not self.scale:
            return _Pair(given, None)
        row = torch.tensor(self._last(self.history), device=history.items.device)
        items = row.expand(history.items.shape[0], -1)
        latents = self.embedding(items).to(history.latent().dtype)
        lengths = torch.full_like(history.lengths, len(row))
        other = replace(
            history, items=items, lengths=lengths, times=None, latents=latents, copies=None, copy_steps=None
        )
        return _Pair(given, self.base.encode(other))

    def condition(self, context: _Pair, queries: Queries, *, null: bool | Tensor = False) -> _Pair:
        given = self.base.condition(context.given, queries, null=null)
        if context.negative is None or self.history is None:
            return _Pair(given, None)
        visible = torch.full_like(queries.visible, len(self._last(self.history)))
        positions = queries.positions + (visible - queries.visible)[..., None]
        other = replace(queries, visible=visible, positions=positions)
        return _Pair(given, self.base.condition(context.negative, other))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Pair) -> Tensor:
        given: Tensor = self.base(xn, timesteps, condition.given)
        if condition.negative is None:
            return given
        negative = self.base(xn, timesteps, condition.negative)
        together = self.prediction == "items" and timesteps.ndim > 2
        acts = acting(self.start, self.stop, timesteps, self.schedule.num_timesteps, together=together)
        scale = (self.scale * acts).to(given.dtype)
        return given + scale.reshape(*scale.shape, *(1,) * (given.ndim - scale.ndim)) * (given - negative)

    def _last(self, history: list[int]) -> list[int]:
        """The last items, which leave room for the positions of a query."""
        return history[-max(1, self.max_length // 2) :]

    def _set(self, **settings: Any) -> None:
        history = settings["history"]
        if history is not None:
            if isinstance(history, str | bytes | Mapping) or not isinstance(history, Iterable):
                raise TypeError(f"negative: history must be a list of items, got {shown(history)}.")
            history = [check_int("negative: each item of history", each, minimum=0) for each in history]
            if not history:
                raise ValueError("negative: history is empty; it needs one item at least.")
        self.history = history
        self.scale = check_float("scale", settings["scale"], minimum=0)
        self.start, self.stop = check_interval(settings["start"], settings["stop"])
