r"""The exact posterior over discrete items, as a denoiser that needs no training.

For any next-item distribution :math:`p(v \mid \text{history})`, the posterior given :math:`x_n` is

.. math:: p(v \mid x_n, \text{history}) \propto p(v \mid \text{history})
          \exp \frac{\sqrt{\bar\alpha_n}\, x_n \cdot E_v - \frac12 \bar\alpha_n \|E_v\|^2}{1 - \bar\alpha_n},

and the best prediction of :math:`x_0` is the mean of :math:`E_v` under the posterior. At n = N the posterior is
:math:`p(v \mid \text{history})`. A reverse chain ends on an item that is drawn from this distribution. The exact
posterior is the reference for learned denoisers and for samplers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.guidance.base import Guide
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.process import GaussianProcess
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource

_LOGITS = 2**22  # maximum number of scores in memory


def posterior_mean(log_probabilities: Tensor, latents: Tensor, xn: Tensor, signal: Tensor, sigma: Tensor) -> Tensor:
    r"""Mean of :math:`E_v` under the exact posterior, for P noised latents that share M candidate items.

    Args:
        log_probabilities: Log-probabilities of the candidates given the history, up to a constant, ``(R, M)``.
        latents: Clean latents :math:`E_v` of the candidates, ``(R, M, D)``.
        xn: Noised latents, ``(R, P, D)``.
        signal: Signal :math:`\sqrt{\bar\alpha_n}`, ``(R, P, 1)``.
        sigma: Sigma :math:`\sqrt{1 - \bar\alpha_n}`, positive, ``(R, P, 1)``.

    Returns:
        Predicted clean latents, ``(R, P, D)``.
    """
    length = latents.square().sum(-1)[:, None]
    evidence = (signal * (xn @ latents.mT) - 0.5 * signal.square() * length) / sigma.square()
    return (log_probabilities[:, None] + evidence).softmax(-1) @ latents


class _Context(NamedTuple):
    """Context of the base, and the dtype of the latents."""

    base: Any
    dtype: torch.dtype


class _Condition(NamedTuple):
    """Condition of the base for Q queries, and M candidates for each of R positions.

    Attributes:
        base: Condition of the base.
        candidates: Log-probabilities ``(R, M)`` and latents ``(R, M, D)``; None in training mode.
        queries: Q.
    """

    base: Any
    candidates: tuple[Tensor, Tensor] | None
    queries: int


class PosteriorDenoiser(Guide, name="posterior"):
    """The exact posterior over the likeliest items of any next-item model.

    The next-item distribution is that of the head for the prediction of ``base`` at n = N, from the mean of the noise,
    zero. It is computed once for all steps of a chain. In training mode, this denoiser is identical to ``base``.

    Use it for chains, whose ends are samples. To rank, use ``base``, because one step of the posterior ends at the mean
    of the items' latents. The last step of a chain averages items that the noise at n = 1 does not separate. A schedule
    with a nearly clean first step (``cosine``) is therefore more exact than one with a negative ``log_snr_shift``. Each
    of several noised positions has its own posterior, given the history.

    ``base`` must have been trained with ``schedule``.

    Args:
        base: A denoiser, its name or its config; any next-item model with the contract of a denoiser.
        num_candidates: Number M of the likeliest items in the posterior; other items have probability zero.
        embedding: Item embedding, shared and not owned.
        head: Item head, shared and not owned.
        schedule: Noise schedule, shared and not owned.
        dim: Latent width D of a ``base`` given by name.
        max_length: Largest number of positions, for a ``base`` given by name.
        seed: Seed of the initial weights of a ``base`` given by name.
    """

    base_predicts = ("x0",)
    embedding: ItemEmbedding
    head: ItemHead

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        embedding: ItemEmbedding,
        head: ItemHead,
        schedule: NoiseSchedule,
        num_candidates: int = 500,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        super().__init__(
            base, schedule=schedule, embedding=embedding, head=head, dim=dim, max_length=max_length, seed=seed
        )
        self.num_candidates = check_int("num_candidates", num_candidates, minimum=1)

    def check_fit(self, model: Any) -> None:
        super().check_fit(model)
        if not isinstance(model.process, GaussianProcess):
            raise ValueError(
                "The parts do not fit: 'posterior' weighs items by Gaussian evidence, which latents of the process "
                f"{model.process.registered_name!r} do not give. Use process='gaussian'."
            )
        if not isinstance(model.source, ZeroSource):
            raise ValueError(
                "The parts do not fit: 'posterior' weighs items by latents that are centred on zero, but the source is "
                f"{model.source.registered_name!r}. Use source='zero'."
            )

    def encode(self, history: History) -> _Context:
        return _Context(self.base.encode(history), history.latent().dtype)

    def condition(self, context: _Context, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        condition = self.base.condition(context.base, queries, null=null)
        if self.training:
            return _Condition(condition, None, queries.positions.shape[1])
        batch, queried, corrupted = queries.positions.shape
        zeros = torch.zeros(batch, queried, corrupted, self.dim, dtype=context.dtype, device=queries.visible.device)
        last = torch.full_like(queries.visible, self.schedule.num_timesteps)
        predicted: Tensor = self.base(zeros, last, condition).flatten(0, 2)
        return _Condition(condition, self._candidates(predicted, context.dtype), queried)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if condition.candidates is None:
            predicted: Tensor = self.base(xn, timesteps, condition.base)
            return predicted
        log_probabilities, latents = condition.candidates
        signal, sigma = (level.expand(*xn.shape[:3], 1) for level in self.schedule.levels(xn, timesteps))
        # Draws of one query share its candidates: rows are (history, position), points are draws.
        queried = condition.queries
        points = xn.shape[1] // queried
        rows = [rearrange(part, "b (q p) k d -> (b q k) p d", q=queried, p=points) for part in (xn, signal, sigma)]
        mean = posterior_mean(log_probabilities, latents, *rows)
        return rearrange(mean, "(b q k) p d -> b (q p) k d", q=queried, k=xn.shape[2])

    def _candidates(self, predicted: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``(R, M)`` and latents ``(R, M, D)`` of the likeliest items at each of R positions."""
        parts: Sequence[Tensor] = [predicted]
        if not torch.compiler.is_compiling():  # where the number of rows is known
            parts = torch.split(predicted, max(1, _LOGITS // self.embedding.num_items))
        best = [
            self.head.logits(part).log_softmax(-1).topk(min(self.num_candidates, self.embedding.num_items), dim=-1)
            for part in parts
        ]
        items = torch.cat([part.indices for part in best])
        return torch.cat([part.values for part in best]).to(dtype), self.embedding(items).to(dtype)
