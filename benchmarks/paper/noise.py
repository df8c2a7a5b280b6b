"""The effect of the noise in a trained model: the audit of `best`, of another preset, or of ``--model``.

The paper has no such figure, but its claims depend on it. The audit uses the validation split, so that the test split
chooses nothing. ``benchmarks.chains`` measures chains of the exact posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from benchmarks.harness import argument_parser, at_least, command
from benchmarks.paper.options import add_run_options, parse_trials, results_of, sequences_of
from benchmarks.paper.serving import add_model_options, trained_model
from benchmarks.paper.settings import DATASETS, PAPER_PRESETS
from diffusers_rec import NoiselessDenoiser
from diffusers_rec.evaluation import audit


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_run_options(parser)
    add_model_options(parser)
    parser.add_argument("--preset", default="best", choices=PAPER_PRESETS, help="preset to train without --model")
    parser.add_argument("--datasets", "--dataset", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--users", type=at_least(1), default=2048, help="maximum number of users")
    options = parse_trials(parser, argv)
    results = results_of("noise", options, "best")
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        model, record = trained_model(dataset, split, options)
        if isinstance(model.denoiser, NoiselessDenoiser):
            raise ValueError(f"--model {options.model} is a control: its denoiser never sees noise.")
        found = asdict(audit(model, split.validation, users=options.users, steps=[options.steps], progress=True))
        users = found.pop("num_users")
        del found["summary"]  # the rows below, once more
        for table, rows in found.items():
            for row in rows:
                results.add({"dataset": dataset, "table": table, **row, "users": users, **record})
        results.write()  # after each data set, so that finished ones are recorded


if __name__ == "__main__":
    command(main)
