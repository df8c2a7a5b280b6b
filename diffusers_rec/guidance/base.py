"""The guide's contract: a denoiser around a denoiser, which uses its three steps and changes what comes out."""

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
    """A denoiser that wraps ``base``. Encoding and condition are the base's unless a guide changes them.

    Args:
        base: A denoiser, its name or its config.
        schedule: Noise levels; shared, not owned.
        embedding: Item embedding, shared, for guides and bases that need it.
        head: Item head, shared, for guides and bases that need it.
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
        self._shared = (embedding, head, schedule)  # outside the module tree: their owner trains and saves them

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

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        self.base.check_fit(model)
        if self.prediction not in self.base_predicts:
            raise ValueError(
                f"The parts do not fit: {self.registered_name!r} wraps a denoiser that predicts "
                f"{' or '.join(self.base_predicts)}, but the base predicts {self.prediction}."
            )

    def with_settings(self, **settings: Any) -> Self:
        """The same guide, sharing all weights, with other settings for one call.

        Raises:
            ValueError: a setting that cannot change per call, or a value out of range.
        """
        for key in settings:
            if key not in self.per_call:
                raise ValueError(unknown_name(f"guidance setting of {self.registered_name!r}", key, self.per_call))
        changed = copy.copy(self)
        changed._set(**{name: settings.get(name, getattr(self, name)) for name in self.per_call})
        return changed

    def _set(self, **settings: Any) -> None:
        """Check the settings of :attr:`per_call` and keep them."""


def unwrapped(denoiser: Denoiser) -> Denoiser:
    """The backbone below all guides."""
    while isinstance(denoiser, Guide):
        denoiser = denoiser.base
    return denoiser


def guided(denoiser: Denoiser, guidance: Guidance) -> Denoiser:
    """A denoiser with the guidance of one call.

    Args:
        denoiser: Of a model.
        guidance: The scale alone, or a mapping of settings; None leaves the denoiser as it is.

    Raises:
        ValueError: a denoiser without such settings, or a wrong setting.
    """
    if guidance is None:
        return denoiser
    settings = dict(guidance) if isinstance(guidance, Mapping) else {"scale": guidance}
    guide = getattr(denoiser, "_orig_mod", denoiser)  # below what torch.compile wraps
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
