"""On a GPU, where there is one: what the CPU computes, from the same seeds, and a training that can be killed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from diffusers_rec import (
    Denoiser,
    DiffRec,
    Ensemble,
    ItemHead,
    NoisingStrategy,
    Sampler,
    SyntheticWorld,
    TrainingBatches,
)
from diffusers_rec.evaluation import audit, evaluate
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.testing.inputs import perturbed, seeded
from diffusers_rec.training import RECIPES, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

SPLIT = SyntheticWorld(60, num_groups=4).sample(100, min_length=4, max_length=12).sequences().leave_one_out()
BATCH = next(TrainingBatches(SPLIT.train, max_length=10, batch_targets=64).epoch(0))
OF_ITEMS = "attribute", "function", "joint"
"""Denoisers that predict items, which a loss of latents does not fit."""
PARTS = [
    *({"denoiser": name, **({"objective": "items"} if name in OF_ITEMS else {})} for name in Denoiser.names()),
    *({"head": name} for name in ItemHead.names()),
    *({"noising": name} for name in NoisingStrategy.names() if not NoisingStrategy.named(name).noises_history),
    {"noising": "every-item", "denoiser": "autoregressive"},
    {"noising": {"name": "last-k", "k": 3, "ahead": True, "independent_steps": True}},
    {"negatives": "popularity"},
    {"memory": "transitions"},
    {"objective": {"name": "contrastive", "recommend_from": "final"}},
]


def build(**parts):
    """A small model without dropout, each of whose weights does something."""
    settings = {"schedule": {"name": "sqrt", "num_timesteps": 20}, "seeds": 3, **parts}
    model = perturbed(DiffRec(SPLIT.train.vocabulary, dim=16, max_length=10, **settings))
    model.negatives.fit(TrainingBatches(SPLIT.train).target_counts())
    model.memory.fit(SPLIT.train)
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.0
        if hasattr(module, "p"):
            module.p = 0.0
    return model


def gradients(model, device):
    """Loss and gradients of a batch, on the CPU."""
    model.to(device).train().zero_grad()
    loss = model.loss(BATCH.to(device), seeded(3))
    loss.total.backward()
    found = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return loss.total.detach().cpu(), loss.per_latent.cpu(), found


@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_the_loss_and_its_gradients_are_those_of_the_cpu(parts):
    ours, theirs = gradients(build(**parts), "cpu"), gradients(build(**parts), "cuda")
    assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", Sampler.names())
@pytest.mark.parametrize("parts", PARTS, ids=str)
def test_recommendations_are_those_of_the_cpu(parts, sampler):
    model = build(**parts).eval()
    asked = {"seeds": [0, 5], "sampler": sampler}
    with torch.no_grad():
        histories = [list(model.vocabulary.ids[:n]) for n in (1, 4, 12)]
        ours = model.sample(histories, **asked), evaluate(model, SPLIT.test, **asked)
        model.to("cuda")
        theirs = model.sample(histories, **asked).cpu(), evaluate(model, SPLIT.test, **asked)
    assert_close(theirs[0], ours[0], rtol=1e-3, atol=1e-3)
    assert theirs[1].metrics()["ndcg@10"] == pytest.approx(ours[1].metrics()["ndcg@10"], abs=0.01)
    assert model.recommend(histories, k=5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("twin", [lambda model: model, control], ids=["", "control"])
def test_a_preset_trains_and_a_killed_training_goes_on_to_the_same_end(preset, twin, tmp_path):
    config = replace(RECIPES[preset], epochs=3, batch_targets=64)

    def fit(folder, on_epoch=None):
        model = PRESETS[preset](SPLIT.train.vocabulary, dim=16, max_length=10)
        if twin is control and not isinstance(model, DiffRec):
            pytest.skip("only a pipeline has a control")
        model = twin(model)
        result = train(model, SPLIT.train, SPLIT.validation, config, directory=tmp_path / folder, on_epoch=on_epoch)
        return model, result

    def kill(record):
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    whole, result = fit("whole")
    assert whole.device.type == "cuda"
    first, last = result.history[0], result.history[-1]
    term = next(each for each in ("recommendation", "cross-entropy", "squared", "reconstruction") if each in first)
    assert last[term] < first[term]
    with pytest.raises(KeyboardInterrupt):
        fit("killed", kill)
    again, resumed = fit("killed")
    assert len(resumed.history) == 3
    for name, weight in whole.state_dict().items():
        assert_close(again.state_dict()[name], weight, rtol=0, atol=0, msg=lambda text, name=name: f"{name}: {text}")


def test_global_random_states_stay():
    before = torch.get_rng_state(), torch.cuda.get_rng_state()
    model = PRESETS["best"](SPLIT.train.vocabulary, dim=16, max_length=10).to("cuda").train()
    model.loss(BATCH.to("cuda"), seeded(0)).total.backward()
    model.eval().recommend([list(model.vocabulary.ids[:3])], k=3)
    assert all(map(torch.equal, before, (torch.get_rng_state(), torch.cuda.get_rng_state())))


def test_a_model_on_the_gpu_is_saved_and_read_back(tmp_path):
    model = build(memory="transitions").to("cuda").eval()
    model.save_pretrained(tmp_path)
    assert evaluate(DiffRec.from_pretrained(tmp_path).to("cuda"), SPLIT.test) == evaluate(model, SPLIT.test)


def test_an_ensemble_and_an_audit_run_there():
    models = [PRESETS["best"](SPLIT.train.vocabulary, dim=16, max_length=10, seed=seed).to("cuda") for seed in (0, 1)]
    assert evaluate(Ensemble(models), SPLIT.test).num_users == len(SPLIT.test)
    assert audit(models[0], SPLIT.validation, users=20, seeds=2, steps=[3]).ranking
