"""Joint likelihood of the next K items, and of an item left out between known ones, in nats an item.

Every model is asked for the same test items. ``left to right`` asks for the next item K times, and ``any order``
is the mean over random orders. ``factorised`` takes each item given the history alone. The gap is the middle item.
In ``one encoding`` the known items stay in the query; else those that follow the history without a gap join it. A
``tempered`` rival has the temperature that is best on validation.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import plots
from benchmarks.generation.bert import gap_in_window
from benchmarks.generation.setting import MODELS, add_options, data_name, epochs_of, setting_of, split_of, trained
from benchmarks.generation.tempered import tempered
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import DiffRec, Holdout, Recommender, Split, TransitionMemory
from diffusers_rec.evaluation import evaluate_gap, evaluate_joint
from diffusers_rec.evaluation.joint import GapReport


def draw(path: Path, rows: list[dict[str, str]]) -> None:
    """Nats an item, seen items left out."""
    shown = [row for row in rows if row["seen"] == "excluded" and row["nats"]]
    plots.dots(path, shown, names=["question", "model", "order"], panels={"nats": "nats per item"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=1500, help="test users to look at")
    parser.add_argument("--orders", type=int, default=4, help="random orders per user")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=("control", "longer", "joint", "bert4rec"))
    options = parse(parser, argv)
    results = Results(f"likelihood-{data_name(options)}", options, place=place)
    split, k = split_of(options), setting_of(options).k
    test, validation = (part.sample(options.users, options.seed) for part in (split.test, split.validation))
    for name in options.models:
        model = trained(name, split, options).without_memory()
        for exclude_seen in (True, False):
            if name != "bert4rec":
                joint_likelihood(results, name, model, test, k, exclude_seen, options)
            gap(results, name, model, test, k, exclude_seen, options)
            if name in ("control", "longer"):
                joint_likelihood(
                    results, f"{name}, tempered", tempered(model, validation, exclude_seen=exclude_seen),
                    test, k, exclude_seen, options,
                )  # fmt: skip
    neighbours(results, split, test, k, options)
    marks(results, k, options.seed)
    results.write(draw)


def marks(results: Results, k: int, seed: int) -> None:
    """What the joint model reaches beside its rivals, seen items left out; those rivals that are in the table."""
    nats = {
        (row["question"], row["model"], row["order"]): row
        for row in results.table()
        if row["seen"] == "excluded" and str(row["seed"]) == str(seed)
    }
    if not {"control", "joint"} <= {model for _, model, _ in nats}:
        return

    def of(question: str, model: str, order: str, column: str = "nats") -> float:
        return float(nats[question, model, order][column])

    factorised = of(f"next {k}", "joint", "factorised")
    for rival in ("control", "longer", "control, tempered", "longer, tempered"):
        roll_out = f"{rival} roll_out".removeprefix("control ").replace(", ", "_").replace(" ", "_")
        if (f"next {k}", rival, "left to right") not in nats:
            continue
        rolled = of(f"next {k}", rival, "left to right")
        for words, target in (("left to right", "<= 0.03"), ("any order", "<= 0.06")):
            for encodings in ("",) if rival.endswith("tempered") else ("", ", one encoding"):
                name = f"{words}{encodings}".replace(", ", "_").replace(" ", "_")
                found = of(f"next {k}", "joint", f"{words}{encodings}")
                results.ratio(f"{name}_above_{roll_out}_nats", found - rolled, target)
                if not rival.endswith("tempered") and rolled < factorised:  # else there is no distance to close
                    closed = (factorised - found) / (factorised - rolled)
                    results.ratio(f"{name}_distance_to_{roll_out}_closed", closed, ">= 0.85")
    for rival, sides in (("control", "left side"), ("longer", "left side"), ("bert4rec", "both sides")):
        joint, other = ("gap", "joint", "both sides"), ("gap", rival, sides)
        if other in nats:
            least, most = (">= 0", ">= 1") if rival == "bert4rec" else (">= 0.15", ">= 1.10")
            results.ratio(f"gap_both_sides_below_{rival}_nats", of(*other) - of(*joint), least)
            results.ratio(f"gap_both_sides_hr@10_over_{rival}", of(*joint, "hr@10") / of(*other, "hr@10"), most)


def place(row: dict[str, object]) -> tuple[str, ...]:
    """Where a row stands in the table."""
    return tuple(str(row[key]) for key in ("dataset", "question", "seen", "model", "order", "seed"))


def joint_likelihood(
    results: Results,
    name: str,
    model: Recommender,
    test: Holdout,
    k: int,
    exclude_seen: bool,
    options: argparse.Namespace,
) -> None:
    """The next k items by the chain rule."""
    orders = {"left to right": ("left-to-right", True)}
    if name == "joint":
        orders |= {
            "left to right, one encoding": ("left-to-right", False),
            "any order": ("random", True),
            "any order, one encoding": ("random", False),
            "factorised": ("factorised", True),
        }
    for words, (order, join) in orders.items():
        found = evaluate_joint(
            model, test, k, order, orders=options.orders, join=join, exclude_seen=exclude_seen, seed=options.seed
        )
        add(results, f"next {k}", name, words, exclude_seen, -found / k, options)


def gap(
    results: Results, name: str, model: DiffRec, test: Holdout, k: int, exclude_seen: bool, options: argparse.Namespace
) -> None:
    """The middle item of the k, with what is left of it known, and with both sides known."""
    middle = k // 2
    sides = {"left side": list(range(middle))}
    if model.denoiser.prediction == "items":
        sides["both sides"] = [place for place in range(k) if place != middle]
    for words, known in sides.items():
        if name == "bert4rec":
            found = gap_in_window(model, test, middle, known, exclude_seen=exclude_seen)
        else:  # all leave out the same items, whether or not they see them
            others = [each for each in range(k) if each != middle]
            found = evaluate_gap(model, test, middle, known, excluded=others, exclude_seen=exclude_seen)
        add(results, "gap", name, words, exclude_seen, -found.log_probabilities, options, found)


def neighbours(results: Results, split: Split, test: Holdout, k: int, options: argparse.Namespace) -> None:
    """Item-to-item from both neighbours of the gap: how often each item came near the two, in either direction."""
    num_items, middle = len(split.train.vocabulary), k // 2
    memory = TransitionMemory(num_items, backward=1.0, neighbours=num_items)
    memory.fit(split.train)
    table = np.zeros((num_items, num_items), np.float32)
    np.add.at(table, (np.arange(num_items)[:, None], memory.items.numpy()), memory.counts.numpy())
    for exclude_seen in (True, False):
        ranks = []
        for user in range(len(test)):
            items = test.following[user]
            scores = table[items[middle - 1]] + table[items[middle + 1]]
            if exclude_seen:
                scores[test.histories[user]] = -1
                scores[np.delete(items, middle)] = -1
            ranks.append(int((scores >= scores[items[middle]]).sum()))
        report = GapReport(np.full(len(test), np.nan), np.array(ranks))
        add(results, "gap", "item-to-item", "both sides", exclude_seen, report.log_probabilities, options, report)


def add(
    results: Results,
    question: str,
    model: str,
    order: str,
    exclude_seen: bool,
    nats: np.ndarray,
    options: argparse.Namespace,
    report: GapReport | None = None,
) -> None:
    """One row: the mean and its standard error over the users."""
    row: dict[str, object] = {
        "dataset": data_name(options),
        "question": question,
        "seen": "excluded" if exclude_seen else "kept",
        "model": model,
        "order": order,
        "users": len(nats),
    }
    if np.isfinite(nats).all():  # item-to-item gives no probabilities
        row |= {"nats": float(nats.mean()), "nats_noise": float(nats.std() / len(nats) ** 0.5)}
    if report is not None:
        row["hr@10"] = report.hit_rate(10)
    base = model.removesuffix(", tempered")
    results.add(row | {"epochs": epochs_of(base, options) if base in MODELS else ""})


if __name__ == "__main__":
    command(main)
