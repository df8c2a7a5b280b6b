r"""The paper's objective: reconstruction, which trains the denoiser, and cross-entropy, which trains the ranking.

.. math:: \mathcal L = \lambda_x\, \mathbb E_{n \sim p_n}\big[ w_n\, \|x_0 - f_\theta(x_n, n)\|^2 \big]
                     + \lambda_v\, \big( - \log p(v \mid f_\theta(x_m, m)) \big)
          \qquad \text{(Eq. 13, 18)}
"""

from __future__ import annotations

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import LossTerms, Objective, TrainingStep
from diffusers_rec.objectives.terms import CosineTerm, CrossEntropyTerm, LossTerm, SquaredTerm, add_up, passes_of


class SimplifiedObjective(Objective, name="simplified"):
    r"""The paper's simplified bound with importance weights (Eq. 13 and 18).

    Args:
        reconstruction_weight: Weight lambda_x of the reconstruction.
        recommendation_weight: Weight lambda_v of the cross-entropy.
        distance: Distance of the reconstruction: ``"squared"`` (the paper) or ``"cosine"``; see
            :class:`~diffusers_rec.SquaredTerm` and :class:`~diffusers_rec.CosineTerm`.
        reduction: Reduction of the squared distance over the D dimensions: ``"mean"`` (default), or ``"sum"``, as
            printed.
        recommend_from: Pass of the cross-entropy: ``"sampled"``, the sampled step n (the paper), or ``"final"``, step
            N, where one-step serving starts.
    """

    def __init__(
        self,
        *,
        reconstruction_weight: float = 1.0,
        recommendation_weight: float = 1.0,
        distance: str = "squared",
        reduction: str = "mean",
        recommend_from: str = "sampled",
    ) -> None:
        if recommend_from == "start":
            warn_deprecated("recommend_from='start'", "recommend_from='final'")
            recommend_from = "final"
        self.reconstruction_weight = check_float("reconstruction_weight", reconstruction_weight, minimum=0)
        self.recommendation_weight = check_float("recommendation_weight", recommendation_weight, minimum=0)
        self.distance = check_choice("distance", distance, ("squared", "cosine"))
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.recommend_from = check_choice("recommend_from", recommend_from, ("sampled", "final"))
        self._terms = self._composed()
        self.passes = passes_of(self._terms)

    def _composed(self) -> dict[str, LossTerm]:
        """Terms by their names in the log."""
        distance: LossTerm = CosineTerm(self.reconstruction_weight)
        if self.distance == "squared":
            distance = SquaredTerm(self.reconstruction_weight, reduction=self.reduction)
        cross_entropy = CrossEntropyTerm(self.recommendation_weight, at=self.recommend_from)
        return {"reconstruction": distance, "recommendation": cross_entropy}

    def __call__(self, step: TrainingStep) -> LossTerms:
        return add_up(self._terms, step)

    def without_noise(self) -> Config:
        """Config of the cross-entropy term at the only prediction."""
        return {**self.config(), "reconstruction_weight": 0.0, "recommend_from": "sampled"}
