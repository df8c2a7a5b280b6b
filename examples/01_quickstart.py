"""Quickstart: a log of who took what, a trained model, recommendations.

You learn the four steps of every use of the library: interactions, a split, training, recommending. The log comes from
a synthetic world whose next-item distribution is known. The picture and the table therefore show what no real data set
can: how far the model is from the best possible.
"""

import matplotlib.pyplot as plt
from _options import parse
from _style import GREY, STYLE

from diffusers_rec import SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_item_to_item, evaluate_popularity
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)

# 1. A log. Your own comes from read_interactions("log.csv") or from_frame(a data frame), see 02_your_own_table.py.
world = SyntheticWorld(num_items=200)
interactions = world.sample(num_users=300 if options.quick else 3000)
print(interactions.statistics(), "\n")

# 2. A split: each user's last item is the test, the one before it the validation, the rest is for training.
split = interactions.sequences().leave_one_out()

# 3. A model and its training. It keeps the weights of the epoch with the best validation NDCG@10.
model = best(split.train.vocabulary, dim=32, dropout=0.2)
recipe = TrainingConfig(
    epochs=2 if options.quick else 8,
    examples="all-positions",  # every position of a sequence is a target, in one pass
    batch_targets=400,
    learning_rate=2e-3,
    decay="cosine",
)
result = train(
    model,
    split.train,
    split.validation,
    recipe,
    on_epoch=lambda record: print(f"epoch {record['epoch']}: validation NDCG@10 {record['validation_ndcg@10']:.3f}"),
)
print(f"kept epoch {result.best_epoch}\n")

# 4. Recommendations for any history of raw item ids. The probability that the item comes next is averaged over ten
#    draws of noise, and std is its standard deviation over them: the influence of the noise, no error bar.
#    The last column is the true probability in this world.
history = model.vocabulary.decode(split.test.histories[0])
truth = world.next_item_probabilities([world.items.encode(history)])[0]
recommended = model.recommend([history], k=5)[0]
truth = [truth[index] for index in world.items.encode([item for item, _, _ in recommended])]
print(f"after ..., {', '.join(history[-3:])}\n")
print(f"{'item':<12}{'probability':>14}{'std':>10}{'truth':>10}")
for (item, probability, std), true in zip(recommended, truth, strict=True):
    print(f"{item:<12}{probability:>14.3f}{std:>10.4f}{true:>10.3f}")

# How good is it? Every item is ranked, seen items excluded.
rows = {
    "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
    "item to item": evaluate_item_to_item(split.test.histories, split.test).metrics(),
    "DiffRec": evaluate(model, split.test).metrics(),
    "best possible": world.best_metrics(split.test),
}
print(f"\n{'test':<16}{'HR@10':>10}{'NDCG@10':>10}")
for name, metrics in rows.items():
    print(f"{name:<16}{metrics['hr@10']:>10.3f}{metrics['ndcg@10']:>10.3f}")

plt.style.use(STYLE)
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
items = [item for item, _, _ in recommended][::-1]
left.plot([probability for _, probability, _ in recommended][::-1], items, "o", label="model")
left.plot(truth[::-1], items, "D", label="truth")
left.set(title="One user's list", xlabel="probability", xlim=(0, None))
left.legend()
for name, metrics in reversed(rows.items()):
    right.plot(metrics["ndcg@10"], name, "o", color="C0" if name == "DiffRec" else GREY)
right.set(title="All users", xlabel="NDCG@10 on the test items", xlim=(0, None))
options.out.mkdir(parents=True, exist_ok=True)
figure.savefig(options.out / "01_quickstart.png")
