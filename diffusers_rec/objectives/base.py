r"""The contract of an objective: declare the passes of the denoiser, and compute a loss from their predictions.

The pipeline runs the declared passes together, for M corrupted latents:

============  ==================================================================================================
pass          corrupted latents
============  ==================================================================================================
``sampled``   the sampled step n (Algorithm 1); every objective has this pass
``final``     step N with new noise, where serving starts
``null``      the sampled step with the same noise, without the history
``negative``  the sampled step, with the corrupted latent of another item, drawn uniformly
``paired``    as ``negative``, with the noise of the sampled pass
``centroid``  the sampled step, with the corrupted mean latent of the other targets of the batch
``adjacent``  the step before the sampled one, at least 1, with the same noise
``next``      step N at every target of the batch, as the only corrupted position; a blank if the process has any
============  ==================================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.data.augment import Augmentations
from diffusers_rec.items.cross_entropy import relative
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.evidence import EvidenceHead, with_evidence
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.objectives.views import Views, check_views
from diffusers_rec.processes.prediction import target_of, x0_from
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource

PASSES = "sampled", "final", "null", "negative", "paired", "centroid", "adjacent", "next"

OTHERS = "negative", "paired", "centroid"
"""Passes that corrupt other items than the true one."""


@dataclass(frozen=True)
class Pass:
    """One pass of the denoiser for M corrupted latents.

    Args:
        items: Items whose latents were corrupted, ``(M,)``; -1 in the pass ``centroid``.
        x0: Clean latents of the items, ``(M, D)``.
        xn: Corrupted latents, ``(M, D)``.
        noise: Noise of the corrupted latents, ``(M, D)``.
        timesteps: Step n of each latent, ``(M,)``.
        output: Output of the denoiser, ``(M, D)``.
        kind: Kind of the output: ``"x0"``, ``"noise"``, ``"velocity"`` or ``"items"``.
        schedule: Noise schedule.
        centre: Centre of the process, ``(M, D)``, or 0.
        process: Process that corrupted the latents, for a kind of ``"items"``.
        embedding: Item embedding.
    """

    items: Tensor
    x0: Tensor
    xn: Tensor
    noise: Tensor
    timesteps: Tensor
    output: Tensor
    kind: str
    schedule: NoiseSchedule
    centre: Tensor | float = 0.0
    process: Process | None = None
    embedding: ItemEmbedding | None = None

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Signal and sigma of each latent, ``(M, 1)``."""
        return self.schedule.levels(self.xn, self.timesteps)

    @property
    def prediction(self) -> Tensor:
        """Predicted clean latents, ``(M, D)``.

        Raises:
            ValueError: The denoiser predicts items.
        """
        if self.kind == "items":
            raise ValueError("A prediction of items is a distribution, not a latent. Use Pass.cross_entropy(head).")
        if self.kind == "x0":
            return self.output
        corrupted = self.xn - self.centre
        output = self.output.to(corrupted.dtype)
        return x0_from(self.kind, output, corrupted, self.timesteps, self.schedule) + self.centre

    @property
    def target(self) -> Tensor:
        """Target of :attr:`output`, ``(M, D)``."""
        if self.kind == "x0":
            return self.x0
        clean, corrupted = self.x0 - self.centre, self.xn - self.centre
        return target_of(self.kind, clean, self.noise, corrupted, self.timesteps, self.schedule)

    def cross_entropy(
        self, head: ItemHead, negatives: NegativeSample | None = None, weights: Tensor | None = None
    ) -> Tensor:
        """Mean cross-entropy of the true items under the prediction, a scalar.

        Args:
            head: Item head.
            negatives: See :meth:`ItemHead.loss <diffusers_rec.ItemHead.loss>`.
            weights: Weights in the mean, ``(M,)``; all equal if None.
        """
        if self.kind != "items" or self.process is None or self.embedding is None:
            return head.loss(self.prediction, self.items, negatives, weights=weights)
        joined = with_evidence(self.process, self.output, self.xn, self.timesteps)
        if joined is None:
            return head.loss(self.output, self.items, negatives, weights=weights)
        wide, noised = EvidenceHead(head, self.embedding), joined[:, -1] > 0  # a blank has no evidence
        if noised.all():
            return wide.loss(joined, self.items, negatives, weights=weights)
        if not noised.any():
            return head.loss(self.output, self.items, negatives, weights=weights)
        of_noised, of_blank = (None, None) if weights is None else (weights[noised], weights[~noised])
        for_noised, for_blank = (None, None) if negatives is None else (negatives.of(noised), negatives.of(~noised))
        informed = wide.loss(joined[noised], self.items[noised], for_noised, weights=of_noised)
        blank = head.loss(self.output[~noised], self.items[~noised], for_blank, weights=of_blank)
        share = noised.to(blank.dtype)
        return torch.lerp(blank, informed, (share if weights is None else share * relative(weights)).mean())


@guarded
@dataclass(frozen=True)
class TrainingStep:
    """Inputs of an objective for one batch.

    Args:
        passes: Declared passes by name, always with ``sampled``.
        weights: Weights of the timestep sampler, ``(M,)``.
        head: Item head.
        negatives: Items that a loss compares the true items with; all items if None.
        views: States of the declared views of the histories.
        penalties: Declared penalties of the denoiser or its encoder by name, each ``(M,)``.
        updates: Number of training steps before this one, where the objective counts them.
    """

    passes: Mapping[str, Pass]
    weights: Tensor
    head: ItemHead
    negatives: NegativeSample | None = None
    views: Views = field(default_factory=Views)
    penalties: Mapping[str, Tensor] = field(default_factory=dict)
    updates: int = 0

    made_by: ClassVar[str] = "TrainingStep({'sampled': Pass(...)}, weights, head)"

    @property
    def sampled(self) -> Pass:
        """Pass at the sampled steps."""
        return self.passes["sampled"]

    @property
    def items(self) -> Tensor:
        """True items, ``(M,)``."""
        return self.sampled.items

    @property
    def x0(self) -> Tensor:
        """Clean latents of the true items, ``(M, D)``."""
        return self.sampled.x0

    def at(self, name: str) -> Pass:
        """Pass by name.

        Raises:
            ValueError: The step does not have this pass.
        """
        if name not in self.passes:
            raise ValueError(
                f"This step has no pass {name!r}, only {', '.join(self.passes)}. Declare it in the objective's passes."
            )
        return self.passes[name]

    def penalty(self, name: str) -> Tensor:
        """Penalty by name, ``(M,)``.

        Raises:
            ValueError: The step does not have this penalty.
        """
        if name not in self.penalties:
            raise ValueError(
                f"This step has no penalty {name!r}, only {', '.join(self.penalties) or 'none at all'}. Declare it in "
                "the objective's penalties."
            )
        return self.penalties[name]


@dataclass(frozen=True)
class LossTerms:
    """Loss of a batch.

    Attributes:
        total: Scalar to minimise.
        named: Unweighted terms by name, scalars without gradient, for the log.
        per_latent: Loss of each of the M latents that depends on its step, ``(M,)``, without gradient. The importance
            sampler learns from it.
    """

    total: Tensor
    named: dict[str, Tensor]
    per_latent: Tensor

    made_by: ClassVar[str] = "LossTerms(total, named, per_latent)"


class Objective(Component, ABC, kind="objective"):
    """Computes the loss of M corrupted latents.

    Attributes:
        passes: Passes that the objective needs. The docstring of the module lists all passes.
        views: Views of the histories that it needs, a name once for each view; see
            :mod:`diffusers_rec.objectives.views`.
        augmentations: Settings of the views.
        penalties: Penalties of the denoiser, or of its history encoder, that the objective needs.
        counts_updates: Whether the loss depends on the number of training steps, which the model then counts and saves.
    """

    entrances = ("__call__",)
    passes: tuple[str, ...] = ("sampled",)
    views: tuple[str, ...] = ()
    augmentations: Augmentations = Augmentations()
    penalties: tuple[str, ...] = ()
    counts_updates: bool = False
    reads_latents: bool = True
    """Whether it needs predicted latents, which a denoiser that predicts items does not give."""

    @abstractmethod
    def __call__(self, step: TrainingStep) -> LossTerms:
        """Compute the loss of a batch."""

    def without_noise(self) -> Config:
        """Config of the objective for a model without noise."""
        return self.config()

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.passes[:1] != ("sampled",) or not set(self.passes) <= set(PASSES):
            raise ValueError(
                f"{type(self).__name__}: passes must be 'sampled' and any of {', '.join(PASSES[1:])}, "
                f"got {self.passes!r}. Declare them as a tuple, such as ('sampled', 'final')."
            )
        check_views(self, model)
        if self.reads_latents and model.denoiser.prediction == "items":
            raise ValueError(
                f"The parts do not fit: the objective {self.registered_name!r} compares latents, but the denoiser "
                "predicts items. Use objective='items', or a weighted objective of cross-entropies alone."
            )
        known = model.denoiser.penalised
        if missing := [name for name in self.penalties if name not in known]:
            raise ValueError(
                f"The parts do not fit: the objective reads the penalty {missing[0]!r}, but the encoder of the "
                f"denoiser {model.denoiser.registered_name!r} has {', '.join(known) or 'none'}. Use an encoder that "
                "has it, such as denoiser={'name': 'plain', 'encoder': 'variational'} for 'kl', or denoiser='judged' "
                "for 'reward', or drop the term."
            )
        if self.counts_updates and not hasattr(model, "updates"):
            raise ValueError(
                "The objective counts training steps, but the model was built with one that does not. Use "
                "model.replace(objective=...)."
            )
        if "null" in self.passes and not isinstance(model.source, ZeroSource):
            raise ValueError(
                "The parts do not fit: the pass 'null' hides the history, which the source shows in x_n. "
                "Use source='zero'."
            )
        if "final" in self.passes and model.denoiser.prediction == "noise":
            raise ValueError(
                "The parts do not fit: the objective needs the pass 'final', but a noise prediction hardly "
                "determines the clean latent at step N. Use the pass 'sampled', or predict 'velocity' or 'x0'."
            )
