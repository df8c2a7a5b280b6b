"""The contract of a guide: a denoiser that wraps another one and changes its prediction."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Generator, Tensor

from diffusers_rec.core.registry import unknown_name
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.prediction import PREDICTIONS
from diffusers_rec.processes.schedules import NoiseSchedule

Guidance = float | Mapping[str, Any] | None
"""Guidance of one call: a scale, or settings of the model's guide."""


class Guide(Denoiser):
    """A denoiser that wraps ``base``. By default, it uses the encoding and the condition of ``base``.

    Args:
        base: A denoiser, its name or its config.
        schedule: Noise schedule, shared and not owned.
        embedding: Item embedding for guides and bases that need it, shared and not owned.
        head: Item head for guides and bases that need it, shared and not owned.
        dim: Latent width D of a ``base`` given by name.
        max_length: Largest number of positions, for a ``base`` given by name.
        seed: Seed of the initial weights of a ``base`` given by name.
    """

    requires = frozenset({"embedding", "head", "schedule"})
    per_call: ClassVar[tuple[str, ...]] = ()
    """Settings that :meth:`with_settings` may change for one call."""
    base_predicts: ClassVar[tuple[str, ...]] = PREDICTIONS
    """Predictions of a base that the guide can wrap."""

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        schedule: NoiseSchedule,
        embedding: ItemEmbedding | None = None,
        head: ItemHead | None = None,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        shared = {"schedule": schedule, "embedding": embedding, "head": head}
        given = {name: part for name, part in shared.items() if part is not None}
        built = Denoiser.build_with({"dim": dim, "max_length": max_length, "seed": seed, **given}, base)
        super().__init__(built.dim, built.max_length, seed)
        self.base = built
        self.prediction, self.user_features = built.prediction, dict(built.user_features)
        self.steers = built.steers
        self._shared = (embedding, head, schedule)  # outside the module tree, because their owner trains and saves them

    @property
    def embedding(self) -> ItemEmbedding | None:
        return self._shared[0]

    @property
    def head(self) -> ItemHead | None:
        return self._shared[1]

    @property
    def schedule(self) -> NoiseSchedule:
        return self._shared[2]

    def encode(self, history: History) -> Any:
        return self.base.encode(history)

    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> Any:
        return self.base.condition(context, queries, null=null)

    def hidden(self, queries: Queries, generator: Generator) -> bool | Tensor:
        return self.base.hidden(queries, generator)

    def steer(self, log_probabilities: Tensor, timesteps: Tensor, items: Tensor) -> Tensor:
        return self.base.steer(log_probabilities, timesteps, items)

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        self.base.check_fit(model)
        if self.prediction not in self.base_predicts:
            raise ValueError(
                f"The parts do not fit: {self.registered_name!r} wraps a denoiser that predicts "
                f"{' or '.join(self.base_predicts)}, but the base predicts {self.prediction}."
            )

    def with_settings(self, **settings: Any) -> Self:
        """Copy of the guide that shares all weights and has other settings, for one call.

        Raises:
            ValueError: A setting cannot change per call, or a value is out of range.
        """
        for key in settings:
            if key not in self.per_call:
                raise ValueError(unknown_name(f"guidance setting of {self.registered_name!r}", key, self.per_call))
        changed = copy.copy(self)
        changed._set(**{name: settings.get(name, getattr(self, name)) for name in self.per_call})
        return changed

    def _set(self, **settings: Any) -> None:
        """Check and store the settings of :attr:`per_call`."""


def unwrapped(denoiser: Denoiser) -> Denoiser:
    """Backbone within all guides."""
    while isinstance(denoiser, Guide):
        denoiser = denoiser.base
    return denoiser


def guided(denoiser: Denoiser, guidance: Guidance) -> Denoiser:
    """Denoiser with the guidance of one call.

    Args:
        denoiser: Denoiser of a model.
        guidance: Scale, or mapping of settings; the denoiser is unchanged if None.

    Raises:
        ValueError: The denoiser does not have these settings, or a setting is invalid.
    """
    if guidance is None:
        return denoiser
    settings = dict(guidance) if isinstance(guidance, Mapping) else {"scale": guidance}
    guide = getattr(denoiser, "_orig_mod", denoiser)  # the module that torch.compile wraps
    if isinstance(guide, Guide) and not guide.per_call and isinstance(guide.base, Guide):
        changed = copy.copy(guide)
        changed._modules = {**guide._modules, "base": guided(guide.base, guidance)}
        return changed
    if not isinstance(guide, Guide) or not guide.per_call:
        raise ValueError(
            f"guidance={guidance!r}, but the model has no guide. Build it with denoiser={{'name': 'classifier-free', "
            "'base': ...}, which training needs as well."
        )
    if not isinstance(guidance, Mapping) and "scale" not in guide.per_call:
        raise ValueError(
            f"guidance={guidance!r} sets a scale, but the guide {guide.registered_name!r} has none. Pass a mapping "
            f"of its settings: {', '.join(guide.per_call)}."
        )
    return guide.with_settings(**settings)
