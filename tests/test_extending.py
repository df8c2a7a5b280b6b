"""A larger catalogue: known items keep what they learned, new ones start afresh, and training goes on."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import gaussian, perturbed

from diffusers_rec import (
    AttributeEmbedding,
    DiffRec,
    FeatureEmbedding,
    Interactions,
    ItemHead,
    Memory,
    NoMemory,
    SyntheticWorld,
    attribute_bags,
)
from diffusers_rec.training import TrainingConfig, train

SEQUENCES = SyntheticWorld(24, seed=3).sample(60).sequences()
ITEMS = SEQUENCES.vocabulary.ids
FEATURES = dict(zip(ITEMS, gaussian(len(ITEMS), 5, seed=8).float(), strict=True))
KNOWN, NEW = 20, len(ITEMS) - 20
EMBEDDINGS = [
    {"name": "table", "scale": "unit"},
    {"name": "features", "num_features": 5},
    {"name": "table+features", "features": {"name": "features", "num_features": 5, "hidden": 6}},
]
DENOISERS = ["conditional-mlp", {"name": "posterior", "base": "conditional-mlp"}]


def build(embedding="table", head="tied", **changes):
    """A small model of the first items, as if larger."""
    given_settings = {"schedule": {"name": "cosine", "num_timesteps": 6}, "denoiser": "conditional-mlp", "seeds": 2}
    model = DiffRec(ITEMS[:KNOWN], dim=8, max_length=8, embedding=embedding, head=head, **given_settings | changes)
    if model.embedding.takes_features:
        model.embedding.set_features(features_of(ITEMS[:KNOWN]))
    return perturbed(model).eval()


def features_of(items):
    return torch.stack([FEATURES[item] for item in items])


def extension(model):
    """Features of the new items, where the model takes them."""
    return features_of(ITEMS[KNOWN:]) if model.embedding.takes_features else None


def assert_same_state(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def refused(embedding, head):
    return head == "wasserstein" and embedding.get("scale", "learned") != "learned"


@given(
    embedding=st.sampled_from(EMBEDDINGS),
    head=st.sampled_from(ItemHead.names()),
    memory=st.sampled_from(Memory.names()),
    denoiser=st.sampled_from(DENOISERS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_known_items_keep_every_bit_and_new_ones_get_rows(embedding, head, memory, denoiser, dtype):
    assume(not refused(embedding, head))
    model = build(embedding, head, memory=memory, denoiser=denoiser)
    model.prepare(sequences_of(KNOWN))
    model.to(dtype)
    before = copy.deepcopy(model.state_dict())
    larger = model.extend(ITEMS[KNOWN:], extension(model))
    assert_same_state(model.state_dict(), before)
    assert larger.vocabulary.ids == ITEMS
    assert larger.config() == DiffRec.from_config(ITEMS, larger.config()).config()
    grown = 0
    for name, tensor in larger.state_dict().items():
        old = before[name]
        assert tensor.dtype == old.dtype
        assert torch.equal(tensor[tuple(slice(size) for size in old.shape)], old)
        if tensor.shape != old.shape:
            assert tensor.shape[0] == len(ITEMS)
            assert old.shape[0] == KNOWN
            grown += 1
    assert grown >= 2  # the embedding or its features, and the popularity
    assert not larger.popularity[KNOWN:].any()


@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda spec: spec["name"])
@pytest.mark.parametrize("head", ItemHead.names())
def test_known_items_have_the_same_scores_up_to_the_new_ones_share(embedding, head):
    """Before and after, the ratios of the known items' probabilities are those of one softmax, draw by draw."""
    if refused(embedding, head):
        pytest.skip("the head reads item vectors as they are")
    model = build(embedding, head, seeds=1).double()
    larger = model.extend(ITEMS[KNOWN:], extension(model))
    histories = [ITEMS[:3], ITEMS[4:9]]
    before, after = model.predict_proba(histories), larger.predict_proba(histories)
    share = after[:, :KNOWN].sum(1, keepdim=True)
    torch.testing.assert_close(after[:, :KNOWN] / share, before)
    assert bool((after[:, KNOWN:] > 0).all())


def test_new_rows_come_from_the_seed():
    model = build(head="linear", seed=4)
    one, other = model.extend(ITEMS[KNOWN:]), model.extend(ITEMS[KNOWN:])
    assert_same_state(one.state_dict(), other.state_dict())
    fresh = DiffRec.from_config(ITEMS, one.config())
    assert torch.equal(one.embedding.weight[KNOWN:], fresh.embedding.weight[KNOWN:])
    assert torch.equal(one.head.weight[KNOWN:], fresh.head.weight[KNOWN:])
    assert one.head.offset[KNOWN:].tolist() == [0] * NEW
    assert len(torch.unique(one.embedding.weight, dim=0)) == len(ITEMS)


def test_extending_twice_is_extending_once_for_the_known():
    model = build()
    once = model.extend(ITEMS[KNOWN:])
    twice = model.extend(ITEMS[KNOWN : KNOWN + 1]).extend(ITEMS[KNOWN + 1 :])
    assert twice.vocabulary == once.vocabulary
    assert torch.equal(twice.embedding.weight[:KNOWN], once.embedding.weight[:KNOWN])
    assert len(torch.unique(twice.embedding.weight, dim=0)) == len(ITEMS)


def test_what_is_frozen_and_the_mode_are_carried_over():
    model = build()
    model.denoiser.requires_grad_(False)
    larger = model.train().extend(ITEMS[KNOWN:])
    assert larger.training
    assert not any(weight.requires_grad for weight in larger.denoiser.parameters())
    assert larger.embedding.weight.requires_grad
    assert not model.eval().extend(ITEMS[KNOWN:]).training


def sequences_of(number):
    """The sequences without the items that come later."""
    allowed = set(ITEMS[:number])
    rows = [[item for item in row if item in allowed] for row in raw_sequences()]
    return from_rows([row for row in rows if len(row) > 1])


def raw_sequences():
    ends = SEQUENCES.lengths.cumsum()
    return [
        SEQUENCES.vocabulary.decode(SEQUENCES.items[end - length : end])
        for end, length in zip(ends, SEQUENCES.lengths, strict=True)
    ]


def from_rows(rows):
    users = [user for user, row in enumerate(rows) for _ in row]
    items = [item for row in rows for item in row]
    return Interactions.from_arrays(users, items, list(range(len(items)))).sequences()


def test_items_with_features_are_recommended_without_training():
    """Attributes tell which of two camps an item belongs to, users stay in one; a new item is ranked in its camp."""
    camps = {item: ["left" if number % 2 else "right"] for number, item in enumerate(range(30))}
    old, new = [item for item in camps if item < 26], [26, 27, 28, 29]
    generator = torch.Generator().manual_seed(0)
    rows = []
    for user in range(200):
        camp = [item for item in old if item % 2 == user % 2]
        rows.append([camp[index] for index in torch.randperm(len(camp), generator=generator)[:6].tolist()])
    sequences = from_rows(rows)
    bags = attribute_bags(sequences.vocabulary, camps)
    model = DiffRec(
        sequences.vocabulary,
        dim=8,
        max_length=8,
        schedule={"name": "cosine", "num_timesteps": 6},
        embedding=AttributeEmbedding.from_features(bags, dim=8, scale="unit"),
        denoiser="conditional-mlp",
        head="tied",
        seeds=4,
    )
    train(model, sequences, config=TrainingConfig(epochs=6, batch_targets=64, learning_rate=1e-2))
    larger = model.extend(new, attribute_bags(new, camps, known=bags.attributes))
    for camp in (0, 1):
        history = [item for item in old if item % 2 == camp][:4]
        proba = larger.predict_proba([history])[0]
        own, other = (larger.vocabulary.encode([item for item in new if item % 2 == side]) for side in (camp, 1 - camp))
        assert proba[own].min() > 2 * proba[other].max()


@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda spec: spec["name"])
def test_training_goes_on_from_a_checkpoint_with_a_larger_catalogue(embedding, tmp_path):
    config = TrainingConfig(epochs=1, batch_targets=64)
    model = build(embedding, memory="transitions")
    train(model, sequences_of(KNOWN), config=config)
    model.save_pretrained(tmp_path / "small")
    larger = DiffRec.from_pretrained(tmp_path / "small").extend(ITEMS[KNOWN:], extension(model))
    start = copy.deepcopy(larger.state_dict())
    train(larger, SEQUENCES, config=config)
    assert bool(larger.popularity[KNOWN:].all())
    moved = {name for name, tensor in larger.state_dict().items() if not torch.equal(tensor, start[name])}
    assert any(name.startswith("embedding.") for name in moved)
    assert "embedding.features" not in moved
    larger.save_pretrained(tmp_path / "large")
    again = DiffRec.from_pretrained(tmp_path / "large")
    assert_same_state(again.state_dict(), larger.state_dict())
    assert again.recommend([ITEMS[:3]]).items == larger.eval().recommend([ITEMS[:3]]).items


@pytest.mark.parametrize(
    ("embedding", "items", "features", "message"),
    [
        ("table", [], None, "expected at least one new item, got none"),
        ("table", [ITEMS[0], "x"], None, "the model knows 1 of 2 already, the first"),
        ("table", ["x", "x"], None, "every id must occur once"),
        ("table", [None], None, "is missing"),
        ("table", ["x"], torch.ones(1, 5), "the embedding 'table' takes none. Leave them out"),
        (EMBEDDINGS[1], ["x"], None, r"one row for each of the 1 new items, got none. feature_vectors\(\)"),
        (EMBEDDINGS[2], ["x"], None, "one row for each of the 1 new items"),
        (EMBEDDINGS[1], ["x"], torch.ones(2, 5), "Expected features of 1 items.*got 2 rows"),
        (EMBEDDINGS[2], ["x"], torch.ones(1, 4), "length of the given vectors is 4, num_features .* is 5"),
    ],
)
def test_refuses_what_does_not_extend(embedding, items, features, message):
    with pytest.raises(ValueError, match=message):
        build(embedding).extend(items, features)


def test_refuses_to_extend_features_that_are_not_set():
    model = build()
    blank = DiffRec(model.vocabulary, dim=8, embedding={"name": "features", "num_features": 5}, head="tied")
    with pytest.raises(ValueError, match="features of FeatureEmbedding are not set"):
        blank.extend(["x"], torch.ones(1, 5))
    with pytest.raises(ValueError, match="features of FeatureEmbedding are not set"):
        blank.recommend([ITEMS[:3]])


def test_a_part_that_cannot_grow_is_named(fresh_registry):
    class Shrinking(NoMemory, name="shrinking"):
        def __init__(self, num_items):
            super().__init__()
            self.num_items = num_items
            self.register_buffer("rest", torch.zeros(100 - num_items))

    with pytest.raises(ValueError, match=r"memory.rest is \(80,\), but a model with more items has \(76,\)"):
        build(memory="shrinking").extend(ITEMS[KNOWN:])


def test_an_embedding_built_from_features_composes():
    vectors = features_of(ITEMS)
    whole = {"name": "table+features", "features": FeatureEmbedding.from_features(vectors, dim=8)}
    model = DiffRec(ITEMS, dim=8, max_length=8, embedding=whole, head="cosine", denoiser="conditional-mlp")
    assert model.config()["embedding"]["features"]["name"] == "features"
    assert len(model.recommend([ITEMS[:3]], k=3).items[0]) == 3


@pytest.mark.parametrize("embedding", EMBEDDINGS, ids=lambda spec: spec["name"])
def test_another_denoiser_leaves_an_embedding_with_its_features(embedding):
    model = build(embedding)
    other = model.replace(denoiser="transformer")
    assert_same_state(other.embedding.state_dict(), model.embedding.state_dict())
    assert model.replace(dim=16).embedding.dim == 16
    again = model.replace(seed=1)
    assert not torch.equal(again.embedding.weight, model.embedding.weight)
    if embedding["name"] == "table+features":
        assert again.config()["embedding"]["features"]["seed"] != model.config()["embedding"]["features"]["seed"]
