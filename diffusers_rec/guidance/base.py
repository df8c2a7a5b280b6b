"""The contract of a guide: a denoiser that wraps another one and changes its prediction."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Generator, Tensor

from diffusers_rec.core.errors import shown
from diffusers_rec.core.registry import unknown_name
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.prediction import PREDICTIONS
from diffusers_rec.processes.schedules import NoiseSchedule

Guidance = float | Mapping[str, Any] | Sequence[float | Mapping[str, Any]] | None
"""Guidance of one call: a scale or settings of the model's guide, the config of a further guide, or a list of these."""


class Guide(Denoiser):
    """A denoiser that wraps ``base``. By default, it has the encoding, the condition and the prediction of ``base``.

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
    needs_training: ClassVar[bool] = False
    """Whether a model must have been trained with the guide."""
    call_needs: ClassVar[str | None] = None
    """Setting without which the guide, added for one call, would change nothing."""

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
        self.steers, self.reads_copies = built.steers, built.reads_copies
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

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Any) -> Tensor:
        prediction: Tensor = self.base(xn, timesteps, condition)
        return prediction

    @property
    def penalised(self) -> tuple[str, ...]:
        return self.base.penalised

    def fit(self, counts: Tensor) -> None:
        self.base.fit(counts)

    def penalties(self, context: Any, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        return self.base.penalties(context, queries, items)

    def hidden(self, queries: Queries, generator: Generator) -> bool | Tensor:
        return self.base.hidden(queries, generator)

    def steer(self, log_probabilities: Tensor, timesteps: Tensor, items: Tensor) -> Tensor:
        return self.base.steer(log_probabilities, timesteps, items)

    @classmethod
    def of_call(cls, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        """Settings of a guide that is added for one call, with raw item ids in terms of the vocabulary."""
        return dict(settings)

    def check_request(self, items: Tensor, allowed: Tensor, *, distinct: bool) -> None:
        """Check that what the guide wants can be reached, before gaps are filled in.

        Args:
            items: Items at the K positions, -1 at the gaps, ``(B, K)``.
            allowed: Items that may be filled in, ``(B, V)``.
            distinct: Whether no item may stand twice.

        Raises:
            ValueError: It cannot.
        """
        if isinstance(self.base, Guide):
            self.base.check_request(items, allowed, distinct=distinct)

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        self.base.check_fit(model)
        if self.prediction not in self.base_predicts:
            raise ValueError(
                f"The parts do not fit: {self.registered_name!r} wraps a denoiser that predicts "
                f"{' or '.join(self.base_predicts)}, but the base predicts {self.prediction}."
                + (" Build the model with presets.joint(items)." if self.base_predicts == ("items",) else "")
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
        """Store the settings of :attr:`per_call`. Override it to check them first."""
        for name, value in settings.items():
            setattr(self, name, value)


def unwrapped(denoiser: Denoiser) -> Denoiser:
    """Backbone within all guides."""
    while isinstance(denoiser, Guide):
        denoiser = denoiser.base
    return denoiser


def guided(denoiser: Denoiser, guidance: Guidance, model: Any = None) -> Denoiser:
    """Denoiser with the guidance of one call.

    Args:
        denoiser: Denoiser of a model.
        guidance: Scale or mapping of settings of the denoiser's own guide; a mapping with the ``"name"`` of a further
            guide and its settings, which wraps the denoiser for this call; or a list of these, the innermost guide
            first. The denoiser is unchanged if None.
        model: Model whose schedule, embedding, head and vocabulary a further guide uses.

    Raises:
        ValueError: The denoiser does not have these settings, a setting is invalid, or a further guide does not fit the
            model.
    """
    if guidance is None:
        return denoiser
    each = list(guidance) if isinstance(guidance, list | tuple) else [guidance]
    further = [one for one in each if isinstance(one, Mapping) and "name" in one]
    for one in each:
        if not any(one is other for other in further):
            denoiser = _with_own(denoiser, one, model)
    for one in further:
        denoiser = _wrapped(denoiser, one, model)
    return denoiser


def guides_of(denoiser: Denoiser) -> Iterator[Guide]:
    """The guides that wrap a backbone, the outermost first."""
    while isinstance(denoiser, Guide):
        yield denoiser
        denoiser = denoiser.base


def _with_own(denoiser: Denoiser, guidance: Any, model: Any) -> Denoiser:
    """Denoiser whose own guide has the settings of one call."""
    settings = dict(guidance) if isinstance(guidance, Mapping) else {"scale": guidance}
    guide = getattr(denoiser, "_orig_mod", denoiser)  # the module that torch.compile wraps
    if isinstance(guide, Guide) and not guide.per_call and isinstance(guide.base, Guide):
        changed = copy.copy(guide)
        changed._modules = {**guide._modules, "base": _with_own(guide.base, guidance, model)}
        return changed
    if not isinstance(guide, Guide) or not guide.per_call:
        own = f" {guide.registered_name!r} lists no settings in per_call." if isinstance(guide, Guide) else ""
        raise ValueError(
            f"guidance={shown(guidance)}, but the model has no guide with settings of a call.{own} Build it with "
            "denoiser={'name': 'classifier-free', 'base': ...}, which training needs as well. A mapping with a 'name', "
            "such as {'name': 'attribute', 'values': ...}, adds a guide for one call."
        )
    if not isinstance(guidance, Mapping) and "scale" not in guide.per_call:
        raise ValueError(
            f"guidance={guidance!r} sets a scale, but the guide {guide.registered_name!r} has none. Pass a mapping "
            f"of its settings: {', '.join(guide.per_call)}."
        )
    if model is None:
        return guide.with_settings(**settings)
    changed = guide.with_settings(**guide.of_call(settings, model.vocabulary))
    changed.check_fit(model)
    return changed


def _wrapped(denoiser: Denoiser, config: Mapping[str, Any], model: Any) -> Denoiser:
    """Denoiser within a further guide that shares all weights."""
    name = config["name"]
    if model is None:
        raise ValueError(
            f"The guide {name!r} needs a model, whose parts it shares. Use the guidance of one of its calls."
        )
    cls, base = Guide.named(name), getattr(denoiser, "_orig_mod", denoiser)
    if cls.needs_training:
        raise ValueError(
            f"guidance names {name!r}, which a model must be trained with: denoiser={{'name': {name!r}, 'base': ...}}. "
            "A model that was takes its settings without a name, such as guidance=2.0."
        )
    if "base" in config:
        raise ValueError(f"guidance of {name!r} has a base, but it wraps the model's own denoiser. Remove the base.")
    if cls.call_needs is not None and config.get(cls.call_needs) is None:
        raise ValueError(
            f"guidance of {name!r} lacks {cls.call_needs}, without which it changes nothing. "
            f"help(diffusers_rec.{cls.__name__}) lists its settings."
        )
    shared = {"schedule": model.schedule, "embedding": model.embedding, "head": model.head}
    guide = Guide.build_with({**shared, "base": base}, cls.of_call(config, model.vocabulary))
    guide.check_fit(model)
    return guide.train(denoiser.training)
