"""The audit finds what is known: of exact denoisers, of a control, and of chains."""

from __future__ import annotations

import json
import math
import weakref
from importlib import import_module

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_rec import DDPMSampler, DiffRec, SyntheticWorld
from diffusers_rec.data import Holdout, Sequences, Vocabulary, pad
from diffusers_rec.evaluation import audit, evaluate
from diffusers_rec.evaluation.landing import landing, nearest
from diffusers_rec.evaluation.probes import Probe
from diffusers_rec.presets import control, ediffurec, joint, prefergrow, wang2023
from diffusers_rec.training import TrainingConfig, train

MODULE, LANDING = (import_module(f"diffusers_rec.evaluation.{name}") for name in ("audit", "landing"))
SPLIT = SyntheticWorld(40, num_groups=4).sample(120, min_length=4, max_length=12).sequences().leave_one_out()


def build(**parts):
    settings = {
        "schedule": {"name": "cosine", "num_timesteps": 50},
        "embedding": {"name": "table", "scale": "unit", "init_std": 0.1},
        "denoiser": {
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "dropout": 0.2},
        },
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
        metrics = evaluate(trained, SPLIT.test, ks=[10], **{"seeds": 3, **asked}).metrics()
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


@pytest.mark.parametrize("source", ["zero", "last-item"])
@pytest.mark.parametrize("noising", ["target", "whole", {"name": "last-k", "k": 3}], ids=str)
def test_it_asks_what_serving_asks(noising, source, monkeypatch):
    """The items of the history that the model noises carry noise here, too, and chains have the same centre."""
    denoiser = {"name": "causal-transformer", "num_layers": 1, "num_heads": 2}
    model = build(noising=noising, source=source, denoiser=denoiser)
    rows = np.arange(20)
    histories = pad(SPLIT.test.histories.take(rows), model.history_length)
    noise = torch.randn(
        20, 2, model.noising.max_noised(model.max_length), 16, generator=torch.Generator().manual_seed(0)
    )
    last = torch.full((20, 2), model.schedule.num_timesteps)
    with model.serving() as model:
        question = Probe(model, SPLIT.test, rows)
        monkeypatch.setattr(type(model.process), "start", lambda *_, **__: noise)
        target = noise.gather(2, question.known[..., None, None].expand(-1, 2, 1, 16))
        ours = question.predict(target, last, noise[:, :, : question.history.shape[2]]) + question.centre
        served = model.next_item_latents(histories, seeds=2, sampler="one-step")
        torch.testing.assert_close(ours[:, :, 0], served)
        monkeypatch.setattr(type(model.process), "start", lambda *_, **__: torch.zeros_like(noise[:, :1]))
        silent = model.next_item_latents(histories, seeds=1, sampler="one-step")
        torch.testing.assert_close(question.probabilities(), model.head.logits(silent[:, 0]).softmax(-1))


@pytest.mark.parametrize("noising", ["whole", {"name": "last-k", "k": 3}, {"name": "last-k", "ahead": True}], ids=str)
def test_models_that_noise_several_items_are_audited(noising):
    found = audit(build(noising=noising), SPLIT.test, users=20, seeds=4, steps=[1, 5])
    assert {row["xn"] for row in found.timesteps} == {"drawn", "zeroed", "another user's"}
    assert all(math.isfinite(row["cross_entropy"]) for row in found.timesteps)
    assert [row["sampler"] for row in found.chains] == ["exact draws", "ddpm, 1 steps", "ddpm, 5 steps"]


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


def test_another_users_is_never_ones_own(trained, monkeypatch):
    together = audit(trained, SPLIT.test, steps=[]).timesteps
    monkeypatch.setattr(MODULE, "USERS_AT_ONCE", 1)
    alone = audit(trained, SPLIT.test, steps=[]).timesteps
    assert [row["xn"] for row in alone[:3]] == ["drawn", "zeroed", "another user's"]
    for loss in ("reconstruction", "cross_entropy"):
        assert [row[loss] for row in alone] == pytest.approx([row[loss] for row in together], rel=1e-4)
        assert alone[2][loss] > 1.01 * alone[0][loss]


def test_the_summary_is_that_of_the_tables_and_of_the_served_probabilities(trained):
    found = audit(trained, SPLIT.test, seeds=3, steps=[5, 2], levels=2)
    row, (one, several, zeroed, long, _), (exact, ends, _) = found.summary, found.ranking, found.chains
    assert row["noise"] == pytest.approx(1 - float(trained.schedule.alpha_bar[-1]))
    assert [row[name] for name in ("one_draw", "drawn", "zeroed", "chain")] == [
        each["ndcg@10"] for each in (one, several, zeroed, long)
    ]
    rises = [found.timesteps[place + 2]["cross_entropy"] - found.timesteps[place]["cross_entropy"] for place in (0, 3)]
    assert row["another_users"] == max(rises)
    assert row["chain_distinct"] == ends["distinct"] / exact["distinct"]
    stated = evaluate(trained, SPLIT.test, ks=[10], seeds=3, probabilities=True).probabilities
    assert (row["nll"], row["ece"]) == (stated.nll, stated.ece)


def test_a_control_has_no_noise_and_nothing_changes_without_it(trained):
    found = audit(control(trained), SPLIT.test, users=20, seeds=2, steps=[4], levels=2).summary
    assert (found["noise"], found["another_users"]) == (0, 0)
    assert found["drawn"] == found["zeroed"] == found["chain"]


def test_a_flow_is_audited_like_a_diffusion():
    flow = build(schedule={"name": "rectified", "num_timesteps": 20})
    found = audit(flow, SPLIT.test, users=20, seeds=2, steps=[4], levels=2)
    assert found.summary["noise"] == pytest.approx(1.0)
    assert len(found.timesteps) == 2 * 3
    assert all(math.isfinite(row["cross_entropy"]) for row in found.timesteps)


def test_a_model_of_blanks_has_a_ranking_and_probabilities_alone():
    model = joint(SPLIT.train.vocabulary, k=2, dim=16, max_length=8)
    with pytest.raises(ValueError, match="audited with its own sampler"):
        audit(model, SPLIT.test, users=20, steps=[4])
    found = audit(model, SPLIT.test, users=20, seeds=2)
    assert [row["xn"] for row in found.ranking] == ["drawn", "drawn"]
    assert (found.timesteps, found.chains) == ([], [])
    assert [name for name, value in found.summary.items() if value is None] == [
        "zeroed",
        "chain",
        "another_users",
        "chain_probability",
        "chain_distinct",
        "nll_popularity",
    ]  # fmt: skip - the model has counted no popularity
    assert math.isfinite(found.summary["nll"])
    (*_, served) = audit(model.replace(sampler="unmask"), SPLIT.test, users=20, seeds=2).ranking
    assert (served["xn"], served["steps"]) == ("as served", None), "a step a blank, whatever N is"


@pytest.mark.parametrize(("build", "steps"), [(ediffurec, 32), (prefergrow, 21)])
def test_a_chain_that_is_not_gaussian_is_ranked_as_it_is_served(build, steps):
    model = build(SPLIT.train.vocabulary, dim=16, max_length=8)
    found = audit(model, SPLIT.test, users=20, seeds=2)
    assert [(row["xn"], row["steps"]) for row in found.ranking[1:]] == [("drawn", 1), ("as served", steps)]
    served = evaluate(model, SPLIT.test.sample(20, 0), ks=[10], seeds=2).metrics()["ndcg@10"]
    assert found.summary["chain"] == found.ranking[2]["ndcg@10"] == served
    assert (found.timesteps, found.chains) == ([], [])


def test_a_model_of_user_vectors_is_ranked_as_it_is_served():
    model = wang2023(SPLIT.train.vocabulary, dim=8)
    found = audit(model, SPLIT.test, users=20)
    (row,) = found.ranking
    assert row["xn"] == "as served"
    assert row["ndcg@10"] == evaluate(model, SPLIT.test.sample(20, 0), ks=[10]).metrics()["ndcg@10"]
    assert found.summary["drawn"] == row["ndcg@10"]
    assert found.summary["noise"] == pytest.approx(1 - float(model.schedule.alpha_bar[-1]))
    assert (found.timesteps, found.chains) == ([], [])


def test_one_user_has_no_other(trained):
    found = audit(trained, SPLIT.test, users=1, steps=[3])
    assert found.num_users == 1
    assert {row["xn"] for row in found.timesteps} == {"drawn", "zeroed"}


@pytest.mark.parametrize(("num_timesteps", "lengths"), [(50, [10, 50]), (49, [10]), (10, [10]), (9, [9]), (1, [1])])
def test_chains_are_as_long_as_the_schedule_allows(num_timesteps, lengths):
    schedule = {"name": "cosine", "num_timesteps": num_timesteps, "log_snr_shift": -4}
    found = audit(build(schedule=schedule), SPLIT.test, users=3, seeds=2)
    assert [row["steps"] for row in found.ranking[3:]] == lengths
    assert [row["sampler"] for row in found.chains] == ["exact draws", *(f"ddpm, {n} steps" for n in lengths)]


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (10, TypeError, "steps must be a list of chain lengths, got 10"),
        ("10", TypeError, r"steps must be a list of chain lengths, got '10'\. One alone is \[10\]"),
        ([5, 10, 5], ValueError, r"steps must differ, but \[5\] came more than once"),
        ([5, 51], ValueError, "steps must be at most num_timesteps=50, the model's N, got 51"),
        ([5, 0], ValueError, "each of steps must be an integer >= 1, got 0"),
        ([2.5], TypeError, "each of steps must be an integer >= 1, got 2.5"),
    ],
)
def test_wrong_steps_are_refused_before_any_work(steps, error, message, trained, monkeypatch):
    monkeypatch.setattr(MODULE, "evaluate", lambda *_, **__: pytest.fail("it went to work"))
    with pytest.raises(error, match=message):
        audit(trained, SPLIT.test, steps=steps)


class _Standing(TorchDispatchMode):
    """The most numbers in all tensors that stand at once, of those made while it looks on."""

    def __init__(self):
        super().__init__()
        self.made, self.most = [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, torch.Tensor):
                storage = part.untyped_storage()
                self.made.append((weakref.ref(part), storage.data_ptr(), storage.nbytes() // part.element_size()))
        self.made = [each for each in self.made if each[0]() is not None]
        self.most = max(self.most, sum({at: size for _, at, size in self.made}.values()))
        return result


def test_scores_are_held_some_at_a_time(monkeypatch):
    """A catalogue for which all users' probabilities, or all their chains' distances, would be many times as many."""
    chunk = 2**15
    monkeypatch.setattr(LANDING, "SCORES_AT_ONCE", chunk)
    monkeypatch.setattr(MODULE, "_accuracy", lambda *_: {"ndcg@10": 0.0})  # a matter of ranking, with its own chunks
    monkeypatch.setattr(MODULE, "_probabilities", lambda *_: {})
    few = SPLIT.test.histories
    histories = Sequences(few.items, few.offsets, few.users, Vocabulary(range(2000)))
    model = DiffRec(histories.vocabulary, dim=4, max_length=8, denoiser="conditional-mlp", head="tied")
    with _Standing() as watch:
        found = audit(model, Holdout(histories, SPLIT.test.targets), seeds=20, steps=[2], levels=1)
    assert found.num_users * len(model.vocabulary) > 7 * chunk
    assert chunk < watch.most < 5 * chunk


def test_landing_is_the_mean_over_users_of_all_chunks():
    uniform, sure = torch.full((2, 4), 0.25), torch.tensor([[0.0, 0.0, 1.0, 0.0]])
    chunks = [(torch.tensor([[0, 1, 0], [3, 2, 1]]), uniform), (torch.tensor([[2, 2, 2]]), sure)]
    assert landing(iter(chunks)) == pytest.approx({"probability": (0.25 + 0.25 + 1) / 3, "distinct": (2 + 3 + 1) / 3})


@pytest.mark.parametrize("scores", [1, 40, 1000])
def test_nearest_is_nearest(scores, monkeypatch):
    monkeypatch.setattr(LANDING, "SCORES_AT_ONCE", scores)
    generator = torch.Generator().manual_seed(0)
    table, latents = torch.randn(9, 4, generator=generator), torch.randn(5, 3, 4, generator=generator)
    assert torch.equal(nearest(latents, table), torch.cdist(latents.flatten(0, 1), table).argmin(-1).view(5, 3))
    assert nearest(table[7], table) == 7


@pytest.mark.parametrize("setting", ["users", "seeds", "levels"])
def test_refuses_bad_settings(trained, setting):
    with pytest.raises(ValueError, match=f"{setting} must be an integer >= 1, got 0"):
        audit(trained, SPLIT.test, **{setting: 0})


def test_an_empty_holdout_cannot_be_made():
    with pytest.raises(ValueError, match="expected at least one user index, got none"):
        SPLIT.test.histories.take([])
