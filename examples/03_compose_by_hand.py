"""Compose by hand: every part built as an object, then swapped one at a time.

You learn which parts there are, how they share vectors, that a config is the same composition as data, and which swaps
matter. Each row of the picture and of the table is the first model with one part changed, trained alike.
"""

import json
import math

from _options import parse
from _style import rates_figure

from diffusers_rec import (
    CausalTransformerEncoder,
    ConditionalMLPDenoiser,
    DiffRec,
    ImportanceTimestepSampler,
    OneStepSampler,
    SimplifiedObjective,
    SqrtSchedule,
    SyntheticWorld,
    TableEmbedding,
    TargetOnly,
    TiedHead,
    TransitionMemory,
)
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
dim, max_length, num_timesteps = 32, 20, 1000

world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary

embedding = TableEmbedding(len(items), dim, scale="unit", init_std=0.02)
model = DiffRec(
    items,
    embedding=embedding,
    head=TiedHead(embedding),  # scores by the same vectors; the pipeline refuses a head tied to another embedding
    schedule=SqrtSchedule(num_timesteps, log_snr_shift=-math.log(10)),  # a tenth of the signal-to-noise ratio
    noising=TargetOnly(),
    timesteps=ImportanceTimestepSampler(num_timesteps),
    denoiser=ConditionalMLPDenoiser(dim, max_length, encoder=CausalTransformerEncoder(dim, max_length, dropout=0.2)),
    # The ranking is learned at n = N, where serving starts, and the denoiser beside it.
    objective=SimplifiedObjective(distance="cosine", reconstruction_weight=0.1, recommend_from="final"),
    memory=TransitionMemory(len(items), share=0.4),  # what followed what in training, mixed into the ranking
    sampler=OneStepSampler(),
    seeds=10,
)

# Parts that do not fit are refused when they are composed, not when a tensor has the wrong shape.
try:
    DiffRec(items, embedding=embedding, denoiser=ConditionalMLPDenoiser(2 * dim, max_length))
except ValueError as error:
    print(f"refused: {error}\n")

# The same composition as data: what save_pretrained writes, what --set changes on the command line.
config = model.config()
print(json.dumps({name: config[name] for name in ("schedule", "head", "denoiser")}, indent=1), "\n")

# `replace` gives the same model with one part changed: by a name, or by the settings that differ.
swaps = {
    "as above": {},
    "schedule: cosine, not shifted": {"schedule": {"name": "cosine", "log_snr_shift": 0.0}},
    "timesteps: uniform": {"timesteps": "uniform"},
    # The last two items are hidden from the denoiser alone: the memory still reads them.
    "noising: the last 2 items": {"noising": {"name": "last-k", "k": 2}},
    "embedding: its scale learned, init_std 1": {"embedding": {"scale": "learned", "init_std": 1.0}},
    "denoiser: causal-transformer": {"denoiser": "causal-transformer"},
    "head: linear, with vectors of its own": {"head": "linear"},
    "objective: the paper's settings": {"objective": SimplifiedObjective()},
    "memory: none": {"memory": "none"},
}
recipe = TrainingConfig(
    epochs=1 if options.quick else 5, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
rates = {}
print(f"{'changed':<44}{'HR@10':>8}{'NDCG@10':>10}")
for name, swap in swaps.items():
    changed = model.replace(**swap)
    train(changed, split.train, split.validation, recipe)
    metrics = evaluate(changed, split.test).metrics()
    rates[name] = metrics["hr@10"]
    print(f"{name:<44}{metrics['hr@10']:>8.3f}{metrics['ndcg@10']:>10.3f}", flush=True)
limits = {
    "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
    "best possible": world.best_metrics(split.test),
}
for name, metrics in limits.items():
    print(f"{name:<44}{metrics['hr@10']:>8.3f}{metrics['ndcg@10']:>10.3f}")
figure = rates_figure(rates, len(split.test), {name: metrics["hr@10"] for name, metrics in limits.items()})
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "03_compose_by_hand.png")
