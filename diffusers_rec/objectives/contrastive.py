"""The simplified objective plus a contrastive term between two predictions of the same latent."""

from __future__ import annotations

from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.simplified import SimplifiedObjective
from diffusers_rec.objectives.terms import ContrastiveTerm, LossTerm


class ContrastiveObjective(SimplifiedObjective, name="contrastive"):
    """:class:`SimplifiedObjective` plus a :class:`~diffusers_rec.ContrastiveTerm`.

    Args:
        contrastive_weight: Weight of the contrastive term.
        temperature: Temperature tau of the contrastive term.
        reconstruction_weight: See :class:`SimplifiedObjective`.
        recommendation_weight: See :class:`SimplifiedObjective`.
        distance: See :class:`SimplifiedObjective`.
        reduction: See :class:`SimplifiedObjective`.
        recommend_from: Pass of the cross-entropy; must be ``"final"``, which is also the second view.
    """

    def __init__(
        self,
        *,
        contrastive_weight: float = 0.1,
        temperature: float = 0.1,
        reconstruction_weight: float = 1.0,
        recommendation_weight: float = 1.0,
        distance: str = "squared",
        reduction: str = "mean",
        recommend_from: str = "final",
    ) -> None:
        self.contrastive_weight = check_float("contrastive_weight", contrastive_weight, minimum=0)
        self.temperature = check_float("temperature", temperature, above=0)
        super().__init__(
            reconstruction_weight=reconstruction_weight,
            recommendation_weight=recommendation_weight,
            distance=distance,
            reduction=reduction,
            recommend_from=recommend_from,
        )
        check_choice("recommend_from", self.recommend_from, ("final",))

    def _composed(self) -> dict[str, LossTerm]:
        return {
            **super()._composed(),
            "contrastive": ContrastiveTerm(self.contrastive_weight, temperature=self.temperature),
        }

    def without_noise(self) -> Config:
        """Config of the simplified objective; without noise there are no two views."""
        shared = {key: value for key, value in super().without_noise().items() if key in SimplifiedObjective.settings()}
        return {**shared, "name": SimplifiedObjective.registered_name}
