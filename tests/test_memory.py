from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec import DiffRec, Interactions, SyntheticWorld
from diffusers_rec.data.batching import pad
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import control
from diffusers_rec.recommenders.memory import Memory, MemoryPrediction, NoMemory, TransitionMemory
from diffusers_rec.training import TrainingConfig, train

histories_strategy = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), min_size=1, max_size=5)


def sequences(rows):
    users = [user for user, row in enumerate(rows) for _ in row]
    return Interactions.from_arrays(users, [item for row in rows for item in row]).sequences()


def expected(rows, history, num_items, memory):
    """q by the formula, one pair after another."""
    counts, occurrences = Counter(), Counter(item for row in rows for item in row)
    for row in rows:
        for i, x in enumerate(row):
            for j in range(i + 1, min(i + memory.window, len(row) - 1) + 1):
                counts[x, row[j]] += (j - i) ** -0.5
                counts[row[j], x] += memory.backward * (j - i) ** -0.5
    q = torch.zeros(num_items, dtype=torch.float64)
    for d, x in enumerate(history[::-1][: memory.window]):
        for v in range(num_items):
            q[v] += memory.decay**d * counts[x, v] / math.sqrt(max(1, occurrences[x]))
    return q / q.sum() if q.sum() > 0 else q


@given(
    rows=histories_strategy,
    asked=histories_strategy,
    window=st.integers(1, 4),
    decay=st.sampled_from([0.0, 0.5, 1.0]),
    backward=st.sampled_from([0.0, 0.5, 1.0]),
    share=st.sampled_from([0.0, 0.3, 0.99]),
)
def test_what_is_predicted_is_what_the_formula_counts(rows, asked, window, decay, backward, share):
    data = sequences([*rows, list(range(6))])  # the last user makes every item known
    rows = [row.tolist() for row in data]
    memory = TransitionMemory(6, share=share, window=window, decay=decay, backward=backward)
    memory.fit(data)
    found = memory.predict(pad(asked))
    dense = torch.cat([found.within(slice(0, 2)), found.within(slice(2, 6))], dim=1).double()
    wanted = torch.stack([share * expected(rows, history, 6, memory) for history in asked])
    torch.testing.assert_close(dense, wanted, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found.share[:, 0].double(), wanted.sum(1), rtol=1e-5, atol=1e-7)


def test_the_largest_counts_of_an_item_are_kept():
    data = sequences([[0, 1], [0, 1], [0, 2], [0, 3], [0, 3], [0, 3]])
    memory = TransitionMemory(4, neighbours=2, backward=0, share=0.5)
    memory.fit(data)
    code = {raw: index for index, raw in enumerate(data.vocabulary.ids)}
    mass = memory.predict(pad([[code[0]]])).within(slice(0, 4))[0]
    assert mass[[code[1], code[2], code[3]]].tolist() == pytest.approx([0.2, 0.0, 0.3])


def test_an_answer_does_not_depend_on_company_or_padding():
    memory = TransitionMemory(40)
    memory.fit(SyntheticWorld(40).sample(50).sequences())
    rows = [[3, 7, 9], [1], list(range(12))]
    together = memory.predict(pad(rows)).within(slice(0, 40))
    alone = torch.cat([memory.predict(pad([row])).within(slice(0, 40)) for row in rows])
    torch.testing.assert_close(together, alone)
    shares = [memory.predict(pad([row])).share for row in rows]
    assert torch.equal(memory.predict(pad(rows)).share, torch.cat(shares))


def test_a_memory_that_knows_nothing_leaves_the_ranking_alone_and_warns():
    memory = TransitionMemory(5)
    with pytest.warns(UserWarning, match=r"has counted nothing.*model\.prepare\(sequences\)"):
        assert memory.predict(pad([[1, 2]])).share.item() == 0
    model = DiffRec(range(5), dim=8, memory="transitions")
    plain = DiffRec(range(5), dim=8)
    with pytest.warns(UserWarning, match="has counted nothing"):
        torch.testing.assert_close(model.predict_proba([[1, 2]]), plain.predict_proba([[1, 2]]))


def test_fitting_again_forgets():
    memory = TransitionMemory(2, backward=0)
    memory.fit(sequences([[0, 1], [1, 0]]))
    once = memory.counts.clone()
    memory.fit(sequences([[0, 1], [1, 0]]))
    torch.testing.assert_close(memory.counts, once)


@pytest.mark.parametrize("name", Memory.names())
def test_training_fills_it_a_folder_keeps_it_and_everything_that_ranks_uses_it(name, tmp_path):
    split = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=9).sequences().leave_one_out()
    vocabulary = split.train.vocabulary
    model = DiffRec(vocabulary, dim=8, memory=name, denoiser="conditional-mlp", seeds=2)
    train(model, split.train, split.validation, TrainingConfig(epochs=1, calibrate=False), directory=tmp_path)
    read = DiffRec.from_pretrained(tmp_path)
    history = vocabulary.decode(split.test.histories[0])
    mixed = model.predict_proba([history])
    torch.testing.assert_close(read.predict_proba([history]), mixed)
    assert mixed.sum().item() == pytest.approx(1, abs=1e-5)
    best = model.recommend([history], k=5, exclude_seen=False)
    torch.testing.assert_close(best.scores[0], mixed[0].topk(5).values)
    some = split.test.sample(20, seed=0)
    everything = model.predict_proba([vocabulary.decode(history) for history in some.histories])
    target = everything.gather(1, torch.from_numpy(some.targets)[:, None])
    hit = (everything >= target).sum(1) <= 5
    assert evaluate(model, some, ks=[5]).metrics(exclude_seen=False)["hr@5"] == pytest.approx(
        hit.double().mean().item()
    )
    plain = DiffRec.from_config(vocabulary, {**model.config(), "memory": "none"})
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith("memory.")}
    plain.load_state_dict(weights)
    same = torch.allclose(plain.predict_proba([history]), mixed)
    assert same == (name == "none")
    assert control(model).config()["memory"] == model.config()["memory"]


def test_the_mass_of_an_item_adds_up_within_its_chunk():
    predicted = MemoryPrediction(torch.tensor([[2, 0, 2]]), torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[0.6]]))
    torch.testing.assert_close(predicted.within(slice(0, 3)), torch.tensor([[0.2, 0.0, 0.4]]))
    torch.testing.assert_close(predicted.within(slice(1, 2)), torch.tensor([[0.0]]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 1.0}, "share must be a finite number at least 0 and below 1"),
        ({"window": 0}, "window"),
        ({"decay": -1}, "decay"),
        ({"neighbours": 0}, "neighbours"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        TransitionMemory(5, **settings)


def test_other_items_than_its_own_are_refused():
    with pytest.raises(ValueError, match="holds 3 items, but the sequences have 2"):
        TransitionMemory(3).fit(sequences([[0, 1]]))
    with pytest.raises(ValueError, match="items of the memory is 3"):
        DiffRec(range(5), dim=8, memory=TransitionMemory(3))
    assert NoMemory().predict(pad([[0]])) is None
