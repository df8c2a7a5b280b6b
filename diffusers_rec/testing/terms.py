"""The contract of a loss term: an unweighted loss per latent, or of the batch, from the declared passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusers_rec.objectives import LossTerm, TrainingStep
from diffusers_rec.objectives.base import OTHERS
from diffusers_rec.testing.contract import Case, Maker, Suite, copy_of, expect, expect_close, expect_equal
from diffusers_rec.testing.training_steps import (
    expect_known_passes,
    expect_used_passes,
    gradients_of_outputs,
    half_outputs,
    non_contiguous,
    select,
    step_for,
)


def passes_are_known(term: LossTerm, step: TrainingStep) -> None:
    """Passes are known and different, and the first is ``"sampled"``."""
    expect_known_passes(term.passes)


def term_is_a_number_a_latent_or_one_a_batch(term: LossTerm, step: TrainingStep) -> None:
    """A term is finite, ``(M,)`` or a scalar."""
    value, latents = term(step), len(step.items)
    expect(value.shape in ((), (latents,)), f"a scalar or ({latents},)", tuple(value.shape))
    expect(value.isfinite().all(), "finite numbers", value)


def term_is_not_weighted(term: LossTerm, step: TrainingStep) -> None:
    """A term does not apply its weight or the weights of the step; the objective does."""
    value = term(step)
    expect_equal("the term with other weights of the step", term(replace(step, weights=3 * step.weights)), value)
    if "weight" in term.settings():
        expect_equal("the term with another weight", copy_of(term, weight=term.weight + 2)(step), value)


def latents_are_independent(term: LossTerm, step: TrainingStep) -> None:
    """A term ``(M,)`` has the same value for a latent in any batch."""
    whole = term(step)
    if whole.ndim:
        for i in range(len(whole)):
            alone = term(select(step, slice(i, i + 1)))
            expect_close(f"the term of latent {i} alone", alone[0], whole[i], rtol=1e-5, atol=1e-6)


def order_does_not_matter(term: LossTerm, step: TrainingStep) -> None:
    """Neither the order of the latents nor the memory layout has an effect."""
    backwards = select(step, torch.arange(len(step.items)).flip(0))
    for what, other in (("of the latents backwards", backwards), ("of strided tensors", non_contiguous(step))):
        expect_close(f"the term {what}", term(other).mean(), term(step).mean(), rtol=1e-5, atol=1e-6)


def gradients_reach_the_declared_passes(term: LossTerm, step: TrainingStep) -> None:
    """The term depends on every declared pass and view, because each costs a prediction or an encoding."""
    if len(step.items) > 1:  # a contrast needs two
        expect_used_passes(gradients_of_outputs(step, lambda leaves: term(leaves).sum()))


def half_precision_is_computed_in_full(term: LossTerm, step: TrainingStep) -> None:
    """With bfloat16 outputs, a term per latent has no further error, also under autocast."""
    half, full = half_outputs(step)
    expected = term(full)
    if expected.ndim:
        expect_equal("the term of bfloat16 outputs", term(half), expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expect_equal("the term under autocast", term(half), expected)


def without_noise_is_a_term_of_one_step(term: LossTerm, step: TrainingStep) -> None:
    """:meth:`~diffusers_rec.LossTerm.without_noise` returns None, or the config of a term of the sampled step."""
    config = term.without_noise() if term.registered_name else None
    if config is not None:
        passes = LossTerm.build(config).passes
        expect({"sampled", *OTHERS}.issuperset(passes), "a term of the sampled step alone", passes)


CLAUSES = (
    passes_are_known,
    term_is_a_number_a_latent_or_one_a_batch,
    term_is_not_weighted,
    latents_are_independent,
    order_does_not_matter,
    gradients_reach_the_declared_passes,
    half_precision_is_computed_in_full,
    without_noise_is_a_term_of_one_step,
)


def _cases(maker: Maker) -> Iterator[Case]:
    term = maker()
    for latents in (1, 6):
        yield Case(f"M={latents}", (term, step_for(term, latents)))
    yield Case("of velocities", (term, step_for(term, 4, kind="velocity")))


def _outputs(term: LossTerm) -> list[Tensor]:
    return [term(step_for(term, 6)).detach()]


SUITE = Suite(LossTerm, _cases, CLAUSES, _outputs)
