"""The chain of a model: a start for every noise draw, and a denoiser that the sampler calls as a plain function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.guidance import Guidance, guided
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.prediction import x0_from
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.recommenders.passes import Parts
from diffusers_rec.samplers import Denoise, ItemPredictor, Sampler
from diffusers_rec.samplers.base import SamplerStep, StepCallback


class ChainParts(Parts, Protocol):
    """What a chain needs of a model."""

    head: ItemHead
    vocabulary: Vocabulary

    @property
    def max_length(self) -> int:
        """Largest number of positions in a sequence."""
        ...


class Drawn(NamedTuple):
    """S draws of the K corrupted positions of one query a history.

    Attributes:
        latents: Clean latents, ``(B, S, K, D)``.
        answer: Which of the K is the next item, ``(B, 1)``.
    """

    latents: Tensor
    answer: Tensor

    def next_item(self) -> Tensor:
        """The latent of the next item, ``(B, S, D)``."""
        draws, dim = self.latents.shape[1], self.latents.shape[-1]
        return self.latents.gather(2, self.answer[..., None, None].expand(-1, draws, 1, dim))[:, :, 0]


def run_chain(
    model: ChainParts,
    history: History,
    sampler: Sampler,
    generators: Sequence[Generator] | None,
    guidance: Guidance = None,
    callback: StepCallback | None = None,
    *,
    start: Tensor | None = None,
) -> Drawn:
    """Draw clean latents of what follows each history.

    For a denoiser that predicts items, a sampler of one step gives what the head takes: the prediction itself.

    Args:
        model: Parts of a model in evaluation mode.
        history: B histories.
        sampler: Sampler.
        generators: One for each of the S draws; None with a ``start`` and a sampler that draws no more noise.
        guidance: Guidance of this call, see :func:`~diffusers_rec.guidance.guided`.
        callback: Called at the end of every reverse step, with the model's head for its scores.
        start: Start of the chains, as in :class:`Chain`.

    Raises:
        ValueError: A guide steers distributions, but the sampler takes one step.
    """
    queries = model.noising.serving(history.lengths, model.noising.max_noised(model.max_length))
    chain = Chain(model, history, queries, sampler.own_process(model.process), generators, guidance, start=start)
    if isinstance(chain.denoise, ItemPredictor) and sampler.num_steps == 1:
        if chain.denoise.denoiser.steers:
            raise ValueError(
                f"The guide {chain.denoise.denoiser.registered_name!r} steers the distributions that a chain draws "
                "from, and one step draws none. Use slate(), complete(), or a sampler of several steps, such as "
                "sampler='ddim'."
            )
        blank = torch.zeros_like(chain.start) if model.process.knows_blanks else chain.start
        last = torch.full(blank.shape[:2], model.schedule.num_timesteps, device=blank.device)
        return Drawn(chain.denoise.output(blank, last), queries.answer)
    called = None if callback is None else _with_head(callback, model.head, chain.centre)
    drawn = sampler.sample(chain.denoise, chain.process, chain.start, generators, callback=called)
    return Drawn(drawn if chain.centre is None else drawn + chain.centre, queries.answer)


class Chain:
    """What a sampler needs for one query of each history.

    Args:
        model: Parts of a model in evaluation mode.
        history: B histories.
        queries: One query a history.
        process: Process of the chain.
        generators: One for each of the S draws; None with a ``start`` and a sampler that draws no more noise.
        guidance: Guidance of this call.
        items: Item indices at the K positions, of which the known ones count, ``(B, 1, K)``.
        allowed: Items that may be predicted, ``(B, V)``, for a denoiser that predicts items; all if None.
        start: Start of the chain, ``(B, S, K, D)``, for queries whose positions are all behind the history; drawn from
            the generators if None.

    Attributes:
        start: Start of the chain, ``(B, S, K, D)``.
        centre: Centre that the chain's latents are relative to, or None.
        denoise: Function of latents and steps that predicts clean latents.
    """

    def __init__(
        self,
        model: ChainParts,
        history: History,
        queries: Queries,
        process: Process,
        generators: Sequence[Generator] | None,
        guidance: Guidance = None,
        *,
        items: Tensor | None = None,
        allowed: Tensor | None = None,
        start: Tensor | None = None,
    ) -> None:
        embedding = model.embedding
        history = history.with_latents(embedding(history.items))
        denoiser = guided(model.denoiser, guidance, model)
        condition = denoiser.condition(denoiser.encode(queries.cut(history)), queries)
        latents = history.latent()
        self.process = process
        self.centre = model.source.centre(history, queries)
        noised = None
        if start is None and generators is not None:
            shape = (len(history), len(generators), queries.positions.shape[-1], latents.shape[-1])
            self.start = process.start(shape, generators, device=latents.device, dtype=latents.dtype)
            noised = self._noised(model, history, queries, generators)
        elif start is not None:
            self.start = start
        else:
            raise TypeError("A chain needs generators or a start, got neither. Give generators_from(seeds).")
        self.denoise: Denoise
        if denoiser.prediction == "items":
            known = None if queries.known is None or items is None else items.where(queries.known, -1)
            self.denoise = ItemPredictor(
                denoiser,
                condition,
                process=process,
                embedding=embedding,
                head=model.head,
                generator=generators,
                known=known,
                allowed=allowed,
                noised=noised,
            )
        else:
            self.denoise = self._latents(model, denoiser, condition, noised)

    @property
    def predictor(self) -> ItemPredictor:
        """:attr:`denoise`, of a denoiser that predicts items.

        Raises:
            TypeError: The denoiser does not.
        """
        if not isinstance(self.denoise, ItemPredictor):
            raise TypeError(
                "The chain has no predictor of items: its denoiser predicts latents. Use the preset 'joint'."
            )
        return self.denoise

    def _noised(
        self, model: ChainParts, history: History, queries: Queries, generators: Sequence[Generator]
    ) -> Denoise | None:
        """Function that puts items of the history at step n, where corrupted positions hold some; None if none does.

        They are noised (Algorithm 3, line 5), not drawn.
        """
        in_history = (queries.positions < history.lengths[:, None, None])[..., None]
        if queries.known is not None or not bool(in_history.any()):
            return None
        process, start, schedule = self.process, self.start, model.schedule
        moved = 0.0 if self.centre is None else self.centre
        clean = (model.embedding(items_at(history.items, queries.positions)) - moved).expand(start.shape)
        noise = start
        is_noise = isinstance(process, GaussianProcess) and schedule.variance_preserving
        if not is_noise:  # a start of another scale or kind
            last = torch.full(start.shape[:2], schedule.num_timesteps, device=start.device)
            noise = process.corrupt(clean, last, generators).noise

        def noised(xn: Tensor, timesteps: Tensor) -> Tensor:
            return torch.where(in_history, process.corrupt(clean, timesteps, None, noise=noise).xn, xn)

        return noised

    def _latents(self, model: ChainParts, denoiser: Denoiser, condition: Any, noised: Denoise | None) -> Denoise:
        """The denoiser as a function that predicts clean latents relative to the centre."""
        process, centre, schedule = self.process, self.centre, model.schedule

        def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
            if noised is not None:
                xn = noised(xn, timesteps)
            seen = process.seen_steps(xn, timesteps)
            output = denoiser(xn if centre is None else xn + centre, seen, condition).to(xn.dtype)
            if denoiser.prediction != "x0":
                return x0_from(denoiser.prediction, output, xn, timesteps, schedule)
            return output if centre is None else output - centre

        return denoise


def _with_head(callback: StepCallback, head: ItemHead, centre: Tensor | None) -> StepCallback:
    """The callback, shown latents that are not relative to the centre, and a head that scores them."""

    def call(step: SamplerStep) -> None:
        step.score = step.score or (lambda latents: head.logits(latents).log_softmax(-1))
        if centre is None:
            callback(step)
            return
        shown = replace(step, xn=step.xn + centre, prediction=step.prediction + centre)
        given, written = shown.xn, shown.xn._version
        callback(shown)
        if shown.xn is not given or given._version != written:  # else no rounding changes the chain
            step.xn = shown.xn - centre
        if shown.stopped:
            step.stop()

    return call


def items_at(items: Tensor, positions: Tensor) -> Tensor:
    """Items ``(B, Q, K)`` at positions; positions beyond the sequence are padding and give its last column."""
    flat = positions.clamp(max=items.shape[1] - 1).flatten(1)
    return items.gather(1, flat).view(positions.shape)
