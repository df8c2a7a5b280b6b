"""Noise schedules: how much of an item survives each step, as in the paper's Figure 2.

You learn to read a schedule: its alpha-bar curve, what the curve means for items, and what ``log_snr_shift`` is for. A
latent is useless to train on where the item in it can simply be read off, and where nothing of it is left; between the
two lies what a denoiser can learn. Where that is depends on the schedule, but as much on the width of the latents.
"""

import matplotlib.pyplot as plt
import torch
from _options import parse
from _style import STYLE

from diffusers_rec import CosineSchedule, LinearSchedule, SqrtSchedule, SyntheticWorld, TableEmbedding
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
num_items = 200
schedules = {
    "sqrt": SqrtSchedule(1000),
    "cosine": CosineSchedule(1000),
    "linear": LinearSchedule(1000),
    "sqrt, shifted": SqrtSchedule(1000, log_snr_shift=-2.3),  # e^-2.3: a tenth of the signal-to-noise ratio
}
steps = torch.linspace(1, 1000, 10 if options.quick else 50).round().long()


@torch.no_grad()
def recognised(schedule, dim):
    """The share of items whose noised latent is still nearest to their own clean one, for each of ``steps``."""
    table = TableEmbedding(num_items, dim, scale="unit").table()
    noise = torch.randn(10, num_items, dim, generator=torch.Generator().manual_seed(1))  # 0 drew the items
    shares = []
    for n in steps:
        timesteps = n.expand(10)  # one for each of ten noised copies of the table
        xn = schedule.add_noise(table.expand(10, -1, -1), noise, timesteps)
        signal, _ = schedule.levels(xn, timesteps)
        nearest = torch.cdist(xn, signal * table).argmin(-1)
        shares.append(float((nearest == torch.arange(num_items)).double().mean()))
    return shares


plt.style.use(STYLE)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained", sharex=True)
for name, schedule in schedules.items():
    style = "--" if "shifted" in name else "-"
    axes[0].plot(schedule.alpha_bar, style, label=name)
    axes[1].plot(steps, recognised(schedule, dim=32), style)
    axes[2].plot(steps, recognised(schedule, dim=256), style)
axes[0].set(title="Signal left", ylabel=r"$\bar\alpha_n$", xlabel="step n")
axes[1].set(title="Items recognised, D = 32", ylabel=f"share of {num_items} items", xlabel="step n")
axes[2].set(title="Items recognised, D = 256", xlabel="step n")
axes[0].legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "04_noise_schedules.png")

# Does the schedule decide the ranking? In the paper's recipe the ranking is learned at the sampled step, so it does.
# The preset `best` learns it at n = N, where nothing of the target is left under any schedule: then it hardly matters.
world = SyntheticWorld(num_items)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary
start = best(items, dim=32, dropout=0.2).replace(memory="none")  # the network alone: no counts beside it
passes = {"at the sampled step": "sampled", "at n = N": "final"}
recipe = TrainingConfig(
    epochs=1 if options.quick else 4, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
print("test NDCG@10, by where the ranking is learned\n")
print(f"{'schedule':<16}", *(f"{name:>22}" for name in passes))
for name, schedule in schedules.items():
    scores = []
    for recommend_from in passes.values():
        model = start.replace(schedule=schedule, objective={"recommend_from": recommend_from})
        train(model, split.train, split.validation, recipe)
        scores.append(evaluate(model, split.test).metrics()["ndcg@10"])
    print(f"{name:<16}", *(f"{score:>22.3f}" for score in scores), flush=True)
optimum = world.best_metrics(split.test)["ndcg@10"]
print(f"{'best possible':<16}", *(f"{optimum:>22.3f}" for _ in passes))
