"""Table 1: the size of the data sets, beside the paper's numbers.

The paper counts 3,953 items in ML-1M, one more than the largest raw id; 3,706 items occur.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.data import add_data_option, interactions_of
from benchmarks.harness import Results, argument_parser, command, parse

PRINTED = {  # users, items, actions, average length, sparsity
    "beauty": (22_363, 12_101, 198_502, 8.9, 0.9993),
    "toys": (19_412, 11_924, 167_597, 8.6, 0.9993),
    "ml-1m": (6_040, 3_953, 1_000_209, 163.5, 0.9581),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_data_option(parser)
    options = parse(parser, argv)
    results = Results("table1", options)
    for dataset, printed in PRINTED.items():
        found = interactions_of(dataset, options.data_dir).statistics()
        counted = (found.num_users, found.num_items, found.num_actions, found.average_length, found.sparsity)
        for source, numbers in (("counted", counted), ("the paper", printed)):
            names = ("users", "items", "actions", "average_length", "sparsity")
            results.add({"dataset": dataset, "source": source, **dict(zip(names, numbers, strict=True))})
    results.write()


if __name__ == "__main__":
    command(main)
