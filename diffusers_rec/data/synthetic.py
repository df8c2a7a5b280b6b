r"""A synthetic world whose best possible recommender is known.

Items lie on rings, one for each group. After :math:`v_1, \dots, v_t`, the next item is an unseen one with

.. math:: p(v \mid v_1, \dots, v_t) \propto 0.6\, A_{v_t v} + 0.3\, B_{v_{t-1} v} + 0.1\, \pi_v,
    \qquad v \notin \{v_1, \dots, v_t\},

where a row of :math:`A` is a smooth bump a few places ahead on the same ring and a lower one on the next ring, a row
of :math:`B` the same further ahead, and :math:`\pi` a popularity that decays as a power. The last two items therefore
predict most of the next one, popularity alone predicts little, and no target occurs in its own history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_int
from diffusers_rec.data.interactions import Interactions
from diffusers_rec.data.sequences import Holdout, check_history, places_within
from diffusers_rec.data.vocabulary import IndexArray, Vocabulary

FloatArray = npt.NDArray[np.float64]

_LAST, _BEFORE, _POPULARITY = 0.6, 0.3, 0.1
_CHUNK = 2048  # users at a time, which limits the memory of (users, items) tables


@guarded
class SyntheticWorld:
    """Draws interaction logs whose next-item distribution is known in closed form.

    Args:
        num_items: Number of items V, spread evenly over the groups.
        num_groups: Number of rings that the items lie on.
        seed: Seed of the neighbourhoods and the popularity of the items.

    Attributes:
        items: Vocabulary of the raw ids ("item-017"), with indices 0..V-1.
        popularity: Distribution of the first item of a sequence, float64 ``(V,)``.
        groups: Ring of each item, int64 ``(V,)``.

    Raises:
        ValueError: a group has fewer than two items, or a setting is out of range.
        TypeError: a setting is not an integer.
    """

    def __init__(self, num_items: int = 200, *, num_groups: int = 8, seed: int = 0) -> None:
        num_groups = check_int("SyntheticWorld: num_groups", num_groups, minimum=1)
        num_items = check_int("SyntheticWorld: num_items", num_items)
        if num_items < 2 * num_groups:
            raise ValueError(
                f"SyntheticWorld: every group needs two items, got num_items={num_items}, num_groups={num_groups}. "
                f"Use num_items >= {2 * num_groups}."
            )
        generator = np.random.default_rng(check_int("SyntheticWorld: seed", seed, minimum=0))
        place = generator.permutation(num_items)  # an item's index is independent of its place
        self.items = Vocabulary(_ids("item", num_items))
        self.groups: IndexArray = place % num_groups
        self.popularity = _normalized(1 / (10 + generator.permutation(num_items)))
        self._after_last = _transitions(place, num_groups, ahead=1.5)
        self._after_before = _transitions(place, num_groups, ahead=4.0)

    def __repr__(self) -> str:
        return f"SyntheticWorld({len(self.items)} items)"

    def next_item_probabilities(self, histories: Sequence[npt.ArrayLike]) -> FloatArray:
        """The exact distribution of the next item.

        Args:
            histories: Histories as indices of ``items``, oldest first, B of shape ``(L_b,)``; a history may be empty.

        Returns:
            Probabilities, float64 ``(B, V)``, zero for items of the history; rows sum to one.

        Raises:
            ValueError: an index is out of range, or a history contains every item.
            TypeError: an index is not an integer.
        """
        rows = [check_history("SyntheticWorld", history, row) for row, history in enumerate(histories)]
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        flat = np.concatenate([np.zeros(0, np.int64), *rows])
        if flat.size and (flat.min() < 0 or flat.max() >= len(self.items)):
            raise ValueError(
                f"SyntheticWorld: expected item indices in 0..{len(self.items) - 1}, got {flat.min()}..{flat.max()}. "
                f"Use the indices of world.items, not those of a log."
            )
        seen = np.zeros((len(rows), len(self.items)), bool)
        seen[np.repeat(np.arange(len(rows)), lengths), flat] = True
        if seen.all(axis=1).any():
            raise ValueError("SyntheticWorld: a history that contains every item has no next one. Shorten it.")
        recent = np.full((len(rows), 2), -1)
        for column, back in ((0, 1), (1, 2)):
            recent[lengths >= back, column] = flat[(np.cumsum(lengths) - back)[lengths >= back]]
        return _normalized(self._weights(recent[:, 0], recent[:, 1], seen))

    def sample(self, num_users: int, *, min_length: int = 5, max_length: int = 20, seed: int = 0) -> Interactions:
        """Draw a log.

        Args:
            num_users: Number of sequences, of users "user-0001" and so on.
            min_length: Smallest number of items per user.
            max_length: Largest number of items per user; lengths are uniform between the two.
            seed: Seed of the draw; the world stays the same.

        Returns:
            The log; an item's time is its place in the user's sequence.

        Raises:
            ValueError: num_users is below one, or not 1 <= min_length <= max_length <= V.
            TypeError: a setting is not an integer.
        """
        name = "SyntheticWorld.sample"
        num_users = check_int(f"{name}: num_users", num_users, minimum=1)
        max_length = check_int(f"{name}: max_length", max_length, minimum=1, maximum=len(self.items))
        min_length = check_int(f"{name}: min_length", min_length, minimum=1, maximum=max_length)
        generator = np.random.default_rng(check_int(f"{name}: seed", seed, minimum=0))
        lengths = generator.integers(min_length, max_length + 1, num_users)
        uniform = generator.random((num_users, max_length))
        drawn = np.concatenate([self._draw(uniform[at : at + _CHUNK]) for at in range(0, num_users, _CHUNK)])
        items = self.items.decode(drawn[np.arange(max_length) < lengths[:, None]])
        users = np.repeat(np.array(_ids("user", num_users), dtype=object), lengths)
        return Interactions.from_arrays(users, items, places_within(lengths))

    def best_metrics(self, holdout: Holdout, ks: Iterable[int] = (5, 10, 20)) -> dict[str, float]:
        """The best HR@k and NDCG@k that any recommender can expect on these histories.

        The best recommender ranks by the true probabilities. Its expected hit rate is the mass of its first k items,
        its expected NDCG their mass discounted by log2(rank + 1). Items of the world that do not occur in the log
        cannot be recommended. The targets of the holdout are not used.

        Args:
            holdout: Histories from a log of this world, not selected by later items.
            ks: Cut-offs.

        Returns:
            "hr@k" and "ndcg@k" for each k, averaged over the histories.

        Raises:
            ValueError: a cut-off is below one, or an item is not of this world.
            TypeError: a cut-off is not an integer, or ``holdout`` is not a Holdout.
        """
        cutoffs = [check_int("SyntheticWorld.best_metrics: each of ks", k, minimum=1) for k in ks]
        reachable = self.items.encode(holdout.histories.vocabulary.ids)
        histories = [reachable[history] for history in holdout.histories]
        by_rank = np.zeros(len(reachable))
        for at in range(0, len(histories), _CHUNK):
            probabilities = self.next_item_probabilities(histories[at : at + _CHUNK])[:, reachable]
            by_rank += np.sort(probabilities, axis=1)[:, ::-1].sum(axis=0) / len(histories)
        discounted = by_rank / np.log2(np.arange(len(by_rank)) + 2)
        rates = {f"hr@{k}": float(by_rank[:k].sum()) for k in cutoffs}
        return rates | {f"ndcg@{k}": float(discounted[:k].sum()) for k in cutoffs}

    def _weights(self, last: IndexArray, before: IndexArray, seen: npt.NDArray[np.bool_]) -> FloatArray:
        """The mixture, not normalised; an index of -1 (no such item) selects the tables' last row, which is zero."""
        mixture = _LAST * self._after_last[last] + _BEFORE * self._after_before[before] + _POPULARITY * self.popularity
        return np.where(seen, 0.0, mixture)

    def _draw(self, uniform: FloatArray) -> IndexArray:
        """Sequences by inversion of ``uniform``, both ``(U, L)``."""
        rows = np.arange(len(uniform))
        drawn = np.full(uniform.shape, -1)
        seen = np.zeros((len(uniform), len(self.items)), bool)
        last = before = np.full(len(uniform), -1)
        for place in range(uniform.shape[1]):
            mass = np.cumsum(self._weights(last, before, seen), axis=1)
            threshold = np.minimum(uniform[:, place] * mass[:, -1], np.nextafter(mass[:, -1], 0))
            last, before = np.argmax(mass > threshold[:, None], axis=1), last
            drawn[:, place] = last
            seen[rows, last] = True
        return drawn


def _transitions(place: IndexArray, num_groups: int, *, ahead: float) -> FloatArray:
    """Rows of next-item probabilities ``(V + 1, V)``; the last row is zero."""
    group, rank = place % num_groups, place // num_groups
    size = np.bincount(group)[group]
    distance = (rank[None, :] - rank[:, None]) - ahead
    wrapped = np.abs((distance + size / 2) % size - size / 2)
    bump = np.exp(-0.5 * (wrapped / 2.5) ** 2) * (wrapped < 7)
    onto = (group[None, :] - group[:, None]) % num_groups
    table = bump * np.where(onto == 0, 0.75, np.where(onto == 1, 0.25, 0.0))
    np.fill_diagonal(table, 0)
    return np.vstack([_normalized(table), np.zeros(len(place))])


def _normalized(weights: FloatArray) -> FloatArray:
    normalized: FloatArray = weights / weights.sum(axis=-1, keepdims=True)
    return normalized


def _ids(name: str, count: int) -> list[str]:
    width = max(3 if name == "item" else 4, len(str(count - 1)))
    return [f"{name}-{number:0{width}d}" for number in range(count)]
