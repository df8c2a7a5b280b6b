"""The next item: whether the joint model ranks as well as ``best`` and its control, with the memory and without."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.generation.setting import MODELS, add_options, data_name, split_of, trained
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec.evaluation import evaluate

draw = partial(plots.dots, names=["memory", "model", "seen"], panels={"ndcg@10": "NDCG@10", "hr@10": "HR@10"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=("control", "longer", "best", "joint"))
    options = parse(parser, argv)
    results = Results(f"ranking-{data_name(options)}", options)
    split = split_of(options)
    found: dict[tuple[str, bool], float] = {}
    for name in options.models:
        model = trained(name, split, options)
        for memory in (True, False):
            report = evaluate(model, split.test, memory=memory, ks=[10])
            for exclude_seen in (True, False):
                row = {
                    "dataset": data_name(options),
                    "model": name,
                    "memory": "with memory" if memory else "network alone",
                    "seen": "seen items excluded" if exclude_seen else "seen items kept",
                    "users": len(split.test),
                }
                metrics = report.metrics(["ndcg@10", "hr@10"], exclude_seen=exclude_seen)
                results.add(row | metrics)
                if exclude_seen:
                    found[name, memory] = metrics["ndcg@10"]
    for rival in ("best", "control", "longer"):
        for memory in (True, False):
            if {(rival, memory), ("joint", memory)} <= set(found):
                words = "" if memory else "_network_alone"
                results.ratio(
                    f"joint_over_{rival}_ndcg@10{words}",
                    found["joint", memory] / found[rival, memory],
                    ">= 0.98" if rival == "best" else "",
                )
    results.write(draw)


if __name__ == "__main__":
    command(main)
