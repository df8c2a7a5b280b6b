r"""Faithfulness: do reverse chains of the exact posterior draw items from the model's predicted distribution?

``PosteriorDenoiser`` on top of a trained denoiser has a known law: the head's probabilities of what the denoiser
predicts at n = N from zero noise, over its likeliest candidates. For each test user several chains run with noise of
their own, each landing on the item whose clean latent is nearest; beside them stand exact draws by
``torch.multinomial``. Two numbers are compared: the mean predicted probability of the items landed on, and how many of
a user's draws differ. The exact ones are means over many sets of draws; ``*_noise`` is the standard deviation of one
set's, which is how far a perfect sampler may be off. ``exact`` draws come from the candidates, whose law the chains
have; ``exact, all items`` from the whole catalogue.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Generator, Tensor

from benchmarks import plots
from benchmarks.harness import Results, argument_parser, parse
from benchmarks.models import add_model_options, trained
from diffusers_rec import (
    CosineSchedule,
    DDPMSampler,
    Denoiser,
    DiffRec,
    History,
    Holdout,
    NoiseSchedule,
    PosteriorDenoiser,
    Queries,
)
from diffusers_rec.data import pad
from diffusers_rec.evaluation.landing import landing, nearest

CHUNK = 32  # users at a time: their candidates' latents stay in the cache
EXACT_SETS = 50

draw = partial(
    plots.dots,
    names=["schedule", "variance", "steps"],
    panels={"probability": "mean predicted probability", "distinct": "distinct items"},
)


@dataclass(frozen=True)
class Users:
    """Histories of some users with latents, and the head's probabilities of what follows, ``(B, V)``."""

    history: History
    probabilities: Tensor


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_model_options(parser, users=512)
    parser.add_argument("--draws", type=int, default=10, help="chains a user")
    parser.add_argument("--candidates", type=int, default=500, help="num_candidates of the posterior")
    options = parse(parser, argv)
    model, test, _ = trained(options)
    model.eval()
    with torch.no_grad():
        measure(Results("chains", options), model, test, options)


def measure(results: Results, model: DiffRec, test: Holdout, options: argparse.Namespace) -> None:
    """All chains, and the exact draws beside them."""
    users = list(users_in_chunks(model, test))
    sample = partial(exact_draws, draws=options.draws)
    references = {
        "exact": add_exact(results, "exact", users, partial(sample, candidates=options.candidates), options),
        "all_items": add_exact(results, "exact, all items", users, sample, options),
    }
    steps = (10, 50, 200) if options.quick else (10, 50, 200, 1000)
    schedules = {"cosine": CosineSchedule(model.schedule.num_timesteps), "model's own": model.schedule}
    for name, schedule in schedules.items():
        denoiser = PosteriorDenoiser(
            model.denoiser,
            embedding=model.embedding,
            head=model.head,
            schedule=schedule,
            num_candidates=options.candidates,
        ).eval()
        for variance in ("beta", "posterior"):
            for num_steps in steps:
                sampler = DDPMSampler(variance, num_steps=num_steps)
                generator = Generator().manual_seed(options.seed)
                land = partial(chain_ends, model, denoiser, schedule, sampler, draws=options.draws, generator=generator)
                found = landing([(land(each), each.probabilities) for each in users])
                results.add(row(name, variance, num_steps, options) | found)
                if (name, num_steps) == ("cosine", 200):
                    add_ratios(results, variance, found, references)
    results.write(draw)


def add_ratios(results: Results, variance: str, found: dict[str, float], references: dict[str, dict]) -> None:
    """Of 200 steps under the cosine schedule to the exact draws."""
    for number in ("probability", "distinct"):
        for name, exact in references.items():
            aimed = (variance, name) == ("posterior", "exact")
            against = "exact" if name == "exact" else "exact_over_all_items"
            results.ratio(
                f"{variance}_200_steps_{number}_vs_{against}",
                found[number] / exact[number],
                "0.98 to 1.02" if aimed else "",
            )


def add_exact(
    results: Results,
    name: str,
    users: list[Users],
    draw: Callable[..., Tensor],
    options: argparse.Namespace,
) -> dict[str, float]:
    """Several sets of exact draws: their mean, and the deviation of one set."""
    generator = Generator().manual_seed(options.seed)
    sets = [
        landing([(draw(each.probabilities, generator=generator), each.probabilities) for each in users])
        for _ in range(EXACT_SETS)
    ]
    numbers = {key: torch.tensor([each[key] for each in sets], dtype=torch.float64) for key in sets[0]}
    mean = {key: float(values.mean()) for key, values in numbers.items()}
    noise = {f"{key}_noise": float(values.std()) for key, values in numbers.items()}
    results.add(row(name, "", "", options) | mean | noise)
    return mean


def row(schedule: str, variance: str, steps: int | str, options: argparse.Namespace) -> dict[str, object]:
    """What was measured."""
    data = "synthetic" if options.data is None else options.data.stem
    return {"data": data, "schedule": schedule, "variance": variance, "steps": steps, "draws": options.draws}


def users_in_chunks(model: DiffRec, test: Holdout) -> Iterator[Users]:
    """The test users in chunks, with the predicted distribution that the posterior starts from."""
    for start in range(0, len(test), CHUNK):
        history = pad(list(test.histories)[start : start + CHUNK], model.history_length)
        history = history.with_latents(model.embedding(history.items))
        zero = torch.zeros(len(history), 1, 1, model.embedding.dim)
        last = torch.full((len(history), 1), model.schedule.num_timesteps)
        predicted = model.denoiser(zero, last, condition_of(model.denoiser, history))
        yield Users(history, model.head.logits(predicted[:, 0, 0]).softmax(-1))


def exact_draws(probabilities: Tensor, *, draws: int, generator: Generator, candidates: int | None = None) -> Tensor:
    """Items drawn from ``(B, V)`` probabilities, or from the likeliest of them: ``(B, draws)``."""
    if candidates is None:
        return torch.multinomial(probabilities, draws, replacement=True, generator=generator)
    likeliest = probabilities.topk(min(candidates, probabilities.shape[1]))
    picked = torch.multinomial(likeliest.values, draws, replacement=True, generator=generator)
    return likeliest.indices.gather(1, picked)


def chain_ends(
    model: DiffRec,
    denoiser: PosteriorDenoiser,
    schedule: NoiseSchedule,
    sampler: DDPMSampler,
    users: Users,
    *,
    draws: int,
    generator: Generator,
) -> Tensor:
    """The items that chains with noise of their own land on, ``(B, draws)``.

    Serving shares the noise among users, which would tie the users' draws to one another here.
    """
    condition = condition_of(denoiser, users.history)
    start = torch.randn(len(users.history), draws, 1, model.embedding.dim, generator=generator)

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        return denoiser(xn, timesteps, condition)

    latents = sampler.sample(denoise, schedule, start, generator)[:, :, 0]
    return nearest(latents, model.embedding.table())


def condition_of(denoiser: Denoiser, history: History) -> object:
    """A denoiser's condition of one query a history, about the next item."""
    return denoiser.condition(denoiser.encode(history), Queries.next_item(history.lengths))


if __name__ == "__main__":
    main()
