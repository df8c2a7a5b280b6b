from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import WAIVED, built, gaussian, seeds

from diffusers_rec.data import History
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.processes.noising import Queries
from diffusers_rec.testing import check_component
from diffusers_rec.testing.contract import Maker
from diffusers_rec.testing.denoisers import CLAUSES, perturbed_denoiser
from diffusers_rec.testing.queries import queries_of, random_input

VARIANTS = {
    "transformer": [
        {"target_token": "projected", "norm_first": True},
        {"target_token": "last-item"},
        {"position_embedding": False, "step_embedding": False},
    ],
    "conditional-mlp": [{"encoder": {"name": "causal-transformer", "low_pass": 0.7}}],
    "state-mlp": [{"mlp_layers": 2}, {"encoder": "gru"}],
    "classifier-free": [{"scale": 2.5}, {"scale": 2.0, "start": 0.3, "stop": 0.8, "base": "causal-transformer"}],
}
SPECS = [{"name": name, **extra} for name in Denoiser.names() for extra in [{}, *VARIANTS.get(name, [])]]

few = settings(max_examples=settings.default.max_examples // 4)


def named(spec):
    return "-".join(map(str, spec.values()))


all_denoisers = pytest.mark.parametrize("spec", SPECS, ids=named)


def made(spec):
    """In float64, in evaluation mode, with no weight at zero."""
    cls, settings = Denoiser.named(spec["name"]), {key: value for key, value in spec.items() if key != "name"}
    return perturbed_denoiser(Maker(Denoiser, cls, settings))


def waived(spec):
    left_out = {"position_embedding": "order_matters", "step_embedding": "each_step_matters"}
    return {*WAIVED.get(spec["name"], ()), *(clause for key, clause in left_out.items() if spec.get(key) is False)}


shapes = st.fixed_dictionaries(
    {
        "rows": st.integers(1, 3),
        "queries": st.integers(1, 3),
        "width": st.integers(1, 3),
        "length": st.integers(0, 6),
        "own_steps": st.booleans(),
        "seed": seeds,
    }
)


CHECKED = [(spec, clause) for spec in SPECS for clause in CLAUSES if clause.__name__ not in waived(spec)]


@pytest.mark.parametrize(("spec", "clause"), CHECKED, ids=lambda part: getattr(part, "__name__", None) or named(part))
@few
@given(shape=shapes)
def test_every_denoiser_keeps_its_contract(spec, clause, shape):
    denoiser = made(spec)
    clause(denoiser, random_input(denoiser, **shape))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [spec for spec in SPECS if len(spec) > 1], ids=named)
def test_every_variant_keeps_its_contract(spec):
    cls, settings = Denoiser.named(spec["name"]), {key: value for key, value in spec.items() if key != "name"}
    check_component(cls, waive=waived(spec), **settings)


@pytest.mark.parametrize(
    "name", [name for name in Denoiser.names() if {"dropout", "encoder"} & {*Denoiser.named(name).settings()}]
)
def test_dropout_works_in_training(name):
    denoiser = made({"name": name})
    given_input = random_input(denoiser, 2, 2, 2, 4).full()
    first = given_input.predict(denoiser)
    with torch.random.fork_rng():
        assert not torch.allclose(given_input.predict(denoiser.train()), first)


@all_denoisers
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


@all_denoisers
@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 3), (2, 3, 4, 1)])
def test_timesteps_of_another_shape_are_refused(spec, shape):
    denoiser = made(spec)
    given_input = random_input(denoiser, 2, 4, 3, 5)
    with pytest.raises(ValueError, match=r"timesteps \(B, Q\) or \(B, Q, K\), got \(2, 4, 3, 8\) and"):
        replace(given_input, timesteps=torch.ones(shape, dtype=torch.int64)).predict(denoiser)


@all_denoisers
def test_a_history_without_latents_is_refused(spec):
    history = History(torch.tensor([[1, 2]]), torch.tensor([2]))
    denoiser = made(spec)
    with pytest.raises(ValueError, match=r"has no latents. Call history.with_latents\(embedding\(history.items\)\)"):
        denoiser.condition(denoiser.encode(history), Queries.next_item(history.lengths))


@pytest.mark.parametrize("target_token", ["raw", "projected", "last-item"])
def test_the_null_condition_is_an_empty_history(target_token):
    denoiser = made({"name": "transformer", "target_token": target_token})
    given_input = random_input(denoiser, 2, 3, 2, 5)
    empty = History.of_latents(torch.zeros(2, 0, denoiser.dim).double(), torch.zeros(2, dtype=torch.int64))
    nothing = replace(given_input, history=empty, queries=given_input.queries.blind())
    expected = nothing.predict(denoiser)[given_input.real]
    torch.testing.assert_close(given_input.predict(denoiser, null=True)[given_input.real], expected)


def test_the_last_visible_item_is_added_to_the_noise():
    """Seen where no block changes its input; nothing is added where no item is visible."""
    denoiser = made({"name": "transformer", "target_token": "last-item", "step_embedding": False,
                     "position_embedding": False, "norm_first": True})  # fmt: skip
    for parameter in denoiser.blocks.parameters():
        torch.nn.init.zeros_(parameter)
    denoiser.norm = torch.nn.Identity()
    history = History.of_latents(gaussian(2, 5, denoiser.dim), torch.tensor([5, 3]))
    visible = torch.tensor([[5, 0], [3, 1]])
    xn, steps = gaussian(2, 2, 3, denoiser.dim, seed=1), torch.ones(2, 2, dtype=torch.int64)
    queries = queries_of(visible, torch.full((2, 2), 3), 3)
    added = denoiser(xn, steps, denoiser.condition(denoiser.encode(history), queries)) - xn
    latents = history.latent()
    expected = [[latents[0, 4], 0 * latents[0, 0]], [latents[1, 2], latents[1, 0]]]
    for row, query in [(0, 0), (0, 1), (1, 0), (1, 1)]:
        torch.testing.assert_close(added[row, query], expected[row][query].expand(3, -1))
