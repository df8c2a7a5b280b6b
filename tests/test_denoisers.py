from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import WAIVED, built, gaussian, seeds

from diffusers_rec.denoisers import Denoiser
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.testing import check_denoiser
from diffusers_rec.testing.asked import ask
from diffusers_rec.testing.contract import Maker
from diffusers_rec.testing.denoisers import CLAUSES, as_if_trained

VARIANTS = {
    "transformer": [
        {"target_token": "projected", "norm_first": True},
        {"target_token": "last-item"},
        {"position_embedding": False, "step_embedding": False},
    ],
}
SPECS = [{"name": name, **extra} for name in Denoiser.names() for extra in [{}, *VARIANTS.get(name, [])]]

few = settings(max_examples=20)


def named(spec):
    return "-".join(map(str, spec.values()))


every_denoiser = pytest.mark.parametrize("spec", SPECS, ids=named)


def made(spec):
    """As if trained, in float64, at serving time."""
    cls, settings = Denoiser.named(spec["name"]), {key: value for key, value in spec.items() if key != "name"}
    return as_if_trained(Maker(Denoiser, cls, settings, ()))


def waived(spec):
    blind = {"position_embedding": "order_matters", "step_embedding": "each_step_matters"}
    return {*WAIVED.get(spec["name"], ()), *(clause for key, clause in blind.items() if spec.get(key) is False)}


shapes = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 3),
        "questions": st.integers(1, 3),
        "noised": st.integers(1, 3),
        "length": st.integers(0, 6),
        "own_steps": st.booleans(),
        "seed": seeds,
    }
)


KEPT = [(spec, clause) for spec in SPECS for clause in CLAUSES if clause.__name__ not in waived(spec)]


@pytest.mark.parametrize(("spec", "clause"), KEPT, ids=lambda part: getattr(part, "__name__", None) or named(part))
@few
@given(shape=shapes)
def test_every_denoiser_keeps_its_contract(spec, clause, shape):
    denoiser = made(spec)
    clause(denoiser, ask(denoiser, **shape))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if len(spec) > 1], ids=named)
def test_every_variant_is_checked_as_anybodys_would_be(spec):
    cls, settings = Denoiser.named(spec["name"]), {key: value for key, value in spec.items() if key != "name"}
    check_denoiser(cls, waive=waived(spec), **settings)


@pytest.mark.parametrize("name", [name for name in Denoiser.names() if "dropout" in Denoiser.named(name).settings()])
def test_dropout_works_in_training(name):
    denoiser = made({"name": name})
    asked = ask(denoiser, 2, 2, 2, 4).in_full()
    first = asked.of(denoiser)
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
        ({"num_layers": 0}, "num_layers must be an integer >= 1 and <= 1000, got 0"),
        ({"dropout": 1.0}, r"dropout must be a finite number at least 0 and below 1, got 1\.0"),
        ({"dropout": -0.1}, "dropout must be a finite number at least 0 and below 1, got -0.1"),
    ],
)
def test_refuses_bad_architectures(settings, message):
    with pytest.raises(ValueError, match=message):
        check_architecture(**{"dim": 8, "num_layers": 1, "num_heads": 2, "dropout": 0.0, **settings})


@few
@given(shape=shapes, seed=seeds)
def test_the_control_is_its_base_asked_about_nothing(shape, seed):
    control = made({"name": "noiseless", "base": {"name": "causal-transformer", "dropout": 0.0}})
    asked = ask(control, **shape)
    answer, steps = asked.of(control), control.schedule.num_timesteps
    other = replace(asked, xn=gaussian(*asked.xn.shape, seed=seed), timesteps=asked.timesteps % steps + 1)
    assert torch.equal(other.of(control), answer)
    nothing = replace(asked, xn=torch.zeros_like(asked.xn), timesteps=torch.full_like(asked.visible, steps))
    assert torch.equal(nothing.of(control.base), answer)


@pytest.mark.parametrize("name", ["causal-transformer", "conditional-mlp"])
def test_what_is_kept_for_a_question_serves_no_other(name):
    """Other positions, gradients wanted only now, or the same tensor changed in place."""
    denoiser = made({"name": name})
    width = denoiser.dim
    history, mask = gaussian(2, 5, width), torch.ones(2, 5, dtype=torch.bool)
    visible, steps = torch.tensor([[5], [3]]), torch.ones(2, 1, dtype=torch.int64)
    context = denoiser.encode(history, mask)
    one, three = (gaussian(2, 1, k, width, seed=k) for k in (1, 3))

    def fresh(xn):
        return denoiser(xn, steps, visible.clone(), denoiser.encode(history, mask))

    denoiser(one, steps, visible, context)
    torch.testing.assert_close(denoiser(three, steps, visible, context), fresh(three))
    visible.fill_(1)
    torch.testing.assert_close(denoiser(three, steps, visible, context), fresh(three))
    context = denoiser.encode(history, mask)
    with torch.no_grad():
        denoiser(one, steps, visible, context)
    taught = []
    for answer in (denoiser(one, steps, visible, context), fresh(one)):
        answer.sum().backward()
        taught.append({key for key, parameter in denoiser.named_parameters() if parameter.grad is not None})
        denoiser.zero_grad()
    assert taught[0] == taught[1]


def test_the_last_visible_item_is_added_to_the_noise():
    """Seen where no block changes its input; nothing is added where no item is visible."""
    denoiser = made({"name": "transformer", "target_token": "last-item", "step_embedding": False,
                     "position_embedding": False, "norm_first": True})  # fmt: skip
    for parameter in denoiser.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    denoiser.norm = torch.nn.Identity()
    history, mask = gaussian(2, 5, denoiser.dim), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    visible, steps = torch.tensor([[5, 0], [3, 1]]), torch.ones(2, 2, dtype=torch.int64)
    xn = gaussian(2, 2, 3, denoiser.dim, seed=1)
    added = denoiser(xn, steps, visible, denoiser.encode(history, mask)) - xn
    nothing = torch.zeros_like(history[0, 0])
    wanted = [[history[0, 4], nothing], [history[1, 2], history[1, 0]]]
    for row, question in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        torch.testing.assert_close(added[row, question], wanted[row][question].expand(3, -1))
