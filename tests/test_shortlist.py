"""The shortlist is a faster way to the same ranking: every law is equality with the scores of all items."""

from __future__ import annotations

import copy
import gc
import io
import pickle
from functools import cached_property

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, heads, seeds

from diffusers_rec import Batch, BFloat16Index, DiffRec, Ensemble, History, Scores, SyntheticWorld
from diffusers_rec.items.choice import Choice
from diffusers_rec.items.heads import LinearHead
from diffusers_rec.recommenders import largest, shortlist
from diffusers_rec.recommenders.calibration import Calibration, Evidence
from diffusers_rec.recommenders.head_scores import head_scores
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.ranking import top_k
from diffusers_rec.recommenders.shortlist import best_items, scan

WIDTH = 4
CALIBRATION = Calibration(temperature=1.3, memory=0.3, popularity=0.1, seen=0.2)


@st.composite
def rankings(draw):
    """A head of V items and latents of B users and S draws."""
    num_items, users, draws = draw(st.integers(1, 40)), draw(st.integers(1, 4)), draw(st.integers(1, 3))
    seed = draw(seeds)
    latents = gaussian(users, 1 if draw(st.booleans()) else draws, WIDTH, seed=seed).expand(users, draws, WIDTH)
    return draw(heads(num_items, WIDTH, seed)), latents.contiguous()


def lists(users, num_items, low=-1):
    """Five items of each user, with repeats; -1 is none."""
    row = st.lists(st.integers(low, num_items - 1), min_size=5, max_size=5)
    return st.lists(row, min_size=users, max_size=users).map(torch.tensor)


@st.composite
def predictions(draw, users, num_items):
    """Some mass on some items of each user, repeated or none, or no memory at all."""
    if draw(st.booleans()):
        return None
    items = draw(lists(users, num_items, low=0))
    share = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.4]), min_size=users, max_size=users)))[:, None].double()
    mass = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=5, max_size=5))) + 1e-3
    mass = mass.double().expand(users, -1)
    return MemoryPrediction(items, mass / mass.sum(1, keepdim=True) * share, share)


@st.composite
def choices(draw, users, num_items):
    """Exclusions and candidates, for all users or one list each."""
    excluded = draw(st.none() | lists(users, num_items))
    unique = st.lists(st.integers(0, num_items - 1), min_size=1, max_size=6, unique=True)
    candidates = draw(st.none() | unique.map(torch.tensor))
    if candidates is not None and draw(st.booleans()):
        padded = [draw(unique) for _ in range(users)]
        candidates = torch.tensor([row + [-1] * (6 - len(row)) for row in padded])
    return Choice(excluded, candidates)


@given(ranking=rankings(), data=st.data())
def test_the_shortlist_ranks_as_the_scores_of_all_items(ranking, data):
    head, latents = ranking
    users, num_items = len(latents), len(head.keys())
    k = data.draw(st.integers(1, num_items))
    memory, choice = data.draw(predictions(users, num_items)), data.draw(choices(users, num_items))
    evidence = None
    if data.draw(st.booleans()):
        seen = data.draw(lists(users, num_items)).sort(1).values
        seen[:, 1:][seen[:, 1:] == seen[:, :-1]] = -1
        evidence = Evidence(CALIBRATION, memory, torch.arange(num_items), seen)
    size = data.draw(st.sampled_from([1, 7, 2**22]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shortlist, "CHUNK_SCORES", size)
        patch.setattr(shortlist, "_SCORES", size)
        patch.setattr(shortlist, "_PIECE", data.draw(st.sampled_from([1, 20, 100])))
        patch.setattr(shortlist, "_SPARE", data.draw(st.sampled_from([0, 64])))
        patch.setattr(largest, "_BLOCK", data.draw(st.sampled_from([2, 64])))
        patch.setattr(largest, "_FEW", data.draw(st.sampled_from([0, 2**17])))
        found = best_items(head, latents, k, choice, memory, evidence=evidence)
    plain = top_k(head_scores(head, latents, memory, evidence=evidence), k, excluded=choice.excluded,
                  candidates=choice.candidates)  # fmt: skip
    assert torch.equal(found.items, plain.items)
    torch.testing.assert_close(found.scores, plain.scores, rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(found.std, plain.std, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("draws", [1, 5])
def test_one_pass_over_a_catalogue_in_pieces_proves_its_list_or_leaves_it(draws, monkeypatch):
    """The proof holds where the draws are alike, as those of a trained model, and not always where they differ."""
    head, none = LinearHead(3000, WIDTH), Choice(None, None)
    monkeypatch.setattr(shortlist, "CHUNK_SCORES", 1000)
    monkeypatch.setattr(shortlist, "_PIECE", 1000)
    one = gaussian(2, 1, WIDTH, seed=1, dtype=torch.float32)
    alike = one + 0.01 * gaussian(2, draws, WIDTH, seed=2, dtype=torch.float32)
    found = scan(head, alike, 10, none, None)
    assert found.items.shape == (2, 104)
    plain = top_k(head_scores(head, alike), 10)
    assert torch.equal(best_items(head, alike, 10, none).items, plain.items)
    if draws > 1:
        apart = 200 * gaussian(2, draws, WIDTH, seed=3, dtype=torch.float32)
        assert scan(head, apart, 10, none, None) is None
        assert torch.equal(best_items(head, apart, 10, none).items, top_k(head_scores(head, apart), 10).items)


def test_one_pass_leaves_a_later_item_far_above_the_first_chunk(monkeypatch):
    head, none = LinearHead(3000, 1), Choice(None, None)
    with torch.no_grad():
        head.weight.copy_(torch.zeros(3000, 1).index_fill(0, torch.tensor([2500]), 200.0))
        head.offset.copy_(torch.linspace(0, 1, 3000))
    monkeypatch.setattr(shortlist, "CHUNK_SCORES", 1000)
    monkeypatch.setattr(shortlist, "_PIECE", 1000)
    assert scan(head, torch.ones(1, 1, 1), 3, none, None) is None
    assert best_items(head, torch.ones(1, 1, 1), 3, none).items.tolist() == [[2500, 2999, 2998]]


def test_one_pass_scores_no_more_than_it_has_kept_of_many_candidates(monkeypatch):
    head, latents, choice = LinearHead(3000, WIDTH), gaussian(2, 1, WIDTH, dtype=torch.float32), torch.arange(2500)
    monkeypatch.setattr(shortlist, "CHUNK_SCORES", 1000)
    monkeypatch.setattr(shortlist, "_PIECE", 1000)
    memory = MemoryPrediction(torch.tensor([[7, 2900]] * 2), torch.full((2, 2), 0.2), torch.full((2, 1), 0.4))
    found = scan(head, latents, 10, Choice(None, choice), memory)
    assert found.items.shape[1] <= 105
    assert found.items.max() < 2500
    assert (found.items == 7).any(1).all()


@given(users=st.integers(1, 3), data=st.data())
def test_distinct_items_keep_their_mass(users, data):
    memory = data.draw(predictions(users, 9).filter(lambda found: found is not None))
    distinct, whole = memory.distinct, slice(0, 9)
    torch.testing.assert_close(distinct.within(whole), memory.within(whole), rtol=0, atol=0)
    assert all(len(set(row)) == len(row) for row in ([v for v in each if v < 9] for each in distinct.items.tolist()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers_rec.recommenders.memory._COMPARED", data.draw(st.sampled_from([0, 2**16])))
        everything = memory.at(torch.arange(9).expand(users, -1))
        torch.testing.assert_close(everything, memory.within(whole), rtol=1e-12, atol=0)
        assert not memory.at(torch.full((users, 2), -1)).any()


@pytest.mark.parametrize("draws", [1, 4])
def test_items_far_below_the_best_are_still_ranked(draws):
    head = LinearHead(40, 2)
    with torch.no_grad():
        head.weight.copy_(torch.stack([-200.0 * torch.arange(40), torch.zeros(40)], dim=1))
    latents = torch.tensor([1.0, 0.0]) * torch.linspace(1, 1.1, draws)[:, None]
    found = best_items(head, latents[None], 40, Choice(None, None))
    assert found.items[0].tolist() == list(range(40))


def test_rankings_stay_float32_under_autocast():
    head, latents = LinearHead(40, WIDTH), gaussian(3, 2, WIDTH, dtype=torch.float32)
    memory = MemoryPrediction(torch.tensor([[1, 2]] * 3), torch.full((3, 2), 0.2), torch.full((3, 1), 0.4))
    plain = best_items(head, latents, 9, Choice(None, None), memory)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = best_items(head, latents, 9, Choice(None, None), memory)
    assert found.scores.dtype == torch.float32
    assert torch.equal(found.items, plain.items)
    assert torch.equal(found.scores, plain.scores)


def test_equal_draws_are_ranked_once():
    asked = []

    def search(head, latents, *rest):
        asked.append(latents.shape)
        return scan(head, latents, *rest)

    one, head = gaussian(3, 1, 2, dtype=torch.float32), LinearHead(40, 2)
    found = best_items(head, one.expand(-1, 10, -1), 5, Choice(None, None), search=search)
    assert asked == [(3, 1, 2)]
    assert torch.equal(found.items, best_items(head, one, 5, Choice(None, None)).items)
    assert not found.std.any()


@pytest.mark.parametrize("head", ["linear", "tied", "cosine"])
def test_laid_out_keys_follow_the_writes_that_torch_counts(head):
    items = range(300)
    model = DiffRec(items, dim=8, max_length=6, denoiser="conditional-mlp", head=head, seeds=2).eval()
    before = model.recommend([[1, 2, 3]], k=5)
    assert model.recommend([[1, 2, 3]], k=5).items == before.items
    kept = model._laid_out[1]
    model.recommend([[4, 5]], k=5)
    assert model._laid_out[1] is kept
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.5).add_(0.1 * gaussian(*weight.shape, seed=1, dtype=torch.float32))
    found = model.recommend([[1, 2, 3]], k=5)
    plain = model.score(model.encode_histories([[1, 2, 3]]))
    assert found.items[0] == top_k(plain, 5, excluded=torch.tensor([[1, 2, 3]])).items[0].tolist()
    assert found.items != before.items


HISTORY = torch.tensor([[1, 2, 3]])


def small(head="cosine", **settings):
    return DiffRec(range(300), dim=8, max_length=6, denoiser="conditional-mlp", head=head, seeds=2, **settings)


def answers(model):
    """The list of one history by each way to ask for it, which must be the same."""
    found = model.recommend(HISTORY.tolist(), k=5).items[0]
    assert model.top_k(HISTORY, k=5).items[0].tolist() == found
    assert model.scores(HISTORY).index_fill(1, HISTORY[0], -torch.inf).topk(5).indices[0].tolist() == found
    return found


def test_training_between_evaluations_shows_in_every_answer():
    """Fused optimizers write without being counted."""
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    batch, lists = Batch.next_item(History.of_items(HISTORY), torch.tensor([4])), []
    for _ in range(3):
        model.loss(batch, torch.Generator().manual_seed(0)).total.backward()
        optimizer.step()
        lists.append(answers(model.eval()))
        model.train()
        optimizer.zero_grad()
    assert lists[0] != lists[1] != lists[2]
    model.embedding.weight.grad = torch.full_like(model.embedding.weight, torch.nan)
    optimizer.step()
    with pytest.raises(ValueError, match="values that are not finite"):
        model.eval().recommend(HISTORY.tolist())


def test_writes_that_torch_does_not_count_show_where_none_is_kept():
    with torch.inference_mode():
        frozen = small().eval()
        before = answers(frozen)
        frozen.embedding.weight.copy_(gaussian(300, 8, seed=1, dtype=torch.float32))
        assert answers(frozen) != before
    model = small()
    before = answers(model)
    model.embedding.weight.data.copy_(gaussian(300, 8, seed=1, dtype=torch.float32))
    assert answers(model) != before
    model.eval()
    before = answers(model)
    model.embedding.weight.data.mul_(gaussian(300, 8, seed=2, dtype=torch.float32))
    model.denoiser.train()  # a part that trains is enough
    assert answers(model) != before


def test_what_serving_keeps_is_neither_copied_nor_saved():
    model, before, after = small().eval(), io.BytesIO(), io.BytesIO()
    torch.save(model, before)
    answers(model)
    torch.save(model, after)
    assert len(before.getvalue()) == len(after.getvalue())
    assert model._laid_out is not None
    for other in (copy.deepcopy(model), copy.copy(model), model.one_step(3).model):
        assert other._laid_out is other._written is None
    assert model.train()._laid_out is model._written is None


class ProductHead(LinearHead):
    """Its keys are a matrix product, which autocast would round."""

    def keys(self, items=None):
        return super().keys(items) @ (torch.eye(self.dim) + 0.123)


def test_keys_laid_out_under_autocast_are_not_rounded():
    model = small(ProductHead(300, 8)).eval()
    plain = small(ProductHead(300, 8)).eval().recommend(HISTORY.tolist())
    index = BFloat16Index(model.head)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model.recommend(HISTORY.tolist(), index=index)
    assert torch.equal(model.recommend(HISTORY.tolist()).scores, plain.scores)


def test_a_part_that_caches_a_tensor_when_serving_can_train_afterwards():
    class Caching(LinearHead):
        @cached_property
        def scale(self):
            return torch.full((8,), 2.0)

        def queries(self, latent):
            return latent * self.scale

    model = small(Caching(300, 8))
    model.recommend(HISTORY.tolist())
    batch = Batch.next_item(History.of_items(HISTORY), torch.tensor([4]))
    model.loss(batch, torch.Generator().manual_seed(0)).total.backward()


class FirstItems(DiffRec):
    """Has a score of its own, which prefers the first items."""

    def score(self, history, **options):
        yield Scores.of_logits(-torch.arange(float(len(self.vocabulary))).expand(len(history), -1))


class OtherLatents(DiffRec):
    """Draws a latent of its own."""

    def next_item_latents(self, history, **options):
        return super().next_item_latents(history, **options).flip(-1)


@pytest.mark.parametrize("kind", [FirstItems, OtherLatents])
def test_every_way_to_rank_calls_a_score_of_ones_own(kind):
    model = kind(range(300), dim=8, max_length=6, denoiser="conditional-mlp", head="cosine", seeds=2).eval()
    found = answers(model)
    assert found != answers(small(seed=model.seed).eval())
    assert kind is not FirstItems or found == [0, 4, 5, 6, 7]
    with pytest.raises(ValueError, match=f"index: expected none for {kind.__name__}"):
        model.recommend(HISTORY.tolist(), index=BFloat16Index(model.head))


def test_keys_laid_out_when_serving_take_part_in_no_later_gradient():
    model = DiffRec(range(300), dim=8, max_length=6, denoiser="conditional-mlp", head="cosine", seeds=1)
    model.recommend([[1, 2, 3]])
    batch = Batch.next_item(History.of_items(torch.tensor([[1, 2, 3]])), torch.tensor([4]))
    model.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert model.embedding.weight.grad.abs().sum() > 0


# Indexes


def catalogue(memory="none", **settings):
    """A model of 2,000 items, and histories."""
    log = SyntheticWorld(num_items=2000, seed=0).sample(300, seed=0).sequences()
    settings = {"dim": 16, "max_length": 8, "head": "tied", "memory": memory, "seeds": 1, **settings}
    model = DiffRec(log.vocabulary, denoiser="conditional-mlp", **settings).prepare(log).eval()
    with torch.no_grad():
        model.embedding.weight.mul_(5)
    return model, [log.vocabulary.decode(row) for row in list(log)[:20]]


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("memory", ["none", "transitions"])
def test_keys_in_half_the_bytes_find_the_same_items(memory, seeds):
    model, histories = catalogue(memory, seeds=seeds)
    index = BFloat16Index(model.head)
    for options in ({}, {"candidates": model.vocabulary.ids[:30]}, {"exclude": model.vocabulary.ids[:300]}):
        exact = model.recommend(histories, **options)
        found = model.recommend(histories, index=index, **options)
        # Only the normalisers are estimates, which may swap neighbours of a mixture.
        assert [sorted(row) for row in found.items] == [sorted(row) for row in exact.items]
        assert memory != "none" or found.items == exact.items
        torch.testing.assert_close(found.scores, exact.scores, rtol=0.02, atol=1e-5)
        assert not torch.equal(found.scores, exact.scores)


@pytest.mark.parametrize("memory", ["none", "transitions"])
def test_a_catalogue_in_pieces_has_its_normaliser_corrected_as_well(memory, monkeypatch):
    model, histories = catalogue(memory)
    with torch.no_grad():
        model.embedding.weight.mul_(4)
    index = BFloat16Index(model.head, extra=1000)
    whole = model.recommend(histories, index=index).scores
    monkeypatch.setattr(shortlist, "CHUNK_SCORES", 1000)
    monkeypatch.setattr(shortlist, "_PIECE", 20_000)
    torch.testing.assert_close(model.recommend(histories, index=index).scores, whole, rtol=2e-3, atol=1e-6)


def test_scores_beside_the_rounded_keys_are_exact():
    model, histories = catalogue()
    history = model.encode_histories(histories)
    latents, none = model.next_item_latents(history), Choice(None, None)
    found = BFloat16Index(model.head, extra=50).shortlist(model.head, latents, 10, none, None)
    assert found.items.shape == (20, 60)
    torch.testing.assert_close(found.logits, model.head.logits(latents).gather(2, found.items[:, None]))


def test_an_index_of_other_keys_is_refused():
    model, histories = catalogue()
    other, _ = catalogue(seed=1)
    with pytest.raises(ValueError, match=r"Build a new one: BFloat16Index\(head"):
        model.recommend(histories, index=BFloat16Index(other.head))


def test_an_index_is_refused_after_further_training_and_keeps_no_checked_head():
    model, histories = catalogue()
    index, optimizer = BFloat16Index(model.head), torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    model.recommend(histories, index=index)
    assert index._checked() is model._laid_out[1]
    assert pickle.loads(pickle.dumps(index))._checked is None
    model.train().embedding.weight.grad = torch.ones_like(model.embedding.weight)
    gc.collect()
    assert index._checked() is None
    optimizer.step()
    with pytest.raises(ValueError, match="Build a new one"):
        model.eval().recommend(histories, index=index)


def test_a_model_without_a_head_of_its_own_takes_no_index():
    model, histories = catalogue()
    index = BFloat16Index(model.head)
    with pytest.raises(ValueError, match="index: expected none for Ensemble"):
        Ensemble([model]).recommend(histories, index=index)
    with pytest.raises(TypeError, match=r"index must be .*Index.*BFloat16Index\(model.head\)"):
        model.recommend(histories, index=model.head)
    with pytest.raises(TypeError, match=r"index must be Index, got str\. Use BFloat16Index\(model.head\)"):
        model.top_k(torch.tensor([[1, 2]]), index="x")


def test_the_overlap_is_the_share_of_the_own_lists_that_another_way_gives():
    model, histories = catalogue(seeds=4)
    with torch.no_grad():
        model.denoiser.out.weight.add_(gaussian(16, 16, seed=2, dtype=torch.float32), alpha=0.3)
    own, one = model.recommend(histories, k=6).items, model.recommend(histories, k=6, seeds=1).items
    expected = sum(len({*row} & {*other}) for row, other in zip(own, one, strict=True)) / (6 * len(histories))
    assert 0 < expected < 1
    assert model.list_overlap(histories, 6, seeds=1) == pytest.approx(expected)
    assert model.list_overlap(iter(histories), 6) == 1
    assert model.list_overlap(histories, index=BFloat16Index(model.head)) > 0.98
