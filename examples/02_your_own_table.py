"""Your own table: CSV, Parquet, pandas, Polars, plain lists, all to the same log.

You learn how columns are named, what happens to ids and times, how to filter, and which errors a broken table raises.
Ids are strings here, as product codes are. (This example needs pandas, which the library itself does not.)
"""

import csv
import random
from datetime import datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import polars as pl
from _options import parse

from diffusers_rec import Interactions, SyntheticWorld, from_frame, read_interactions
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

options = parse(__doc__)

# A shop's export: one purchase a line, in no particular order, with a column that is not needed.
world = SyntheticWorld(num_items=200)
log = world.sample(num_users=300 if options.quick else 2000)
opening = datetime(2024, 1, 1)
purchases = [
    {
        "customer": log.user_vocabulary.ids[user],
        "product": log.item_vocabulary.ids[item],
        "bought_at": (opening + timedelta(days=int(place), minutes=int(user))).isoformat(),
        "price": "9.99",
    }
    for user, item, place in zip(log.users, log.items, log.times, strict=True)
]
random.Random(0).shuffle(purchases)

columns = {"user": "customer", "item": "product", "time": "bought_at"}
with TemporaryDirectory() as folder:
    path = Path(folder) / "purchases.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, purchases[0])
        writer.writeheader()
        writer.writerows(purchases)
    print("\n".join(path.read_text().splitlines()[:3]), "\n")

    table = pl.read_csv(path, try_parse_dates=True)  # real datetimes
    table.write_parquet(path.with_suffix(".parquet"))
    sources = {
        "CSV file": read_interactions(path, **columns),
        "Parquet file": read_interactions(path.with_suffix(".parquet"), **columns),
        "pandas frame": from_frame(pd.read_csv(path, parse_dates=["bought_at"]), **columns),
        "Polars frame": from_frame(table, **columns),
        "plain lists": Interactions.from_arrays(*([row[name] for row in purchases] for name in columns.values())),
    }

    # A wrong column raises an error that contains the fix.
    for mistake in ({"item": "produkt"}, {"time": "product"}):
        try:
            read_interactions(path, **{**columns, **mistake})
        except ValueError as error:
            print(f"{mistake} -> {error}\n")

# Ids stay what they are: strings here. In a text file a column whose ids are all plain integers becomes int, so that 42
# in the file is 42 in recommend(), and "007" stays the string that it is.
print("ids:", log.item_vocabulary.ids[:2], "and", sources["CSV file"].item_vocabulary.ids[:2])

# k_core keeps the users and items with at least k interactions each. leave_one_out needs three items a user;
# short="train" keeps users with fewer items for training alone.
interactions = sources["CSV file"].k_core(5)
split = interactions.sequences().leave_one_out(short="train")
model = best(split.train.vocabulary, dim=32, dropout=0.2)
recipe = TrainingConfig(epochs=1 if options.quick else 5, examples="all-positions", learning_rate=2e-3, decay="cosine")
train(model, split.train, split.validation, recipe)
ndcg, optimum = evaluate(model, split.test).metrics()["ndcg@10"], world.best_metrics(split.test)["ndcg@10"]
print(f"trained on the CSV file: test NDCG@10 {ndcg:.3f}, best possible {optimum:.3f}\n")

# One log, five sources: each gives the same users, items and order.
first = sources["CSV file"].sequences()
print(f"{'read from':<16}{'users':>8}{'items':>8}{'rows':>8}{'same sequences':>18}")
for name, source in sources.items():
    sequences = source.sequences()
    same = sequences.users == first.users and all(
        sequences.vocabulary.decode(one) == first.vocabulary.decode(other)
        for one, other in zip(sequences, first, strict=True)
    )
    size = source.statistics()
    print(f"{name:<16}{size.num_users:>8,}{size.num_items:>8,}{size.num_actions:>8,}{'yes' if same else 'no':>18}")
