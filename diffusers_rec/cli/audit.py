"""``diffrec audit``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.cli.inputs import LogFile, held_out
from diffusers_rec.cli.models import load_model
from diffusers_rec.cli.options import (
    CoreOption,
    DataArgument,
    FormatOption,
    HeldOut,
    ItemOption,
    JsonOption,
    MissingOption,
    ModelArgument,
    QuietOption,
    QuoteOption,
    SeparatorOption,
    ShortOption,
    TimeOption,
    UserOption,
)
from diffusers_rec.cli.terminal import print_json, stdout
from diffusers_rec.evaluation import audit
from diffusers_rec.evaluation.audit import chain_lengths, has_chains, kind_without_noise

TABLES = {
    "summary": (
        "the audit in one row",
        "Noise is the share of noise in x_N; near 0, the configuration has hardly any. Drawn, one_draw, zeroed and "
        "chain are NDCG@10 of the network alone: several draws of x_N, one draw, none, and the longest chain, or the "
        "model's own sampler. For vectors of users, drawn is that of their own chain. Another_users is the largest "
        "rise of the cross-entropy with another user's x_n, in nats. Chain_probability and chain_distinct are those of "
        "the longest chain, divided by those of exact draws. Nll and nll_popularity are the negative log-likelihoods "
        "of the held-out items, in nats, under the model and under popularity. Ece is the calibration error of the "
        "reported probabilities. A dash is what a model of this kind does not have.",
    ),
    "ranking": (
        "accuracy of the network alone, without its memory, seen items excluded",
        "If drawn and zeroed noise give the same accuracy, the ranking does not use the noise. This is also true for a "
        "network that has learned nothing: check with `diffrec evaluate` that it beats popularity on the same split.",
    ),
    "timesteps": (
        "losses with the target's own x_n, with x_n zeroed, and with another user's x_n",
        "If the denoiser uses x_n, losses are larger with x_n zeroed and with another user's, most at early steps. "
        "Equal losses mean that it does not use x_n. "
        "Reconstruction is one minus the cosine to the target's vector: 0 is the same direction, 1 a right angle, 2 "
        "the opposite. It does not measure how well a step ranks. Cross-entropy does, but only at steps where the "
        "ranking is trained; for `best` this is step N.",
    ),
    "chains": (
        "samples of reverse chains, compared with exact draws from the prediction",
        "Probability is the model's predicted probability of the sampled items. Exact draws are the same number of "
        "samples from that prediction. Correct chains have the probability and the number of distinct items of exact "
        "draws. Chains with far fewer distinct items have collapsed.",
    ),
}
"""Title and legend of each table of an audit."""


def audit_command(
    model: ModelArgument,
    data: DataArgument,
    split: Annotated[HeldOut, typer.Option(help="Split whose held-out items are used.")] = "validation",
    users: Annotated[int, typer.Option(help="Maximum number of users.")] = 1024,
    seeds: Annotated[int, typer.Option(help="Number of noise draws to average, and of chains per user.")] = 10,
    steps: Annotated[
        list[int] | None,
        typer.Option(
            help="Number of reverse steps of a chain. May be repeated; 10 and 50 by default, as far as N allows."
        ),
    ] = None,
    format: FormatOption = "auto",
    user: UserOption = "user",
    item: ItemOption = "item",
    time: TimeOption = "time",
    separator: SeparatorOption = None,
    quote: QuoteOption = None,
    missing: MissingOption = None,
    k_core: CoreOption = None,
    short: ShortOption = "error",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what the noise does: accuracy without it, losses by timestep, and the samples of reverse chains."""
    trained, lengths = load_model(model), steps or None
    if has_chains(trained):
        lengths = chain_lengths(lengths, trained.schedule.num_timesteps, name="--steps")
    elif steps:
        raise ValueError("--steps: this model is audited with its own sampler alone. Leave the option out.")
    if (what := kind_without_noise(trained)) and not as_json:
        stdout.print(
            f"{model} is {what}: its denoiser receives no noise, so there is no noise to audit. --json prints the "
            "tables nevertheless.",
            soft_wrap=True,
        )
        return
    log = LogFile(data, format, user, item, time, separator, quote, missing, k_core)
    found = audit(
        trained, held_out(log, split, short),
        users=users, seeds=seeds, steps=lengths, progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        print_json({"split": split, **asdict(found)})
        return
    for name, (title, legend) in TABLES.items():
        rows = getattr(found, name)
        if name == "summary":
            rows = [{"name": key, "value": value} for key, value in found.summary.items()]
        if not rows:  # the process has no such table
            continue
        stdout.print(f"{title} ({split}, {found.num_users} user{'s' * (found.num_users > 1)})", soft_wrap=True)
        stdout.print(_table(rows))
        served_alone = name == "ranking" and not any(row["xn"] == "zeroed" for row in rows)
        stdout.print("" if served_alone else f"{legend}\n", soft_wrap=True)  # the legend compares with zeroed noise


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if isinstance(rows[0][heading], str) else "right")
    for row in rows:
        table.add_row(*map(_cell, row.values()))
    return table


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else str(value)
