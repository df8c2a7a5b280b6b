"""Calls of a recommender for users in turn, whose errors name the user."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int, shown
from diffusers_rec.core.registry import Component
from diffusers_rec.data.histories import UserHistory
from diffusers_rec.guidance import Guidance
from diffusers_rec.recommenders.base import Empty, Recommender, Unknown, table_columns
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.recommenders.requests import Requests
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds
from diffusers_rec.version import __version__

BATCHES_A_PART = 16
"""Batches of users that are held, answered and written together."""


@dataclass(frozen=True)
class UserCall:
    """A call of :meth:`Recommender.recommend` for users in turn."""

    model: Recommender
    k: int | None
    candidates: list[Any] | None
    exclude: list[Any] | None
    exclude_seen: bool
    unknown: Unknown
    empty: Empty
    seeds: Seeds | None
    sampler: SamplerChoice | None
    guidance: Guidance
    batch_size: int

    def __post_init__(self) -> None:
        check_int("batch_size", self.batch_size, minimum=1)
        if self.k is not None:
            check_int("k", self.k, minimum=1)

    @property
    def users_at_once(self) -> int:
        return self.batch_size * BATCHES_A_PART

    @property
    def has_numbers(self) -> bool:
        """Whether all ids of items are integers of 64 bits; otherwise their texts make one column."""
        return all(type(raw) is int and -(2**63) <= raw < 2**63 for raw in self.model.vocabulary.ids)

    def job(self, source: str) -> str:
        """Digest of everything that the answers depend on."""
        digest = hashlib.sha256(f"{__version__} {source} {self.model.vocabulary.ids!r}".encode())
        configs = [part.config() for part in self.model.modules() if isinstance(part, Pretrained)]
        options = {name: value for name, value in vars(self).items() if name != "model"}
        digest.update(json.dumps([configs, options, BATCHES_A_PART], sort_keys=True, default=_plain).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def check(self, users: Sequence[UserHistory]) -> int:
        """The number of users, whose histories and lists are such as the call allows."""
        with _naming(users):
            Requests.of(
                self.model.vocabulary, drop=self.unknown == "drop", may_be_empty=self.empty == "popularity",
                **self._asked(users),
            )  # fmt: skip
        return len(users)

    def columns(self, users: Sequence[UserHistory]) -> dict[str, list[Any]]:
        """The rows of some users."""
        with _naming(users):
            found = self.model.recommend(
                k=self._most(users), exclude_seen=self.exclude_seen, unknown=self.unknown, empty=self.empty,
                seeds=self.seeds, sampler=self.sampler, guidance=self.guidance, batch_size=self.batch_size,
                **self._asked(users),
            )  # fmt: skip
        if len({type(raw) for raw in self.model.vocabulary.ids}) > 1:
            found = replace(found, items=[list(map(str, row)) for row in found.items])
        return table_columns([each.user for each in users], found)

    def _asked(self, users: Sequence[UserHistory]) -> dict[str, Any]:
        lists = {"candidates": self.candidates, "exclude": self.exclude}
        for name in lists:
            if getattr(users[0], name) is not None:
                lists[name] = [getattr(each, name) for each in users]
        times = None if users[0].times is None else [each.times for each in users]
        return {"histories": [each.items for each in users], "times": times, **lists}

    def _most(self, users: Sequence[UserHistory]) -> int | None:
        """k, or the most candidates that any of the users has."""
        if self.k is None or users[0].candidates is None:
            return self.k
        known = self.model.vocabulary
        return min(self.k, max(len({raw for raw in each.candidates or () if raw in known}) for each in users)) or None


def _plain(value: Any) -> Any:
    """What stands for an option in JSON."""
    if isinstance(value, Component):
        return value.config()
    return value.tolist() if isinstance(value, Tensor | np.ndarray | np.generic) else repr(value)


@contextmanager
def _naming(users: Sequence[UserHistory]) -> Iterator[None]:
    """Errors that name the user instead of a place in the list."""
    try:
        yield
    except (TypeError, ValueError) as error:
        place = re.search(r"\b(histories|candidates|exclude|times)\[(\d+)\]", str(error))
        if place is None:
            raise
        role = {"histories": "history"}.get(place[1], place[1])
        named = f"the {role} of user {shown(users[int(place[2])].user)}"
        raise type(error)(str(error).replace(place[0], named)) from error
