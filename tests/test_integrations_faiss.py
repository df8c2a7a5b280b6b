from __future__ import annotations

import copy
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import save
from strategies import built, gaussian, perturbed

from diffusers_rec import Calibration, DiffRec, SyntheticWorld
from diffusers_rec.integrations.faiss import ItemIndex
from diffusers_rec.items.choice import Choice
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import ItemHead, LinearHead
from diffusers_rec.recommenders import ranking
from diffusers_rec.recommenders.head_scores import head_scores

faiss = pytest.importorskip("faiss")

WIDTH = 16
KINDS: list[dict[str, Any]] = [{}, {"factory": "IVF2,Flat", "nprobe": 2}, {"factory": "Flat"}]
"""A graph, lists and an exhaustive search, each of which finds all of a small catalogue."""


def top_k(head, latents, k, **choice):
    """The exact ranking."""
    return ranking.top_k(head_scores(head, latents), k, **choice)


@pytest.fixture(autouse=True)
def one_thread():
    """Several would make graphs depend on their timing."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture(scope="module")
def catalogue():
    """5,000 items as training leaves them, and 40 users of 4 draws.

    Keys share a large mean (a graph of plain inner products finds but 70% of the best), stand in clusters, and are the
    longer and the likelier the more popular they are.
    """
    topics, users = gaussian(60, WIDTH, seed=1), gaussian(40, 1, WIDTH, seed=2)
    popularity = gaussian(5000, 1, seed=3)
    keys = topics[torch.arange(5000) % 60] + 0.7 * gaussian(5000, WIDTH, seed=4)
    head = LinearHead(5000, WIDTH)
    with torch.no_grad():
        head.weight.copy_(0.5 * (keys * (0.3 * popularity).exp() + 4 * gaussian(WIDTH, seed=5)))
        head.offset.copy_(popularity[:, 0])
    return head, (users + 0.2 * gaussian(40, 4, WIDTH, seed=6)).float()


def every_head():
    for name in ItemHead.names():
        embedding = perturbed(TableEmbedding(30, WIDTH, seed=5))
        yield perturbed(built(ItemHead, name, num_items=30, dim=WIDTH, embedding=embedding))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_search_that_finds_everything_is_the_exact_ranking(kind, dtype):
    for head in every_head():
        head.to(dtype)
        latents = gaussian(3, 4, WIDTH, dtype=dtype)
        excluded = torch.tensor([[0, 29, 7], [-1, 3, 3], [-1, -1, -1]])
        exact = top_k(head, latents, 30, excluded=excluded)
        found = ItemIndex(head, **kind).top_k(latents, 30, excluded=excluded)
        assert torch.equal(found.items, exact.items)
        torch.testing.assert_close(found.scores, exact.scores)
        torch.testing.assert_close(found.std, exact.std)


def test_an_exhaustive_search_finds_the_exact_best_of_one_draw(catalogue):
    head, latents = catalogue
    found = ItemIndex(head, factory="Flat").top_k(latents[:, :1], 10, oversample=1)
    assert torch.equal(found.items, top_k(head, latents[:, :1], 10).items)
    assert not found.std.any()


@pytest.mark.parametrize(("kind", "least"), [
    ({"factory": "Flat"}, 0.99),
    ({}, 0.95),
    ({"factory": "HNSW8", "efConstruction": 20, "efSearch": 20}, 0.6),
    ({"factory": "HNSW32_SQ8"}, 0.95),
    ({"factory": "IVF128,Flat", "nprobe": 64}, 0.95),
    ({"factory": "IVF50,Flat", "nprobe": 50}, 0.99),
])  # fmt: skip
def test_most_of_the_exact_best_are_found(catalogue, kind, least):
    head, latents = catalogue
    excluded = top_k(head, latents, 5).items
    index = ItemIndex(head, **kind)
    assert least <= index.recall(latents, 10) <= 1
    assert least <= index.recall(latents, 10, excluded=excluded) <= 1


def test_fewer_lists_read_find_fewer_items(catalogue):
    head, latents = catalogue
    recalls = [ItemIndex(head, factory="IVF128,Flat", nprobe=probes).recall(latents, 10) for probes in (1, 8, 64)]
    assert recalls == sorted(recalls)
    assert recalls[0] < recalls[-1]


def test_scores_are_close_to_the_exact_probabilities(catalogue):
    head, latents = catalogue
    found, exact = ItemIndex(head, num_tail=1000).top_k(latents, 1), top_k(head, latents, 1)
    torch.testing.assert_close(found.scores, exact.scores, rtol=0.3, atol=0)
    torch.testing.assert_close(found.scores.mean(), exact.scores.mean(), rtol=0.03, atol=0)


def test_normalisers_are_right_on_average():
    head = perturbed(LinearHead(200, WIDTH))
    latents, ratios = gaussian(1, 1, WIDTH, dtype=torch.float32), []
    for seed in range(300):  # the sample is fixed; another order of the items stands for another sample
        order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
        shuffled = copy.deepcopy(head)
        shuffled.load_state_dict({name: table[order] for name, table in head.state_dict().items()})
        found = ItemIndex(shuffled, factory="Flat", num_tail=20).top_k(latents, 5)
        ratios.append(top_k(head, latents, 5).scores / found.scores)
    assert torch.cat(ratios).mean().item() == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_items_never_come_and_others_take_their_places(catalogue, kind):
    head, latents = catalogue
    excluded = torch.nn.functional.pad(top_k(head, latents, 50).items, (0, 7), value=-1)
    found = ItemIndex(head, **kind).top_k(latents, 10, excluded=excluded, oversample=1).items
    assert (found >= 0).all()
    assert not (found[:, :, None] == excluded[:, None]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_places_without_an_item_are_marked(kind):
    head = perturbed(LinearHead(5, WIDTH))
    excluded = torch.tensor([[0, 1, 2, 3, -1], [0, 1, 2, 3, 4], [4, -1, -1, -1, -1]])
    index, latents = ItemIndex(head, **kind), gaussian(3, 2, WIDTH)
    found = index.top_k(latents, 3, excluded=excluded)
    assert found.items[1].tolist() == [-1, -1, -1]
    assert found.items[0].tolist() == [4, -1, -1]
    assert found.scores[0, 1:].tolist() == found.std[0, 1:].tolist() == [0, 0]
    assert (found.items[2] >= 0).all()
    assert index.recall(latents, 3, excluded=excluded) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_user_is_answered_the_same_alone(catalogue, kind):
    head, latents = catalogue
    index = ItemIndex(head, **kind, num_tail=100)
    excluded = torch.full((40, 60), -1)
    excluded[1] = top_k(head, latents[1:2], 60).items  # a long history beside a short one
    whole = index.top_k(latents, 10, excluded=excluded)
    for row in range(3):
        alone = index.top_k(
            latents[row : row + 1], 10, excluded=excluded[row : row + 1][excluded[row : row + 1] >= 0][None]
        )
        assert torch.equal(alone.items[0], whole.items[row])
        assert torch.equal(alone.scores[0], whole.scores[row])


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_built_twice_gives_the_same_bits_and_leaves_torchs_random_state_alone(catalogue, kind):
    head, latents = catalogue
    state = torch.get_rng_state()
    one, two = (ItemIndex(head, **kind, num_tail=100).top_k(latents, 10) for _ in range(2))
    assert torch.equal(one.items, two.items)
    assert torch.equal(one.scores, two.scores)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_head_that_was_trained_further_is_refused():
    for head in every_head():
        index, latents = ItemIndex(head), torch.ones(1, 1, WIDTH)
        optimizer = torch.optim.Adam({*head.parameters(), *getattr(head, "embedding", head).parameters()})
        index.top_k(latents, 3)
        head.loss(latents[0], torch.tensor([3])).backward()
        index.top_k(latents, 3)  # gradients are no change
        optimizer.step()
        with pytest.raises(ValueError, match=r"head has changed since this index was built\. Build a new one"):
            index.top_k(latents, 3)
        with pytest.raises(ValueError, match="head has changed"):
            index.recall(latents, 3)
        ItemIndex(head).top_k(latents, 3)


@pytest.mark.parametrize("change", [
    lambda head: head.offset.data.add_(1e-3),
    lambda head: head.load_state_dict({key: value + 1 for key, value in head.state_dict().items()}, assign=True),
    lambda head: head.half(),
    *(lambda head, item=item: head.weight.data[item, 5].add_(1e-3) for item in range(30)),
    *(lambda head, item=item: head.offset.data[item].add_(1e-3) for item in range(30)),
    lambda head: head.weight.data[7].copy_(head.weight.data[7].flip(0)),
    lambda head: head.weight.data.copy_(head.weight.data.roll(1, 0)),
    lambda head: head.weight.data[3].fill_(5.0),
])  # fmt: skip
def test_weights_that_were_replaced_are_noticed_in_every_item(change):
    head = perturbed(LinearHead(30, WIDTH))
    index = ItemIndex(head, num_tail=1)
    change(head)
    with pytest.raises(ValueError, match="head has changed"):
        index.top_k(torch.ones(1, 1, WIDTH), 3)
    index.top_k(torch.ones(1, 1, WIDTH), 3, verify=False)


def test_weights_that_are_no_numbers_are_noticed_with_and_without_a_look_at_all_keys():
    head = perturbed(LinearHead(30, WIDTH))
    index = ItemIndex(head, num_tail=1)
    head.weight.data[3].fill_(torch.nan)
    for verify, words in ((True, "head has changed"), (False, "not numbers")):
        with pytest.raises(ValueError, match=words):
            index.top_k(torch.ones(1, 1, WIDTH), 30, verify=verify)


def test_a_changed_bias_is_noticed_in_every_kind_of_head():
    for head in every_head():
        if head.bias() is None or head.bias().grad_fn is not None:  # computed from vectors
            continue
        index = ItemIndex(head)
        with torch.no_grad():
            head.bias()[4] += 1e-3
        with pytest.raises(ValueError, match="head has changed"):
            index.top_k(torch.ones(1, 1, WIDTH), 3)


def test_rounding_is_no_change(catalogue):
    head, latents = catalogue
    wide = copy.deepcopy(head).double()
    index = ItemIndex(wide)
    with torch.no_grad():
        wide.weight.mul_(1 + 1e-7 * gaussian(5000, WIDTH).sign())
    index.top_k(latents, 3)


@pytest.mark.parametrize("kind", [{"efSearch": 33}, {"factory": "IVF64,Flat", "nprobe": 7}, {"factory": "Flat"}])
def test_a_loaded_index_answers_as_the_saved_one(catalogue, kind, tmp_path):
    head, latents = catalogue
    index = ItemIndex(head, **kind, num_tail=100)
    index.save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index", copy.deepcopy(head))
    loaded.save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index", head)
    assert (loaded.num_tail, loaded.num_items) == (100, 5000)
    for one, other in zip(*(vars(each.top_k(latents, 10)).values() for each in (index, loaded)), strict=True):
        assert torch.equal(one, other)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_a_loaded_index_still_notices_a_change(catalogue, tmp_path):
    head, latents = copy.deepcopy(catalogue[0]), catalogue[1]
    ItemIndex(head, factory="Flat").save(tmp_path / "index")
    loaded = ItemIndex.load(tmp_path / "index", head)
    with torch.no_grad():
        head.offset[4999] += 0.1
    with pytest.raises(ValueError, match="head has changed"):
        loaded.top_k(latents, 3)


def test_an_index_of_another_head_is_refused(tmp_path):
    head = perturbed(LinearHead(30, WIDTH))
    ItemIndex(head).save(tmp_path / "index")
    longer, wider, other = (
        perturbed(LinearHead(31, WIDTH)),
        perturbed(LinearHead(30, 20)),
        perturbed(LinearHead(30, WIDTH), 9),
    )
    trained = copy.deepcopy(head)
    with torch.no_grad():
        trained.weight[17, 2] += 0.01
    for wrong in (longer, wider, other, trained):
        with pytest.raises(ValueError, match=r"index of a head with other keys\. Build a new one"):
            ItemIndex.load(tmp_path / "index", wrong)


@pytest.mark.parametrize("damage", ["settings", "other"])
def test_a_damaged_file_is_refused_before_faiss_reads_it(damage, tmp_path, monkeypatch):
    head, path = perturbed(LinearHead(30, WIDTH)), tmp_path / "index"
    ItemIndex(head, num_tail=20).save(path)
    data = path.read_bytes().replace(b'"num_tail":"20"', b'"num_tail":"30"')
    path.write_bytes(data if damage == "settings" else save(head.state_dict()))
    monkeypatch.setattr(faiss, "deserialize_index", lambda _: pytest.fail("faiss read it"))
    with pytest.raises(ValueError, match="index is no saved index, or is damaged"):
        ItemIndex.load(path, head)


def test_a_file_that_is_not_there_is_told(tmp_path):
    head = LinearHead(7, WIDTH)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ItemIndex.load(tmp_path / "nowhere", head)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ItemIndex(head).save(tmp_path / "nowhere" / "index")


def test_three_lines_lead_from_histories_to_items():
    model = DiffRec([f"item-{number}" for number in range(40)], dim=8, max_length=6, seeds=3)
    histories = [["item-3", "item-1"], ["item-7"]]
    index = ItemIndex(model.head)
    latents = model.next_item_latents(model.encode_histories(histories))
    items = [model.vocabulary.decode(row[row >= 0].tolist()) for row in index.top_k(latents, k=10).items.cpu()]
    assert items == model.recommend(histories, k=10, exclude_seen=False).items


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("memory", ["none", "transitions"])
def test_recommend_searches_an_index_and_adds_what_the_memory_predicts(memory, calibrated):
    log = SyntheticWorld(num_items=60, seed=0).sample(80, seed=0).sequences()
    settings = {"dim": 8, "max_length": 6, "head": "tied", "memory": memory, "seeds": 3}
    model = DiffRec(log.vocabulary, denoiser="conditional-mlp", **settings).prepare(log).eval()
    model.calibration = Calibration(1.2, 0.2, 0.1, 0.5) if calibrated else None
    histories = [log.vocabulary.decode(row) for row in list(log)[:6]]
    index = ItemIndex(model.head, factory="Flat", num_tail=60)
    lists = [[history[0], *log.vocabulary.ids[:5]] for history in histories]
    for options in ({}, {"exclude_seen": False}, {"candidates": lists[0]}, {"candidates": lists}, {"exclude": lists}):
        exact = model.recommend(histories, k=5, **options)
        found = model.recommend(histories, k=5, index=index, **options)
        assert found.items == exact.items
        torch.testing.assert_close(found.scores, exact.scores, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found.std, exact.std, rtol=1e-3, atol=1e-7)
    if memory != "none":  # found in no neighbourhood: the memory alone knows them
        narrow = ItemIndex(model.head, factory="IVF16,Flat", num_tail=60)
        assert model.list_overlap(histories, k=5, index=narrow) > 0.8


def test_an_index_that_finds_too_few_items_warns():
    model = DiffRec(range(300), dim=8, max_length=6, denoiser="conditional-mlp", head="tied").eval()
    index = ItemIndex(model.head, factory="IVF100,Flat")
    with pytest.warns(UserWarning, match=r"The index found \d+ of 100 items for a user.*nprobe=64"):
        found = model.recommend([[1, 2]], k=100, index=index)
    assert 0 < len(found.items[0]) < 100


def test_an_index_of_a_head_that_has_changed_is_refused_once_torch_has_written():
    model = DiffRec(range(50), dim=8, max_length=6, denoiser="conditional-mlp", head="tied").eval()
    index = ItemIndex(model.head)
    model.recommend([[1, 2]], k=5, index=index)
    assert copy.deepcopy(model).recommend([[1, 2]], k=5).items == model.recommend([[1, 2]], k=5).items
    with torch.no_grad():
        model.embedding.weight[4] += 0.1
    with pytest.raises(ValueError, match="head has changed since this index was built"):
        model.recommend([[1, 2]], k=5, index=index)


def test_without_faiss_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"needs faiss.*pip install 'diffusers-rec\[faiss\]'"):
        ItemIndex(LinearHead(7, WIDTH))


@pytest.mark.parametrize(("settings", "message"), [
    ({"factory": "tree"}, "could not parse index string tree.*factory 'tree'"),
    ({"nprobe": 4}, "could not set parameter nprobe.*nprobe 4"),
    ({"efConstruction": 0}, "efConstruction must be an integer >= 1 and <= 1000000, got 0"),
    ({"efSearch": 10**7}, "efSearch must be an integer >= 1 and <= 1000000, got 10000000"),
    ({"factory": "IVF8,Flat"}, "Number of training points.*factory 'IVF8,Flat'"),
    ({"factory": "IVF2,Flat", "nprobe": 0}, "nprobe must be an integer >= 1 and <= 1000000, got 0"),
    ({"num_tail": 0}, "num_tail must be an integer >= 1, got 0"),
])  # fmt: skip
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ItemIndex(LinearHead(7, WIDTH), **settings)


@pytest.mark.parametrize(("arguments", "message"), [
    ({"k": 0}, "k must be an integer >= 1 and <= 7, got 0"),
    ({"k": 8}, "k must be an integer >= 1 and <= 7, got 8"),
    ({"k": 1, "oversample": 0}, "oversample must be an integer >= 1, got 0"),
    ({"k": 1, "latents": torch.zeros(2, WIDTH)}, r"finite and of shape \(users, draws, width\), got \(2, 16\)"),
    ({"k": 1, "latents": torch.full((1, 1, WIDTH), torch.nan)}, "latents must be finite"),
])  # fmt: skip
def test_refuses_bad_searches(arguments, message):
    with pytest.raises(ValueError, match=message):
        ItemIndex(LinearHead(7, WIDTH)).top_k(**{"latents": torch.zeros(1, 1, WIDTH), **arguments})


def test_refuses_keys_that_are_not_finite():
    head = LinearHead(7, WIDTH)
    with torch.no_grad():
        head.weight[3, 2] = torch.nan
    with pytest.raises(ValueError, match="keys or bias are not all finite"):
        ItemIndex(head)


def test_many_candidates_are_ranked_exactly_in_bounded_memory(monkeypatch):
    head, latents = perturbed(LinearHead(300, WIDTH)), gaussian(3, 2, WIDTH, dtype=torch.float32)
    index, choice = ItemIndex(head, factory="Flat", num_tail=20), Choice(None, torch.arange(200))
    assert index.shortlist(head, latents, 5, choice, None).items.shape == (3, 200)
    monkeypatch.setattr("diffusers_rec.integrations.faiss._GATHERED", 3 * 200 * WIDTH)
    assert index.shortlist(head, latents, 5, choice, None) is None
