"""Fill blanks with items, some at a time: the reverse chain of the absorbing process, in an order of one's choice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_choice, check_float, check_int
from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.mask import MaskProcess
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, SamplerStep, StepCallback, after_step, process_of
from diffusers_rec.samplers.chain import asker
from diffusers_rec.samplers.item_predictor import ItemPredictor, barred

ORDERS = "random", "confidence", "left-to-right"


@dataclass(frozen=True)
class Filled:
    """Items of K positions in S draws.

    Attributes:
        items: Item indices, ``(B, S, K)``.
        log_likelihood: Sum of the log-probabilities with which the gaps were filled, float64 ``(B, S)``.
        xn: Latents at the end, ``(B, S, K, D)``.
    """

    items: Tensor
    log_likelihood: Tensor
    xn: Tensor


class UnmaskSampler(Sampler, name="unmask"):
    r"""Fills the K blanks of a query in 1 to K steps, each from the distribution given all that are filled.

    With K steps, a sample is drawn by the chain rule in the given order, as in ancestral sampling of the absorbing process;
    with fewer, those that are filled in one step are drawn independently of one another.

    Args:
        num_steps: Number of steps; one for each blank if None. It does not count ``remask``.
        order: ``"random"``; ``"left-to-right"``; or ``"confidence"``, the position with the likeliest item first (Chang et
            al. 2022, *MaskGIT*).
        temperature: Divides the logits; 0 takes the likeliest item.
        top_p: Draws among the likeliest items that together have this probability, in (0, 1].
        remask: Number of times that one position, chosen at random, is blanked and filled again at the end.
        distinct: Whether no item may stand at two positions of a draw.
        head: Item head, shared and not owned.
        embedding: Item embedding, shared and not owned.
    """

    requires = frozenset({"head", "embedding"})

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
        self.distinct = distinct

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
            denoise: An :class:`~diffusers_rec.samplers.ItemPredictor`, or a function of latents and steps whose value the
                head turns into the logits of the items.
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
            ValueError: ``start`` has no axes of draws and positions.
        """
        if start.ndim != 4:
            raise ValueError(f"The sampler 'unmask' takes latents (B, S, K, D), got {tuple(start.shape)}.")
        predictor = denoise if isinstance(denoise, ItemPredictor) else _Scored(denoise, self.head, self.embedding)
        items = predictor.decided(start).clone()
        xn = torch.where((items >= 0)[..., None], predictor.latents(items).to(start.dtype), start)
        last = torch.full(start.shape[:2], process_of(process).schedule.num_timesteps, device=start.device)
        log_likelihood = torch.zeros(start.shape[:2], dtype=torch.float64, device=start.device)
        gaps = items < 0
        steps = self.num_steps or max(1, int(gaps.sum(-1).max()))
        for index in range(steps + self.remask):
            order = uniform(start.shape[:3], generator, device=start.device)
            if index >= steps:  # a gap that is filled becomes a blank again
                again = order.masked_fill(~gaps, -1.0).argmax(-1, keepdim=True)
                items = items.scatter(2, again, torch.where(gaps.gather(2, again), -1, items.gather(2, again)))
                xn = torch.where((items < 0)[..., None], start, xn)
            number = uniform(start.shape[:3], generator, device=start.device)
            blank = items < 0
            left = blank.sum(-1, keepdim=True)
            count = -(-left // max(1, steps - index))
            drawn, log_probability = self._fill_some(predictor, xn, last, items, order, number, count, shared=not index)
            items = torch.where(blank, drawn, items)
            log_likelihood += log_probability
            xn = torch.where((blank & (items >= 0))[..., None], predictor.latents(items).to(xn.dtype), xn)
            if callback is not None:
                now, then = (each.long() * last[..., None] for each in (blank, items < 0))
                ends = index == steps + self.remask - 1
                step = SamplerStep(index, now, torch.zeros_like(then) if ends else then, xn, predictor.shown(xn))
                after_step(self, callback, step)
                xn = step.prediction if step.stopped else step.xn
                if step.stopped:
                    break
        return Filled(items, log_likelihood, xn)

    def _fill_some(
        self,
        predictor: ItemPredictor | _Scored,
        xn: Tensor,
        last: Tensor,
        items: Tensor,
        order: Tensor,
        number: Tensor,
        count: Tensor,
        *,
        shared: bool,
    ) -> tuple[Tensor, Tensor]:
        """Items for ``count`` of the blanks of each draw, -1 elsewhere, and the log-probability of all of them.

        Args:
            predictor: Predictor of the distributions.
            xn: Latents, ``(B, S, K, D)``.
            last: Step N, ``(B, S)``.
            items: Items that are decided, -1 elsewhere, ``(B, S, K)``.
            order: Numbers by which a random order goes, ``(B, S, K)``.
            number: Numbers in [0, 1) that items are drawn by, ``(B, S, K)``.
            count: How many blanks to fill, ``(B, S, 1)``.
            shared: Whether all draws of a history have the same latents.
        """
        draws, width = items.shape[1:]
        most = int(count.max())
        drawn = torch.full_like(items, -1).flatten(0, 1)
        total = torch.zeros(len(drawn), dtype=torch.float64, device=drawn.device)
        if not most:
            return drawn.view(items.shape), total.view(items.shape[:2])
        rank = self._ranked(order, items)
        places = None
        if self.order != "confidence" and not shared:
            places = rank.argsort(-1)[..., :most]
        one = slice(0, 1) if shared else slice(None)
        copies = draws if shared else 1
        found = predictor.distributions(xn[:, one], last[:, one], items=items[:, one], places=places)
        for rows, scores in found:
            mine = slice(rows.start * copies, rows.stop * copies)
            part = _Part(
                self._tempered(scores), copies, items.flatten(0, 1)[mine], number.flatten(0, 1)[mine], self.distinct
            )
            at = None if places is None else places.flatten(0, 1)[mine]
            if at is None:
                ranks = rank.flatten(0, 1)[mine]
                if self.order == "confidence":
                    surest = scores.amax(-1).repeat_interleave(copies, 0)
                    ranks = (-surest).masked_fill(part.items >= 0, torch.inf)
                at = ranks.argsort(-1)[:, :most]
            for turn in range(most):
                column = at[:, turn : turn + 1]
                row = torch.full_like(column, turn) if places is not None else column
                item, log_probability = part.draw(column, row, greedy=not self.temperature)
                fills = turn < count.flatten(0, 1)[mine]
                drawn[mine].scatter_(1, column, torch.where(fills, item, drawn[mine].gather(1, column)))
                part.items.scatter_(1, column, torch.where(fills, item, part.items.gather(1, column)))
                total[mine] += torch.where(fills, log_probability, 0.0)[:, 0]
        return drawn.view(items.shape), total.view(items.shape[:2])

    def _ranked(self, order: Tensor, items: Tensor) -> Tensor:
        """Numbers by which blanks are filled, the lowest first, ``(B, S, K)``; infinity where there is no blank."""
        if self.order == "left-to-right":
            order = torch.arange(items.shape[-1], device=items.device, dtype=order.dtype).expand_as(order)
        return order.masked_fill(items >= 0, torch.inf)

    def _tempered(self, log_probabilities: Tensor) -> Tensor:
        """The distributions that are drawn from."""
        if self.temperature not in (0, 1):
            log_probabilities = (log_probabilities / self.temperature).log_softmax(-1)
        if self.top_p < 1:
            likeliest, item = log_probabilities.sort(-1, descending=True)
            before = likeliest.exp().cumsum(-1) - likeliest.exp()
            likeliest = likeliest.masked_fill(before >= self.top_p, -torch.inf).log_softmax(-1)
            log_probabilities = torch.empty_like(likeliest).scatter_(-1, item, likeliest)
        return log_probabilities


class _Part:
    """Draws of some rows from distributions ``(r, P, V)`` that ``copies`` neighbouring draws share.

    Args:
        scores: Log-probabilities.
        copies: Draws a distribution, so that there are R = r copies draws.
        items: Items that are decided, -1 elsewhere, ``(R, K)``; copied.
        number: Numbers in [0, 1), ``(R, K)``.
        distinct: Whether a decided item may not be drawn again.
    """

    def __init__(self, scores: Tensor, copies: int, items: Tensor, number: Tensor, distinct: bool) -> None:
        self.scores, self.items, self.number, self.distinct = scores, items.clone(), number, distinct
        self.cumulative: Tensor | None = None
        self.row = torch.arange(len(items), device=items.device)[:, None] // copies

    def draw(self, column: Tensor, row: Tensor, *, greedy: bool) -> tuple[Tensor, Tensor]:
        """Items for the positions ``column``, whose distributions are ``row``, each ``(R, 1)``; and log-probabilities."""
        taken = self.items.sort(1).values if self.distinct else self.items[:, :0]
        taken = taken.masked_fill(_repeated(taken), -1)
        barring = self.scores[self.row, row, taken.clamp(min=0)].exp() * (taken >= 0)
        if greedy:
            item = barred(self.scores[self.row[:, 0], row[:, 0]].clone(), taken).argmax(-1, keepdim=True)
            return item, self.scores[self.row, row, item].double()
        if self.cumulative is None:
            self.cumulative = self.scores.exp().cumsum_(-1)
        left = self.cumulative[self.row, row, -1:][..., 0] - barring.sum(1, keepdim=True)
        target = self.number.gather(1, column).to(left) * left
        for place in range(taken.shape[1]):  # step over what may not be drawn, from the lowest index upwards
            item = taken[:, place : place + 1]
            before = self.cumulative[self.row, row, item.clamp(min=0)] - barring[:, place : place + 1]
            target = target + torch.where((item >= 0) & (target >= before), barring[:, place : place + 1], 0.0)
        return self._found(target, row, taken, left)

    def _found(self, target: Tensor, row: Tensor, taken: Tensor, left: Tensor) -> tuple[Tensor, Tensor]:
        """Items whose part of the cumulative distribution holds ``target``, ``(R, 1)``."""
        if self.cumulative is None:
            raise RuntimeError("draw() computes the cumulative distribution first.")
        numbers = target.view(len(self.scores), 1, -1).expand(-1, self.scores.shape[1], -1).contiguous()
        everywhere = torch.searchsorted(self.cumulative, numbers, right=True)
        item = everywhere.transpose(1, 2).flatten(0, 1).gather(1, row).clamp(max=self.scores.shape[-1] - 1)
        log_probability = self.scores[self.row, row, item].double()
        missed = ((item == taken).any(1, keepdim=True) | log_probability.isneginf())[:, 0]
        if bool(missed.any()):  # rounding: the likeliest item that may be drawn
            scores = barred(self.scores[self.row[missed, 0], row[missed, 0]].clone(), taken[missed])
            item[missed] = scores.argmax(-1, keepdim=True)
            log_probability[missed] = scores.amax(-1, keepdim=True).double()
        return item, log_probability - left.double().log()


class _Scored:
    """A plain function of latents and steps, whose value the head turns into logits, as a predictor."""

    def __init__(self, denoise: Denoise, head: ItemHead, embedding: ItemEmbedding) -> None:
        self.denoise, self.head, self.embedding = denoise, head, embedding
        self.prediction: Tensor | None = None

    def decided(self, latents: Tensor) -> Tensor:
        return torch.full_like(latents[..., 0], -1, dtype=torch.int64)

    def latents(self, items: Tensor) -> Tensor:
        return self.embedding(items.clamp(min=0)) * (items >= 0)[..., None]

    def shown(self, xn: Tensor) -> Tensor:
        return xn if self.prediction is None else self.prediction

    def distributions(
        self, xn: Tensor, timesteps: Tensor, *, items: Tensor | None = None, places: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        self.prediction = asker(self.denoise, xn, [])(xn, timesteps)
        scores = self.head.logits(self.prediction).log_softmax(-1)
        if places is not None:
            scores = scores.gather(2, places[..., None].expand(*places.shape, scores.shape[-1]))
        yield slice(0, scores.shape[0] * scores.shape[1]), scores.flatten(0, 1)


def _repeated(items: Tensor) -> Tensor:
    """Where a sorted row repeats the item before."""
    same = torch.zeros_like(items, dtype=torch.bool)
    same[:, 1:] = items[:, 1:] == items[:, :-1]
    return same
