r"""The denoiser's contract: predict the clean latents, :math:`\hat x_0 = f_\theta(x_n, n \mid \text{history})`.

One shape serves everything. For each of B histories there are Q *independent* questions; a question is K noised
positions that see one another and the first ``visible[b, q]`` items of the history, nothing else::

    xn         (B, Q, K, D)
    timesteps  (B, Q) or (B, Q, K)
    visible    (B, Q)

Training on every position of a window is Q = L with ``visible`` = 1..L; serving S noise draws is Q = S with ``visible``
= the whole history; training on one target is Q = 1. The history is encoded once, by :meth:`Denoiser.encode`;
:meth:`Denoiser.forward` runs once a reverse step and reuses it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.registry import Component


def check_shapes(xn: Tensor, timesteps: Tensor, visible: Tensor, count: Tensor | None) -> None:
    """Refuse what would be broadcast to a wrong answer; a backbone asks it first.

    Raises:
        ValueError: shapes other than those of :meth:`Denoiser.forward`.
    """
    asked = xn.shape[:2]
    fits = xn.ndim == 4 and timesteps.shape in (asked, xn.shape[:3]) and visible.shape == asked
    if not fits or (count is not None and count.shape != asked):
        got = [None if part is None else tuple(part.shape) for part in (xn, timesteps, visible, count)]
        raise ValueError(
            "A denoiser takes xn (B, Q, K, D), timesteps (B, Q) or (B, Q, K), visible (B, Q) and count (B, Q) or None, "
            f"got {got[0]}, {got[1]}, {got[2]} and {got[3]}."
        )


class Denoiser(nn.Module, Component, ABC, kind="denoiser"):
    """Predicts clean latents. See the module's docstring for the shapes.

    Args:
        dim: D.
        max_length: the most positions a sequence may have, the noised ones included.
        seed: of the initial weights.
    """

    entrances = "encode", "forward"

    def __init__(self, dim: int, max_length: int, seed: int) -> None:
        super().__init__()
        self.dim = check_int("dim", dim, minimum=1)
        self.max_length = check_int("max_length", max_length, minimum=2)
        self.seed = check_int("seed", seed, minimum=0)

    @abstractmethod
    def encode(self, history: Tensor, mask: Tensor) -> Any:
        """Do once what depends on the history alone.

        Args:
            history: clean latents of the history, oldest first, padded at the end, ``(B, L, D)``.
            mask: True where an item is real, ``(B, L)``.

        Returns:
            A context for :meth:`forward`, whatever suits the backbone.
        """

    @abstractmethod
    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: Any, count: Tensor | None = None
    ) -> Tensor:
        """Predict the clean latents.

        Args:
            xn: noised latents at positions ``visible``, ``visible + 1``, ..., ``(B, Q, K, D)``.
            timesteps: n of each question, ``(B, Q)``, or of each position, ``(B, Q, K)``.
            visible: how many items of the history each question sees, ``(B, Q)``.
            context: from :meth:`encode`.
            count: how many of the K positions are real, ``(B, Q)``; all when None. What comes out at the others means
                nothing.

        Returns:
            The predicted clean latents, ``(B, Q, K, D)``.
        """
