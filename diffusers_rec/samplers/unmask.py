"""Fill blanks with items, some at a time: the reverse chain of the absorbing process, in an order of one's choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_bool, check_choice, check_float, check_int
from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.mask import MaskProcess
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, SamplerStep, StepCallback, after_step, process_of
from diffusers_rec.samplers.chain import asker
from diffusers_rec.samplers.item_draws import ItemDraws
from diffusers_rec.samplers.item_predictor import ItemPredictor

ORDERS = "random", "confidence", "left-to-right"


@dataclass(frozen=True)
class Filled:
    """Items of K positions in S draws.

    Attributes:
        items: Item indices, ``(B, S, K)``.
        log_likelihood: Sum over the gaps of the log-probability with which the item there was drawn, float64
            ``(B, S)``. For one blank a step, this is the log-likelihood by the chain rule.
        xn: Latents at the end, like the start.
    """

    items: Tensor
    log_likelihood: Tensor
    xn: Tensor


class UnmaskSampler(Sampler, name="unmask"):
    r"""Fills the K blanks of a query in 1 to K steps, each from the distribution given all that are filled.

    With K steps, a sample is drawn by the chain rule in the given order, as in ancestral sampling of the absorbing
    process; with fewer, those that are filled in one step are drawn independently of one another.

    Args:
        num_steps: Number of steps; one for each blank if None. It does not count ``remask``.
        order: ``"random"``; ``"left-to-right"``; or ``"confidence"``, the position with the likeliest item first (Chang
            et al. 2022, *MaskGIT*).
        temperature: Divides the logits; 0 takes the likeliest item.
        top_p: Draws among the likeliest items that together have this probability, in (0, 1].
        remask: Number of times that one position, chosen at random, is blanked and filled again at the end.
        distinct: Whether no item may stand at two positions of a draw.
        head: Item head, shared and not owned.
        embedding: Item embedding, shared and not owned.
    """

    requires = frozenset({"head", "embedding"})
    entrances = "sample", "fill"

    def __init__(
        self,
        head: ItemHead,
        embedding: ItemEmbedding,
        *,
        num_steps: int | None = None,
        order: str = "random",
        temperature: float = 1.0,
        top_p: float = 1.0,
        remask: int = 0,
        distinct: bool = False,
    ) -> None:
        self.head, self.embedding = head, embedding
        self.num_steps = None if num_steps is None else check_int("num_steps", num_steps, minimum=1)
        self.order = check_choice("order", order, ORDERS)
        self.temperature = check_float("temperature", temperature, minimum=0)
        self.top_p = check_float("top_p", top_p, above=0, maximum=1)
        self.remask = check_int("remask", remask, minimum=0)
        self.distinct = check_bool("distinct", distinct)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        if model.denoiser.prediction == "items" and not model.process.knows_blanks:
            raise ValueError(
                "The parts do not fit: the sampler 'unmask' fills blanks, which the denoiser does not learn with the "
                f"process {model.process.registered_name!r}. Train with process='mixed' or 'mask', or use a chain such "
                "as sampler='ddpm'."
            )

    def own_process(self, process: Process) -> Process:
        """The absorbing process with the same steps."""
        return MaskProcess(process.schedule)

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
            denoise: An :class:`~diffusers_rec.samplers.ItemPredictor`, or a function of latents and steps whose value
                the head turns into the logits of the items.
            process: Process, or schedule; only its number of steps counts.
            start: Latents of blanks, ``(B, S, K, D)``.
            generator: See :meth:`Sampler.sample`.
            callback: See :meth:`Sampler.sample`.
        """
        return self.fill(denoise, process, start, generator, callback=callback).xn

    def fill(
        self,
        denoise: Denoise,
        process: Process | NoiseSchedule,
        start: Tensor,
        generator: Generators | None,
        *,
        callback: StepCallback | None = None,
    ) -> Filled:
        """Draw items; the arguments are those of :meth:`sample`.

        Raises:
            ValueError: ``start`` has no axis of draws, or no item is left for a gap.
        """
        if start.ndim < 3:
            raise ValueError(f"The sampler 'unmask' takes latents (B, S, K, D), got {tuple(start.shape)}.")
        shape, start = start.shape, start.reshape(*start.shape[:2], -1, start.shape[-1])
        predictor = (
            denoise if isinstance(denoise, ItemPredictor) else _Scored(denoise, shape, self.head, self.embedding)
        )
        items = predictor.decided(start)
        xn = torch.where((items >= 0)[..., None], predictor.latents(items).to(start.dtype), start)
        last = torch.full(start.shape[:2], process_of(process).schedule.num_timesteps, device=start.device)
        gaps, same = items < 0, bool((start == start[:, :1]).all())
        log_probability = torch.zeros(items.shape, dtype=torch.float64, device=start.device)
        steps = int(gaps.sum(-1).max())
        steps = steps if self.num_steps is None else min(steps, self.num_steps)
        order, number = (uniform(items.shape, generator, device=start.device) for _ in range(2))
        for index in range(steps + self.remask):
            if index >= steps:  # one gap of each draw is blank again
                order, number = (uniform(items.shape, generator, device=start.device) for _ in range(2))
                again = gaps & (order == order.masked_fill(~gaps, -1.0).amax(-1, keepdim=True))
                items, xn = items.masked_fill(again, -1), torch.where(again[..., None], start, xn)
            blank = items < 0
            count = -(-blank.sum(-1) // max(1, steps - index))
            state = _Blanks(items, order, number, count)
            drawn, scores = self._fill_some(predictor, xn, last, state, shared=same and not index)
            items = torch.where(drawn >= 0, drawn, items)
            log_probability = torch.where(drawn >= 0, scores, log_probability)
            xn = torch.where((drawn >= 0)[..., None], predictor.latents(items).to(xn.dtype), xn)
            if callback is not None:
                now, then = ((each * last[..., None]).reshape(shape[:-1]) for each in (blank, items < 0))
                step = SamplerStep(index, now, then, xn.view(shape), predictor.shown(xn).reshape(shape))
                after_step(self, callback, step)
                xn = (step.prediction if step.stopped else step.xn).reshape(xn.shape)
                if step.stopped:
                    break
        return Filled(items, log_probability.sum(-1), xn.view(shape))

    def _fill_some(
        self, predictor: ItemPredictor | _Scored, xn: Tensor, last: Tensor, blanks: _Blanks, *, shared: bool
    ) -> tuple[Tensor, Tensor]:
        """Items for some of the blanks, -1 elsewhere, and their log-probabilities, ``(B, S, K)``.

        Args:
            predictor: Predictor of the distributions.
            xn: Latents, ``(B, S, K, D)``.
            last: Step N, ``(B, S)``.
            blanks: What is to be filled.
            shared: Whether all draws of a history have the same latents: their distributions are computed once.
        """
        shape = blanks.items.shape
        most = int(blanks.count.max())
        flat = blanks.flat()
        drawn = torch.full_like(flat.items, -1)
        log_probability = torch.zeros_like(flat.order)
        if not most:
            return drawn.view(shape), log_probability.view(shape)
        places = None
        if self.order != "confidence" and not shared:
            places = self._ranked(blanks).argsort(stable=True, dim=-1)[..., :most]
        one, copies = (slice(0, 1), shape[1]) if shared else (slice(None), 1)
        found = predictor.distributions(xn[:, one], last[:, one], items=blanks.items[:, one], places=places)
        for rows, scores in found:
            mine = slice(rows.start * copies, rows.stop * copies)
            own = flat.take(mine)
            likely = self._may_be_drawn(scores, own.items[::copies])
            at = self._first(own, likely, most) if places is None else places.flatten(0, 1)[mine]
            draws = ItemDraws(self._tempered(likely), likely, copies, greedy=not self.temperature, most=most)
            for turn in range(most):
                column = at[:, turn : turn + 1]
                place = column if places is None else torch.full_like(column, turn)
                excluded = drawn[mine].gather(1, at[:, : turn if self.distinct else 0])
                item, score = draws.draw(place, own.number.gather(1, column), excluded)
                fills = turn < own.count[:, None]
                if bool((fills & draws.is_barred(place, item)).any()):
                    raise ValueError(
                        "No item is left to fill a gap with: those that are allowed stand already, or are against the "
                        "guidance. Allow more items, or ask for less."
                    )
                drawn[mine].scatter_(1, column, item.where(fills, drawn[mine].gather(1, column)))
                log_probability[mine].scatter_(1, column, score)
        return drawn.view(shape), log_probability.view(shape)

    def _ranked(self, blanks: _Blanks) -> Tensor:
        """Numbers by which blanks are filled, the lowest first, like the items; infinity where there is no blank."""
        order = blanks.order
        if self.order == "left-to-right":
            order = torch.arange(order.shape[-1], device=order.device, dtype=order.dtype).expand_as(order)
        return order.masked_fill(blanks.items >= 0, torch.inf)

    def _first(self, blanks: _Blanks, likely: Tensor, most: int) -> Tensor:
        """The positions that are filled first, ``(R, most)``."""
        rank = self._ranked(blanks)
        if self.order == "confidence":
            surest = (likely.amax(-1) - likely.logsumexp(-1)).repeat_interleave(len(rank) // len(likely), 0)
            rank = (-surest).masked_fill(blanks.items >= 0, torch.inf)
        return rank.argsort(stable=True, dim=-1)[:, :most]

    def _may_be_drawn(self, scores: Tensor, decided: Tensor) -> Tensor:
        """Scores ``(r, P, V)`` without the items that stand already in the draws, ``(r, K)``; written to."""
        if self.distinct:
            row, column = (decided >= 0).nonzero(as_tuple=True)
            scores[row, :, decided[row, column]] = -torch.inf
        return scores

    def _tempered(self, scores: Tensor) -> Tensor:
        """The distributions that are drawn from, up to a factor."""
        if self.temperature not in (0, 1):
            scores = (scores - scores.amax(-1, keepdim=True)) / self.temperature
        if self.top_p < 1 and self.temperature:
            likeliest, item = scores.log_softmax(-1).sort(stable=True, dim=-1, descending=True)
            before = likeliest.exp().cumsum(-1) - likeliest.exp()
            likeliest = likeliest.masked_fill(before >= self.top_p, -torch.inf)
            scores = torch.empty_like(likeliest).scatter_(-1, item, likeliest)
        return scores


@dataclass(frozen=True)
class _Blanks:
    """Positions of draws, some of them blank.

    Attributes:
        items: Items that are decided, -1 at blanks, ``(..., K)``.
        order: Numbers that order the positions at random, ``(..., K)``.
        number: Numbers in [0, 1) by which items are drawn, ``(..., K)``.
        count: How many blanks to fill, ``(...)``.
    """

    items: Tensor
    order: Tensor
    number: Tensor
    count: Tensor

    def flat(self) -> _Blanks:
        """The same with one axis of rows."""
        items, order, number = (each.flatten(0, 1) for each in (self.items, self.order, self.number))
        return _Blanks(items, order, number, self.count.flatten())

    def take(self, rows: slice) -> _Blanks:
        return _Blanks(self.items[rows], self.order[rows], self.number[rows], self.count[rows])


class _Scored:
    """A plain function of latents and steps, whose value the head turns into logits, as a predictor."""

    def __init__(self, denoise: Denoise, shape: torch.Size, head: ItemHead, embedding: ItemEmbedding) -> None:
        self.denoise, self.shape, self.head, self.embedding = denoise, shape, head, embedding
        self.prediction: Tensor | None = None

    def decided(self, latents: Tensor) -> Tensor:
        return torch.full(latents.shape[:-1], -1, device=latents.device)

    def latents(self, items: Tensor) -> Tensor:
        return self.embedding(items.clamp(min=0))

    def shown(self, xn: Tensor) -> Tensor:
        return xn if self.prediction is None else self.prediction

    def distributions(
        self, xn: Tensor, timesteps: Tensor, *, items: Tensor | None = None, places: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        shown = xn.view(*xn.shape[:2], *self.shape[2:])
        self.prediction = asker(self.denoise, shown, [])(shown, timesteps)
        scores = self.head.logits(self.prediction.reshape(xn.shape)).log_softmax(-1)
        if places is not None:
            scores = scores.gather(2, places[..., None].expand(*places.shape, scores.shape[-1]))
        yield slice(0, scores.shape[0] * scores.shape[1]), scores.flatten(0, 1)
