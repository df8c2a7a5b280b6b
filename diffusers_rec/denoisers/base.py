r"""The denoiser's contract, in three steps, each of which runs as rarely as it can.

=================================  ==============================================================================
``encode(history)``                once a history: what depends on nothing else
``condition(context, queries)``    once a call: what the queries see, the same at every reverse step and noise draw
``forward(xn, timesteps, cond.)``  once a step: :math:`f_\theta(x_n, n \mid \text{history})`
=================================  ==============================================================================

For each of B histories there are Q *independent* queries; a query is K corrupted positions that see one another and the
first ``visible[b, q]`` items of the history, nothing else. Training on every position of a window is Q = L with
``visible`` = 1..L. Of S noise draws all share the condition of one query: a condition of Q = 1 meets latents
``(B, S, K, D)``.

With ``null`` a query sees nothing of the history: the *null condition*, on which guidance is built. Two conditions thus
share one encoding.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from torch import Generator, Tensor, nn

from diffusers_rec.core.errors import check_int, check_same
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.prediction import PREDICTIONS


def check_shapes(xn: Tensor, timesteps: Tensor) -> None:
    """Refuse what would be broadcast to a wrong prediction; a backbone calls it first.

    Raises:
        ValueError: shapes other than those of :meth:`Denoiser.forward`.
    """
    if xn.ndim != 4 or timesteps.shape not in (xn.shape[:2], xn.shape[:3]):
        raise ValueError(
            "A denoiser takes xn (B, Q, K, D) and timesteps (B, Q) or (B, Q, K), "
            f"got {tuple(xn.shape)} and {tuple(timesteps.shape)}."
        )


class Denoiser(nn.Module, Component, ABC, kind="denoiser"):
    """Predicts clean latents, or the noise in them. See the module's docstring for its three steps.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, the corrupted ones included.
        seed: Seed of the initial weights.

    Attributes:
        prediction: What :meth:`forward` gives: ``"x0"``, ``"noise"`` or ``"velocity"``.
        user_features: Features of the users that :meth:`encode` reads by ``history.feature(name)``: name to the shape
            of one row. The contract checks supply them as whole numbers.
    """

    entrances = "encode", "condition", "forward", "hidden"
    made_by: ClassVar[str] = "a registered denoiser, such as ConditionalMLPDenoiser(dim)"
    prediction: str = "x0"
    user_features: Mapping[str, tuple[int, ...]] = MappingProxyType({})

    def __init__(self, dim: int, max_length: int, seed: int) -> None:
        super().__init__()
        self.dim = check_int("dim", dim, minimum=1)
        self.max_length = check_int("max_length", max_length, minimum=2)
        self.seed = check_int("seed", seed, minimum=0)

    @abstractmethod
    def encode(self, history: History) -> Any:
        """Compute what depends on the history alone.

        Args:
            history: Histories with clean latents, ``history.latent()`` of shape ``(B, L, D)``.

        Returns:
            A context for :meth:`condition`, of any class.
        """

    @abstractmethod
    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> Any:
        """Compute what the queries see, once for all reverse steps and noise draws.

        Args:
            context: Result of :meth:`encode`.
            queries: Q queries a history.
            null: Queries that see nothing of the history: all, none, or those where ``(B, Q)`` is True.
                ``queries.blind(null)`` hides the items; features of the users are hidden beside them.

        Returns:
            A condition for :meth:`forward`, of any class.
        """

    @abstractmethod
    def forward(self, xn: Tensor, timesteps: Tensor, condition: Any) -> Tensor:
        """Predict.

        Args:
            xn: Corrupted latents, ``(B, Q, K, D)``.
            timesteps: Step n of each query, ``(B, Q)``, or of each position, ``(B, Q, K)``.
            condition: Result of :meth:`condition`, for the Q queries or for one that all Q draws share.

        Returns:
            The prediction, ``(B, Q, K, D)``; undefined at positions that are padding.
        """

    def hidden(self, queries: Queries, generator: Generator) -> bool | Tensor:
        """Queries of a training batch that see nothing of the history, as :meth:`condition` takes them in ``null``.

        Args:
            queries: Q queries a history.
            generator: Source of the draw.

        Returns:
            False, for none, unless a guide draws them.
        """
        return False

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("dim of the denoiser", self.dim, "dim of the embedding", model.embedding.dim)
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"{type(self).__name__}: prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}."
            )
        if self.prediction == "noise" and not model.schedule.alpha_bar[-1]:
            raise ValueError(
                "The parts do not fit: at the last step the schedule leaves no signal, and a noise prediction says "
                "nothing of the clean latent there. Use a denoiser that predicts 'velocity' or 'x0'."
            )
