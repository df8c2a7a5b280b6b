"""``complete`` and ``slate``: what they give, that it depends on the row alone, and what they refuse."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import perturbed

from diffusers_rec import GAP, DiffRec, SyntheticWorld
from diffusers_rec.presets import best, joint
from diffusers_rec.samplers.unmask import ORDERS

ITEMS = SyntheticWorld(24).sample(60).sequences().vocabulary.ids
K = 4


def build(**changes):
    model = joint(ITEMS, dim=8, max_length=9, k=K, dropout=0.0)
    model = model.replace(schedule={"num_timesteps": 12}, **changes)
    return perturbed(model).double().eval()


MODEL = build()
MASK = build(process="mask")
CHAINS = [
    *({"name": "unmask", "order": order} for order in ORDERS),
    {"name": "unmask", "temperature": 0.5, "top_p": 0.7},
    {"name": "unmask", "num_steps": 2, "remask": 2},
    {"name": "unmask", "num_steps": 1, "order": "confidence", "top_p": 0.2},
    "ddpm",
    {"name": "ddim", "num_steps": 4},
]
every_chain = pytest.mark.parametrize("sampler", CHAINS, ids=str)
few = settings(max_examples=4)
items = st.sampled_from(ITEMS)
histories = st.lists(st.lists(items, min_size=1, max_size=11), min_size=1, max_size=4)


@st.composite
def with_gaps(draw):
    """A history, and up to K positions behind it of which the first is a gap; perhaps more known items."""
    window = [GAP, *draw(st.lists(st.one_of(items, st.just(GAP)), max_size=K - 1))]
    return [*draw(st.lists(items, min_size=1, max_size=9)), *window, *draw(st.lists(items, max_size=2))]


sequences = st.lists(st.one_of(with_gaps(), st.lists(items, max_size=5)), min_size=1, max_size=5).filter(
    lambda rows: any(GAP in row for row in rows)
)


@every_chain
@few
@given(rows=sequences, batch_size=st.integers(1, 3))
def test_a_sequence_is_completed_the_same_alone_and_in_company(sampler, rows, batch_size):
    found = MODEL.complete(rows, 3, sampler=sampler, batch_size=batch_size)
    for row, sequence in enumerate(rows):
        if GAP in sequence:
            alone = MODEL.complete([sequence], 3, sampler=sampler)
            assert found[row] == alone[0]
            assert found.marginals[row] == [[(item, pytest.approx(p)) for item, p in gap] for gap in alone.marginals[0]]
            if found.log_likelihood is not None:
                torch.testing.assert_close(found.log_likelihood[row], alone.log_likelihood[0])


@every_chain
@few
@given(rows=histories, k=st.integers(1, K), batch_size=st.integers(1, 3))
def test_a_slate_is_the_same_alone_and_in_company(sampler, rows, k, batch_size):
    found = MODEL.slate(rows, k, [5, 2], sampler=sampler, batch_size=batch_size)
    for row, history in enumerate(rows):
        alone = MODEL.slate([history], k, [5, 2], sampler=sampler)
        assert found[row] == alone[0]
        one = [sample for seed in (5, 2) for sample in MODEL.slate([history], k, [seed], sampler=sampler)[0]]
        assert sorted(one) == sorted(found[row])


@every_chain
@few
@given(rows=sequences, data=st.data())
def test_completions_keep_what_is_known_and_repeat_nothing(sampler, rows, data):
    exclude = data.draw(st.lists(items, max_size=3))
    found = MODEL.complete(rows, 4, sampler=sampler, exclude=exclude)
    for sequence, samples, marginals in zip(rows, found.items, found.marginals, strict=True):
        known = [item for item in sequence if item is not GAP]
        assert len(samples) == 4
        assert len(marginals) == sequence.count(GAP)
        for sample in samples:
            new = [item for item, given in zip(sample, sequence, strict=True) if given is GAP]
            assert [item for item, given in zip(sample, sequence, strict=True) if given is not GAP] == known
            assert len(set(new)) == len(new)
            assert not set(new) & {*known, *exclude}
        for gap in marginals:
            assert not {item for item, _ in gap} & {*known, *exclude}
            assert [p for _, p in gap] == sorted((p for _, p in gap), reverse=True)
            assert sum(p for _, p in gap) <= 1 + 1e-9


@every_chain
@few
@given(rows=histories, k=st.integers(1, K), data=st.data())
def test_slates_hold_candidates_that_were_not_seen_and_repeat_nothing(sampler, rows, k, data):
    candidates = [
        data.draw(st.lists(st.sampled_from(ITEMS), min_size=len({*row}) + k + 1, max_size=len(ITEMS), unique=True))
        for row in rows
    ]
    found = MODEL.slate(rows, k, 3, sampler=sampler, candidates=candidates, exclude=[some[:1] for some in candidates])
    for row, slates, some in zip(rows, found.items, candidates, strict=True):
        assert all(len(set(slate)) == k and set(slate) <= set(some[1:]) - set(row) for slate in slates)


@given(rows=sequences)
@few
def test_a_sequence_without_a_gap_is_returned(rows):
    whole = [[item for item in row if item is not GAP] for row in rows]
    found = MODEL.complete([*whole, [ITEMS[0], GAP]], 3)
    for row, sequence in enumerate(whole):
        assert found[row] == [sequence] * 3
        assert found.marginals[row] == []
        assert found.log_likelihood[row].tolist() == [0.0] * 3


def test_samples_come_in_the_order_of_their_likelihood():
    for found in (MODEL.complete([[*ITEMS[:3], GAP, GAP]], 20), MODEL.slate([ITEMS[:3]], 3, 20)):
        assert (found.log_likelihood.diff(dim=1) <= 0).all()
        assert found.log_likelihood.unique().numel() > 5
    assert MODEL.complete([[*ITEMS[:3], GAP]], sampler="ddpm").log_likelihood is None


def test_items_may_repeat_on_request_alone():
    peaked = MASK.replace()
    with torch.no_grad():
        peaked.embedding.weight.mul_(0.0)
        peaked.embedding.weight[3] = 30.0 * peaked.denoiser.out.bias.sign()
    row = [[ITEMS[0], GAP, GAP, GAP]]
    samples = MODEL.complete(row, 200, exclude_seen=False)[0]
    assert any(len(set(sample)) < 4 for sample in samples)
    assert all(len(set(sample)) == 4 for sample in MODEL.complete(row, 200)[0])


@pytest.mark.parametrize("model", [MODEL, MASK], ids=["mixed", "mask"])
def test_one_gap_at_the_end_is_the_next_item(model):
    """A model that knows blanks ranks from a blank at step N."""
    plain = model.without_memory()
    history = [[*ITEMS[:5]], ITEMS[2:4]]
    p = plain.predict_proba(history)
    found = model.complete([[*row, GAP] for row in history], exclude_seen=False)
    for row, (gap,) in enumerate(found.marginals):
        best_items = p[row].argsort(descending=True)[: len(gap)]
        assert [item for item, _ in gap] == [ITEMS[index] for index in best_items]
        assert [each for _, each in gap] == pytest.approx(p[row][best_items].tolist())
    ranked = plain.recommend(history, 1).items
    assert [slate[0] for slate in model.slate(history, 1).items] == ranked


def test_the_later_known_items_matter():
    row = [*ITEMS[:2], GAP, ITEMS[5], GAP]
    other = [*ITEMS[:2], GAP, ITEMS[7], GAP]
    one, two = (MODEL.complete([each]).marginals[0] for each in (row, other))
    assert one != two
    beyond = [*row[:3], ITEMS[5], ITEMS[6], ITEMS[8], ITEMS[9]]
    nearer, farther = (MODEL.complete([each], exclude_seen=False).marginals for each in (beyond[:-1], beyond))
    assert nearer == farther, "the model sees K positions from the first gap on"


def test_the_gap_is_one_object_however_it_is_copied():
    assert copy.deepcopy([GAP])[0] is GAP
    assert pickle.loads(pickle.dumps(GAP)) is GAP
    assert repr(GAP) == "GAP"


def test_calls_touch_no_global_random_state():
    state = torch.get_rng_state()
    MODEL.complete([[ITEMS[0], GAP]], 3)
    MODEL.slate([ITEMS[:2]], 2, 3)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("rows", "arguments", "error", "message"),
    [
        ([[ITEMS[0]], []], {}, ValueError, r"expected a gap in one sequence at least, got none\. Write diffusers_rec"),
        ([[ITEMS[0], GAP], [GAP, ITEMS[1]]], {}, ValueError, r"sequences\[1\] begins with a gap.*recommend\(empty="),
        (
            [[ITEMS[0], GAP, *ITEMS[2:5], GAP]],
            {},
            ValueError,
            r"sequences\[0\] spans 5 positions.*, but the model fills in 4.*joint\(items, k=5\)",
        ),
        ([[ITEMS[0], GAP, "nowhere"]], {}, ValueError, r"sequences\[0\]: .*unknown id"),
        ([[ITEMS[0], GAP, ["a"]]], {}, TypeError, r"sequences\[0\]: .*hashable"),
        (["a"], {}, TypeError, r"sequences\[0\] must be a list of item ids and GAP, got 'a'"),
        ([{ITEMS[0]}], {}, TypeError, r"sequences\[0\] must be a list of item ids and GAP"),
        ("a", {}, TypeError, "sequences must be a list of sequences"),
        ([[ITEMS[0], GAP, GAP]], {"candidates": ITEMS[:2]}, ValueError, "2 items are to be filled in, but only 1 may"),
        ([[ITEMS[0], GAP]], {"exclude": ITEMS}, ValueError, "1 items are to be filled in, but only 0 may be"),
        ([[ITEMS[0], GAP]], {"samples": [1, 1]}, ValueError, r"seeds must differ, but \[1\]"),
        ([[ITEMS[0], GAP]], {"samples": 0}, ValueError, "seeds .* >= 1"),
        ([[ITEMS[0], GAP]], {"samples": []}, ValueError, "at least one seed"),
        ([[ITEMS[0], GAP]], {"sampler": "unmusk"}, ValueError, "Unknown sampler name: 'unmusk'.*Did you mean 'unmask'"),
        ([[ITEMS[0], GAP]], {"sampler": {"name": "unmask", "order": "up"}}, ValueError, "order must be one of"),
        ([[ITEMS[0], GAP]], {"sampler": {"name": "unmask", "top_p": 0}}, ValueError, "top_p must be a finite number"),
        ([[ITEMS[0], GAP]], {"sampler": {"name": "unmask", "num_steps": 13}}, ValueError, "num_steps=13"),
        ([[ITEMS[0], GAP]], {"guidance": 2.0}, ValueError, "guidance=2.0, but the model has no guide"),
        ([[ITEMS[0], GAP]], {"exclude_seen": 1}, TypeError, "exclude_seen must be True or False"),
        ([[ITEMS[0], GAP]], {"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
    ],
)
def test_completions_that_cannot_be_are_refused(rows, arguments, error, message):
    with pytest.raises(error, match=message):
        MODEL.complete(rows, **arguments)


@pytest.mark.parametrize(
    ("rows", "arguments", "error", "message"),
    [
        ([ITEMS[:2]], {"k": K + 1}, ValueError, r"k must lie in 1\.\.4, as many items as the model fills in.*got 5"),
        ([ITEMS[:2]], {"k": 0}, ValueError, "k must be an integer >= 1, got 0"),
        ([ITEMS[:2]], {"k": 2.0}, TypeError, "k must be an integer"),
        ([ITEMS[:2]], {"k": 3, "candidates": ITEMS[1:4]}, ValueError, "3 items are to be filled in, but only 2 may be"),
        ([ITEMS[:2], []], {}, ValueError, r"histories\[1\] is empty"),
        ([[ITEMS[0], "nowhere"]], {}, ValueError, r"histories\[0\]: .*unknown id"),
        ([ITEMS[:2]], {"unknown": "ignore"}, ValueError, "unknown must be one of 'error', 'drop'"),
        ([ITEMS[:2]], {"samples": [3, 3]}, ValueError, r"seeds must differ, but \[3\]"),
        ([ITEMS[:2]], {"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        (ITEMS[0], {}, TypeError, "histories must be a list of histories"),
    ],
)
def test_slates_that_cannot_be_are_refused(rows, arguments, error, message):
    with pytest.raises(error, match=message):
        MODEL.slate(rows, **arguments)


def test_gaps_are_refused_row_by_row():
    """A row with few choices and one gap does not have to fill the gaps of another."""
    found = MODEL.complete([[ITEMS[0], GAP], [ITEMS[1], GAP, GAP, GAP]], candidates=[ITEMS[:2], ITEMS])
    assert found[0] == [list(ITEMS[:2])]
    assert [item for item, _ in found.marginals[0][0]] == [ITEMS[1]]


@pytest.mark.parametrize("call", [lambda model: model.complete([[ITEMS[0], GAP]]), lambda model: model.slate([ITEMS])])
@pytest.mark.parametrize("model", [best(ITEMS, dim=8), DiffRec(ITEMS, dim=8)])
def test_a_model_that_predicts_latents_is_refused(call, model):
    with pytest.raises(TypeError, match=r"needs a denoiser that predicts items, but '.*' predicts x0.*presets\.joint"):
        call(model)


def test_unknown_ids_of_a_history_are_dropped_on_request():
    assert MODEL.slate([["nowhere", *ITEMS[:2]]], unknown="drop").items == MODEL.slate([ITEMS[:2]]).items


def test_a_chain_of_blanks_counts_what_it_has_filled_in():
    """Steered to three of four, it is wrong only where one of its many steps fills several positions."""
    values = {item: float(number % 2) for number, item in enumerate(ITEMS)}
    guidance = {"name": "attribute", "values": values, "count": 3}
    fine = MASK.replace(schedule={"num_timesteps": 300}).eval()
    sequences = [[item, GAP, GAP, GAP, GAP] for item in ITEMS[:2]]
    found = fine.complete(sequences, 30, exclude_seen=False, sampler="ddpm", guidance=guidance)
    counts = [sum(values[item] for item in sample[1:]) for row in found.items for sample in row]
    assert sum(count == 3 for count in counts) > 0.9 * len(counts)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        ("one-step", "gives the mean of many"),
        ({"name": "ddim", "num_steps": 1}, "gives the mean of many"),
        ({"name": "unmask", "distinct": False}, "no item twice"),
    ],
)
def test_a_slate_needs_a_sampler_of_items(sampler, message):
    with pytest.raises(ValueError, match=message):
        MODEL.slate([[ITEMS[0]]], 2, samples=2, sampler=sampler)


def test_unmask_needs_a_process_with_blanks():
    gaussian = build(process="gaussian")
    with pytest.raises(ValueError, match="fills blanks, which the denoiser does not learn"):
        gaussian.slate([[ITEMS[0]]], 2, samples=2)
    assert gaussian.slate([[ITEMS[0]]], 2, samples=2, sampler="ddpm").items[0]


def test_repeats_need_fewer_candidates_than_gaps():
    sequence = [ITEMS[0], GAP, GAP]
    found = MODEL.complete([sequence], candidates=[ITEMS[3]], exclude_seen=False)
    assert found[0][0] == [ITEMS[0], ITEMS[3], ITEMS[3]]
    with pytest.raises(ValueError, match="only 1 may be"):
        MODEL.complete([sequence], candidates=[ITEMS[3]])
