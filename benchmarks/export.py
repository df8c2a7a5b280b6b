"""Serving outside of the library: the module of ``one_step`` eager, compiled by ``torch.compile``, and in onnxruntime.

Full histories of 49 items, untrained models of width 64 without a memory, ten draws, a catalogue of Beauty's size: one
request, and 64 at once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS, full_histories
from benchmarks.harness import Results, argument_parser, compare, parse
from benchmarks.models import BACKBONES, untrained
from diffusers_rec import DiffRec
from diffusers_rec.integrations.onnx import INPUTS, export_onnx

K = 10
BATCHES = (1, 64)

draw = partial(
    plots.dots,
    names=["denoiser", "batch", "runs_in"],
    panels={"median_seconds": "seconds a batch, log scale"},
    log=True,
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    results = Results("export", options)
    for backbone in ("conditional-mlp",) if options.quick else BACKBONES:
        model = untrained(backbone, num_items=1000 if options.quick else BEAUTY_ITEMS, dim=64, seed=options.seed)
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            measure(results, backbone, model, Path(folder), options)
    results.write(draw)


def measure(results: Results, backbone: str, model: DiffRec, folder: Path, options: argparse.Namespace) -> None:
    """One model in each of the runtimes."""
    module = model.one_step(K)
    session = session_of(export_onnx(model, folder / "model.onnx", K)[0], options.threads)
    for batch in BATCHES:
        history = full_histories(batch, model.history_length, module.num_items, options.seed)
        tensors = history.items, history.lengths, module.noise(batch), torch.full((batch, 1), -1)
        arrays = dict(zip(INPUTS, (part.numpy() for part in tensors), strict=True))
        torch.compiler.reset()
        functions: dict[str, Callable[[], Any]] = {
            "eager": partial(module, *tensors),
            "onnxruntime": partial(session.run, None, arrays),
        }
        if not options.quick:
            functions["torch.compile"] = partial(torch.compile(module, fullgraph=True), *tensors)
        timings = compare(functions, repeats=101, warmup=3, budget=2 if options.quick else 20)
        for name, timing in timings.items():
            results.add({"denoiser": backbone, "batch": batch, "runs_in": name, "items": module.num_items}, timing)
            if name != "eager":
                words = f"{backbone}_{name}_vs_eager_batch_{batch}".replace("-", "_").replace(".", "_")
                results.ratio(words, timing.over(timings["eager"]))


def session_of(file: Path, threads: int) -> Any:
    """A session of onnxruntime on a number of threads."""
    import onnxruntime  # noqa: PLC0415 - an extra

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(file, settings)


if __name__ == "__main__":
    main()
