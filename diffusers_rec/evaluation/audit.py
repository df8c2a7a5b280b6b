r"""The noise audit: does the noise do anything, and are the samples samples?

A diffusion recommender can score well while its noise does nothing. Three tables tell:

- **ranking**: accuracy with x_N as drawn and zeroed, of one draw and of several, in one step and in chains;
- **timesteps**: loss at each step with the target's own x_n, with x_n zeroed, and with that of another user. A denoiser
  that uses x_n loses by the second and more by the third, the earlier the step the more;
- **chains**: where reverse chains land, against the distribution that the model predicts. A faithful chain lands on
  items of the same mean probability as exact draws do, and on as many different ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.errors import check_int
from diffusers_rec.evaluation.full_ranking import evaluate, user_chunks
from diffusers_rec.pipeline import DiffRec
from diffusers_rec.progress import progress_bar
from diffusers_rec.randomness import Generators, randn
from diffusers_rec.samplers import DDPMSampler, Denoise, OneStepSampler, Sampler
from diffusers_rec.schedules import NoiseSchedule

Row = dict[str, Any]

USERS_AT_ONCE = 128


@dataclass(frozen=True)
class Audit:
    """What :func:`audit` finds; every table is a list of rows, ready for JSON.

    Attributes:
        ranking: ``xn``, ``steps``, ``seeds``, ``hr@10`` and ``ndcg@10`` (history masked).
        timesteps: ``timestep``, ``xn``, ``reconstruction`` (one minus the cosine of predicted and true latent),
            ``cross_entropy`` of the true item, means over the users.
        chains: ``sampler``, ``probability`` (predicted, of the items landed on, mean), ``distinct`` (different items
            among a user's chains, mean).
        num_users: U.
    """

    ranking: list[Row]
    timesteps: list[Row]
    chains: list[Row]
    num_users: int


def audit(
    model: DiffRec,
    holdout: Holdout,
    *,
    users: int = 1024,
    seeds: int = 10,
    steps: Sequence[int] = (10, 50),
    levels: int = 5,
    seed: int = 0,
    progress: bool = False,
) -> Audit:
    """Audit the noise of a trained model.

    Args:
        model: whose vocabulary the holdout's indices follow.
        holdout: histories and the items that came next.
        users: how many of them to look at, at most, chosen by ``seed``.
        seeds: noise draws to average in the ranking, and chains a user.
        steps: lengths of the chains, each at most N.
        levels: timesteps to look at, evenly spread up to N.
        seed: of the choice of users and of the noise.
        progress: show bars (needs the ``train`` extra).

    Raises:
        ValueError: settings out of range, or the holdout was made with other items than the model knows.
    """
    check_int("levels", levels, minimum=1)
    some = holdout.sample(check_int("users", users, minimum=1), seed)
    chains: dict[str, Sampler] = {f"ddpm, {n} steps": DDPMSampler(num_steps=n) for n in steps}
    ranking = [
        {"xn": xn, "steps": n, "seeds": draws, **_accuracy(model, some, sampler, draws, progress)}
        for xn, n, draws, sampler in (
            ("drawn", 1, 1, OneStepSampler()),
            ("drawn", 1, seeds, OneStepSampler()),
            ("zeroed", 1, 1, _SilentSampler()),
            *(("drawn", n, seeds, sampler) for n, sampler in zip(steps, chains.values(), strict=True)),
        )
    ]
    with model.serving():
        questions = [_Question(model, some, rows) for rows in user_chunks(some, USERS_AT_ONCE)]
        timesteps = _timesteps(model, questions, levels, seed)
        bar = progress_bar(questions, show=progress, total=len(questions), text="chains")
        return Audit(ranking, timesteps, _landings(model, bar, chains, seeds, seed), len(some))


class _SilentSampler(OneStepSampler):
    """One step from the mean of pure noise."""

    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators) -> Tensor:
        return super().sample(denoise, schedule, torch.zeros_like(noise), generator)


class _Question:
    """Some users, their histories encoded: each asks for the one item that comes next."""

    def __init__(self, model: DiffRec, holdout: Holdout, rows: np.ndarray[Any, Any]) -> None:
        items, lengths = (part.to(model.device) for part in pad(holdout.histories.take(rows), model.history_length))
        mask = torch.arange(items.shape[1], device=model.device) < lengths[:, None]
        self.model, self.lengths = model, lengths
        self.targets = torch.from_numpy(holdout.targets[rows]).to(model.device)
        self.x0 = model.embedding(self.targets)[:, None, None]
        self.context = model.denoiser.encode(model.embedding(items), mask)

    def predict(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """Latents ``(B, S, 1, D)`` from noised ones."""
        visible = self.lengths[:, None].expand(xn.shape[:2])
        return self.model.denoiser(xn, timesteps, visible, self.context).to(xn.dtype)

    def noise(self, draws: int, generator: Generator) -> Tensor:
        """Independent for every user and draw, ``(B, S, 1, D)``."""
        shape = (len(self.targets), draws, *self.x0.shape[2:])
        return randn(shape, generator, device=self.x0.device, dtype=self.x0.dtype)

    def probabilities(self) -> Tensor:
        """The predicted distribution, from the mean of pure noise at n = N: ``(B, V)``."""
        last = torch.full((len(self.targets), 1), self.model.schedule.num_timesteps, device=self.x0.device)
        return self.model.head.logits(self.predict(torch.zeros_like(self.x0), last)[:, 0, 0]).softmax(-1)


def _accuracy(model: DiffRec, holdout: Holdout, sampler: Sampler, seeds: int, progress: bool) -> Row:
    metrics = evaluate(model, holdout, ks=[10], seeds=seeds, sampler=sampler, progress=progress).masked
    return {name: metrics[name] for name in ("hr@10", "ndcg@10")}


def _timesteps(model: DiffRec, questions: list[_Question], levels: int, seed: int) -> list[Row]:
    """The losses by step and kind of x_n, averaged over users."""
    final = model.schedule.num_timesteps
    chosen = sorted({max(1, round(final * level / levels)) for level in range(1, levels + 1)})
    rows = []
    for n in chosen:
        generator = Generator().manual_seed(seed)
        sums: dict[str, list[float]] = {kind: [0.0, 0.0] for kind in ("drawn", "zeroed", "another user's")}
        for question in questions:
            timesteps = torch.full((len(question.targets), 1), n, device=question.x0.device)
            drawn = model.schedule.add_noise(question.x0, question.noise(1, generator), timesteps)
            kinds = (drawn, torch.zeros_like(drawn), drawn.roll(1, dims=0))
            for total, xn in zip(sums.values(), kinds, strict=True):
                predicted = question.predict(xn, timesteps)
                total[0] += float((1 - torch.cosine_similarity(predicted, question.x0, dim=-1)).sum())
                loss = model.head.loss(predicted[:, 0, 0], question.targets)
                total[1] += float(loss) * len(question.targets)
        users = sum(len(question.targets) for question in questions)
        for kind, (reconstruction, cross_entropy) in sums.items():
            means = {"reconstruction": reconstruction / users, "cross_entropy": cross_entropy / users}
            rows.append({"timestep": n, "xn": kind, **means})
    return rows


def _landings(
    model: DiffRec, questions: Iterable[_Question], chains: dict[str, Sampler], draws: int, seed: int
) -> list[Row]:
    """Where chains land beside exact draws, averaged over users."""
    table = model.embedding.table()
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in ("exact draws", *chains)}
    generators = {name: Generator().manual_seed(seed) for name in found}
    for question in questions:
        probabilities = question.probabilities()
        for name, generator in generators.items():
            if name in chains:
                noise = question.noise(draws, generator)
                ends = chains[name].sample(question.predict, model.schedule, noise, generator)[:, :, 0]
                items = nearest(ends, table)
            else:
                items = torch.multinomial(probabilities.cpu(), draws, replacement=True, generator=generator)
            found[name].append((items.to(probabilities.device), probabilities))
    return [{"sampler": name, **landing(parts)} for name, parts in found.items()]


def landing(drawn: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of items ``(B, S)`` and predicted probabilities ``(B, V)``, chunk by chunk: what an audit says of chains."""
    probability = torch.cat([probabilities.gather(1, items) for items, probabilities in drawn])
    ordered = torch.cat([items for items, _ in drawn]).sort(-1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(-1)
    return {"probability": float(probability.double().mean()), "distinct": float(distinct.double().mean())}


def nearest(latents: Tensor, table: Tensor) -> Tensor:
    """The item whose clean latent is nearest: ``(..., D)`` and ``(V, D)`` to ``(...)``."""
    # The latent's own square is the same for all items.
    return (table.square().sum(-1) - 2 * latents @ table.T).argmin(-1)
