"""Inputs of the suites of objectives and loss terms."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import LinearHead
from diffusers_rec.objectives import LossTerm, Objective, Pass, TrainingStep, Views
from diffusers_rec.objectives.base import OTHERS, PASSES
from diffusers_rec.processes.prediction import target_of
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import SqrtSchedule
from diffusers_rec.testing.contract import SIZES, expect
from diffusers_rec.testing.inputs import gaussian, seeded, strided


def random_step(
    passes: Collection[str],
    latents: int,
    seed: int = 0,
    *,
    kind: str = "x0",
    dtype: torch.dtype = torch.float32,
    process: str | None = None,
    views: Collection[str] = (),
    penalties: Collection[str] = (),
) -> TrainingStep:
    """Build a step with the given passes, whose predictions differ from their targets.

    Args:
        passes: Names of the passes.
        latents: Number of latents M.
        seed: Seed of all random numbers.
        kind: Kind of the prediction.
        dtype: Dtype of the latents.
        process: Registered name of the process that corrupts; Gaussian noise, which a step has no process for, if None.
        views: Names of the views, one history for each latent.
        penalties: Names of the penalties.
    """
    items, dim, steps = SIZES["num_items"], SIZES["dim"], SIZES["num_timesteps"]
    schedule, generator = SqrtSchedule(steps), seeded(seed)
    drawn = torch.randint(1, steps + 1, (latents,), generator=generator)
    true = torch.randint(items, (latents,), generator=generator)
    true[1:2] = (true[:1] + 1) % items  # a contrast needs two items
    head = LinearHead(items, dim, seed=seed).to(dtype)
    embedding = TableEmbedding(items, dim, seed=seed).to(dtype)
    parts = {"schedule": schedule, "embedding": embedding, "head": head}
    corrupts = None if process is None else Process.build_with(parts, process)
    made: dict[str, Pass] = {}
    for place, name in enumerate(passes):
        x0, noise, error = (
            gaussian(latents, dim, seed=100 * seed + part + (10 * place if part else 0), dtype=dtype)
            for part in range(3)
        )
        if name in OTHERS:
            x0 = gaussian(latents, dim, seed=100 * seed + 50, dtype=dtype)
        timesteps = {"final": torch.full_like(drawn, steps), "adjacent": (drawn - 1).clamp(min=1)}.get(name, drawn)
        if name in ("paired", "adjacent") and "sampled" in made:
            noise = made["sampled"].noise
        xn = schedule.add_noise(x0, noise, timesteps)
        if corrupts is not None:
            corrupted = corrupts.corrupt(x0[:, None], timesteps[:, None], generator)
            xn, noise = corrupted.xn[:, 0].detach(), corrupted.noise[:, 0]
        output = target_of(kind, x0, noise, xn, timesteps, schedule) + error
        other = (true + 1) % items
        shown = {"negative": other, "paired": other, "centroid": torch.full_like(true, -1)}.get(name, true)
        made[name] = Pass(
            shown, x0, xn, noise, timesteps, output, kind, schedule, process=corrupts, embedding=embedding
        )
    weights = (torch.rand(latents, generator=generator) + 0.5).to(dtype)
    states: dict[str, tuple[Tensor, ...]] = {}
    for place, name in enumerate(views):
        states[name] = (*states.get(name, ()), gaussian(latents, dim, seed=100 * seed + 60 + place, dtype=dtype))
    drawn_penalties = {name: torch.rand(latents, generator=generator).to(dtype) for name in penalties}
    return TrainingStep(made, weights, head, views=Views(states, true), penalties=drawn_penalties)


def step_for(part: Objective | LossTerm, latents: int, seed: int = 0, *, kind: str = "x0") -> TrainingStep:
    """Build a step with everything that an objective or a term reads."""
    process = part.process if isinstance(part, LossTerm) else None
    return random_step(
        part.passes, latents, seed, kind=kind, process=process, views=part.views, penalties=part.penalties
    )


def change_states(step: TrainingStep, change: Callable[[Tensor], Tensor]) -> TrainingStep:
    """Apply a function to each state of the views of a step."""
    states = {name: tuple(map(change, each)) for name, each in step.views.states.items()}
    return replace(step, views=replace(step.views, states=states))


def change_passes(step: TrainingStep, change: Callable[[Pass], Pass]) -> TrainingStep:
    """Apply a function to each pass of a step."""
    return replace(step, passes={name: change(each) for name, each in step.passes.items()})


def change_tensors(step: TrainingStep, change: Callable[[Tensor], Tensor]) -> TrainingStep:
    """Apply a function to each tensor of a step."""

    def changed(one: Pass) -> Pass:
        values: dict[str, Any] = {each.name: getattr(one, each.name) for each in fields(one)}
        return Pass(**values | {name: change(value) for name, value in values.items() if isinstance(value, Tensor)})

    views = replace(step.views, items=change(step.views.items)) if step.views.states else step.views
    penalties = {name: change(value) for name, value in step.penalties.items()}
    whole = replace(change_passes(step, changed), weights=change(step.weights), views=views, penalties=penalties)
    return change_states(whole, change)


def select(step: TrainingStep, rows: slice | Tensor) -> TrainingStep:
    """Select some of the M latents."""
    return change_tensors(step, lambda part: part[rows])


def non_contiguous(step: TrainingStep) -> TrainingStep:
    """Copy of a step with tensors that are not contiguous."""
    return change_tensors(step, strided)


def half_outputs(step: TrainingStep) -> tuple[TrainingStep, TrainingStep]:
    """Step with bfloat16 outputs, and step with the same values in the dtype of the latents."""
    half = change_passes(step, lambda one: replace(one, output=one.output.bfloat16()))
    return half, change_passes(half, lambda one: replace(one, output=one.output.to(one.x0.dtype)))


def gradients_of_outputs(step: TrainingStep, loss: Callable[[TrainingStep], Tensor]) -> dict[str, Tensor | None]:
    """Gradient of a scalar loss with respect to the output of each pass, and to the states of each view."""
    leaves = change_passes(step, lambda one: replace(one, output=one.output.clone().requires_grad_()))
    leaves = change_states(leaves, lambda state: state.clone().requires_grad_())
    scalar = loss(leaves)
    expect(scalar.requires_grad, "a loss with a gradient", "one without")
    outputs = {name: one.output for name, one in leaves.passes.items()}
    for name, states in leaves.views.states.items():
        outputs |= {f"view {name} {number}": state for number, state in enumerate(states, 1)}
    return dict(zip(outputs, torch.autograd.grad(scalar, [*outputs.values()], allow_unused=True), strict=True))


def expect_known_passes(passes: tuple[str, ...]) -> None:
    """Require known and different passes, of which the first is ``"sampled"``."""
    known = tuple(passes) == tuple(dict.fromkeys(name for name in passes if name in PASSES))
    expect(known, f"passes among {', '.join(PASSES)}, each once", passes)
    expect(tuple(passes)[:1] == ("sampled",), "'sampled' as the first pass", passes)


def expect_used_passes(gradients: dict[str, Tensor | None]) -> None:
    """Require that each pass and view has a gradient; ``sampled``, which is always declared, may have none."""
    idle = {name for name, gradient in gradients.items() if gradient is None or not gradient.any()}
    needless = idle if len(gradients) == 1 else idle - {"sampled"}
    expect(
        not needless,
        "a gradient in the output of each declared pass and view",
        f"none in {', '.join(sorted(needless))}",
    )
    for name, gradient in gradients.items():
        expect(gradient is None or gradient.isfinite().all(), f"a finite gradient in {name}", gradient)
