"""The steering dial: the share of a wanted genre in slates of five, against what it costs.

The wanted attribute is the commonest of those that at most a quarter of the actions have. The guide ``attribute``
steers the joint model. One rival tilts each step of a rolled-out next-item model in the same way. Another ranks the
control's items again by a mean of probability and attribute, one list a user. The last three rows ask for three of
five: by the guide for sets, by the tilt whose mean on validation is three, and by the three best items with it and
the two best without. ``recall`` is that of a sample. ``nats`` is the mean negative log-probability of the items of a
slate, one by one, under the control without steering.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks import plots
from benchmarks.generation.rollout import next_item, roll_out
from benchmarks.generation.samples import metrics, seeded, slates
from benchmarks.generation.setting import add_options, data_name, setting_of, split_of, trained, world_of
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import DiffRec, Holdout, Split, Vocabulary

SCALES = (0.0, 0.5, 1.0, 2.0, 4.0)


def draw(path: Path, rows: list[dict[str, str]]) -> None:
    """Share and recall of every way."""
    panels = {
        "share": "share of the attribute",
        "recall": "recall of one sample",
        "deviation": "distance from the wanted count",
    }
    plots.dots(path, rows, names=["way", "dial"], panels=panels)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=300, help="test users to look at")
    parser.add_argument("--draws", type=int, default=10, help="slates per user")
    options = parse(parser, argv)
    results = Results(f"steering-{data_name(options)}", options)
    split, k = split_of(options), setting_of(options).k
    test = split.test.sample(options.users, options.seed)
    joint, control = (trained(name, split, options).without_memory() for name in ("joint", "control"))
    name, has = attribute_of(split, options)
    wanted, scores = round(0.6 * k), next_item(control, list(test.histories))

    def add(way: str, dial: str, items: Tensor) -> None:
        count = has[items].sum(-1).double()
        row = {"dataset": data_name(options), "attribute": name, "way": way, "dial": dial, "users": len(test)}
        found = {"share": float(count.mean() / k), "deviation": float((count - wanted).square().mean().sqrt())}
        results.add(row | found | {key: value for key, value in metrics(items, test, k).items() if key == "recall"}
                    | {"nats": nats_of(scores, items)})  # fmt: skip

    def steered(settings: dict[str, object]) -> Tensor:
        guidance = {"name": "attribute", "values": has.double(), **settings}
        return slates(joint, test, k, {"name": "unmask"}, options, guidance)

    for scale in SCALES:
        add("joint", f"scale {scale:g}", steered({"scale": scale}))
        tilted = roll_out(control, test.histories, k, options.draws, seeded(options), tilt=scale * has.double())
        add("control, tilted", f"scale {scale:g}", tilted)
        add("control, re-ranked", f"weight {scale / 4:g}", re_ranked(scores, has, k, scale / 4))
    add("joint", f"{wanted} of {k}", steered({"count": wanted}))
    scale = scale_for(control, split.validation.sample(options.users, options.seed), has, wanted / k)
    add("control, tilted", f"mean {wanted} of {k}",
        roll_out(control, test.histories, k, options.draws, seeded(options), tilt=scale * has.double()))  # fmt: skip
    add("control, best of both", f"{wanted} of {k}", best_of_both(scores, has, wanted, k))
    marks(results, wanted, k)
    results.write(draw)


def marks(results: Results, wanted: int, k: int) -> None:
    """How far the count is from the wanted one, root mean square."""
    rows = {(row["way"], row["dial"]): row for row in results.rows}
    for way, dial in (("joint", f"{wanted} of {k}"), ("control, tilted", f"mean {wanted} of {k}")):
        name = way.replace(", ", "_")
        results.ratio(f"{name}_distance_from_the_wanted_count", rows[way, dial]["deviation"])
        results.ratio(f"{name}_recall_at_the_wanted_count", rows[way, dial]["recall"])


def attribute_of(split: Split, options: argparse.Namespace) -> tuple[str, Tensor]:
    """The commonest attribute of at most a quarter of the actions, and which items have it, ``(V,)``."""
    vocabulary, items = split.train.vocabulary, split.train.items
    tags = tags_of(vocabulary, options)
    counts: dict[str, int] = {}
    occurrences = np.bincount(items, minlength=len(vocabulary))
    for item, own in enumerate(tags):
        for tag in own:
            counts[tag] = counts.get(tag, 0) + int(occurrences[item])
    name = max((tag for tag in counts if counts[tag] <= len(items) / 4), key=lambda tag: (counts[tag], tag))
    return name, torch.tensor([name in own for own in tags])


def tags_of(vocabulary: Vocabulary, options: argparse.Namespace) -> list[set[str]]:
    """Attributes of the items: genres, or categories and brands; in a synthetic world the group and a last digit."""
    if options.quick:
        world = world_of(options)
        groups = world.groups[world.items.encode(vocabulary.ids)]
        return [{str(int(item[-1]) % 5), f"group {own}"} for item, own in zip(vocabulary.ids, groups, strict=True)]
    if options.dataset == "ml-1m":
        with (options.data_dir / "ml-1m_items.csv").open(newline="", encoding="utf-8") as file:
            found = {row["item"]: set(row["genres"].split("|")) for row in csv.DictReader(file)}
    else:
        stored = json.loads((options.data_dir / f"{options.dataset}_attributes.json").read_text(encoding="utf-8"))
        found = {item: set(map(str, own)) for item, own in stored.items()}
    return [found.get(str(item), set()) for item in vocabulary.ids]


def nats_of(scores: Tensor, items: Tensor) -> float:
    """Mean negative log-probability of the items of slates ``(U, S, K)`` as the next item."""
    return float(-scores.gather(1, items.flatten(1)).mean())


def re_ranked(scores: Tensor, has: Tensor, k: int, weight: float) -> Tensor:
    """One list a user: the k best by a weighted mean of the probability and the attribute, ``(U, 1, K)``."""
    probabilities = scores.exp()
    mixed = (1 - weight) * probabilities / probabilities.amax(1, keepdim=True) + weight * has.double()
    return mixed.masked_fill(probabilities == 0, -1.0).topk(k, dim=1).indices[:, None]


def best_of_both(scores: Tensor, has: Tensor, wanted: int, k: int) -> Tensor:
    """One list a user: the best items with the attribute, as many as wanted, and the best without, ``(U, 1, K)``."""
    parts = [(has, wanted), (~has, k - wanted)]
    best = [scores.masked_fill(~chosen, -torch.inf).topk(number, dim=1).indices for chosen, number in parts]
    return torch.cat(best, dim=1)[:, None]


def scale_for(model: DiffRec, test: Holdout, has: Tensor, share: float) -> float:
    """The tilt with which the next item has the attribute with this probability, on average over the users."""
    scores = next_item(model, list(test.histories)).double()
    low, high = -10.0, 10.0
    for _ in range(40):
        middle = (low + high) / 2
        found = float(((scores + middle * has.double()).softmax(-1) * has).sum(-1).mean())
        low, high = (middle, high) if found < share else (low, middle)
    return (low + high) / 2


if __name__ == "__main__":
    command(main)
