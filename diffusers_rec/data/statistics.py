"""The size of an interaction log, in the columns of the paper's Table 1."""

from __future__ import annotations

from dataclasses import dataclass, field

from diffusers_rec.core.errors import check_int


@dataclass(frozen=True)
class Statistics:
    """Counts of a log and quantities derived from them.

    Args:
        num_users: Number of users with at least one action.
        num_items: Number of items with at least one action.
        num_actions: Number of interactions, repeats included.

    Attributes:
        average_length: Actions per user.
        sparsity: Fraction of user-item cells without an action, if every action fills a cell of its own (as in Table 1;
            below zero if there are more actions than cells).

    Raises:
        ValueError: a count is below one.
        TypeError: a count is not an integer.
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
