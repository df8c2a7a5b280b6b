"""What every suite stands on: the clause that is broken, the component that is asked, and the cases to ask about.

A suite is a list of **clauses** and of **cases**. A clause is a plain function that raises :class:`ContractError` where
a case breaks it, so it also serves alone, with cases of one's own (drawn by Hypothesis, say).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffusers_rec.core.registry import Component
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import LinearHead
from diffusers_rec.processes.schedules import SqrtSchedule

SIZES = {"num_items": 7, "dim": 8, "max_length": 9, "num_timesteps": 30, "num_features": 5, "num_attributes": 6}
"""What the pipeline or the data would supply to a constructor that asks for it, small."""

Clause = Callable[..., None]


class ContractError(AssertionError):
    """A component breaks its contract. The message says which clause, what was expected and what came."""


@dataclass(frozen=True)
class Case:
    """What a clause is called with, and words for it.

    Attributes:
        label: for the message.
        given: the clause's arguments, the component first.
    """

    label: str
    given: tuple[Any, ...]


class Maker:
    """Makes components of one class, or by one factory.

    A constructor that names a parameter like ``dim`` or ``embedding`` is supplied with it, as by the pipeline.

    Args:
        family: what must come out.
        make: the class, or a factory.
        settings: constructor parameters that outweigh what is supplied.
        usual: what a factory of ``**kwargs`` is supplied with.

    Attributes:
        name: of what it makes; of the factory, until it has made something.
    """

    def __init__(
        self, family: type[Component], make: Callable[..., Any], settings: Mapping[str, Any], usual: Iterable[str]
    ) -> None:
        if isinstance(make, Component) or not callable(make):
            raise TypeError(
                f"Expected the class of a {family.kind} or a factory, got {make!r}. A suite makes its own components: "
                "pass the class, and its settings beside it."
            )
        self.family, self.make, self.settings = family, make, dict(settings)
        self.parameters = _parameters(make, usual)
        self.name: str = getattr(make, "__name__", type(make).__name__)

    def leaves_open(self, parameter: str) -> bool:
        """Whether the suite may choose this parameter."""
        return parameter in self.parameters and parameter not in self.settings

    def __call__(self, *, dtype: torch.dtype | None = None, **changes: Any) -> Any:
        """A component, at serving time.

        Args:
            dtype: of its weights, and of the parts that it shares.
            changes: constructor parameters that outweigh all others.

        Raises:
            TypeError: what came out is of another family.
            ValueError: the constructor refuses.
        """
        given = {**self.settings, **changes}
        component = self.make(**{**self._supplied(given), **given})
        if not isinstance(component, self.family):
            raise TypeError(f"{self.name} must make a {self.family.__name__}, got {type(component).__name__}.")
        self.name = type(component).__name__
        if isinstance(component, nn.Module):
            component.eval().to(dtype)
        for key in component.requires:
            if isinstance(part := getattr(component, key), nn.Module):
                part.to(dtype)
        return component

    def _supplied(self, given: Mapping[str, Any]) -> dict[str, Any]:
        size = {key: given.get(key, value) for key, value in SIZES.items()}
        parts: dict[str, Callable[[], Any]] = {
            "embedding": lambda: TableEmbedding(size["num_items"], size["dim"], seed=5),
            "head": lambda: LinearHead(size["num_items"], size["dim"]),
            "schedule": lambda: SqrtSchedule(size["num_timesteps"]),
            "features": lambda: {"name": "features", "num_features": size["num_features"]},
        }
        wanted = [name for name in self.parameters if name not in given]
        return {
            **{name: size[name] for name in wanted if name in size},
            **{name: parts[name]() for name in wanted if name in parts},
        }


@dataclass(frozen=True)
class Suite:
    """The contract of one kind.

    Attributes:
        family: its abstract base.
        cases: what to ask of the components that a :class:`Maker` makes.
        clauses: called with each case.
        answers: of a component to one question, the same each time; what holds for all kinds is judged by them.
        usual: what a factory of ``**kwargs`` is supplied with.
    """

    family: type[Component]
    cases: Callable[[Maker], Iterable[Case]]
    clauses: Sequence[Clause]
    answers: Callable[[Any], list[Tensor]]
    usual: tuple[str, ...] = ()


def run(clauses: Iterable[Clause], case: Case, maker: Maker) -> None:
    """Call each clause with a case, and say of what breaks which clause it was and of which component.

    Raises:
        ContractError: the first clause that is broken; a component that fails breaks the clause that asked it.
    """
    for clause in clauses:
        try:
            clause(*case.given)
        except Exception as error:
            said = str(error) if isinstance(error, ContractError) else f"expected an answer, got {error!r}"
            where = f" ({case.label})" if case.label else ""
            raise ContractError(f"{maker.name}{where} breaks {clause.__name__}: {said}") from error


def accepted(maker: Maker, parameter: str, values: Sequence[Any], **changes: Any) -> list[tuple[Any, Any]]:
    """A component for each value of a parameter, without the values that its constructor refuses.

    Raises:
        ContractError: it refuses all of them.
    """
    made, refusal = [], None
    for value in values:
        try:
            made.append((value, maker(**{parameter: value}, **changes)))
        except ValueError as error:
            refusal = error
    if not made:
        raise ContractError(
            f"{maker.name}: expected it to take some {parameter} of {', '.join(map(str, values))}, got {refusal!r}"
        ) from refusal
    return made


def copy_of(component: Component, **changes: Any) -> Any:
    """Built anew from the attributes that hold its constructor's parameters, some of them changed."""
    keys = [*component.settings(), *component.requires]
    return type(component)(**{**{key: getattr(component, key) for key in keys}, **changes})


def expect(holds: object, expected: str, got: object) -> None:
    """Raise a :class:`ContractError` of what was expected and what came, unless it ``holds``."""
    if not holds:
        raise ContractError(f"expected {expected}, got {got}")


def expect_equal(what: str, got: Tensor, expected: Tensor) -> None:
    """Bit for bit."""
    expect_close(what, got, expected, rtol=0, atol=0)


def expect_close(what: str, got: Tensor, expected: Tensor, *, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Equal in shape and precision, and in value up to rounding."""
    for part in ("shape", "dtype"):
        ours, theirs = getattr(got, part), getattr(expected, part)
        expect(ours == theirs, f"{what} of {part} {theirs}", ours)
    far = ~torch.isclose(got, expected, rtol=rtol, atol=atol)
    if bool(far.any()):
        index = tuple(far.nonzero()[0].tolist())
        raise ContractError(
            f"{what}: expected {expected[index].item():.9g} at {index}, got {got[index].item():.9g} "
            f"({int(far.sum())} of {far.numel()} differ)"
        )


def expect_finite(what: str, got: Tensor) -> None:
    """Neither infinite nor NaN."""
    expect(
        got.isfinite().all(), f"{what} to be finite", f"{int((~got.isfinite()).sum())} of {got.numel()} that are not"
    )


def expect_refusal(what: str, call: Callable[[], object], error: type[Exception] = ValueError) -> None:
    """Calling it raises ``error``."""
    try:
        answer = call()
    except error:
        return
    raise ContractError(f"{what}: expected a {error.__name__}, got {answer}")


def expect_finite_gradients(what: str, scalar: Tensor, named: Mapping[str, Tensor]) -> None:
    """Of the scalar, in each of the tensors that has a part in it."""
    for name, gradient in _gradients(scalar, named).items():
        if gradient is not None:
            expect_finite(f"the gradient of {name}{what}", gradient)


def expect_all_learn(scalar: Tensor, named: Mapping[str, Tensor]) -> None:
    """The gradient of the scalar is somewhere not zero in each of the tensors."""
    idle = [name for name, gradient in _gradients(scalar, named).items() if gradient is None or not gradient.any()]
    expect(not idle, "a gradient for everything that learns", f"none for {', '.join(idle)}")


def _gradients(scalar: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    if not named:
        return {}
    expect(scalar.requires_grad, f"an answer with a gradient in {', '.join(named)}", "one without")
    found = torch.autograd.grad(scalar, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def _parameters(make: Callable[..., Any], usual: Iterable[str]) -> set[str]:
    if isinstance(make, type) and issubclass(make, Component):
        return {*make.settings(), *make.requires}
    parameters = inspect.signature(make).parameters
    catch_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    return {*parameters, *(usual if catch_all else ())}
