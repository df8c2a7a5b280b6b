r"""What is minimised: a reconstruction term that trains the denoiser, and a recommendation term that trains the
ranking.

.. math:: \mathcal L = \lambda_x\, \mathbb E_{n \sim p_n}\big[ w_n\, \|x_0 - f_\theta(x_n, n)\|^2 \big]
                     + \lambda_v\, \big( - \log p(v \mid f_\theta(x_m, m)) \big)
          \qquad \text{(Eq. 13, 18)}

The cross-entropy is that of the *predicted* latent (Algorithm 1, line 10); of the true one it would be trivial.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.negatives import NegativeSample


@dataclass(frozen=True)
class Terms:
    """The loss of a batch.

    Attributes:
        total: scalar, to be minimised.
        named: its terms, scalars without gradient, before their lambda, for the log.
        per_latent: the unweighted reconstruction loss of each of the M latents, ``(M,)``, without gradient.
    """

    total: Tensor
    named: dict[str, Tensor]
    per_latent: Tensor


class Objective(Component, ABC, kind="objective"):
    """Adds up the loss of M noised latents."""

    entrances = ("__call__",)
    recommend_from: str = "sampled"
    """Where the recommendation term is computed: ``"sampled"``, at the sampled step n, or ``"start"``, at n = N."""

    def without_noise(self) -> Config:
        """The config of what stays of the objective for a model that has no noise."""
        return self.config()

    @abstractmethod
    def __call__(
        self,
        x0: Tensor,
        predicted: Tensor,
        weights: Tensor,
        from_start: Tensor,
        items: Tensor,
        head: ItemHead,
        negatives: NegativeSample | None = None,
    ) -> Terms:
        """Compute the loss.

        Args:
            x0: clean latents, ``(M, D)``.
            predicted: the denoiser's prediction at the sampled steps, ``(M, D)``.
            weights: of the timestep sampler, ``(M,)``.
            from_start: the prediction that the recommendation term judges, ``(M, D)``; ``predicted`` itself unless
                :attr:`recommend_from` is ``"start"``.
            items: the true items, ``(M,)``.
            head: scores items.
            negatives: what the recommendation term weighs the true items against; all items when None.
        """


class SimplifiedObjective(Objective, name="simplified"):
    r"""The paper's simplified bound with importance weights (Eq. 13 and 18).

    Args:
        reconstruction_weight: lambda_x.
        recommendation_weight: lambda_v.
        distance: ``"squared"``: :math:`\|x_0 - \hat x_0\|^2` (the paper). ``"cosine"``: :math:`1 - \cos(x_0, \hat
        x_0)`.
        reduction: of the squared distance over the D dimensions: ``"mean"`` (default) or ``"sum"``, as printed. The sum
            is D times the mean and would drown the cross-entropy at a weight of one.
        recommend_from: ``"sampled"``: the cross-entropy at the sampled step n (the paper). ``"start"``: at n = N, where
            one-step inference starts, by a second pure-noise question beside each sampled one.
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
        self.reconstruction_weight = check_float("reconstruction_weight", reconstruction_weight, minimum=0)
        self.recommendation_weight = check_float("recommendation_weight", recommendation_weight, minimum=0)
        self.distance = check_choice("distance", distance, ("squared", "cosine"))
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.recommend_from = check_choice("recommend_from", recommend_from, ("sampled", "start"))

    def __call__(
        self,
        x0: Tensor,
        predicted: Tensor,
        weights: Tensor,
        from_start: Tensor,
        items: Tensor,
        head: ItemHead,
        negatives: NegativeSample | None = None,
    ) -> Terms:
        distances = self._distance(x0, predicted)
        reconstruction = (weights * distances).mean()
        recommendation = head.loss(from_start, items, negatives)
        total = self.reconstruction_weight * reconstruction + self.recommendation_weight * recommendation
        named = {"reconstruction": reconstruction.detach(), "recommendation": recommendation.detach()}
        return Terms(total, named, distances.detach())

    def without_noise(self) -> Config:
        """The recommendation term, of one prediction."""
        return {**self.config(), "reconstruction_weight": 0.0, "recommend_from": "sampled"}

    def _distance(self, x0: Tensor, predicted: Tensor) -> Tensor:
        with torch.autocast(x0.device.type, enabled=False):
            predicted = predicted.to(x0.dtype)
            if self.distance == "cosine":
                return 1 - F.cosine_similarity(x0, predicted, dim=-1)
            squared = (x0 - predicted).square()
            return squared.mean(-1) if self.reduction == "mean" else squared.sum(-1)


class ContrastiveObjective(SimplifiedObjective, name="contrastive"):
    r"""The simplified objective and a contrastive term between two predictions of the same latent.

    The two views of a target are what the denoiser predicts at the sampled step and at n = N; the other targets of the
    batch are the negatives, but for those of the same item:

    .. math:: \mathcal L_c = -\frac1M \sum_i \log \frac{e^{\cos(a_i, b_i) / \tau}}
              {\sum_{j:\, v_j \neq v_i \text{ or } j = i} e^{\cos(a_i, b_j) / \tau}}

    averaged over both directions (InfoNCE, van den Oord et al. 2018; the paper leaves it to future work, Sec. 2).

    Args:
        contrastive_weight: of the term.
        temperature: tau.
        reconstruction_weight: see :class:`SimplifiedObjective`.
        recommendation_weight: see :class:`SimplifiedObjective`.
        distance: see :class:`SimplifiedObjective`.
        reduction: see :class:`SimplifiedObjective`.
        recommend_from: ``"start"`` alone, for it is the second view.
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
        recommend_from: str = "start",
    ) -> None:
        super().__init__(
            reconstruction_weight=reconstruction_weight,
            recommendation_weight=recommendation_weight,
            distance=distance,
            reduction=reduction,
            recommend_from=check_choice("recommend_from", recommend_from, ("start",)),
        )
        self.contrastive_weight = check_float("contrastive_weight", contrastive_weight, minimum=0)
        self.temperature = check_float("temperature", temperature, above=0)

    def __call__(
        self,
        x0: Tensor,
        predicted: Tensor,
        weights: Tensor,
        from_start: Tensor,
        items: Tensor,
        head: ItemHead,
        negatives: NegativeSample | None = None,
    ) -> Terms:
        terms = super().__call__(x0, predicted, weights, from_start, items, head, negatives)
        contrast = self._contrast(predicted, from_start, items)
        total = terms.total + self.contrastive_weight * contrast
        return Terms(total, {**terms.named, "contrastive": contrast.detach()}, terms.per_latent)

    def without_noise(self) -> Config:
        """That of the simplified objective: two noise levels are no two views where there is no noise."""
        shared = {key: value for key, value in super().without_noise().items() if key in SimplifiedObjective.settings()}
        return {**shared, "name": SimplifiedObjective.registered_name}

    def _contrast(self, one: Tensor, other: Tensor, items: Tensor) -> Tensor:
        with torch.autocast(one.device.type, enabled=False):
            dtype = torch.promote_types(one.dtype, torch.float32)
            one, other = (F.normalize(view.to(dtype), dim=-1) for view in (one, other))
            own = torch.arange(len(items), device=items.device)
            same_item = (items[:, None] == items) & (own[:, None] != own)
            scores = (one @ other.T / self.temperature).masked_fill(same_item, -torch.inf)
            return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
