"""Presets: each is a whole model that trains, and ``paper`` is the paper's."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from diffusers_rec import (
    AttributeEmbedding,
    DDIMSampler,
    DiffRec,
    Objective,
    SummedEmbedding,
    SyntheticWorld,
    TrainingBatches,
    load_pretrained,
)
from diffusers_rec.guidance import unwrapped
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.presets import PRESETS, control, paper
from diffusers_rec.training import RECIPES, TrainingConfig, train

SPLIT = SyntheticWorld(40, num_groups=4).sample(60).sequences().leave_one_out()
ITEMS = SPLIT.train.vocabulary

every_preset = pytest.mark.parametrize("name", PRESETS)
PIPELINES = [name for name in PRESETS if isinstance(PRESETS[name](ITEMS, dim=16, max_length=12), DiffRec)]


def test_every_preset_has_a_recipe():
    assert RECIPES.keys() == PRESETS.keys() | {"d3rec"}


@every_preset
def test_a_preset_goes_through_json_to_an_equal_pipeline(name):
    model = PRESETS[name](ITEMS, dim=16, max_length=12, dropout=0.1, seed=3)
    again = type(model).from_config(ITEMS, json.loads(json.dumps(model.config())))
    assert again.config() == model.config()
    weights = again.state_dict()
    assert weights.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("name", PIPELINES)
def test_sizes_reach_every_part(name):
    model = PRESETS[name](ITEMS, dim=16, max_length=12, dropout=0.125)
    keys = model.head.keys()
    assert model.embedding.dim == model.denoiser.dim == 16
    assert model.head.queries(keys.new_zeros(1, 16)).shape[1] == keys.shape[1]
    assert model.max_length == 12
    rates = {module.p for module in model.modules() if isinstance(module, Dropout)}
    own = {getattr(model.denoiser, rate, 0.125) for rate in ("joint_dropout", "embedding_dropout", "judge_dropout")}
    own.add(getattr(getattr(model.denoiser, "encoder", None), "judge_dropout", 0.125))
    assert rates == {0.125, *own}


def seedless(config):
    if not isinstance(config, dict):
        return config
    return {name: seedless(value) for name, value in config.items() if name != "seed"}


@every_preset
def test_the_seed_is_of_the_weights_alone(name):
    one, other = (PRESETS[name](ITEMS, dim=16, seed=seed) for seed in (0, 1))
    theirs = dict(other.named_parameters())
    assert not all(torch.equal(weight, theirs[name]) for name, weight in one.named_parameters())
    assert seedless(one.config()) == seedless(other.config())


@every_preset
def test_a_preset_trains_by_its_recipe_and_recommends(name, tmp_path):
    model = PRESETS[name](ITEMS, dim=16)
    fresh = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    result = train(
        model, SPLIT.train, SPLIT.validation, replace(RECIPES[name], epochs=1), directory=tmp_path, device="cpu"
    )
    assert result.best_epoch == 1
    still = [key for key, tensor in model.named_parameters() if torch.equal(tensor, fresh[key])]
    assert still in ([], ["denoiser.empty"]), "weights that nothing moves; no history here is empty"
    histories = [ITEMS.decode(SPLIT.test.histories[user]) for user in range(5)]
    found = model.recommend(histories, k=3)
    for items, history in zip(found.items, histories, strict=True):
        assert len(set(items) - set(history)) == 3
    assert load_pretrained(tmp_path).recommend(histories, k=3).items == found.items


@every_preset
def test_a_preset_trains_in_bf16(name):
    model, recipe = PRESETS[name](ITEMS, dim=16, max_length=12), replace(RECIPES[name], epochs=1, precision="bf16")
    train(model, SPLIT.train, SPLIT.validation, recipe, device="cpu")
    assert all(weight.isfinite().all() for weight in model.parameters())


@every_preset
def test_a_width_of_zero_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"(dim|widths)\b.* must be .*, got .*0"):
        PRESETS[name](ITEMS, dim=0)


def test_paper_is_the_papers():
    """Du et al. 2023: Sec. 5.1.4, and Sec. 4.2 to 4.5 for what it leaves to them."""
    config = paper(ITEMS).config()
    assert config["schedule"] == {**config["schedule"], "name": "sqrt", "num_timesteps": 1000, "log_snr_shift": 0.0}
    transformer = {"name": "transformer", "dim": 256, "max_length": 50, "num_layers": 2, "num_heads": 2, "dropout": 0.3}
    assert config["denoiser"] == {**config["denoiser"], **transformer}
    assert config["embedding"] == {**config["embedding"], "dim": 256, "scale": "learned"}
    assert config["noising"]["name"] == "target"
    assert config["timesteps"] == {**config["timesteps"], "name": "importance", "history": 10, "start_share": 0.0}
    assert config["head"]["name"] == "linear"
    weights = {"reconstruction_weight": 1.0, "recommendation_weight": 1.0}
    assert config["objective"] == {
        **config["objective"], **weights, "name": "simplified", "distance": "squared", "recommend_from": "sampled"
    }  # fmt: skip
    assert config["sampler"]["name"] == "one-step"
    assert config["seeds"] == 10


def test_the_papers_recipe_is_the_papers():
    recipe = RECIPES["paper"]
    assert (recipe.batch_targets, recipe.learning_rate, recipe.epochs) == (256, 1e-3, 50)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.decay, recipe.warmup_epochs) == (0, 0, "constant", 0), "Adam"
    assert recipe.patience == 0, "the best of all 50 epochs"
    assert recipe == TrainingConfig(), "the defaults are the paper's"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("joint", "trains the next one without noise already"),
        ("maskgr", "predicts items at corrupted positions alone"),
        ("bert4rec", "predicts items at corrupted positions alone"),
    ],
)
def test_a_prediction_of_items_has_no_control(name, message):
    """What noise adds to ``joint`` is seen by the control of ``best``."""
    with pytest.raises(ValueError, match=message):
        control(PRESETS[name](ITEMS, dim=16, max_length=12))


def test_a_model_of_user_vectors_has_no_control():
    with pytest.raises(TypeError, match="a UserVectorDiffusion has no noise-free control; expected a DiffRec"):
        control(PRESETS["wang2023"](ITEMS))


CONTROLLED = [name for name in PIPELINES if name not in ("joint", "flowrec", "maskgr", "bert4rec")]


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_loss_of_a_control_is_the_same_for_any_draw(name):
    plain = control(PRESETS[name](ITEMS, dim=16, max_length=12).replace(negatives="all"))
    if plain.objective.views:  # which are drawn, as negatives are
        plain = plain.replace(objective={"name": "weighted", "terms": ["cross-entropy"]})
    if "paired" in plain.objective.passes:  # the other item is drawn
        terms = plain.objective.config()["terms"]
        terms = [{**term, "at": "centroid"} if term["name"] == "preference" else term for term in terms]
        plain = plain.replace(objective={"name": "weighted", "terms": terms})
    plain.eval()
    batch = next(iter(TrainingBatches(SPLIT.train, max_length=12).epoch(0)))
    one, *others = (plain.loss(batch, torch.Generator().manual_seed(seed)).total for seed in range(4))
    assert all(torch.equal(one, other) for other in others)


@pytest.mark.parametrize("name", CONTROLLED)
def test_the_control_differs_in_the_noise_alone(name):
    model = PRESETS[name](ITEMS, dim=16, max_length=12)
    plain = control(model)
    assert plain.denoiser.config()["base"] == unwrapped(model.denoiser).config(), "the control has no guides"
    assert plain.head.config() == model.head.config()
    weights, ours = (
        {key.replace("denoiser.base.", "denoiser."): value for key, value in each.state_dict().items()}
        for each in (plain, model)
    )
    ours = {key: value for key, value in ours.items() if not key.startswith("timesteps.")}
    assert all(torch.equal(value, weights[key]) for key, value in ours.items())
    histories = [ITEMS.ids[:2]]
    assert torch.equal(plain.sample(histories, seeds=[3]), plain.sample(histories, seeds=[4]))


@pytest.mark.parametrize("noising", ["target", "whole", {"name": "last-k"}, {"name": "last-k", "ahead": True}], ids=str)
def test_the_control_sees_the_whole_history_whatever_the_model_noises(noising):
    model = DiffRec(ITEMS, dim=8, max_length=8, denoiser="causal-transformer", noising=noising)
    a, b, c, d = ITEMS.ids[:4]
    answer, *others = control(model).sample([[a, b, c], [d, b, c], [a, d, c], [a, b, d]])
    assert not any(torch.allclose(answer[:, 0], other[:, 0]) for other in others)
    assert control(model).noising.new_items == model.noising.new_items


@pytest.mark.parametrize("objective", Objective.names())
def test_the_control_minimises_the_cross_entropy_alone(objective):
    term = {"name": "cross-entropy", "weight": 2.0, "at": "final"}
    weighed = {"weighted": {"terms": ["cosine", term, "contrastive"]}, "items": {"next_weight": 2.0}}
    weighed = weighed.get(objective, {"recommendation_weight": 2.0})
    plain = control(DiffRec(ITEMS, dim=8, max_length=8, objective={"name": objective, **weighed}))
    batch = next(iter(TrainingBatches(SPLIT.train, max_length=8).epoch(0)))
    loss = plain.eval().loss(batch, torch.Generator().manual_seed(0))
    assert loss.total.item() == pytest.approx(2 * [*loss.named.values()][-1].item())
    assert control(plain).config() == plain.config()


def test_the_control_keeps_the_distances_of_a_model_without_a_cross_entropy():
    objective = {"name": "weighted", "terms": ["squared", "contrastive", "cosine"]}
    plain = control(DiffRec(ITEMS, dim=8, max_length=8, objective=objective))
    assert [term["name"] for term in plain.objective.config()["terms"]] == ["squared", "cosine"]
    assert control(plain).config() == plain.config()


@pytest.mark.parametrize("denoiser", ["posterior", "noiseless", {"name": "posterior", "base": "noiseless"}], ids=str)
def test_the_control_of_a_wrapped_model_is_that_of_what_it_wraps(denoiser):
    model = DiffRec(ITEMS, dim=8, max_length=8, denoiser=denoiser, sampler="ddpm")
    plain = control(model)
    assert plain.config() == control(DiffRec(ITEMS, dim=8, max_length=8, denoiser="conditional-mlp")).config()
    assert control(plain).config() == plain.config()
    answer = model.eval().sample([ITEMS.ids[:2]], seeds=1, sampler=DDIMSampler(num_steps=3))
    assert answer.isfinite().all()


def test_a_joint_model_needs_room_for_a_history():
    with pytest.raises(ValueError, match="gaps of k=12 positions leave no room for a history in max_length=12"):
        PRESETS["joint"](ITEMS, dim=16, max_length=12, k=12)
    with pytest.raises(ValueError, match="gaps of k=12 positions leave no room"):
        built("joint").replace(noising={"k": 12})
    assert PRESETS["joint"](ITEMS, dim=16, max_length=12, k=11).history_length == 11
    assert PRESETS["joint"](ITEMS, dim=16, max_length=4).noising.k == 3


# A joint model that starts from a ranker


def built(name, **settings):
    return PRESETS[name](ITEMS, dim=16, max_length=12, **settings)


@pytest.mark.parametrize("of", [built("best", seed=1), control(built("best", seed=1)), built("joint", seed=1)])
def test_a_joint_model_starts_from_the_items_and_the_encoder_of_a_ranker(of):
    model, fresh = built("joint", ranker=of), built("joint")
    copied = {name for name, value in model.state_dict().items() if not torch.equal(value, fresh.state_dict()[name])}
    theirs = {name.replace("denoiser.base.", "denoiser."): value for name, value in of.state_dict().items()}
    assert all(torch.equal(model.state_dict()[name], theirs[name]) for name in copied)
    assert {name.split(".")[0] for name in copied} == {"embedding", "denoiser"}, "the offsets of both heads are zero"
    assert {name.split(".")[1] for name in copied if name.startswith("denoiser")} == {"encoder", "empty"}


@pytest.mark.parametrize("name", ["attributes", "table+features"])
def test_a_joint_model_takes_over_an_embedding_of_features(name):
    attributes = AttributeEmbedding.from_features(torch.arange(len(ITEMS))[:, None] % 3, dim=16)
    embedding = SummedEmbedding(len(ITEMS), 16, features=attributes) if name == "table+features" else attributes
    ranker = control(built("best", seed=1).replace(embedding=embedding))
    model = built("joint", ranker=ranker)
    assert model.embedding.config() == ranker.embedding.config()
    assert torch.equal(model.embedding.table(), ranker.embedding.table())
    assert torch.equal(model.head.keys(), ranker.embedding.vectors())


@pytest.mark.parametrize(
    ("ranker", "message"),
    [
        (PRESETS["best"](ITEMS, dim=8, max_length=12), "dim of the model is 16, dim of the ranker is 8"),
        (PRESETS["best"](ITEMS, dim=16, max_length=9), "max_length of the model is 12, max_length of the ranker is 9"),
        (built("best", low_pass=0.5), "low_pass of the model is 0.7, low_pass of the ranker is 0.5"),
        (PRESETS["best"](ITEMS.ids[::-1], dim=16, max_length=12), "Build the model with items=ranker.vocabulary"),
        (built("best").replace(head="linear"), "head of the model is {'name': 'tied'"),
        (built("paper"), "'transformer', whose history encoder is another one"),
    ],
)
def test_a_joint_model_refuses_a_ranker_of_other_parts(ranker, message):
    with pytest.raises(ValueError, match=message):
        built("joint", ranker=ranker)
    with pytest.raises(TypeError, match="ranker"):
        built("joint", ranker="best")
