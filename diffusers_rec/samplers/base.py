"""The contract of a sampler: turn noise into clean latents with a denoiser, which is a plain function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.core.registry import Component
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import ZeroSource

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(xn (B, Q, ..., D), timesteps (B, Q) or (B, Q, K)) -> x0``, like ``xn``; all other arguments are bound."""


@dataclass
class SamplerStep:
    """A completed reverse step, the argument of a callback.

    Attributes:
        index: Number of steps before this one.
        timestep: Step n of the denoising; a tensor if positions have different steps.
        previous: Step m, where the chain is now; 0 after the last step.
        xn: Latents at step m, or the sample after the last step. The chain continues with an assigned value.
        prediction: Clean latents that the denoiser predicted at step n.
        score: Function from predicted latents to log-probabilities of all items; None without a head.
    """

    index: int
    timestep: int | Tensor
    previous: int | Tensor
    xn: Tensor
    prediction: Tensor
    score: Callable[[Tensor], Tensor] | None = None
    stopped: bool = field(default=False, init=False)

    @cached_property
    def scores(self) -> Tensor:
        """Log-probabilities of all items under the prediction, ``(B, Q, ..., V)``; computed when first read.

        Raises:
            ValueError: Neither the caller nor the sampler has a head.
        """
        if self.score is None:
            raise ValueError(
                "The sampler has no head, so latents cannot be scored. Set step.score to a function from latents to "
                "log-probabilities, or use a sampler with a head."
            )
        return self.score(self.prediction)

    def stop(self) -> None:
        """End the chain after this step; the sample is the prediction."""
        self.stopped = True


StepCallback = Callable[[SamplerStep], object]
"""Function that is called at the end of every reverse step, including the last; its return value is ignored."""


class Sampler(Component, ABC, kind="sampler"):
    """Runs the reverse process.

    A sampler that needs the head or the embedding declares it in ``requires`` and keeps it in an attribute of the same
    name. The pipeline supplies it.
    """

    entrances: ClassVar[tuple[str, ...]] = ("sample",)
    num_steps: int | None = None
    """Number of denoisings of a chain; N if None."""

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.num_steps is not None and self.num_steps > model.schedule.num_timesteps:
            raise ValueError(
                f"The parts do not fit: the sampler takes num_steps={self.num_steps}, but the schedule has "
                f"num_timesteps={model.schedule.num_timesteps}. Use as many at most, or num_steps=None for all."
            )
        if self.num_steps == 1 and model.denoiser.prediction == "noise":
            raise ValueError(
                "The parts do not fit: one step from pure noise divides a noise prediction by the signal that is left "
                f"at step N, {float(model.schedule.signal[-1]):.2g}. Use a chain of several steps, such as "
                "sampler='ddim', or a denoiser that predicts 'velocity' or 'x0'."
            )

        if self.requires & {"embedding", "head"} and not isinstance(model.source, ZeroSource):
            raise ValueError(
                f"The parts do not fit: the sampler {self.registered_name!r} compares latents with items, but from the "
                f"source {model.source.registered_name!r} they are relative to its centre. Use source='zero', or a "
                "callback, whose latents are absolute."
            )

    def own_process(self, process: Process) -> Process:
        """The process whose chain it runs, of a model with this process; by default the same."""
        return process

    @abstractmethod
    def sample(
        self,
        denoise: Denoise,
        process: Process | NoiseSchedule,
        start: Tensor,
        generator: Generators | None,
        *,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Draw clean latents.

        Args:
            denoise: Function that predicts the clean latents.
            process: Process to reverse; a schedule means its Gaussian process.
            start: Start x_N of the chain, as drawn by the process, ``(B, Q, ..., D)``; not changed.
            generator: Generator of all further noise, or one for each of the Q draws, whose noise all B histories then
                share; None if the chain draws none.
            callback: Function that is called with a :class:`SamplerStep` at the end of every reverse step.

        Returns:
            Clean latents, like ``start``.
        """


def process_of(process: Process | NoiseSchedule) -> Process:
    """Return the process, or the Gaussian process of a schedule."""
    return GaussianProcess(process) if isinstance(process, NoiseSchedule) else process


def after_step(sampler: Sampler, callback: StepCallback | None, step: SamplerStep) -> SamplerStep:
    """Call the callback with a step and return the step.

    Raises:
        TypeError: The callback has assigned a value to ``xn`` that is not like the latents.
    """
    if callback is None:
        return step
    head, shape = getattr(sampler, "head", None), step.xn.shape
    if isinstance(head, ItemHead):
        step.score = lambda latents: head.logits(latents).log_softmax(-1)
    callback(step)
    if not isinstance(step.xn, Tensor) or step.xn.shape != shape:
        got = tuple(step.xn.shape) if isinstance(step.xn, Tensor) else type(step.xn).__name__
        raise TypeError(f"A callback must leave latents {tuple(shape)} in step.xn, got {got}.")
    return step
