r"""A preference term: the denoiser is nearer to the true item than it is to other items in its place.

.. math:: \mathcal L = -\log \sigma\big( \gamma\, (d^- - d^+) \big), \qquad d = d(x_0, \hat x_0(x_n, n))

The distance :math:`d^+` is that of the true item, and :math:`d^-` that of another item or of the mean of several. Both
are corrupted to the same step and denoised given the same history. The distance is the loss of any term of the sampled
step. Rendle et al. 2009, *BPR*; Liu et al. 2025, *PreferDiff*, whose negative is a mean.

The scale can adapt to the step and to the pair, as in Mao et al. 2025, *TA-Rec*, Algorithm 2. It is then

.. math:: \gamma \Big( \big(1 - \tfrac nN\big) + \big(1 - \cos(x_0^+, x_0^-)\big) \Big),

so that noisy latents and similar items count less. No gradient goes through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool, check_choice, check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import OTHERS, Pass, TrainingStep
from diffusers_rec.objectives.terms import LossTerm


class PreferenceTerm(LossTerm, name="preference"):
    """Prefers the true item to other items. See the docstring of the module.

    Args:
        weight: Weight of the term.
        distance: Distance d, a term of the pass ``"sampled"`` with one loss per latent, such as ``"squared"`` or
            ``{"name": "cosine", "power": 2}``. Its weight must be 1.
        scale: Scale gamma of the difference.
        at: Pass of the other items: ``"negative"``, one item drawn uniformly; ``"paired"``, such an item with the noise
            of the true one; or ``"centroid"``, the mean of the other targets of the batch.
        over: ``"latent"``: the term of each latent. ``"batch"``: one term of the mean distances of the batch, which the
            weights of the timestep sampler do not change.
        adaptive: Whether the scale adapts to the step and the pair; only over ``"latent"``.

    Raises:
        ValueError: The distance needs other passes or has a weight, or an adaptive scale is asked of a batch; at a
            call, the distance is one number for the batch.
    """

    compares_distances = True

    def __init__(
        self,
        weight: float = 1.0,
        *,
        distance: LossTerm | str | Mapping[str, Any] = "squared",
        scale: float = 5.0,
        at: str = "negative",
        over: str = "latent",
        adaptive: bool = False,
    ) -> None:
        super().__init__(weight)
        self.distance = LossTerm.build(distance)
        if self.distance.passes != ("sampled",) or self.distance.weight != 1:
            raise ValueError(
                "PreferenceTerm: distance must be a term of the pass 'sampled' alone, with weight 1, got "
                f"{self.distance}. Use 'squared' or 'cosine', and set the scale of the difference by scale=."
            )
        self.scale = check_float("scale", scale, above=0)
        self.at = check_choice("at", at, OTHERS)
        self.over = check_choice("over", over, ("latent", "batch"))
        self.adaptive = check_bool("adaptive", adaptive)
        if self.adaptive and self.over == "batch":
            raise ValueError(
                "PreferenceTerm: an adaptive scale belongs to each latent, but over='batch' has one term for all. Use "
                "over='latent'."
            )
        self.passes = ("sampled", self.at)

    def __call__(self, step: TrainingStep) -> Tensor:
        near = self.distance(step)
        far = self.distance(replace(step, passes={**step.passes, "sampled": step.at(self.at)}))
        if near.ndim == 0:
            raise ValueError(
                f"PreferenceTerm: distance must give one loss per latent, but {self.distance} gives one number for the "
                "batch. Use 'squared' or 'cosine'."
            )
        if self.over == "batch":
            near, far = near.mean(), far.mean()
        scale = self.scale * _strength(step.sampled, step.at(self.at)) if self.adaptive else self.scale
        return F.softplus(scale * (near - far))

    def without_noise(self) -> Config:
        """Config of the preference with a constant scale, because there are no steps to adapt to."""
        return {**self.config(), "adaptive": False}


def _strength(true: Pass, other: Pass) -> Tensor:
    """Factor of the scale of each latent, ``(M,)``: large at early steps and for different items."""
    with torch.no_grad(), torch.autocast(true.x0.device.type, enabled=False):
        noise = true.timesteps.to(true.x0.dtype) / true.schedule.num_timesteps
        return (1 - noise) + (1 - F.cosine_similarity(true.x0, other.x0, dim=-1))
