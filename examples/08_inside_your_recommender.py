"""Inside your recommender: an existing PyTorch model and loop gain a diffusion head.

You learn to use the parts alone. A schedule, a timestep sampler, an objective, a head and a sampler are called from a
loop of your own, without `DiffRec`. The original model is a GRU that scores items by an inner product. Both are trained
and measured in the same way, and the table shows what the head changes.
"""

import torch
from _options import parse
from torch import nn
from torch.nn import functional as F

from diffusers_rec import ImportanceTimestepSampler, LinearHead, SqrtSchedule, SyntheticWorld
from diffusers_rec.data import pad
from diffusers_rec.evaluation import ranking_metrics
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.objectives import Pass, SimplifiedObjective, TrainingStep
from diffusers_rec.samplers import DDPMSampler, OneStepSampler

options = parse(__doc__)
num_timesteps, dim = 1000, 32
epochs = 2 if options.quick else 20
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
num_items = len(split.train.vocabulary)


class GRURecommender(nn.Module):
    """Yours: a state after each item, (B, L) to (B, L, D)."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(num_items, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)
        self.out = nn.Linear(dim, num_items)

    def forward(self, items):
        return self.gru(self.embedding(items))[0]

    def loss(self, state, target, generator):
        return F.cross_entropy(self.out(state), target)

    def probabilities(self, state, generator):
        return self.out(state).softmax(-1)


class DiffusionGRURecommender(GRURecommender):
    """The same model with a diffusion head where the linear layer was."""

    def __init__(self):
        super().__init__()
        self.out = LinearHead(num_items, dim)  # what nn.Linear was, with a loss that is chunked over the catalogue
        self.schedule = SqrtSchedule(num_timesteps, log_snr_shift=-2.3)
        self.timesteps = ImportanceTimestepSampler(num_timesteps)
        # The ranking is learned at step N, where serving starts: the objective's pass "final".
        self.objective = SimplifiedObjective(distance="cosine", reconstruction_weight=0.1, recommend_from="final")
        self.step = StepEmbedding(dim)
        self.denoiser = nn.Sequential(nn.Linear(3 * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim, bias=False))
        nn.init.zeros_(self.denoiser[-1].weight)  # it starts as the model it was

    def denoise(self, xn, timesteps, state):
        step = self.step(timesteps).expand_as(state)
        return state + self.denoiser(torch.cat([xn, state, step], dim=-1))

    def run(self, target, timesteps, state, generator):
        """One pass: the target's latent, with unit variance like the noise, corrupted and predicted."""
        x0 = F.normalize(self.embedding(target), dim=-1) * dim**0.5
        noise = torch.randn(x0.shape, generator=generator)
        xn = self.schedule.add_noise(x0, noise, timesteps)
        return Pass(target, x0, xn, noise, timesteps, self.denoise(xn, timesteps, state), "x0", self.schedule)

    def loss(self, state, target, generator):
        timesteps, weights = self.timesteps.sample(target.shape, generator)
        steps = {"sampled": timesteps, "final": torch.full_like(timesteps, num_timesteps)}
        passes = {name: self.run(target, n, state, generator) for name, n in steps.items()}
        terms = self.objective(TrainingStep(passes, weights, self.out))
        self.timesteps.update(timesteps, terms.per_latent)
        return terms.total

    def sample(self, state, sampler, draws, generator):
        """Latents (B, S, D) by any sampler, which calls the denoiser as a plain function."""
        state = state[:, None].expand(-1, draws, -1)
        start = torch.randn(state.shape, generator=generator)
        return sampler.sample(lambda xn, n: self.denoise(xn, n, state), self.schedule, start, generator)

    def probabilities(self, state, generator):
        latents = self.sample(state, OneStepSampler(), draws=10, generator=generator)
        return self.out.logits(latents).softmax(-1).mean(1)


def fit(model):
    """Your loop: every position of every sequence is a target."""
    history = pad(split.train)
    targets, real = history.items[:, 1:], history.mask[:, 1:]
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(history), generator=generator).split(64):
            states = model(history.items[rows, :-1])
            loss = model.loss(states[real[rows]], targets[rows][real[rows]], generator)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


@torch.no_grad()
def last_states(model):
    """The state after each test history, (U, D)."""
    history = pad(split.test.histories)
    return model(history.items)[torch.arange(len(history)), history.lengths - 1]


@torch.no_grad()
def measure(model):
    """HR and NDCG over all items, those of the history left out; ties count against the model."""
    scores = model.probabilities(last_states(model), torch.Generator().manual_seed(1))
    seen = pad(split.test.histories, fill=num_items).items
    scores = F.pad(scores, (0, 1)).scatter(1, seen, -1.0)[:, :num_items]
    targets = torch.from_numpy(split.test.targets)
    return ranking_metrics((scores >= scores.gather(1, targets[:, None])).sum(1), ks=[10])


rows = {}
for kind in (GRURecommender, DiffusionGRURecommender):
    torch.manual_seed(0)  # the GRU draws the same initial weights in both
    model = fit(kind())
    rows[kind.__name__] = measure(model)
rows["best possible"] = world.best_metrics(split.test)

# What is new: it can draw. Examples 06 and 09 look at what the draws are worth.
with torch.no_grad():
    state, generator = last_states(model)[:100], torch.Generator().manual_seed(2)
    sampler = DDPMSampler(variance="posterior", num_steps=50)
    latents = model.sample(state, sampler, draws=10, generator=generator)
    drawn = model.out.logits(latents).argmax(-1)
distinct = sum(len(set(row)) for row in drawn.tolist()) / len(drawn)
print(
    f"ten chains of the diffusion head, for 100 users: latents {tuple(latents.shape)}, {distinct:.1f} distinct items\n"
)

print(f"{'test':<28}{'HR@10':>10}{'NDCG@10':>10}")
for name, metrics in rows.items():
    print(f"{name:<28}{metrics['hr@10']:>10.3f}{metrics['ndcg@10']:>10.3f}")
