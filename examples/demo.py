"""Train a small DiffRec on a synthetic world and compare it with the best that anyone could do there.

The world's next-item distribution is known in closed form, and so are the best reachable HR and NDCG. The demo prints
the model beside that optimum and beside popularity, recommends for three users, draws one picture, and keeps the log
and the model for the ``diffrec`` command to try.
"""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from diffusers_rec import DiffRec, Interactions, Recommendations, Split, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES, TrainingResult, train


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for picture, log and model")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    world = SyntheticWorld(num_items=200, seed=options.seed)
    interactions = world.sample(options.users, seed=options.seed)
    split = interactions.sequences().leave_one_out()
    print(f"{interactions.statistics()}\n")

    model = best(split.train.vocabulary, dropout=0.2, seed=options.seed)
    torch.set_num_threads(1)  # tensors this small lose more to threads than they gain
    recipe = replace(RECIPES["best"], epochs=options.epochs, learning_rate=2e-3, precision="fp32", seed=options.seed)
    result = train(model, split.train, split.validation, recipe, progress=sys.stderr.isatty(), on_epoch=tell)
    print(f"kept epoch {result.best_epoch}, the best on validation\n")

    show_metrics(model, world, split)
    users = [0, 1, 2]
    histories = [model.vocabulary.decode(split.test.histories[user]) for user in users]
    found = model.recommend(histories, k=5)
    truth = world.next_item_probabilities([world.items.encode(history) for history in histories])
    probabilities = [dict(zip(world.items.ids, row.tolist(), strict=True)) for row in truth]
    show_recommendations(histories, found, probabilities)
    print("\nThe spread is over ten noise draws: how much a score depends on the noise, no error bar. How open the")
    print("future is, the probabilities say, as far as they have been learned: the truth stands beside them.")
    options.out.mkdir(parents=True, exist_ok=True)
    picture = options.out / "demo.png"
    limits = {
        "best possible": world.best_metrics(split.validation)["ndcg@10"],
        "popularity": evaluate_popularity(split.validation.histories, split.validation).metrics()["ndcg@10"],
    }
    draw(picture, result, limits, histories, found, probabilities)
    print(f"\nThe training curve and the recommendations are drawn in {picture}")
    log = options.out / "log.csv"
    write_log(log, interactions)
    model.save_pretrained(options.out / "model")
    print(f"The log is in {log}, the model in {options.out / 'model'}, for the diffrec command to try")


def write_log(path: Path, interactions: Interactions) -> None:
    """A file as ``diffrec`` and ``read_interactions`` read it."""
    users = interactions.user_vocabulary.decode(interactions.users)
    items = interactions.item_vocabulary.decode(interactions.items)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time"])
        rows.writerows(zip(users, items, interactions.times.tolist(), strict=True))


def tell(record: dict[str, float]) -> None:
    """One line an epoch."""
    print(
        f"epoch {record['epoch']:>2}  recommendation loss {record['recommendation']:.3f}  "
        f"validation NDCG@10 {record['validation_ndcg@10']:.4f}"
    )


def show_metrics(model: DiffRec, world: SyntheticWorld, split: Split) -> None:
    """The model between popularity and the optimum, on the test items, the history left out of the ranking."""
    optimum = world.best_metrics(split.test)
    rows = {
        "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
        "DiffRec": evaluate(model, split.test).metrics(),
        "best possible": optimum,
    }
    table = Table("", *(name.upper() for name in optimum), title="Test", title_justify="left")
    for name, metrics in rows.items():
        table.add_row(name, *(f"{metrics[key]:.3f}" for key in optimum))
    Console().print(table)


def show_recommendations(
    histories: list[list[Any]], found: Recommendations, probabilities: list[dict[Any, float]]
) -> None:
    """Each user's list with the model's probability, its spread over ten noise draws, and the truth."""
    for number, history in enumerate(histories):
        print(f"\nafter ..., {', '.join(history[-3:])}")
        table = Table("item", "probability", "spread", "truth")
        for item, score, spread in found[number]:
            table.add_row(str(item), f"{score:.3f}", f"{spread:.4f}", f"{probabilities[number][item]:.3f}")
        Console().print(table)


def draw(
    path: Path,
    result: TrainingResult,
    limits: dict[str, float],
    histories: list[list[Any]],
    found: Recommendations,
    probabilities: list[dict[Any, float]],
) -> None:
    """The training curve on top, a bar chart a user below."""
    import matplotlib as mpl  # noqa: PLC0415 - choosing the backend comes before pyplot

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplot_mosaic(
        [["curve"] * len(histories), list(range(len(histories)))], figsize=(11, 7), layout="constrained"
    )
    epochs = [record["epoch"] for record in result.history]
    curve = axes["curve"]
    curve.plot(epochs, [record["recommendation"] for record in result.history], color="tab:blue")
    curve.set(xlabel="epoch", ylabel="training loss", title="Training")
    curve.yaxis.label.set_color("tab:blue")
    score = curve.twinx()
    score.plot(epochs, [record["validation_ndcg@10"] for record in result.history], color="tab:orange")
    for name, value in limits.items():
        score.axhline(value, color="tab:orange", linestyle=":")
        score.annotate(name, (epochs[-1], value), ha="right", va="bottom", color="tab:orange")
    score.set_ylabel("validation NDCG@10", color="tab:orange")
    score.set_ylim(0, 1.15 * limits["best possible"])
    for number, history in enumerate(histories):
        rows = found[number][::-1]
        items = [str(item) for item, _, _ in rows]
        bars = axes[number]
        bars.barh(items, [s for _, s, _ in rows], color="tab:blue", label="model")
        bars.plot([probabilities[number][item] for item, _, _ in rows], items, "D", color="black", label="truth")
        bars.set(title=f"after {', '.join(history[-2:])}", xlabel="probability")
    axes[0].legend(loc="lower right")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
