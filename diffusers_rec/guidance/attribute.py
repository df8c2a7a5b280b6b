r"""Steering by an attribute of the items: a genre, a brand, a price.

.. math:: \hat p(v) \propto p(v)\, e^{w a_v}

with values a over the items and a scale w. This is the distribution nearest to p, in relative entropy, among those with
its mean of a. For values 0 and 1, a wanted number of items with the attribute can take the place of the scale:
:mod:`diffusers_rec.guidance.counts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float, check_int, shown
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.guidance.base import Guide, guides_of
from diffusers_rec.guidance.counts import given_count
from diffusers_rec.guidance.interval import acting, check_interval
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.schedules import NoiseSchedule


class AttributeGuide(Guide, name="attribute"):
    """Towards items with an attribute, or away from them; or to a wanted share of them in every set.

    With ``share`` or ``count``, the distribution of each position is the exact one given the wanted number, as if the
    open positions were independent. A sampler that fills one position at a time, as ``unmask`` does by default, then
    gives exactly the wanted number. If it fills several at once, the number is right on average; in Gaussian chains it
    is approximate. The set is all K positions, those that are known included. A scale would have no effect: given the
    number, a tilt cancels.

    A chain adds the tilts of several guides. Put one with ``share`` or ``count`` last; there can be one.

    Args:
        base: A denoiser that predicts items, its name or its config.
        values: Values of the items in the order of the vocabulary, ``(V,)``; in the guidance of a call also a mapping
            from raw ids to numbers, in which absent items have 0 and items that the model does not know are left out.
            Without values, the guide changes nothing.
        scale: Scale w of the tilt; negative to steer away.
        share: Wanted share of the K items of a set with the attribute, in [0, 1]; the nearest number is taken. The
            values must be 0 and 1.
        count: Wanted number of items of a set with the attribute, in place of ``share``.
        start: Share of the chain after which the guide starts, in [0, 1]; see :mod:`diffusers_rec.guidance.interval`.
            In chains of the absorbing process it is the share of positions that are filled.
        stop: Share of the chain after which the guide stops, in [0, 1].
        schedule: See :class:`Guide`.
        embedding: See :class:`Guide`.
        head: See :class:`Guide`.
        dim: See :class:`Guide`.
        max_length: See :class:`Guide`.
        seed: See :class:`Guide`.

    Raises:
        ValueError: Values that are not finite, or neither 0 nor 1 beside ``share`` or ``count``; both of these; a
            setting out of range.
        TypeError: Values that are no numbers.
    """

    per_call = "values", "scale", "share", "count", "start", "stop"
    call_needs = "values"
    base_predicts = ("items",)
    scale: float
    share: float | None
    count: int | None
    start: float
    stop: float

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "joint",
        *,
        values: Sequence[float] | np.ndarray | Tensor | None = None,
        scale: float = 1.0,
        share: float | None = None,
        count: int | None = None,
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
        self._set(values=values, scale=scale, share=share, count=count, start=start, stop=stop)

    @property
    def values(self) -> list[float] | None:
        """Values of the items, ``(V,)``."""
        return None if self._values is None else self._values.tolist()

    @classmethod
    def of_call(cls, settings: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
        values = settings.get("values")
        if not isinstance(values, Mapping):
            return dict(settings)
        known = {each: value for each, value in values.items() if each in vocabulary}
        if not values:
            raise ValueError("attribute: values is empty, and would change nothing. Give numbers for some ids.")
        if not known:
            raise ValueError(
                f"attribute: the model knows none of the ids in values, such as {shown(next(iter(values)))}. Its "
                f"first ids are {shown(list(vocabulary.ids[:3]))}."
            )
        over_items = torch.zeros(len(vocabulary), dtype=torch.float64)
        over_items[torch.from_numpy(vocabulary.encode(list(known)))] = _numbers(list(known.values()))
        return {**settings, "values": over_items}

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        if self._values is not None and len(self._values) != len(model.vocabulary):
            raise ValueError(
                f"attribute: values must hold one number for each of the {len(model.vocabulary)} items, in the order "
                f"of model.vocabulary, got {len(self._values)}. A mapping from ids to numbers needs no order."
            )
        others = [guide for guide in guides_of(self.base) if isinstance(guide, AttributeGuide)]
        if self._counts and any(guide._counts for guide in others):
            raise ValueError(
                "attribute: one share or count can be wanted at a time, got two. Give the other attribute a scale."
            )

    def check_request(self, items: Tensor, allowed: Tensor, *, distinct: bool) -> None:
        super().check_request(items, allowed, distinct=distinct)
        if self._values is None or not self._counts:
            return
        has = self._values.to(items.device).bool()
        width, wanted = items.shape[1], self._wanted(items.shape[1])
        gaps = (items < 0).sum(1)
        held = (has[items.clamp(min=0)] & (items >= 0)).sum(1)
        free = [(allowed & (has == value)).sum(1) for value in (True, False)]
        with_it, without = free if distinct else [torch.where(each > 0, gaps, 0) for each in free]
        least = held + (gaps - without).clamp(min=0)
        most = held + torch.minimum(gaps, with_it)
        wrong = (wanted < least) | (wanted > most)
        if bool(wrong.any()):
            row = int(wrong.int().argmax())
            raise ValueError(
                f"attribute: {self._wish} means {wanted} of {width} items with the attribute, but between "
                f"{int(least[row])} and {int(most[row])} are possible: {int(held[row])} of those that are known have "
                f"it, {int(gaps[row])} are to be filled in, and of the items that may be chosen {int(free[0][row])} "
                "have it. Change the wish, or allow more items."
            )

    def steer(self, log_probabilities: Tensor, timesteps: Tensor, items: Tensor) -> Tensor:
        given = super().steer(log_probabilities, timesteps, items)
        if self._values is None:
            return given
        values = self._values.to(given)
        if self._counts:
            steered = given_count(given, values.bool(), items, self._wanted(items.shape[1]))
        else:
            steered = (given + self.scale * values).log_softmax(-1)
        if self.start == 0 and self.stop == 1:
            return steered
        acts = acting(self.start, self.stop, timesteps, self.schedule.num_timesteps, together=True)
        return torch.where(acts[..., None], steered, given)

    @property
    def _counts(self) -> bool:
        return self.share is not None or self.count is not None

    @property
    def _wish(self) -> str:
        return f"share={self.share:g}" if self.share is not None else f"count={self.count}"

    def _wanted(self, width: int) -> int:
        """Wanted number of K = ``width`` items with the attribute.

        Raises:
            ValueError: The count is above K.
        """
        if self.share is not None:
            return math.floor(self.share * width + 0.5)
        wanted = self.count or 0
        if wanted > width:
            raise ValueError(
                f"attribute: count={wanted} items with the attribute are wanted of a set of {width}. Use a count of at "
                f"most {width}, or a larger set."
            )
        return wanted

    def _set(self, **settings: Any) -> None:
        self.scale = check_float("scale", settings["scale"])
        self.share = (
            None if settings["share"] is None else check_float("share", settings["share"], minimum=0, maximum=1)
        )
        self.count = None if settings["count"] is None else check_int("count", settings["count"], minimum=0)
        self.start, self.stop = check_interval(settings["start"], settings["stop"])
        self._values = None if settings["values"] is None else _numbers(settings["values"])
        self.steers = self.base.steers or self._values is not None
        if self.share is not None and self.count is not None:
            raise ValueError(f"attribute: got share={self.share:g} and count={self.count}. Give one of the two.")
        if self._counts and self._values is not None and bool(((self._values != 0) & (self._values != 1)).any()):
            other = self._values[(self._values != 0) & (self._values != 1)]
            raise ValueError(
                f"attribute: {self._wish} counts items whose value is 1, so values must be 0 or 1, got "
                f"{float(other[0]):g}. Use a scale for other values."
            )


def _numbers(values: Any) -> Tensor:
    """Finite numbers, float64 ``(V,)``.

    Raises:
        ValueError: Values that are not finite, or of another shape.
        TypeError: Values that are no numbers.
    """
    try:
        numbers = torch.as_tensor(np.asarray(values, dtype=np.float64) if not isinstance(values, Tensor) else values)
    except (TypeError, ValueError):
        raise TypeError(f"attribute: values must be numbers over the items, got {shown(values)}.") from None
    if numbers.ndim != 1:
        raise ValueError(f"attribute: values must be numbers (V,), one an item, got the shape {tuple(numbers.shape)}.")
    numbers = numbers.detach().cpu().double()
    if not bool(numbers.isfinite().all()):
        place = int((~numbers.isfinite()).int().argmax())
        raise ValueError(f"attribute: values must be finite numbers, got {float(numbers[place])} for item {place}.")
    return numbers
