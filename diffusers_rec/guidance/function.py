r"""Steering by any differentiable score of the predicted distributions.

.. math:: \hat p(v_k) \propto p(v_k)\, \exp\big( w\, \partial s(p) / \partial p(v_k) \big)

is the tilt to first order of a score s of the distributions of all K positions. For a score that is linear in them,
such as a mean price, it is exact. Vignac et al. 2023, *DiGress*, Sec. 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float, shown
from diffusers_rec.core.registry import Config
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.guidance.base import Guide
from diffusers_rec.guidance.interval import acting, check_interval
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.schedules import NoiseSchedule


class FunctionGuide(Guide, name="function"):
    """Towards a higher score of the set, for the guidance of a call: no config can store a function.

    Args:
        base: A denoiser that predicts items, its name or its config.
        function: Differentiable score of the probabilities of R sets, from ``(R, K, V)`` to ``(R,)``. A position that
            is decided has probability 1 at its item. A score of a row must not depend on other rows. Without a
            function, the guide changes nothing.
        scale: Scale w of the gradient; negative for a lower score.
        start: Share of the chain after which the guide starts, in [0, 1]; see :mod:`diffusers_rec.guidance.interval`.
        stop: Share of the chain after which the guide stops, in [0, 1].
        schedule: See :class:`Guide`.
        embedding: See :class:`Guide`.
        head: See :class:`Guide`.
        dim: See :class:`Guide`.
        max_length: See :class:`Guide`.
        seed: See :class:`Guide`.

    Raises:
        TypeError: ``function`` cannot be called.
        ValueError: A setting is out of range.
    """

    per_call = "function", "scale", "start", "stop"
    call_needs = "function"
    base_predicts = ("items",)
    function: Callable[[Tensor], Tensor] | None
    scale: float
    start: float
    stop: float

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "joint",
        *,
        function: Callable[[Tensor], Tensor] | None = None,
        scale: float = 1.0,
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
        self._set(function=function, scale=scale, start=start, stop=stop)

    def config(self) -> Config:
        if self.function is not None:
            raise ValueError(
                "function: a config cannot store a function. Give it per call, as in model.slate(histories, "
                "guidance={'name': 'function', 'function': score})."
            )
        return super().config()

    def steer(self, log_probabilities: Tensor, timesteps: Tensor, items: Tensor) -> Tensor:
        given = super().steer(log_probabilities, timesteps, items)
        if self.function is None:
            return given
        steered = (given + self.scale * self._gradient(given, items)).log_softmax(-1)
        acts = acting(self.start, self.stop, timesteps, self.schedule.num_timesteps, together=True)
        return torch.where(acts[..., None], steered, given)

    def _gradient(self, log_probabilities: Tensor, items: Tensor) -> Tensor:
        """Gradient of the score in the probabilities, ``(R, K, V)``.

        Raises:
            ValueError: The score has another shape, no gradient, or a gradient that is not finite.
        """
        if self.function is None:
            raise RuntimeError("steer() calls the function only if there is one.")
        decided = torch.zeros_like(log_probabilities).scatter_(-1, items.clamp(min=0)[..., None], 1.0)
        probabilities = torch.where((items >= 0)[..., None], decided, log_probabilities.detach().exp())
        with torch.enable_grad():
            score = self.function(probabilities.requires_grad_())
            if not isinstance(score, Tensor) or score.shape != probabilities.shape[:1]:
                got = tuple(score.shape) if isinstance(score, Tensor) else shown(score)
                raise ValueError(
                    f"function: expected one score a set, ({len(probabilities)},), for probabilities "
                    f"{tuple(probabilities.shape)}, got {got}. Sum over positions and items."
                )
            if not score.requires_grad:
                raise ValueError(
                    "function: the score does not depend on the probabilities in a way that can be differentiated. Use "
                    "torch operations, without argmax, detach or a conversion to NumPy."
                )
            (gradient,) = torch.autograd.grad(score.sum(), probabilities)
        if not bool(gradient.isfinite().all()):
            raise ValueError(
                "function: the gradient of the score is not finite. Probabilities can be 0: use clamp before a "
                "logarithm or a root."
            )
        return gradient

    def _set(self, **settings: Any) -> None:
        function = settings["function"]
        if function is not None and not callable(function):
            raise TypeError(
                f"function must be a function of probabilities (R, K, V) that gives scores (R,), got {shown(function)}."
            )
        self.function = function
        self.scale = check_float("scale", settings["scale"])
        self.start, self.stop = check_interval(settings["start"], settings["stop"])
        self.steers = self.base.steers or function is not None
