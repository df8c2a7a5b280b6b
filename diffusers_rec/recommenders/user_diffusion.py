"""Gaussian diffusion of user vectors."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.processes.process import GaussianProcess
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.user_vectors import UserVectorModel


@guarded
class GaussianVectorModel(UserVectorModel):
    """A model of user vectors that corrupts them by Gaussian noise.

    Args:
        items: Item ids that can be recommended.
        schedule: Noise levels of the steps.
        weighting: Weights of the squared errors: ``"bound"``, or ``"uniform"`` for 1 at all steps.
        settings: Those of :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
    """

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        schedule: NoiseSchedule | str | Mapping[str, Any],
        weighting: str,
        **settings: Any,
    ) -> None:
        built = NoiseSchedule.build(schedule)
        super().__init__(items, num_timesteps=built.num_timesteps, hidden_dropout=0.0, **settings)
        self.schedule, self.process = built, GaussianProcess(built)
        self.weighting = check_choice("weighting", weighting, ("bound", "uniform"))

    def _corrupt(self, x0: Tensor, timesteps: Tensor, generator: Generator) -> Tensor:
        """Draw vectors at step n with standard Gaussian noise (Eq. 2)."""
        return self.process.corrupt(x0, timesteps, generator).xn

    def _reverse(self, x0: Tensor, xn: Tensor, n: int, history: Tensor) -> Tensor:
        """The mean of the posterior, Eq. 3."""
        return self.schedule.posterior(x0, xn, torch.full((len(xn),), n, device=xn.device))[0]

    def _loss_weight(self, timesteps: Tensor) -> Tensor:
        """The weight of the bound, or 1."""
        return self.process.bound_weight(timesteps) if self.weighting == "bound" else torch.ones_like(timesteps)

    def _seen_step(self, timesteps: Tensor) -> Tensor:
        """The step, counted from 0."""
        return timesteps - 1


@guarded
class UserVectorDiffusion(GaussianVectorModel, model_name="user-vector-diffusion"):
    r"""Gaussian diffusion of user vectors (Wang et al. 2023, *Diffusion Recommender Model*).

    .. math:: x_n = \sqrt{\bar\alpha_n}\, x_0 + \sqrt{1 - \bar\alpha_n}\, \epsilon, \qquad
              \mathcal L = \frac{1}{V} \sum_{n} \frac{w_n}{N}\, \|x_0 - f_\theta(x_n, n)\|^2

    with the weights of :meth:`GaussianProcess.bound_weight <diffusers_rec.GaussianProcess.bound_weight>`. A reverse
    step is the mean of Eq. 3. With ``oldest_weight`` below 1, it is T-DiffRec.

    Args:
        items: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        schedule: Noise levels of the steps.
        widths: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        max_length: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        oldest_weight: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        timesteps: Steps that are trained on; ``"importance"`` learns from the weighted losses.
        weighting: Weights w: ``"bound"``, or ``"uniform"`` for 1 at all steps.
        step_dim: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        dropout: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        temperature: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        seed: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
    """

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        schedule: NoiseSchedule | str | Mapping[str, Any],
        widths: Sequence[int] = (1000,),
        max_length: int = 1000,
        oldest_weight: float = 1.0,
        timesteps: TimestepSampler | str | Mapping[str, Any] = "importance",
        weighting: str = "bound",
        step_dim: int = 10,
        dropout: float = 0.5,
        temperature: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            items,
            schedule=schedule,
            widths=widths,
            max_length=max_length,
            oldest_weight=oldest_weight,
            timesteps=timesteps,
            weighting=weighting,
            step_dim=step_dim,
            dropout=dropout,
            temperature=temperature,
            seed=seed,
        )
