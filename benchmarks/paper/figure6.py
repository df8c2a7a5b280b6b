"""Figure 6: the movies that user 5200 of ML-1M watched, and the five that each of three seeds recommends, with genres.

Each list belongs to one noise draw; the last one averages the three. The lists of one step, which hardly differ in a
model that has learned to rank, are at the top, those of reverse chains at the bottom.
"""

from __future__ import annotations

import argparse
import textwrap
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.harness import Results, Row, argument_parser, at_least, command, read_csv
from benchmarks.paper.options import add_run_options, parse_trials, results_of, sequences_of
from benchmarks.paper.serving import add_model_options, servings, trained_model
from benchmarks.paper.variants import add_figure_options, ratio_name
from diffusers_rec import Split

DATASET = "ml-1m"
WATCHED, NEXT = "watched", "watched next"
SHOWN = 10
"""Last movies of the history in the picture."""

Movies = dict[Hashable, dict[str, str]]
"""Title and genres by item."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_run_options(parser)
    add_figure_options(parser, "best")
    add_model_options(parser)
    parser.add_argument("--user", type=int, default=5200)
    parser.add_argument("--draws", type=at_least(1), default=3, help="number of lists of one noise draw each")
    parser.add_argument("--k", type=at_least(1), default=5, help="number of movies in a list")
    options = parse_trials(parser, argv)
    results = results_of("figure6", options, "best")
    movies: Movies = {int(row["item"]): row for row in read_csv(options.data_dir / f"{DATASET}_items.csv")}
    measure(results, sequences_of(DATASET, options).leave_one_out(), movies, options)
    results.write(draw)


def measure(results: Results, split: Split, movies: Movies, options: argparse.Namespace) -> None:
    """Add the history, the next movie and the lists to the results.

    Raises:
        ValueError: there is no such user, or a movie has no title; both are checked before training.
    """
    users = split.test.histories.users
    if options.user not in users:
        raise ValueError(f"--user {options.user} is none of the {len(users)} users of {DATASET}.")
    user = int(users.encode([options.user])[0])
    if untitled := [item for item in split.train.vocabulary.ids if item not in movies]:
        raise ValueError(f"{DATASET}_items.csv has no row for item {untitled[0]}; {len(untitled)} items lack theirs.")
    model, record = trained_model(DATASET, split, options)
    watched = model.vocabulary.decode(split.test.histories[user])
    (target,) = model.vocabulary.decode(split.test.targets[user : user + 1])
    record = {"user": options.user, **record}

    def add(serving: str, shown: str, items: Sequence[Any], probabilities: Sequence[float] = ()) -> None:
        for place, item in enumerate(items):
            movie = {"title": movies[item]["title"], "genres": movies[item]["genres"], "hit": item == target}
            row: Row = {"serving": serving, "list": shown, "place": place + 1, "item": item, **movie}
            row["probability"] = probabilities[place] if len(probabilities) else ""
            results.add(row | record)

    add("", WATCHED, watched)
    add("", NEXT, [target])
    favourites = favourite_genres([movies[item]["genres"] for item in watched])
    seeds = range(options.seed, options.seed + options.draws)
    for serving, (served_model, sampler) in servings(model, options).items():
        found = []
        for shown, draws in [*((f"seed {seed}", [seed]) for seed in seeds), ("average", list(seeds))]:
            lists = served_model.recommend([watched], options.k, seeds=draws, sampler=sampler)
            add(serving, shown, lists.items[0], lists.scores[0].tolist())
            found += lists.items[0] if len(draws) == 1 else []
        results.ratio(ratio_name(f"{serving} different movies"), len(set(found)))
        liked = [bool(favourites & set(movies[item]["genres"].split("|"))) for item in found]
        results.ratio(ratio_name(f"{serving} share of favourite genres"), float(np.mean(liked)))


def favourite_genres(genres: Sequence[str], count: int = 3) -> set[str]:
    """The most common of genres that are separated by bars."""
    return {name for name, _ in Counter(name for each in genres for name in each.split("|")).most_common(count)}


def draw(path: Path, rows: list[dict[str, str]]) -> None:
    """One column per list; a red frame marks the movie that was watched next."""
    figure = plots.canvas(9.4, 8.2)
    axis = figure.subplots()
    axis.set_axis_off()
    watched = [row for row in rows if row["list"] == WATCHED][-SHOWN:] + [row for row in rows if row["list"] == NEXT]
    column(axis, 0, 0, f"user {watched[0]['user']}\nlast {len(watched) - 1}, then next", watched)
    servings = list(dict.fromkeys(row["serving"] for row in rows if row["serving"]))
    lists = list(dict.fromkeys(row["list"] for row in rows if row["serving"]))
    longest = max(int(row["place"]) for row in rows if row["serving"])
    for block, serving in enumerate(servings):
        for place, name in enumerate(lists):
            cells = [row for row in rows if (row["serving"], row["list"]) == (serving, name)]
            column(axis, place + 1.15, block * (longest + 1), f"{serving}\n{name}", cells)
    axis.set(xlim=(-0.05, len(lists) + 1.2), ylim=(max(len(watched), len(servings) * (longest + 1) - 1), -0.5))
    figure.savefig(path)


def column(axis: Any, left: float, top: float, title: str, rows: list[dict[str, str]]) -> None:
    """Draw movies in one column, each with title and genres."""
    from matplotlib.patches import Rectangle  # noqa: PLC0415 - only drawing needs it

    axis.text(left + 0.47, top - 0.12, title, ha="center", va="bottom", fontsize=9, weight="bold")
    for place, row in enumerate(rows):
        hit = row["hit"] == "True"
        colour, width = ("C4", 2.5) if hit else ("C7", 0.5)
        axis.add_patch(Rectangle((left, top + place), 0.94, 0.86, fc="none", ec=colour, lw=width))
        title_lines = textwrap.wrap(row["title"], 24, max_lines=2, placeholder=" …")
        genre_lines = textwrap.wrap(row["genres"].replace("|", ", "), 28, max_lines=2, placeholder=" …")
        text = {"ha": "left", "va": "top"}
        axis.text(left + 0.03, top + place + 0.1, "\n".join(title_lines), fontsize=8, **text)
        below = top + place + 0.13 + 0.19 * len(title_lines)
        axis.text(left + 0.03, below, "\n".join(genre_lines), fontsize=7, alpha=0.85, **text)


if __name__ == "__main__":
    command(main)
