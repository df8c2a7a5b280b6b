"""The cross-entropy and its gradient: every item against sampled negatives, by the size of the catalogue.

What is timed is ``ItemHead.loss`` of a tied head and its backward pass, the draw of the sample included, for as many
targets as a batch of the ``best`` preset holds. The gradient of the item table is dense, so that even a sample pays for
a table of zeros; that grows with the catalogue, and so does the optimiser's step, which is not timed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from benchmarks import plots
from benchmarks.harness import Results, argument_parser, compare, parse
from diffusers_rec import Negatives, TableEmbedding, TiedHead

CATALOGUES = (10_000, 100_000, 1_000_000)
TARGETS, DIM = 400, 64

draw = partial(plots.lines, x="items", panels={"median_seconds": "seconds"}, by="negatives")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    results = Results("negatives", options)
    for num_items in CATALOGUES[:2] if options.quick else CATALOGUES:
        functions = losses(num_items, options.seed)
        timings = compare(functions, repeats=9, budget=5 if options.quick else 60)
        for name, timing in timings.items():
            results.add({"negatives": name, "items": num_items, "targets": TARGETS, "dim": DIM}, timing)
        results.ratio(f"all_vs_popularity_{num_items}_items", timings["all"].over(timings["popularity"]))
    results.write(draw)


def losses(num_items: int, seed: int) -> dict[str, Callable[[], None]]:
    """By the negatives' name."""
    generator = Generator().manual_seed(seed)
    embedding = TableEmbedding(num_items, DIM, init_std=0.02, seed=seed)
    head = TiedHead(embedding)
    latent = torch.randn(TARGETS, DIM, generator=generator)
    target = torch.randint(num_items, (TARGETS,), generator=generator)
    counts = torch.randint(1, 100, (num_items,), generator=generator)
    functions: dict[str, Callable[[], None]] = {}
    for name in Negatives.names():
        negatives = Negatives.build(name)
        negatives.fit(counts)
        functions[name] = partial(loss_and_gradient, head, negatives, latent, target, generator)
    return functions


def loss_and_gradient(
    head: TiedHead, negatives: Negatives, latent: Tensor, target: Tensor, generator: Generator
) -> None:
    """One batch."""
    head.embedding.zero_grad(set_to_none=True)
    head.loss(latent, target, negatives.draw(target, head.embedding.num_items, generator)).backward()


if __name__ == "__main__":
    main()
