"""Models of user vectors: they train, rank, are saved, and are scored together with models of another kind."""

from __future__ import annotations

import json

import pytest
import torch
from strategies import seeded

from diffusers_rec import (
    Batch,
    DiffRec,
    Ensemble,
    History,
    Interactions,
    SyntheticWorld,
    UserLatentDiffusion,
    UserVectorDiffusion,
    UserVectorFlow,
    load_pretrained,
)
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import flowcf, wang2023, wang2023_latent, wang2023_temporal
from diffusers_rec.recommenders import pretrained
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training import TrainingConfig, train

GROUPS, EACH = 3, 8
SCHEDULE = {"name": "linear-variance", "num_timesteps": 3, "maximum": 0.1}
CLASSES = UserVectorDiffusion, UserLatentDiffusion, UserVectorFlow
PRESETS = wang2023, wang2023_latent, wang2023_temporal, flowcf


def small(cls, items=range(7), **settings):
    own = {"schedule": SCHEDULE} if cls is not UserVectorFlow else {}
    return cls(items, **{**own, "widths": [6], "max_length": 9, **settings}).eval()


@pytest.fixture(scope="module")
def split():
    """Users that choose items of one group each, in random order."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        (user, int(item) + user % GROUPS * EACH, time)
        for user in range(60)
        for time, item in enumerate(torch.randperm(EACH, generator=generator)[:6])
    ]
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences().leave_one_out()


@pytest.fixture(scope="module", params=PRESETS, ids=lambda preset: preset.__name__)
def trained(split, request):
    model = request.param(split.train.vocabulary, dim=32, max_length=11)
    config = TrainingConfig(epochs=40, batch_targets=10, examples="last-target", learning_rate=1e-2, validate_every=20)
    result = train(model, split.train, split.validation, config, device="cpu")
    first, last = result.history[0], result.history[-1]
    term = "cross-entropy" if "cross-entropy" in first else "reconstruction"
    assert last[term] < 0.7 * first[term]
    return model


def test_it_ranks_the_group_of_the_user(split, trained):
    metrics = evaluate(trained, split.test, ks=[5]).metrics(exclude_seen=True)
    assert metrics["hr@5"] > 0.6  # chance is 5 of 19 unseen items
    found = trained.recommend([[0, 1, 2], [9, 11, 13]], k=3)
    assert [[item // EACH for item in items] for items in found.items] == [[0] * 3, [1] * 3]
    assert trained.recommend([[]], k=1, empty="popularity").scores.item() == pytest.approx(
        float(trained.popularity.max() / trained.popularity.sum())
    )


def test_a_guide_is_refused(trained):
    with pytest.raises(ValueError, match=f"A {type(trained).__name__} has no guides"):
        trained.recommend([[0, 1]], k=1, guidance={"name": "negative", "history": [2]})


def test_it_is_scored_together_with_a_model_of_another_kind(split, trained):
    other = DiffRec(split.train.vocabulary, dim=8, max_length=11, schedule={"name": "sqrt", "num_timesteps": 10})
    both = Ensemble([trained, other.eval()])
    histories = [[0, 1, 2], [9, 11]]
    mean = (trained.predict_proba(histories) + other.predict_proba(histories)) / 2
    assert torch.allclose(both.predict_proba(histories), mean, atol=1e-6)
    assert evaluate(both, split.test, ks=[5]).num_users == 60


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_it_ranks_ahead_of_popularity(preset):
    world = SyntheticWorld(200, num_groups=8).sample(400).sequences().leave_one_out()
    model = preset(world.train.vocabulary, dim=64, max_length=50)
    config = TrainingConfig(epochs=60, batch_targets=40, examples="last-target", learning_rate=3e-3, validate_every=20)
    train(model, world.train, world.validation, config, device="cpu")
    found, popular = evaluate(model, world.test), evaluate_popularity(world.train, world.test)
    assert found.metrics()["ndcg@10"] > 1.5 * popular.metrics()["ndcg@10"]


# Vectors


def test_a_vector_has_the_items_of_the_row_whatever_is_its_target():
    model = small(UserVectorDiffusion, oldest_weight=0.25)
    history = History(torch.tensor([[1, 4, 2, 1], [5, 3, 0, 0], [6, 0, 0, 0]]), torch.tensor([4, 2, 1]))
    expected = [[0, 1, 0.75, 0, 0.5, 0, 0], [0, 0, 0, 1, 0, 0.25, 0], [0, 0, 0, 0, 0, 0, 1]]
    assert model.vectors(history).tolist() == expected
    batches = [Batch(history, torch.tensor(places)) for places in ([[3], [1], [0]], [[1], [0], [0]])]
    losses = [model(batch, seeded(0)).total for batch in batches]
    assert torch.equal(*losses)


def test_the_order_has_no_effect_except_through_the_weights():
    rows = [[1, 4, 2], [2, 1, 4]]
    for cls in CLASSES:
        one, other = small(cls).predict_proba(rows)
        torch.testing.assert_close(one, other)
    one, other = small(UserVectorDiffusion, oldest_weight=0.5, temperature=1.0).predict_proba(rows)
    assert not torch.allclose(one, other)


@pytest.mark.parametrize("cls", CLASSES)
def test_a_row_gives_the_same_answer_in_any_batch_under_any_padding(cls):
    model = small(cls)
    together = model.predict_proba([[1], [4, 2, 6]])
    alone = torch.cat([model.predict_proba([row]) for row in ([1], [4, 2, 6])])
    torch.testing.assert_close(together, alone)
    other_padding = History(torch.tensor([[4, 2, 6, 5, 5]]), torch.tensor([3]))
    torch.testing.assert_close(model.denoise(other_padding), model.denoise(History(*own_row([4, 2, 6]))))


def own_row(items):
    return torch.tensor([items]), torch.tensor([len(items)])


def test_the_share_of_users_of_an_item_counts_each_user_once():
    sequences = Interactions.from_arrays([0, 0, 0, 1, 1], [2, 2, 0, 2, 1], [1, 2, 3, 1, 2]).sequences()
    model = small(UserVectorFlow, range(4)).prepare(sequences)
    assert model.shares.tolist() == [0.5, 0.5, 1, 0]
    assert model.popularity.tolist() == [1, 1, 3, 0]


# Training and saving


@pytest.mark.parametrize("cls", CLASSES)
def test_random_numbers_come_from_the_generator(cls):
    model = small(cls).train()
    batch = Batch(History(*own_row([4, 2, 6])), torch.tensor([[2]]))
    before = torch.get_rng_state()
    first, again, other = (model(batch, seeded(seed)).total for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_timestep_sampler_learns_from_the_weighted_losses():
    model = small(UserVectorDiffusion)
    batch = Batch(History(torch.tensor([[4, 2], [1, 3], [6, 5]]), torch.tensor([2, 2, 2])), torch.tensor([[1]] * 3))
    for seed in range(40):
        loss = model(batch, seeded(seed))
        model.update(loss.observed)
    assert model.timesteps.warm
    assert model.timesteps.probabilities().argmax() == 1, "the step of the largest weight, n = 2"


@pytest.mark.parametrize("cls", CLASSES)
def test_a_model_is_saved_and_loaded_by_the_name_of_its_class(cls, tmp_path):
    model = small(cls, timesteps={"name": "importance", "num_timesteps": 9} if cls is UserVectorFlow else "uniform")
    assert cls.from_config(range(7), json.loads(json.dumps(model.config()))).config() == model.config()
    model.save_pretrained(tmp_path)
    for again in (load_pretrained(tmp_path), cls.from_pretrained(tmp_path)):
        assert type(again) is cls
        assert torch.equal(again.predict_proba([[1, 2]]), model.predict_proba([[1, 2]]))
    ensemble = Ensemble.from_pretrained([tmp_path])
    torch.testing.assert_close(ensemble.predict_proba([[1, 2]]), model.predict_proba([[1, 2]]))
    with pytest.raises(ValueError, match=rf"holds a {cls.__name__}, not a DiffRec. Use load_pretrained"):
        DiffRec.from_pretrained(tmp_path)


def test_load_pretrained_gives_a_pipeline_where_no_class_is_named(tmp_path):
    DiffRec(range(4), dim=8, max_length=4).save_pretrained(tmp_path)
    assert type(load_pretrained(tmp_path)) is DiffRec


def test_a_pipeline_is_no_model_of_user_vectors(tmp_path):
    DiffRec(range(4), dim=8, max_length=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a DiffRec, not a UserVectorDiffusion\. Use load_pretrained\(folder\)"):
        UserVectorDiffusion.from_pretrained(tmp_path)


@pytest.mark.usefixtures("fresh_registry")
def test_a_class_without_a_name_of_its_own_is_not_saved(tmp_path):
    class Unnamed(UserVectorDiffusion):
        pass

    class Named(Unnamed, model_name="named"):
        pass

    with pytest.raises(ValueError, match=r"Unnamed has no model name of its own.*Declare it as .*model_name="):
        small(Unnamed).save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    small(Named).save_pretrained(tmp_path / "m")
    assert type(load_pretrained(tmp_path / "m")) is Named


@pytest.mark.usefixtures("fresh_registry")
def test_a_model_whose_class_is_not_imported_is_named(tmp_path, monkeypatch):
    class Own(UserVectorDiffusion, model_name="not-imported"):
        pass

    small(Own).save_pretrained(tmp_path)
    monkeypatch.delitem(pretrained._MODELS, "not-imported")
    message = (
        r"config\.json holds no model.*Unknown model name: 'not-imported'\. Known: .*user-vector-flow.*import it first"
    )
    for load in (load_pretrained, DiffRec.from_pretrained, UserVectorDiffusion.from_pretrained):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


@pytest.mark.usefixtures("fresh_registry")
def test_a_name_belongs_to_one_class_which_may_be_defined_again():
    def define():
        class Own(UserVectorDiffusion, model_name="twice"):
            pass

        return Own

    first = small(define())
    define()
    assert first.config()["model"] == "twice"
    with pytest.raises(ValueError, match=r"Other: the model name 'twice' is taken by .*Own\. Choose another name"):

        class Other(UserVectorDiffusion, model_name="twice"):
            pass


@pytest.mark.usefixtures("fresh_registry")
def test_a_class_of_ones_own_is_found_by_its_name(tmp_path):
    class Own(UserVectorDiffusion, model_name="own"):
        pass

    own = small(Own)
    own.save_pretrained(tmp_path)
    assert type(load_pretrained(tmp_path)) is Own
    assert type(UserVectorDiffusion.from_pretrained(tmp_path)) is UserVectorDiffusion
    assert issubclass(Own, Pretrained)


@pytest.mark.parametrize(
    ("cls", "settings", "message"),
    [
        (UserVectorDiffusion, {"widths": []}, "widths must hold one width at least"),
        (UserVectorDiffusion, {"step_dim": 5}, "step_dim must be even, got 5. Use 6"),
        (UserVectorDiffusion, {"oldest_weight": 0}, "oldest_weight"),
        (UserVectorDiffusion, {"weighting": "snr"}, "weighting must be one of 'bound', 'uniform'"),
        (UserVectorDiffusion, {"timesteps": {"name": "uniform", "num_timesteps": 5}}, "num_timesteps=5, the model 3"),
        (UserVectorFlow, {"num_steps": 10}, "num_steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(cls, settings, message):
    with pytest.raises(ValueError, match=message):
        small(cls, **settings)
    known = small(cls).config()
    with pytest.raises(ValueError, match=f"Unknown setting of {cls.__name__}: 'depth'"):
        cls.from_config(range(7), {**known, "depth": 3})
