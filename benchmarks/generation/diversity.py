r"""Diversity at equal NDCG: intra-list distance and coverage against temperature and MMR.

Lists of K items for each user, from four ways with a dial each:

- ``joint``: slates of the joint model, by temperature;
- ``control, drawn``: draws without replacement from the control's next-item distribution, by temperature;
- ``control, rolled out``: the control's next items, one after another, by temperature;
- ``control, MMR``: maximal marginal relevance (Carbonell and Goldstein 1998) among the control's 100 likeliest items.
  The next item of a list L maximises, with the probabilities p and the Jaccard similarity J of the attributes,

  .. math:: \lambda\, p_v / \max_w p_w - (1 - \lambda) \max_{w \in L} J(v, w).

MMR is the strongest rival, because the diversity is measured by the same attributes. It gives one list a user, as does
temperature 0, the likeliest list. All other settings give ``--draws`` lists. Seen items are left out, and no item comes
twice in a list.

``recall`` and ``ndcg`` compare a list, in its own order, with the K items that followed. ``distance`` is the mean
Jaccard distance of the pairs in a list. ``coverage`` counts one list a user. Each ratio is a mean over the settings of
``joint`` whose NDCG lies in the rival's range, where the rival's curve is interpolated. Without such a setting there is
no ratio.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks import plots
from benchmarks.generation.rollout import next_item, roll_out
from benchmarks.generation.samples import ROLL_OUT, USERS_AT_ONCE, seeded, slates
from benchmarks.generation.setting import add_options, data_name, setting_of, split_of, trained
from benchmarks.generation.steering import tags_of
from benchmarks.harness import Results, Row, argument_parser, command, parse
from diffusers_rec import AttributeBags, Holdout, attribute_bags
from diffusers_rec.evaluation import coverage, diversity, ndcg, recall
from diffusers_rec.evaluation.lists import jaccard_distances

TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0)
LAMBDAS = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
CANDIDATES = 100
"""Number of items that MMR chooses from."""

draw = partial(
    plots.lines,
    x="ndcg",
    panels={"distance": "distance within a list", "coverage": "coverage of the catalogue"},
    by="way",
    log=False,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=300, help="test users to look at")
    parser.add_argument("--draws", type=int, default=10, help="lists per user")
    options = parse(parser, argv)
    results = Results(f"diversity-{data_name(options)}", options)
    split, k = split_of(options), setting_of(options).k
    test = split.test.sample(options.users, options.seed)
    joint, control = (trained(name, split, options).without_memory() for name in ("joint", "control"))
    bags = attribute_bags(joint.vocabulary, [sorted(own) for own in tags_of(joint.vocabulary, options)])
    scores = next_item(control, list(test.histories))

    def add(way: str, dial: str, items: Tensor) -> None:
        row = {"dataset": data_name(options), "way": way, "dial": dial, "users": len(test), "draws": items.shape[1]}
        results.add(row | metrics(items, test, bags, k))

    for temperature in TEMPERATURES:
        dial, draws = f"temperature {temperature:g}", options.draws if temperature else 1
        sampler = {"name": "unmask", "temperature": temperature, "order": "random" if temperature else "confidence"}
        some = argparse.Namespace(**vars(options) | {"draws": draws})
        add("joint", dial, slates(joint, test, k, sampler, some))
        add("control, drawn", dial, without_replacement(scores, k, draws, seeded(options), temperature))
        add(ROLL_OUT, dial, roll_out(control, test.histories, k, draws, seeded(options), temperature=temperature))
    for weight in LAMBDAS:
        add("control, MMR", f"lambda {weight:g}", marginally_relevant(scores, bags, k, weight))
    marks(results)
    results.write(draw)


def marks(results: Results) -> None:
    """Distance and coverage of the joint model over those of each rival at equal NDCG."""
    curves: dict[str, list[Row]] = {}
    for row in results.rows:
        curves.setdefault(row["way"], []).append(row)
    mine = curves.pop("joint")
    for rival, theirs in curves.items():
        name = rival.replace(", ", "_").replace(" ", "_")
        within, means = at_equal_ndcg(mine, theirs)
        results.ratio(f"joint_settings_in_the_ndcg_range_of_{name}", within)
        for number, mean in means.items():
            results.ratio(f"joint_{number}_over_{name}_at_equal_ndcg", mean)


def at_equal_ndcg(mine: list[Row], theirs: list[Row]) -> tuple[int, dict[str, float]]:
    """How many of my settings lie within a rival's range of NDCG, and the mean ratios to its curve there, if any."""
    curve = sorted(theirs, key=lambda row: row["ndcg"])
    places = [row["ndcg"] for row in curve]
    within = [row for row in mine if places[0] <= row["ndcg"] <= places[-1]]
    means = {}
    for number in ("distance", "coverage") if within else ():
        best = np.maximum.accumulate([row[number] for row in curve[::-1]])[::-1]  # of all settings as accurate
        rival = np.interp([row["ndcg"] for row in within], places, best)
        means[number] = float(np.mean([row[number] for row in within] / rival))
    return len(within), means


def metrics(items: Tensor, test: Holdout, bags: AttributeBags, k: int) -> Row:
    """Accuracy and diversity of lists ``(U, S, K)``.

    Slates are sorted by likelihood, so that the first ones are no fair sample. Coverage takes the s-th list of one
    user, the next list of the next user and so on, and is the mean over s.
    """
    truth = torch.from_numpy(np.stack([row[:k] for row in test.following]))
    hit = items[..., None] == truth[:, None, None]  # (U, S, K, K): whether the i-th item is the j-th true one
    ranks = torch.where(hit.any(2), hit.int().argmax(2) + 1, k + 1).flatten()
    owners = torch.arange(len(ranks) // k).repeat_interleave(k)
    users, draws = torch.arange(len(items)), items.shape[1]
    covered = [coverage(items[users, (users + first) % draws], len(bags)) for first in range(draws)]
    return {
        "recall": recall(ranks, k, owners),
        "ndcg": ndcg(ranks, k, owners),
        "distance": diversity(items.flatten(0, 1), bags),
        "coverage": float(np.mean(covered)),
    }


def without_replacement(scores: Tensor, k: int, draws: int, generator: Generator, temperature: float) -> Tensor:
    """Items drawn from softmax(scores / temperature), none twice in a list, by Gumbel top-k, ``(U, S, K)``."""
    noise = (-torch.empty_like(scores).exponential_(generator=generator).log() for _ in range(draws))
    return torch.stack([(scores + temperature * gumbel).topk(k, dim=1).indices for gumbel in noise], dim=1)


def marginally_relevant(scores: Tensor, bags: AttributeBags, k: int, weight: float) -> Tensor:
    """One list a user by maximal marginal relevance, from log-probabilities ``(U, V)``; ``(U, 1, K)``."""
    best = scores.topk(min(CANDIDATES, scores.shape[1]), dim=1)
    relevance = (best.values - best.values[:, :1]).exp()
    similarity = 1 - torch.cat([jaccard_distances(some, bags) for some in torch.split(best.indices, USERS_AT_ONCE)])
    value, nearest = (weight * relevance).masked_fill(best.values.isneginf(), -torch.inf), torch.zeros_like(relevance)
    chosen: list[Tensor] = []
    for _ in range(k):
        chosen.append((value - (1 - weight) * nearest).argmax(1, keepdim=True))
        value = value.scatter(1, chosen[-1], -torch.inf)
        nearest = torch.maximum(nearest, similarity[torch.arange(len(scores)), chosen[-1][:, 0]])
    return best.indices.gather(1, torch.cat(chosen, 1))[:, None]


if __name__ == "__main__":
    command(main)
