r"""The contract of a denoiser: three methods, so that nothing is computed twice.

=================================  ==============================================================================
method                             when, and what it computes
=================================  ==============================================================================
``encode(history)``                once per history: everything that depends only on the history
``condition(context, queries)``    once per call: everything that the queries see, for all steps and noise draws
``forward(xn, timesteps, cond.)``  once per step: :math:`f_\theta(x_n, n \mid \text{history})`
=================================  ==============================================================================

Each of B histories has Q *independent* queries. A query consists of K corrupted positions, which see each other and the
first ``visible[b, q]`` items of the history, and nothing else. Training on every position of a window has Q = L and
``visible`` = 1..L. S noise draws share the condition of one query: a condition with Q = 1 is combined with latents
``(B, S, K, D)``.

With ``null``, a query sees nothing of the history. Guidance uses this *null condition*. Both conditions share one
encoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from diffusers_rec.core.errors import check_int, check_same
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.prediction import PREDICTIONS
from diffusers_rec.processes.source import ZeroSource


def check_shapes(xn: Tensor, timesteps: Tensor) -> None:
    """Reject shapes that would be broadcast to a wrong prediction; a backbone calls this function first.

    Raises:
        ValueError: Shapes differ from those of :meth:`Denoiser.forward`.
    """
    if xn.ndim != 4 or timesteps.shape not in (xn.shape[:2], xn.shape[:3]):
        raise ValueError(
            "A denoiser takes xn (B, Q, K, D) and timesteps (B, Q) or (B, Q, K), "
            f"got {tuple(xn.shape)} and {tuple(timesteps.shape)}."
        )


class Denoiser(nn.Module, Component, ABC, kind="denoiser"):
    """Predicts clean latents, noise or velocities. The docstring of the module explains the three methods.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, the corrupted ones included.
        seed: Seed of the initial weights.

    Attributes:
        prediction: Quantity that :meth:`forward` predicts: ``"x0"``, ``"noise"``, ``"velocity"``, or ``"items"``: what
            the head turns into the logits of the item, given the history and the other positions.
        reads_xn: Whether the prediction depends on the corrupted latents.
        steers: Whether :meth:`steer` changes anything.
        reads_copies: Whether :meth:`encode` reads the noised copies of the history, ``history.noised()``.
        user_features: Shape of one row of each user feature that :meth:`encode` reads by ``history.feature(name)``, by
            name. The contract checks supply integers.
    """

    entrances = "encode", "condition", "forward", "hidden"
    made_by: ClassVar[str] = "a registered denoiser, such as ConditionalMLPDenoiser(dim)"
    prediction: str = "x0"
    reads_xn: bool = True
    steers: bool = False
    reads_copies: bool = False
    user_features: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def __init__(self, dim: int, max_length: int, seed: int) -> None:
        super().__init__()
        self.dim = check_int("dim", dim, minimum=1)
        self.max_length = check_int("max_length", max_length, minimum=2)
        self.seed = check_int("seed", seed, minimum=0)

    @abstractmethod
    def encode(self, history: History) -> Any:
        """Compute everything that depends only on the history.

        Args:
            history: Histories with clean latents, ``history.latent()`` of shape ``(B, L, D)``.

        Returns:
            A context for :meth:`condition`, of any class.
        """

    @abstractmethod
    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> Any:
        """Compute everything that the queries see, once for all reverse steps and noise draws.

        Args:
            context: Result of :meth:`encode`.
            queries: Q queries per history.
            null: Queries that see nothing of the history: all, none, or those where ``(B, Q)`` is True.
                ``queries.blind(null)`` hides the items; the denoiser must also hide user features.

        Returns:
            A condition for :meth:`forward`, of any class.
        """

    @abstractmethod
    def forward(self, xn: Tensor, timesteps: Tensor, condition: Any) -> Tensor:
        """Predict x0, noise, velocity, or what the head turns into logits.

        Args:
            xn: Corrupted latents, ``(B, Q, K, D)``.
            timesteps: Step n of each query, ``(B, Q)``, or of each position, ``(B, Q, K)``; 0 where a latent is clean.
            condition: Result of :meth:`condition`, for the Q queries or for one that all Q draws share.

        Returns:
            Prediction, ``(B, Q, K, D)``; undefined at padded positions.
        """

    @property
    def penalised(self) -> tuple[str, ...]:
        """Names of what :meth:`penalties` returns: those of the history encoder, if there is one."""
        encoder = getattr(self, "encoder", None)
        return encoder.penalised if isinstance(encoder, HistoryEncoder) else ()

    def fit(self, counts: Tensor) -> None:
        """Learn how often each item occurs in the training sequences; nothing by default.

        Args:
            counts: Numbers of occurrences, ``(V,)``.
        """

    def given(self) -> dict[str, Tensor]:
        """Tensors that the user gave in addition to the settings, by name, such as features of items; none by default.

        They belong to the identity of a training run.
        """
        return {}

    def penalties(self, context: Any, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        """Compute penalties, for terms of the loss: by default those of the history encoder.

        Args:
            context: Result of :meth:`encode`.
            queries: Q queries per history.
            items: True items at the positions of the queries, ``(B, Q, K)``.

        Returns:
            One number for each query, ``(B, Q)``, by name; 0 where a query sees nothing.
        """
        encoder, visible = getattr(self, "encoder", None), queries.visible
        if not isinstance(encoder, HistoryEncoder) or context is None:
            return {name: torch.zeros_like(visible, dtype=torch.float32) for name in self.penalised}
        found = encoder.penalties(context, visible.clamp(min=1))
        return {name: value.masked_fill(visible == 0, 0) for name, value in found.items()}

    def steer(self, log_probabilities: Tensor, timesteps: Tensor, items: Tensor) -> Tensor:
        """Change the predicted distributions of the items, for a prediction of ``"items"``; guides do.

        Args:
            log_probabilities: Log-probabilities of the items at the K positions of R draws, ``(R, K, V)``.
            timesteps: Steps of the positions, ``(R, K)``.
            items: Items that are decided already, -1 elsewhere, ``(R, K)``.

        Returns:
            Log-probabilities, ``(R, K, V)``.
        """
        return log_probabilities

    def hidden(self, queries: Queries, generator: Generator) -> bool | Tensor:
        """Queries of a training batch that see nothing of the history, for the argument ``null`` of :meth:`condition`.

        Args:
            queries: Q queries per history.
            generator: Generator of the random numbers.

        Returns:
            False, for no queries, unless a guide draws some.
        """
        return False

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("dim of the denoiser", self.dim, "dim of the embedding", model.embedding.dim)
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"{type(self).__name__}: prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}."
            )
        if self.prediction == "items" and not isinstance(model.source, ZeroSource):
            raise ValueError(
                "The parts do not fit: a prediction of items weighs latents that are centred on zero, but the source "
                f"is {model.source.registered_name!r}. Use source='zero'."
            )
        if self.prediction == "noise" and not model.schedule.alpha_bar[-1]:
            raise ValueError(
                "The parts do not fit: at the last step the schedule leaves no signal, so a noise prediction does "
                "not determine the clean latent there. Use a denoiser that predicts 'velocity' or 'x0'."
            )
