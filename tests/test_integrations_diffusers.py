"""Schedules go to diffusers and back, and its schedulers drive our denoisers as our samplers do."""

from __future__ import annotations

import pytest
import torch
from strategies import schedule_of, seeded

from diffusers_rec import DDIMSampler, DDPMSampler, Denoiser, GaussianProcess, History, NoiseSchedule, Queries

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed", exc_type=ImportError)

PRESERVING = [name for name in NoiseSchedule.names() if schedule_of(name, 50).variance_preserving]
CLOSE = {"rtol": 1e-6, "atol": 1e-6}


@pytest.fixture(scope="module")
def denoise():
    """A denoiser of ours for three histories, as a function of the latents and the steps."""
    denoiser = Denoiser.build("conditional-mlp", dim=16, max_length=5).eval()
    lengths = torch.tensor([4, 1, 2])
    history = History.of_latents(torch.randn(3, 4, 16, generator=seeded(0)), lengths)
    with torch.no_grad():
        condition = denoiser.condition(denoiser.encode(history), Queries.next_item(lengths))
        yield lambda xn, n: denoiser(xn, n, condition)


@pytest.mark.parametrize("name", PRESERVING)
@pytest.mark.parametrize(
    ("kind", "sampler"),
    [("DDPMScheduler", DDPMSampler(variance="posterior")), ("DDIMScheduler", DDIMSampler())],
    ids=["ddpm", "ddim"],
)
def test_a_scheduler_of_diffusers_drives_our_denoiser_to_the_same_end(name, kind, sampler, denoise):
    ours = schedule_of(name, 20)
    scheduler = getattr(diffusers, kind).from_config(ours.to_diffusers().config)
    scheduler.set_timesteps(20)
    generator = seeded(2)
    start = xn = torch.randn(3, 1, 1, 16, generator=seeded(1))
    for t in scheduler.timesteps:
        xn = scheduler.step(denoise(xn, (t + 1).expand(3, 1)), t, xn, generator=generator).prev_sample
    torch.testing.assert_close(xn, sampler.sample(denoise, ours, start, seeded(2)), **CLOSE)


def test_fewer_steps_of_diffusers_are_steps_of_our_process(denoise):
    """Theirs go down from N in equal strides, and end with the prediction."""
    ours = schedule_of("sqrt", 20)
    scheduler = diffusers.DDIMScheduler.from_config(ours.to_diffusers().config)
    scheduler.set_timesteps(5)
    assert (scheduler.timesteps + 1).tolist() == [20, 16, 12, 8, 4]
    xn = expected = torch.randn(3, 1, 1, 16, generator=seeded(1))
    for t in scheduler.timesteps:
        n = (t + 1).expand(3, 1)
        xn = scheduler.step(denoise(xn, n), t, xn).prev_sample
        expected = GaussianProcess(ours).step(denoise(expected, n), expected, n, n - 4, None, eta=0.0)
    torch.testing.assert_close(xn, expected, **CLOSE)


@pytest.mark.parametrize("name", PRESERVING)
def test_a_schedule_goes_to_diffusers_and_back(name):
    ours = schedule_of(name, 50)
    back = NoiseSchedule.from_alpha_bar(ours.to_diffusers().alphas_cumprod)
    torch.testing.assert_close(back.alpha_bar, ours.alpha_bar, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("beta_schedule", ["linear", "squaredcos_cap_v2"])
def test_a_scheduler_of_diffusers_noises_as_the_schedule_of_its_levels(beta_schedule):
    theirs = diffusers.DDPMScheduler(100, beta_schedule=beta_schedule)
    ours = NoiseSchedule.from_alpha_bar(theirs.alphas_cumprod)
    x0, noise, t = (
        torch.randn(100, 8, generator=seeded(0)),
        torch.randn(100, 8, generator=seeded(1)),
        torch.arange(100),
    )
    torch.testing.assert_close(ours.add_noise(x0, noise, t + 1), theirs.add_noise(x0, noise, t), **CLOSE)


def test_a_schedule_that_does_not_preserve_variance_has_no_scheduler():
    with pytest.raises(ValueError, match=r"RectifiedSchedule does not preserve variance.*Use a schedule"):
        schedule_of("rectified", 50).to_diffusers()
