r"""The objective's contract: declare the passes of the denoiser that it needs, and make a loss of what they predict.

The pipeline runs the declared passes together, at M corrupted latents:

============  ==================================================================================================
``sampled``   the drawn step n (Algorithm 1); every objective has it
``final``     step N with fresh noise, where inference starts
``null``      the drawn step and the same noise, without the history
``negative``  the drawn step, the corrupted latent being that of another item, drawn uniformly
============  ==================================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.processes.prediction import target_of, x0_from
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource

PASSES = "sampled", "final", "null", "negative"


@dataclass(frozen=True)
class Pass:
    """One pass of the denoiser at M corrupted latents.

    Args:
        items: Items whose latents were corrupted, ``(M,)``.
        x0: Their clean latents, ``(M, D)``.
        xn: Corrupted latents, ``(M, D)``.
        noise: Noise in them, ``(M, D)``.
        timesteps: Step n of each, ``(M,)``.
        output: What the denoiser gave, ``(M, D)``.
        kind: What that is: ``"x0"``, ``"noise"`` or ``"velocity"``.
        schedule: Noise levels.
        centre: What the process is centred on, ``(M, D)``, or 0.
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

    @property
    def levels(self) -> tuple[Tensor, Tensor]:
        """Signal and sigma of each, ``(M, 1)``."""
        return self.schedule.levels(self.xn, self.timesteps)

    @property
    def prediction(self) -> Tensor:
        """The predicted clean latents, ``(M, D)``."""
        if self.kind == "x0":
            return self.output
        corrupted = self.xn - self.centre
        output = self.output.to(corrupted.dtype)
        return x0_from(self.kind, output, corrupted, self.timesteps, self.schedule) + self.centre

    @property
    def target(self) -> Tensor:
        """What :attr:`output` should have been, ``(M, D)``."""
        if self.kind == "x0":
            return self.x0
        clean, corrupted = self.x0 - self.centre, self.xn - self.centre
        return target_of(self.kind, clean, self.noise, corrupted, self.timesteps, self.schedule)


@guarded
@dataclass(frozen=True)
class TrainingStep:
    """What an objective makes a loss of.

    Args:
        passes: The declared passes by name; ``sampled`` is always there.
        weights: Weights of the timestep sampler, ``(M,)``.
        head: Item head.
        negatives: Items that a cross-entropy weighs the true ones against; all items when None.
    """

    passes: Mapping[str, Pass]
    weights: Tensor
    head: ItemHead
    negatives: NegativeSample | None = None

    made_by: ClassVar[str] = "TrainingStep({'sampled': Pass(...)}, weights, head)"

    @property
    def sampled(self) -> Pass:
        """The pass at the drawn steps."""
        return self.passes["sampled"]

    @property
    def items(self) -> Tensor:
        """The true items, ``(M,)``."""
        return self.sampled.items

    @property
    def x0(self) -> Tensor:
        """Their clean latents, ``(M, D)``."""
        return self.sampled.x0

    def at(self, name: str) -> Pass:
        """A pass by name.

        Raises:
            ValueError: the step does not have it.
        """
        if name not in self.passes:
            raise ValueError(
                f"This step has no pass {name!r}, only {', '.join(self.passes)}. Declare it in the objective's passes."
            )
        return self.passes[name]


@dataclass(frozen=True)
class LossTerms:
    """The loss of a batch.

    Attributes:
        total: Scalar to be minimised.
        named: Its terms before their weights, scalars without gradient, for the log.
        per_latent: Loss of each of the M latents that depends on its step, ``(M,)``, without gradient; the importance
            sampler learns from it.
    """

    total: Tensor
    named: dict[str, Tensor]
    per_latent: Tensor

    made_by: ClassVar[str] = "LossTerms(total, named, per_latent)"


class Objective(Component, ABC, kind="objective"):
    """Adds up the loss of M corrupted latents.

    Attributes:
        passes: Passes that the objective needs, of those in the module's docstring.
    """

    entrances = ("__call__",)
    passes: tuple[str, ...] = ("sampled",)

    @abstractmethod
    def __call__(self, step: TrainingStep) -> LossTerms:
        """Compute the loss of a step."""

    def without_noise(self) -> Config:
        """Config of what remains of the objective for a model that has no noise."""
        return self.config()

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.passes[:1] != ("sampled",) or not set(self.passes) <= set(PASSES):
            raise ValueError(
                f"{type(self).__name__}: passes must be 'sampled' and any of {', '.join(PASSES[1:])}, "
                f"got {self.passes!r}. Declare them as a tuple, such as ('sampled', 'final')."
            )
        if "null" in self.passes and not isinstance(model.source, ZeroSource):
            raise ValueError(
                "The parts do not fit: the pass 'null' hides the history, which the source shows in x_n. "
                "Use source='zero'."
            )
        if "final" in self.passes and model.denoiser.prediction == "noise":
            raise ValueError(
                "The parts do not fit: the objective needs the pass 'final', but a noise prediction says next to "
                "nothing of the clean latent at step N. Use the pass 'sampled', or predict 'velocity' or 'x0'."
            )
