"""The configuration of each published diffusion model in one row: corruption, noise, parts, number of weights.

Nothing is trained. The noise is its share in the variance at step N for latents of unit variance, 1 - alpha_bar_N
where the schedule preserves variance. ``latent_scale`` is the factor of the corrupted latents in the denoiser's input.
Weights are counted for the catalogue of Beauty; the width of the table is the preset's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.data import BEAUTY_ITEMS
from benchmarks.field.settings import FIELD
from benchmarks.harness import Results, Row, argument_parser, command, parse
from diffusers_rec import Denoiser, DiffRec, Recommender, Vocabulary, attribute_bags
from diffusers_rec.evaluation.audit import noise_at_the_end
from diffusers_rec.guidance import unwrapped
from diffusers_rec.presets import PRESETS, d3rec

QUICK_ITEMS = 50
GENRES = 18
"""Categories of ML-1M, for ``d3rec``."""


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argument_parser(__doc__), argv)
    results = Results("configurations", options)
    items = Vocabulary(range(QUICK_ITEMS if options.quick else BEAUTY_ITEMS))
    for name in ("paper", *FIELD):
        results.add({"preset": name, **configuration(PRESETS[name](items))})
    categories = attribute_bags(items, [[str(item % GENRES)] for item in range(len(items))])
    results.add({"preset": "d3rec", **configuration(d3rec(items, categories=categories))})
    results.write()


def configuration(model: Recommender) -> Row:
    """The parts of a model by name; those of a :class:`~diffusers_rec.DiffRec`, or its class."""
    row: dict[str, Any] = {
        "noise": noise_at_the_end(model),
        "weights": sum(weight.numel() for weight in model.parameters()),
    }
    if not isinstance(model, DiffRec):
        return {"model": type(model).__name__, "steps": model.num_timesteps, **row}
    config = model.config()
    terms = config["objective"].get("terms") or [{"name": config["objective"]["name"]}]
    return {
        "model": "DiffRec",
        "steps": model.schedule.num_timesteps,
        **row,
        "corrupted": config["noising"]["name"],
        "process": config["process"]["name"],
        "schedule": config["schedule"]["name"],
        "denoiser": unwrapped(model.denoiser).registered_name,
        "latent_scale": scale_of_latents(unwrapped(model.denoiser)),
        "guide": model.denoiser.registered_name if unwrapped(model.denoiser) is not model.denoiser else "",
        "objective": ", ".join(term["name"] for term in terms),
        "sampler": config["sampler"]["name"],
        "serving_steps": model.sampler.num_steps or model.schedule.num_timesteps,
    }


def scale_of_latents(denoiser: Denoiser) -> float:
    """Mean factor of the corrupted latents in the input of a denoiser; 0 where it does not read them."""
    return float(getattr(denoiser, "mean_scale", 1.0)) if denoiser.reads_xn else 0.0


if __name__ == "__main__":
    command(main)
