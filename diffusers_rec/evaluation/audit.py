r"""The noise audit: does the noise do anything, and are the samples samples?

A diffusion recommender can score well while its noise does nothing. One row sums up what three tables show:

- **ranking**: the network's accuracy, without the model's memory, with x_N as drawn and zeroed, of one draw and of
  several, in one step and in chains;
- **timesteps**: loss at each step with the target's own x_n, with x_n zeroed, and with that of another user. A denoiser
  that uses x_n loses by the second and more by the third, the earlier the step the more;
- **chains**: where reverse chains land, against the distribution that the model predicts. A faithful chain lands on
  items of the same mean probability as exact draws do, and on as many different ones.

The last two tables need a :class:`~diffusers_rec.DiffRec` with a Gaussian process and a denoiser that predicts latents.
They are empty for other models, which are ranked as they are served, by their own chain.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.core.randomness import Generators
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.denoisers import PlainDenoiser
from diffusers_rec.evaluation.full_ranking import evaluate, user_chunks
from diffusers_rec.evaluation.landing import rows_at_once
from diffusers_rec.evaluation.probes import Probe, chain_landings, timestep_losses
from diffusers_rec.guidance import NoiselessDenoiser, unwrapped
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.samplers import ChainSampler, DDPMSampler, Denoise, OneStepSampler, Sampler, StepCallback

Row = dict[str, Any]

_Way = tuple[str, int | None, int, Sampler | None]
"""Kind of x_N, number of steps, of draws, and sampler; None for the model's own."""

USERS_AT_ONCE = 128


@dataclass(frozen=True)
class Audit:
    r"""What :func:`audit` finds; every table is a list of rows, ready for JSON.

    Attributes:
        summary: The audit in one row; None where a value is not defined. ``noise``, the share of noise in the variance
            at step N for latents of unit variance, :math:`1 - \bar\alpha_N` where the schedule preserves variance; 0
            where the denoiser receives none. NDCG@10 of the network alone: ``drawn``, one step and several draws, or
            the chain of a model of another class; ``one_draw``; ``zeroed``, with x_N zeroed; ``chain``, of the longest
            chain, or of the model's own sampler. ``another_users``, the largest rise of the cross-entropy at one step,
            in nats, where x_n is another user's. ``chain_probability`` and ``chain_distinct`` of the longest chain over
            those of exact draws. ``nll``, ``nll_popularity`` and ``ece`` of the model as it serves, memory included;
            see :class:`~diffusers_rec.evaluation.ProbabilityReport`.
        ranking: ``xn`` (``drawn``, ``zeroed``, or ``as served``), ``steps``, ``seeds``, ``hr@10`` and ``ndcg@10`` (seen
            items excluded).
        timesteps: ``timestep``, ``xn``, ``reconstruction`` (one minus the cosine of predicted and true latent),
            ``cross_entropy`` of the true item, means over the users; "another user's" where there are two at least.
        chains: ``sampler``, ``probability`` (predicted, of the items landed on, mean), ``distinct`` (different items
            among a user's chains, mean).
        num_users: U.
    """

    summary: Row
    ranking: list[Row]
    timesteps: list[Row]
    chains: list[Row]
    num_users: int


@explained
def audit(
    model: Recommender,
    holdout: Holdout,
    *,
    users: int = 1024,
    seeds: int = 10,
    steps: Iterable[int] | None = None,
    levels: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> Audit:
    """Audit the noise of a trained model.

    Args:
        model: A trained model.
        holdout: Histories and the items that came next, of several the first; items are matched with the model's by id.
        users: Largest number of users to look at, chosen by ``seed``.
        seeds: Noise draws to average in the ranking, and chains a user.
        steps: Lengths of the chains, each at most N; 10 and 50 when None, as far as N allows, or N below 10. For
            models with a Gaussian process that predict latents; others are ranked by their own sampler.
        levels: Timesteps to look at, evenly spread up to N.
        seed: Seed of the choice of users and of the noise of losses and chains; the ranking's draws are those of
            serving.
        progress: Whether to show bars (needs the ``train`` extra).

    Raises:
        ValueError: settings out of range, a step twice or above N, steps for a model without such chains, or the
            holdout has items that the model does not know.
        TypeError: settings that are not integers, or arguments of another class.
    """
    for name, value, minimum in (("users", users, 1), ("seeds", seeds, 1), ("levels", levels, 1), ("seed", seed, 0)):
        check_int(name, value, minimum=minimum)
    check_bool("progress", progress)
    some = holdout.reindexed(model.vocabulary).sample(users, seed)
    timesteps: list[Row] = []
    landings: list[Row] = []
    ways: list[_Way] = [("as served", None, seeds, None)]
    if steps is not None and not has_chains(model):
        raise ValueError(
            "audit: steps are of chains of a Gaussian process whose denoiser predicts latents; this model is audited "
            "with its own sampler. Leave steps out."
        )
    if isinstance(model, DiffRec):
        ways = [("drawn", 1, draws, OneStepSampler()) for draws in (1, seeds)]
        if has_chains(model):
            steps = chain_lengths(steps, model.schedule.num_timesteps)
            chains: dict[str, Sampler] = {f"ddpm, {n} steps": DDPMSampler(num_steps=n) for n in steps}
            ways.append(("zeroed", 1, 1, _SilentSampler()))
            ways += [("drawn", n, seeds, chain) for n, chain in zip(steps, chains.values(), strict=True)]
            with model.serving() as served:
                at_once = min(USERS_AT_ONCE, rows_at_once(len(model.vocabulary)))
                probes = [Probe(served, some, rows) for rows in user_chunks(some, at_once)]
                timesteps = timestep_losses(served, probes, levels, seed)
                bar = progress_bar(probes, show=progress, total=len(probes), text="chains")
                landings = chain_landings(served, bar, chains, seeds, seed)
        elif isinstance(model.sampler, ChainSampler):
            ways.append(("as served", model.sampler.num_steps or model.schedule.num_timesteps, seeds, None))
        elif not isinstance(model.sampler, OneStepSampler):
            ways.append(("as served", None, seeds, None))  # with steps of its own
    ranking = [
        {"xn": xn, "steps": n, "seeds": draws, **_accuracy(model, some, sampler, draws, progress)}
        for xn, n, draws, sampler in ways
    ]
    summary = {"noise": noise_at_the_end(model), **_summary(ranking, timesteps, landings)}
    return Audit(summary | _probabilities(model, some, seeds, progress), ranking, timesteps, landings, len(some))


def has_chains(model: Recommender) -> TypeGuard[DiffRec]:
    """Whether a model has a Gaussian process and predicts latents, so that any of its chains can be audited."""
    return (
        isinstance(model, DiffRec)
        and isinstance(model.process, GaussianProcess)
        and model.denoiser.prediction != "items"
    )


def kind_without_noise(model: Recommender) -> str:
    """What a model is whose denoiser receives no noise; empty for others."""
    if not isinstance(model, DiffRec):
        return ""
    if isinstance(unwrapped(model.denoiser), PlainDenoiser):
        return "a system without diffusion"
    return "a noise-free control" if isinstance(model.denoiser, NoiselessDenoiser) else ""


def noise_at_the_end(model: Recommender) -> float | None:
    """Share of noise in the variance at step N; 0 where the denoiser receives none, None without a schedule."""
    if kind_without_noise(model):
        return 0.0
    schedule = getattr(model, "schedule", None)
    if not isinstance(schedule, NoiseSchedule):
        return None
    signal, sigma = float(schedule.signal[-1]), float(schedule.sigma[-1])
    return sigma**2 / (signal**2 + sigma**2)


def _summary(ranking: list[Row], timesteps: list[Row], landings: list[Row]) -> Row:
    """The tables in one row, see :class:`Audit`."""
    own, another = (
        [row["cross_entropy"] for row in timesteps if row["xn"] == xn] for xn in ("drawn", "another user's")
    )
    one_step = [row["ndcg@10"] for row in ranking if row["xn"] == "drawn"][:2]
    served, zeroed = ([row["ndcg@10"] for row in ranking if row["xn"] == xn] for xn in ("as served", "zeroed"))
    found: Row = {
        "drawn": [*one_step, *served][:2][-1],
        "one_draw": one_step[0] if one_step else None,
        "zeroed": zeroed[0] if zeroed else None,
        "chain": served[0] if one_step and served else None,
        "another_users": max((worse - loss for loss, worse in zip(own, another, strict=False)), default=None),
        "chain_probability": None,
        "chain_distinct": None,
    }
    if len(landings) > 1:
        exact, *ends = landings
        longest = max(range(len(ends)), key=lambda place: int(ranking[3 + place]["steps"]))
        found["chain"] = ranking[3 + longest]["ndcg@10"]
        for name in ("probability", "distinct"):
            found[f"chain_{name}"] = ends[longest][name] / exact[name]
    return found


def chain_lengths(steps: Iterable[int] | None, num_timesteps: int, *, name: str = "steps") -> list[int]:
    """The lengths of chains that :func:`audit` runs.

    Args:
        steps: The chain lengths, see :func:`audit`.
        num_timesteps: N.
        name: Name of the setting, for errors.

    Raises:
        ValueError: a length below 1, above N, or given twice.
        TypeError: not integers.
    """
    if steps is None:
        return [n for n in (10, 50) if n <= num_timesteps] or [num_timesteps]
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"{name} must be a list of chain lengths, got {steps!r}. One alone is [{steps}].")
    lengths = [check_int(f"each of {name}", n, minimum=1) for n in steps]
    twice = sorted({n for n in lengths if lengths.count(n) > 1})
    if twice:
        raise ValueError(f"{name} must differ, but {twice} came more than once. Drop the repeats.")
    if lengths and max(lengths) > num_timesteps:
        raise ValueError(f"{name} must be at most num_timesteps={num_timesteps}, the model's N, got {max(lengths)}.")
    return lengths


class _SilentSampler(OneStepSampler):
    """One step from the mean of pure noise."""

    def sample(
        self,
        denoise: Denoise,
        process: Process | NoiseSchedule,
        start: Tensor,
        generator: Generators | None,
        *,
        callback: StepCallback | None = None,
    ) -> Tensor:
        return super().sample(denoise, process, torch.zeros_like(start), generator, callback=callback)


def _accuracy(model: Recommender, holdout: Holdout, sampler: Sampler | None, seeds: int, progress: bool) -> Row:
    metrics = evaluate(model, holdout, ks=[10], seeds=seeds, sampler=sampler, memory=False, progress=progress).metrics()
    return {name: metrics[name] for name in ("hr@10", "ndcg@10")}


def _probabilities(model: Recommender, holdout: Holdout, seeds: int, progress: bool) -> Row:
    stated = evaluate(model, holdout, ks=[10], seeds=seeds, probabilities=True, progress=progress).probabilities
    values = {name: getattr(stated, name) for name in ("nll", "nll_popularity", "ece")}
    return {name: None if math.isnan(value) else value for name, value in values.items()}  # popularity may be unknown
