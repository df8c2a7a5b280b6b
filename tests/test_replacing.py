"""``model.replace``: the same model with parts changed."""

from __future__ import annotations

import pytest
import torch
from strategies import perturbed

from diffusers_rec import CosineSchedule, DiffRec, SyntheticWorld
from diffusers_rec.guidance import unwrapped
from diffusers_rec.presets import PRESETS, sasrec

LOG = SyntheticWorld(30, num_groups=3).sample(40, min_length=4, max_length=10).sequences()
ITEMS = LOG.vocabulary
HISTORIES = [ITEMS.ids[:3], ITEMS.ids[4:9]]


@pytest.fixture
def model():
    built = DiffRec(ITEMS, dim=8, max_length=12, denoiser="conditional-mlp", head="tied", memory="transitions")
    return perturbed(built).prepare(LOG).eval()


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampler": "ddim"},
        {"schedule": CosineSchedule()},
        {"schedule": {"log_snr_shift": -1.0}},
        {"denoiser": {"encoder": {"dropout": 0.1}}},
        {"objective": {"recommend_from": "final"}, "seeds": [4, 2]},
        {},
    ],
    ids=str,
)
def test_weights_stay_where_no_shape_changes(model, changes):
    before = weights(model)
    changed = model.replace(**changes)
    assert same(weights(changed), before)
    assert same(weights(model), before)
    assert changed.training == model.training
    with torch.no_grad():
        next(changed.parameters()).add_(1.0)  # nothing is shared
    assert same(weights(model), before)


def test_a_mapping_changes_settings_and_a_name_changes_the_class(model):
    shifted = model.replace(schedule={"log_snr_shift": -1.0})
    assert shifted.config()["schedule"] == {**model.config()["schedule"], "log_snr_shift": -1.0}
    causal = model.replace(denoiser={"name": "causal-transformer", "num_layers": 1})
    config = {**model.config()["denoiser"]["encoder"], **model.config()["denoiser"]}
    shared = {key: value for key, value in config.items() if key in causal.denoiser.settings()}
    assert causal.config()["denoiser"] == {**shared, "name": "causal-transformer", "num_layers": 1}
    assert same(weights(causal.memory), weights(model.memory))
    assert torch.equal(causal.popularity, model.popularity)


def test_a_changed_part_has_the_weights_of_a_fresh_model_and_the_sizes_of_this_one(model):
    deeper = model.replace(denoiser={"encoder": {"num_layers": 3}})
    config = model.config()
    encoder = {**config["denoiser"]["encoder"], "num_layers": 3}
    fresh = DiffRec.from_config(ITEMS, {**config, "denoiser": {**config["denoiser"], "encoder": encoder}})
    assert same(weights(deeper.denoiser), weights(fresh.denoiser))
    assert same(weights(deeper.embedding), weights(model.embedding))
    wider = model.replace(dim=16)
    assert (wider.embedding.dim, wider.denoiser.dim, wider.max_length) == (16, 16, 12)
    shorter = model.replace(schedule={"num_timesteps": 50}, max_length=9)
    assert (shorter.timesteps.num_timesteps, shorter.denoiser.max_length) == (50, 9)


def test_another_seed_gives_fresh_weights(model):
    config = DiffRec(ITEMS, dim=8, max_length=12, denoiser="conditional-mlp", head="tied", memory="transitions", seed=5)
    other = model.replace(seed=5)
    assert other.config() == config.config()
    assert same(weights(other.denoiser), weights(config.denoiser))


@pytest.mark.parametrize("guide", ["posterior", "classifier-free", "noiseless"])
def test_a_guide_wraps_the_denoiser_with_its_weights_and_another_guide_wraps_it_too(model, guide):
    wrapped = model.replace(denoiser=guide)
    assert wrapped.denoiser.registered_name == guide
    assert same(weights(unwrapped(wrapped.denoiser)), weights(model.denoiser))
    assert torch.isfinite(wrapped.sample(HISTORIES, seeds=2, sampler={"name": "ddim", "num_steps": 3})).all()
    if guide == "classifier-free":
        assert wrapped.recommend(HISTORIES, 3).items == model.recommend(HISTORIES, 3).items
        assert wrapped.replace(denoiser={"scale": 2.0}).denoiser.scale == 2.0


def test_precision_and_what_the_timestep_sampler_has_learned_go_along(model):
    model = model.double()
    model.timesteps.update(torch.tensor([1, 2]), torch.tensor([0.5, 0.25]))
    changed = model.replace(sampler="ddim")
    assert changed.predict_proba(HISTORIES).dtype == torch.float64
    assert same(changed.timesteps.state_dict(), model.timesteps.state_dict())
    assert not model.replace(schedule={"num_timesteps": 9}).timesteps.state_dict()["seen"].any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"denoisr": "transformer"}, "Unknown part of DiffRec: 'denoisr'.*Did you mean 'denoiser'"),
        ({"schedule": {"steps": 5}}, "Unknown key in the config of schedule 'sqrt': 'steps'"),
        ({"denoiser": "gpt"}, "Unknown denoiser name: 'gpt'"),
        ({"sampler": {"name": "ddim", "num_steps": 2000}}, "num_steps=2000, but the schedule has num_timesteps=1000"),
    ],
)
def test_what_does_not_exist_or_fit_is_refused(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.replace(**changes)


def test_another_encoder_of_the_same_shapes_has_fresh_weights():
    plain = sasrec(ITEMS, dim=8, max_length=12)
    other = plain.replace(denoiser={"encoder": "bidirectional-transformer"})
    fresh = plain.replace(denoiser={"encoder": "bidirectional-transformer"}, seed=plain.seed)
    with torch.no_grad():
        next(plain.denoiser.encoder.parameters()).add_(1.0)
    again = plain.replace(denoiser={"encoder": "bidirectional-transformer"})
    assert same(weights(again.denoiser), weights(other.denoiser))
    assert same(weights(other.denoiser), weights(fresh.denoiser))
    assert same(weights(again.embedding), weights(plain.embedding))


def test_an_encoder_given_inside_a_denoiser_keeps_its_own_weights(model):
    own = perturbed(type(model.denoiser.encoder)(8, 12, seed=5))
    changed = model.replace(denoiser={"encoder": own})
    assert changed.denoiser.encoder is own
    assert not same(weights(own), weights(model.denoiser.encoder))


@pytest.mark.parametrize("name", ["dreamrec", "preferdiff", "prefergrow"])
def test_settings_of_what_a_guide_wraps_reach_it(name):
    model = PRESETS[name](ITEMS, dim=8, max_length=12)
    changed = model.replace(denoiser={"encoder": "gru"})
    assert changed.denoiser.registered_name == "classifier-free"
    assert changed.denoiser.base.encoder.registered_name == "gru"
    with pytest.raises(ValueError, match=r"Unknown key in the config of denoiser .*nonsense"):
        model.replace(denoiser={"nonsense": 1})


def test_misplaced_settings_are_told_their_place(model):
    with pytest.raises(ValueError, match=r"'dropout' is no key .*It is a setting of the history encoder: \{'encoder'"):
        model.replace(denoiser={"dropout": 0.1})
    with pytest.raises(ValueError, match=r"An encoder belongs to the denoiser: denoiser=\{'encoder': \.\.\.\}"):
        model.replace(encoder="gru")
    with pytest.raises(ValueError, match=r"dim of the encoder is 32, dim of its owner is 8\. Leave dim out"):
        model.replace(denoiser={"encoder": {"name": "gru", "dim": 32}})
