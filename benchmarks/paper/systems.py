"""The plain systems of Table 2, trained here: each by its paper's recipe and by one common recipe.

The common recipe is that of the control of ``best``: the same width of latents, window, dropout, batches, epochs and
learning rate for all, with a cross-entropy over all items and a tied head in place of a system's own. Its encoder and
its further losses stay; STOSA keeps its head of distances. A training ends after its epochs, or at the time limit.
Printed rows, and rows of other programs, stand beside.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.field.accuracy import RIVALS, draw_panels, rivals
from benchmarks.field.settings import PRINTED, PresetTrial, add_limit, limit_of, limited, minutes_of, split_of
from benchmarks.harness import Results, Row, argument_parser, command
from benchmarks.paper.options import add_trial_options, parse_trials, seeds_of
from benchmarks.paper.rows import published
from benchmarks.paper.running import run
from benchmarks.paper.settings import BEST, DATASETS, best_with
from benchmarks.paper.trial import Trial
from diffusers_rec import DiffRec, Recommender, Vocabulary

DIFFREC = "DiffRec"
COMMON = "-common"
STYLES: dict[str, dict[str, Any]] = {
    "printed": {"color": "C7", "marker": "o", "mfc": "none"},
    "its paper's recipe": {"color": "C1", "marker": "s"},
    "common recipe": {"color": "C0", "marker": "o"},
}
RANKING = ("cross-entropy", "bpr", "sampled-bce", "separation")
"""Losses that the cross-entropy of the common recipe replaces."""

WITHOUT_COMMON = ("mfgan",)
"""Systems whose model by the common recipe is another's: MFGAN differs from SASRec in its ranking loss alone."""

ENCODERS = {"bert4rec": {"name": "bidirectional-transformer"}}
"""Encoders of systems that predict items at blanks, and have no history encoder."""


@dataclass(frozen=True)
class CommonTrial(PresetTrial):
    """A system by the common recipe."""

    def build(self, items: Vocabulary, seed: int) -> Recommender:
        """The untrained model."""
        return common(super().build(items, seed), self.model["preset"], self.dataset)


def common(model: DiffRec, name: str, dataset: str) -> DiffRec:
    """A system by the common recipe: its encoder and its further losses, with the rest of ``best``."""
    arguments, _ = BEST[dataset]
    config = model.config()
    encoder = ENCODERS.get(name) or config["denoiser"]["encoder"]
    own = {key: value for key, value in encoder.items() if key not in ("dim", "max_length", "seed")}
    distances = config["head"]["name"] == "wasserstein"  # its encoder is made for them
    terms = [term for term in config["objective"].get("terms", ()) if term["name"] not in RANKING]
    return DiffRec(
        model.vocabulary,
        dim=arguments["dim"],
        max_length=arguments.get("max_length", 50),
        embedding={"name": "table", "scale": "learned" if distances else "unit", "init_std": 0.02},
        denoiser={"name": "plain", "encoder": {**own, "dropout": arguments.get("dropout", 0.5)}},
        head="wasserstein" if distances else "tied",
        objective={"name": "weighted", "terms": ["cross-entropy", *terms]},
        sampler="one-step",
        seeds=1,
        seed=model.seed,
    )


def trials(dataset: str) -> dict[str, Trial]:
    """Every system by its own and by the common recipe, by name."""
    found: dict[str, Trial] = {}
    for name in PRINTED:
        found[name] = PresetTrial.of(name, dataset)
        if name not in WITHOUT_COMMON:
            training = replace(best_with(dataset).training, precision="auto")
            found[f"{name}{COMMON}"] = CommonTrial(f"{name}{COMMON}", dataset, {"preset": name}, training, {})
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    add_limit(parser)
    names = list(trials("beauty"))
    parser.add_argument("--models", nargs="+", default=names, choices=names, metavar="MODEL", help="; ".join(names))
    options = parse_trials(parser, argv)
    results = Results("systems", options, place=place)
    for dataset in options.datasets:
        for row in (*rivals(dataset), *measure(dataset, options)):
            results.add(row)
        results.write(draw)  # after each data set, so that finished ones are recorded


def measure(dataset: str, options: argparse.Namespace) -> Iterator[Row]:
    """The printed rows of DiffRec and of each system, then those of its trainings."""
    split, by_name, options = split_of(dataset, options), trials(dataset), limited(dataset, options)
    yield from published(dataset, DIFFREC)
    for name in options.models:
        trial = by_name[name]
        yield from published(dataset, PRINTED[trial.model["preset"]])
        for seed in seeds_of(options):
            for row in run(trial, split, seed, options, callbacks=limit_of(dataset, options)):
                yield row | {"minutes": minutes_of(dataset, options)}


def draw(path: Path, rows: plots.Rows) -> None:
    """NDCG@10 of each system as printed, by its own recipe and by the common one; a panel per data set."""
    printed = {name: system for system, name in PRINTED.items()}

    def spot(row: Row) -> tuple[str, str]:
        if row["model"] in printed:
            return "printed", row["model"]
        kind = "common recipe" if row["model"].endswith(COMMON) else "its paper's recipe"
        return kind, PRINTED.get(row["model"].removesuffix(COMMON), "")

    draw_panels(path, rows, list(printed), STYLES, spot)


ORDER = (
    *RIVALS,
    DIFFREC,
    *(name for system, printed in PRINTED.items() for name in (printed, system, f"{system}{COMMON}")),
)
"""Rows of a data set in the order of the table."""


def place(row: Row) -> tuple[Any, ...]:
    """The order of the table: by data set; the rivals, then each system's printed row, its own and the common one.

    A new training takes the place of an earlier one, whatever its limit.
    """
    seed = str(row.get("trained_seed", ""))
    return DATASETS.index(row["dataset"]), ORDER.index(row["model"]), seed.zfill(9), row["history"]


if __name__ == "__main__":
    command(main)
