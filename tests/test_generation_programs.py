"""The programs that measure generation: their split, the cached roll-out, and a quick run of each."""

from __future__ import annotations

import csv
from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks.generation import cold, diversity, latency, likelihood, ranking, robustness, samples, setting, steering
from benchmarks.generation.attributes import nearest, ridge_regression, similarity
from benchmarks.generation.cold_split import cold_split_of, joined
from benchmarks.generation.rollout import CachedEncoder
from diffusers_rec import History, Holdout, Vocabulary, attribute_bags
from diffusers_rec.guidance import unwrapped
from diffusers_rec.presets import best


def test_a_cached_step_is_the_state_of_the_longer_history():
    model = best(range(20), dim=16, low_pass=0.0).double().eval()
    encoder = unwrapped(model.denoiser).encoder
    generator = torch.Generator().manual_seed(0)
    items = torch.randint(20, (3, 6), generator=generator)
    lengths, later = torch.tensor([6, 2, 4]), torch.randint(20, (3, 2, 3), generator=generator)
    with torch.no_grad():
        torch.nn.init.normal_(encoder.distance_bias, generator=generator)
        cached = CachedEncoder(encoder, History(items, lengths, latents=model.embedding(items)))
        for turn in range(3):
            state = cached.step(model.embedding(later[..., turn]))
            for row in range(3):
                for draw in range(2):
                    whole = torch.cat([items[row, : lengths[row]], later[row, draw, : turn + 1]])
                    length = torch.tensor([len(whole)])
                    context = encoder.encode(History.of_latents(model.embedding(whole[None]), length))
                    expected = encoder.states(context, length[None])[0, 0]
                    assert torch.allclose(state[row, draw], expected, atol=1e-9)


def test_marginal_relevance_goes_from_the_likeliest_to_the_most_different():
    bags = attribute_bags(list("abcdef"), [["x"], ["x"], ["x", "y"], ["y"], ["z"], ["z"]])
    scores = torch.tensor([[0.3, 0.25, 0.2, 0.15, 0.1, 0.0]]).log()
    assert diversity.marginally_relevant(scores, bags, 3, weight=1.0).tolist() == [[[0, 1, 2]]]
    assert diversity.marginally_relevant(scores, bags, 3, weight=0.5).tolist() == [[[0, 3, 4]]]
    every = diversity.marginally_relevant(scores, bags, 5, weight=0.01)
    assert sorted(every[0, 0].tolist()) == [0, 1, 2, 3, 4]  # an item without probability is left out


def test_draws_without_replacement_follow_the_tempered_distribution():
    scores = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    generator = torch.Generator().manual_seed(0)
    lists = diversity.without_replacement(scores, 2, 20_000, generator, temperature=0.5)[0]
    assert bool((lists[:, 0] != lists[:, 1]).all())
    assert int(lists.max()) < 3
    expected = torch.tensor([0.25, 0.09, 0.04]) / 0.38
    assert torch.allclose(torch.bincount(lists[:, 0]) / len(lists), expected, atol=0.015)


def test_ratios_at_equal_ndcg_interpolate_the_rival():
    rival = [{"ndcg": 0.3, "distance": 0.2, "coverage": 0.1}, {"ndcg": 0.1, "distance": 0.6, "coverage": 0.3}]
    mine = [{"ndcg": 0.2, "distance": 0.8, "coverage": 0.2}, {"ndcg": 0.05, "distance": 9.0, "coverage": 9.0}]
    within, means = diversity.at_equal_ndcg(mine, rival)
    assert within == 1
    assert means == pytest.approx({"distance": 2.0, "coverage": 1.0})
    assert diversity.at_equal_ndcg(mine[1:], rival) == (0, {})


def test_a_split_without_cold_items_asks_for_the_first_cold_one_and_the_first_warm_one():
    options = Namespace(quick=True, seed=0, epochs=None, joint_epochs=None)
    data, whole = cold_split_of(options), setting.split_of(options)
    count, ids = len(data.bags), data.cold.histories.vocabulary
    assert len(data.split.train.vocabulary) == count == 40
    assert sorted(ids.ids) == sorted(whole.train.vocabulary.ids)
    test = whole.test
    for user, history, following in zip(test.histories.users.ids, test.histories, test.following, strict=True):
        before, after = (ids.encode(whole.train.vocabulary.decode(row)) for row in (history, following))
        for cases, wanted in ((data.cold, after >= count), (data.warm, after < count)):
            assert (user in cases.histories.users) == wanted.any()
            if wanted.any():
                row, place = cases.histories.users.encode([user])[0], int(wanted.argmax())
                known = np.concatenate([before, after[:place]])
                assert cases.targets[row] == after[place]
                assert cases.histories[row].tolist() == known[known < count].tolist()


def test_ranks_leave_out_seen_items_and_order_equal_ones_at_random():
    histories, targets = ([np.array([item]) for item in each] for each in ([0, 1], [3, 2]))
    cases = Holdout.of(*(joined(rows, Vocabulary(["a", "b"]), Vocabulary(range(5))) for rows in (histories, targets)))
    scores = torch.tensor([[9.0, 5.0, 4.0, 3.0, 2.0], [1.0, 9.0, 1.0, 1.0, 1.0]])
    found = torch.stack([cold.ranks(lambda _: scores, cases, [0, 2], seed) for seed in range(200)])
    assert (found[:, :, 0] == torch.tensor([3, 2])).all()
    assert [found[:, row, 1].unique().tolist() for row in (0, 1)] == [[1, 2, 3, 4], [1, 2, 3]]


def test_ridge_and_neighbours_find_what_attributes_determine():
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(400, 6, generator=generator) < 0.4).float()
    weights = torch.randn(6, 3, generator=generator)
    assert torch.allclose(
        ridge_regression(x[:300], x[:300] @ weights + 1, x[300:], 0), x[300:] @ weights + 1, atol=0.02
    )
    likeness = similarity(torch.tensor([[1.0, 1, 0]]), torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 1, 1]]))
    assert torch.allclose(likeness, torch.tensor([[1, 1 / 2, 0, 2 / 3]]))
    assert torch.allclose(nearest(likeness, 2), torch.tensor([[0.6, 0, 0, 0.4]]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "rows"),
    [
        (likelihood, 24),
        (samples, 13),
        (latency, 4),
        (ranking, 16),
        (robustness, 8),
        (steering, 17),
        (diversity, 21),
        (cold, 14),
    ],
)
def test_a_quick_run_writes_its_table_and_its_marks(program, rows, tmp_path):
    arguments = ["--quick", "--threads", "1", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    program.main(arguments)
    name = f"{program.__name__.rpartition('.')[2]}-synthetic-quick"
    for file in (f"{name}.csv", f"{name}-ratios.csv"):
        with (tmp_path / "out" / file).open(newline="") as opened:
            found = list(csv.DictReader(opened))
        assert len(found) >= (rows if file.endswith("quick.csv") else 3)
        assert all(np.isfinite(float(row["value"])) for row in found if "value" in row)
    assert (tmp_path / "out" / f"{name}.png").stat().st_size > 1000
