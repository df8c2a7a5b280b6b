"""The replacement process, and the score entropy of its ratios, against enumerated distributions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import gaussian, schedules, seeded

from diffusers_rec import DiffRec, LinearHead, ReplacementProcess, TableEmbedding, TableSchedule
from diffusers_rec.objectives.score_entropy import score_entropy
from diffusers_rec.processes.mask import is_blank

NUM_ITEMS, DIM = 5, 4
blanks = st.sampled_from([0.0, 0.2, 1.0])
small = schedules(num_timesteps=st.integers(2, 25))


def process_of(schedule, blank=0.0):
    embedding, head = TableEmbedding(NUM_ITEMS, DIM, seed=3).double(), LinearHead(NUM_ITEMS, DIM, seed=4).double()
    return ReplacementProcess(schedule, embedding, head, blank=blank)


def forward(process, n, m=0):
    """Matrix of q(x_n = column | x_m = row) over items and blank, from the definition."""
    kept = float(process.schedule.alpha_bar[n] / process.schedule.alpha_bar[m])
    share = [(1 - process.blank) / NUM_ITEMS] * NUM_ITEMS + [process.blank]
    return kept * torch.eye(NUM_ITEMS + 1).double() + (1 - kept) * torch.tensor(share, dtype=torch.float64)


def clean(seed=0):
    """A distribution over items, and no blank."""
    return torch.cat([gaussian(NUM_ITEMS, seed=seed).softmax(-1), torch.zeros(1).double()])


def logits_of(process, marginal):
    """Logits whose softmax is the marginal distribution of the items."""
    return marginal[:-1].clamp(min=1e-300).log()


def frequencies(process, latents):
    """How often each item, and last a blank, is among latents."""
    table = torch.cat([process.embedding.table(), torch.zeros(1, DIM).double()]).detach()
    return (latents.reshape(-1, 1, DIM) == table).all(-1).sum(0)


def fits(counts, chances):
    assert not counts[chances == 0].any()
    possible = chances > 0
    expected = chances[possible] / chances[possible].sum() * counts.sum()
    return possible.sum() == 1 or chisquare(counts[possible].numpy(), expected.detach().numpy()).pvalue > 1e-5


@given(schedule=small, blank=blanks, data=st.data())
def test_items_are_replaced_as_the_forward_matrix_has_it(schedule, blank, data):
    process, n = process_of(schedule, blank), data.draw(st.integers(0, schedule.num_timesteps))
    item = data.draw(st.integers(0, NUM_ITEMS - 1))
    items, steps = torch.full((1, 4000), item), torch.full((1, 4000), n)
    corrupted = process.corrupt(process.embedding(items), steps, seeded(1))
    assert fits(frequencies(process, corrupted.xn), forward(process, n)[item])
    shown = process.shown(items, corrupted.noise, steps)
    latents = process.embedding(shown.clamp(min=0)).where((shown >= 0)[..., None], 0.0)
    assert torch.equal(latents, corrupted.xn)


@given(schedule=small, blank=blanks)
def test_a_chain_starts_from_what_replaces(schedule, blank):
    process = process_of(schedule, blank)
    start = process.start((1, 4000, 1, DIM), seeded(2), dtype=torch.float64)
    assert fits(frequencies(process, start), process.replacing)
    assert process.replacing.sum().item() == pytest.approx(1)
    assert bool(is_blank(start).any()) is (blank > 0)


@given(schedule=small, blank=blanks, data=st.data())
def test_the_head_gives_the_whole_marginal_with_its_blank(schedule, blank, data):
    process, n = process_of(schedule, blank), data.draw(st.integers(1, schedule.num_timesteps - 1))
    marginal = clean() @ forward(process, n)
    found = process.log_probabilities(logits_of(process, marginal), torch.tensor(n))
    torch.testing.assert_close(found.exp(), marginal)


@given(schedule=small, blank=blanks, data=st.data())
def test_a_reverse_step_is_that_of_bayes(schedule, blank, data):
    n = data.draw(st.integers(2, schedule.num_timesteps))
    m, process = data.draw(st.integers(1, n - 1)), process_of(schedule, blank)
    if not schedule.alpha_bar[n]:
        return  # nothing is left of the marginal to infer from
    earlier = clean() @ forward(process, m)
    marginal, joint = earlier @ forward(process, n, m), earlier[:, None] * forward(process, n, m)
    for item in (*range(NUM_ITEMS), -1):
        if not marginal[item]:
            continue
        steps = torch.tensor(n), torch.tensor(m)
        found = process.reverse_probabilities(logits_of(process, marginal), torch.tensor(item), *steps)
        # The logits of improbable items cancel: 1 / alpha times the rounding of the marginal is left.
        kept = float(schedule.alpha_bar[n] / schedule.alpha_bar[m])
        torch.testing.assert_close(found, joint[:, item] / marginal[item], rtol=1e-6, atol=1e-14 / kept + 1e-12)


@pytest.mark.parametrize("blank", [0.0, 0.2])
def test_a_step_draws_from_the_reverse_probabilities(blank):
    process = process_of(TableSchedule([0.8, 0.5, 0.2]), blank)
    output, items = gaussian(DIM), torch.tensor([2] if not blank else [2, -1])
    for item in items:
        latent = torch.zeros(DIM).double() if item < 0 else process.embedding(item)
        xn = latent.detach().expand(1, 4000, 1, DIM)
        xm = process.step(output.expand_as(xn), xn, 3, 1, seeded(5))
        chances = process.reverse_probabilities(process.head.logits(output), item, torch.tensor(3), torch.tensor(1))
        assert fits(frequencies(process, xm), chances)
        likeliest = process.step(output.expand_as(xn), xn, 3, 1, None, eta=0.0)
        assert frequencies(process, likeliest)[chances.argmax()] == 4000


@pytest.mark.parametrize("blank", [0.0, 0.2])
def test_a_chain_of_the_true_marginals_lands_on_the_clean_distribution(blank):
    process = process_of(TableSchedule([0.9, 0.6, 0.3, 0.05, 0.001]), blank)
    xn = process.start((1, 4000, 1, DIM), seeded(3), dtype=torch.float64)
    for n in range(5, 1, -1):
        marginal = clean() @ forward(process, n)
        output = torch.linalg.lstsq(process.head.weight, (logits_of(process, marginal) - process.head.offset)[:, None])
        process.head.offset.data += logits_of(process, marginal) - process.head.logits(output.solution[:, 0])
        xn = process.step(output.solution[:, 0].expand_as(xn), xn, n, n - 1, seeded(n))
    assert fits(frequencies(process, xn), clean() @ forward(process, 1))


def summed(process, marginal, item, shown, n):
    """The sum of the definition, over all y other than x_n, with its weight."""
    q, total = forward(process, n)[item], 0.0
    for y in range(NUM_ITEMS + 1):
        if y != shown % (NUM_ITEMS + 1) and (process.blank or y < NUM_ITEMS):
            ratio, predicted = float(q[y] / q[shown]), float(marginal[y] / marginal[shown])
            known = ratio * (math.log(ratio) - 1) if ratio else 0.0
            total += predicted - (ratio * math.log(predicted) if ratio else 0.0) + known
    return -math.log(float(process.schedule.alpha_bar[n])) * float(process.replacing[shown]) * total


@given(blank=st.sampled_from([0.0, 0.2, 0.7]), n=st.integers(1, 3), data=st.data())
def test_the_score_entropy_is_the_sum_of_its_definition(blank, n, data):
    process = process_of(TableSchedule([0.8, 0.5, 0.01]), blank)
    item = data.draw(st.integers(0, NUM_ITEMS - 1))
    shown = data.draw(st.integers(-1 if blank else 0, NUM_ITEMS - 1))
    logits = gaussian(1, NUM_ITEMS, seed=data.draw(st.integers(0, 5)))
    marginal = process.log_probabilities(logits, torch.tensor([n]))[0].exp()
    found = score_entropy(process, logits, *(torch.tensor([each]) for each in (item, shown, n)))
    assert found.item() == pytest.approx(summed(process, marginal, item, shown, n), rel=1e-8, abs=1e-10)
    assert found.item() >= -1e-12


def test_of_blanks_alone_the_score_entropy_is_a_cross_entropy():
    process = process_of(TableSchedule([0.8, 0.5, 0.01]), 1.0)
    logits, items, steps = gaussian(3, NUM_ITEMS), torch.tensor([0, 3, 4]), torch.tensor([1, 2, 3])
    kept = process.schedule.alpha_bar[steps]
    found = score_entropy(process, logits, items, torch.full((3,), -1), steps)
    expected = kept / (1 - kept) * -kept.log() * torch.nn.functional.cross_entropy(logits, items, reduction="none")
    torch.testing.assert_close(found, expected)
    kept_items = score_entropy(process, logits, items, items, steps)
    torch.testing.assert_close(kept_items, torch.zeros(3).double())


@pytest.mark.parametrize("blank", [0.0, 0.3])
def test_the_mean_score_entropy_is_least_at_the_marginal(blank):
    process, n = process_of(TableSchedule([0.8, 0.5, 0.2]), blank), 2
    pairs = [(item, shown) for item in range(NUM_ITEMS) for shown in range(-1 if blank else 0, NUM_ITEMS)]
    items, shown = torch.tensor(pairs).T
    chance = clean()[items] * forward(process, n)[items, shown]
    logits = logits_of(process, clean() @ forward(process, n)).requires_grad_()
    steps = torch.full_like(items, n)
    loss = (chance * score_entropy(process, logits.expand(len(items), -1), items, shown, steps)).sum()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "replacement", "denoiser": "joint", "objective": "items"}, "the denoiser predicts items"),
        ({"objective": {"name": "weighted", "terms": ["score-entropy"]}}, "reads draws of the process 'replacement'"),
        (
            {"process": "replacement", "objective": {"name": "weighted", "terms": ["score-entropy"]},
             "negatives": "uniform"},
            "sums over all items, but the negatives are 'uniform'",
        ),
        ({"process": {"name": "replacement", "blank": 2}}, "blank must"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        DiffRec(range(NUM_ITEMS), dim=DIM, **changes)


def test_latents_of_another_shape_are_refused():
    process = process_of(TableSchedule([0.8, 0.5, 0.2]))
    with pytest.raises(ValueError, match="x0 must be like xn"):
        process.step(gaussian(1, 1, DIM), gaussian(1, 2, DIM), 2, 1, seeded(0))
