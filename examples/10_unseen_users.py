"""Unseen users: recommendations for any history, and for users who have none.

You learn that the model needs a history, not a known user: one item is enough, and nothing is trained again. An empty
history or an unknown item raises an error that names it, and the example shows both fixes. Then you learn how to steer
the list with `exclude_seen` and `candidates`.
"""

import numpy as np
from _options import parse

from diffusers_rec import Holdout, Sequences, SyntheticWorld, Vocabulary
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)
world = SyntheticWorld(num_items=200)
known, unseen = (300, 100) if options.quick else (2500, 1000)
sequences = world.sample(num_users=known + unseen).sequences()
newcomers = sequences.take(range(known, known + unseen))  # no training on these users
split = sequences.take(range(known)).leave_one_out()
items = sequences.vocabulary

model = best(items, dim=32, dropout=0.2)
recipe = TrainingConfig(
    epochs=1 if options.quick else 6, examples="all-positions", batch_targets=400, learning_rate=2e-3, decay="cosine"
)
train(model, split.train, split.validation, recipe)

# A newcomer's basket may hold what the shop listed after the training. The error says which items.
basket = [*items.decode(newcomers[0][:3]), "item-new"]
try:
    model.recommend([basket])
except ValueError as error:
    print(f"refused: {error}\n")
basket = [item for item in basket if item in model.vocabulary]

# A newcomer without a history: there is nothing to condition on. The most popular items are the usual answer.
try:
    model.recommend([basket, []])
except ValueError as error:
    print(f"refused: {error}\n")
counts = np.bincount(split.train.items, minlength=len(items))
popular = items.decode(np.argsort(-counts, kind="stable")[:5])
wanted = {"a newcomer": basket, "nobody yet": []}
served = {name: history for name, history in wanted.items() if history}
lists = dict.fromkeys(wanted, popular) | dict(zip(served, model.recommend(served.values(), k=5).items, strict=True))
for name, found in lists.items():
    print(f"{name:<12} {', '.join(found)}")

# By default the items of the history are left out. And a list can be drawn from candidates alone: what is in stock.
print("\nafter", ", ".join(basket))
choices = {
    "default": {},
    "seen allowed": {"exclude_seen": False},
    "in stock": {"candidates": popular},
}
for name, choice in choices.items():
    print(f"{name:<12} {', '.join(model.recommend([basket], k=3, **choice).items[0])}")


def after(length):
    """The newcomers' first items as histories, the item after them as targets."""
    some = [sequence for sequence in newcomers if len(sequence) > length]
    users = newcomers.users.ids[: len(some)]
    offsets = np.arange(len(some) + 1) * length
    histories = Sequences(np.concatenate([each[:length] for each in some]), offsets, Vocabulary(users), items)
    return Holdout(histories, np.array([each[length] for each in some]))


# How good is it for them? In this world two items already determine most of the next one.
rows = {
    "known users, all items": split.test,
    "unseen users, all items": newcomers.leave_one_out().test,
    **{f"unseen users, first {length}": after(length) for length in (1, 2, 3, 4)},
}
print(f"\n{'NDCG@10':<28}{'users':>8}{'model':>10}{'best possible':>18}")
for name, holdout in rows.items():
    score, optimum = evaluate(model, holdout).metrics()["ndcg@10"], world.best_metrics(holdout)["ndcg@10"]
    print(f"{name:<28}{len(holdout):>8,}{score:>10.3f}{optimum:>18.3f}")
