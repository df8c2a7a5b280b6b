"""An ensemble is the mean of its members, in every way it is asked."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from diffusers_rec import (
    DiffRec,
    Ensemble,
    NoMemory,
    Recommender,
    Scores,
    SyntheticWorld,
    TransitionMemory,
    Vocabulary,
)
from diffusers_rec.evaluation import evaluate
from diffusers_rec.recommenders.ranking import joined, target_ranks, top_k

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
    assert found.std[0, 0] >= between - 1e-6
    assert found.std[0, 0] > alone.std[0, 0]


def test_an_ensemble_of_one_is_its_member():
    split = SyntheticWorld(len(ITEMS), num_groups=4).sample(40, max_length=8).sequences().leave_one_out()
    model = DiffRec.from_config(split.test.histories.vocabulary, member(0).config())
    assert evaluate(Ensemble([model]), split.test) == evaluate(model, split.test)


class Chunked(Recommender):
    """Fixed scores, in chunks of so many users and items."""

    device, history_length = torch.device("cpu"), 5

    def __init__(self, seed, users, items, draws=1):
        super().__init__()
        self.vocabulary, self.shape = Vocabulary(ITEMS), (users, items)
        logits = torch.randn(draws, len(ITEMS), generator=torch.Generator().manual_seed(seed))
        self.probabilities = logits.softmax(-1)

    def score(self, history, *, seeds=None, sampler=None):
        users, items = self.shape
        for row in range(0, len(history), users):
            for start in range(0, len(ITEMS), items):
                part = self.probabilities[:, start : start + items]
                rows = slice(row, min(row + users, len(history)))
                mean = part.mean(0).log().expand(rows.stop - row, -1)
                yield Scores(rows, slice(start, start + part.shape[1]), mean, partial(self.std, part))

    @staticmethod
    def std(part, columns):
        return part.std(0, correction=0)[columns]


def test_members_of_any_kind_and_in_any_chunks_are_averaged():
    members = [Chunked(0, 1, 3, 4), Chunked(1, 2, 10, 2), Chunked(2, 5, 4), member(0)]
    ensemble, rows = Ensemble(members), HISTORIES * 2
    mean = torch.stack([each.predict_proba(rows) for each in members]).mean(0)
    torch.testing.assert_close(ensemble.predict_proba(rows), mean)
    chunks = list(ensemble.score(ensemble.encode_histories(rows)))
    assert sum(chunk.users.stop - chunk.users.start for chunk in chunks) == len(rows)
    best = top_k(chunks, 3)
    torch.testing.assert_close(best.scores, mean.topk(3).values)
    targets, nobody = torch.tensor([4, 7, 0, 1, 2, 3]), torch.full((len(rows), 1), -1)
    ranks, _ = target_ranks(chunks, targets, excluded=nobody)
    probabilities = joined(chunks).log_probabilities.exp()
    assert torch.equal(ranks, (probabilities >= probabilities.gather(1, targets[:, None])).sum(1))
    torch.testing.assert_close(probabilities, mean)


def test_the_deviation_is_that_of_all_draws_where_members_draw_as_many():
    members = [Chunked(seed, 2, 4, 3) for seed in range(4)]
    draws = torch.cat([each.probabilities for each in members])
    found = Ensemble(members).recommend(HISTORIES, k=len(ITEMS), exclude_seen=False)
    index = torch.tensor([[ITEMS.index(item) for item in row] for row in found.items])
    torch.testing.assert_close(found.std, draws.std(0, correction=0)[index])


def test_members_that_score_different_users_are_told():
    class Short(Chunked):
        def score(self, history, *, seeds=None, sampler=None):
            return super().score(history.take(slice(0, 2)))

    with pytest.raises(ValueError, match="gave scores of different users"):
        Ensemble([Chunked(0, 1, 10), Short(1, 1, 10)]).predict_proba(HISTORIES)


def test_networks_alone_share_the_weights():
    ensemble = Ensemble(mixed(0.3))
    networks = ensemble.without_memory()
    alone = [each.without_memory() for each in ensemble.members]
    torch.testing.assert_close(
        networks.predict_proba(HISTORIES), torch.stack([each.predict_proba(HISTORIES) for each in alone]).mean(0)
    )
    assert not torch.allclose(networks.predict_proba(HISTORIES), ensemble.predict_proba(HISTORIES))
    assert networks.members[0].head is ensemble.members[0].head
    assert networks.without_memory() is networks


def test_memories_of_several_shares_and_makes_stay_a_distribution():
    remembering, other = mixed(0.5)[:2]
    other.memory = NoMemory()
    ensemble = Ensemble([remembering, other])
    torch.testing.assert_close(ensemble.predict_proba(HISTORIES).sum(1), torch.ones(len(HISTORIES)))
    remembering.memory = NoMemory()  # a part can be swapped afterwards
    torch.testing.assert_close(
        ensemble.predict_proba(HISTORIES), Ensemble([remembering, other]).predict_proba(HISTORIES)
    )


def test_it_is_where_its_members_are():
    assert Ensemble(mixed(0.3)).to("meta").device.type == "meta"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_no_member_is_rounded_to_the_precision_of_another(order):
    members = [member(0).double(), member(1)]
    found = Ensemble([members[number] for number in order]).predict_proba(HISTORIES)
    assert found.dtype == torch.float64
    mean = (members[0].predict_proba(HISTORIES) + members[1].predict_proba(HISTORIES)) / 2
    torch.testing.assert_close(found, mean, rtol=1e-6, atol=0)


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
