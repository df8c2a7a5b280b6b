"""The passes of an objective: corrupted latents in, predictions out, with one encoding and one call of the denoiser."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Generator, Tensor

from diffusers_rec.data.history import History
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.objectives import Objective, Pass
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import Source


class Parts(Protocol):
    """What the passes need of a model."""

    schedule: NoiseSchedule
    process: Process
    source: Source
    embedding: ItemEmbedding
    denoiser: Denoiser
    objective: Objective


class _Corrupted(NamedTuple):
    """What one pass predicts from: each ``(B, Q, K, ...)``, but the steps, which may be one a query."""

    items: Tensor
    x0: Tensor
    timesteps: Tensor
    xn: Tensor
    noise: Tensor


def run_passes(
    model: Parts, history: History, queries: Queries, items: Tensor, timesteps: Tensor, generator: Generator
) -> dict[str, Pass]:
    """The objective's passes at the real positions of all queries.

    Args:
        model: Parts of a model.
        history: Histories as far as any query sees them.
        queries: Q queries a history.
        items: Items at the corrupted positions, ``(B, Q, K)``.
        timesteps: Drawn steps, ``(B, Q)`` or ``(B, Q, K)``.
        generator: Source of all noise.
    """
    names, denoiser = model.objective.passes, model.denoiser
    x0 = model.embedding(items)
    history = history.with_latents(model.embedding(history.items))
    centre = model.source.centre(history, queries)
    corrupted: dict[str, _Corrupted] = {}
    for name in names:
        corrupted[name] = _corrupt(model, name, items, x0, timesteps, centre, corrupted, generator)
    null = _null(names, queries, denoiser.hidden(queries, generator) if denoiser.training else False)
    condition = denoiser.condition(denoiser.encode(history), queries.repeat(len(names)), null=null)
    output = denoiser(
        torch.cat([each.xn for each in corrupted.values()], dim=1),
        torch.cat([each.timesteps for each in corrupted.values()], dim=1),
        condition,
    )
    real = queries.mask
    return {
        name: Pass(
            each.items[real],
            each.x0[real],
            each.xn[real],
            each.noise[real],
            steps_of_positions(each.timesteps, real)[real],
            part[real],
            denoiser.prediction,
            model.schedule,
            0.0 if centre is None else centre.expand_as(each.x0)[real],
        )
        for (name, each), part in zip(corrupted.items(), output.chunk(len(names), dim=1), strict=True)
    }


def steps_of_positions(steps: Tensor, real: Tensor) -> Tensor:
    """Numbers of each query or each position as those of each position, ``(B, Q, K)`` like ``real``."""
    return steps[..., None].expand_as(real) if steps.ndim < real.ndim else steps


def _corrupt(
    model: Parts,
    name: str,
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
        timesteps = torch.full_like(timesteps, model.schedule.num_timesteps)
    if name == "negative":
        items = _other_items(items, model.embedding.num_items, generator)
        x0 = model.embedding(items)
    corrupted = model.process.corrupt(x0 if centre is None else x0 - centre, timesteps, generator)
    xn = corrupted.xn if centre is None else corrupted.xn + centre
    return _Corrupted(items, x0, timesteps, xn, corrupted.noise)


def _other_items(items: Tensor, num_items: int, generator: Generator) -> Tensor:
    """An item drawn uniformly for each, never the same one where there are two."""
    shift = torch.randint(1, max(2, num_items), items.shape, generator=generator, device=generator.device)
    return (items + shift.to(items.device)) % num_items


def _null(names: tuple[str, ...], queries: Queries, hidden: bool | Tensor) -> bool | Tensor:
    """Which of the repeated queries see nothing, ``(B, passes Q)``: the hidden ones in every pass, all in "null"."""
    if hidden is False and "null" not in names:
        return False
    visible = queries.visible
    each = torch.as_tensor(hidden, device=visible.device).expand_as(visible)
    return torch.cat([torch.ones_like(each) if name == "null" else each for name in names], dim=1)
