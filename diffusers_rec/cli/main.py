"""The command line: ``diffrec train | evaluate | audit | recommend | info``.

Results go to standard output, all else to standard error. Exit codes: 0 done, 1 the machine failed (no space, no
permission), 2 the input was wrong, 130 interrupted. With ``DIFFREC_TRACEBACK=1`` in the environment an error shows
where it came from.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.cli.terminal import out, print_json, say, terminal_session
from diffusers_rec.core.errors import check_int, check_path
from diffusers_rec.core.registry import Config, unknown_name
from diffusers_rec.data import Holdout, Interactions, Sequences, Split, Vocabulary, read_interactions
from diffusers_rec.evaluation import Report, audit, evaluate, evaluate_memory, evaluate_popularity
from diffusers_rec.evaluation.audit import chain_lengths
from diffusers_rec.guidance import NoiselessDenoiser
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.recommenders.base import Empty, Recommender, Unknown
from diffusers_rec.recommenders.diffrec import PARTS, DiffRec
from diffusers_rec.recommenders.ensemble import Ensemble
from diffusers_rec.recommenders.memory import NoMemory
from diffusers_rec.samplers import Sampler
from diffusers_rec.training import RECIPES, TrainingConfig, TrainingResult, train
from diffusers_rec.training.state import STATE_FILE
from diffusers_rec.version import __version__

app = typer.Typer(
    help="Diffusion models for sequential recommendation: train, evaluate, audit, recommend.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _version(asked: bool) -> None:
    if asked:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


MAX_THREADS = 1024

Format = Literal["auto", "csv", "tsv", "parquet", "movielens", "sequences"]
Short = Literal["error", "drop", "train"]
Preset = Literal["best", "paper"]
Held = Literal["test", "validation"]
DataPath = Annotated[
    Path,
    typer.Argument(
        help="Interactions: .csv, .tsv, .parquet, MovieLens .dat, or .txt with one user a line (user, items)."
    ),
]
FormatOption = Annotated[Format, typer.Option(help="Of the data file; auto goes by its name.")]
UserOption = Annotated[str, typer.Option(help="Name of the user column.")]
ItemOption = Annotated[str, typer.Option(help="Name of the item column.")]
SeparatorOption = Annotated[
    str | None, typer.Option(help=r"Between the columns of a text file, \t for a tab; by its format if not given.")
]
QuoteOption = Annotated[
    str | None, typer.Option(help="Around columns of a csv or tsv file; '' for none; by its format if not given.")
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Text that means a missing id, in place of nan, null, NA and the like; '' where they are ids. "
        "May be repeated."
    ),
]
TimeOption = Annotated[
    str, typer.Option(help="Name of the time column; an empty name where the rows come oldest first.")
]
CoreOption = Annotated[int | None, typer.Option(help="Keep users and items with at least this many interactions.")]
ShortOption = Annotated[
    Short, typer.Option(help="What to do with users of fewer than 3 items; train: use them there only.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
SeedsOption = Annotated[int | None, typer.Option(help="Noise draws to average; the model's own number by default.")]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="one-step, ddpm or another registered name, or a config as JSON, "
        """such as '{"name": "ddim", "eta": 0.5}'; the model's own by default."""
    ),
]
WithOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="Folder of one more model, trained on the same data: their mean ranks. The seeds are the first model's, "
        "and with --steps its sampler. May be repeated.",
    ),
]
StepsOption = Annotated[int | None, typer.Option(help="Length of the sampler's chain; its own number by default.")]

SHORTHANDS = {
    "dim": ("embedding.dim", "denoiser.dim", "head.dim"),
    "max_length": ("denoiser.max_length",),
    "dropout": ("denoiser.dropout",),
    "epochs": ("training.epochs",),
    "batch_targets": ("training.batch_targets",),
    "learning_rate": ("training.learning_rate",),
    "select_by": ("training.select_by",),
    "include_seen": ("training.exclude_seen",),
}
"""What an option of ``train`` stands for, in the words of ``--set``."""

AUDITED = {
    "ranking": (
        "accuracy of the network alone, without its memory, history masked",
        "Drawn and zeroed alike: the ranking does not use the noise. So they also are where the network has learned "
        "nothing: see whether it beats popularity in `diffrec evaluate` on the same split.",
    ),
    "timesteps": (
        "losses with the target's own x_n, without, and with another user's",
        "Where the denoiser uses x_n, losses rise when it is zeroed, and more with another user's, at early steps the "
        "most; where all are alike, it does not use it. "
        "Reconstruction is one minus the cosine to the target's vector: 0 is its direction, 1 a right angle; how well "
        "a step ranks it does not say. The cross-entropy does, but not at steps at which no ranking is learned: for "
        "`best` at all but the last, N.",
    ),
    "chains": (
        "where chains land, beside exact draws of the prediction",
        "Probability is what the model predicts for the items landed on; exact draws are as many samples of that "
        "prediction as there are chains. A faithful chain has the probability and the number of distinct items of "
        "exact draws; one with far fewer distinct items has collapsed.",
    ),
}
"""The tables of an audit: what each holds, and what to read in it."""


@app.command("train")
def train_command(
    data: DataPath,
    out_folder: Annotated[
        str, typer.Option("--out", help="Folder for the model, the log and the state to go on from.")
    ],
    preset: Annotated[Preset, typer.Option(help="The best found so far, or the paper's (Sec. 5.1.4).")] = "best",
    dim: Annotated[int | None, typer.Option(help="Width.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Positions in a sequence.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Of the backbone.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most.")] = None,
    batch_targets: Annotated[int | None, typer.Option(help="Targets a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Of Adam, its peak.")] = None,
    select_by: Annotated[
        str | None, typer.Option(help="Validation metric that chooses the epoch, hr@K or ndcg@K; ndcg@10 by default.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Validate with the items of the history in the ranking.")
    ] = False,
    no_validation: Annotated[
        bool, typer.Option("--no-validation", help="Train on all items of every user and keep the last epoch.")
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a part or one of its settings, or a training setting: --set denoiser=transformer, "
            "--set schedule.num_timesteps=200, --set training.patience=5. May be repeated.",
        ),
    ] = None,
    as_control: Annotated[
        bool, typer.Option("--control", help="Train the model's plain twin, with the noise switched off.")
    ] = False,
    seed: Annotated[
        int, typer.Option(help="Of weights, order and noise; --set training.seed=5 is for the last two alone.")
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; 1 is fastest for small models on busy cores.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even where there is a GPU.")] = False,
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
    """Train a model and keep its best epoch on validation. Started again after a kill, it resumes.

    Settings that are not given are the preset's.
    """
    leads = os.environ.get("RANK", "0") == "0"  # of several processes one speaks
    quiet = quiet or not leads
    size = _given(dim=dim, max_length=max_length, dropout=dropout)
    schooling = _given(epochs=epochs, batch_targets=batch_targets, learning_rate=learning_rate, select_by=select_by)
    changes = _changes(change or [], [*size, *schooling, *(["include_seen"] if include_seen else [])])
    if no_validation:
        _refuse_with("--no-validation", {"--short": short != "error", "--select-by": select_by is not None,
                                         "--include-seen": include_seen})  # fmt: skip
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, minimum=1, maximum=MAX_THREADS))
    to = _folder(out_folder)
    sequences = _read(data, format, user, item, time, separator, quote, missing, k_core).sequences()
    split = None if no_validation else _split(sequences, short)
    model = PRESETS[preset](sequences.vocabulary, seed=seed, **size)
    training = {**RECIPES[preset].config(), "exclude_seen": not include_seen, "seed": seed, **schooling}
    pipeline, training = _changed(model.config(), training, changes)
    if pipeline != model.config():
        model = DiffRec.from_config(sequences.vocabulary, pipeline)
    if as_control:
        model = control(model)
    config = TrainingConfig(**training)
    if not quiet:
        say.print(f"{sequences.statistics()}\n")
        name = f"{preset}, its control without noise" if as_control else preset
        say.print(f"{name}: {_count(model):,} parameters\n{_parts(model)}")
    told, progress = _Told(to, config.select_by), not quiet and sys.stderr.isatty()
    result = train(
        model, split.train if split else sequences, split.validation if split else None, config,
        directory=to, device="cpu" if cpu else None, progress=progress, on_epoch=None if quiet else told.epoch,
    )  # fmt: skip
    if not leads:
        return
    if not quiet:
        told.end()
    reports: dict[str, Report] = {}
    if split and not isinstance(model.memory, NoMemory):
        reports = _reports(model, split.validation, seeds=config.validation_seeds, progress=progress)
    record = result.history[result.best_epoch - 1]
    chosen = {
        name.removeprefix("validation_"): value for name, value in record.items() if name.startswith("validation_")
    }
    if as_json:
        print_json(
            {
                "out": str(to),
                "best_epoch": result.best_epoch,
                "epochs": len(result.history),
                "select_by": config.select_by if split else None,
                "exclude_seen": config.exclude_seen,
                "validation": chosen,
            }
            | _plain_reports(reports)
        )
        return
    out.print(_outcome(result, config, chosen), soft_wrap=True)
    if reports:
        out.print(_report_table(reports, "validation"))
    reading = {"format": (format, "auto"), "user": (user, "user"), "item": (item, "item"), "time": (time, "time"),
               "separator": (separator, None), "quote": (quote, None), "k-core": (k_core, None),
               "short": (short, "error")}  # fmt: skip
    options = [f"--{name}={value}" for name, (value, default) in reading.items() if value != default]
    options += [f"--missing={text}" for text in missing or []]
    following = ["evaluate", str(to), str(data), *options] if split else ["recommend", str(to), "--history", "ITEM"]
    if not quiet:
        say.print(f"Kept in {to}. Next: diffrec {shlex.join(following)}")


@app.command("evaluate")
def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    data: DataPath,
    others: WithOption = None,
    split: Annotated[Held, typer.Option(help="Which held-out item.")] = "test",
    seeds: SeedsOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
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
    """Rank every item for every user's held-out item: HR and NDCG, history masked and not."""
    trained = _load(model)
    joined = _joined(trained, model, others)
    interactions = _read(data, format, user, item, time, separator, quote, missing, k_core)
    holdout = _holdout(interactions, split, short)
    reports = _reports(
        joined, holdout, seeds=seeds, sampler=_sampler(trained, sampler, steps),
        progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        print_json({"split": split} | _plain_reports(reports))
    else:
        out.print(_report_table(reports, split, models=1 + len(others or [])))


@app.command("audit")
def audit_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    data: DataPath,
    split: Annotated[Held, typer.Option(help="Which held-out item.")] = "validation",
    users: Annotated[int, typer.Option(help="How many to look at, at most.")] = 1024,
    seeds: Annotated[int, typer.Option(help="Noise draws to average, and chains a user.")] = 10,
    steps: Annotated[
        list[int] | None, typer.Option(help="Length of a chain. May be repeated; 10 and 50, as far as N allows.")
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
    """Does the noise do anything? Accuracy without it, losses by timestep, and where reverse chains land."""
    trained = _load(model)
    lengths = chain_lengths(steps or None, trained.schedule.num_timesteps, name="--steps")
    if isinstance(trained.denoiser, NoiselessDenoiser) and not as_json:
        out.print(
            f"{model} is a control: its denoiser never sees noise, so there is no noise to audit. --json gives the "
            "tables all the same.",
            soft_wrap=True,
        )
        return
    interactions = _read(data, format, user, item, time, separator, quote, missing, k_core)
    found = audit(
        trained, _holdout(interactions, split, short),
        users=users, seeds=seeds, steps=lengths, progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        print_json({"split": split, **asdict(found)})
        return
    for name, (title, legend) in AUDITED.items():
        out.print(f"{title} ({split}, {found.num_users} user{'s' * (found.num_users > 1)})", soft_wrap=True)
        out.print(_row_table(getattr(found, name)))
        out.print(f"{legend}\n", soft_wrap=True)


@app.command("recommend")
def recommend_command(
    model: Annotated[Path, typer.Argument(help="Folder of a trained model.")],
    history: Annotated[
        list[str], typer.Option(help="Item ids, oldest first, separated by commas, or a JSON list. May be repeated.")
    ],
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="Number of items; 10, or all candidates where they are fewer.")
    ] = None,
    include_seen: Annotated[bool, typer.Option(help="Recommend items of the history, too.")] = False,
    others: WithOption = None,
    candidates: Annotated[
        str | None, typer.Option(help="Only these item ids, separated by commas, or a JSON list.")
    ] = None,
    exclude: Annotated[str | None, typer.Option(help="None of these item ids, written as the candidates are.")] = None,
    unknown: Annotated[Unknown, typer.Option(help="Ids that the model does not know: an error, or dropped.")] = "error",
    empty: Annotated[
        Empty, typer.Option(help="Histories without a known item, or '[]': an error, or answered by popularity.")
    ] = "error",
    seeds: SeedsOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Recommend what comes after a history, with each item's probability and its spread over the noise draws.

    With several models the spread is over their draws together: how far they disagree.
    """
    trained = _load(model)
    strict = unknown == "error"
    with _mending({"unknown id": "--unknown drop", "one item at least": "--empty popularity"}):
        histories = [_ids("--history", text, trained.vocabulary, strict=strict) for text in history]
        among, without = (
            None if text is None else _ids(option, text, trained.vocabulary, strict=strict)
            for option, text in (("--candidates", candidates), ("--exclude", exclude))
        )
        found = _joined(trained, model, others).recommend(
            histories, k,
            exclude_seen=not include_seen,
            candidates=among,
            exclude=without,
            unknown=unknown,
            empty=empty,
            seeds=seeds,
            sampler=_sampler(trained, sampler, steps),
        )  # fmt: skip
    wanted = found.scores.shape[1]
    for text, names in zip(history, found.items, strict=True):
        if len(names) < wanted:
            why = "because the others are in the history or excluded. --include-seen keeps those of the history."
            say.print(f"after {text}: {len(names)} of {wanted} items, {why}")
    if as_json:
        rows = [
            [dict(zip(("item", "score", "spread"), row, strict=True)) for row in found[i]] for i in range(len(found))
        ]
        print_json([{"history": h, "recommendations": r} for h, r in zip(histories, rows, strict=True)])
        return
    for number, text in enumerate(history):
        table = Table(title=f"after {text}", title_justify="left", box=SIMPLE)
        for heading in (
            "rank",
            "item",
            "probability",
            "spread over models and draws" if others else "spread over draws",
        ):
            table.add_column(heading, overflow="fold")  # an id is never cut short
        for rank, (name, score, spread) in enumerate(found[number], start=1):
            table.add_row(str(rank), str(name), f"{score:.4f}", f"{spread:.1e}")
        out.print(table)


@app.command("info")
def info_command(
    path: Annotated[
        Path | None, typer.Argument(help="A trained model's folder, or a data file; neither: the components.")
    ] = None,
    format: FormatOption = "auto",
    user: UserOption = "user",
    item: ItemOption = "item",
    time: TimeOption = "time",
    separator: SeparatorOption = None,
    quote: QuoteOption = None,
    missing: MissingOption = None,
    k_core: CoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a model is, what a data set holds (the paper's Table 1), or which components there are."""
    if path is None:
        listing = {part: family.names() for part, family in PARTS.items()}
        if as_json:
            print_json({"version": __version__, "components": listing})
        else:
            out.print(f"diffusers_rec {__version__}")
            for kind, names in listing.items():
                out.print(f"  {kind:<10} {', '.join(names)}", soft_wrap=True)
    elif path.is_dir():
        trained = DiffRec.from_pretrained(path)
        facts = {"items": len(trained.vocabulary), "parameters": _count(trained), **trained.config()}
        if as_json:
            print_json(facts)
        else:
            for name, value in facts.items():
                out.print(f"{name:<11} {_told(value)}", soft_wrap=True)
    else:
        statistics = _read(path, format, user, item, time, separator, quote, missing, k_core).statistics()
        if as_json:
            print_json(asdict(statistics))
        else:
            out.print(str(statistics), soft_wrap=True)


def run() -> int:
    """Run the command line and return its exit code."""
    with terminal_session():
        return _run()


def _run() -> int:
    try:
        code: int = app(prog_name="diffrec", standalone_mode=False) or 0
        if code == 130:  # what newer versions of typer make of an interrupt; older ones abort
            raise KeyboardInterrupt
        return code
    except (KeyboardInterrupt, typer.Abort):
        say.print("Interrupted. A training run goes on when the same command is started again.")
        return 130
    except (ValueError, TypeError, ImportError) as error:
        return _fail(error, 2)
    except OSError as error:
        asked_for = isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError)
        return _fail(error, 2 if asked_for and error.__cause__ is None else 1)  # what could not be written has a cause
    except (MemoryError, RuntimeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        of_size = not isinstance(error, RuntimeError) or "memory" in reason
        return _fail(error, 1, f"{reason}. A size is too large for this machine; lower it." if of_size else reason)
    except Exception as error:
        show = getattr(error, "show", None)  # a wrong option or argument, told by the parser
        if show is None:
            raise
        show()
        return 2


def _fail(error: Exception, code: int, message: str = "") -> int:
    if os.environ.get("DIFFREC_TRACEBACK"):
        say.print_exception()
    say.print(f"diffrec: {message or error}", style="red")
    return code


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read(
    path: Path,
    format: Format,
    user: str,
    item: str,
    time: str,
    separator: str | None,
    quote: str | None,
    missing: list[str] | None,
    k_core: int | None,
) -> Interactions:
    settings = _given(separator=separator and separator.replace(r"\t", "\t"), quote=quote, missing=missing)
    with _as_options("--user, --item, --time, --format, --separator, --quote, --missing"):
        interactions = read_interactions(path, format=format, user=user, item=item, time=time or None, **settings)
    with _as_options("--k-core"):
        return interactions if k_core is None else interactions.k_core(k_core)


@contextmanager
def _as_options(names: str) -> Iterator[None]:
    """Adds to an error, which speaks of Python, what the shell has for it."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{error} (As options: {names}.)") from error


@contextmanager
def _mending(options: Mapping[str, str]) -> Iterator[None]:
    """Adds to an error the option that mends it, where it holds certain words."""
    try:
        yield
    except ValueError as error:
        mend = next((f" (As an option: {option}.)" for words, option in options.items() if words in str(error)), "")
        raise ValueError(f"{error}{mend}") from error


def _folder(text: str) -> Path:
    """The place for a run; an empty one is refused, and one where a file is or above which one is."""
    path = check_path("--out", text)
    nearest = next((place for place in (path, *path.parents) if place.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise NotADirectoryError(f"--out {path}: {nearest} is a file; a run needs a folder of its own.")
    return path


def _split(sequences: Sequences, short: Short) -> Split:
    with _as_options("--k-core 3, --short drop, --short train"):
        return sequences.leave_one_out(short)


def _holdout(interactions: Interactions, split: Held, short: Short) -> Holdout:
    parts = _split(interactions.sequences(), short)
    return parts.test if split == "test" else parts.validation


def _reports(model: Recommender, holdout: Holdout, **settings: Any) -> dict[str, Report]:
    """The model beside its parts, where a memory has a share in it, and beside popularity."""
    holdout = holdout.reindexed(model.vocabulary)
    reports = {"model": evaluate(model, holdout, **settings)}
    if model.without_memory() is not model:
        reports["network alone"] = evaluate(model, holdout, memory=False, **settings)
    if isinstance(model, DiffRec) and not isinstance(model.memory, NoMemory):
        reports["memory alone"] = evaluate_memory(model.memory, holdout)
    # Popularity may know all that the model may: everything before the held-out item.
    return {**reports, "popularity": evaluate_popularity(holdout.histories, holdout)}


def _plain_reports(reports: dict[str, Report]) -> dict[str, Any]:
    return {name.replace(" ", "_"): asdict(report) for name, report in reports.items()}


def _load(folder: Path) -> DiffRec:
    return DiffRec.from_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")


def _joined(model: DiffRec, folder: Path, others: list[Path] | None) -> Recommender:
    """A model with what ``--with`` names."""
    if not others:
        return model
    folders = [folder, *others]
    if len({path.resolve() for path in folders}) < len(folders):
        raise ValueError(f"--with: {', '.join(map(str, folders))} names a model twice. Give each folder once.")
    members = [model]
    for other in others:
        try:
            members.append(_load(other))
        except ValueError as error:
            raise ValueError(f"--with {other}: {error}") from error
    try:
        return Ensemble(members)
    except ValueError as error:
        raise ValueError(f"--with, where {folder} is member 0: {error}") from error


def _ids(option: str, text: str, vocabulary: Vocabulary, *, strict: bool) -> list[int | str]:
    """Ids of a JSON list, or between commas, where whole numbers are ints if the vocabulary has them so."""
    listed = _json_list(option, text)
    if listed is not None:
        return listed
    ids: list[int | str] = []
    for token in (part.strip() for part in text.split(",")):
        if not token and token not in vocabulary:
            raise ValueError(f"{option} {text!r} holds an empty item id. Give one id or more, a comma between two.")
        number = int(token) if token.removeprefix("-").isdecimal() else None
        ids.append(number if number is not None and token not in vocabulary and number in vocabulary else token)
    if len(ids) > 1 and strict:
        with _as_options(f"""{option} '["salt, fine"]', a JSON list, for ids with commas"""):
            vocabulary.encode(ids)
    return ids


def _json_list(option: str, text: str) -> list[int | str] | None:
    """The ids of a JSON list; None for any other text, which may well start with a bracket."""
    try:
        ids = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if ids is not None and not all(isinstance(each, str) or type(each) is int for each in ids):
        raise ValueError(f"{option} {text}: expected a JSON list of ids, each a text or a whole number.")
    return ids


def _refuse_with(option: str, others: dict[str, bool]) -> None:
    """Refuse options beside one that leaves them nothing to do."""
    given = [name for name, is_given in others.items() if is_given]
    if given:
        raise ValueError(f"{option} leaves {' and '.join(given)} nothing to do. Keep the one or the other.")


def _changes(texts: list[str], shorthands: list[str]) -> dict[str, str]:
    """What ``--set`` asks for, by key: ``part``, ``part.setting``, ``training.setting`` or ``seeds``.

    A setting that comes twice, or by a shorthand as well, is refused: neither wins.
    """
    changes: dict[str, str] = {}
    given = {key: f"--{name.replace('_', '-')}" for name in shorthands for key in SHORTHANDS[name]}
    known = [*PARTS, "training", "seeds"]
    for text in texts:
        key, equals, value = (each.strip() for each in text.partition("="))
        part, dot, _ = key.partition(".")
        if equals and part not in known:
            of_training = key in TrainingConfig.names()
            mend = f"Did you mean --set training.{text}?" if of_training else unknown_name("part", part, known)
            raise ValueError(f"--set {text}: {mend}")
        wanted = {"training": True, "seeds": False}.get(part, bool(dot))  # a dot or none
        if not equals or bool(dot) != wanted:
            raise ValueError(
                "--set takes PART=NAME or PART.SETTING=VALUE, or seeds=VALUE, "
                f"with PART one of {', '.join([*PARTS, 'training'])}, got {text!r}."
            )
        if key in given:
            raise ValueError(f"{given[key]} and --set {text} give the same setting. Keep one of the two.")
        changes[key], given[key] = value, f"--set {text}"
    return changes


def _changed(pipeline: Config, training: Config, changes: dict[str, str]) -> tuple[Config, Config]:
    """The configs of the pipeline and of its training after the changes."""
    for key, text in changes.items():
        part, dot, setting = key.partition(".")
        if part == "training":
            if setting not in training:
                raise ValueError(f"--set {key}={text}: {unknown_name('training setting', setting, training)}")
            training = {**training, setting: _value("--set", text)}
        elif not dot and part in PARTS:
            settings = PARTS[part].named(text).settings()
            kept = {name: value for name, value in pipeline[part].items() if name in settings}
            pipeline = {**pipeline, part: {"name": text, **kept}}
        else:
            value = _value("--set", text)
            pipeline = {**pipeline, part: {**pipeline[part], setting: value} if dot else value}
            if (part, setting) == ("schedule", "num_timesteps") and setting in pipeline["timesteps"]:
                pipeline = {**pipeline, "timesteps": {**pipeline["timesteps"], setting: value}}
    return pipeline, training


def _sampler(model: DiffRec, choice: str | None, steps: int | None) -> Sampler | None:
    """What ``--sampler`` and ``--steps`` ask for; None where they ask for nothing."""
    if choice is None and steps is None:
        return None
    asked = None if choice is None else _value("--sampler", choice)
    sampler = model.sampler if asked is None else Sampler.build(asked)
    if steps is None:
        return sampler
    if isinstance(asked, dict) and "num_steps" in asked:
        raise ValueError(f"--steps={steps} and the num_steps of --sampler give the same setting. Keep one of the two.")
    name, final = sampler.registered_name, model.schedule.num_timesteps
    if "num_steps" not in sampler.settings():
        chains = [known for known in Sampler.names() if "num_steps" in Sampler.named(known).settings()]
        raise ValueError(
            f"--steps: the sampler {name!r} has no number of steps. Use --sampler with {', '.join(chains)}."
        )
    if check_int("--steps", steps, minimum=1) > final:
        raise ValueError(f"--steps must be at most num_timesteps={final}, the model's N, got {steps}.")
    return Sampler.build({**sampler.config(), "num_steps": steps})


def _value(option: str, text: str) -> Any:
    """What a text is in JSON, or the text itself where it does not look like any."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith(("{", "[", '"')):
            shown = text if len(text) <= 200 else f"{text[:200]}..."
            raise ValueError(
                f'{option}: {shown} is not JSON ({error}). Mend it, for instance to {{"name": "ddim"}}.'
            ) from None
        return text


def _parts(model: DiffRec) -> str:
    """Every part by name, as ``--set`` takes it, in lines of at most 80 columns."""
    config = model.config()
    parts = ", ".join(f"{part}={_named(config[part])}" for part in PARTS)
    return textwrap.fill(parts, 80, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _named(part: Config) -> str:
    return f"{part['name']}({_named(part['base'])})" if "base" in part else part["name"]


def _count(model: DiffRec) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _told(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int) else str(value)
    settings = ", ".join(f"{name}={setting}" for name, setting in value.items() if name != "name")
    return f"{value['name']}({settings})"


class _Told:
    """Tells a run's epochs, and what was in its folder before: known as the same run only once it has passed."""

    def __init__(self, folder: Path, metric: str) -> None:
        self.metrics = dict.fromkeys(("hr@10", "ndcg@10", metric))
        self.folder, self.begun, self.trained = folder, (folder / STATE_FILE).is_file(), False

    def epoch(self, record: dict[str, float]) -> None:
        if self.begun and not self.trained:
            say.print(f"{self.folder} holds a run already: going on where it stopped.")
        self.trained = True
        _print_epoch(record, self.metrics)

    def end(self) -> None:
        if self.begun and not self.trained:
            say.print(f"{self.folder} holds this run already, and it is finished: nothing was left to train.")


def _print_epoch(record: dict[str, float], metrics: Iterable[str]) -> None:
    terms = "  ".join(f"{name} {record[name]:.4f}" for name in ("reconstruction", "recommendation") if name in record)
    scores = "".join(f"  {name} {record[f'validation_{name}']:.4f}" for name in metrics
                     if f"validation_{name}" in record)  # fmt: skip
    say.print(f"epoch {record['epoch']:>3}  {terms}{scores}  {record['targets_per_second']:,.0f} targets/s")


def _outcome(result: TrainingResult, config: TrainingConfig, metrics: dict[str, float]) -> str:
    """The epoch that was kept, and why."""
    epochs = len(result.history)
    if not metrics:
        return f"Kept epoch {epochs}, the last: there was no validation"
    stopped = f" (stopped after {config.patience} validations without a better one)" if epochs < config.epochs else ""
    history = "masked" if config.exclude_seen else "not masked"
    scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    by = f"by validation {config.select_by} (history {history})"
    return f"Best epoch {result.best_epoch} of {epochs}{stopped} {by}: {scores}"


def _report_table(reports: dict[str, Report], split: str, models: int = 1) -> Table:
    users = next(iter(reports.values())).num_users
    # Without a frame, which would take the table beyond 80 columns.
    title = f"{split}, {users:,} users, every item ranked" + (f", {models} models together" if models > 1 else "")
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "history", *next(iter(reports.values())).metrics()):
        table.add_column(heading, justify="left" if heading in ("", "history") else "right")
    for name, report in reports.items():
        for history, metrics in (("masked", report.metrics()), ("unmasked", report.metrics(exclude_seen=False))):
            table.add_row(name, history, *(f"{value:.4f}" for value in metrics.values()))
    return table


def _row_table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if isinstance(rows[0][heading], str) else "right")
    for row in rows:
        table.add_row(*(f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()))
    return table
