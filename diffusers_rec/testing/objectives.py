"""The contract of an objective: a loss that teaches, and each latent's distance, which importance sampling needs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.items.heads import LinearHead
from diffusers_rec.objectives import Objective, Terms
from diffusers_rec.testing.contract import (
    SIZES,
    Case,
    Maker,
    Suite,
    expect,
    expect_all_learn,
    expect_close,
    expect_equal,
)
from diffusers_rec.testing.every_kind import check
from diffusers_rec.testing.inputs import gaussian, seeded, strided

Batch = dict[str, Any]
LATENTS = [1, 2, 6]


def check_objective(make: Callable[..., Objective], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that an objective keeps its contract.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def terms_have_their_shapes(objective: Objective, batch: Batch) -> None:
    """A finite scalar to minimise; named scalars and a number for each latent, without gradient."""
    expect(objective.recommend_from in ("sampled", "start"), "recommend_from 'sampled' or 'start'",
           repr(objective.recommend_from))  # fmt: skip
    terms = objective(**batch)
    shape = (len(batch["x0"]),)
    expect(terms.total.shape == () and terms.total.isfinite(), "a finite scalar total", terms.total)
    expect(terms.per_latent.shape == shape, f"per_latent {shape}", tuple(terms.per_latent.shape))
    for name, value in {**terms.named, "per_latent": terms.per_latent}.items():
        expect(value.isfinite().all(), f"a finite {name}", value)
        expect(not value.requires_grad, f"{name} without gradient", "one that holds a graph")
        expect(name == "per_latent" or value.shape == (), f"a scalar {name}", tuple(value.shape))


def the_gradient_reaches_all_that_learns(objective: Objective, batch: Batch) -> None:
    """The prediction, the one that is judged, the clean latents and the head."""
    batch = _learning(batch)
    taught = {name: batch[name] for name in ("x0", "predicted", "from_start")}
    taught |= dict(batch["head"].named_parameters())
    expect_all_learn(objective(**batch).total, taught)


def a_latent_has_the_same_distance_in_any_company(objective: Objective, batch: Batch) -> None:
    """``per_latent`` is its own, whatever the others and the weights are."""
    whole = objective(**batch).per_latent
    for i in range(len(whole)):
        alone = objective(**_rows(batch, slice(i, i + 1))).per_latent
        expect_close(f"per_latent of latent {i} alone", alone[0], whole[i], rtol=1e-6, atol=1e-7)
    weighted = objective(**{**batch, "weights": 3 * batch["weights"]}).per_latent
    expect_equal("per_latent with other weights", weighted, whole)


def a_perfect_prediction_has_no_distance(objective: Objective, batch: Batch) -> None:
    """``per_latent`` is zero where the clean latent is hit, and nowhere negative."""
    perfect = objective(**{**batch, "predicted": batch["x0"].clone()}).per_latent
    expect_close("per_latent of perfect predictions", perfect, torch.zeros_like(perfect), atol=1e-6)
    away = objective(**batch).per_latent
    expect((away > 0).all(), "a distance above 0 for predictions that miss", away)


def order_does_not_matter(objective: Objective, batch: Batch) -> None:
    """Nor does the memory layout."""
    turn = torch.arange(len(batch["x0"])).flip(0)
    names = ("x0", "predicted", "weights", "from_start", "items")
    apart = {**batch, **{name: strided(batch[name]) for name in names}}
    terms = objective(**batch)
    for what, other in (("of the latents backwards", _rows(batch, turn)), ("of strided tensors", apart)):
        expect_close(f"the total {what}", objective(**other).total, terms.total, rtol=1e-5, atol=1e-6)


def weights_weigh_the_distances(objective: Objective, batch: Batch) -> None:
    """The total is linear in the weights, by their product with the distances."""
    total = [objective(**{**batch, "weights": scale * batch["weights"]}).total.item() for scale in (0, 1, 2)]
    steps = [total[1] - total[0], total[2] - total[1]]
    expect(abs(steps[0] - steps[1]) < 1e-4 * (1 + abs(steps[0])), "a total linear in the weights", total)
    expect(abs(steps[0]) > 1e-6, "a total that depends on the weights", total)
    i = len(batch["x0"]) - 1
    perfect = torch.cat([batch["predicted"][:i], batch["x0"][i:]])
    other = torch.cat([batch["weights"][:i], 9 * batch["weights"][i:]])
    ours, theirs = (objective(**{**batch, "predicted": perfect, "weights": w}) for w in (batch["weights"], other))
    expect_close("the total where the weight of a perfect prediction grows", theirs.total, ours.total, rtol=1e-5)


def half_precision_predictions_are_judged_in_full(objective: Objective, batch: Batch) -> None:
    """In the precision of the clean latents, autocast or not."""
    half = batch["predicted"].bfloat16()
    expected = objective(**{**batch, "predicted": half.float()}).per_latent
    got = objective(**{**batch, "predicted": half}).per_latent
    expect_equal("per_latent of bfloat16 predictions", got, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expect_equal("per_latent under autocast", objective(**{**batch, "predicted": half}).per_latent, expected)


CLAUSES = (
    terms_have_their_shapes,
    the_gradient_reaches_all_that_learns,
    a_latent_has_the_same_distance_in_any_company,
    a_perfect_prediction_has_no_distance,
    order_does_not_matter,
    weights_weigh_the_distances,
    half_precision_predictions_are_judged_in_full,
)


def batch_of(objective: Objective, latents: int, seed: int = 0) -> Batch:
    """Latents that miss, and the head that judges them: what the pipeline calls an objective with."""
    items, width = SIZES["num_items"], SIZES["dim"]
    x0, predicted, start = (gaussian(latents, width, seed=seed + i, dtype=torch.float32) for i in range(3))
    return {
        "x0": x0,
        "predicted": predicted,
        "weights": torch.rand(latents, generator=seeded(seed)) + 0.5,
        "from_start": start if objective.recommend_from == "start" else predicted,
        "items": torch.randint(items, (latents,), generator=seeded(seed)),
        "head": LinearHead(items, width, seed=seed),
    }


def _learning(batch: Batch) -> Batch:
    """The same, with latents that take gradients; two names of one tensor stay that."""
    x0, predicted = (batch[name].clone().requires_grad_() for name in ("x0", "predicted"))
    apart = batch["from_start"] is not batch["predicted"]
    start = batch["from_start"].clone().requires_grad_() if apart else predicted
    return {**batch, "x0": x0, "predicted": predicted, "from_start": start}


def _rows(batch: Batch, chosen: slice | Tensor) -> Batch:
    return {name: value[chosen] if isinstance(value, Tensor) else value for name, value in batch.items()}


def _terms(terms: Terms) -> list[Tensor]:
    return [terms.total.detach(), terms.per_latent, *terms.named.values()]


def _cases(maker: Maker) -> Iterator[Case]:
    for latents in LATENTS:
        objective = maker()
        yield Case(f"M={latents}", (objective, batch_of(objective, latents)))


def _answers(objective: Objective) -> list[Tensor]:
    return _terms(objective(**batch_of(objective, 6)))


SUITE = Suite(Objective, _cases, CLAUSES, _answers)
