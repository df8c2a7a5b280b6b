"""A state dict holds all that was learned, under names that do not depend on how the parts are run."""

from __future__ import annotations

import copy

import pytest
import torch

from diffusers_rec import DiffRec, Ensemble, NoiselessDenoiser, SyntheticWorld, TrainingBatches
from diffusers_rec.core.checkpoint import write_checkpoint
from diffusers_rec.denoisers import ConditionalMLPDenoiser
from diffusers_rec.presets import control
from diffusers_rec.training import TrainingConfig, train

SEQUENCES = SyntheticWorld(20).sample(40, min_length=4).sequences()


def build(**settings):
    settings = {"memory": "transitions", "negatives": {"name": "popularity", "count": 8}, **settings}
    schedule = {"name": "cosine", "num_timesteps": 4}
    timesteps = {"name": "importance", "history": 2}
    return DiffRec(
        SEQUENCES.vocabulary, dim=8, max_length=6, schedule=schedule, timesteps=timesteps,
        denoiser={"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "num_layers": 1}}, head="tied",
        **settings,
    )  # fmt: skip


def steps(model, seed, count=6):
    """A loop of somebody's own."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    generator = torch.Generator().manual_seed(seed)
    for batch in list(TrainingBatches(SEQUENCES, batch_targets=32, max_length=6).epoch(seed))[:count]:
        optimizer.zero_grad()
        model.loss(batch, generator).total.backward()
        optimizer.step()
    return model


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("way", ["state dict", "folder"])
def test_a_loop_that_is_not_ours_loses_nothing_where_it_is_cut_in_two(way, tmp_path):
    whole = steps(steps(build().prepare(SEQUENCES), 1), 2)
    assert whole.timesteps.warm
    first = steps(build().prepare(SEQUENCES), 1)
    if way == "folder":
        first.save_pretrained(tmp_path)
        second = DiffRec.from_pretrained(tmp_path).train()
    else:
        second = build(seed=5)
        second.load_state_dict(first.state_dict())
    assert_equal(steps(second.prepare(SEQUENCES), 2).state_dict(), whole.state_dict())


def test_prepare_counts_what_train_counts():
    model, trained = build(), build()
    train(trained, SEQUENCES, config=TrainingConfig(epochs=1), device="cpu")
    model.prepare(SEQUENCES)
    assert torch.equal(model.popularity, trained.popularity)
    assert torch.equal(model.popularity, torch.from_numpy(SEQUENCES.items).bincount(minlength=20))
    assert_equal(dict(model.memory.named_buffers()), dict(trained.memory.named_buffers()))
    assert torch.equal(model.negatives._counts, trained.negatives._counts)


def test_a_checkpoint_of_an_older_version_loads_without_what_it_lacks(tmp_path):
    model = steps(build().prepare(SEQUENCES), 1)
    older = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name != "popularity" and not name.startswith("timesteps.")
    }
    write_checkpoint(tmp_path, model.config(), older, model.vocabulary.to_json())
    loaded = DiffRec.from_pretrained(tmp_path)
    assert not loaded.popularity.any()
    assert not loaded.timesteps.warm
    history = [SEQUENCES.vocabulary.ids[:3]]
    assert torch.equal(loaded.predict_proba(history), model.predict_proba(history))


def test_a_compiled_part_keeps_its_names(tmp_path):
    plain = steps(build().prepare(SEQUENCES), 1)
    compiled = copy.deepcopy(plain)
    compiled.denoiser = torch.compile(compiled.denoiser, backend="eager")
    assert_equal(compiled.state_dict(), plain.state_dict())
    compiled.save_pretrained(tmp_path)
    assert_equal(DiffRec.from_pretrained(tmp_path).state_dict(), plain.state_dict())
    other = build(seed=3)
    other.denoiser = torch.compile(other.denoiser, backend="eager")
    other.load_state_dict(plain.state_dict())
    assert_equal(other.state_dict(), plain.state_dict())
    history = [SEQUENCES.vocabulary.ids[:3]]
    for mode in (True, False):
        torch.testing.assert_close(
            compiled.train(mode).predict_proba(history), plain.train(mode).predict_proba(history)
        )


def test_a_state_dict_within_another_has_its_prefix():
    models = [build(seed=seed).prepare(SEQUENCES) for seed in (0, 1)]
    state = Ensemble(models).state_dict()
    for number, model in enumerate(models):
        prefix = f"members.{number}."
        own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        assert_equal(own, model.state_dict())
    others = Ensemble([build(seed=seed) for seed in (5, 6)])
    others.load_state_dict(state)
    assert_equal(others.state_dict(), state)


@pytest.mark.parametrize("name", ["embedding.weight", "denoiser.out.bias"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(name, value, tmp_path, monkeypatch):
    model = build()
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"{name} holds values that are not finite"):
        model.save_pretrained(tmp_path / "m")
    assert not (tmp_path / "m").exists()
    monkeypatch.setattr("diffusers_rec.core.checkpoint.refuse_nonfinite", lambda *_: None)
    model.save_pretrained(tmp_path / "m")
    with pytest.raises(ValueError, match=f"config.json holds no model.*{name} holds values that are not finite"):
        DiffRec.from_pretrained(tmp_path / "m")


# Parts of somebody else's


@pytest.mark.usefixtures("fresh_registry")
def test_a_denoiser_that_shares_parts_has_a_control():
    class Sharing(ConditionalMLPDenoiser, name="sharing"):
        requires = frozenset({"embedding", "head", "schedule"})

        def __init__(self, dim=256, max_length=50, *, embedding, head, schedule, encoder="gru", seed=0):
            super().__init__(dim, max_length, encoder=encoder, seed=seed)
            self._held = embedding, head, schedule

        embedding, head, schedule = (property(lambda self, i=i: self._held[i]) for i in range(3))

    model = DiffRec(range(9), dim=8, max_length=5, denoiser={"name": "sharing", "encoder": "single-layer"})
    plain = control(model)
    assert isinstance(plain.denoiser, NoiselessDenoiser)
    assert isinstance(plain.denoiser.base, Sharing)
    assert plain.denoiser.base.embedding is plain.embedding
    assert plain.recommend([[1, 2]]).items
    assert DiffRec.from_config(plain.vocabulary, plain.config()).config() == plain.config()
    again = DiffRec(range(9), dim=8, max_length=5, denoiser={"name": "noiseless", "base": "sharing"})
    assert again.denoiser.base.head is again.head


@pytest.mark.usefixtures("fresh_registry")
def test_an_objective_with_an_unknown_pass_is_refused():
    model = build()
    for passes in (("sampled", "end"), ("final",), ()):
        model.objective.passes = passes
        known = "final, null, negative, paired, centroid, adjacent, next"
        with pytest.raises(ValueError, match=rf"passes must be 'sampled' and any of {known}, got \("):
            model.check_fit()


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize("habit", ["reads its numbers", "takes numpy's", "fills a table", "nothing odd"])
def test_a_part_of_somebody_elses_comes_back_whatever_its_constructor_does(habit, tmp_path):
    class Odd(ConditionalMLPDenoiser, name="odd"):  # with annotations that nobody can resolve, and one that is wrong
        def __init__(self, dim=256, max_length=50, *, act: str = None, other: NotHere = None, seed=0):  # noqa: F821,RUF013
            super().__init__(dim, max_length, encoder="gru", seed=seed)
            self.act, self.other = act, other
            if habit == "reads its numbers":
                self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
            if habit == "takes numpy's":
                self.rates = torch.linspace(0, 0.1, 3).numpy()
            if habit == "fills a table":
                table = torch.zeros(3000)
                for n in range(3000):
                    table[n] = torch.tensor(n) ** 2

    model = DiffRec(range(9), dim=8, max_length=5, denoiser="odd")
    model.save_pretrained(tmp_path)
    assert_equal(DiffRec.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_a_compiled_model_and_a_compiled_neighbour_keep_their_names():
    class Owner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.own = torch.compile(torch.nn.Linear(2, 2), backend="eager")
            self.model = build()

    owner = Owner()
    assert "own._orig_mod.weight" in owner.state_dict()
    owner.load_state_dict(owner.state_dict())
    whole = torch.compile(build(), backend="eager")
    whole.load_state_dict(whole.state_dict())
