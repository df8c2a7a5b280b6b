from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, seeded, seeds

from diffusers_rec.core.randomness import generators_from, isolated_rng, randn, stream_seed, weight_seed
from diffusers_rec.items.embeddings import TableEmbedding

CPU = torch.device("cpu")


def draw(shape, generator, dtype=torch.float32):
    return randn(shape, generator, device=CPU, dtype=dtype)


@pytest.fixture
def untouched():
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before)


@given(seed=seeds, shape=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 5)))
def test_the_same_generator_gives_the_same_bits(seed, shape):
    for dtype in DTYPES:
        assert torch.equal(draw(shape, seeded(seed), dtype), draw(shape, seeded(seed), dtype))
        assert draw(shape, seeded(seed), dtype).dtype == dtype
    one = seeded(seed)
    assert not torch.equal(draw(shape, one), draw(shape, one))


@given(values=st.lists(seeds, min_size=1, max_size=5, unique=True), batch=st.integers(1, 4), data=st.data())
def test_a_draw_depends_on_its_own_seed_alone(values, batch, data):
    """Neither on the batch, nor on the draws beside it, nor on their order."""
    whole = draw((batch, len(values), 2, 3), generators_from(values))
    for index, seed in enumerate(values):
        alone = draw((1, 1, 2, 3), generators_from([seed]))
        assert torch.equal(whole[:, index : index + 1], alone.expand(batch, -1, -1, -1))
    order = data.draw(st.permutations(range(len(values))))
    again = draw((batch, len(values), 2, 3), generators_from([values[index] for index in order]))
    assert torch.equal(again, whole[:, order])


@given(number=st.integers(1, 6))
def test_a_number_of_seeds_is_the_first_of_them(number):
    first, second = generators_from(number), generators_from(list(range(number)))
    seeds_of_both = [[g.initial_seed() for g in generators] for generators in (first, second)]
    assert seeds_of_both[0] == seeds_of_both[1]
    assert len(set(seeds_of_both[0])) == number


def test_gaussian_draws_are_gaussian():
    from scipy import stats

    for generator in (seeded(3), generators_from(4)):
        sample = draw((1, 4, 5000), generator).flatten()
        assert stats.kstest(sample.numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        (0, ValueError, "must be an integer >= 1 and <= 10000, got 0"),
        (-2, ValueError, "must be an integer >= 1 and <= 10000, got -2"),
        ([], ValueError, "at least one seed and at most 10000, got none"),
        ([3, -1], ValueError, "each seed must be an integer >= 0, got -1"),
        ([1, 2, 1, 2, 5], ValueError, r"\[1, 2\] occur more than once"),
        ([1.5], TypeError, "each seed must be an integer >= 0, got 1.5"),
        (True, TypeError, "must be an integer >= 1 and <= 10000, got True"),
        (10**9, ValueError, "must be an integer >= 1 and <= 10000, got 1000000000"),
        (range(10**9), ValueError, "at most 10000, got more"),
    ],
)
def test_refuses_bad_seeds(seeds, error, message):
    with pytest.raises(error, match=message):
        generators_from(seeds)


@pytest.mark.parametrize("number", [1, 3])
def test_wants_one_generator_a_draw(number):
    with pytest.raises(ValueError, match=f"each of the 2 noise draws, got {number}"):
        draw((1, 2, 3), generators_from(number))


def test_no_draw_touches_the_global_state(untouched):
    draw((2, 3, 4), seeded(0))
    draw((2, 3, 4), generators_from(3))


@pytest.mark.parametrize("source", [7, seeded(7)], ids=["seed", "generator"])
def test_isolation_puts_the_global_state_back(source, untouched):
    with isolated_rng(source, CPU):
        torch.rand(3)
    with pytest.raises(RuntimeError), isolated_rng(source):
        torch.rand(3) @ torch.rand(2)


@given(seed=seeds)
def test_isolation_is_ruled_by_its_source(seed):
    def inside(source):
        with isolated_rng(source):
            return torch.rand(3)

    assert torch.equal(inside(seed), inside(seed))
    assert torch.equal(inside(seeded(seed)), inside(seeded(seed)))
    assert not torch.equal(inside(seed), inside(seed + 1))
    one = seeded(seed)
    assert not torch.equal(inside(one), inside(one))


def test_noise_is_not_the_stream_of_initial_weights():
    for seed in range(5):
        weights = TableEmbedding(4, 8, seed=seed).weight.detach()
        for generator in generators_from(range(12)):
            assert not torch.equal(torch.randn(4, 8, generator=generator), weights)


@pytest.mark.parametrize(
    ("integers", "seed"),
    [
        ((0, 1), 2918264622725855778),
        ((7, 1), 3317731564112288844),
        ((0, 0, 0, 0), 7896617691693857887),
        ((3, 1, 4, 1), 2832498209212341122),
        ((2**70, 1), 5295234842931832674),
    ],
)
def test_a_stream_has_the_same_seed_under_every_version_of_numpy(integers, seed):
    assert stream_seed(*integers) == seed


@pytest.mark.parametrize(
    ("seed", "part", "expected"),
    [
        (0, "embedding", 0),
        (0, "denoiser", 1),
        (0, "head", 2),
        (7, "embedding", 21),
        (7, "denoiser", 22),
        (7, "head", 23),
        (0, "source", 423613159881072881),
        (7, "source", 1328724689614299954),
    ],
)
def test_initial_weights_have_the_same_seeds_in_every_release(seed, part, expected):
    assert weight_seed(seed, part) == expected


@given(seed=seeds, other=seeds, parts=st.lists(st.text(max_size=20), min_size=2, max_size=5, unique=True))
def test_every_part_and_every_seed_has_a_stream_of_its_own(seed, other, parts):
    found = {weight_seed(each, part) for each in {seed, other} for part in parts}
    assert len(found) == len(parts) * len({seed, other})
    assert all(0 <= each < 2**63 for each in found)
