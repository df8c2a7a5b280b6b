"""Views of the histories of a batch, which an objective declares and the pipeline encodes.

A row of the batch gives one history: the items that its queries see. A view is another history that should have a
similar state:

===============  =============================================================================================
view             history that is encoded
===============  =============================================================================================
``dropout``      the history itself, encoded once more; two states of it differ by dropout alone
``crop``         consecutive items of the history; see :mod:`diffusers_rec.data.augment`
``mask``         the history with hidden items, in whose place a learned vector is encoded
``reorder``      the history with consecutive items in another order
``augmented``    ``crop``, ``mask`` or ``reorder``, drawn for each row; several such views of a row differ in kind
``same-target``  the history of another training example with the same next item, drawn uniformly
===============  =============================================================================================
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.guidance import unwrapped

VIEWS = "dropout", "crop", "mask", "reorder", "augmented", "same-target"

HIDING = "mask", "augmented"
"""Views that may hide items."""


@dataclass(frozen=True, eq=False)
class Views:
    """States of the declared views of R histories.

    Args:
        states: States of each view by name, ``(R, D)`` each; as many as the objective declares of a name.
        items: Next item of each history, ``(R,)``.
    """

    states: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    items: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))

    made_by: ClassVar[str] = "Views({'dropout': (states, other_states)}, items)"

    def of(self, names: tuple[str, ...]) -> list[Tensor]:
        """States in the order of the names; a name that is repeated gives the next of its views.

        Raises:
            ValueError: There are not as many views of a name.
        """
        found = []
        for place, name in enumerate(names):
            number, known = names[:place].count(name), self.states.get(name, ())
            if number >= len(known):
                raise ValueError(
                    f"This step has {len(known)} views {name!r}. Declare {names!r} in the objective's views."
                )
            found.append(known[number])
        return found


def joint_views(declared: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    """Views that are enough for each of several declarations."""
    most: Counter[str] = Counter()
    for names in declared:
        most |= Counter(names)
    return tuple(most.elements())


def check_views(objective: Any, model: Any) -> None:
    """Check the declaration of an objective, and that the model encodes histories and hides items, where it must.

    Raises:
        ValueError: A view is unknown, the denoiser has no encoder, or the model has no vector for hidden items.
    """
    if not set(objective.views) <= set(VIEWS):
        raise ValueError(
            f"{type(objective).__name__}: views must be of {', '.join(VIEWS)}, got {objective.views!r}. "
            "Declare them as a tuple, such as ('dropout', 'dropout')."
        )
    denoiser = unwrapped(model.denoiser)
    if objective.views and not isinstance(getattr(denoiser, "encoder", None), HistoryEncoder):
        raise ValueError(
            f"The parts do not fit: the objective {objective.registered_name!r} compares states of the history, but "
            f"the denoiser {denoiser.registered_name!r} has no history encoder. Use a denoiser with the setting "
            "'encoder', such as denoiser='plain' or denoiser='conditional-mlp'."
        )
    if set(HIDING) & set(objective.views) and model.masked_item is None:
        raise ValueError(
            "The objective has views that hide items, but the model was built with one that has none. Use "
            "model.replace(objective=...)."
        )
