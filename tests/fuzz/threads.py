"""Threads that share a model, and threads that build models: no answer and no weight differs from the serial one.

A trial is eight threads of :data:`ANSWERS` answers each.
"""

from __future__ import annotations

import random
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from diffusers_rec import Denoiser, DiffRec, Recommendations

from . import world
from .harness import EQUAL, SILENT, Campaign, Note, Outcome
from .kills import same

THREADS, ANSWERS = 8, 125
NOT_BUILT = "attribute", "function", "noiseless", "posterior", "joint", "bidirectional", "cloze"
"""Guides that need more than a base, and denoisers that predict items."""

BACKBONES = [name for name in Denoiser.names() if name not in NOT_BUILT]


def prepare(folder: Path) -> None:
    sys.setswitchinterval(1e-5)  # threads change places often


def trial(_: None, generator: random.Random, note: Note) -> Outcome:
    return generator.choice([_answers, _answers, _builds])(generator, note)


def build(denoiser: str, seed: int) -> DiffRec:
    known, small = Denoiser.named(denoiser).settings(), {"num_heads": 1, "num_layers": 1, "dropout": 0.5}
    shared = {key: value for key, value in small.items() if key in known or "base" in known}
    if "encoder" in known:
        shared["encoder"] = {"name": "causal-transformer", **small}
    return world.model(denoiser={"name": denoiser, **shared}, seed=seed)


def _answers(generator: random.Random, note: Note) -> Outcome:
    denoiser, training = generator.choice(BACKBONES), generator.random() < 0.5
    note(f"{THREADS} threads of {ANSWERS} answers, {denoiser} in {'training' if training else 'eval'} mode")
    model = build(denoiser, seed=generator.randrange(100)).train(training)
    histories = [[f"i{v}" for v in generator.sample(range(world.NUM_ITEMS), 1 + length % 5)] for length in range(20)]
    serial = [answer(model, history) for history in histories]
    rows = [[generator.randrange(len(histories)) for _ in range(ANSWERS)] for _ in range(THREADS)]

    def work(mine: list[int]) -> tuple[int, int]:
        other, flipped = 0, 0
        for row in mine:
            found = answer(model, histories[row])
            other += found.items != serial[row].items or not torch.equal(found.scores, serial[row].scores)
            flipped += any(module.training != training for module in model.modules())
        return other, flipped

    with ThreadPoolExecutor(THREADS) as pool:
        counts = list(pool.map(work, rows))
    other, flipped = (sum(count) for count in zip(*counts, strict=True))
    total = THREADS * ANSWERS
    left = any(module.training != training for module in model.modules())
    if other or flipped or left:
        return (
            SILENT,
            f"{other} of {total} answers differ, training seen flipped {flipped} times, left so: {left}",
        )
    return EQUAL, f"{total} answers as the serial ones"


def answer(model: DiffRec, history: list[str]) -> Recommendations:
    return model.recommend([history], 2, seeds=2)


def _builds(generator: random.Random, note: Note) -> Outcome:
    denoiser = generator.choice(BACKBONES)
    note(f"{THREADS} threads build models with {denoiser}")
    seeds = list(range(5 * THREADS))
    serial = [build(denoiser, seed) for seed in seeds]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(THREADS) as pool:
        built = list(pool.map(lambda seed: build(denoiser, seed), seeds))
    moved = not torch.equal(state, torch.get_rng_state())
    other = sum(not same(one, two) for one, two in zip(built, serial, strict=True))
    if other or moved:
        return SILENT, f"{other} of {len(seeds)} models have other weights; global random state moved: {moved}"
    return EQUAL, f"{len(seeds)} models as the serial ones"


CAMPAIGN = Campaign("threads", prepare, trial, cpu_seconds=60)
