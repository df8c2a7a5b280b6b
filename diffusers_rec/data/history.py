"""The history that conditions a prediction, in one value that every part takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import ClassVar

import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded

NO_ITEM = -1
"""In ``items`` of a history that is given by latents alone; no table of items has this index."""


@guarded
@dataclass(frozen=True, eq=False)
class History:
    """Items of B users, oldest first, padded behind; whatever else is known of them rides along.

    A part that needs no times, features or latents does not look at them; one that does calls :meth:`time`,
    :meth:`feature` or :meth:`latent`, whose errors say how to provide them.

    Args:
        items: Item indices, int64 ``(B, L)``; those of the padding are not used.
        lengths: Number of items in each row, int64 ``(B,)``.
        times: Time of each item, ``(B, L)``, in the unit of the log.
        features: Name to a tensor of one row a user, ``(B, ...)``.
        latents: Clean latents of the items, ``(B, L, D)``, as a denoiser takes them.
        copies: Noised copies of the latents, like ``latents``, in the training of a model that noises its history, too.
        copy_steps: Step n of each copy, int64 ``(B, L)``.

    Raises:
        ValueError: shapes that do not belong together.
        TypeError: items or lengths that are not int64.
    """

    made_by: ClassVar[str] = "History(items, lengths)"

    items: Tensor
    lengths: Tensor
    times: Tensor | None = None
    features: Mapping[str, Tensor] = field(default_factory=dict)
    latents: Tensor | None = None
    copies: Tensor | None = None
    copy_steps: Tensor | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.items.shape)
        if len(shape) != 2 or tuple(self.lengths.shape) != shape[:1]:
            raise ValueError(
                f"History: expected items (B, L) and lengths (B,), got {shape} and {tuple(self.lengths.shape)}."
            )
        for name in ("items", "lengths"):
            if getattr(self, name).dtype not in (torch.int32, torch.int64):
                raise TypeError(f"History: {name} must be int64 or int32, got {getattr(self, name).dtype}.")
        if (self.copies is None) != (self.copy_steps is None):
            raise ValueError("History: copies and copy_steps belong together. Give both, or none.")
        for name in ("times", "latents", "copies", "copy_steps"):
            part = getattr(self, name)
            if part is not None and tuple(part.shape[:2]) != shape:
                raise ValueError(f"History: {name} must begin with the shape of items, {shape}, got {part.shape}.")
        for name, feature in self.features.items():
            if not feature.ndim or len(feature) != shape[0]:
                raise ValueError(
                    f"History: feature {name!r} needs one row for each of the {shape[0]} users, "
                    f"got {tuple(feature.shape)}."
                )

    @classmethod
    def of_latents(cls, latents: Tensor, lengths: Tensor) -> History:
        """A history that is known by its latents alone, ``(B, L, D)``, for a denoiser without a catalogue.

        Raises:
            ValueError: latents that are infinite or NaN.
        """
        if not bool(latents.isfinite().all()):
            raise ValueError(
                f"History.of_latents: latents must be finite, but {int((~latents.isfinite()).sum())} of "
                f"{latents.numel()} are not. Replace them, with zeros where a row is padded."
            )
        items = torch.full(latents.shape[:2], NO_ITEM, device=latents.device)
        return cls(items, lengths, latents=latents)

    @classmethod
    def of_items(cls, items: Tensor, lengths: Tensor | None = None, *, padding: int | None = None) -> History:
        """Histories as other libraries pad them, before or behind the items.

        Args:
            items: Item indices, oldest first, int64 ``(B, L)``.
            lengths: Number of items in each row, ``(B,)``, where the padding is behind them; full rows if None.
            padding: Index that is no item, wherever it stands, in place of ``lengths``. Other indices stay as they are.

        Raises:
            ValueError: both lengths and padding, or lengths outside 0..L.
        """
        if padding is None:
            full = items.new_full(items.shape[:1], items.shape[-1]) if lengths is None else lengths
            if bool(((full < 0) | (full > items.shape[-1])).any()):
                raise ValueError(f"History.of_items: lengths must lie in 0..{items.shape[-1]}, got {full.tolist()}.")
            return cls(items, full)
        if lengths is not None:
            raise ValueError("History.of_items: give lengths or padding, not both.")
        is_padding = items == padding
        behind = is_padding.long().argsort(dim=-1, stable=True)
        return cls(items.masked_fill(is_padding, 0).gather(-1, behind), (~is_padding).sum(-1))

    def __len__(self) -> int:
        return len(self.items)

    @property
    def mask(self) -> Tensor:
        """True where an item is real, ``(B, L)``."""
        return torch.arange(self.items.shape[1], device=self.items.device) < self.lengths[:, None]

    def latent(self) -> Tensor:
        """The clean latents, ``(B, L, D)``.

        Raises:
            ValueError: the history has none.
        """
        if self.latents is None:
            raise ValueError("The history has no latents. Call history.with_latents(embedding(history.items)).")
        return self.latents

    def noised(self) -> tuple[Tensor, Tensor]:
        """The copies of the latents, ``(B, L, D)``, and their steps, ``(B, L)``; the clean latents at step 0 if none.

        Raises:
            ValueError: the history has no latents.
        """
        if self.copies is None or self.copy_steps is None:
            return self.latent(), torch.zeros_like(self.items)
        return self.copies, self.copy_steps

    def time(self) -> Tensor:
        """The times of the items, ``(B, L)``.

        Raises:
            ValueError: the history has none.
        """
        if self.times is None:
            raise ValueError("The history has no times. Keep them with interactions.sequences(times=True).")
        return self.times

    def feature(self, name: str) -> Tensor:
        """A feature of the users, ``(B, ...)``.

        Raises:
            ValueError: the history has none of this name.
        """
        if name not in self.features:
            known = ", ".join(self.features) or "none"
            raise ValueError(
                f"The history has no feature {name!r}, only: {known}. Give sequences.with_features({{{name!r}: ...}}) "
                "in training, and recommend(..., features=...) when serving."
            )
        return self.features[name]

    def with_latents(self, latents: Tensor) -> History:
        """The same history with clean latents, ``(B, L, D)``; values that are not numbers are carried along."""
        return replace(self, latents=latents)

    def take(self, rows: slice | Tensor) -> History:
        """The histories of some users."""
        return self._each(lambda part: part[rows])

    def first(self, length: int) -> History:
        """The first ``length`` positions of each row; lengths beyond them are cut."""
        if length >= self.items.shape[1]:
            return self
        return replace(
            self,
            items=self.items[:, :length],
            lengths=self.lengths.clamp(max=length),
            times=None if self.times is None else self.times[:, :length],
            latents=None if self.latents is None else self.latents[:, :length],
            copies=None if self.copies is None else self.copies[:, :length],
            copy_steps=None if self.copy_steps is None else self.copy_steps[:, :length],
        )

    def last(self, length: int) -> History:
        """The last ``length`` items of each row."""
        shift = (self.lengths - length).clamp(min=0)
        place = shift[:, None] + torch.arange(min(length, self.items.shape[1]), device=self.items.device)
        rows = torch.arange(len(self), device=self.items.device)[:, None]
        place = place.clamp(max=self.items.shape[1] - 1)
        of_items = ("items", "times", "latents", "copies", "copy_steps")
        parts = {name: part[rows, place] for name in of_items if (part := getattr(self, name)) is not None}
        return replace(self, lengths=self.lengths.clamp(max=length), **parts)

    def blank(self) -> History:
        """The same history with item 0 at time 0 in the padding; latents are left out."""
        times = None if self.times is None else self.times.masked_fill(~self.mask, 0)
        items = self.items.masked_fill(~self.mask, 0)
        return replace(self, items=items, times=times, latents=None, copies=None, copy_steps=None)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> History:
        """The same history on another device."""
        return self._each(lambda part: part.to(device, non_blocking=non_blocking))

    def _each(self, change: Callable[[Tensor], Tensor]) -> History:
        """With every tensor changed."""
        parts = {each.name: getattr(self, each.name) for each in fields(self)}
        changed = {name: change(part) for name, part in parts.items() if isinstance(part, Tensor)}
        return replace(self, **changed, features={name: change(part) for name, part in self.features.items()})
