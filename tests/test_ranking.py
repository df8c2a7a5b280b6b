from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import built, gaussian, heads, seeds

from diffusers_rec.items.heads import ItemHead, LinearHead
from diffusers_rec.recommenders.head_scores import head_scores, mean_over_draws, score_chunks
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.ranking import UNRANKED, Scores, joined, target_ranks, top_k

WIDTH = 4


@st.composite
def rankings(draw):
    """A head, latents of B users and S draws, and any chunk size."""
    num_items, users, draws = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    seed = draw(seeds)
    return draw(heads(num_items, WIDTH, seed)), gaussian(users, draws, WIDTH, seed=seed), draw(st.integers(1, 150))


@st.composite
def predictions(draw, users, num_items):
    """Some mass on some items of each user, or none at all."""
    if draw(st.booleans()):
        return None
    items = draw(item_lists(users, num_items)).clamp(min=0)
    share = torch.full((users, 1), draw(st.sampled_from([0.0, 0.4])), dtype=torch.float64)
    return MemoryPrediction(items, gaussian(users, 3, seed=draw(seeds)).softmax(-1) * share, share)


def mixed(probabilities, memory):
    """``(B, S, V)`` to the mixture, ``(B, V)``."""
    mean = probabilities.mean(1)
    return mean if memory is None else mean * (1 - memory.share) + memory.within(slice(0, mean.shape[1]))


def tiled(dense, users, items):
    """Dense scores as a model may give them, so many users and items a chunk."""
    rows, columns = dense.shape
    return [
        Scores(slice(row, row + len(part)), slice(start, start + part.shape[1]), part)
        for row in range(0, rows, users)
        for start in range(0, columns, items)
        for part in [dense[row : row + users, start : start + items]]
    ]


def item_lists(users, num_items):
    """Some items of each user, padded with -1."""
    return st.lists(
        st.lists(st.integers(-1, num_items - 1), min_size=3, max_size=3), min_size=users, max_size=users
    ).map(torch.tensor)


@given(ranking=rankings())
def test_chunks_tile_the_items_and_hold_no_more_than_asked(ranking):
    head, latents, chunk_scores = ranking
    users, draws, _ = latents.shape
    start, total = 0, 0.0
    for chunk, scores in score_chunks(head, latents, chunk_scores):
        assert chunk.start == start
        assert scores.shape == (users, draws, chunk.stop - start)
        assert scores.numel() <= max(chunk_scores, users * draws)
        start, total = chunk.stop, total + scores.exp().sum(-1)
    assert start == len(head.keys())
    torch.testing.assert_close(total, torch.ones_like(total))


@given(ranking=rankings())
def test_scores_are_the_softmax_averaged_over_draws(ranking):
    head, latents, chunk_scores = ranking
    chunks = [mean_over_draws(scores) for _, scores in score_chunks(head, latents, chunk_scores)]
    expected = head.logits(latents).softmax(-1).mean(1)
    torch.testing.assert_close(torch.cat(chunks, dim=1).exp(), expected, rtol=1e-9, atol=1e-12)


@given(ranking=rankings(), data=st.data())
def test_top_k_is_the_dense_ranking(ranking, data):
    head, latents, chunk_scores = ranking
    num_items = len(head.keys())
    k = data.draw(st.integers(1, num_items))
    excluded = data.draw(st.none() | item_lists(len(latents), num_items))
    candidates = data.draw(st.none() | st.lists(st.integers(0, num_items - 1), min_size=1))
    memory = data.draw(predictions(len(latents), num_items))
    found = top_k(head_scores(head, latents, memory, chunk_scores=chunk_scores), k, excluded=excluded,
                  candidates=None if candidates is None else torch.tensor(candidates))  # fmt: skip
    probabilities = head.logits(latents).softmax(-1)
    assert found.items.shape == found.scores.shape == found.std.shape == (len(latents), k)
    means = mixed(probabilities, memory)
    ours = 1 - memory.share if memory is not None else torch.ones(len(latents), 1)
    for row, draws in enumerate(probabilities):
        barred = set() if excluded is None else set(excluded[row].tolist())
        allowed = [v for v in (range(num_items) if candidates is None else sorted(set(candidates))) if v not in barred]
        mean, std = means[row], draws.std(0, correction=0) * ours[row]
        best = sorted(allowed, key=lambda v: -mean[v].item())[:k]
        rest = k - len(best)
        assert found.items[row].tolist() == best + [-1] * rest
        assert found.scores[row].tolist() == pytest.approx([*mean[best].tolist(), *[0] * rest], rel=1e-8, abs=1e-12)
        assert found.std[row].tolist() == pytest.approx([*std[best].tolist(), *[0] * rest], rel=1e-6, abs=1e-9)


@given(ranking=rankings(), data=st.data())
def test_target_ranks_are_places_in_the_dense_ranking(ranking, data):
    head, latents, chunk_scores = ranking
    num_items = len(head.keys())
    targets = data.draw(st.lists(st.integers(0, num_items - 1), min_size=len(latents), max_size=len(latents)))
    excluded = data.draw(item_lists(len(latents), num_items))
    memory = data.draw(predictions(len(latents), num_items))
    scores = head_scores(head, latents, memory, chunk_scores=chunk_scores)
    ranks, unseen = target_ranks(scores, torch.tensor(targets), excluded=excluded)
    for row, mean in enumerate(mixed(head.logits(latents).softmax(-1), memory)):
        barred = set(excluded[row].tolist())
        order = mean.argsort(descending=True).tolist()
        assert ranks[row] == order.index(targets[row]) + 1
        left = [v for v in order if v not in barred]
        assert unseen[row] == (UNRANKED if targets[row] in barred else left.index(targets[row]) + 1)


@given(ranking=rankings(), data=st.data())
def test_a_target_of_rank_r_is_the_rth_of_the_top(ranking, data):
    head, latents, chunk_scores = ranking
    num_items = len(head.keys())
    target = data.draw(st.integers(0, num_items - 1))
    none = torch.full((len(latents), 1), -1)
    ranks, _ = target_ranks(head_scores(head, latents), torch.full((len(latents),), target), excluded=none)
    items = top_k(head_scores(head, latents, chunk_scores=chunk_scores), num_items).items
    assert (items.gather(1, ranks[:, None] - 1) == target).all()


@given(data=st.data())
def test_ties_and_scores_that_are_no_numbers_count_against_the_target(data):
    """Against a plain loop, on scores that tie, in chunks of any size."""
    users, num_items = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 8))
    value = st.sampled_from([-math.inf, -1.0, 0.0, 0.5, math.nan])
    scores = data.draw(
        st.lists(st.lists(value, min_size=num_items, max_size=num_items), min_size=users, max_size=users)
    )
    targets = data.draw(st.lists(st.integers(0, num_items - 1), min_size=users, max_size=users))
    excluded = data.draw(item_lists(users, num_items))
    dense, size = torch.tensor(scores), data.draw(st.integers(1, num_items))
    ranks, unseen = target_ranks(tiled(dense, users, size), torch.tensor(targets), excluded=excluded)
    for row, target in enumerate(targets):
        own, barred = scores[row][target], set(excluded[row].tolist())
        others = [v for v in range(num_items) if v != target and not scores[row][v] < own]
        assert ranks[row] == 1 + len(others)
        assert unseen[row] == (UNRANKED if target in barred else 1 + len(set(others) - barred))


def test_equal_scores_put_the_target_last():
    head = built(ItemHead, "linear", num_items=5, dim=WIDTH)
    scores = head_scores(head, torch.zeros(2, 1, WIDTH))
    ranks, unseen = target_ranks(scores, torch.tensor([0, 3]), excluded=torch.tensor([[1, 2], [-1, -1]]))
    assert ranks.tolist() == [5, 5]
    assert unseen.tolist() == [3, 5]


@given(ranking=rankings(), order=st.permutations(range(12)))
def test_permuting_item_ids_permutes_the_items_and_nothing_else(ranking, order):
    head, latents, chunk_scores = ranking
    num_items = len(head.keys())
    order = torch.tensor([v for v in order if v < num_items])
    before = top_k(head_scores(head, latents, chunk_scores=chunk_scores), num_items)
    tables = [*head.parameters(), *(head.embedding.parameters() if "embedding" in head.requires else [])]
    with torch.no_grad():
        for parameter in tables:
            parameter.copy_(parameter[order])
    after = top_k(head_scores(head, latents, chunk_scores=chunk_scores), num_items)
    assert torch.equal(order[after.items], before.items)
    torch.testing.assert_close(after.scores, before.scores)


@given(ranking=rankings())
def test_a_user_is_ranked_the_same_alone(ranking):
    head, latents, chunk_scores = ranking
    whole = top_k(head_scores(head, latents, chunk_scores=chunk_scores), 1)
    for row in range(len(latents)):
        alone = top_k(head_scores(head, latents[row : row + 1], chunk_scores=chunk_scores), 1)
        assert torch.equal(alone.items[0], whole.items[row])
        torch.testing.assert_close(alone.scores[0], whole.scores[row])


@pytest.mark.parametrize("name", ItemHead.names())
def test_rankings_stay_float32_under_autocast(name):
    head, latents = built(ItemHead, name, num_items=9, dim=WIDTH), gaussian(3, 2, WIDTH, dtype=torch.float32)
    plain = top_k(head_scores(head, latents), 9)
    for chunk_scores in (12, 1000):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = top_k(head_scores(head, latents, chunk_scores=chunk_scores), 9)
        assert found.scores.dtype == torch.float32
        torch.testing.assert_close(found.scores, plain.scores)


def test_extreme_scores_stay_finite():
    head = built(ItemHead, "linear", num_items=9, dim=WIDTH)
    for chunk_scores in (2, 1000):
        found = top_k(head_scores(head, 1e6 * torch.ones(1, 2, WIDTH), chunk_scores=chunk_scores), 9)
        assert torch.isfinite(found.scores).all()
        assert found.scores.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("k", [0, -1, 8])
def test_refuses_a_k_that_there_is_not(k):
    with pytest.raises(ValueError, match=rf"k must lie in 1\.\.7, the number of items, got {k}"):
        top_k(head_scores(built(ItemHead, "linear", dim=WIDTH), torch.zeros(1, 1, WIDTH)), k)


def test_refuses_a_chunk_of_nothing():
    with pytest.raises(ValueError, match="chunk_scores must be an integer >= 1, got 0"):
        top_k(head_scores(built(ItemHead, "linear", dim=WIDTH), torch.zeros(1, 1, WIDTH), chunk_scores=0), 1)


@pytest.mark.parametrize("seeds", [1, 4])
def test_items_far_below_the_best_are_still_ranked(seeds):
    head = LinearHead(40, 2)
    with torch.no_grad():
        head.weight.copy_(torch.stack([-200.0 * torch.arange(40), torch.zeros(40)], dim=1))
    found = top_k(head_scores(head, torch.tensor([1.0, 0.0]).expand(1, seeds, 2)), 40)
    assert found.items[0].tolist() == list(range(40))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_rank_as_their_float32_copies(dtype):
    head = LinearHead(60, 8).to(dtype)
    latents = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    half = top_k(head_scores(head, latents), 60)
    full = top_k(head_scores(LinearHead(60, 8).to(dtype).float(), latents.float()), 60)
    assert torch.equal(half.items, full.items)
    torch.testing.assert_close(half.scores, full.scores)


# Scores of any model


@given(data=st.data())
def test_chunks_join_to_the_whole(data):
    users, num_items, k = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 4))
    dense, deviations = gaussian(users, num_items, seed=1), gaussian(users, num_items, seed=2).abs()
    chunks = [
        replace(chunk, std=partial(deviations[chunk.users, chunk.items].gather, 1))
        for chunk in tiled(dense, data.draw(st.integers(1, users)), data.draw(st.integers(1, num_items)))
    ]
    whole = joined(chunks)
    assert (whole.users, whole.items) == (slice(0, users), slice(0, num_items))
    assert torch.equal(whole.log_probabilities, dense)
    columns = torch.randint(num_items, (users, k), generator=torch.Generator().manual_seed(3))
    assert torch.equal(whole.std_of(columns), deviations.gather(1, columns))


def test_a_model_that_draws_nothing_has_no_deviation():
    found = top_k([Scores.of_logits(gaussian(3, 6))], 4)
    assert not found.std.any()
    assert not joined(tiled(gaussian(3, 6), 1, 2)).std_of(torch.zeros(3, 2, dtype=torch.int64)).any()


def test_what_a_model_gives_is_not_written_to():
    shares = torch.arange(1.0, 6).log_softmax(0)
    scores = Scores(slice(0, 3), slice(0, 5), shares.expand(3, -1))
    found = top_k([scores], 2, excluded=torch.tensor([[4], [3], [-1]]), candidates=torch.tensor([0, 3, 4]))
    assert found.items.tolist() == [[3, 0], [4, 0], [4, 3]]
    assert torch.equal(shares, torch.arange(1.0, 6).log_softmax(0))


def test_an_item_of_no_probability_can_be_returned_and_an_excluded_one_cannot():
    scores = Scores(slice(0, 1), slice(0, 4), torch.tensor([[1.0, 0.0, 0.0, 0.0]]).log())
    found = top_k([scores], 4, excluded=torch.tensor([[2]]))
    assert found.items[0, 0] == 0
    assert sorted(found.items[0].tolist()) == [-1, 0, 1, 3]
    assert found.scores.tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize("chunks", [[1, 0], [0, 2, 3], [0, 1, 2], [0, 1, 0], [2, 3]])
def test_chunks_in_another_order_are_refused(chunks):
    tiles = tiled(gaussian(2, 4).log_softmax(1), 1, 2)  # two users, two chunks of items each
    given, targets = [tiles[number] for number in chunks], torch.zeros(2, dtype=torch.int64)
    message = "All items of a group of users come before the next group's"
    with pytest.raises(ValueError, match=message):
        top_k(given, 1)
    with pytest.raises(ValueError, match=message):
        target_ranks(given, targets, excluded=targets[:, None])


def test_scores_that_are_no_log_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"no log-probabilities: the largest is 3, above 0\. Give Scores\.of_logits"):
        top_k([Scores(slice(0, 1), slice(0, 2), torch.tensor([[3.0, 1.0]]))], 1)
    with pytest.raises(ValueError, match="weights hold NaN or infinities"):
        top_k([Scores.of_logits(torch.tensor([[math.nan, 1.0]]))], 1)
    with pytest.raises(ValueError, match=r"expected log_probabilities of 2 users and 3 items, got \(3, 2\)"):
        Scores(slice(0, 2), slice(4, 7), torch.zeros(3, 2))
    with pytest.raises(ValueError, match="expected scores of one user at least"):
        top_k([], 1)


@pytest.mark.parametrize("name", ["excluded", "candidates"])
def test_items_that_do_not_exist_are_refused(name):
    with pytest.raises(ValueError, match=rf"{name} must hold item indices in 0\.\.2, got 3\.\.3"):
        top_k([Scores.of_logits(torch.zeros(1, 3))], 1, **{name: torch.tensor([[3]])})


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(2, 3), "must be Scores, got Tensor"),
        (Scores.of_logits(torch.zeros(2, 3)), "yield Scores, not return"),
    ],
)
def test_what_is_no_iterator_of_scores_is_refused(scores, message):
    with pytest.raises(TypeError, match=message):
        top_k(scores, 1)
