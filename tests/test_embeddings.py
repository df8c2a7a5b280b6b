from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import built, gaussian, over, perturbed, seeds

from diffusers_rec.data import Vocabulary
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.feature_embeddings import AttributeEmbedding, FeatureEmbedding, SummedEmbedding
from diffusers_rec.items.features import attribute_bags, feature_vectors
from diffusers_rec.nn.step_embedding import step_embedding
from diffusers_rec.testing.embeddings import CLAUSES, with_features

BAGS = torch.tensor([[0, 2, -1], [1, -1, -1], [-1, -1, -1], [2, 1, 0]])
SPECS = [
    {"name": "table"},
    {"name": "features", "num_features": 5},
    {"name": "features", "num_features": 5, "hidden": 6},
    {"name": "attributes", "num_attributes": 6},
    {"name": "table+features", "features": {"name": "features", "num_features": 5, "hidden": 6}},
    {"name": "table+features", "features": {"name": "attributes", "num_attributes": 6}},
]

embeddings = st.builds(
    lambda spec, **settings: with_features(built(ItemEmbedding, {**spec, **settings})),
    st.sampled_from(SPECS),
    num_items=st.integers(1, 9),
    dim=st.integers(2, 12),  # at unit scale a single dimension has but its sign, and nothing to learn
    scale=st.sampled_from(["learned", "unit"]),
    init_std=st.floats(1e-3, 10),
    seed=seeds,
)


@over(CLAUSES)
@given(embedding=embeddings)
def test_every_embedding_keeps_its_contract(clause, embedding):
    clause(embedding)


def test_every_registered_embedding_is_among_those_tested():
    assert {spec["name"] for spec in SPECS} == set(ItemEmbedding.names())


@given(num_items=st.integers(1, 9), dim=st.integers(2, 12), seed=seeds, factor=st.floats(1e-3, 1e3))
def test_unit_scale_has_the_norm_of_the_noise(num_items, dim, seed, factor):
    """||x0||^2 = D, whatever the length and along the learned direction."""
    unit = TableEmbedding(num_items, dim, scale="unit", seed=seed)
    with torch.no_grad():
        unit.weight *= factor
    norms = unit.table().norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, math.sqrt(dim)))
    cosine = torch.cosine_similarity(unit.table(), unit.weight, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_vector_of_zeros_stays_finite_at_unit_scale():
    table = TableEmbedding(2, 4, scale="unit")
    with torch.no_grad():
        table.weight.zero_()
    table(torch.tensor([0, 1])).sum().backward()
    assert torch.isfinite(table.table()).all()
    assert torch.isfinite(table.weight.grad).all()


@pytest.mark.parametrize("init_std", [0.1, 1.0, 4.0])
def test_initial_vectors_have_the_spread_asked(init_std):
    assert TableEmbedding(2000, 64, init_std=init_std).weight.std().item() == pytest.approx(init_std, rel=0.02)


@pytest.mark.parametrize("scale", ["learned", "unit"])
def test_only_the_items_asked_learn(scale):
    table = TableEmbedding(5, 4, scale=scale)
    (table(torch.tensor([1, 3, 3])) * torch.arange(4.0)).sum().backward()
    moved = table.weight.grad.abs().sum(-1) > 0
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 0}, "num_items must be an integer >= 1, got 0"),
        ({"dim": 0}, "dim must be an integer >= 1, got 0"),
        ({"scale": "norm"}, "scale must be one of 'learned', 'unit', got 'norm'"),
        ({"init_std": 0}, "init_std must be a finite number above 0, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TableEmbedding(**{"num_items": 3, **settings})


def test_the_base_class_names_what_to_use_instead():
    with pytest.raises(TypeError, match=r"ItemEmbedding is abstract.*Use TableEmbedding\(num_items, dim\)"):
        ItemEmbedding(3, 4)


@pytest.mark.parametrize("seed", [0, 5])
def test_a_table_draws_the_same_initial_vectors_in_every_release(seed):
    expected = torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) * 0.1
    table = TableEmbedding(4, 3, seed=seed)
    assert list(table.state_dict()) == ["weight"]
    assert torch.equal(table.weight, expected)
    assert table.vectors() is table.weight


# Vectors from features


@given(seed=seeds, hidden=st.sampled_from([0, 3]))
def test_given_vectors_are_mapped_linearly_or_through_a_hidden_layer(seed, hidden):
    given_vectors = gaussian(4, 5, seed=seed)
    embedding = perturbed(FeatureEmbedding.from_features(given_vectors, 6, hidden=hidden, seed=seed)).double()
    inner = given_vectors.float().double()  # as they are kept
    if hidden:
        inner = torch.nn.functional.gelu(inner @ embedding.inner.weight.T + embedding.inner.bias)
    torch.testing.assert_close(embedding.vectors(), inner @ embedding.weight.T)


def test_initial_vectors_of_standardised_features_have_the_spread_asked():
    embedding = FeatureEmbedding.from_features(gaussian(500, 40), 64, init_std=0.3)
    assert embedding.vectors().std().item() == pytest.approx(0.3, rel=0.05)


@given(seed=seeds)
def test_a_bag_is_the_mean_of_its_attributes(seed):
    embedding = AttributeEmbedding.from_features(BAGS, 6, seed=seed).double()
    w, zero = embedding.weight, torch.zeros(6, dtype=torch.float64)
    expected = torch.stack([(w[0] + w[2]) / 2, w[1], zero, (w[0] + w[1] + w[2]) / 3])
    torch.testing.assert_close(embedding.vectors(), expected)
    torch.testing.assert_close(embedding.vectors(torch.tensor([[2], [3]])), expected[[2, 3]][:, None])


def test_a_bag_is_a_linear_map_of_its_attributes_shares():
    shares = torch.zeros(4, 3).scatter_add_(1, BAGS.clamp(min=0), (BAGS >= 0).float())
    shares /= shares.sum(1, keepdim=True).clamp(min=1)
    linear = FeatureEmbedding.from_features(shares, 6)
    bags = AttributeEmbedding.from_features(BAGS, 6)
    bags.load_state_dict({"weight": linear.weight.T, "features": bags.features})
    torch.testing.assert_close(bags.vectors(), linear.vectors())


def test_attributes_that_an_item_lacks_do_not_learn_from_it():
    embedding = AttributeEmbedding.from_features(BAGS, 6)
    embedding(torch.tensor([1, 2])).sum().backward()
    assert (embedding.weight.grad.abs().sum(1) > 0).tolist() == [False, True, False]


@given(seed=seeds, scale=st.sampled_from(["learned", "unit"]))
def test_a_sum_adds_vectors_and_scales_the_sum(seed, scale):
    part = AttributeEmbedding.from_features(BAGS, 6, seed=seed)
    whole = SummedEmbedding(4, 6, features=part, scale=scale, seed=seed)
    assert torch.equal(whole.vectors(), TableEmbedding(4, 6, seed=seed).weight + part.vectors())
    if scale == "unit":
        torch.testing.assert_close(whole.table().square().sum(1), torch.full((4,), 6.0))


def test_the_parts_of_a_sum_start_from_different_seeds():
    whole = SummedEmbedding(6, 4, features={"name": "attributes", "num_attributes": 6})
    assert not torch.equal(whole.weight, whole.features.weight)
    other = SummedEmbedding(6, 4, features={"name": "attributes", "num_attributes": 6}, seed=1)
    assert not torch.equal(other.features.weight, whole.features.weight)


def test_features_may_be_arrays_lists_or_tensors_of_any_precision():
    expected = FeatureEmbedding.from_features([[1, 2], [3, 4]], 3).table()
    for given_vectors in (np.array([[1, 2], [3, 4]]), torch.tensor([[1, 2], [3, 4]]), gaussian(2, 2).half()):
        found = FeatureEmbedding.from_features(given_vectors, 3)
        assert found.features.dtype == torch.float32
        assert torch.equal(found.table(), expected) == (not torch.is_floating_point(torch.as_tensor(given_vectors)))
    assert torch.equal(AttributeEmbedding.from_features(BAGS.int().numpy(), 3).features, BAGS)


@given(first=st.integers(1, 3), width=st.integers(1, 5))
def test_features_from_an_item_on_leave_those_before_it(first, width):
    bags = AttributeEmbedding.from_features(BAGS, 6)
    before = bags.vectors().detach()
    bags.set_features(torch.full((4 - first, width), 2), first=first)
    assert torch.equal(bags.vectors()[:first], before[:first])
    torch.testing.assert_close(bags.vectors()[first:], bags.weight[2].expand(4 - first, -1))
    assert bags.max_attributes == max(3, width)
    assert ItemEmbedding.build(bags.config()).features.shape == bags.features.shape


def test_vectors_replace_those_from_an_item_on():
    embedding = FeatureEmbedding.from_features(gaussian(4, 2), 3)
    before = embedding.vectors().detach()
    embedding.set_features(torch.ones(1, 2), first=3)
    assert torch.equal(embedding.vectors()[:3], before[:3])
    assert torch.equal(embedding.features[3], torch.ones(2))


@pytest.mark.parametrize("spec", [spec for spec in SPECS if spec["name"] != "table"], ids=str)
def test_features_that_are_not_set_are_refused_at_first_use(spec):
    embedding = built(ItemEmbedding, spec)
    for call in (embedding.table, embedding.vectors, lambda: embedding(torch.tensor([0]))):
        with pytest.raises(ValueError, match=r"features of \w+ are not set.*from_features.*set_features\(features\)"):
            call()
    with pytest.raises(ValueError, match="are not set"):
        embedding.set_features(torch.ones(1, 1, dtype=torch.int64), first=6)


def test_a_table_takes_no_features():
    with pytest.raises(ValueError, match=r"TableEmbedding takes no features\. Use .*'table\+features'"):
        TableEmbedding(3, 4).set_features(torch.ones(3, 4))


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.ones(3, 5), r"Expected features of 4 items, one row each .*, got 3 rows"),
        (torch.ones(4, 3), "length of the given vectors is 3, num_features of the embedding is 5"),
        (torch.ones(4), r"Expected vectors \(items, num_features\), got shape \(4,\)"),
        (torch.ones(4, 0), "got shape"),
        ([[1.0, 2.0], [1.0]], r"got rows of different lengths. feature_vectors\(\) makes them from a mapping"),
        (torch.zeros(4, 5), "got none at all: every row is empty"),
        (torch.full((4, 5), math.nan), "features must be finite, but those in row 0 are not"),
    ],
)
def test_refuses_vectors_that_are_none(features, message):
    with pytest.raises(ValueError, match=message):
        FeatureEmbedding(4, 6, num_features=5).set_features(features)


@pytest.mark.parametrize("features", [[["a"] * 5] * 4, None, {"a": 1}, torch.ones(4, 5).to_sparse()])
def test_refuses_vectors_that_are_no_numbers(features):
    with pytest.raises(TypeError, match=r"Expected vectors \(items, num_features\)"):
        FeatureEmbedding(4, 6, num_features=5).set_features(features)


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        (torch.tensor([[0], [1]]), ValueError, "Expected features of 4 items"),
        (
            torch.tensor([[0], [1], [2], [3]]),
            ValueError,
            "below num_attributes=3, got 3.*known=bags.attributes",
        ),
        (torch.tensor([[0], [-2], [2], [2]]), ValueError, "at least 0, or -1 for padding, got -2"),
        (torch.full((4, 2), -1), ValueError, "got none at all"),
        (torch.ones(4, 2), TypeError, r"Expected attribute indices \(integers\), got torch.float32"),
        (torch.ones(4, dtype=torch.int64), ValueError, r"got shape \(4,\)"),
    ],
)
def test_refuses_bags_that_are_none(features, error, message):
    with pytest.raises(error, match=message):
        AttributeEmbedding(4, 6, num_attributes=3).set_features(features)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (TableEmbedding(3, 6), "num_items of the features is 3, num_items of the sum is 4"),
        (TableEmbedding(4, 5), "dim of the features is 5, dim of the sum is 6"),
        (TableEmbedding(4, 6, scale="unit"), "scale of the features is unit.* is learned"),
    ],
)
def test_refuses_parts_of_a_sum_that_do_not_fit(part, message):
    with pytest.raises(ValueError, match=message):
        SummedEmbedding(4, 6, features=part)


# Features from mappings


def test_bags_come_in_the_order_of_the_items():
    given_bags = {"b": ["x"], "a": ["y", "x", "y"], "c": [], "elsewhere": ["z"]}
    bags = attribute_bags(Vocabulary(["a", "b", "c"]), given_bags)
    assert bags.attributes.ids == ("y", "x")
    assert bags.indices.tolist() == [[0, 1], [1, -1], [-1, -1]]
    assert len(bags) == 3
    assert attribute_bags(["a", "b", "c"], [["y", "x"], ["x"], []]).indices.tolist() == bags.indices.tolist()
    later = attribute_bags(["d"], {"d": ["x", "new"]}, known=bags.attributes, unknown="drop")
    assert later.indices.tolist() == [[1]]
    assert later.attributes == bags.attributes


@given(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=1, max_size=6).filter(any))
def test_bags_decode_to_what_was_given(given_bags):
    bags = attribute_bags(range(len(given_bags)), dict(enumerate(given_bags)))
    for row, bag in zip(bags.indices, given_bags, strict=True):
        assert bags.attributes.decode(row[row >= 0].tolist()) == list(dict.fromkeys(bag))


@pytest.mark.parametrize(
    ("items", "given_bags", "settings", "error", "message"),
    [
        (
            ["a", "b"],
            {"a": ["x"]},
            {},
            ValueError,
            "2 items, but 1 have no entry: 'b'. Give an empty list",
        ),
        ([1, 2], {"1": ["x"], "2": []}, {}, ValueError, "ids of items are int, those of attributes are str. Convert"),
        (["a"], {"a": []}, {}, ValueError, "none of the 1 items has any"),
        (["a"], [["x"], ["y"]], {}, ValueError, "Expected attributes of 1 items, in their order, got 2"),
        (["a"], {"a": ["x"]}, {"known": ["y"]}, ValueError, "1 unknown id among 1 known: 'x'"),
        (["a"], {"a": ["x"]}, {"known": ["y"], "unknown": "keep"}, ValueError, "must be one of 'error', 'drop'"),
        (["a"], {"a": "xy"}, {}, TypeError, "attributes of item 'a' as a sequence"),
    ],
)
def test_refuses_attributes_that_are_none(items, given_bags, settings, error, message):
    with pytest.raises(error, match=message):
        attribute_bags(items, given_bags, **settings)


def test_vectors_come_in_the_order_of_the_items():
    found = feature_vectors(["a", "b"], {"b": [3, 4], "a": np.array([1.0, 2.0]), "elsewhere": [0]})
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(ValueError, match=r"one length, got \(2,\) for item 'a' and \(1,\) for item 'b'"):
        feature_vectors(["a", "b"], {"a": [1, 2], "b": [1]})
    with pytest.raises(ValueError, match=r"vectors of 1 items, but 1 have no entry: 'c'\. Give a vector"):
        feature_vectors(["c"], {"a": [1, 2]})


# The embedding of steps


@given(dim=st.integers(1, 16).map(lambda half: 2 * half), steps=st.lists(st.integers(0, 2000), min_size=1, max_size=5))
def test_step_embedding_is_equation_15(dim, steps):
    expected = np.zeros((len(steps), dim))
    for row, n in enumerate(steps):
        for j in range(dim // 2):
            expected[row, 2 * j] = math.sin(n / 10000 ** (2 * j / dim))
            expected[row, 2 * j + 1] = math.cos(n / 10000 ** (2 * j / dim))
    got = step_embedding(torch.tensor(steps), dim)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-3)  # float32 angles of up to 2000 radians


@given(shape=st.lists(st.integers(1, 3), max_size=3))
def test_step_embedding_keeps_the_shape(shape):
    steps = torch.arange(math.prod(shape)).view(shape)
    assert step_embedding(steps, 6).shape == (*shape, 6)
    assert torch.equal(step_embedding(steps, 6).view(-1, 6), step_embedding(steps.reshape(-1), 6))
