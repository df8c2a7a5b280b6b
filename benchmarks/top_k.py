"""Ranking: ``top_k`` over catalogues of up to a million items, in seconds and in memory.

The baseline is the bare work, over the same chunks of items: ``queries @ keys.T``, the best k of each draw, merged
from chunk to chunk; no probability and no average over the draws comes of it.

Memory is what a process's largest resident size grows by during the call, in a process of its own, after a call on a
small catalogue and with the tables already touched. The tables are filled in place, so no larger size went before.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import torch
from torch import Tensor, nn

from benchmarks import plots
from benchmarks.harness import Results, argument_parser, compare, parse
from diffusers_rec import LinearHead
from diffusers_rec.recommenders.head_scores import CHUNK_SCORES, head_scores
from diffusers_rec.recommenders.ranking import TopK, top_k

CATALOGUES = (1_000, 10_000, 100_000, 1_000_000)
DIM, DRAWS, K = 64, 10, 10

draw = partial(
    plots.lines, x="items", panels={"median_seconds": "seconds", "extra_mb": "extra memory, MB"}, by="ranking"
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    users = 16 if options.quick else 256
    weighed = [(name, size) for name in CALLS for size in CATALOGUES]
    if options.quick:  # a process takes seconds to start
        weighed = [("top_k", max(CATALOGUES))]
    results = Results("top_k", options)
    # Before the tables below: a new process is charged with the size of the one that starts it.
    extra = {each: in_new_process(*each, users, options) for each in weighed}
    whole = random_head(max(CATALOGUES), options.seed)
    latents = random_latents(users, options.seed)
    with torch.no_grad():
        for size in CATALOGUES:
            head = first_items(whole, size)
            timings = compare(
                {name: partial(call, head, latents) for name, call in CALLS.items()},
                repeats=9,
                warmup=0 if options.quick or size == max(CATALOGUES) else 1,
                budget=2 if options.quick else 45,
            )
            for name, timing in timings.items():
                measured = {"ranking": name, "items": size, "users": users, "draws": DRAWS, "dim": DIM, "k": K}
                results.add(measured | {"extra_mb": extra.get((name, size), "")}, timing)
    results.ratio("million_items_vs_bare", timings["top_k"].over(timings["bare"]), "<= 4")
    results.ratio("million_items_extra_mb", extra["top_k", max(CATALOGUES)], "< 300")
    results.write(draw)


def bare(head: LinearHead, latents: Tensor) -> tuple[Tensor, Tensor]:
    """The scores and items of the k highest inner products of each draw, ``(B, S, K)``."""
    queries = latents.flatten(0, 1)
    size = CHUNK_SCORES // len(queries)
    best, items = queries.new_zeros(len(queries), 0), torch.zeros(len(queries), 0, dtype=torch.int64)
    for start in range(0, head.num_items, size):
        scores = queries @ head.weight[start : start + size].T
        found = scores.topk(min(K, scores.shape[1]), dim=1)
        best, order = torch.cat([best, found.values], dim=1).topk(K, dim=1)
        items = torch.cat([items, found.indices + start], dim=1).gather(1, order)
    return best.unflatten(0, latents.shape[:2]), items.unflatten(0, latents.shape[:2])


def ranked(head: LinearHead, latents: Tensor) -> TopK:
    """What serving computes."""
    return top_k(head_scores(head, latents), K)


CALLS: dict[str, Callable[[LinearHead, Tensor], object]] = {"top_k": ranked, "bare": bare}


def random_head(num_items: int, seed: int) -> LinearHead:
    """A head with random keys, filled in place: its constructor would hold the table several times."""
    with torch.device("meta"):
        head = LinearHead(num_items, DIM)
    head = head.to_empty(device="cpu")
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(seed))
    nn.init.zeros_(head.offset)
    return head


def first_items(head: LinearHead, num_items: int) -> LinearHead:
    """The same head on the front of its catalogue, sharing the table."""
    with torch.device("meta"):
        part = LinearHead(num_items, DIM)
    part.weight, part.offset = nn.Parameter(head.weight[:num_items]), nn.Parameter(head.offset[:num_items])
    return part


def random_latents(users: int, seed: int) -> Tensor:
    """``(users, DRAWS, DIM)``."""
    return torch.randn(users, DRAWS, DIM, generator=torch.Generator().manual_seed(seed + 1))


def in_new_process(name: str, num_items: int, users: int, options: argparse.Namespace) -> float:
    """:func:`extra_megabytes` in a process that has done nothing else."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(extra_megabytes, name, num_items, users, options.threads, options.seed).result()


@torch.no_grad()
def extra_megabytes(name: str, num_items: int, users: int, threads: int, seed: int) -> float:
    """By how many MB the call raises this process's largest resident size (which Linux gives in KiB)."""
    torch.set_num_threads(threads)
    head, latents = random_head(num_items, seed), random_latents(users, seed)
    CALLS[name](first_items(head, K), latents[:1])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    CALLS[name](head, latents)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6


if __name__ == "__main__":
    main()
