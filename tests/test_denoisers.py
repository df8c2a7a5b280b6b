from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import built, gaussian, learned, seeded, seeds

from diffusers_rec.denoisers import Denoiser
from diffusers_rec.denoisers.blocks import check_architecture

WIDTH, LONGEST, STEPS = 8, 9, 30

VARIANTS = {
    "transformer": [
        {"target_token": "projected", "norm_first": True},
        {"position_embedding": False, "step_embedding": False},
    ],
}
SPECS = [{"name": name, **extra} for name in Denoiser.names() for extra in [{}, *VARIANTS.get(name, [])]]

few = settings(max_examples=30)


def made(spec, seed=0, dtype=torch.float64):
    """A denoiser as if trained, at serving time."""
    denoiser = built(Denoiser, spec, dim=WIDTH, max_length=LONGEST, num_timesteps=STEPS, seed=seed)
    for name in denoiser.context & {"embedding", "head"}:
        getattr(denoiser, name).to(dtype)
    return learned(denoiser.to(dtype), seed).eval()


class Asked:
    """B histories with Q questions each, of K noised positions, of which ``count`` are real."""

    def __init__(self, rows, questions, noised, length, *, own_steps=False, seed=0, dtype=torch.float64):
        generator = seeded(seed)

        def integers(low, high, *shape):
            return torch.randint(low, high + 1, shape, generator=generator)

        self.history = gaussian(rows, length, WIDTH, seed=seed, dtype=dtype)
        self.lengths = integers(0, length, rows)
        self.xn = gaussian(rows, questions, noised, WIDTH, seed=seed + 1, dtype=dtype)
        self.steps = integers(1, STEPS, rows, questions, *([noised] if own_steps else []))
        self.visible = (torch.rand(rows, questions, generator=generator) * (self.lengths[:, None] + 1)).long()
        self.count = integers(1, noised, rows, questions)

    @property
    def mask(self):
        return torch.arange(self.history.shape[1]) < self.lengths[:, None]

    @property
    def real(self):
        return torch.arange(self.xn.shape[2]) < self.count[..., None]

    def of(self, denoiser):
        return denoiser(self.xn, self.steps, self.visible, denoiser.encode(self.history, self.mask), self.count)

    def at(self, rows=slice(None), questions=slice(None)):
        """Some of the rows and questions alone."""
        part = object.__new__(Asked)
        part.history, part.lengths = self.history[rows], self.lengths[rows]
        for name in ("xn", "steps", "visible", "count"):
            setattr(part, name, getattr(self, name)[rows][:, questions])
        return part


asked = st.builds(
    Asked,
    rows=st.integers(1, 3),
    questions=st.integers(1, 3),
    noised=st.integers(1, 3),
    length=st.integers(0, 6),
    own_steps=st.booleans(),
    seed=seeds,
)
every_denoiser = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(map(str, spec.values())))


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@every_denoiser
@few
@given(asked=asked)
def test_a_row_answers_the_same_alone_and_in_any_batch(spec, asked):
    denoiser = made(spec)
    whole = asked.of(denoiser)
    assert whole.shape == asked.xn.shape
    for row in range(len(whole)):
        same(asked.at(slice(row, row + 1)).of(denoiser)[asked.real[row : row + 1]], whole[row][asked.real[row]])
    backwards = torch.arange(len(whole)).flip(0)
    same(asked.at(backwards).of(denoiser)[asked.real[backwards]], whole[backwards][asked.real[backwards]])


@every_denoiser
@few
@given(asked=asked)
def test_questions_at_once_answer_as_one_by_one(spec, asked):
    denoiser = made(spec)
    whole = asked.of(denoiser)
    for q in range(whole.shape[1]):
        part = slice(q, q + 1)
        same(asked.at(questions=part).of(denoiser)[asked.real[:, part]], whole[:, part][asked.real[:, part]])


@every_denoiser
@few
@given(asked=asked, padding=st.integers(0, 3), size=st.sampled_from([0.0, 1.0, 1e4]))
def test_padding_is_never_seen(spec, asked, padding, size):
    """Whatever lies behind the history, at noised positions that are not real, or in questions that are none."""
    denoiser = made(spec)
    expected = asked.of(denoiser)[asked.real]
    keep = asked.mask
    rows, questions, noised, _ = asked.xn.shape
    asked.history = torch.where(keep[..., None], asked.history, size * gaussian(*asked.history.shape, seed=7))
    asked.history = torch.cat([asked.history, size * gaussian(rows, padding, WIDTH, seed=8)], dim=1)
    noise = size * gaussian(rows, questions, noised + padding, WIDTH, seed=9)
    noise[:, :, :noised][asked.real] = asked.xn[asked.real]
    steps = torch.full((rows, questions, noised + padding), 17)
    if asked.steps.ndim == 3:
        steps[:, :, :noised][asked.real] = asked.steps[asked.real]
        asked.steps = steps
    real, asked.xn = torch.zeros(noise.shape[:3], dtype=torch.bool), noise
    real[:, :, :noised] = torch.arange(noised) < asked.count[..., None]
    same(asked.of(denoiser)[real], expected)


@every_denoiser
@few
@given(asked=asked)
def test_no_count_means_that_all_are_real(spec, asked):
    denoiser = made(spec)
    asked.count = torch.full_like(asked.count, asked.xn.shape[2])
    context = denoiser.encode(asked.history, asked.mask)
    same(denoiser(asked.xn, asked.steps, asked.visible, context), asked.of(denoiser))


@every_denoiser
@few
@given(asked=asked)
def test_one_step_a_question_is_that_step_at_each_position(spec, asked):
    denoiser = made(spec)
    together = asked.of(denoiser)
    if asked.steps.ndim == 2:
        asked.steps = asked.steps[..., None].expand(asked.xn.shape[:3])
    else:
        asked.steps = asked.steps[..., 0]
        together = asked.of(denoiser)
        asked.steps = asked.steps[..., None].expand(asked.xn.shape[:3])
    same(asked.of(denoiser)[asked.real], together[asked.real])


@every_denoiser
@few
@given(asked=asked, data=st.data())
def test_a_question_sees_its_visible_history_and_its_own_noise_alone(spec, asked, data):
    """The gradient of its answer is exactly zero in every other item, question and row."""
    denoiser = made(spec)
    row = data.draw(st.integers(0, len(asked.xn) - 1))
    q = data.draw(st.integers(0, asked.xn.shape[1] - 1))
    asked.history.requires_grad_()
    asked.xn.requires_grad_()
    answer = asked.of(denoiser)[row, q][asked.real[row, q]]
    (answer * gaussian(*answer.shape)).sum().backward()
    visible = asked.visible[row, q]
    history = torch.zeros(asked.history.shape) if asked.history.grad is None else asked.history.grad
    assert (history[row, visible:] == 0).all()
    assert (history[row, :visible].abs().sum(-1) > 0).all()
    others = torch.arange(len(history)) != row
    assert (history[others] == 0).all()
    seen = torch.zeros(asked.xn.shape) if asked.xn.grad is None else asked.xn.grad
    seen = seen.abs().sum(-1) > 0
    expected = torch.zeros_like(seen)
    expected[row, q] = asked.real[row, q] & (spec["name"] != "noiseless")
    assert torch.equal(seen, expected)


@every_denoiser
@few
@given(seed=seeds, noised=st.integers(2, 3), data=st.data())
def test_the_noised_positions_of_a_question_see_one_another(spec, seed, noised, data):
    if spec["name"] in ("posterior", "noiseless"):
        pytest.skip("exact for each position alone, given the history")
    denoiser = made(spec)
    asked = Asked(1, 1, noised, 4, seed=seed)
    asked.count = torch.full_like(asked.count, noised)
    asked.xn.requires_grad_()
    out = data.draw(st.integers(0, noised - 1))
    answer = asked.of(denoiser)[0, 0, out]
    (answer * gaussian(WIDTH)).sum().backward()
    assert (asked.xn.grad[0, 0].abs().sum(-1) > 0).all()


@every_denoiser
@given(seed=seeds)
@few
def test_the_order_of_the_history_matters(spec, seed):
    if spec.get("position_embedding") is False:
        pytest.skip("this ablation is blind to order by design")
    denoiser, asked = made(spec), Asked(1, 1, 1, 4, seed=seed)
    asked.lengths[:], asked.visible[:] = 4, 4
    before = asked.of(denoiser)
    asked.history = asked.history.flip(1)
    assert not torch.allclose(asked.of(denoiser), before)


@every_denoiser
@few
@given(seed=seeds)
def test_the_step_matters(spec, seed):
    if spec["name"] == "noiseless" or spec.get("step_embedding") is False:
        pytest.skip("this ablation is blind to the step by design")
    denoiser, asked = made(spec), Asked(2, 2, 1, 4, seed=seed)
    before = asked.of(denoiser)
    asked.steps = asked.steps % STEPS + 1
    assert ((asked.of(denoiser) - before).abs().amax(dim=(2, 3)) > 1e-6).all()


@every_denoiser
@few
@given(asked=asked)
def test_one_encoding_serves_every_step(spec, asked):
    denoiser = made(spec)
    context = denoiser.encode(asked.history, asked.mask)
    for n in (STEPS, 3, 1):
        asked.steps = torch.full_like(asked.steps, n)
        kept = denoiser(asked.xn, asked.steps, asked.visible, context, asked.count)
        assert torch.equal(kept, asked.of(denoiser))


@every_denoiser
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, "autocast"], ids=str)
@settings(max_examples=10)
@given(
    rows=st.integers(1, 3), questions=st.integers(1, 3), noised=st.integers(1, 3), length=st.integers(0, 6), seed=seeds
)
def test_finite_in_every_dtype(spec, dtype, rows, questions, noised, length, seed):
    """Questions about nothing (no item seen, no real position) included, and their gradients."""
    own = torch.float32 if dtype == "autocast" else dtype
    denoiser = made(spec, dtype=own)
    asked = Asked(rows, questions, noised, length, seed=seed, dtype=own)
    asked.visible[0, 0], asked.count[0, 0] = 0, 0
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "autocast"):
        answer = asked.of(denoiser)
    assert torch.isfinite(answer).all()
    if dtype != "autocast":
        assert answer.dtype == dtype
    answer[asked.real].float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in denoiser.parameters() if p.grad is not None)


@every_denoiser
def test_every_weight_learns(spec):
    denoiser = made(spec)
    asked = Asked(4, 3, 2, 6)
    asked.lengths[:] = 6
    asked.visible = torch.tensor([[0, 3, 6]]).expand(4, 3)
    answer = asked.of(denoiser)
    (answer * gaussian(*answer.shape, seed=3))[asked.real].sum().backward()
    idle = [name for name, p in denoiser.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@every_denoiser
def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_state(spec):
    before = torch.get_rng_state()
    first, second, third = (built(Denoiser, spec, dim=WIDTH, max_length=LONGEST, seed=s) for s in (3, 3, 4))
    Asked(2, 2, 2, 4, dtype=torch.float32).of(first.eval())
    assert torch.equal(torch.get_rng_state(), before)
    states = [torch.cat([p.flatten() for p in model.parameters()]) for model in (first, second, third)]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@every_denoiser
def test_dropout_rests_at_serving_time(spec):
    denoiser, asked = made(spec), Asked(2, 2, 2, 4)
    asked.lengths[:], asked.visible[:] = 4, 4
    first = asked.of(denoiser)
    assert torch.equal(first, asked.of(denoiser))
    if getattr(denoiser, "dropout", 0):
        with torch.random.fork_rng():
            assert not torch.allclose(asked.of(denoiser.train()), first)


@every_denoiser
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 0}, "dim must be an integer >= 1, got 0"),
        ({"max_length": 1}, "max_length must be an integer >= 2, got 1"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_refuses_bad_sizes(spec, settings, message):
    with pytest.raises(ValueError, match=message):
        built(Denoiser, spec, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dim": 7}, "dim must be even for the sinusoidal step embedding, got 7"),
        ({"num_heads": 3}, "num_heads must divide dim, got num_heads=3 and dim=8"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, got 0"),
        ({"dropout": 1.0}, r"dropout must be a finite number at least 0 and below 1, got 1\.0"),
        ({"dropout": -0.1}, "dropout must be a finite number at least 0 and below 1, got -0.1"),
    ],
)
def test_refuses_bad_architectures(settings, message):
    with pytest.raises(ValueError, match=message):
        check_architecture(**{"dim": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0, **settings})


@few
@given(asked=asked, seed=seeds)
def test_the_control_is_its_base_asked_about_nothing(asked, seed):
    control = made({"name": "noiseless", "base": {"name": "causal-transformer", "dropout": 0.0}})
    answer = asked.of(control)
    asked.xn, asked.steps = gaussian(*asked.xn.shape, seed=seed), asked.steps % STEPS + 1
    assert torch.equal(asked.of(control), answer)
    asked.xn, asked.steps = torch.zeros_like(asked.xn), torch.full_like(asked.visible, STEPS)
    assert torch.equal(asked.of(control.base), answer)
