"""The contract of a timestep sampler: draws from 1..N, and weights that keep the expectation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.testing.contract import (
    Case,
    Maker,
    Suite,
    copy_of,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
)
from diffusers_rec.testing.inputs import seeded

LENGTHS = [1, 2, 6, 20]
DRAWS = 20_000


def probabilities_sum_to_one(sampler: TimestepSampler) -> None:
    """Probabilities are positive float64 values for n = 1..N with sum one."""
    p = sampler.probabilities()
    expect(p.shape == (sampler.num_timesteps,), f"probabilities ({sampler.num_timesteps},)", tuple(p.shape))
    expect(p.dtype == torch.float64, "probabilities in float64", p.dtype)
    expect((p > 0).all(), "positive probabilities", p.min().item())
    expect_close("their sum", p.sum(), torch.ones((), dtype=torch.float64))


def steps_are_drawn_from_1_to_n(sampler: TimestepSampler) -> None:
    """Steps are in 1..N, not in 0..N-1: step 0 is clean, and serving starts at step N."""
    steps, _ = sampler.sample((200, 20), seeded(0))
    low, high, last = int(steps.min()), int(steps.max()), sampler.num_timesteps
    expect(low >= 1 and high <= last, f"steps in 1..{last}", f"steps in {low}..{high}")


def frequencies_match_the_probabilities(sampler: TimestepSampler) -> None:
    """Each count is within five standard deviations of its expectation."""
    steps, _ = sampler.sample((DRAWS // 100, 100), seeded(2))
    p = sampler.probabilities()
    counts = torch.bincount(steps.flatten(), minlength=sampler.num_timesteps + 1)[1:]
    allowed = 5 * (DRAWS * p * (1 - p)).sqrt() + 1e-6
    for n in ((counts - DRAWS * p).abs() > allowed).nonzero()[:1, 0].tolist():
        expect(False, f"n = {n + 1} about {DRAWS * p[n]:.0f} times in {DRAWS} draws", int(counts[n]))


def weights_are_inverse_probabilities(sampler: TimestepSampler) -> None:
    """w_n is 1 / (N p_n) for the mean over n, and 1 / p_n for the sum, so losses are unbiased; 1 as drawn."""
    steps, weights = sampler.sample((500,), seeded(0))
    if sampler.estimate == "drawn":
        expect_equal("w_n as drawn", weights, torch.ones_like(weights))
        return
    scale = {"mean": sampler.num_timesteps, "sum": 1}[sampler.estimate]
    product = scale * sampler.probabilities()[steps - 1] * weights
    expect_close(f"w_n p_n times {scale}", product, torch.ones_like(product), rtol=1e-6)


def the_same_generator_gives_the_same_bits(sampler: TimestepSampler) -> None:
    """int64 timesteps and float32 weights depend only on the generator."""
    for shape in ((3,), (2, 4), (2, 3, 1)):
        draws = [sampler.sample(shape, seeded(7)) for _ in range(2)]
        for what, one, other, dtype in zip(("steps", "weights"), *draws, (torch.int64, torch.float32), strict=True):
            expect_equal(f"{what} from the same generator", one, other)
            expect(one.shape == shape, f"{what} of shape {shape}", tuple(one.shape))
            expect(one.dtype == dtype, f"{what} in {dtype}", one.dtype)
    if sampler.probabilities().max() < 0.9:
        others = [sampler.sample((500,), seeded(seed))[0] for seed in (1, 2)]
        expect(not torch.equal(*others), "steps that depend on the generator", "the same from two generators")


def results_are_on_the_given_device(sampler: TimestepSampler) -> None:
    """Timesteps and weights are on the given device."""
    for result in sampler.sample((2, 3), seeded(0), torch.device("meta")):
        expect(result.device.type == "meta", "a result on the given device", result.device)


def start_share_goes_to_the_last_step(sampler: TimestepSampler) -> None:
    """A start share s changes p_N to s + (1 - s) p_N, and scales the others by 1 - s."""
    if "start_share" in sampler.settings():
        plain, shared = (copy_of(sampler, start_share=share).probabilities() for share in (0.0, 0.3))
        expected = 0.7 * plain
        expected[-1] += 0.3
        expect_close("p_n with start_share = 0.3", shared, expected)


def update_keeps_no_graph(sampler: TimestepSampler) -> None:
    """After losses of any shape and dtype, the state has finite tensors without gradient."""
    trained = copy.deepcopy(sampler)
    train(trained, dtype=torch.bfloat16, graph=True)
    trained.update(torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, 1))
    for name, value in trained.state_dict().items():
        expect(not value.requires_grad, f"{name} without gradient", "one that holds a graph")
        if value.is_floating_point():
            expect_finite(name, value)
    probabilities_sum_to_one(trained)


def learned_state_round_trips(sampler: TimestepSampler) -> None:
    """A sampler that loads the state draws the same, and updates do not change an earlier state."""
    ours, fresh = copy.deepcopy(sampler), copy_of(sampler)
    state = ours.state_dict()
    train(ours)
    fresh.load_state_dict(state)
    expect_equal("p_n after loading", fresh.probabilities(), sampler.probabilities())
    for one, other in zip(fresh.sample((40,), seeded(3)), sampler.sample((40,), seeded(3)), strict=True):
        expect_equal("a draw after loading", one, other)


CLAUSES = (
    probabilities_sum_to_one,
    steps_are_drawn_from_1_to_n,
    frequencies_match_the_probabilities,
    weights_are_inverse_probabilities,
    the_same_generator_gives_the_same_bits,
    results_are_on_the_given_device,
    start_share_goes_to_the_last_step,
    update_keeps_no_graph,
    learned_state_round_trips,
)


def train(
    sampler: TimestepSampler, times: int = 12, *, dtype: torch.dtype = torch.float32, graph: bool = False
) -> TimestepSampler:
    """Update a sampler at each step, with a loss that increases with n."""
    steps = torch.arange(1, sampler.num_timesteps + 1).repeat(times, 1)
    losses = (0.2 + steps / sampler.num_timesteps).to(dtype).requires_grad_(graph)
    sampler.update(steps, losses * 1)
    return sampler


def _cases(maker: Maker) -> Iterator[Case]:
    lengths = LENGTHS if maker.leaves_open("num_timesteps") else [None]
    for steps in lengths:
        for settings in _settings(maker, steps):
            yield Case(_label(settings), (maker(**settings),))
            yield Case(f"{_label(settings)}, trained", (train(maker(**settings)),))


def _settings(maker: Maker, steps: int | None) -> Iterator[dict[str, Any]]:
    size = {} if steps is None else {"num_timesteps": steps}
    yield size
    for name, value in (("estimate", "sum"), ("estimate", "drawn"), ("start_share", 0.2)):
        if maker.leaves_open(name):
            yield {**size, name: value}


def _label(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items()) or "as given"


def _outputs(sampler: TimestepSampler) -> list[Tensor]:
    return [*sampler.sample((6, 5), seeded(3)), sampler.probabilities(), *sampler.state_dict().values()]


SUITE = Suite(TimestepSampler, _cases, CLAUSES, _outputs)
