"""The full reverse process: a plain loop of ten lines, then the sampler that does the same.

You learn what `sampler="ddpm"` does: encode the history once, start from pure noise, and sample the posterior of the
forward process from step to step (Algorithm 2). The table compares the chain with one step (Algorithm 3): its ranking,
its price, and whether different noise ends on different items. The picture follows the chains.
"""

import time

import matplotlib.pyplot as plt
import torch
from _options import parse
from _style import GREY, STYLE

from diffusers_rec import DDPMSampler, OneStepSampler, Queries, SyntheticWorld
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
num_timesteps, dim = 100, 32
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary

# The preset with a tenth of its steps, and without the memory that it mixes into the ranking: this is about the
# network.
model = best(items, dim=dim, dropout=0.2).replace(schedule={"num_timesteps": num_timesteps}, memory="none")
recipe = TrainingConfig(
    epochs=1 if options.quick else 6, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
train(model, split.train, split.validation, recipe)

# What both need: the history, encoded once, and the condition of one query about it, which all five draws share.
history, draws = items.decode(split.test.histories[0]), 5
encoded = model.encode_histories([history])
with torch.no_grad():  # train() has left the model in evaluation mode
    context = model.denoiser.encode(encoded.with_latents(model.embedding(encoded.items)))
    condition = model.denoiser.condition(context, Queries.next_item(encoded.lengths))


def denoise(xn, timesteps):
    """Predict the clean latents, (histories, draws, corrupted positions, D) like xn."""
    return model.denoiser(xn, timesteps, condition)


# The loop.
path, predictions = [], []
generator = torch.Generator().manual_seed(4)
x = torch.randn(1, draws, 1, dim, generator=generator)
with torch.no_grad():
    for n in range(num_timesteps, 0, -1):
        timesteps = torch.full((1, draws), n)
        x0 = denoise(x, timesteps)
        path.append(x)
        predictions.append(x0)
        if n > 1:  # the last prediction is the answer; no noise is added to it
            mean, variance = model.schedule.posterior(x0, x, timesteps)
            x = mean + variance.sqrt() * torch.randn(x.shape, generator=generator)

# The sampler, from the same noise.
generator = torch.Generator().manual_seed(4)
noise = torch.randn(1, draws, 1, dim, generator=generator)
with torch.no_grad():
    sampled = DDPMSampler(variance="posterior").sample(denoise, model.schedule, noise, generator)
print(f"loop and sampler differ by {float((sampled - x0).abs().max()):.0e} at most\n")

# The picture. Left: the chains among the items, in the plane in which the items vary most. Right: the probabilities of
# the predictions along one chain, for the items with the highest true probability.
with torch.no_grad():
    logits = model.head.logits(torch.cat(predictions)[:, 0, 0])
    table = model.embedding.table()
logits[:, encoded.items[0]] = -torch.inf  # no item comes twice in this world
beliefs = logits.softmax(-1)
truth = world.next_item_probabilities([world.items.encode(history)])[0, world.items.encode(items.ids)]
_, _, plane = torch.pca_lowrank(table, q=2, niter=10)

plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
left.plot(*(table @ plane).T, "o", ms=3, alpha=0.4, mew=0, color=GREY, label="items")
for chain in torch.cat([*path, x0])[:, :, 0].transpose(0, 1):
    left.plot(*(chain @ plane).T, lw=0.7)
    left.plot(*(chain[-1] @ plane), "D", color="C5")
left.plot([], [], "D", color="C5", label="end of a chain")
left.set(title=f"{draws} chains for one history", xticks=[], yticks=[])
left.legend()
steps = range(num_timesteps, 0, -1)
for index in truth.argsort()[:-6:-1]:
    (line,) = right.plot(steps, beliefs[:, index], label=items.ids[index])
    right.plot(num_timesteps * 1.03, truth[index], "D", color=line.get_color())
right.set(title="Prediction along one chain (diamonds: truth)", xlabel="step n", ylabel="probability")
right.set_xlim(num_timesteps * 1.06, 0)  # as the chain goes, from N down
right.set_ylim(0)
right.legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "06_full_reverse.png")
print("The chains end together, and not among the items. This denoiser has learned what")
print("scores well, not where items lie. The chains of 09_uncertainty.py end on items.\n")

# The table. The items that chains end on are those whose clean latents are nearest.
some = split.test.sample(100 if options.quick else 500, seed=0)
histories = [items.decode(history) for history in some.histories]
print(f"{len(some)} test users, beside the truth, whose ten draws are from the true distribution\n")
print(f"{'':<24}{'NDCG@10':>10}{'seconds':>10}{'distinct items in ten draws':>30}")
for name, sampler in {
    "one step": OneStepSampler(),
    "ten steps": DDPMSampler(variance="posterior", num_steps=10),
    f"all {num_timesteps} steps": DDPMSampler(variance="posterior"),
}.items():
    started = time.perf_counter()
    metrics = evaluate(model, some, sampler=sampler, seeds=10).metrics()
    seconds = time.perf_counter() - started
    latents = model.sample(histories, sampler=sampler, seeds=10)[:, :, 0]
    ends = torch.cdist(latents, model.embedding.table().detach()).argmin(-1)
    distinct = sum(len(set(row)) for row in ends.tolist()) / len(ends)
    print(f"{name:<24}{metrics['ndcg@10']:>10.3f}{seconds:>10.2f}{distinct:>30.1f}")
chances = world.next_item_probabilities([world.items.encode(history) for history in histories])
distinct = (1 - (1 - chances) ** 10).sum(1).mean()  # how many of ten draws from the true distribution differ
print(f"{'the truth':<24}{world.best_metrics(some)['ndcg@10']:>10.3f}{'':>10}{distinct:>30.1f}")
