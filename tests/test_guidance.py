"""Guides: classifier-free guidance against its formula, the control, and the rule of unwrapping."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussian, seeded, seeds

from diffusers_rec import ClassifierFreeGuide, Denoiser, DiffRec, LinearSchedule, SyntheticWorld, TrainingBatches
from diffusers_rec.guidance import Guide, NoiselessDenoiser, guided, unwrapped
from diffusers_rec.presets import control
from diffusers_rec.testing.contract import Maker
from diffusers_rec.testing.denoisers import perturbed_denoiser
from diffusers_rec.testing.queries import random_input

BASES = ["causal-transformer", "conditional-mlp", "transformer"]
WORLD = SyntheticWorld(30).sample(40).sequences().leave_one_out()
few = settings(max_examples=settings.default.max_examples // 4)
bases = st.sampled_from(BASES)
shapes = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 3),
        "queries": st.integers(1, 3),
        "width": st.integers(1, 2),
        "length": st.integers(0, 5),
        "own_steps": st.booleans(),
        "seed": seeds,
    }
)

AT_NULL = {"name": "cross-entropy", "at": "null"}


def made(name, base="conditional-mlp", **settings):
    """A guide in evaluation mode, in float64, with no weight at zero."""
    return perturbed_denoiser(Maker(Denoiser, Denoiser.named(name), {"base": base, **settings}))


def both(guide, given_input):
    """The predictions of the base with and without the history."""
    return given_input.predict(guide.base), given_input.predict(guide.base, null=True)


@few
@given(base=bases, shape=shapes, scale=st.floats(0, 8))
def test_guidance_is_linear_in_its_scale(base, shape, scale):
    guide = made("classifier-free", base, scale=scale)
    given_input = random_input(guide, **shape)
    plain, null = both(guide, given_input)
    got = given_input.predict(guide)[given_input.real]
    torch.testing.assert_close(got, (null + scale * (plain - null))[given_input.real])


@few
@given(base=bases, shape=shapes)
def test_scale_1_is_the_plain_prediction_and_scale_0_the_null_one(base, shape):
    guide = made("classifier-free", base)
    given_input = random_input(guide, **shape)
    plain, null = both(guide, given_input)
    assert torch.equal(given_input.predict(guide), plain)
    real = given_input.real
    torch.testing.assert_close(given_input.predict(guided(guide, 0))[real], null[real])


@few
@given(shape=shapes, start=st.floats(0, 1), length=st.floats(0, 1), scale=st.floats(0, 4))
def test_guidance_acts_between_start_and_stop(shape, start, length, scale):
    """A step n is guided where 1 - n / N lies in [start, stop); at the others the prediction is the plain one."""
    stop = min(1.0, start + length)
    guide = made("classifier-free", scale=scale, start=start, stop=stop)
    given_input = random_input(guide, **shape)
    plain, null = both(guide, given_input)
    done = 1 - given_input.timesteps / guide.schedule.num_timesteps
    inside = (done >= start) & (done < stop)
    if inside.ndim == 2:
        inside = inside[..., None].expand(given_input.real.shape)
    expected = torch.where(inside[..., None], null + scale * (plain - null), plain)
    torch.testing.assert_close(given_input.predict(guide)[given_input.real], expected[given_input.real])


def test_the_null_condition_of_a_guide_is_that_of_its_base():
    guide = made("classifier-free", scale=3.0)
    given_input = random_input(guide, 2, 3, 2, 5)
    null = given_input.predict(guide.base, null=True)
    torch.testing.assert_close(given_input.predict(guide, null=True)[given_input.real], null[given_input.real])


@pytest.mark.parametrize("drop", [0.0, 0.2, 0.7])
def test_training_hides_the_history_of_a_share_of_the_queries(drop):
    guide = made(
        "classifier-free",
        {"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "dropout": 0.0}},
        drop=drop,
        scale=5.0,
    )
    given_input = random_input(guide, 40, 50, 1, 5).full()
    plain, null = both(guide, given_input)
    hidden = guide.train().hidden(given_input.queries, seeded(3))
    prediction = given_input.predict(guide, null=hidden)
    dropped, given_ones = ((prediction - each).abs().amax((2, 3)) < 1e-9 for each in (null, plain))
    assert (dropped ^ given_ones).all()
    assert torch.equal(dropped, hidden)
    share, deviation = dropped.double().mean().item(), (drop * (1 - drop) / dropped.numel()) ** 0.5
    assert abs(share - drop) <= 5 * deviation


def test_the_posterior_refuses_latents_that_are_centred_elsewhere():
    with pytest.raises(ValueError, match="'posterior' weighs items by latents that are centred on zero"):
        DiffRec(WORLD.train.vocabulary, dim=8, max_length=9, denoiser="posterior", source="history")


def test_a_centre_would_show_the_history_that_is_hidden():
    for part in ({"denoiser": "classifier-free"}, {"objective": {"name": "weighted", "terms": [AT_NULL]}}):
        with pytest.raises(ValueError, match=r"show.* Use source='zero'"):
            DiffRec(WORLD.train.vocabulary, dim=8, max_length=9, source="last-item", **part)


def test_training_draws_from_the_generator_alone():
    model = DiffRec(WORLD.train.vocabulary, dim=8, max_length=9, denoiser={"name": "classifier-free", "drop": 0.5})
    batch = next(iter(TrainingBatches(WORLD.train, batch_targets=64).epoch(0)))
    before = torch.get_rng_state()
    losses = [model.train()(batch, seeded(seed)).total.item() for seed in (4, 4, 5)]
    assert torch.equal(torch.get_rng_state(), before)
    assert losses[0] == losses[1] != losses[2]


def test_training_learns_both_predictions():
    guide = made("classifier-free", "conditional-mlp", drop=0.5).train()
    given_input = random_input(guide, 8, 4, 1, 5).full()
    given_input.predict(guide, null=guide.hidden(given_input.queries, seeded(0))).sum().backward()
    assert guide.base.empty.grad.any()
    assert all(parameter.grad.any() for parameter in guide.base.encoder.parameters() if parameter.grad is not None)


def test_a_guided_chain_encodes_once_and_predicts_twice_a_step():
    model = DiffRec(WORLD.train.vocabulary, dim=8, max_length=9, denoiser="classifier-free", sampler="ddim").eval()
    calls = {"encode": 0, "condition": 0, "forward": 0}
    base = model.denoiser.base

    def count(name):
        function = getattr(base, name)

        def counted(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        setattr(base, name, counted)

    for name in calls:
        count(name)
    histories = [WORLD.train.vocabulary.decode(WORLD.test.histories[0])]
    sampler = {"name": "ddim", "num_steps": 7}
    for guidance, expected in ((None, (1, 1, 7)), (2.0, (1, 2, 14)), ({"scale": 1.0}, (1, 1, 7))):
        calls.update(dict.fromkeys(calls, 0))
        model.sample(histories, seeds=2, sampler=sampler, guidance=guidance)
        assert tuple(calls.values()) == expected


def test_the_guidance_of_a_call_is_that_of_a_model_with_these_settings():
    settings = {"scale": 3.0, "start": 0.2, "stop": 0.9}
    parts = {"dim": 8, "max_length": 9, "sampler": {"name": "ddim", "num_steps": 5}}
    own = DiffRec(WORLD.train.vocabulary, denoiser={"name": "classifier-free", **settings}, **parts)
    other = DiffRec(WORLD.train.vocabulary, denoiser="classifier-free", **parts)
    histories = [WORLD.train.vocabulary.decode(row) for row in list(WORLD.test.histories)[:3]]
    for model in (own, other):
        model.denoiser.base.out.weight.data.copy_(0.1 * gaussian(8, 8))
    expected = own.sample(histories, seeds=2)
    assert torch.equal(other.sample(histories, seeds=2, guidance=settings), expected)
    assert not torch.allclose(other.sample(histories, seeds=2), expected)
    assert other.denoiser.scale == 1.0


@pytest.mark.parametrize(
    ("guidance", "error", "message"),
    [
        (-1.0, ValueError, r"scale must be a finite number at least 0, got -1\.0"),
        ({"scale": "much"}, TypeError, "scale must be a"),
        (
            {"start": 0.6, "stop": 0.5},
            ValueError,
            r"stop must be a finite number at least 0\.6 and at most 1, got 0\.5",
        ),
        ({"drop": 0.5}, ValueError, "Unknown guidance setting of 'classifier-free': 'drop'. Known: scale, start, stop"),
        ({"scal": 2}, ValueError, r"'scal'.*Did you mean 'scale'"),
    ],
)
def test_wrong_guidance_is_refused(guidance, error, message):
    with pytest.raises(error, match=message):
        guided(made("classifier-free"), guidance)


def test_a_number_is_a_scale_alone():
    class Shift(ClassifierFreeGuide):
        per_call = ("start", "stop")

    with pytest.raises(ValueError, match=r"guidance=2\.0 sets a scale, but .* has none.*mapping .*: start, stop"):
        guided(Shift(schedule=LinearSchedule(50), dim=8, max_length=9), 2.0)


def test_the_settings_of_a_call_are_stored_without_a_word_of_the_guide(fresh_registry):
    class Scaled(Guide, name="test-scaled"):
        per_call = ("strength",)

        def __init__(self, base="conditional-mlp", *, strength=0.0, schedule, dim=8, max_length=9, seed=0):
            super().__init__(base, schedule=schedule, dim=dim, max_length=max_length, seed=seed)
            self.strength = strength

        def forward(self, xn, timesteps, condition):
            return (1 - self.strength) * self.base(xn, timesteps, condition)

    model = DiffRec(range(20), dim=8, max_length=9, denoiser="test-scaled").eval()
    plain, halved = (model.sample([[1, 2]], guidance={"strength": strength}) for strength in (0.0, 0.5))
    torch.testing.assert_close(halved, plain / 2)
    assert model.denoiser.strength == 0.0


@pytest.mark.parametrize("denoiser", ["conditional-mlp", "noiseless"])
def test_guidance_of_a_model_without_it_is_refused(denoiser):
    model = DiffRec(range(20), dim=8, max_length=9, denoiser=denoiser)
    with pytest.raises(
        ValueError,
        match=r"guidance=2\.0, but the model has no guide with settings of a call\..* Build it with denoiser=",
    ):
        model.sample([[1, 2]], guidance=2.0)
    assert guided(model.denoiser, None) is model.denoiser


@pytest.mark.parametrize("settings", [{"drop": 1.0}, {"drop": -0.1}, {"scale": -1}, {"start": 2.0}, {"stop": -0.1}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be a finite number"):
        ClassifierFreeGuide("conditional-mlp", schedule=LinearSchedule(30, rescale=False), dim=8, **settings)


@few
@given(shape=shapes, seed=seeds)
def test_the_control_is_its_base_at_zero_noise_and_step_n(shape, seed):
    noiseless = made("noiseless", {"name": "causal-transformer", "dropout": 0.0})
    given_input = random_input(noiseless, **shape)
    prediction, steps = given_input.predict(noiseless), noiseless.schedule.num_timesteps
    xn = gaussian(*given_input.xn.shape, seed=seed)
    other = replace(given_input, xn=xn, timesteps=given_input.timesteps % steps + 1)
    assert torch.equal(other.predict(noiseless), prediction)
    zero = replace(given_input.at_step(steps), xn=torch.zeros_like(given_input.xn))
    assert torch.equal(zero.predict(noiseless.base), prediction)


def test_a_guide_refuses_a_base_of_another_prediction():
    class NoisePredictor(Denoiser.named("conditional-mlp")):
        prediction = "noise"

    model = DiffRec(range(20), dim=8, max_length=9)
    for name in ("noiseless", "posterior"):
        guide = Denoiser.named(name)(
            NoisePredictor(8, 9), schedule=model.schedule, embedding=model.embedding, head=model.head
        )
        with pytest.raises(
            ValueError, match=f"'{name}' wraps a denoiser that predicts x0, but the base predicts noise"
        ):
            guide.check_fit(model)
    guide = ClassifierFreeGuide(NoisePredictor(8, 9), schedule=model.schedule)
    assert guide.prediction == "noise"


@pytest.mark.parametrize("base", BASES)
def test_unwrapping_takes_off_all_guides(base):
    backbone = Denoiser.build({"name": base, "dim": 8, "max_length": 9})
    schedule = LinearSchedule(30, rescale=False)
    guide = ClassifierFreeGuide(NoiselessDenoiser(backbone, schedule=schedule), schedule=schedule)
    assert unwrapped(guide) is unwrapped(guide.base) is unwrapped(backbone) is backbone
    assert isinstance(guide, Guide)
    assert set(guide.state_dict()) == {f"base.base.{name}" for name in backbone.state_dict()}


def test_the_control_of_a_guided_model_has_its_backbone():
    model = DiffRec(range(20), dim=8, max_length=9, denoiser={"name": "classifier-free", "base": "causal-transformer"})
    noiseless = control(model).denoiser
    assert isinstance(noiseless, NoiselessDenoiser)
    assert noiseless.base.config() == model.denoiser.base.config()
