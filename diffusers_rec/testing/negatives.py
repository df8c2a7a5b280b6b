"""The contract of negatives: items are drawn as often as the sample expects."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from diffusers_rec.items.negatives import Negatives, NegativeSample
from diffusers_rec.testing.contract import Case, Maker, Suite, expect, expect_equal, expect_finite
from diffusers_rec.testing.inputs import global_state_from, seeded

COUNTS = [40, 20, 10, 5, 1, 0]
"""How often each item is a target in training."""
DRAWS = 400


def samples_have_their_shapes(negatives: Negatives) -> None:
    """A sample has int64 indices and float32 log counts, ``(N,)`` or ``(M, N)``, also for a single target."""
    for count in (1, 2, 9):
        sample = drawn(negatives, count)
        if sample is None:
            return  # all items
        items, log_expected = sample.items, sample.log_expected
        fits = items.ndim == 1 or (items.ndim == 2 and len(items) == count)
        expect(fits, f"items (N,), or ({count}, N) for {count} targets", tuple(items.shape))
        expect(items.dtype == torch.int64, "items in int64", items.dtype)
        expect(log_expected.shape == items.shape, f"log_expected {tuple(items.shape)}", tuple(log_expected.shape))
        expect(log_expected.dtype == torch.float32, "log_expected in float32", log_expected.dtype)
        expect_finite("log_expected", log_expected)
        expect(bool(((items >= 0) & (items < len(COUNTS))).all()), f"items in 0..{len(COUNTS) - 1}", items.tolist())


def the_same_generator_gives_the_same_sample(negatives: Negatives) -> None:
    """The sample depends only on the generator, not on the global random state."""
    samples = []
    for state in (1, 2):
        with global_state_from(state):
            samples.append(_tensors(drawn(negatives, 9, seed=3)))
    for one, other in zip(*samples, strict=True):
        expect_equal("a sample from the same generator", other, one)


def frequencies_match_the_expected_counts(negatives: Negatives) -> None:
    """Over many draws, frequencies match the expected counts within 3% and five standard deviations."""
    seen, expected = torch.zeros(2, len(COUNTS), dtype=torch.float64)
    for seed in range(DRAWS):
        sample = drawn(negatives, 50, seed)
        if sample is None:
            return
        items, number = sample.items.flatten(), sample.log_expected.double().exp().flatten()
        counted = torch.bincount(items, minlength=len(COUNTS))
        if sample.items.ndim == 2:  # those next to a different target
            targets = training_targets(50, seed)
            own = (sample.items == targets[:, None]).sum(1)
            counted -= torch.bincount(targets, own, minlength=len(COUNTS)).long()
            each = torch.zeros(len(COUNTS), dtype=torch.float64).scatter(0, items, number)
            expected += each * (50 - torch.bincount(targets, minlength=len(COUNTS)))
        else:
            expected[items] = number * DRAWS
        seen += counted
    # Each target of a batch is compared with the 49 others.
    allowed = 0.03 * expected + 5 * expected.sqrt()
    for item in ((seen - expected).abs() > allowed).nonzero()[:, 0].tolist():
        expect(False, f"item {item} about {expected[item]:.0f} times in {DRAWS} draws", int(seen[item]))


CLAUSES = (
    samples_have_their_shapes,
    the_same_generator_gives_the_same_sample,
    frequencies_match_the_expected_counts,
)


def training_targets(count: int, seed: int = 0) -> Tensor:
    """Random targets with frequencies proportional to ``COUNTS``."""
    return torch.multinomial(torch.tensor(COUNTS).double(), count, replacement=True, generator=seeded(seed))


def fitted(negatives: Negatives) -> Negatives:
    """Fit negatives to ``COUNTS``."""
    negatives.fit(torch.tensor(COUNTS))
    return negatives


def drawn(negatives: Negatives, targets: int, seed: int = 0) -> NegativeSample | None:
    """Draw a sample for some training targets."""
    return negatives.draw(training_targets(targets, seed), len(COUNTS), seeded(seed))


def _tensors(sample: NegativeSample | None) -> list[Tensor]:
    return [] if sample is None else [sample.items, sample.log_expected]


def _cases(maker: Maker) -> Iterator[Case]:
    yield Case("", (fitted(maker()),))
    if maker.leaves_open("count"):
        yield Case("count=50", (fitted(maker(count=50)),))
    if maker.leaves_open("shared"):
        yield Case("shared=False", (fitted(maker(shared=False)),))


def _outputs(negatives: Negatives) -> list[Tensor]:
    return _tensors(drawn(fitted(negatives), 9))


SUITE = Suite(Negatives, _cases, CLAUSES, _outputs)
