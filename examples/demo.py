"""Train a small DiffRec on a synthetic world and compare it with the best that anyone could do there.

The world's next-item distribution is known in closed form, and so are the best reachable HR and NDCG. The demo prints
and draws three things: the model between popularity and the best possible, reverse chains through the item space for
one user, and the user's list beside the true probabilities. It keeps the log and the model for the ``diffrec`` command.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from _style import GREY, STYLE
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from torch import Tensor

from diffusers_rec import DDIMSampler, DiffRec, Interactions, SamplerStep, Split, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES, train

CHAINS = 300
USER = 0


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"), help="folder for pictures, log and model")
    parser.add_argument("--users", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    world = SyntheticWorld(num_items=200, seed=options.seed)
    interactions = world.sample(options.users, seed=options.seed)
    split = interactions.sequences().leave_one_out()
    print(f"{interactions.statistics()}\n")

    model = best(split.train.vocabulary, dropout=0.2, seed=options.seed)
    torch.set_num_threads(1)  # tensors this small lose more to threads than they gain
    recipe = replace(RECIPES["best"], epochs=options.epochs, learning_rate=2e-3, precision="fp32", seed=options.seed)
    train(model, split.train, split.validation, recipe, progress=sys.stderr.isatty(), on_epoch=print_epoch)

    history = model.vocabulary.decode(split.test.histories[USER])
    scores = compare(model, world, split)
    chains = sample_chains(model, history)
    recommended = {item: probability for item, probability, _ in model.recommend([history], k=8)[0]}
    probabilities = world.next_item_probabilities([world.items.encode(history)])[0]
    truth = dict(zip(world.items.ids, probabilities.tolist(), strict=True))
    print("\nTest items, all items ranked, seen items excluded:")
    print_scores(scores)
    print(f"\nOne user, after ..., {', '.join(history[-3:])}")
    print(f"{len(chains.ends)} of {CHAINS} reverse chains end on unseen items:")
    print_beside_truth("share", chains.shares(), truth)
    print("The recommended items, seen items excluded:")
    print_beside_truth("probability", recommended, truth)

    options.out.mkdir(parents=True, exist_ok=True)
    draw(options.out, model, scores, chains, recommended, truth)
    write_log(options.out / "log.csv", interactions)
    model.save_pretrained(options.out / "model")
    print(f"\n{options.out} contains demo.png, chains.png, and log.csv and model for the diffrec command.")


def print_epoch(record: dict[str, float]) -> None:
    """One line an epoch."""
    print(f"epoch {record['epoch']:>2}  validation NDCG@10 {record['validation_ndcg@10']:.4f}")


def compare(model: DiffRec, world: SyntheticWorld, split: Split) -> dict[str, dict[str, float]]:
    """Metrics on the test items, seen items excluded: of popularity, of the model, and the best possible ones."""
    return {
        "popularity": evaluate_popularity(split.test.histories, split.test).metrics(),
        "DiffRec": evaluate(model, split.test).metrics(),
        "best possible": world.best_metrics(split.test),
    }


@dataclass(frozen=True)
class Chains:
    """S reverse chains for one history, those that end on one of its items left out.

    Attributes:
        paths: Latents after each step, ``(N, S, D)``.
        ends: Raw id of the item that each chain ends on, S.
    """

    paths: Tensor
    ends: list[Hashable]

    def shares(self) -> dict[Hashable, float]:
        """Share of the chains that end on an item, for the eight most frequent items."""
        return {item: count / len(self.ends) for item, count in Counter(self.ends).most_common(8)}


def sample_chains(model: DiffRec, history: list[Any]) -> Chains:
    """Reverse chains from noise to items, by the exact posterior of what the trained network predicts.

    The posterior uses the network at n = N alone, where nothing is left of an item under any schedule. The cosine
    schedule, whose first step is nearly clean, separates items that lie close together.
    """
    posterior = {"name": "posterior", "num_candidates": len(model.vocabulary)}
    sampler = model.replace(denoiser=posterior, schedule={"name": "cosine", "log_snr_shift": 0.0})
    path: list[Tensor] = []

    def keep(step: SamplerStep) -> None:
        path.append(step.xn[0, :, 0])

    sampler.sample([history], seeds=CHAINS, sampler=DDIMSampler(num_steps=250), callback=keep)
    nearest = torch.cdist(path[-1], item_latents(model)).argmin(-1)
    ends = model.vocabulary.decode(nearest.tolist())
    unseen = [chain for chain, item in enumerate(ends) if item not in history]
    return Chains(torch.stack(path)[:, unseen], [ends[chain] for chain in unseen])


@torch.no_grad()
def item_latents(model: DiffRec) -> Tensor:
    """The clean latents of all items, ``(V, D)``."""
    return model.embedding.table()


def print_scores(scores: dict[str, dict[str, float]]) -> None:
    """One row a ranking, one column a metric."""
    names = list(scores["best possible"])
    table = Table("", *(name.upper() for name in names))
    for ranking, metrics in scores.items():
        table.add_row(ranking, *(f"{metrics[name]:.3f}" for name in names))
    Console().print(table)


def print_beside_truth(column: str, shares: dict[Hashable, float], truth: dict[Hashable, float]) -> None:
    """One row an item: what the model gives it, and its true probability."""
    table = Table("item", column, "truth")
    for item, share in shares.items():
        table.add_row(str(item), f"{share:.3f}", f"{truth[item]:.3f}")
    Console().print(table)


def draw(
    folder: Path,
    model: DiffRec,
    scores: dict[str, dict[str, float]],
    chains: Chains,
    recommended: dict[Hashable, float],
    truth: dict[Hashable, float],
) -> None:
    """``demo.png`` with the three things, and ``chains.png`` with the chains alone."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.4), layout="constrained")
        panels = [["scores", "chains"], ["list", "chains"]]
        axes = figure.subplot_mosaic(panels, width_ratios=[1, 1.5], height_ratios=[1, 1.8])
        draw_scores(axes["scores"], scores)
        draw_list(axes["list"], recommended, truth)
        draw_chains(axes["chains"], model, chains, truth)
        figure.savefig(folder / "demo.png")
        figure = Figure(figsize=(6, 4.2), layout="constrained")
        draw_chains(figure.subplots(), model, chains, truth)
        figure.savefig(folder / "chains.png", dpi=200)


def draw_scores(axis: Any, scores: dict[str, dict[str, float]]) -> None:
    """A line for each metric, with popularity, the model and the best possible on it."""
    for row, metric in enumerate(("hr@10", "ndcg@10")):
        low, reached, high = (metrics[metric] for metrics in scores.values())
        axis.plot([low, high], [row, row], color=GREY, lw=1)
        axis.plot(low, row, "o", color=GREY, ms=8, label="popularity")
        axis.plot(reached, row, "o", color="C0", ms=8, label="DiffRec")
        axis.plot(high, row, "D", color="C1", ms=7, label="best possible")
        words = f"{reached / high:.0%} of the best possible"
        axis.annotate(words, (high, row), (9, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks([0, 1], ["HR@10", "NDCG@10"])
    axis.set(ylim=(-0.6, 2.4), xlim=(0, 1), title="All users")
    handles, labels = axis.get_legend_handles_labels()
    axis.legend(handles[:3], labels[:3], loc="upper left", ncols=3)


def draw_list(axis: Any, recommended: dict[Hashable, float], truth: dict[Hashable, float]) -> None:
    """The recommended items from the top: the model's probability and the true one."""
    items = list(recommended)
    rows = range(len(items))
    axis.hlines(rows, list(recommended.values()), [truth[item] for item in items], color=GREY, lw=1)
    axis.plot(list(recommended.values()), rows, "o", color="C0", ms=7, label="model")
    axis.plot([truth[item] for item in items], rows, "D", color="C1", ms=6, label="truth")
    axis.set_yticks(rows, items)
    axis.invert_yaxis()
    axis.set(xlim=(0, None), xlabel="probability to come next", title="One user: recommended items")
    axis.legend()


def draw_chains(axis: Any, model: DiffRec, chains: Chains, truth: dict[Hashable, float]) -> None:
    """Chains in the plane in which the items that they end on differ most, coloured by the item."""
    latents = item_latents(model)
    shares = dict(list(chains.shares().items())[:6])
    reached = latents[model.vocabulary.encode(list(shares))]
    plane = torch.linalg.svd(reached - reached.mean(0), full_matrices=False).Vh[:2].T
    colors = {item: f"C{number}" for number, item in enumerate(shares)}
    axis.plot(*(latents @ plane).T, "o", color=GREY, ms=3, alpha=0.4, mew=0)
    for path, item in zip((chains.paths @ plane).transpose(0, 1), chains.ends, strict=True):
        if item in colors:
            axis.plot(*path.T, color=colors[item], lw=0.8, alpha=0.6)
    for (item, share), place in zip(shares.items(), reached @ plane, strict=True):
        label = f"{item}: {share:.0%}, truth {truth[item]:.0%}"
        axis.plot(*place, "o", color=colors[item], ms=10, label=label)
    axis.set(title="One user: reverse chains from noise to items", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, title="share of the chains that end on an item")


def write_log(path: Path, interactions: Interactions) -> None:
    """A file as ``diffrec`` and ``read_interactions`` read it."""
    users = interactions.user_vocabulary.decode(interactions.users)
    items = interactions.item_vocabulary.decode(interactions.items)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user", "item", "time"])
        rows.writerows(zip(users, items, interactions.times.tolist(), strict=True))


if __name__ == "__main__":
    main()
