"""What a denoiser does with the noised latents of held-out items, and where its chains land; for the noise audit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec.core.randomness import generators_from, randn
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout
from diffusers_rec.evaluation.landing import landed, mean_landing, nearest
from diffusers_rec.processes.prediction import x0_from
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.samplers import Sampler


class Probe:
    """Some users, their histories encoded, and the one item that comes next for each.

    Where the model noises the last items of the history, too, they carry noise here as they do in serving. Latents are
    relative to the centre of the model's source, except ``x0``.
    """

    def __init__(self, model: DiffRec, holdout: Holdout, rows: np.ndarray[Any, Any]) -> None:
        history = pad(holdout.histories.take(rows), model.history_length).to(model.device)
        history = history.with_latents(model.embedding(history.items))
        items, lengths = history.items, history.lengths
        self.model = model
        self.targets = torch.from_numpy(holdout.targets[rows]).to(model.device)
        self.x0 = model.embedding(self.targets)[:, None, None]
        queries = model.noising.serving(lengths, model.noising.max_noised(model.max_length))
        self.known = lengths[:, None] - queries.visible  # noised items of the history; the target stands behind them
        positions = torch.arange(int(self.known.max()), device=model.device)
        places = (queries.visible + positions).clamp(max=items.shape[1] - 1)
        centre = model.source.centre(history, queries)
        self.centre = torch.zeros_like(self.x0) if centre is None else centre
        self.history = model.embedding(items.gather(1, places))[:, None] - self.centre
        queries = replace(queries, positions=queries.positions[..., : len(positions) + 1], count=self.known + 1)
        self.condition = model.denoiser.condition(model.denoiser.encode(queries.cut(history)), queries)

    def noise_of_history(self, draws: int, generator: Generator) -> Tensor:
        """For the noised items of the history: ``(B, S, K - 1, D)``."""
        shape = (len(self.targets), draws, *self.history.shape[2:])
        return randn(shape, generator, device=self.x0.device, dtype=self.x0.dtype)

    def predict(self, xn: Tensor, timesteps: Tensor, history_noise: Tensor) -> Tensor:
        """The target's latent ``(B, S, 1, D)`` from its noised one."""
        clean = self.history.expand_as(history_noise)
        noised = self.model.schedule.add_noise(clean, history_noise, timesteps)
        place = self.known[..., None, None].expand(*xn.shape)
        latents = torch.cat([noised, torch.zeros_like(xn)], dim=2).scatter(2, place, xn)
        output = self.model.denoiser(latents + self.centre, timesteps, self.condition).to(xn.dtype)
        if self.model.denoiser.prediction == "x0":
            return (output - self.centre).gather(2, place)
        predicted = x0_from(self.model.denoiser.prediction, output, latents, timesteps, self.model.schedule)
        return predicted.gather(2, place)

    def losses(self, xn: Tensor, n: int, history_noise: Tensor) -> Tensor:
        """Reconstruction and cross-entropy of the prediction from ``(B, 1, 1, D)``, sums over the users: ``(2,)``."""
        predicted = self.predict(xn, torch.full(xn.shape[:2], n, device=xn.device), history_noise) + self.centre
        reconstruction = (1 - torch.cosine_similarity(predicted, self.x0, dim=-1)).double().sum()
        cross_entropy = self.model.head.loss(predicted[:, 0, 0], self.targets).double() * len(self.targets)
        return torch.stack([reconstruction, cross_entropy])

    def noise(self, draws: int, generator: Generator) -> Tensor:
        """Independent for every user and draw, ``(B, S, 1, D)``."""
        shape = (len(self.targets), draws, *self.x0.shape[2:])
        return randn(shape, generator, device=self.x0.device, dtype=self.x0.dtype)

    def probabilities(self) -> Tensor:
        """The predicted distribution, from the mean of pure noise at n = N: ``(B, V)``."""
        last = torch.full((len(self.targets), 1), self.model.schedule.num_timesteps, device=self.x0.device)
        silent = torch.zeros_like(self.x0), last, torch.zeros_like(self.history)
        return self.model.head.logits((self.predict(*silent) + self.centre)[:, 0, 0]).softmax(-1)


def timestep_losses(model: DiffRec, probes: list[Probe], levels: int, seed: int) -> list[dict[str, Any]]:
    """The losses by step and kind of x_n, averaged over users."""
    final = model.schedule.num_timesteps
    chosen = sorted({max(1, round(final * level / levels)) for level in range(1, levels + 1)})
    x0 = torch.cat([probe.x0 - probe.centre for probe in probes])
    sizes = [len(probe.targets) for probe in probes]
    rows = []
    for n in chosen:
        generator = generators_from([seed])[0]
        noise = randn(x0.shape, generator, device=x0.device, dtype=x0.dtype)
        of_history = [probe.noise_of_history(1, generator) for probe in probes]
        drawn = model.schedule.add_noise(x0, noise, torch.full(x0.shape[:2], n, device=x0.device))
        kinds = {"drawn": drawn, "zeroed": torch.zeros_like(drawn)}
        if len(x0) > 1:
            kinds["another user's"] = drawn.roll(1, dims=0)
        for kind, xn in kinds.items():
            parts = zip(probes, torch.split(xn, sizes), of_history, strict=True)
            sums = torch.stack([probe.losses(part, n, noised) for probe, part, noised in parts]).sum(0)
            means = zip(("reconstruction", "cross_entropy"), (sums / len(x0)).tolist(), strict=True)
            rows.append({"timestep": n, "xn": kind, **dict(means)})
    return rows


def chain_landings(
    model: DiffRec, probes: Iterable[Probe], chains: Mapping[str, Sampler], draws: int, seed: int
) -> list[dict[str, Any]]:
    """Where chains land beside exact draws, averaged over users."""
    table = model.embedding.table()
    found: dict[str, list[Tensor]] = {name: [] for name in ("exact draws", *chains)}
    generators = {name: generators_from([seed])[0] for name in found}
    for probe in probes:
        probabilities = probe.probabilities()
        for name, generator in generators.items():
            if name in chains:
                noise = probe.noise(draws, generator)
                denoise = partial(probe.predict, history_noise=probe.noise_of_history(draws, generator))
                ends = chains[name].sample(denoise, model.process, noise, generator) + probe.centre
                items = nearest(ends[:, :, 0], table)
            else:
                items = torch.multinomial(probabilities.cpu(), draws, replacement=True, generator=generator)
            found[name].append(landed(items.to(probabilities.device), probabilities))
    return [{"sampler": name, **mean_landing(parts)} for name, parts in found.items()]
