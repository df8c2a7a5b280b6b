"""Terms of a weighted objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.data.augment import Augmentations
from diffusers_rec.objectives.base import LossTerms, TrainingStep
from diffusers_rec.processes.mask import MaskProcess
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.timesteps import UniformTimestepSampler


class LossTerm(Component, ABC, kind="term"):
    """One term of a loss.

    A term returns one loss per latent ``(M,)`` or a scalar for the batch. The timestep sampler weights the losses per
    latent and learns from them.

    Args:
        weight: Weight of the term, lambda.

    Attributes:
        passes: Passes that the term needs; see :mod:`diffusers_rec.objectives.base`.
        views: Views of the histories that the term needs; see :mod:`diffusers_rec.objectives.views`.
        augmentations: Settings of the views.
        penalties: Penalties that the term needs, as :attr:`Objective.penalties`.
        counts_updates: Whether the term depends on the number of training steps, as :attr:`Objective.counts_updates`.
        reads_latents: Whether the term needs predicted latents, as :attr:`Objective.reads_latents`.
        compares_distances: Whether the term compares distances, which then stay in a control.
    """

    entrances = "__call__", "weight_at"
    passes: tuple[str, ...] = ("sampled",)
    views: tuple[str, ...] = ()
    augmentations: Augmentations = Augmentations()
    penalties: tuple[str, ...] = ()
    counts_updates: bool = False
    reads_latents: bool = True
    compares_distances: ClassVar[bool] = False
    process: ClassVar[str | None] = None
    """Registered name of the process whose draws the term reads; any process if None."""

    def __init__(self, weight: float = 1.0) -> None:
        self.weight = check_float("weight", weight, minimum=0)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.process is not None and not isinstance(model.process, Process.named(self.process)):
            raise ValueError(
                f"The parts do not fit: the term {self.registered_name!r} reads draws of the process {self.process!r}, "
                f"but the process is {model.process.registered_name!r}. Use process={self.process!r}."
            )

    @abstractmethod
    def __call__(self, step: TrainingStep) -> Tensor:
        """Compute the term, ``(M,)`` or a scalar."""

    def weight_at(self, step: TrainingStep) -> float:
        """Weight of the term at this step of the training; constant by default."""
        return self.weight

    def without_noise(self) -> Config | None:
        """Config of the term for a model without noise; None if the term is undefined there."""
        return None


class SquaredTerm(LossTerm, name="squared"):
    r"""Squared error :math:`\|x_0 - \hat x_0\|^2` (Eq. 13), or that of the output of the denoiser.

    Args:
        weight: Weight of the term.
        reduction: Reduction over the D dimensions, ``"mean"`` or ``"sum"``. The sum is D times the mean and much
            larger than a cross-entropy of the same weight.
        of: Predicted quantity: ``"x0"``, the clean latent, or ``"output"``, the output of the denoiser.
    """

    def __init__(self, weight: float = 1.0, *, reduction: str = "mean", of: str = "x0") -> None:
        super().__init__(weight)
        self.reduction = check_choice("reduction", reduction, ("mean", "sum"))
        self.of = check_choice("of", of, ("x0", "output"))

    def __call__(self, step: TrainingStep) -> Tensor:
        sampled = step.sampled
        target, predicted = (sampled.x0, sampled.prediction) if self.of == "x0" else (sampled.target, sampled.output)
        with torch.autocast(target.device.type, enabled=False):
            squared = (target - predicted.to(target.dtype)).square()
            return squared.mean(-1) if self.reduction == "mean" else squared.sum(-1)


class CosineTerm(LossTerm, name="cosine"):
    r"""Cosine distance :math:`(1 - \cos(x_0, \hat x_0))^\gamma`.

    Args:
        weight: Weight of the term.
        power: Exponent gamma, at least 1. Above 1, predictions that are already near count less.
    """

    def __init__(self, weight: float = 1.0, *, power: float = 1.0) -> None:
        super().__init__(weight)
        self.power = check_float("power", power, minimum=1)

    def __call__(self, step: TrainingStep) -> Tensor:
        with torch.autocast(step.x0.device.type, enabled=False):
            distance = 1 - F.cosine_similarity(step.x0, step.sampled.prediction.to(step.x0.dtype), dim=-1)
            return distance if self.power == 1 else distance.clamp(min=0) ** self.power


class CrossEntropyTerm(LossTerm, name="cross-entropy"):
    r"""Cross-entropy :math:`-\log p(v \mid \hat x_0)` (Eq. 8) of the *predicted* latent (Algorithm 1, line 10).

    Args:
        weight: Weight of the term.
        at: Pass whose prediction is scored: ``"sampled"`` (the paper), ``"final"``, where one-step serving starts,
            ``"null"``, or ``"next"``.
    """

    reads_latents = False

    def __init__(self, weight: float = 1.0, *, at: str = "sampled") -> None:
        super().__init__(weight)
        self.at = check_choice("at", at, ("sampled", "final", "null", "next"))
        self.passes = tuple(dict.fromkeys(("sampled", self.at)))

    def __call__(self, step: TrainingStep) -> Tensor:
        return step.at(self.at).cross_entropy(step.head, step.negatives)

    def without_noise(self) -> Config:
        return {**self.config(), "at": "sampled"}


class BoundTerm(LossTerm, name="bound"):
    r"""Cross-entropy weighted by the bound of the absorbing process, normalised over the batch.

    .. math:: \frac{\sum_i w_{n_i} \big( -\log p(v_i \mid x_{n_i}, \text{history}) \big)}{\sum_i w_{n_i}},
              \qquad w_n = \frac{\bar\alpha_{n-1} - \bar\alpha_n}{1 - \bar\alpha_n}

    with the weights of :meth:`MaskProcess.bound_weight <diffusers_rec.MaskProcess.bound_weight>`. For the schedule
    ``linear-alpha-bar``, :math:`w_n = 1 / n`: the cross-entropy at a blank is divided by the share of blanks. These are
    the weights of the bound for steps that are drawn uniformly, and where the process alone determines which positions
    are blank: use the timesteps ``uniform``, and of the noising ``whole-windows`` ``gaps="all"``.

    Args:
        weight: Weight of the term.
    """

    reads_latents = False
    process = "mask"

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        if model.noising.draws_gaps:
            raise ValueError(
                f"The parts do not fit: the noising {model.noising} draws positions that keep their items, in addition "
                "to those that the process keeps, and the weights of the term 'bound' do not count them. Use "
                "noising={'name': 'whole-windows', 'gaps': 'all'}, or 'target', 'last-k' or 'whole'."
            )
        if not isinstance(model.timesteps, UniformTimestepSampler) or model.timesteps.start_share:
            raise ValueError(
                "The parts do not fit: the weights of the term 'bound' are those of steps that are drawn uniformly, "
                f"but the timesteps are {model.timesteps}. Use timesteps='uniform', with start_share=0."
            )

    def __call__(self, step: TrainingStep) -> Tensor:
        sampled = step.sampled
        weights = MaskProcess(sampled.schedule).bound_weight(sampled.timesteps)
        return sampled.cross_entropy(step.head, step.negatives, weights.to(sampled.output.device, torch.float32))

    def without_noise(self) -> Config:
        """Config of the cross-entropy, whose weights are equal at the only step."""
        return {"name": "cross-entropy", "weight": self.weight, "at": "sampled"}


class SourceTerm(LossTerm, name="source"):
    r"""Cross-entropy :math:`-\log p(v \mid c)` of the true item given the centre c of its chain.

    It trains a learned source to rank the next item by itself. Without a source, the centre is zero and the term
    trains no more than the offsets of the head, if it has any. Li et al. 2025 (FlowRec).

    Args:
        weight: Weight of the term.
    """

    reads_latents = False

    def __call__(self, step: TrainingStep) -> Tensor:
        centre = torch.as_tensor(step.sampled.centre, device=step.x0.device, dtype=step.x0.dtype)
        return step.head.loss(centre.expand_as(step.x0), step.items, step.negatives)


class ContrastiveTerm(LossTerm, name="contrastive"):
    r"""Pulls the predictions at the sampled step and at step N together for each target, and pushes targets apart.

    .. math:: \mathcal L_c = -\frac1M \sum_i \log \frac{e^{\cos(a_i, b_i) / \tau}}
              {\sum_{j:\, v_j \neq v_i \text{ or } j = i} e^{\cos(a_i, b_j) / \tau}}

    averaged over both directions (InfoNCE, van den Oord et al. 2018). The paper leaves it to future work (Sec. 2).

    Args:
        weight: Weight of the term.
        temperature: Temperature tau.
    """

    passes = ("sampled", "final")

    def __init__(self, weight: float = 0.1, *, temperature: float = 0.1) -> None:
        super().__init__(weight)
        self.temperature = check_float("temperature", temperature, above=0)

    def __call__(self, step: TrainingStep) -> Tensor:
        one, other, items = step.sampled.prediction, step.at("final").prediction, step.items
        with torch.autocast(one.device.type, enabled=False):
            dtype = torch.promote_types(one.dtype, torch.float32)
            one, other = (F.normalize(view.to(dtype), dim=-1) for view in (one, other))
            own = torch.arange(len(items), device=items.device)
            same_item = (items[:, None] == items) & (own[:, None] != own)
            scores = (one @ other.T / self.temperature).masked_fill(same_item, -torch.inf)
            return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def passes_of(terms: Mapping[str, LossTerm]) -> tuple[str, ...]:
    """Passes that the terms need together."""
    return tuple(dict.fromkeys(name for term in terms.values() for name in ("sampled", *term.passes)))


def add_up(terms: Mapping[str, LossTerm], step: TrainingStep) -> LossTerms:
    """Weighted sum of terms, and the terms by name for the log."""
    named, weighted, latents = {}, [], []
    for name, term in terms.items():
        value = term(step)
        if value.shape not in ((), (len(step.items),)):
            raise ValueError(f"The term {name!r} must be ({len(step.items)},) or a scalar, got {tuple(value.shape)}.")
        if value.ndim:
            latents.append((term.weight_at(step), value.detach()))
            value = (step.weights * value).mean()
        named[name] = value.detach()
        weighted.append(term.weight_at(step) * value)
    total = sum(weighted[1:], weighted[0])
    if len(latents) == 1:
        return LossTerms(total, named, latents[0][1])
    nothing = step.weights.new_zeros(len(step.items))
    return LossTerms(total, named, sum((weight * value for weight, value in latents), nothing))
