r"""The contract of a history encoder: the state of a user after each prefix of the history.

=================================  ==============================================================================
method                             when, and what it computes
=================================  ==============================================================================
``encode(history)``                once per history: everything that depends only on the history
``states(context, visible)``       once per call: the state after the first ``visible`` items, for each query
=================================  ==============================================================================

A state depends on the items of its prefix alone: not on later items, on padding, or on other rows. The conditional
denoisers build on it, and the denoiser ``plain`` predicts it: each encoder is a plain model and a diffusion model.

Two bases do the rest: :class:`CausalEncoder` for networks that compute all states at once, and :class:`PrefixEncoder`
for networks that read a whole sequence in both directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.processes.schedules.lookup import unexpanded


class HistoryEncoder(nn.Module, Component, ABC, kind="encoder"):
    """Computes states of histories. The docstring of the module explains the two methods.

    Args:
        dim: Width D of latents and states.
        max_length: Largest number of items.
        seed: Seed of the initial weights. With None they come from torch's random state, which a denoiser that builds
            its encoder has seeded.

    Attributes:
        penalised: Names of what :meth:`penalties` returns.
    """

    entrances = "encode", "states", "penalties"
    made_by: ClassVar[str] = "a registered encoder, such as GRUEncoder(dim)"
    any_length: ClassVar[bool] = True
    """Whether a trace of the encoder takes histories of any length; if not, of the length that it was traced with."""

    penalised: ClassVar[tuple[str, ...]] = ()

    def __init__(self, dim: int, max_length: int, seed: int | None) -> None:
        super().__init__()
        self.dim = check_int("dim", dim, minimum=1)
        self.max_length = check_int("max_length", max_length, minimum=1)
        self.seed = None if seed is None else check_int("seed", seed, minimum=0)

    @abstractmethod
    def encode(self, history: History) -> Any:
        """Compute everything that depends only on the history.

        Args:
            history: Histories with clean latents, ``history.latent()`` of shape ``(B, L, D)`` with L >= 1.

        Returns:
            A context for :meth:`states`, of any class.
        """

    @abstractmethod
    def states(self, context: Any, visible: Tensor) -> Tensor:
        """Compute the state after each prefix.

        Args:
            context: Result of :meth:`encode`.
            visible: Number of items of each prefix, at least 1, ``(B, Q)``.

        Returns:
            States, ``(B, Q, D)``.
        """

    def penalties(self, context: Any, visible: Tensor) -> Mapping[str, Tensor]:
        """Compute what terms of a loss can add to it, such as a divergence; nothing by default.

        In evaluation mode it draws no random numbers. A penalty may depend on other histories of the batch.

        Args:
            context: Result of :meth:`encode`.
            visible: Number of items of each prefix, at least 1, ``(B, Q)``.

        Returns:
            One number for each query, ``(B, Q)``, by the names of :attr:`penalised`.
        """
        return {}

    def forward(self, history: History) -> Any:
        """:meth:`encode`, or None for histories without a single place."""
        return self.encode(history) if history.items.shape[1] else None

    def after(self, context: Any, visible: Tensor, empty: Tensor) -> Tensor:
        """States after each prefix, of which some may be empty.

        Args:
            context: Result of :meth:`forward`.
            visible: Number of items of each prefix, ``(B, Q)``.
            empty: State of a prefix without items, ``(D,)``.

        Returns:
            States, ``(B, Q, D)``.
        """
        if context is None:
            return empty.expand(*visible.shape, -1)
        states = self.states(context, unexpanded(visible).clamp(min=1).expand(visible.shape))
        if states.shape != (*visible.shape, self.dim):
            raise ValueError(
                f"{type(self).__name__}: expected states {(*visible.shape, self.dim)}, got {tuple(states.shape)}."
            )
        return torch.where(visible[..., None] == 0, empty.to(states.dtype), states)

    def seeded(self) -> AbstractContextManager[None]:
        """Context in which a constructor draws the initial weights."""
        return nullcontext() if self.seed is None else isolated_rng(self.seed)


class CausalEncoder(HistoryEncoder):
    """An encoder that computes the states at all places at once."""

    @abstractmethod
    def sequence(self, latents: Tensor) -> Tensor:
        """Map latents ``(B, L, D)`` to the state at each place, ``(B, L, D)``, which depends on no later place."""

    def encode(self, history: History) -> Tensor:  # padding is after all visible items
        return self.sequence(history.latent())

    def states(self, context: Tensor, visible: Tensor) -> Tensor:
        return at_last(context, visible)


class PrefixEncoder(HistoryEncoder):
    """An encoder that reads a prefix as a sequence of its own, once per query."""

    @abstractmethod
    def last(self, latents: Tensor, lengths: Tensor) -> Tensor:
        """Map sequences ``(N, L, D)`` of ``lengths`` ``(N,)`` items, at least 1, to one state each, ``(N, D)``."""

    def encode(self, history: History) -> Tensor:
        return history.latent()

    def states(self, context: Tensor, visible: Tensor) -> Tensor:
        rows = torch.arange(visible.shape[0], device=visible.device)[:, None].expand(visible.shape)
        return self.last(context[rows.flatten()], visible.flatten()).view(*visible.shape, self.dim)


EncoderSpec = HistoryEncoder | str | Mapping[str, Any]
"""An encoder, its registered name or its config."""


def at_last(values: Tensor, visible: Tensor) -> Tensor:
    """Values ``(B, L, F)`` at the last of the ``visible`` ``(B, Q)`` items, at least 1, ``(B, Q, F)``."""
    return values.gather(1, (visible - 1)[..., None].expand(-1, -1, values.shape[-1]))


def encoder_of(spec: EncoderSpec, dim: int, max_length: int) -> HistoryEncoder:
    """Encoder of a part that builds one, with its widths and, of one given by name, with weights from its random state.

    Args:
        spec: An encoder, its name or its config.
        dim: Width D of the part.
        max_length: Largest number of positions of the part.

    Raises:
        ValueError: The encoder has another width, or takes fewer items than the part may show it.
    """
    encoder = HistoryEncoder.build_with({"dim": dim, "max_length": max_length, "seed": None}, spec)
    if encoder.dim != dim:
        raise ValueError(
            f"The parts do not fit: dim of the encoder is {encoder.dim}, dim of its owner is {dim}. Leave dim out of "
            "the encoder's config, or build it with the owner's."
        )
    if encoder.max_length < max_length - 1:
        raise ValueError(
            f"The parts do not fit: the encoder takes {encoder.max_length} items, its owner shows up to "
            f"{max_length - 1}. Raise max_length of the encoder."
        )
    return encoder
