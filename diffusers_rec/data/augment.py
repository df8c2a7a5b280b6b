r"""Augmentations: other histories that should be encoded like the given ones.

Three change a history of l items (Xie et al. 2022, *CL4SRec*, Sec. 3.3); a share r is that of its items:

- ``crop`` keeps :math:`\max(1, \lfloor r l \rfloor)` consecutive items;
- ``mask`` hides :math:`\lfloor r l \rfloor` items, each of which becomes :data:`MASKED`;
- ``reorder`` shuffles :math:`\lfloor r l \rfloor` consecutive items.

A history has no next item, so that no target can get into a view. All randomness comes from the generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import checked
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import uniform
from diffusers_rec.data.history import History

MASKED = -2
"""In ``items`` of a history with hidden items; no table of items has this index."""


@checked
def crop(history: History, generator: Generator, share: float = 0.6) -> History:
    """Keep consecutive items, with their times.

    Args:
        history: Items and lengths; latents are left out.
        generator: Source of the first item that is kept.
        share: Share of the items that are kept.
    """
    kept = _share_of(history.lengths, check_float("share", share, minimum=0, maximum=1)).clamp(min=1)
    kept = torch.minimum(kept, history.lengths)
    places = _starts(history.lengths - kept, generator)[:, None] + _places(history)
    places = places.clamp(max=max(history.items.shape[1] - 1, 0))
    times = None if history.times is None else history.times.gather(1, places)
    return _of_items(replace(history, lengths=kept, times=times), history.items.gather(1, places))


@checked
def mask(history: History, generator: Generator, share: float = 0.3) -> History:
    """Hide items; the others keep their places.

    Args:
        history: Items and lengths; latents are left out.
        generator: Source of the places.
        share: Share of the items that are hidden.
    """
    count = _share_of(history.lengths, check_float("share", share, minimum=0, maximum=1))
    order = _uniform(history.items.shape, generator, history).masked_fill(~history.mask, 2.0).argsort(1)
    hidden = torch.zeros_like(history.mask).scatter(1, order, _places(history) < count[:, None])
    return _of_items(history, history.items.masked_fill(hidden, MASKED))


@checked
def reorder(history: History, generator: Generator, share: float = 0.6) -> History:
    """Shuffle consecutive items; times stay in place, so that they still ascend.

    Args:
        history: Items and lengths; latents are left out.
        generator: Source of the first item and of the order.
        share: Share of the items that are shuffled.
    """
    count = _share_of(history.lengths, check_float("share", share, minimum=0, maximum=1))[:, None]
    first, places = _starts(history.lengths - count[:, 0], generator)[:, None], _places(history)
    shuffled = (places >= first) & (places < first + count)
    keys = first - 0.5 + count * _uniform(history.items.shape, generator, history)  # between those of the others
    order = torch.where(shuffled, keys, places.to(keys.dtype)).argsort(1)
    return _of_items(history, history.items.gather(1, order))


@dataclass(frozen=True)
class Augmentations:
    """Shares of the three augmentations.

    Args:
        crop: Share of the items that ``crop`` keeps.
        mask: Share of the items that ``mask`` hides.
        reorder: Share of the items that ``reorder`` shuffles.
    """

    crop: float = 0.6
    mask: float = 0.3
    reorder: float = 0.6

    made_by: ClassVar[str] = "Augmentations(crop=0.6, mask=0.3, reorder=0.6)"

    def __post_init__(self) -> None:
        for name in _CHANGES:
            object.__setattr__(self, name, check_float(name, getattr(self, name), minimum=0, maximum=1))

    def apply(self, name: str, history: History, generator: Generator) -> History:
        """Apply one augmentation, ``"crop"``, ``"mask"`` or ``"reorder"``, to all histories."""
        return _CHANGES[name](history, generator, getattr(self, name))

    def any_of(self, history: History, count: int, generator: Generator) -> list[History]:
        """Augment each history in ``count`` ways, each drawn from the three; they differ up to ``count`` 3.

        A history of one item stays as it is, unless the share of hidden items is 1.
        """
        check_int("count", count, minimum=1)
        ways = _uniform((len(history), len(_CHANGES)), generator, history).argsort(1)
        return [self._by_row(history, ways[:, view % len(_CHANGES)], generator) for view in range(count)]

    def _by_row(self, history: History, ways: Tensor, generator: Generator) -> History:
        """Each history augmented in the way of its row."""
        view = _of_items(history, history.items)
        for number, name in enumerate(_CHANGES):
            changed, here = self.apply(name, history, generator), ways == number
            times = None
            if changed.times is not None and view.times is not None:
                times = torch.where(here[:, None], changed.times, view.times)
            view = replace(
                view,
                items=torch.where(here[:, None], changed.items, view.items),
                lengths=torch.where(here, changed.lengths, view.lengths),
                times=times,
            )
        return view


def _share_of(lengths: Tensor, share: float) -> Tensor:
    return (lengths.double() * share).floor().to(lengths.dtype)


def _places(history: History) -> Tensor:
    return torch.arange(history.items.shape[1], device=history.items.device).expand(history.items.shape)


def _uniform(shape: tuple[int, ...], generator: Generator, like: History) -> Tensor:
    return uniform(shape, generator, device=like.items.device)


def _starts(last: Tensor, generator: Generator) -> Tensor:
    """A start in 0..last for each row."""
    numbers = uniform(last.shape, generator, device=last.device)
    return torch.minimum((numbers * (last + 1)).to(last.dtype), last)


def _of_items(history: History, items: Tensor) -> History:
    return replace(history, items=items, latents=None, copies=None, copy_steps=None)


_CHANGES: dict[str, Callable[[History, Generator, float], History]] = {"crop": crop, "mask": mask, "reorder": reorder}
