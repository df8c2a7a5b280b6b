"""An ensemble is the mean of its members, in every way it is asked."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DiffRec, Ensemble, SyntheticWorld, TransitionMemory
from diffusers_rec.evaluation import evaluate

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
    (first, *_), split = (
        mixed(),
        SyntheticWorld(len(ITEMS), num_groups=4).sample(40, max_length=8).sequences().leave_one_out(),
    )
    model = DiffRec.from_config(split.test.histories.vocabulary, first.config())
    assert evaluate(Ensemble([model]), split.test) == evaluate(model, split.test)


def test_it_is_read_from_the_folders_of_its_members(tmp_path):
    members = mixed()
    for number, each in enumerate(members):
        each.save_pretrained(tmp_path / str(number))
    loaded = Ensemble.from_pretrained([tmp_path / str(number) for number in range(3)])
    assert torch.equal(loaded.predict_proba(HISTORIES), Ensemble(members).predict_proba(HISTORIES))


@pytest.mark.parametrize(
    ("members", "error", "message"),
    [
        (lambda: [], ValueError, "one member"),
        (lambda: [member(0), torch.nn.Linear(1, 1)], TypeError, "member 1"),
        (lambda: [member(0), DiffRec(list("abc"), dim=8, max_length=6)], ValueError, "different items"),
        (lambda: [member(0), member(1, max_length=7)], ValueError, "same max_length"),
    ],
)
def test_members_that_do_not_fit_are_refused(members, error, message):
    with pytest.raises(error, match=message):
        Ensemble(members())
