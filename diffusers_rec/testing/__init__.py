"""Contract checks for components of any kind, with or without pytest.

Your own component is checked in one line::

    from diffusers_rec.testing import check_component


    def test_my_schedule():
        check_component(MySchedule)  # or check_component(MySchedule, offset=0.1), or a factory

The check builds small components, supplies the parameters that the pipeline would supply, and raises a
:class:`ContractError` with the violated clause, the expected and the actual value. A clause is a function in the module
of its kind. ``waive`` skips clauses that a component violates on purpose::

    check_component(Ablation, waive=["each_step_matters"])
"""

from collections.abc import Callable, Collection
from typing import Any

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.testing.all_kinds import check
from diffusers_rec.testing.component import SUITES, check_component
from diffusers_rec.testing.contract import ContractError

__all__ = ["ContractError", "check_component"]


def __getattr__(name: str) -> Callable[..., None]:
    """Deprecated checks of one kind, such as ``check_schedule``."""
    kind = name.removeprefix("check_")
    if kind == name or kind not in SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warn_deprecated(f"{__name__}.{name}", f"{__name__}.check_component")

    def check_kind(make: Callable[..., Any], /, *, waive: Collection[str] = (), **settings: Any) -> None:
        check(SUITES[kind], make, waive, settings)

    return check_kind
