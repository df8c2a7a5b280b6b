"""Last-k noising: noise more than the target, and ask for more than the next item.

You learn what the noising strategy decides. The paper noises the target alone; its ablation (Sec. 5.3.4) noises the
last k items, or all, so that less of the history is clean. `LastK(k, ahead=True)` predicts something else: the next k
items, jointly, after the whole clean history.
"""

import numpy as np
import torch
from _options import parse
from _style import rates_figure

from diffusers_rec import LastK, SyntheticWorld, TargetOnly, WholeSequence
from diffusers_rec.evaluation import evaluate, evaluate_popularity, ranking_metrics
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
world = SyntheticWorld(num_items=200)
split = world.sample(num_users=300 if options.quick else 2000).sequences().leave_one_out()
items = split.train.vocabulary
recipe = TrainingConfig(
    epochs=1 if options.quick else 5,
    examples="all-positions",
    batch_targets=400,
    learning_rate=2e-3,
    decay="cosine",
    calibrate=False,  # all rows rank by their own probabilities
)


def trained(noising):
    """The preset `best` with another noising strategy, and without its memory: that would see the history clean."""
    model = best(items, dim=32, dropout=0.2).replace(noising=noising, memory="none")
    train(model, split.train, split.validation, recipe)
    return model


# The next item. Serving starts from pure noise at every noised position, so those items cannot be read.
strategies = {
    "the target": TargetOnly(),
    "the last 2": LastK(2),
    "the last 3": LastK(3),
    "all": WholeSequence(),
    "2 items ahead": LastK(2, ahead=True),
}
models, rates = {}, {}
print("In this world the last two items determine most of the next one. A model that noises")
print("them cannot read them. With all items noised no history is left, and the model ranks")
print("much as popularity does.\n")
print(f"{'noised':<16}{'HR@10':>8}{'NDCG@10':>10}")
for name, noising in strategies.items():
    models[name] = trained(noising)
    metrics = evaluate(models[name], split.test).metrics()
    rates[name] = metrics["hr@10"]
    print(f"{name:<16}{metrics['hr@10']:>8.3f}{metrics['ndcg@10']:>10.3f}", flush=True)
limits = {
    "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
    "best possible": world.best_metrics(split.test),
}
for name, metrics in limits.items():
    print(f"{name:<16}{metrics['hr@10']:>8.3f}{metrics['ndcg@10']:>10.3f}")
figure = rates_figure(rates, len(split.test), {name: metrics["hr@10"] for name, metrics in limits.items()})
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "05_last_k_noising.png")
print()

# The item after the next. One model draws the latents of both, (histories, draws, 2, width); the second is scored by
# the same head as the first. Beside it: the next-item list of the plain model, used for the item after it.
users = range(min(500, len(split.train)))
histories = [items.decode(split.train[user]) for user in users]
ahead = models["2 items ahead"]
latents = ahead.sample(histories)
with torch.no_grad():
    second = ahead.head.logits(latents[:, :, 1]).softmax(-1).mean(1)

# What is true: over all next items v, the chance of v times the chance of what follows it.
truth = np.zeros((len(histories), len(world.items)))
for row, history in enumerate(world.items.encode(history) for history in histories):
    first = world.next_item_probabilities([history])[0]
    possible = np.flatnonzero(first > 1e-4)
    truth[row] = first[possible] @ world.next_item_probabilities([[*history, v] for v in possible])
truth = torch.from_numpy(truth)[:, world.items.encode(items.ids)]  # in the order of the model's items

targets = torch.from_numpy(split.test.targets[: len(histories)])  # the item after the validation item
print(f"{'the item after the next, ranked by':<40}{'HR@10':>8}{'NDCG@10':>10}")
for name, scores in {
    "the next-item model": models["the target"].predict_proba(histories).double(),
    "the model that looks ahead": second.double(),
    "the true chances": truth,
}.items():
    for row, history in enumerate(histories):
        scores[row, items.encode(history)] = -1  # no item comes twice in this world
    ranks = (scores >= scores.gather(1, targets[:, None])).sum(1)
    metrics = ranking_metrics(ranks, ks=[10])
    print(f"{name:<40}{metrics['hr@10']:>8.3f}{metrics['ndcg@10']:>10.3f}")
