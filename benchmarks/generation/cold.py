"""Cold items: a tenth of the items is removed from training and recommended through attributes.

The models ``attributes`` and ``table+attributes`` compute item vectors from attributes. Their rivals:

- ``table``: a model without attributes; the cold items come last, in random order.
- ``attribute ridge``: its vectors of cold items are predicted by a ridge regression from attributes.
- ``nearest neighbours``: the score of a cold item is the mean log-probability of the ten warm items with the largest
  Jaccard similarity of attributes, weighted by it.
- ``popularity of neighbours``: likewise, with the logarithm of the number of actions.
- ``similarity to the last item``: the Jaccard similarity alone, for all items.

The head's offset of a cold item is the mean of those of the warm items. The networks rank alone, with seen items left
out. Equal scores are put in random order.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from benchmarks import plots
from benchmarks.generation import setting
from benchmarks.generation.attributes import multi_hot, nearest, ridge_regression, similarity
from benchmarks.generation.cold_split import ColdSplit, cold_split_of
from benchmarks.generation.rollout import next_item
from benchmarks.generation.setting import add_options, data_name, fitted, setting_of
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import AttributeBags, AttributeEmbedding, DiffRec, Holdout, ItemEmbedding, SummedEmbedding
from diffusers_rec.data.vocabulary import IndexArray
from diffusers_rec.evaluation import metric_by_user

EMBEDDINGS = ("attributes", "table+attributes")
USERS_AT_ONCE = 256

Score = Callable[[list[IndexArray]], Tensor]
"""Scores of the warm items, then of the cold ones, given histories, ``(B, W + N)``."""

draw = partial(
    plots.dots,
    names=["model", "way"],
    panels={
        "cold_hr@10": "HR@10, cold among cold",
        "all_hr@50": "HR@50, cold among all",
        "warm_ndcg@10": "NDCG@10, warm",
    },
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=3000, help="cold and warm cases to look at, of each")
    parser.add_argument("--models", nargs="+", choices=("control", "best", "joint"), default=("control", "joint"))
    parser.add_argument("--embeddings", nargs="+", choices=EMBEDDINGS, default=EMBEDDINGS)
    options = parse(parser, argv)
    results, data = Results(f"cold-{data_name(options)}", options), cold_split_of(options)
    for name in options.models:
        ways = rivals(trained(name, "table", data, options), data, options.seed)
        for embedding in options.embeddings:
            model = extended(trained(name, embedding, data, options), data, data.new)
            ways[embedding] = partial(next_item, model, exclude_seen=False)
        for way, score in ways.items():
            row = {"dataset": data_name(options), "model": name, "way": way, "cold_items": len(data.new)}
            results.add(row | metrics(score, data, options))
        marks(results, name, options.embeddings)
    results.write(draw)


def marks(results: Results, name: str, embeddings: Sequence[str]) -> None:
    """Attributes beside the best rival, and what they cost the warm items."""
    rows = {row["way"]: row for row in results.rows if row["model"] == name}
    rival = max(row["cold_hr@10"] for way, row in rows.items() if way not in embeddings)
    table = rows["table"]["warm_ndcg@10"]
    for way in embeddings:
        results.ratio(f"{name}_{way}_cold_hr@10_over_best_rival", rows[way]["cold_hr@10"] / rival)
        results.ratio(f"{name}_{way}_warm_ndcg@10_over_table", rows[way]["warm_ndcg@10"] / table)


def trained(name: str, embedding: str, data: ColdSplit, options: argparse.Namespace) -> DiffRec:
    """Train a model with an embedding on the warm items, resume its training, or read it."""
    ranker = trained("control", embedding, data, options) if name == "joint" else None
    model = setting.untrained(name, data.split, setting_of(options), options.seed, ranker)
    if embedding != "table" and ranker is None:
        model = model.replace(embedding=embedding_of(embedding, model, data.bags))
    return fitted(model, name, data.split, options, f"cold-{embedding}-").without_memory()


def embedding_of(name: str, model: DiffRec, bags: AttributeBags) -> ItemEmbedding:
    """One of :data:`EMBEDDINGS`, with the size and the scales of the model's table."""
    dim, table = model.embedding.dim, {key: model.embedding.config()[key] for key in ("scale", "init_std")}
    if name == "attributes":
        return AttributeEmbedding.from_features(bags, dim, **table)
    features = AttributeEmbedding.from_features(bags, dim, init_std=table["init_std"])
    return SummedEmbedding(len(bags), dim, features=features, **table)


def extended(model: DiffRec, data: ColdSplit, features: AttributeBags | None = None) -> DiffRec:
    """The model with the cold items, whose offsets are the mean of those of the items in training."""
    larger, count = model.extend(data.new_items, features).eval(), len(data.bags)
    with torch.no_grad():
        larger.head.offset[count:] = larger.head.offset[:count][data.counts > 0].mean()
    return larger


def rivals(model: DiffRec, data: ColdSplit, seed: int) -> dict[str, Score]:
    """Ways from a model without attributes to scores of cold items."""
    x, count, known = torch.cat([multi_hot(data.bags), multi_hot(data.new)]), len(data.bags), data.counts > 0
    ridge = extended(model, data)
    with torch.no_grad():
        vectors = ridge.embedding.weight
        vectors[count:] = ridge_regression(x[:count][known], vectors[:count][known], x[count:], seed)
    shares = nearest(similarity(x[count:], x[:count]).masked_fill(~known, -1.0))
    popularity = data.counts.clamp(min=1).log().float()

    def with_means(scores: Tensor) -> Tensor:
        return torch.cat([scores, scores @ shares.T], dim=1)

    return {
        "table": lambda histories: F.pad(
            next_item(model, histories, exclude_seen=False), (0, len(data.new)), value=-torch.inf
        ),
        "attribute ridge": partial(next_item, ridge, exclude_seen=False),
        "nearest neighbours": lambda histories: with_means(next_item(model, histories, exclude_seen=False)),
        "popularity of neighbours": lambda histories: with_means(popularity.expand(len(histories), -1)),
        "similarity to the last item": lambda histories: similarity(x[[history[-1] for history in histories]], x),
    }


def metrics(score: Score, data: ColdSplit, options: argparse.Namespace) -> dict[str, float]:
    """Cold items among cold and among all items, and warm items among all."""
    cold, warm = (part.sample(options.users, options.seed) for part in (data.cold, data.warm))
    everywhere, among = ranks(score, cold, [0, len(data.bags)], options.seed)
    found: dict[str, float] = {"cold_users": len(cold), "warm_users": len(warm)}
    for name, places, cutoffs in (
        ("cold", among, ["hr@10", "ndcg@10", "mrr"]),
        ("all", everywhere, ["hr@10", "hr@50", "ndcg@10"]),
        ("warm", ranks(score, warm, [0], options.seed)[0], ["hr@10", "ndcg@10"]),
    ):
        found |= {f"{name}_{metric}": float(metric_by_user(metric, places).mean()) for metric in cutoffs}
    return found


def ranks(score: Score, cases: Holdout, starts: Sequence[int], seed: int) -> Tensor:
    """Rank of each target among the items from each start on, int64 ``(S, U)``; seen items left out."""
    found, generator = [], Generator().manual_seed(seed)
    for start in range(0, len(cases), USERS_AT_ONCE):
        part = cases.take(np.arange(start, min(start + USERS_AT_ONCE, len(cases))))
        scores, place = score(list(part.histories)).clone(), torch.rand(len(part), generator=generator)
        for row, history in enumerate(part.histories):
            scores[row, torch.from_numpy(history)] = torch.nan  # neither above the target nor equal to it
        own = scores.gather(1, torch.from_numpy(part.targets)[:, None])
        above, equal = ([compared[:, first:].sum(1) for first in starts] for compared in (scores > own, scores == own))
        found.append(torch.stack([1 + a + (place * e).long() for a, e in zip(above, equal, strict=True)]))
    return torch.cat(found, dim=1)


if __name__ == "__main__":
    command(main)
