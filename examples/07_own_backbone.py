"""A backbone of your own: a GRU denoiser in one class, registered, trained, saved.

You learn the denoiser's contract: `encode` runs once a history, `condition` once for all reverse steps and noise draws,
and `forward` once a step. For each of B histories there are Q independent queries of K corrupted positions, each of
which sees the first `visible` items. Noising, schedules, guides, samplers, heads, training, checkpoints and the command
line then work with it.
"""

import torch
from _options import parse
from torch import nn

from diffusers_rec import Denoiser, DiffRec, SyntheticWorld
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.evaluation import evaluate
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.presets import best
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train


class GRUDenoiser(Denoiser, name="gru"):  # the name under which configs, checkpoints and the command line know it
    """A GRU over the history, and a perceptron on its state, the corrupted latents and the step.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, the corrupted ones included.
        num_layers: Layers of the GRU.
        seed: Seed of the initial weights.
    """

    # The constructor keeps each argument under its own name: a config is just these attributes.
    def __init__(self, dim: int = 256, max_length: int = 50, *, num_layers: int = 1, seed: int = 0) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers = num_layers
        with isolated_rng(seed):  # initialisers draw from torch's global state; this lends them a seeded one
            self.gru = nn.GRU(dim, dim, num_layers, batch_first=True)
            self.step = StepEmbedding(dim)
            self.perceptron = nn.Sequential(nn.Linear(4 * dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def encode(self, history):
        """The state after each prefix, the empty one first: ``(B, L + 1, D)``. Padding lies behind all prefixes."""
        latents = history.latent()
        empty = latents.new_zeros(len(latents), 1, self.dim)
        return torch.cat([empty, self.gru(latents)[0]], dim=1) if latents.shape[1] else empty

    def condition(self, context, queries, *, null=False):
        """The state that each query sees, and the share of each of its positions in their mean."""
        queries = queries.blind(null)  # a null query sees the empty prefix: guidance needs it
        state = context.gather(1, queries.visible[..., None].expand(-1, -1, self.dim))
        real = queries.keys[..., None]  # the other positions are padding
        return state[:, :, None], real / real.sum(2, keepdim=True)

    def forward(self, xn, timesteps, condition):
        """The state, moved by what the perceptron makes of the noise."""
        state, share = condition
        if timesteps.ndim == 2:  # one step a query: the same at all its positions
            timesteps = timesteps[..., None]
        mean = (xn * share.to(xn.dtype)).sum(2, keepdim=True)  # the K positions see one another
        parts = state, xn, mean, self.step(timesteps)
        return state + self.perceptron(torch.cat([part.expand_as(xn) for part in parts], dim=-1))


options = parse(__doc__)
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary
recipe = TrainingConfig(
    epochs=1 if options.quick else 6, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
start = best(items, dim=32, dropout=0.2).replace(memory="none")  # the network alone: no counts beside it

# The library's own denoisers pass the same checks: what a query may see, the same prediction alone and in any batch,
# seeds, configs. An error names the broken clause, with what was expected and what came.
check_component(GRUDenoiser)
print("the contract is kept")

# It is saved and loaded; loading needs the class to be imported, nothing more.
model = start.replace(denoiser="gru")
options.out.mkdir(parents=True, exist_ok=True)
model.save_pretrained(options.out / "07_own_backbone")
print(f"loaded again: {DiffRec.from_pretrained(options.out / '07_own_backbone').denoiser.config()}\n")

# And with last-k noising, which predicts several positions at once.
ahead = model.replace(noising={"name": "last-k", "k": 3, "ahead": True})
history = items.decode(split.test.histories[0])
print(f"three items ahead, five draws: latents {tuple(ahead.sample([history], seeds=5).shape)}\n")

print(f"{'denoiser':<24}{'parameters':>12}{'HR@10':>10}{'NDCG@10':>10}")
for name in ("gru", "conditional-mlp", "causal-transformer"):
    model = start.replace(denoiser=name)
    train(model, split.train, split.validation, recipe)
    metrics = evaluate(model, split.test).metrics()
    size = sum(parameter.numel() for parameter in model.denoiser.parameters())
    print(f"{name:<24}{size:>12,}{metrics['hr@10']:>10.3f}{metrics['ndcg@10']:>10.3f}", flush=True)
optimum = world.best_metrics(split.test)
print(f"{'best possible':<24}{'':>12}{optimum['hr@10']:>10.3f}{optimum['ndcg@10']:>10.3f}")
