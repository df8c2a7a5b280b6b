"""Uncertainty: what the seeds say, and which draws may be believed.

You learn three things that noise draws can be taken for. The spread that `recommend` reports is how much a score
depends on the noise: small, and no measure of how open the future is. The ends of learned chains vary little as well.
Chains of the `posterior` denoiser, exact Bayes over what the model predicts, land on each item as often as the model
thinks it likely: their diversity is the model's uncertainty. This world's truth tells how far each may be believed.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from _options import parse

from diffusers_rec import CosineSchedule, DDPMSampler, NoiselessDenoiser, PosteriorDenoiser, SyntheticWorld
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
users, draws = (20, 20) if options.quick else (200, 100)
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 3000).sequences().leave_one_out()
items = split.train.vocabulary

# The cosine schedule, for its first step is nearly clean: there a chain must tell neighbouring items apart. And without
# the memory, which is mixed into the ranking behind the network, where no chain knows of it.
model = best(items, dim=32, dropout=0.2).replace(schedule=CosineSchedule(), memory="none")
recipe = TrainingConfig(
    epochs=1 if options.quick else 6, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
train(model, split.train, split.validation, recipe)

histories = [items.decode(split.test.histories[user]) for user in range(users)]
truth = world.next_item_probabilities([world.items.encode(history) for history in histories])
truth = truth[:, world.items.encode(items.ids)]  # in the order of the model's items


def ends(sampler):
    """The item that each chain ends on, the one whose latent is nearest, (users, draws)."""
    latents = model.sample(histories, seeds=draws, sampler=sampler)[:, :, 0]
    return torch.cdist(latents, model.embedding.table().detach()).argmin(-1).numpy()


spread = float(model.recommend(histories, k=1).std.mean())
chain = DDPMSampler(variance="posterior", num_steps=50)
learned = ends(chain)

# Neither has anything to train: they ask the trained denoiser what comes next, from the mean of pure noise. The first
# says just that. The second takes it for the prior and reckons what each x_n adds to it.
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

figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
shown = truth[0].argsort()[::-1][:12]
place = np.arange(len(shown))
left.bar(place - 0.2, shares["posterior chains"][0, shown], 0.4, color="tab:blue", label="posterior chains")
left.bar(place + 0.2, shares["learned chains"][0, shown], 0.4, color="tab:orange", label="learned chains")
left.plot(place, predicted[0, shown], "_", ms=20, color="black", label="the model's probability")
left.plot(place, truth[0, shown], "D", color="tab:red", label="truth")
left.set_xticks(place, [items.ids[index] for index in shown], rotation=60)
left.set(title=f"Where {draws} chains end for one history", ylabel="share")
left.legend()
counts = range(1, draws + 1)
styles = {"learned chains": "tab:orange", "posterior chains": "tab:blue"}
for name, color in styles.items():
    distinct = [np.mean([len(set(row[:count])) for row in found[name].tolist()]) for count in counts]
    right.plot(counts, distinct, color=color, label=name)
for name, chances, color in (("the model's probability", predicted, "black"), ("truth", truth, "tab:red")):
    right.plot(counts, [(1 - (1 - chances) ** count).sum(1).mean() for count in counts], ":", color=color, label=name)
right.set(title=f"Diversity, mean of {users} users", xlabel="draws", ylabel="distinct items among them")
right.legend()
options.out.mkdir(parents=True, exist_ok=True)
picture = options.out / "09_uncertainty.png"
figure.savefig(picture, dpi=110)
print(f"drawn in {picture}\n")
print(f"spread of the first recommendation's score over ten noise draws, one step: {spread:.4f}\n")


def distance(one, other):
    """Total variation, averaged over the users: 0 where equal, 1 where disjoint."""
    return float(np.abs(one - other).sum(1).mean() / 2)


# So few draws differ even from what they are drawn from: the model's and the truth's own rows are the floor.
print(f"{'':<24}{'distinct items':>18}{'from the model':>18}{'from the truth':>18}")
for name, share in shares.items():
    distinct = (share > 0).sum(1).mean()
    print(f"{name:<24}{distinct:>18.1f}{distance(share, predicted):>18.2f}{distance(share, truth):>18.2f}")
print(f"{'the probabilities':<24}{'':>18}{0:>18.2f}{distance(predicted, truth):>18.2f}")
