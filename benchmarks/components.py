"""The schedule's Gaussian algebra against that of diffusers' ``DDPMScheduler``, on ``(256, 64)`` latents.

``add_noise`` takes a timestep a row in both libraries. diffusers has the posterior inside ``step``, for one timestep of
the whole batch; at its last timestep it draws no noise, so there the two compute the same mean, ours the variance as
well. At an inner timestep its ``step`` also draws, so ours draws beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Generator, Tensor

from benchmarks import plots
from benchmarks.harness import Results, argument_parser, compare, parse
from diffusers_rec import LinearSchedule, NoiseSchedule

ROWS, DIM = 256, 64
NUM_TIMESTEPS = 1000
INNER = 500

draw = partial(plots.dots, names=["operation", "library"], panels={"median_seconds": "time per call"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    generator = Generator().manual_seed(options.seed)
    x0, noise = (torch.randn(ROWS, DIM, generator=generator) for _ in range(2))
    timesteps = torch.randint(1, NUM_TIMESTEPS + 1, (ROWS,), generator=generator)
    results = Results("components", options)
    pairs = against_diffusers(x0, noise, timesteps, generator)
    for operation, functions in pairs.items():
        timings = compare(
            functions, repeats=40, calls=200 if options.quick else 1000, budget=4 if options.quick else 20
        )
        for name, timing in timings.items():
            results.add({"operation": operation, "library": name, "rows": ROWS, "dim": DIM}, timing)
        if "diffusers" in timings:
            aimed = operation in ("add_noise", "posterior")
            times = timings["diffusers"].over(timings["diffusers_rec"])
            results.ratio(f"{operation}_vs_diffusers", times, ">= 2" if aimed else "")
    results.write(draw)


def against_diffusers(
    x0: Tensor, noise: Tensor, timesteps: Tensor, generator: Generator
) -> dict[str, dict[str, Callable[[], object]]]:
    """By operation, then by library; ours alone where diffusers is missing."""
    schedule = LinearSchedule(NUM_TIMESTEPS)
    xn = schedule.add_noise(x0, noise, timesteps)
    last, inner = torch.full((ROWS,), 1), torch.full((ROWS,), INNER)
    same = torch.tensor(INNER).expand(ROWS)
    ours: dict[str, dict[str, Callable[[], object]]] = {
        "add_noise": {"diffusers_rec": partial(schedule.add_noise, x0, noise, timesteps)},
        "posterior": {"diffusers_rec": partial(schedule.posterior, x0, xn, last)},
        "posterior_expanded": {"diffusers_rec": partial(schedule.posterior, x0, xn, same)},
        "reverse_step": {"diffusers_rec": partial(reverse_step, schedule, x0, xn, inner, generator)},
    }
    try:
        from diffusers import DDPMScheduler  # noqa: PLC0415 - of the test extra alone
    except ImportError:
        print("diffusers is missing (pip install diffusers): there is nothing to compare with")
        return ours
    theirs = DDPMScheduler(
        NUM_TIMESTEPS, beta_schedule="linear", prediction_type="sample", clip_sample=False, thresholding=False
    )
    at = partial(theirs.step, x0, sample=xn, generator=generator, return_dict=False)
    ours["add_noise"]["diffusers"] = partial(theirs.add_noise, x0, noise, timesteps - 1)  # theirs count from 0
    ours["posterior"]["diffusers"] = partial(at, timestep=0)
    ours["posterior_expanded"]["diffusers"] = partial(at, timestep=0)
    ours["reverse_step"]["diffusers"] = partial(at, timestep=INNER - 1)
    return ours


def reverse_step(schedule: NoiseSchedule, x0: Tensor, xn: Tensor, timesteps: Tensor, generator: Generator) -> Tensor:
    """The posterior and a draw from it."""
    mean, variance = schedule.posterior(x0, xn, timesteps)
    return mean + variance.sqrt() * torch.randn(xn.shape, generator=generator)


if __name__ == "__main__":
    main()
