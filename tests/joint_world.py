"""A small world whose items depend on one another, and the denoiser that knows its exact conditionals."""

from __future__ import annotations

from itertools import product

import torch
from scipy.stats import chisquare
from strategies import gaussian, seeded

from diffusers_rec import CosineSchedule, Denoiser, DiffRec, ItemPredictor, LinearHead, Queries, TableEmbedding

V, K = 4, 3
CELLS = list(product(range(V), repeat=K))
"""Every way to fill K positions, in the order of a flattened joint distribution."""


def joint(seed=0):
    """p(x_1, x_2, x_3 | last item of the history), ``(V, V, V, V)``, far from independent."""
    return (1.2 * gaussian(V, V, V, V, seed=seed)).flatten(1).softmax(-1).view(V, V, V, V)


class ExactDenoiser(Denoiser):
    """log p(x_k | history, everything known of the other positions), for clean, blank and Gaussian latents."""

    prediction = "items"

    def __init__(self, p, embedding, schedule):
        super().__init__(V, 9, 0)
        self.p, self._shared = p, (embedding, schedule)

    def encode(self, history):
        return history

    def condition(self, context, queries, *, null=False):
        last = context.items.gather(1, queries.visible - 1)
        beyond = range(queries.positions.shape[-1], K)
        return (self.p[last].sum([2 + place for place in beyond]) if beyond else self.p[last]).log()

    def forward(self, xn, timesteps, condition):
        width = xn.shape[2]
        seen = self._evidence(xn, timesteps if timesteps.ndim == 3 else timesteps[..., None].expand(xn.shape[:3]))
        found = []
        for own in range(width):
            total = condition
            for other in range(width):
                if other != own:
                    shape = [1] * width
                    shape[other] = V
                    total = total + seen[:, :, other].view(*seen.shape[:2], *shape)
            others = [2 + other for other in range(width) if other != own]
            total = total.expand(*seen.shape[:2], *total.shape[2:])
            found.append(total.logsumexp(others) if others else total)
        return torch.stack(found, dim=2)

    def _evidence(self, xn, timesteps):
        """log p(x_n | item) up to a constant, ``(B, S, K, V)``."""
        embedding, schedule = self._shared
        table = embedding.table()
        distance = (xn[..., None, :] - table).square().sum(-1)
        exact = torch.where(distance < 1e-12, 0.0, -torch.inf)
        signal, sigma = schedule.levels(xn, timesteps)
        noisy = -(xn[..., None, :] - signal[..., None] * table).square().sum(-1) / (2 * sigma.square())
        clean, blank = (timesteps == 0)[..., None], (xn == 0).all(-1, keepdim=True)
        return torch.where(blank, 0.0, torch.where(clean, exact, noisy))


def world(process="mask", num_timesteps=100):
    """A model of the world, in double precision."""
    embedding, head = TableEmbedding(V, V, seed=1).double(), LinearHead(V, V).double()
    with torch.no_grad():
        embedding.weight.copy_(3 * gaussian(V, V, seed=7))
        head.weight.copy_(torch.eye(V))
        head.offset.zero_()
    schedule = CosineSchedule(num_timesteps)
    model = DiffRec(
        range(V),
        embedding=embedding,
        head=head,
        schedule=schedule,
        denoiser=ExactDenoiser(joint(), embedding, schedule),
        process=process,
        noising={"name": "gaps", "k": K},
        timesteps="uniform",
        objective="items",
        seeds=1,
    )
    return model.double().eval()


def predictor(model, last=0, *, process=None, generator=None, known=(-1,) * K, allowed=None):
    """What a chain after the history ``[last]`` calls as its denoiser, with some of its positions known."""
    history = model.encode_histories([[last]])
    history = history.with_latents(model.embedding(history.items))
    known = torch.tensor(known)[None, None]
    one = torch.ones(1, 1, dtype=torch.int64)
    positions = 1 + torch.arange(known.shape[-1])[None, None]
    queries = Queries(one, positions, known.shape[-1] * one, 0 * one, known >= 0)
    return ItemPredictor(
        model.denoiser,
        model.denoiser.condition(model.denoiser.encode(history), queries),
        process=model.process if process is None else process,
        embedding=model.embedding,
        head=model.head,
        generator=generator,
        known=known if (known >= 0).any() else None,
        allowed=allowed,
    )


@torch.no_grad()
def chain(model, sampler, draws, seed=0, last=0, known=(-1,) * K):
    """Items of a chain, ``(draws, K)``, and what the sampler filled in, if it does."""
    process, generator = sampler.own_process(model.process), seeded(seed)
    denoise = predictor(model, last, process=process, generator=generator, known=known)
    start = process.start((1, draws, len(known), V), generator, dtype=torch.float64)
    latents = sampler.sample(denoise, process, start, generator)
    return denoise.nearest(latents, distinct=False)[0], latents[0]


def p_value(items, probabilities):
    """Of the chi-squared test that rows of ``items`` ``(S, K)`` are drawn from a joint distribution of K axes."""
    flat = torch.zeros(len(items), dtype=torch.int64)
    for column, size in zip(items.T, probabilities.shape, strict=True):
        flat = flat * size + column
    expected = probabilities.flatten() * len(items)
    counts = torch.bincount(flat, minlength=len(expected)).double()
    if bool(counts[expected == 0].any()):
        return 0.0
    likely = expected > 0
    return chisquare(counts[likely], expected[likely] * (counts.sum() / expected.sum())).pvalue
