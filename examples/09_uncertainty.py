"""Uncertainty: what noise draws measure, and which of them show how open the future is.

You learn three uses of noise draws. The standard deviation that `recommend` reports is the influence of the noise on a
score: small, and no measure of uncertainty. The ends of learned chains vary little as well. Chains of the `posterior`
denoiser, exact Bayes over the model's predictions, end on each item as often as the model predicts it: their diversity
is the model's uncertainty. The true probabilities of this world show how good each is.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _options import parse
from _style import GREY, STYLE

from diffusers_rec import CosineSchedule, DDPMSampler, NoiselessDenoiser, PosteriorDenoiser, SyntheticWorld
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
users, draws = (20, 20) if options.quick else (200, 100)
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 3000).sequences().leave_one_out()
items = split.train.vocabulary

# The cosine schedule, because its first step is nearly clean: there a chain must separate neighbouring items. And no
# memory, because it is mixed into the ranking after the network, and chains do not use it.
model = best(items, dim=32, dropout=0.2).replace(schedule=CosineSchedule(), memory="none")
recipe = TrainingConfig(
    epochs=1 if options.quick else 6,
    examples="all-positions",
    batch_targets=400,
    learning_rate=2e-3,
    decay="cosine",
    calibrate=False,  # the chains follow the network's own softmax
)
train(model, split.train, split.validation, recipe)

histories = [items.decode(split.test.histories[user]) for user in range(users)]
truth = world.next_item_probabilities([world.items.encode(history) for history in histories])
truth = truth[:, world.items.encode(items.ids)]  # in the order of the model's items


def ends(sampler):
    """The item that each chain ends on, the one whose latent is nearest, (users, draws)."""
    latents = model.sample(histories, seeds=draws, sampler=sampler)[:, :, 0]
    return torch.cdist(latents, model.embedding.table().detach()).argmin(-1).numpy()


std = float(model.recommend(histories, k=1).std.mean())
chain = DDPMSampler(variance="posterior", num_steps=50)
learned = ends(chain)

# Neither has anything to train. Both use the prediction of the trained denoiser from the mean of pure noise. The first
# returns it. The second takes it as the prior, and computes the posterior given each x_n.
trained = model.denoiser
model.denoiser = NoiselessDenoiser(trained, schedule=model.schedule)
predicted = model.predict_proba(histories, seeds=1).double().numpy()
model.denoiser = PosteriorDenoiser(
    trained, embedding=model.embedding, head=model.head, schedule=model.schedule, num_candidates=len(items)
).eval()
posterior = ends(chain)


def drawn_from(chances):
    """As many draws from the distributions themselves: what a perfect sampler would give, (users, draws)."""
    generator = np.random.default_rng(0)
    return np.stack([generator.choice(len(items), draws, p=row / row.sum()) for row in chances])


found = {
    "learned chains": learned,
    "posterior chains": posterior,
    "draws from the model": drawn_from(predicted),
    "draws from the truth": drawn_from(truth),
}
shares = {
    name: np.stack([np.bincount(row, minlength=len(items)) / draws for row in rows]) for name, rows in found.items()
}

plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
shown = truth[0].argsort()[::-1][:10]
rows = np.arange(len(shown))
share = shares["posterior chains"][0, shown]
error = np.sqrt(share * (1 - share) / draws)
left.errorbar(share, rows, xerr=error, fmt="o", color="C0", label="posterior chains, ± standard error")
left.plot(predicted[0, shown], rows, "|", ms=14, mew=2, color=GREY, label="the model's probability")
left.plot(truth[0, shown], rows, "D", color="C2", label="truth")
left.set_yticks(rows, [items.ids[index] for index in shown])
left.invert_yaxis()
left.set(title=f"Ends of {draws} posterior chains for one history", xlabel="share of the chains")
left.legend()
counts = range(1, draws + 1)
styles = {"learned chains": "C1", "posterior chains": "C0"}
for name, color in styles.items():
    distinct = [np.mean([len(set(row[:count])) for row in found[name].tolist()]) for count in counts]
    right.plot(counts, distinct, color=color, label=name)
for name, chances, color in (("the model's probability", predicted, GREY), ("truth", truth, "C2")):
    right.plot(counts, [(1 - (1 - chances) ** count).sum(1).mean() for count in counts], ":", color=color, label=name)
right.set(title=f"Diversity, mean of {users} users", xlabel="draws", ylabel="distinct items")
right.legend()
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "09_uncertainty.png")
print(f"std of the first recommendation's score over ten noise draws, one step: {std:.4f}\n")


def distance(one, other):
    """Total variation, averaged over the users: 0 where equal, 1 where disjoint."""
    return float(np.abs(one - other).sum(1).mean() / 2)


# So few draws differ even from what they are drawn from: the model's and the truth's own rows are the floor.
print(f"{'':<24}{'distinct items':>18}{'from the model':>18}{'from the truth':>18}")
for name, share in shares.items():
    distinct = (share > 0).sum(1).mean()
    print(f"{name:<24}{distinct:>18.1f}{distance(share, predicted):>18.2f}{distance(share, truth):>18.2f}")
print(f"{'the probabilities':<24}{'':>18}{0:>18.2f}{distance(predicted, truth):>18.2f}")
