"""The absorbing process, and the one that blanks a share of the queries."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest
from strategies import gaussian, schedule_of, schedules, seeded

from diffusers_rec import ConditionalMLPDenoiser, DiffRec, MaskProcess, MixedProcess
from diffusers_rec.processes.mask import is_blank
from diffusers_rec.processes.process import GaussianProcess

small = schedules(num_timesteps=st.integers(1, 25))


@given(schedule=schedules(num_timesteps=st.integers(4, 25)), data=st.data())
def test_a_position_is_blank_with_the_probability_of_its_step(schedule, data):
    n, m = (data.draw(st.integers(0, schedule.num_timesteps)) for _ in range(2))
    x0 = gaussian(2, 500, 2, 3)
    steps = torch.tensor([n, m]).expand(2, 500, 2)
    blank = is_blank(MaskProcess(schedule).corrupt(x0, steps, seeded(1)).xn)
    for place, step in enumerate((n, m)):
        chance = 1 - float(schedule.alpha_bar[step])
        assert binomtest(int(blank[..., place].sum()), 1000, chance).pvalue > 1e-4


@given(schedule=small, data=st.data())
def test_what_is_not_blank_is_the_clean_latent(schedule, data):
    n = data.draw(st.integers(0, schedule.num_timesteps))
    x0, process = gaussian(2, 50, 2, 3), MaskProcess(schedule)
    corrupted = process.corrupt(x0, torch.full((2, 50), n), seeded(1))
    blank = is_blank(corrupted.xn)
    assert torch.equal(corrupted.xn[~blank], x0[~blank])
    assert torch.equal(process.corrupt(x0, torch.full((2, 50), n), None, noise=corrupted.noise).xn, corrupted.xn)
    expected = torch.where(blank, schedule.num_timesteps, 0)
    assert torch.equal(process.seen_steps(corrupted.xn, torch.full((2, 50), n)), expected)
    assert process.evidence(corrupted.xn, expected) is None


@given(schedule=schedules(num_timesteps=st.integers(4, 25)), data=st.data())
def test_a_step_leaves_the_marginal_as_the_process_has_it(schedule, data):
    """Blank at n and then at m with the probability that a position is blank at m."""
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m = data.draw(st.integers(0, n))
    process, x0 = MaskProcess(schedule), gaussian(1, 2000, 1, 3)
    xn = process.corrupt(x0, torch.full((1, 2000), n), seeded(1)).xn
    xm = process.step(x0, xn, n, m, seeded(2))
    assert binomtest(int(is_blank(xm).sum()), 2000, 1 - float(schedule.alpha_bar[m])).pvalue > 1e-4
    kept = ~is_blank(xn)
    assert torch.equal(xm[kept], xn[kept])


@given(schedule=small, data=st.data())
def test_an_item_that_stands_is_never_changed(schedule, data):
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m, eta = data.draw(st.integers(0, n)), data.draw(st.floats(0, 1))
    xn, x0 = gaussian(2, 3, 4, 5, seed=1), gaussian(2, 3, 4, 5, seed=2)
    xn[:, :, 1] = 0.0
    xm = MaskProcess(schedule).step(x0, xn, n, m, seeded(0), eta=eta)
    assert torch.equal(xm[:, :, [0, 2, 3]], xn[:, :, [0, 2, 3]])
    filled = (xm[:, :, 1] == x0[:, :, 1]).all(-1)
    assert torch.equal(xm[:, :, 1], x0[:, :, 1] * filled[..., None])


@given(schedule=small)
def test_a_chain_begins_with_blanks(schedule):
    assert is_blank(MaskProcess(schedule).start((2, 3, 4, 5), seeded(0))).all()


@given(schedule=small)
def test_the_weights_of_the_bound_count_every_position_once(schedule):
    """A position is filled in at some step, unless it is still there at step N."""
    process, steps = MaskProcess(schedule), torch.arange(1, schedule.num_timesteps + 1)
    filled = (1 - schedule.alpha_bar[1:]) * process.bound_weight(steps)
    torch.testing.assert_close(filled.sum(), 1 - schedule.alpha_bar[-1])
    assert (process.bound_weight(steps) >= 0).all()
    first = process.bound_weight(torch.ones(2, 3, dtype=torch.int64))
    torch.testing.assert_close(first, torch.ones(2, 3, dtype=torch.float64))


# The mixed process


@given(schedule=small, blank=st.sampled_from([0.0, 0.3, 1.0]), data=st.data())
def test_a_share_of_the_queries_is_blank_and_the_others_are_gaussian(schedule, blank, data):
    n = data.draw(st.integers(1, schedule.num_timesteps))
    process, x0 = MixedProcess(schedule, blank=blank), gaussian(4, 250, 3, 2)
    steps = torch.full((4, 250, 3), n)
    steps[..., 1] = 0
    corrupted = process.corrupt(x0, steps, seeded(1))
    found = is_blank(corrupted.xn)
    assert torch.equal(found[..., 0], found[..., 2])
    assert torch.equal(corrupted.xn[..., 1, :], x0[..., 1, :])
    assert binomtest(int(found[..., 0].sum()), 1000, blank).pvalue > 1e-4
    others = ~found[..., 0]
    expected = schedule.add_noise(x0, corrupted.noise, steps)
    torch.testing.assert_close(corrupted.xn[others], expected[others])
    seen = process.seen_steps(corrupted.xn, steps)
    assert torch.equal(seen, torch.where(found, schedule.num_timesteps, steps))


@given(schedule=small, data=st.data())
def test_a_blank_is_no_evidence_and_a_gaussian_latent_is(schedule, data):
    n = torch.full((2, 3), data.draw(st.integers(1, schedule.num_timesteps)))
    xn = gaussian(2, 3, 1, 4)
    xn[0] = 0.0
    linear, quadratic = MixedProcess(schedule).evidence(xn, n[..., None])
    expected = GaussianProcess(schedule).evidence(xn, n[..., None])
    assert not linear[0].any()
    assert not quadratic[0].any()
    assert torch.equal(linear[1], expected[0][1])
    assert torch.equal(quadratic[1].expand_as(expected[1][1]), expected[1][1])


@given(schedule=small, data=st.data())
def test_gaussian_evidence_is_the_density_of_the_latent(schedule, data):
    n = data.draw(st.integers(1, schedule.num_timesteps))
    level = schedule.level(n)
    xn, items = gaussian(3, 4), gaussian(5, 4, seed=1)
    linear, quadratic = GaussianProcess(schedule).evidence(xn[None], torch.full((1, 3), n))
    got = (linear @ items.T - quadratic * items.square().sum(-1))[0]
    density = torch.distributions.Normal(level.signal * items, level.variance**0.5)
    expected = density.log_prob(xn[:, None]).sum(-1)
    torch.testing.assert_close(got.log_softmax(-1), expected.log_softmax(-1), rtol=1e-6, atol=1e-7)


def test_a_clean_latent_is_no_evidence():
    """Its item is known, and no prediction is asked of it."""
    linear, quadratic = GaussianProcess(schedule_of("sqrt", 10)).evidence(gaussian(1, 2, 4), torch.zeros(1, 2).long())
    assert not linear.any()
    assert not quadratic.any()


def test_draws_have_their_own_generators():
    """Draw q depends on generator q alone, and all histories share it."""
    process, x0 = MaskProcess(schedule_of("sqrt", 10)), gaussian(1, 1, 2, 3).expand(4, 6, 2, 3)
    xn = process.corrupt(x0, torch.full((4, 6), 6), [seeded(seed) for seed in range(6)]).xn
    for draw in range(6):
        alone = process.corrupt(x0[:1, :1], torch.full((1, 1), 6), [seeded(draw)]).xn
        assert torch.equal(xn[:, draw], alone[:, 0].expand(4, 2, 3))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda schedule: MixedProcess(schedule, blank=1.5), ValueError, "blank must be a finite number"),
        (lambda schedule: MixedProcess(schedule, blank="half"), TypeError, "blank must be a finite number"),
        (
            lambda schedule: MaskProcess(schedule).step(*[gaussian(1, 1, 2)] * 2, 2, 1, seeded(0), eta=2),
            ValueError,
            "eta must be a finite number",
        ),
        (
            lambda schedule: MaskProcess(schedule).corrupt(gaussian(1, 1, 2), torch.ones(1, 1).long(), None),
            TypeError,
            "Noise is drawn from a generator, got None",
        ),
    ],
)
def test_bad_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make(schedule_of("sqrt", 10))


@pytest.mark.parametrize("name", ["mask", "mixed"])
def test_a_blank_holds_no_noise_to_predict(name):
    class Velocity(ConditionalMLPDenoiser):
        prediction = "velocity"

    with pytest.raises(ValueError, match=f"the process '{name}' has blanks.*the denoiser predicts velocity"):
        DiffRec(range(9), dim=8, process=name, denoiser=Velocity(8, 50))
    assert (
        DiffRec(range(9), dim=8, process=name, denoiser=ConditionalMLPDenoiser(8, 50)).process.registered_name == name
    )


@given(schedule=small)
def test_steps_outside_the_schedule_are_refused(schedule):
    process, x0, last = MaskProcess(schedule), gaussian(1, 1, 2), schedule.num_timesteps
    for step in (-1, last + 1):
        with pytest.raises(ValueError, match=rf"timesteps must lie in 0\.\.{last}, got {step}"):
            process.corrupt(x0, torch.full((1, 1), step), seeded(0))
        with pytest.raises(ValueError, match=rf"timesteps must lie in 0\.\.{last}, got {step}"):
            process.step(x0, x0, step, 0, seeded(0))
    for step in (0, last + 1):
        with pytest.raises(ValueError, match=rf"timesteps must lie in 1\.\.{last}, got"):
            process.bound_weight(torch.tensor([1, step]))
    with pytest.raises(TypeError, match=r"timesteps must be integers, got torch\.float32"):
        process.bound_weight(torch.ones(2))
