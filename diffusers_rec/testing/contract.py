"""The basis of all suites: clauses, their cases, and the error of a violated clause.

A clause is a function that raises :class:`ContractError` if a case violates it. It can also be called directly, for
example with cases that Hypothesis draws.
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
"""Sizes that are supplied to constructors."""

Clause = Callable[..., None]


class ContractError(AssertionError):
    """A component violates its contract. The message names the clause, the expected and the actual value."""


@dataclass(frozen=True)
class Case:
    """Arguments of a clause.

    Attributes:
        label: Description of the case, for the message.
        arguments: Arguments, the component first.
    """

    label: str
    arguments: tuple[Any, ...]


class Maker:
    """Builds components of one class or by one factory.

    Constructor parameters with the names in :data:`SIZES`, and ``embedding``, ``head``, ``schedule`` and ``base``, are
    supplied as by the pipeline.

    Args:
        family: Base class of the components.
        make: Class or factory.
        settings: Constructor parameters, which take precedence over supplied ones.

    Attributes:
        name: Name of the class, or of the factory until it has built a component.
    """

    def __init__(self, family: type[Component], make: Callable[..., Any], settings: Mapping[str, Any]) -> None:
        self.family, self.make, self.settings = family, make, dict(settings)
        self.parameters = _parameters(make)
        self.name: str = getattr(make, "__name__", type(make).__name__)

    def leaves_open(self, parameter: str) -> bool:
        """Whether the suite may choose this parameter."""
        return parameter in self.parameters and parameter not in self.settings

    def __call__(self, *, dtype: torch.dtype | None = None, **changes: Any) -> Any:
        """Build a component in evaluation mode.

        Args:
            dtype: Dtype of the weights and of shared parts.
            changes: Constructor parameters, which take precedence over all others.

        Raises:
            TypeError: The component belongs to another family.
            ValueError: The constructor rejects the parameters.
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
            **({"values": lambda: [0.9, 0.5, 0.2]} if getattr(self.family, "kind", "") == "schedule" else {}),
            "base": lambda: "conditional-mlp",
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
        family: Abstract base class of the kind.
        cases: Function from a :class:`Maker` to the cases of its components.
        clauses: Clauses, which are called with each case.
        outputs: Function from a component to its outputs for fixed inputs, which the clauses of all kinds compare.
    """

    family: type[Component]
    cases: Callable[[Maker], Iterable[Case]]
    clauses: Sequence[Clause]
    outputs: Callable[[Any], list[Tensor]]


def run(clauses: Iterable[Clause], case: Case, maker: Maker) -> None:
    """Call each clause with a case.

    Raises:
        ContractError: A clause is violated, or the component raised an error; only the first one is reported.
    """
    for clause in clauses:
        try:
            clause(*case.arguments)
        except Exception as error:
            found = str(error) if isinstance(error, ContractError) else f"expected a result, got {error!r}"
            where = f" ({case.label})" if case.label else ""
            raise ContractError(f"{maker.name}{where} breaks {clause.__name__}: {found}") from error


def accepted(maker: Maker, parameter: str, values: Sequence[Any], **changes: Any) -> list[tuple[Any, Any]]:
    """Build a component for each value of a parameter that its constructor accepts.

    Raises:
        ContractError: The constructor accepts none of the values.
    """
    made, refusal = [], None
    for value in values:
        try:
            made.append((value, maker(**{parameter: value}, **changes)))
        except ValueError as error:
            refusal = error
    if not made:
        raise ContractError(
            f"{maker.name}: expected it to accept some {parameter} of {', '.join(map(str, values))}, got {refusal!r}"
        ) from refusal
    return made


def copy_of(component: Component, **changes: Any) -> Any:
    """Build a component with the same constructor parameters, except for some changes."""
    keys = [*component.settings(), *component.requires]
    return type(component)(**{**{key: getattr(component, key) for key in keys}, **changes})


def expect(holds: object, expected: str, got: object) -> None:
    """Raise a :class:`ContractError` unless ``holds`` is true."""
    if not holds:
        raise ContractError(f"expected {expected}, got {got}")


def expect_equal(what: str, got: Tensor, expected: Tensor) -> None:
    """Require equality bit for bit."""
    expect_close(what, got, expected, rtol=0, atol=0)


def expect_close(what: str, got: Tensor, expected: Tensor, *, rtol: float = 1e-9, atol: float = 1e-10) -> None:
    """Require equal shape and dtype, and equal values up to rounding."""
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
    """Require values that are neither infinite nor NaN."""
    expect(
        got.isfinite().all(), f"{what} to be finite", f"{int((~got.isfinite()).sum())} of {got.numel()} that are not"
    )


def expect_refusal(what: str, call: Callable[[], object], error: type[Exception] = ValueError) -> None:
    """Require that the call raises ``error``."""
    try:
        result = call()
    except error:
        return
    raise ContractError(f"{what}: expected a {error.__name__}, got {result}")


def expect_finite_gradients(what: str, scalar: Tensor, named: Mapping[str, Tensor]) -> None:
    """Require finite gradients of the scalar with respect to the tensors that it depends on."""
    for name, gradient in _gradients(scalar, named).items():
        if gradient is not None:
            expect_finite(f"the gradient of {name}{what}", gradient)


def expect_all_learn(scalar: Tensor, named: Mapping[str, Tensor]) -> None:
    """Require that the gradient with respect to each tensor is not zero everywhere."""
    idle = [name for name, gradient in _gradients(scalar, named).items() if gradient is None or not gradient.any()]
    expect(not idle, "a gradient for everything that learns", f"none for {', '.join(idle)}")


def _gradients(scalar: Tensor, named: Mapping[str, Tensor]) -> dict[str, Tensor | None]:
    if not named:
        return {}
    expect(scalar.requires_grad, f"a result with a gradient in {', '.join(named)}", "one without")
    found = torch.autograd.grad(scalar, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


def _parameters(make: Callable[..., Any]) -> set[str]:
    if isinstance(make, type) and issubclass(make, Component):
        return {*make.settings(), *make.requires}
    return set(inspect.signature(make).parameters)
