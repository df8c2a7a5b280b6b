r"""Terms for the penalties of an encoder, such as the divergence in the evidence lower bound.

With a latent z that the encoder draws given the history, the negative bound is

.. math:: -\mathbb E_{q(z \mid \text{history})} \log p(v \mid z)
          + \beta\, \mathrm{KL}\big( q(z \mid \text{history}) \,\|\, p(z) \big).

The term ``cross-entropy`` is the first summand, for the drawn z, and ``kl`` is the divergence. A beta that grows with
the steps of the training keeps the latents from being ignored at the start (Bowman et al. 2016).

Each penalty is a number per query, and its term is the mean over the latents of the batch. It does not depend on the
timesteps: neither their weights nor the importance sampler see it.
"""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.objectives.base import TrainingStep
from diffusers_rec.objectives.terms import LossTerm


class PenaltyTerm(LossTerm):
    """Mean of one penalty of the encoder, the only one in :attr:`penalties`."""

    reads_latents = False

    def __call__(self, step: TrainingStep) -> Tensor:
        (name,) = self.penalties
        return step.penalty(name).mean()


class KLTerm(PenaltyTerm, name="kl"):
    r"""Divergence of the latents of the encoder from their prior, with an annealed weight :math:`\beta`.

    .. math:: \beta_t = \lambda \min(1, t / T)

    at step t of the training, counted from 0, of T steps of annealing. The count is saved with the model, so that a
    resumed training continues it. Sachdeva et al. 2019, *SVAE*, and Zhao et al. 2021, *VSAN*, anneal in this way.

    Args:
        weight: Weight of the term, lambda, which is the largest beta.
        annealing_steps: Number of steps T; 0 for a constant beta.
    """

    penalties = ("kl",)

    def __init__(self, weight: float = 1.0, *, annealing_steps: int = 0) -> None:
        super().__init__(weight)
        self.annealing_steps = check_int("annealing_steps", annealing_steps, minimum=0)
        self.counts_updates = self.annealing_steps > 0

    def weight_at(self, step: TrainingStep) -> float:
        return self.weight * min(1.0, step.updates / self.annealing_steps) if self.annealing_steps else self.weight


class DiscriminatorTerm(PenaltyTerm, name="discriminator"):
    """Loss of the discriminators that an encoder, or the denoiser ``judged``, trains against itself.

    Its gradient reaches the discriminators alone. The weight thus has the effect of a learning rate of its own, except
    under Adam, which adapts to it.

    Args:
        weight: Weight of the term.
    """

    penalties = ("discriminator",)


class InformationTerm(PenaltyTerm, name="information"):
    """Contrastive bound of the mutual information of items and latents of an encoder, with its sign reversed.

    Args:
        weight: Weight of the term.
    """

    penalties = ("information",)

    def __init__(self, weight: float = 0.1) -> None:
        super().__init__(weight)
