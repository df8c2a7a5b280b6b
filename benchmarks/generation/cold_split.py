"""A split without the cold items, and test cases of cold and warm items.

A tenth of the items is cold, drawn among those with attributes. Training, validation and histories contain no action
with them. A cold case is the first cold item among the last K of a user, a warm case the first warm one; the history
contains all warm items before it. Targets that the history contains are passed over.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.generation.setting import split_of
from benchmarks.generation.steering import tags_of
from diffusers_rec import AttributeBags, Holdout, Sequences, Split, Vocabulary, attribute_bags
from diffusers_rec.data.vocabulary import IndexArray


@dataclass(frozen=True)
class ColdSplit:
    """W warm and N cold items.

    Attributes:
        split: Split of the warm items.
        cold: Cold cases, in the vocabulary of the warm items followed by the cold ones.
        warm: Warm cases, in the same vocabulary.
        bags: Attributes of the warm items.
        new: Attributes of the cold items.
    """

    split: Split
    cold: Holdout
    warm: Holdout
    bags: AttributeBags
    new: AttributeBags

    @property
    def counts(self) -> Tensor:
        """Numbers of actions of the warm items in training, ``(W,)``."""
        return torch.from_numpy(np.bincount(self.split.train.items, minlength=len(self.bags)))

    @property
    def new_items(self) -> tuple[object, ...]:
        """Ids of the cold items."""
        return tuple(self.cold.histories.vocabulary.ids[len(self.bags) :])


def cold_split_of(options: argparse.Namespace) -> ColdSplit:
    """The data of the options without a tenth of the items; without a third in a quick run."""
    split = split_of(options)
    tags = tags_of(split.train.vocabulary, options)
    tagged = np.flatnonzero([len(own) > 0 for own in tags])
    share = 1 / 3 if options.quick else 0.1
    cold = np.random.default_rng(options.seed).choice(tagged, round(share * len(tagged)), replace=False)
    order = np.concatenate([np.setdiff1d(np.arange(len(tags)), cold), np.sort(cold)])
    ids, tags, count = (
        split.train.vocabulary.decode(order),
        [sorted(tags[item]) for item in order],
        len(tags) - len(cold),
    )
    everything, warm = Vocabulary(ids), Vocabulary(ids[:count])
    parts = (part.reindexed(everything) for part in (split.train, split.validation.following, split.test.following))
    bags, ask = attribute_bags(warm, tags[:count]), partial(cases, split.test.reindexed(everything), count)
    return ColdSplit(
        split=Split.of(*(only_warm(part, warm) for part in parts)),
        cold=ask(cold=True),
        warm=ask(cold=False),
        bags=bags,
        new=attribute_bags(ids[count:], tags[count:], known=bags.attributes, unknown="drop"),
    )


def cases(test: Holdout, count: int, *, cold: bool) -> Holdout:
    """The first cold, or warm, item of each user's last K; ``count`` items are warm, and come first."""
    users, histories, targets = [], [], []
    for user, history, following in zip(test.histories.users.ids, test.histories, test.following, strict=True):
        places = np.flatnonzero(((following >= count) == cold) & ~np.isin(following, history))
        if places.size:
            before = np.concatenate([history, following[: places[0]]])
            users.append(user)
            histories.append(before[before < count])
            targets.append(following[places[:1]])
    one_each = partial(joined, users=Vocabulary(users), vocabulary=test.histories.vocabulary)
    return Holdout.of(one_each(histories), one_each(targets))


def only_warm(sequences: Sequences, warm: Vocabulary) -> Sequences:
    """The actions with warm items, in the vocabulary of those."""
    rows = [items[items < len(warm)] for items in sequences]
    return joined(rows, sequences.users, warm)


def joined(rows: list[IndexArray], users: Vocabulary, vocabulary: Vocabulary) -> Sequences:
    """Sequences of one array of items a user."""
    return Sequences(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), users, vocabulary)
