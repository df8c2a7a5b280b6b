"""Evaluation of BERT4Rec, for which a whole window is one query: it sees all that is known, on either side of a gap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffusers_rec import DiffRec, Holdout
from diffusers_rec.evaluation.joint import GapReport, report_of_gaps
from diffusers_rec.recommenders.generating import Blanks


def gap_in_window(
    model: DiffRec, test: Holdout, place: int, known: Sequence[int], *, exclude_seen: bool, batch_size: int = 256
) -> GapReport:
    """As :func:`~diffusers_rec.evaluation.evaluate_gap`, of a model whose queries are windows behind their first item.

    Args:
        model: The model ``bert4rec``.
        test: Histories and what followed.
        place: Place of the gap among the items that followed.
        known: Places of the items that are given.
        exclude_seen: Whether the items of the history and those given are left out of the distribution.
        batch_size: Users at once.
    """
    last = max([place, *known])
    shown = [item in known for item in range(last + 1)]
    windows, targets = [], []
    for user in range(len(test)):
        after = test.following[user][: last + 1]
        targets.append(after[place])
        windows.append(np.concatenate([test.histories[user], np.where(shown, after, -1)])[-model.max_length :])
    blanks = Blanks([window[:1] for window in windows], [window[1:] for window in windows])
    places = [len(window) - 1 - (last - place) for window in blanks.windows]
    seen = [np.concatenate([own, window[window >= 0]]) for own, window in zip(test.histories, windows, strict=True)]
    return report_of_gaps(model, blanks, places, np.array(targets), seen if exclude_seen else None, batch_size)
