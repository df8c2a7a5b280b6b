"""Serving: requests of a model like ``best`` over catalogues of a thousand to a million items, beside a bare floor.

The floor is the history encoder of the model, and for ten draws a product with the keys, a softmax and the k best of
each draw, all in float32 on prepared tensors. ``recommend`` goes from ids to ids, with exclusions and the memory of
transitions; ``calibrated`` adds the calibration that ``train`` leaves. ``exported`` is the calibrated model in
onnxruntime, in float32. ``bfloat16`` searches a ``BFloat16Index``. Recall is the share of the model's own lists that a
way finds. Weights are random, of the size of trained ones, so that no two draws are equal. All ways of a line run in
turn. DiffuRec takes 32 steps at the size of its own preset. ``autocast`` has the encoder in bfloat16. On a machine that
has other work, ``--clock cpu`` times one thread, by its own work.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS
from benchmarks.harness import Results, Timing, argument_parser, compare, parse
from diffusers_rec import BFloat16Index, Calibration, DiffRec, History, presets
from diffusers_rec.integrations.onnx import ExportedModel, export_onnx

CATALOGUES = (1_000, BEAUTY_ITEMS, 100_000, 1_000_000)
USERS, DRAWS, THREADS, K, LENGTH = (1, 64), (1, 10), (1, 2), 10, 49
NEIGHBOURS = 20
"""Kept by the memory for each item; a hundred would take 800 MB for a million items."""

Calls = dict[str, Callable[[], object]]


def draw(path: Path, rows: list[dict[str, str]]) -> None:
    """One request on one thread."""
    one = [row for row in rows if (row["users"], row["serving_threads"]) == ("1", "1")]
    named = {("floor", "10"): "floor", ("recommend", "1"): "one draw", ("recommend", "10"): "ten draws"}
    shown = [row | {"way": named[place]} for row in one if (place := (row["way"], row["draws"])) in named]
    plots.lines(path, shown, x="items", panels={"median_seconds": "seconds per request"}, by="way")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu leaves out other programs, and two threads"
    )
    options = parse(parser, argv)
    results = Results("serving", options)
    results.surroundings["clock"] = options.clock
    catalogues = CATALOGUES[:2] if options.quick else CATALOGUES
    for num_items in catalogues:
        measure(results, num_items, options)
    results.write(draw)


def measure(results: Results, num_items: int, options: argparse.Namespace) -> None:
    """One catalogue."""
    model = random_model(num_items, options.seed)
    calibrated = with_calibration(model)
    numbers = np.random.default_rng(options.seed)
    histories = [numbers.choice(num_items, LENGTH, replace=False).tolist() for _ in range(max(USERS))]
    index, exported = BFloat16Index(model.head), {} if options.quick else exported_models(calibrated)
    for users in USERS[: 1 if num_items > 100_000 else None]:
        for draws in DRAWS:
            model.seeds = calibrated.seeds = draws
            for threads in THREADS[: 1 if options.quick or options.clock == "cpu" else None]:
                torch.set_num_threads(threads)
                functions = ways(model, calibrated, index, exported.get(threads), histories, users)
                if (num_items, users, draws) == (BEAUTY_ITEMS, max(USERS), 1):
                    functions["diffurec"] = partial(presets.diffurec(model.vocabulary).eval().recommend, histories)
                timings = compare(
                    functions,
                    repeats=200,
                    warmup=1,
                    budget=2 if options.quick else 12,
                    clock=time.process_time if options.clock == "cpu" else time.perf_counter,
                )
                recalls = {"bfloat16": model.list_overlap(histories, K, index=index)}
                if threads in exported:
                    recalls["exported"] = exported_overlap(model, exported[threads], histories)
                place = {"items": num_items, "users": users, "draws": draws, "serving_threads": threads}
                for way, timing in timings.items():
                    recall = {"recall": recalls[way]} if way in recalls else {}
                    results.add({"way": way, **place} | tails(timing, timings["floor"]) | recall, timing)
                if threads == 1:
                    add_ratios(results, timings, num_items, users, draws)
    torch.set_num_threads(options.threads)


def ways(
    model: DiffRec,
    calibrated: DiffRec,
    index: BFloat16Index,
    exported: ExportedModel | None,
    histories: list[list[int]],
    users: int,
) -> Calls:
    """By name; each call has other histories than the one before, where there is one user."""
    requests = cycle([histories] if users > 1 else [[history] for history in histories])
    encoded = model.encode_histories(histories[:users])
    found: Calls = {
        "floor": partial(floor, model, encoded, model.next_item_latents(encoded, seeds=max(DRAWS))),
        "recommend": lambda: model.recommend(next(requests), K),
        "calibrated": lambda: calibrated.recommend(next(requests), K),
        "bfloat16": lambda: model.recommend(next(requests), K, index=index),
        "autocast": lambda: under_autocast(model, next(requests)),
    }
    if exported is not None:
        draws = model.seeds
        found["exported"] = lambda: exported.recommend(next(requests), K, seeds=draws)
    return found


def with_calibration(model: DiffRec) -> DiffRec:
    """A copy, calibrated."""
    copied = model.replace()
    copied.load_state_dict(model.state_dict())
    copied.eval().calibration = Calibration(temperature=1.2, memory=0.3, popularity=0.1, seen=0.01)
    return copied


def exported_models(model: DiffRec) -> dict[int, ExportedModel]:
    """The model in onnxruntime, by number of threads."""
    with tempfile.TemporaryDirectory() as folder:
        file, *_ = export_onnx(model, Path(folder) / "model.onnx", K)
        return {threads: ExportedModel(file, threads=threads) for threads in THREADS}


def exported_overlap(model: DiffRec, exported: ExportedModel, histories: list[list[int]]) -> float:
    """The share of the model's lists that the exported model finds."""
    lists = model.recommend(histories, K).items, exported.recommend(histories, K, seeds=model.seeds).items
    return sum(len({*own} & {*found}) for own, found in zip(*lists, strict=True)) / (K * len(histories))


def under_autocast(model: DiffRec, histories: list[list[int]]) -> object:
    """Recommendations whose encoder computes in bfloat16; scores and softmax stay in float32."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return model.recommend(histories, K)


@torch.inference_mode()
def floor(model: DiffRec, history: History, latents: Tensor) -> object:
    """The encoder, and the k likeliest items of each draw, from prepared tensors."""
    history = history.with_latents(model.embedding(history.items))
    denoiser = model.denoiser
    denoiser.condition(denoiser.encode(history), model.noising.serving(history.lengths, 1))
    return F.linear(latents, *model.head.scoring_keys()).softmax(-1).topk(K)


def random_model(num_items: int, seed: int) -> DiffRec:
    """``best`` whose latents and logits are about as large as those of a trained one."""
    generator = torch.Generator().manual_seed(seed)
    memory = {"name": "transitions", "share": 0.4, "neighbours": NEIGHBOURS}
    model = presets.best(range(num_items), seed=seed).replace(memory=memory).eval()
    with torch.no_grad():
        model.embedding.weight.normal_(0, 0.3, generator=generator)
        model.denoiser.out.weight.normal_(0, 0.05, generator=generator)
        model.memory.items.random_(num_items, generator=generator)
        model.memory.counts.uniform_(generator=generator)
        model.popularity.random_(1, 100, generator=generator)
    return model


def tails(timing: Timing, least: Timing) -> dict[str, float]:
    """The 99th percentile, and how many times longer than the floor."""
    return {"p99_seconds": float(np.percentile(timing.seconds, 99)), "over_floor": timing.over(least)}


def add_ratios(results: Results, timings: dict[str, Timing], num_items: int, users: int, draws: int) -> None:
    """Those that the program ends with, on one thread."""
    targets = {BEAUTY_ITEMS: "<= 1.15", 1_000_000: "<= 0.4"}
    if users == 1 and num_items in targets:
        for way in ("recommend", "calibrated", "exported"):
            if way in timings:
                name = f"{num_items}_items_{way}_{draws}_draws_vs_floor"
                results.ratio(name, timings[way].over(timings["floor"]), targets[num_items])
    if "diffurec" in timings:
        for way in ("recommend", "calibrated", "autocast", "exported"):
            if way in timings:
                name = f"diffurec_32_steps_vs_{way}_64_users"
                results.ratio(name, timings["diffurec"].over(timings[way]), ">= 100")


if __name__ == "__main__":
    main()
