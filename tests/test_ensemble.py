"""An ensemble is the mean of its members, in every way it is asked."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DiffRec, Ensemble, NoMemory, SyntheticWorld, TransitionMemory
from diffusers_rec.evaluation import evaluate
from diffusers_rec.recommenders.ranking import target_ranks, top_k

ITEMS = list("abcdefghij")
HISTORIES = [["a", "b", "c"], ["d"], ["e", "a"]]


def member(seed: int, **changes) -> DiffRec:
    settings = {"dim": 8, "max_length": 6, "denoiser": "conditional-mlp", "head": "linear", "seeds": 3}
    return DiffRec(ITEMS, seed=seed, **(settings | changes)).eval()


def mixed(share: float = 0.0) -> list[DiffRec]:
    """Of several makes and widths; each with a memory of its own, if that is to have a share."""
    members = [member(0), member(1, head="tied"), member(2, dim=16, head="cosine")]
    if share:
        for number, each in enumerate(members):
            each.memory = TransitionMemory(len(ITEMS), share=share)
            each.memory.fit(SyntheticWorld(len(ITEMS), num_groups=4, seed=number).sample(20, max_length=8).sequences())
    return members


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_its_probabilities_are_the_mean_of_its_members(share):
    members = mixed(share)
    ensemble = Ensemble(members)
    mean = torch.stack([each.predict_proba(HISTORIES) for each in members]).mean(0)
    torch.testing.assert_close(ensemble.predict_proba(HISTORIES), mean)
    torch.testing.assert_close(mean.sum(1), torch.ones(len(HISTORIES)))


def test_it_recommends_by_the_mean_and_tells_how_far_the_members_disagree():
    members = [member(0), member(1)]
    found = Ensemble(members).recommend(HISTORIES, k=4, exclude_seen=False)
    probabilities = torch.stack([each.predict_proba(HISTORIES) for each in members])
    torch.testing.assert_close(found.scores, probabilities.mean(0).topk(4).values)
    alone = members[0].recommend(HISTORIES, k=4, exclude_seen=False)
    index = members[0].vocabulary.encode([found.items[0][0]])[0]
    between = probabilities[:, 0, index].std(correction=0)
    assert found.spread[0, 0] >= between - 1e-6
    assert found.spread[0, 0] > alone.spread[0, 0]


def test_an_ensemble_of_one_is_its_member():
    split = SyntheticWorld(len(ITEMS), num_groups=4).sample(40, max_length=8).sequences().leave_one_out()
    model = DiffRec.from_config(split.test.histories.vocabulary, member(0).config())
    assert evaluate(Ensemble([model]), split.test) == evaluate(model, split.test)


@pytest.mark.parametrize("chunk_scores", [1, 70, 10**6])
def test_every_ranking_is_by_the_mean(chunk_scores):
    ensemble = Ensemble(mixed(0.3))
    history = ensemble.encode_histories(HISTORIES)
    latents, recalled = ensemble.next_item_latents(history), ensemble.memory.predict(history)
    mean = ensemble.predict_proba(HISTORIES)
    best = top_k(ensemble.head, latents, 3, recalled=recalled, chunk_scores=chunk_scores)
    assert torch.equal(best.items, mean.topk(3).indices)
    targets, nobody = torch.tensor([4, 7, 0]), torch.full((3, 1), -1)
    ranks, _ = target_ranks(
        ensemble.head, latents, targets, excluded=nobody, recalled=recalled, chunk_scores=chunk_scores
    )
    assert torch.equal(ranks, (mean >= mean.gather(1, targets[:, None])).sum(1))


def test_memories_of_several_shares_and_makes_stay_a_distribution():
    remembering, other = mixed(0.5)[:2]
    other.memory = NoMemory()
    ensemble = Ensemble([remembering, other])
    torch.testing.assert_close(ensemble.predict_proba(HISTORIES).sum(1), torch.ones(len(HISTORIES)))
    remembering.memory = NoMemory()  # a part can be swapped afterwards
    torch.testing.assert_close(
        ensemble.predict_proba(HISTORIES), Ensemble([remembering, other]).predict_proba(HISTORIES)
    )


def test_its_memory_is_found_where_the_members_are():
    ensemble = Ensemble(mixed(0.3)).to("meta")
    assert {buffer.device.type for buffer in ensemble.memory.buffers()} == {"meta"}
    assert ensemble.device.type == "meta"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_member_is_rounded_to_the_precision_of_another(order):
    members = [member(0).double(), member(1)]
    found = Ensemble([members[number] for number in order])
    latents = found.next_item_latents(found.encode_histories(HISTORIES))
    own = members[0].next_item_latents(members[0].encode_histories(HISTORIES))
    assert latents.dtype == torch.float64
    assert own.flatten(1)[0, 0] in latents


def test_it_leaves_its_members_in_their_mode_and_the_global_random_state_alone():
    members = [member(0).train(), member(1).train()]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    Ensemble(members).recommend(HISTORIES, k=2)
    assert all(each.training for each in members)
    assert torch.equal(before, torch.get_rng_state())


def test_it_is_read_from_the_folders_of_its_members(tmp_path):
    members = mixed()
    for number, each in enumerate(members):
        each.save_pretrained(tmp_path / str(number))
    loaded = Ensemble.from_pretrained([tmp_path / str(number) for number in range(3)])
    assert torch.equal(loaded.predict_proba(HISTORIES), Ensemble(members).predict_proba(HISTORIES))


def test_one_folder_alone_is_refused(tmp_path):
    with pytest.raises(TypeError, match="list of folders"):
        Ensemble.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        (lambda: [], ValueError, "one member"),
        (lambda: [member(0), torch.nn.Linear(1, 1)], TypeError, "member 1"),
        (lambda: [member(0), DiffRec(list("abc"), dim=8, max_length=6)], ValueError, "different items"),
        (lambda: [member(0), member(1, max_length=7)], ValueError, "same max_length"),
        (lambda: [member(0), DiffRec(ITEMS[::-1], dim=8, max_length=6)], ValueError, "in another order"),
        (lambda: [member(0)] * 2, ValueError, "came twice"),
        (lambda: member(0), TypeError, r"Ensemble\(\[model\]\)"),
    ],
)
def test_members_that_do_not_fit_are_refused(members, error, message):
    with pytest.raises(error, match=message):
        Ensemble(members())
