"""Views of histories in the pipeline: what is encoded for each, and what their loss trains."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from diffusers_rec import DiffRec, InfoNCETerm, Interactions
from diffusers_rec.data.augment import MASKED
from diffusers_rec.data.batching import TrainingBatches
from diffusers_rec.data.same_target import SameTarget
from diffusers_rec.objectives.views import VIEWS
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.recommenders import views as module

USERS, LENGTH, DIM = 12, 6, 8


def sequences():
    items = torch.randint(0, 9, (USERS, LENGTH), generator=torch.Generator().manual_seed(0)).flatten()
    users = [user for user in range(USERS) for _ in range(LENGTH)]
    return Interactions.from_arrays(users, items.tolist(), range(len(users))).sequences()


DATA = sequences()
EXAMPLES = {(tuple(row[:place]), row[place]) for row in map(list, DATA) for place in range(1, LENGTH)}


def made(views=("dropout", "dropout"), encoder="gru", **settings):
    term = {"name": "info-nce", "views": list(views), **settings}
    return DiffRec(
        DATA.vocabulary,
        dim=DIM,
        max_length=LENGTH,
        denoiser={"name": "plain", "encoder": encoder},
        objective={"name": "weighted", "terms": ["cross-entropy", term]},
        timesteps="uniform",
        seeds=1,
    )


def batch(examples="every-prefix"):
    return next(TrainingBatches(DATA, examples=examples, max_length=LENGTH, batch_targets=20).epoch(0))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def encoded(monkeypatch):
    """The histories that are encoded as views."""
    seen, state = [], module._state

    def recorded(model, view):
        seen.append(view)
        return state(model, view)

    monkeypatch.setattr(module, "_state", recorded)
    return seen


def rows(history):
    return [row[:length] for row, length in zip(history.items.tolist(), history.lengths.tolist(), strict=True)]


@pytest.mark.parametrize("examples", ["every-prefix", "all-positions"])
@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_made_of_what_precedes_the_last_target(view, examples, encoded):
    model, given = made((view, view)).prepare(DATA, examples=examples), batch(examples)
    model.train().loss(given, seeded())
    assert len(encoded) == 2
    last = given.positions.amax(1).tolist()
    targets = [row[place] for row, place in zip(given.items.tolist(), last, strict=True)]
    histories = [row[:place] for row, place in zip(given.items.tolist(), last, strict=True)]
    for one in encoded:
        for row, history, target in zip(rows(one), histories, targets, strict=True):
            if view == "dropout":
                assert row == history
            elif view == "same-target":
                assert (tuple(row), target) in EXAMPLES
            else:
                assert 1 <= len(row) <= len(history)
                assert not Counter(row) - Counter([*history, *[MASKED] * len(history)])


@pytest.mark.parametrize("examples", ["every-prefix", "all-positions"])
def test_a_draw_knows_the_place_of_the_target(examples, monkeypatch):
    model, given, places = made(("dropout", "same-target")).prepare(DATA, examples=examples), batch(examples), []
    draw = model.examples.draw
    monkeypatch.setattr(SameTarget, "draw", lambda _, *of: places.append((of[1], of[3])) or draw(*of))
    model.train().loss(given, seeded())
    ((targets, found),) = places
    assert torch.equal(torch.from_numpy(DATA.items)[found], targets)
    assert torch.equal(found, given.starts + given.positions.amax(1))


def test_no_view_depends_on_the_target_or_on_later_items(encoded):
    model, given = made(("augmented", "augmented")).eval(), batch()
    loss = model.loss(given, seeded()).named["info-nce"]
    first = [rows(view) for view in encoded]
    items = given.items.scatter(1, given.positions, (given.items.gather(1, given.positions) + 1) % 9)
    other = type(given)(type(given.history)(items, given.lengths), given.positions)
    encoded.clear()
    assert model.loss(other, seeded()).named["info-nce"] == loss
    assert [rows(view) for view in encoded] == first


def test_no_view_or_penalty_of_a_preset_depends_on_the_target(monkeypatch):
    """Targets and histories are renamed apart; an example of the same target is here the history itself."""
    monkeypatch.setattr(SameTarget, "draw", lambda _, history, *__: history)
    found, given = set(), batch()
    given = type(given)(given.history, given.positions.clone().index_fill_(0, torch.tensor([0, 3]), 0))
    before = torch.arange(given.items.shape[1]) < given.positions
    renamed = type(given.history)(given.items.where(before, 8 - given.items), given.lengths)
    for name, preset in PRESETS.items():
        model = preset(DATA.vocabulary, dim=2 * DIM, max_length=LENGTH)
        objective = getattr(model, "objective", None)
        if objective is None or not (objective.views or objective.penalties) or name == "mfgan":
            continue  # MFGAN's discriminators are shown the target
        model.prepare(DATA).train()
        seen = []
        model.denoiser.encoder.register_forward_pre_hook(lambda _, given, seen=seen: seen.append(given[0].latents))
        one, two = (dict(model.loss(each, seeded()).named) for each in (given, type(given)(renamed, given.positions)))
        assert one.pop("cross-entropy") != two.pop("cross-entropy"), name
        assert one == two, name
        assert len(seen) % 2 == 0
        assert all(map(torch.equal, seen[: len(seen) // 2], seen[len(seen) // 2 :])), name
        found |= {name}
    assert found >= {"acvae", "cl4srec", "duorec", "vsan"}


@pytest.mark.parametrize("encoder", ["gru", "causal-transformer"])
def test_the_state_of_a_view_is_that_of_the_plain_model(encoder):
    """Without dropout, the term of two equal views is that of the states that the model predicts."""
    model, given = made(encoder=encoder).eval(), batch()
    lengths = given.positions[:, 0]
    states = model.next_item_latents(type(given.history)(given.items[:, :-1], lengths))[:, 0]
    loss = model.loss(given, seeded())
    both = torch.cat([states, states])
    scores = (both @ both.T).fill_diagonal_(-torch.inf)
    own = torch.arange(len(both)).roll(len(states))
    torch.testing.assert_close(loss.named["info-nce"], torch.nn.functional.cross_entropy(scores, own))
    torch.testing.assert_close(loss.total.detach(), loss.named["cross-entropy"] + 0.1 * loss.named["info-nce"])


def test_two_encodings_of_a_history_differ_by_dropout_alone(encoded, monkeypatch):
    model, found, state = made(encoder="causal-transformer"), [], module._state
    monkeypatch.setattr(module, "_state", lambda *given: found.append(state(*given)) or found[-1])
    model.eval().loss(batch(), seeded())
    assert torch.equal(*found)
    found.clear()
    model.train().loss(batch(), seeded())
    assert not torch.allclose(*found)


def test_the_masked_item_is_learned_and_is_no_item():
    model = made(("mask", "crop"))
    model.train().loss(batch(), seeded()).total.backward()
    assert model.masked_item.vector.grad.abs().sum() > 0
    assert model.embedding.num_items == len(DATA.vocabulary)
    assert made().masked_item is None
    assert "masked_item.vector" in model.state_dict()


def test_a_model_keeps_its_masked_item_where_its_parts_change():
    model = made(("augmented", "augmented"))
    torch.nn.init.ones_(model.masked_item.vector)
    assert model.replace(sampler="ddim").masked_item.vector.sum() == DIM
    assert model.extend(["new"]).masked_item.vector.sum() == DIM
    assert model.replace(objective={"name": "weighted", "terms": ["cross-entropy"]}).masked_item is None


def test_a_diffusion_model_and_its_control_have_the_same_views():
    model = made(("augmented", "crop"), crop=0.5).replace(denoiser="conditional-mlp")
    plain = control(model)
    assert plain.objective.views == model.objective.views == ("augmented", "crop")
    assert plain.objective.augmentations.crop == 0.5
    for each in (model, plain):
        assert each.prepare(DATA).train().loss(batch(), seeded()).named["info-nce"] > 0


def test_a_seed_determines_the_loss_and_other_losses_draw_the_same_numbers():
    model = made(("augmented", "same-target"), encoder="causal-transformer").prepare(DATA).train()
    one, other = (model.loss(batch(), seeded(3)) for _ in range(2))
    assert one.total == other.total
    without = model.replace(objective={"name": "weighted", "terms": ["cross-entropy"]}).train()
    assert without.loss(batch(), seeded(3)).named["cross-entropy"] == one.named["cross-entropy"]


def test_same_target_needs_the_training_data():
    with pytest.raises(ValueError, match=r"Call model\.prepare"):
        made(("dropout", "same-target")).train().loss(batch(), seeded())


@pytest.mark.parametrize("denoiser", ["transformer", "autoregressive"])  # the second has blocks of this name
def test_a_denoiser_without_an_encoder_is_refused(denoiser):
    objective = {"name": "weighted", "terms": ["cross-entropy", InfoNCETerm()]}
    with pytest.raises(ValueError, match=f"'{denoiser}' has no history encoder"):
        DiffRec(range(5), dim=DIM, denoiser=denoiser, objective=objective)


def test_an_objective_that_hides_items_is_not_put_into_a_model_that_does_not():
    model = made().train()
    model.objective = made(("mask", "crop")).objective
    for use in (model.check_fit, lambda: model.loss(batch(), seeded())):
        with pytest.raises(ValueError, match=r"views that hide items.*model\.replace\(objective"):
            use()


def test_a_model_keeps_its_examples_where_its_parts_change():
    model = made(("dropout", "same-target")).prepare(DATA).train()
    for changed in (model.replace(seeds=2), model.replace(denoiser="conditional-mlp")):
        assert changed.loss(batch(), seeded()).total.isfinite()
    with pytest.raises(ValueError, match=r"Call model\.prepare"):
        model.replace(max_length=LENGTH + 1).loss(batch(), seeded())


def test_histories_without_items_have_no_view(encoded):
    model, given = made().train(), batch()
    first = type(given)(given.history, given.positions.clone().index_fill_(0, torch.tensor([0, 3]), 0))
    assert model.loss(first, seeded()).total.isfinite()
    assert len(encoded[0]) == len(given) - 2
    none = type(given)(given.history, torch.zeros_like(given.positions))
    assert float(model.loss(none, seeded()).named["info-nce"]) == 0
