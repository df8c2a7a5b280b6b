"""The size of an interaction log, in the columns of the paper's Table 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusers_rec.core.errors import check_int


@dataclass(frozen=True)
class Statistics:
    """Counts of a log and what follows from them.

    Args:
        num_users: users with at least one action.
        num_items: items with at least one action.
        num_actions: interactions, repeats counted.

    Attributes:
        average_length: actions per user.
        sparsity: fraction in [0, 1] of user-item cells without an action, every action filling one cell (as in Table 1;
            below zero where repeats outnumber the cells).

    Raises:
        ValueError: a count below one.
        TypeError: a count that is not an integer.
    """

    num_users: int
    num_items: int
    num_actions: int
    average_length: float = field(init=False)
    sparsity: float = field(init=False)

    def __post_init__(self) -> None:
        for name in ("num_users", "num_items", "num_actions"):
            check_int(f"Statistics: {name}", getattr(self, name))
        if min(self.num_users, self.num_items, self.num_actions) < 1:
            raise ValueError(
                f"Statistics: expected at least one user, item and action, got {self.num_users}, {self.num_items} "
                f"and {self.num_actions}. An empty log has no statistics."
            )
        object.__setattr__(self, "average_length", self.num_actions / self.num_users)
        object.__setattr__(self, "sparsity", 1 - self.num_actions / (self.num_users * self.num_items))

    def __str__(self) -> str:
        cells = {
            "#users": f"{self.num_users:,}",
            "#items": f"{self.num_items:,}",
            "#actions": f"{self.num_actions:,}",
            "avg.length": f"{self.average_length:.1f}",
            "sparsity": f"{self.sparsity:.2%}",
        }
        width = {name: max(len(name), len(cell)) for name, cell in cells.items()}
        header = "  ".join(name.rjust(width[name]) for name in cells)
        return header + "\n" + "  ".join(cell.rjust(width[name]) for name, cell in cells.items())
