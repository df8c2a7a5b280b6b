"""Serving: one reverse step against chains of N, in seconds and in accuracy.

Latency is that of ``DiffRec.next_item_latents`` for full histories and one seed, of untrained models at the paper's
sizes over a catalogue of Beauty's, alone and with the ranking that follows; chains stride over a schedule of 1,000
steps. The baseline runs the whole sequence again at every step. Where every step costs a
whole sequence, long chains are not run but extrapolated from short ones, for the cost is linear in N; the column
``extrapolated`` says so.

Accuracy is that of a trained model's own denoiser, each user's probability averaged over ten seeds, the history left
out of the ranking.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS, full_histories
from benchmarks.harness import Results, argument_parser, compare, extrapolated, parse
from benchmarks.models import BACKBONES, add_model_options, trained, untrained
from benchmarks.naive import NaiveDSR
from diffusers_rec import DDPMSampler, OneStepSampler
from diffusers_rec.evaluation import evaluate
from diffusers_rec.recommenders.head_scores import head_scores
from diffusers_rec.recommenders.ranking import top_k

CHAINS = (10, 50, 200, 1000)
RANKING = 0  # stands among the numbers of steps for the ranking that follows them all
LENGTH = 50
TARGETS = {"causal-transformer": "<= 40", "conditional-mlp": "<= 15"}

draw = partial(plots.lines, x="steps", panels={"median_seconds": "seconds per batch"}, by="denoiser")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_model_options(parser, users=1024)
    options = parse(parser, argv)
    accuracy(options)
    latency(options)


def latency(options: argparse.Namespace) -> None:
    """Seconds by backbone and number of steps."""
    results = Results("one_step_vs_n_step", options)
    for name in (*BACKBONES, "naive"):
        cached = name in TARGETS  # a step costs a token, not a sequence
        measured = ((1, 10, 50) if options.quick else (1, *CHAINS)) if cached else (1, 10)
        rows = 256 if cached or not options.quick else 16
        functions = naive_functions(rows, measured) if name == "naive" else our_functions(name, rows, measured)
        timings = compare(functions, repeats=7, warmup=1, budget=2 if options.quick else 90)
        last = measured[-1]
        for steps in (1, *CHAINS):
            timing = timings.get(steps) or extrapolated(timings[1], timings[last], last, steps)
            flag = "" if steps in timings else f"from {last} steps"
            results.add({"denoiser": name, "steps": steps, "batch": rows, "extrapolated": flag}, timing)
            timings[steps] = timing
        words = f"{name.replace('-', '_')}_1000_steps_vs_one_step"
        results.ratio(words, timings[1000].over(timings[1]), TARGETS.get(name, ""))
        if RANKING in timings:
            one, many = (timings[steps].plus(timings[RANKING]) for steps in (1, 1000))
            results.ratio(f"{words}_with_ranking", many.over(one))
    results.write(draw)


def our_functions(backbone: str, rows: int, measured: Sequence[int]) -> dict[int, Callable[[], object]]:
    """By number of steps, and the ranking of what comes out."""
    model = untrained(backbone, num_items=BEAUTY_ITEMS, max_length=LENGTH)
    history = full_histories(rows, model.history_length, BEAUTY_ITEMS, seed=0)
    samplers = {steps: OneStepSampler() if steps == 1 else DDPMSampler(num_steps=steps) for steps in measured}
    latents = model.next_item_latents(history, seeds=1)
    return {
        RANKING: lambda: top_k(head_scores(model.head, latents), 10),
        **{
            steps: partial(model.next_item_latents, history, seeds=1, sampler=sampler)
            for steps, sampler in samplers.items()
        },
    }


def naive_functions(rows: int, measured: Sequence[int]) -> dict[int, Callable[[], object]]:
    """By number of steps; the baseline visits every step of its schedule, so each number has a schedule of its own."""
    items = full_histories(rows, LENGTH, BEAUTY_ITEMS, seed=0).items
    real = torch.ones_like(items, dtype=torch.bool)
    models = {steps: NaiveDSR(BEAUTY_ITEMS, length=LENGTH, num_timesteps=steps).eval() for steps in measured}
    return {
        steps: torch.no_grad()(partial(model.sample, items, real, seed=0, num_steps=steps))
        for steps, model in models.items()
    }


def accuracy(options: argparse.Namespace) -> None:
    """HR@10 and NDCG@10 by number of steps."""
    results = Results("one_step_vs_n_step-accuracy", options)
    model, test, best = trained(options)
    chains = [steps for steps in CHAINS if steps < 1000 or not options.quick]
    samplers = {1: OneStepSampler()} | {steps: DDPMSampler(num_steps=steps) for steps in chains}
    for steps, sampler in samplers.items():
        metrics = evaluate(model, test, ks=[10], sampler=sampler, seeds=10).metrics()
        results.add({"ranking": "model", "steps": steps, "users": len(test), **metrics})
    if best:
        metrics = {name: best[name] for name in ("hr@10", "ndcg@10")}
        results.add({"ranking": "best possible", "steps": "", "users": len(test), **metrics})
    results.write()


if __name__ == "__main__":
    main()
