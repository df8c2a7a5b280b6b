"""The objective of a denoiser that predicts items: cross-entropy at every corrupted position, and at the next item."""

from __future__ import annotations

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import LossTerms, Objective, TrainingStep
from diffusers_rec.objectives.terms import CrossEntropyTerm, LossTerm, add_up, passes_of


class ItemsObjective(Objective, name="items"):
    r"""Cross-entropy of the items at the sampled step, with the evidence of their own latents, and of the next item.

    .. math:: \mathcal L = \lambda_s\, \mathbb E_n\big[ -\log p(v_k \mid x_n, \text{history}) \big]
                         + \lambda_v\, \big( -\log p(v_{\text{next}} \mid \text{history}) \big)

    Args:
        sampled_weight: Weight lambda_s of the corrupted positions at the sampled step.
        next_weight: Weight lambda_v of the next item after every prefix; 0 leaves this pass out.
    """

    reads_latents = False

    def __init__(self, *, sampled_weight: float = 1.0, next_weight: float = 1.0) -> None:
        self.sampled_weight = check_float("sampled_weight", sampled_weight, minimum=0)
        self.next_weight = check_float("next_weight", next_weight, minimum=0)
        self._terms: dict[str, LossTerm] = {"sampled": CrossEntropyTerm(self.sampled_weight)}
        if self.next_weight:
            self._terms["next"] = CrossEntropyTerm(self.next_weight, at="next")
        self.passes = passes_of(self._terms)

    def __call__(self, step: TrainingStep) -> LossTerms:
        return add_up(self._terms, step)

    def without_noise(self) -> Config:
        """Config of the cross-entropy of the next item alone."""
        weight = self.next_weight or self.sampled_weight
        return {"name": "weighted", "terms": [{"name": "cross-entropy", "weight": weight, "at": "sampled"}]}
