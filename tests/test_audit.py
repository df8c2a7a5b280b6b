"""The audit finds what is known: of exact denoisers, of a control, and of chains."""

from __future__ import annotations

import json

import pytest
import torch

from diffusers_rec import DDPMSampler, DiffRec, SyntheticWorld
from diffusers_rec.evaluation import audit, evaluate
from diffusers_rec.evaluation.audit import nearest
from diffusers_rec.presets import control
from diffusers_rec.training import TrainingConfig, train

SPLIT = SyntheticWorld(40, num_groups=4).sample(120, min_length=4, max_length=12).sequences().leave_one_out()


def build(**parts):
    settings = {
        "schedule": {"name": "cosine", "num_timesteps": 50},
        "embedding": {"name": "table", "scale": "unit", "init_std": 0.1},
        "denoiser": {"name": "conditional-mlp", "num_layers": 1, "dropout": 0.2},
        "head": "tied",
    }
    return DiffRec(SPLIT.train.vocabulary, dim=16, max_length=8, seeds=2, **{**settings, **parts})


@pytest.fixture(scope="module")
def trained():
    model = build()
    config = TrainingConfig(epochs=4, examples="all-positions", batch_targets=100, learning_rate=1e-2)
    train(model, SPLIT.train, SPLIT.validation, config, device="cpu")
    return model


def test_the_ranking_is_that_of_evaluate(trained):
    found = audit(trained, SPLIT.test, users=1000, seeds=3, steps=[5])
    assert found.num_users == len(SPLIT.test)
    assert [(row["xn"], row["steps"], row["seeds"]) for row in found.ranking] == [
        ("drawn", 1, 1), ("drawn", 1, 3), ("zeroed", 1, 1), ("drawn", 5, 3),
    ]  # fmt: skip
    one, several, _, chain = found.ranking
    for row, asked in ((one, {"seeds": 1}), (several, {"seeds": 3}), (chain, {"sampler": DDPMSampler(num_steps=5)})):
        metrics = evaluate(trained, SPLIT.test, ks=[10], **{"seeds": 3, **asked}).masked
        assert row["hr@10"] == pytest.approx(metrics["hr@10"])
        assert row["ndcg@10"] == pytest.approx(metrics["ndcg@10"])


def test_a_denoiser_that_reads_its_input_needs_its_own(trained):
    rows = audit(trained, SPLIT.test, steps=[5], levels=5).timesteps
    assert [row["timestep"] for row in rows[::3]] == [10, 20, 30, 40, 50]
    drawn, zeroed, swapped = rows[:3]
    assert [row["xn"] for row in rows[:3]] == ["drawn", "zeroed", "another user's"]
    assert drawn["reconstruction"] < zeroed["reconstruction"] < swapped["reconstruction"]
    assert drawn["cross_entropy"] < zeroed["cross_entropy"]
    gaps = [
        swapped["reconstruction"] - own["reconstruction"] for own, swapped in zip(rows[::3], rows[2::3], strict=True)
    ]
    assert gaps[0] > 10 * abs(gaps[-1])  # at n = N nothing of the target is left


def test_a_control_shows_that_noise_does_nothing(trained):
    found = audit(control(trained), SPLIT.test, steps=[5])
    for row in found.ranking:
        assert {**row, "xn": 0, "steps": 0, "seeds": 0} == {**found.ranking[0], "xn": 0, "steps": 0, "seeds": 0}
    for row in found.timesteps:
        assert row["cross_entropy"] == pytest.approx(found.timesteps[0]["cross_entropy"])


def test_chains_of_the_exact_posterior_land_as_exact_draws_do(trained):
    denoiser = {"name": "posterior", "base": trained.denoiser.config(), "num_candidates": 40}
    exact = DiffRec.from_config(trained.vocabulary, {**trained.config(), "denoiser": denoiser})
    weights = trained.state_dict()
    exact.load_state_dict({key: weights[key.replace("denoiser.base.", "denoiser.")] for key in exact.state_dict()})
    draws, chain = audit(exact, SPLIT.test, seeds=30, steps=[50]).chains
    assert (draws["sampler"], chain["sampler"]) == ("exact draws", "ddpm, 50 steps")
    # At the last step the posterior's own latent is a mean over items, so the law to compare with is the base's.
    base = audit(trained, SPLIT.test, seeds=30, steps=[50]).chains[0]
    assert chain["distinct"] == pytest.approx(base["distinct"], rel=0.05)


def test_it_leaves_the_model_and_the_global_state_and_repeats_itself(trained):
    before, weights = torch.get_rng_state(), {key: value.clone() for key, value in trained.state_dict().items()}
    trained.train()
    first, second = (audit(trained, SPLIT.validation, users=30, seed=5, steps=[3]) for _ in range(2))
    assert trained.training
    trained.eval()
    assert first == second
    assert first.num_users == 30
    assert json.loads(json.dumps(first.chains)) == first.chains
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, weights[key]) for key, value in trained.state_dict().items())


def test_nearest_is_nearest():
    generator = torch.Generator().manual_seed(0)
    table, latents = torch.randn(9, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    assert torch.equal(nearest(latents, table), torch.cdist(latents.flatten(0, 1), table).argmin(-1).view(5, 3))


@pytest.mark.parametrize("setting", ["users", "levels"])
def test_refuses_bad_settings(trained, setting):
    with pytest.raises(ValueError, match=f"{setting} must be an integer >= 1, got 0"):
        audit(trained, SPLIT.test, **{setting: 0})
