"""The passes of an objective: corrupted latents in, predictions out, with one encoding and one call of the denoiser."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from diffusers_rec.data.history import History
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.objectives import Objective, Pass
from diffusers_rec.processes.noising import NoisingStrategy, Queries
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import Source
from diffusers_rec.processes.timesteps import TimestepSampler


class Parts(Protocol):
    """What the passes need of a model."""

    schedule: NoiseSchedule
    process: Process
    source: Source
    noising: NoisingStrategy
    timesteps: TimestepSampler
    embedding: ItemEmbedding
    denoiser: Denoiser
    objective: Objective


class _Corrupted(NamedTuple):
    """What one pass predicts from: each ``(B, Q, K, ...)``, but the steps, which may be one a query.

    ``seen`` holds the steps that the denoiser is told.
    """

    items: Tensor
    x0: Tensor
    timesteps: Tensor
    seen: Tensor
    xn: Tensor
    noise: Tensor


def run_passes(
    model: Parts,
    history: History,
    queries: Queries,
    items: Tensor,
    timesteps: Tensor,
    generator: Generator,
    following: tuple[Queries, Tensor] | None = None,
) -> tuple[dict[str, Pass], Tensor, dict[str, Tensor]]:
    """The objective's passes, the positions that they predict, ``(B, Q, K)``, and its penalties at each of these.

    Args:
        model: Parts of a model.
        history: Histories as far as any query sees them.
        queries: Q queries a history.
        items: Items at the corrupted positions, ``(B, Q, K)``.
        timesteps: Drawn steps, ``(B, Q)`` or ``(B, Q, K)``.
        generator: Source of all noise.
        following: Queries of the pass "next" and their items, where the objective has it.
    """
    names = tuple(name for name in model.objective.passes if name != "next")
    history = history.with_latents(model.embedding(history.items))
    if model.noising.noises_history:
        history = _with_copies(model, history, generator)
    context = model.denoiser.encode(history)
    passes, chosen = _run(model, names, history, context, queries, items, timesteps, generator)
    if following is not None:
        last = torch.full_like(following[0].visible, model.schedule.num_timesteps)
        passes |= _run(model, ("next",), history, context, *following, last, generator)[0]
    found = model.denoiser.penalties(context, queries, items) if model.objective.penalties else {}
    penalties = {name: steps_of_positions(found[name], chosen)[chosen] for name in model.objective.penalties}
    return passes, chosen, penalties


def _with_copies(model: Parts, history: History, generator: Generator) -> History:
    """The history with noised copies of its items, each at a step of its own."""
    clean = history.latent()[:, :, None]
    steps, _ = model.timesteps.sample(history.items.shape, generator, device=clean.device)
    copies = model.process.corrupt(clean, steps, generator).xn
    seen = model.process.seen_steps(copies, steps)
    return replace(history, copies=copies[:, :, 0], copy_steps=seen[..., 0] if seen.ndim == 3 else seen)


def _run(
    model: Parts,
    names: tuple[str, ...],
    history: History,
    context: Any,
    queries: Queries,
    items: Tensor,
    timesteps: Tensor,
    generator: Generator,
) -> tuple[dict[str, Pass], Tensor]:
    """Passes of the same queries, in one call of the denoiser."""
    denoiser, x0 = model.denoiser, model.embedding(items)
    centre = model.source.centre(history, queries)
    timesteps = queries.steps(timesteps)
    corrupted = _corrupt_all(model, names, queries, items, x0, timesteps, centre, generator)
    chosen = queries.gaps & (steps_of_positions(corrupted[names[0]].seen, queries.mask) > 0)
    if model.process.draws_items and not bool(chosen.any()):  # no position lost its item: all do
        last = torch.where(timesteps > 0, model.schedule.num_timesteps, 0)
        corrupted, chosen = _corrupt_all(model, names, queries, items, x0, last, centre, generator), queries.gaps
    hidden: bool | Tensor = False
    if denoiser.training and names != ("next",):
        hidden = denoiser.hidden(queries, generator)
    condition = denoiser.condition(context, queries.repeat(len(names)), null=_null(names, queries, hidden))
    output = denoiser(
        torch.cat([each.xn for each in corrupted.values()], dim=1),
        torch.cat([each.seen for each in corrupted.values()], dim=1),
        condition,
    )
    wanted = chosen.flatten().nonzero()[:, 0]  # once: on a GPU, the host waits for it

    def at_wanted(values: Tensor) -> Tensor:
        return values.flatten(0, 2).index_select(0, wanted)

    passes = {
        name: Pass(
            at_wanted(each.items),
            at_wanted(each.x0),
            at_wanted(each.xn),
            at_wanted(each.noise),
            at_wanted(steps_of_positions(each.timesteps, chosen)),
            at_wanted(part),
            denoiser.prediction,
            model.schedule,
            0.0 if centre is None else at_wanted(centre.expand_as(each.x0)),
            model.process,
            model.embedding,
        )
        for (name, each), part in zip(corrupted.items(), output.chunk(len(names), dim=1), strict=True)
    }
    return passes, chosen


def _corrupt_all(
    model: Parts,
    names: tuple[str, ...],
    queries: Queries,
    items: Tensor,
    x0: Tensor,
    timesteps: Tensor,
    centre: Tensor | None,
    generator: Generator,
) -> dict[str, _Corrupted]:
    corrupted: dict[str, _Corrupted] = {}
    for name in names:
        corrupted[name] = _corrupt(model, name, queries, items, x0, timesteps, centre, corrupted, generator)
    return corrupted


def steps_of_positions(steps: Tensor, real: Tensor) -> Tensor:
    """Numbers of each query or each position as those of each position, ``(B, Q, K)`` like ``real``."""
    return steps[..., None].expand_as(real) if steps.ndim < real.ndim else steps


def _corrupt(
    model: Parts,
    name: str,
    queries: Queries,
    items: Tensor,
    x0: Tensor,
    timesteps: Tensor,
    centre: Tensor | None,
    earlier: dict[str, _Corrupted],
    generator: Generator,
) -> _Corrupted:
    if name == "null":
        return earlier["sampled"]
    if name == "final":
        timesteps = torch.where(timesteps > 0, model.schedule.num_timesteps, 0)
    if name == "adjacent":
        timesteps = torch.where(timesteps > 0, (timesteps - 1).clamp(min=1), 0)
    if name in ("negative", "paired"):
        items = _other_items(items, model.embedding.num_items, generator)
        x0 = model.embedding(items)
    if name == "centroid":
        x0 = _centroids(model.embedding, items, x0, queries.gaps, generator)
        items = torch.full_like(items, -1)
    if name == "next" and model.process.knows_blanks:
        return _Corrupted(items, x0, timesteps, timesteps, torch.zeros_like(x0), torch.zeros_like(x0))
    noise = earlier["sampled"].noise if name in ("paired", "adjacent") else None
    corrupted = model.process.corrupt(x0 if centre is None else x0 - centre, timesteps, generator, noise=noise)
    seen = model.process.seen_steps(corrupted.xn, timesteps)
    xn = corrupted.xn if centre is None else corrupted.xn + centre
    return _Corrupted(items, x0, timesteps, seen, xn, corrupted.noise)


def _other_items(items: Tensor, num_items: int, generator: Generator) -> Tensor:
    """An item drawn uniformly for each, never the same one where there are two."""
    shift = torch.randint(1, max(2, num_items), items.shape, generator=generator, device=generator.device)
    return (items + shift.to(items.device)) % num_items


def _centroids(embedding: ItemEmbedding, items: Tensor, x0: Tensor, real: Tensor, generator: Generator) -> Tensor:
    """Mean latent of the real positions of the batch that hold another item, or of one item drawn uniformly."""
    same = items[real].bincount(minlength=embedding.num_items)[items][..., None]
    others = real.sum() - same
    mean = ((x0 * real[..., None]).sum((0, 1, 2)) - same * x0) / others.clamp(min=1)
    return torch.where(others > 0, mean, embedding(_other_items(items, embedding.num_items, generator)))


def _null(names: tuple[str, ...], queries: Queries, hidden: bool | Tensor) -> bool | Tensor:
    """Which of the repeated queries see nothing, ``(B, passes Q)``: the hidden ones in every pass, all in "null"."""
    if hidden is False and "null" not in names:
        return False
    visible = queries.visible
    each = torch.as_tensor(hidden, device=visible.device).expand_as(visible)
    return torch.cat([torch.ones_like(each) if name == "null" else each for name in names], dim=1)
