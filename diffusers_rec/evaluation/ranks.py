"""The rank of every held-out item, user by user: what metrics, data frames and tests of significance are made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, require_extra
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.evaluation.metrics import metric_by_user
from diffusers_rec.recommenders.ranking import UNRANKED


@guarded
@dataclass(frozen=True, eq=False)
class UserRanks:
    """Ranks of the held-out items of U users, 1 the best; an item that a user took twice counts once.

    Attributes:
        items: The held-out items, one sequence a user. Users come in the order in which they were ranked.
        excluding_seen: Rank of each item with the items of the user's history left out, int64 ``(n,)``; an item that is
            itself in the history has a rank beyond every cut-off.
        including_seen: Rank of each item among all items, int64 ``(n,)``.
    """

    made_by: ClassVar[str] = "evaluate(...).ranks"

    items: Sequences
    excluding_seen: Tensor
    including_seen: Tensor

    def __len__(self) -> int:
        return len(self.items)

    def by_user(self, metric: str, *, exclude_seen: bool = True) -> Tensor:
        """One metric for every user, float64 ``(U,)``, in the order of ``items.users``.

        Args:
            metric: Name such as ``"recall@10"``, see :func:`metric_by_user`.
            exclude_seen: Whether the items of the user's history are left out of the ranking.

        Raises:
            ValueError: another name.
        """
        ranks = self.excluding_seen if check_bool("exclude_seen", exclude_seen) else self.including_seen
        return metric_by_user(metric, ranks, self._rows())

    def metrics(self, names: Iterable[str], *, exclude_seen: bool = True) -> dict[str, float]:
        """Means over the users.

        Args:
            names: Names such as ``["mrr", "recall@10"]``, see :func:`metric_by_user`.
            exclude_seen: Whether the items of the user's history are left out of the ranking.

        Raises:
            ValueError: another name.
        """
        check_bool("exclude_seen", exclude_seen)
        if isinstance(names, str):
            raise TypeError(
                f"UserRanks.metrics: names must be a list of metrics, got {names!r}. One alone is [{names!r}]."
            )
        return {name: float(self.by_user(name, exclude_seen=exclude_seen).mean()) for name in names}

    def to_frame(self, backend: str = "polars") -> Any:
        """A data frame with a row for each held-out item.

        Args:
            backend: Library of the frame: ``"polars"``, ``"pandas"`` or ``"pyarrow"``.

        Returns:
            Columns ``user``, ``item``, ``rank_excluding_seen`` and ``rank_including_seen``. The first of the ranks is
            missing for an item of the user's history.

        Raises:
            ImportError: narwhals or the library is missing (extra ``data``).
            ValueError: another library.
        """
        check_choice("backend", backend, ("polars", "pandas", "pyarrow"))
        nw = require_extra("narwhals", "data")
        columns = {
            "user": self.items.users.decode(self._rows().numpy()),
            "item": self.items.vocabulary.decode(self.items.items),
            "rank_excluding_seen": [None if rank == UNRANKED else rank for rank in self.excluding_seen.tolist()],
            "rank_including_seen": self.including_seen.tolist(),
        }
        return nw.from_dict(columns, backend=backend).to_native()

    def _rows(self) -> Tensor:
        """The row of each item's user, ``(n,)``."""
        return torch.from_numpy(np.repeat(np.arange(len(self.items)), self.items.lengths))
