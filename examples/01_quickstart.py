"""Quickstart: a log of who took what, a trained model, recommendations.

You learn the four steps that every use of the library goes through: interactions, a split, training, recommending.
The log comes from a synthetic world whose next-item distribution is known, so the table at the end can say what no
real data set can: how far the model is from the best possible.
"""

from _options import parse

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

# 4. Recommendations for any history of raw item ids. The score is the probability of the item to come next, averaged
#    over ten draws of noise; the spread is how much it varies among them, no error bar.
#    Beside it, what is true in this world.
history = model.vocabulary.decode(split.test.histories[0])
truth = world.next_item_probabilities([world.items.encode(history)])[0]
print(f"after ..., {', '.join(history[-3:])}\n")
print(f"{'item':<12}{'probability':>14}{'spread':>10}{'truth':>10}")
for item, probability, spread in model.recommend([history], k=5)[0]:
    print(f"{item:<12}{probability:>14.3f}{spread:>10.4f}{truth[world.items.encode([item])[0]]:>10.3f}")

# How good is it? Every item is ranked, those of the history left out.
rows = {
    "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
    "item to item": evaluate_item_to_item(split.test.histories, split.test).metrics(),
    "DiffRec": evaluate(model, split.test).metrics(),
    "best possible": world.best_metrics(split.test),
}
print(f"\n{'test':<16}{'HR@10':>10}{'NDCG@10':>10}")
for name, metrics in rows.items():
    print(f"{name:<16}{metrics['hr@10']:>10.3f}{metrics['ndcg@10']:>10.3f}")
