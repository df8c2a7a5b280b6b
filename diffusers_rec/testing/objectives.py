"""The contract of an objective: a loss of the declared passes, and losses per latent for importance sampling."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_class
from diffusers_rec.objectives import LossTerms, Objective, TrainingStep
from diffusers_rec.testing.contract import Case, Maker, Suite, expect, expect_close, expect_equal
from diffusers_rec.testing.training_steps import (
    expect_known_passes,
    expect_used_passes,
    gradients_of_outputs,
    half_outputs,
    non_contiguous,
    select,
    step_for,
)

LATENTS = [1, 2, 6]


def passes_are_known(objective: Objective, step: TrainingStep) -> None:
    """Passes are known and different, and the first is ``"sampled"``."""
    expect_known_passes(objective.passes)


def loss_has_its_shapes(objective: Objective, step: TrainingStep) -> None:
    """The total is a finite scalar; named scalars and losses per latent have no gradient."""
    terms = objective(step)
    shape = (len(step.items),)
    expect(terms.total.shape == () and terms.total.isfinite(), "a finite scalar total", terms.total)
    expect(terms.per_latent.shape == shape, f"per_latent {shape}", tuple(terms.per_latent.shape))
    for name, value in {**terms.named, "per_latent": terms.per_latent}.items():
        expect(value.isfinite().all(), f"a finite {name}", value)
        expect(not value.requires_grad, f"{name} without gradient", "one that holds a graph")
        expect(name == "per_latent" or value.shape == (), f"a scalar {name}", tuple(value.shape))


def gradients_reach_the_declared_passes(objective: Objective, step: TrainingStep) -> None:
    """The loss depends on every declared pass and view, because each costs a prediction or an encoding."""
    if len(step.items) > 1:  # a contrast needs two
        expect_used_passes(gradients_of_outputs(step, lambda leaves: objective(leaves).total))


def per_latent_is_independent(objective: Objective, step: TrainingStep) -> None:
    """The loss of a latent does not depend on other latents or on the weights."""
    whole = objective(step).per_latent
    for i in range(len(whole)):
        alone = objective(select(step, slice(i, i + 1))).per_latent
        expect_close(f"per_latent of latent {i} alone", alone[0], whole[i], rtol=1e-5, atol=1e-6)
    weighted = objective(replace(step, weights=3 * step.weights)).per_latent
    expect_equal("per_latent with other weights", weighted, whole)


def weights_multiply_per_latent(objective: Objective, step: TrainingStep) -> None:
    """The total is linear in the weights, and the weight of a latent multiplies its ``per_latent``.

    An objective without losses per latent has zeros in ``per_latent``, and its total does not depend on the weights.
    """
    zero = torch.zeros_like(step.weights)
    plain = objective(replace(step, weights=zero)).total
    each = torch.eye(len(zero), dtype=zero.dtype)
    share = torch.stack([objective(replace(step, weights=one)).total - plain for one in each]).detach()
    per_latent = objective(step).per_latent
    together = (objective(step).total - plain).detach()
    expect_close("the total less that without weights", together, (share * step.weights).sum(), rtol=1e-3, atol=1e-4)
    expected = per_latent * (share.sum() / per_latent.sum().clamp(min=1e-12))
    expect_close("the change of the total by each weight", share, expected, rtol=1e-3, atol=1e-4)
    expect(bool(share.any()) == bool(per_latent.any()), "a total that the weights change", share)


def order_does_not_matter(objective: Objective, step: TrainingStep) -> None:
    """Neither the order of the latents nor the memory layout has an effect."""
    backwards = select(step, torch.arange(len(step.items)).flip(0))
    total = objective(step).total
    for what, other in (("of the latents backwards", backwards), ("of strided tensors", non_contiguous(step))):
        expect_close(f"the total {what}", objective(other).total, total, rtol=1e-5, atol=1e-6)


def half_precision_is_computed_in_full(objective: Objective, step: TrainingStep) -> None:
    """With bfloat16 outputs, ``per_latent`` has the dtype of the latents and no further error, also under autocast."""
    half, full = half_outputs(step)
    expected = objective(full).per_latent
    expect_equal("per_latent of bfloat16 outputs", objective(half).per_latent, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect_equal("per_latent under autocast", objective(half).per_latent, expected)


CLAUSES = (
    passes_are_known,
    loss_has_its_shapes,
    gradients_reach_the_declared_passes,
    per_latent_is_independent,
    weights_multiply_per_latent,
    order_does_not_matter,
    half_precision_is_computed_in_full,
)


def tensors_of(terms: LossTerms) -> list[Tensor]:
    """All tensors of a loss, without gradient."""
    return [terms.total.detach(), terms.per_latent, *terms.named.values()]


def _cases(maker: Maker) -> Iterator[Case]:
    objective = maker()
    for latents in LATENTS:
        yield Case(f"M={latents}", (objective, step_for(objective, latents)))
    yield Case("of velocities", (objective, step_for(objective, 4, kind="velocity")))


def _outputs(objective: Objective) -> list[Tensor]:
    terms = objective(step_for(objective, 6))
    return tensors_of(check_class("The result of an objective", terms, LossTerms))


SUITE = Suite(Objective, _cases, CLAUSES, _outputs)
