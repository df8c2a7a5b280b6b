"""The contract of a memory: it has a share of the probability, for known items, given only the history."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.testing.contract import SIZES, Case, Maker, Suite, expect, expect_close, expect_equal, expect_finite
from diffusers_rec.testing.inputs import strided

HISTORIES = [[3, 1, 4], [0], [2, 2, 6, 5, 1, 0], [5, 4]]


def mass_is_a_share_on_known_items(memory: Memory) -> None:
    """Items and mass are ``(B, E)``; no mass is negative, and a row sums to its share, which is below one."""
    predicted = memory.predict(padded(histories_of(memory)))
    if predicted is None:
        return  # not used in the ranking
    items, mass, known = predicted.items, predicted.mass, items_of(memory)
    expect(items.shape == mass.shape and items.ndim == 2, "items and mass (B, E)", (items.shape, mass.shape))
    expect(items.dtype == torch.int64, "items in int64", items.dtype)
    expect(bool(((items >= 0) & (items < known)).all()), f"items in 0..{known - 1}", items.tolist())
    expect_finite("the mass", mass)
    expect((mass >= 0).all(), "no negative mass", mass.min())
    whole, share = mass.sum(1, keepdim=True), predicted.share
    expect(share.shape == whole.shape, "a share (B, 1)", tuple(share.shape))
    expect((share < 1).all(), "a share below one, which leaves the network a part", share.max())
    expect_close("what the mass of a row sums to", whole, share, rtol=1e-5, atol=1e-6)


def rows_are_independent(memory: Memory) -> None:
    """A row does not depend on other rows, padding or memory layout."""
    history = padded(histories_of(memory))
    whole = predicted_by(memory, history)
    for row, items in enumerate(histories_of(memory)):
        alone = predicted_by(memory, padded([items]))
        expect_close(f"the mass for history {row} alone", alone[0], whole[row], rtol=1e-5, atol=1e-6)
    other = torch.cat(
        [history.items.masked_fill(~history.mask, items_of(memory) - 1), torch.ones_like(history.items)], dim=1
    )
    other_padding = predicted_by(memory, History(other, history.lengths))
    expect_close("the mass with other padding", other_padding, whole, rtol=1e-5, atol=1e-6)
    apart = predicted_by(memory, History(strided(history.items), strided(history.lengths)))
    expect_close("the mass for strided histories", apart, whole, rtol=1e-5, atol=1e-6)


def fit_replaces_earlier_fits(memory: Memory) -> None:
    """A second fit removes the counts of the first."""
    again, fresh = copy.deepcopy(memory), copy.deepcopy(memory)
    again.fit(sequences(memory, seed=2))
    again.fit(sequences(memory, seed=1))
    fresh.fit(sequences(memory, seed=1))
    expect_equal(
        "the mass after fitting again", *(predicted_by(each, padded(histories_of(memory))) for each in (again, fresh))
    )


def state_dict_holds_all(memory: Memory) -> None:
    """Another memory that loads the state predicts the same, as after loading a checkpoint."""
    other = copy.deepcopy(memory)
    other.fit(sequences(memory, seed=2))
    other.load_state_dict(memory.state_dict())
    expect_equal(
        "the mass after loading the state",
        *(predicted_by(each, padded(histories_of(memory))) for each in (other, memory)),
    )


CLAUSES = (
    mass_is_a_share_on_known_items,
    rows_are_independent,
    fit_replaces_earlier_fits,
    state_dict_holds_all,
)


def items_of(memory: Memory) -> int:
    """Number of items V."""
    return int(getattr(memory, "num_items", SIZES["num_items"]))


def histories_of(memory: Memory) -> list[list[int]]:
    """Fixed histories of items that the memory knows."""
    return [[item % items_of(memory) for item in history] for history in HISTORIES]


def padded(histories: list[list[int]]) -> History:
    """Convert histories to one :class:`~diffusers_rec.History`."""
    longest = max(map(len, histories))
    items = torch.tensor([history + [0] * (longest - len(history)) for history in histories])
    return History(items, torch.tensor([len(history) for history in histories]))


def sequences(memory: Memory, seed: int) -> Sequences:
    """Random sequences of twenty users, three to nine items long."""
    generator, items = np.random.default_rng(seed), items_of(memory)
    lengths = generator.integers(3, 10, 20)
    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int64)
    return Sequences(
        generator.integers(0, items, offsets[-1]), offsets, Vocabulary(range(len(lengths))), Vocabulary(range(items))
    )


def predicted_by(memory: Memory, history: History) -> Tensor:
    """Mass of every item, ``(B, V)``."""
    predicted, known = memory.predict(history), items_of(memory)
    return torch.zeros(len(history), known) if predicted is None else predicted.within(slice(0, known))


def _fitted(memory: Memory) -> Memory:
    fitted = copy.deepcopy(memory)
    fitted.fit(sequences(memory, seed=1))
    return fitted


def _cases(maker: Maker) -> Iterator[Case]:
    yield Case("not yet fitted", (maker(),))
    yield Case("fitted", (_fitted(maker()),))


def _outputs(memory: Memory) -> list[Tensor]:
    return [predicted_by(each, padded(histories_of(memory))) for each in (memory, _fitted(memory))]


SUITE = Suite(Memory, _cases, CLAUSES, _outputs)
