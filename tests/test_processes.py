from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import built, gaussian, over, schedule_of, schedules, seeded

from diffusers_rec.data.history import History
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import LinearHead
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.processes.schedules import CosineSchedule, NoiseSchedule, RectifiedSchedule
from diffusers_rec.processes.source import HistorySource, LastItemSource, Source, ZeroSource
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.processes import CLAUSES as PROCESS_CLAUSES
from diffusers_rec.testing.sources import CLAUSES as SOURCE_CLAUSES
from diffusers_rec.testing.sources import example


@pytest.mark.parametrize("name", Process.names())
@over(PROCESS_CLAUSES)
@given(schedule=schedules(num_timesteps=st.integers(1, 25)))
def test_every_process_keeps_its_contract(clause, name, schedule):
    embedding, head = TableEmbedding(7, SIZES["dim"]), LinearHead(7, SIZES["dim"])
    clause(Process.build_with({"schedule": schedule, "embedding": embedding, "head": head}, name))


@pytest.mark.parametrize("name", Source.names())
@over(SOURCE_CLAUSES)
def test_every_source_keeps_its_contract(clause, name):
    source = built(Source, name)
    clause(source.eval() if isinstance(source, torch.nn.Module) else source)


@given(schedule=schedules(num_timesteps=st.integers(1, 25)), data=st.data())
def test_a_step_draws_from_the_posterior(schedule, data):
    """With one number for all latents and with a tensor of steps alike."""
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m = data.draw(st.integers(0, n - 1))
    x0, xn = gaussian(2, 3, 4, seed=1), gaussian(2, 3, 4, seed=2)
    steps = [torch.full((2, 3), step) for step in (n, m)]
    mean, variance = schedule.posterior(x0, xn, *steps)
    noise = torch.randn(2, 3, 4, generator=seeded(3), dtype=torch.float64)
    process = GaussianProcess(schedule)
    for now, then in ((n, m), steps, (n, steps[1])):
        step = partial(process.step, x0, xn, now, then)
        torch.testing.assert_close(step(seeded(3)), mean + variance.sqrt() * noise, rtol=1e-6, atol=1e-9)
        unit = schedule.reverse_variance(x0, *steps)
        wider = step(seeded(3), variance="beta")
        torch.testing.assert_close(wider, mean + unit.sqrt() * noise, rtol=1e-6, atol=1e-9)


@given(schedule=schedules(num_timesteps=st.integers(2, 25)), data=st.data())
def test_the_weight_of_the_bound_is_that_of_its_divergences(schedule, data):
    """The divergence of q(x_{n-1} | x_n, x0) from the same with another x0, two Gaussians of one variance."""
    n = torch.tensor([data.draw(st.integers(2, schedule.num_timesteps))])
    x0, other, xn = (gaussian(1, 4, seed=seed) for seed in (1, 2, 3))
    (mean, variance), (theirs, _) = (schedule.posterior(x, xn, n) for x in (x0, other))
    divergence = (mean - theirs).square() / (2 * variance)
    weight = GaussianProcess(schedule).bound_weight(n)
    torch.testing.assert_close(weight * (x0 - other).square() / 2, divergence, rtol=1e-5, atol=0)
    assert GaussianProcess(schedule).bound_weight(torch.ones(2, 3, dtype=torch.int64)).tolist() == [[1.0] * 3] * 2


@given(schedule=schedules(num_timesteps=st.integers(1, 25)), eta=st.floats(0, 1), data=st.data())
def test_a_step_leaves_the_marginal_as_the_process_has_it(schedule, eta, data):
    """From x_n = a_n x0 + s_n noise the step gives a_m x0 + s_m noise', of whatever eta the noise' is mixed."""
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m = data.draw(st.integers(0, n - 1))
    process, one, zero = GaussianProcess(schedule), *(torch.full((1, 1, 1), x, dtype=torch.float64) for x in (1, 0))
    now, then = schedule.level(n), schedule.level(m)

    def step(x0, noise, seed):
        drawn = process.step(x0, now.signal * x0 + now.sigma * noise, n, m, seeded(seed), eta=eta)
        return float(drawn)

    fresh = step(zero, zero, 0) / float(torch.randn(1, generator=seeded(0), dtype=torch.float64))
    carried = step(zero, one, 0) - step(zero, zero, 0)
    assert step(one, zero, 0) - step(zero, zero, 0) == pytest.approx(then.signal, abs=1e-9)
    assert carried**2 + fresh**2 == pytest.approx(then.variance, abs=1e-9)


@given(num_timesteps=st.integers(2, 25), data=st.data())
def test_a_step_without_noise_on_rectified_levels_is_one_euler_step(num_timesteps, data):
    n = data.draw(st.integers(1, num_timesteps))
    m = data.draw(st.integers(0, n - 1))
    process, x0, xn = GaussianProcess(RectifiedSchedule(num_timesteps)), gaussian(1, 2, 3), gaussian(1, 2, 3, seed=1)
    velocity = process.schedule.velocity_from_x0(x0, xn, torch.full((1, 2), n))
    expected = xn + (m - n) / num_timesteps * velocity
    torch.testing.assert_close(process.step(x0, xn, n, m, None, eta=0.0), expected)


@given(schedule=schedules(num_timesteps=st.integers(1, 25)), data=st.data())
def test_positions_at_steps_of_their_own_step_as_alone(schedule, data):
    steps = st.integers(0, schedule.num_timesteps)
    now = torch.tensor(data.draw(st.lists(steps, min_size=6, max_size=6))).view(1, 2, 3)
    then = (now * torch.tensor(data.draw(st.lists(st.floats(0, 1), min_size=6, max_size=6))).view(1, 2, 3)).long()
    x0, xn = gaussian(1, 2, 3, 4), gaussian(1, 2, 3, 4, seed=1)
    process = GaussianProcess(schedule)
    together = process.step(x0, xn, now, then, None, eta=0.0)
    for q in range(2):
        for k in range(3):
            part = x0[:, q : q + 1, k : k + 1], xn[:, q : q + 1, k : k + 1]
            alone = process.step(*part, int(now[0, q, k]), int(then[0, q, k]), None, eta=0.0)
            torch.testing.assert_close(together[:, q : q + 1, k : k + 1], alone)


def test_a_chain_starts_with_the_spread_of_unit_latents():
    class Exploding(NoiseSchedule):
        def _levels(self, fraction):
            return torch.ones_like(fraction), 10 * fraction

    for schedule, scale in ((CosineSchedule(10), 1.0), (RectifiedSchedule(10), 1.0), (Exploding(10), 101**0.5)):
        start = GaussianProcess(schedule).start((2, 3, 4), seeded(0), dtype=torch.float64)
        noise = torch.randn(2, 3, 4, generator=seeded(0), dtype=torch.float64)
        torch.testing.assert_close(start, scale * noise)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eta": 1.5}, "eta must be a finite number at least 0 and at most 1, got 1.5"),
        ({"variance": "large"}, "variance must be one of 'posterior', 'beta', got 'large'"),
        ({"previous": 6}, "previous must not lie above timesteps, got 6 above 5"),
        ({"timesteps": 11}, r"timesteps must lie in 0\.\.10, got 11"),
        ({"previous": torch.tensor([[6, 5]])}, "previous must not lie above timesteps"),
    ],
)
def test_refuses_a_step_that_is_none(change, message):
    given = {"timesteps": 5, "previous": 4, "generator": seeded(0), **change}
    with pytest.raises(ValueError, match=message):
        GaussianProcess(schedule_of("sqrt", 10)).step(gaussian(1, 2, 3), gaussian(1, 2, 3), **given)


def test_a_random_step_needs_a_generator():
    with pytest.raises(TypeError, match="Noise is drawn from a generator, got None"):
        GaussianProcess(schedule_of("sqrt", 10)).step(gaussian(1, 2, 3), gaussian(1, 2, 3), 5, 4, None)


# Sources


def test_zero_has_no_centre():
    assert ZeroSource().centre(*example()) is None


def test_the_last_visible_item_is_the_centre():
    history, queries = example()
    centre = LastItemSource().centre(history, queries)
    for row, visible in enumerate(queries.visible.tolist()):
        for query, seen in enumerate(visible):
            expected = history.latents[row, seen - 1] if seen else torch.zeros(history.latents.shape[-1])
            assert torch.equal(centre[row, query, 0], expected.to(centre.dtype))


@pytest.mark.parametrize("decay", [0.01, 0.5, 1.0])
def test_the_history_is_averaged_with_weights_that_decay(decay):
    history, queries = example()
    centre = HistorySource(decay=decay).centre(history, queries)
    for row, visible in enumerate(queries.visible.tolist()):
        for query, seen in enumerate(visible):
            weights = [decay ** (seen - 1 - j) for j in range(seen)]
            start = torch.zeros(history.latents.shape[-1])
            expected = sum((w * history.latents[row, j] for j, w in enumerate(weights)), start)
            torch.testing.assert_close(centre[row, query, 0], (expected / (sum(weights) or 1)).to(centre.dtype))


def test_a_long_history_of_fast_decay_is_its_last_item():
    latents = gaussian(1, 2000, 3, dtype=torch.float32)
    history = History.of_latents(latents, torch.tensor([2000]))
    centre = HistorySource(decay=1e-30).centre(history, Queries.next_item(history.lengths))
    torch.testing.assert_close(centre[0, 0, 0], latents[0, -1])


def test_the_decay_of_a_history_lies_in_0_to_1():
    for wrong in (0.0, 1.1):
        with pytest.raises(ValueError, match="decay must be a finite number above 0 and at most 1"):
            HistorySource(decay=wrong)
