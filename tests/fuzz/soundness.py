"""Small checks of answers, and the entry of a call in the tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusers_rec import Component, Recommender

Check = Callable[[Any, Mapping[str, Any]], bool]


def finite(result: Any, _: Mapping[str, Any]) -> bool:
    """No number in the answer is NaN or infinite, however deep; a tensor on the meta device has none."""
    leaves = (torch.as_tensor(leaf) for leaf in _numbers(result))
    return all(leaf.is_meta or bool(leaf.to_dense().isfinite().all()) for leaf in leaves)


def _numbers(value: Any) -> Iterator[Any]:
    """The tensors, arrays and floats in a value."""
    if isinstance(value, nn.Module):
        value = value.state_dict()
    elif is_dataclass(value) and not isinstance(value, type):
        value = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from _numbers(part)
    elif isinstance(value, Tensor | float) or (isinstance(value, np.ndarray) and value.dtype.kind in "fc"):
        yield value


def probabilities(result: Any, _: Mapping[str, Any]) -> bool:
    """Every number lies in [0, 1]."""
    parts = [torch.as_tensor(part) for part in (result if isinstance(result, list | tuple) else [result])]
    return all(bool(((part >= 0) & (part <= 1 + 1e-5)).all()) for part in parts)


def component(result: Any, _: Mapping[str, Any]) -> bool:
    """Its config is plain JSON and its weights are finite."""
    json.dumps(result.config(), allow_nan=False)
    return isinstance(result, Component) and finite(result, {})


def serves(result: Any, _: Mapping[str, Any]) -> bool:
    """It gives probabilities that sum to one after a history of its first item."""
    assert isinstance(result, Recommender)
    found = result.predict_proba([[result.vocabulary.ids[0]]])
    return probabilities(found, {}) and bool(((found.sum(1) - 1).abs() < 1e-4).all())


def like(name: str) -> Check:
    """Finite, and of the shape of an argument."""
    return lambda result, given: result.shape == torch.as_tensor(given[name]).shape and finite(result, {})


def of(cls: type | tuple[type, ...]) -> Check:
    """Of a class, and finite."""
    return lambda result, given: isinstance(result, cls) and finite(result, given)


@dataclass(frozen=True)
class Call:
    """A valid call of a public name.

    Attributes:
        function: makes the callable.
        arguments: makes valid arguments.
        check: of an answer, with the arguments given.
        opaque: arguments that are left valid, as the contract is that nobody looks at them.
        arithmetic: numbers that are not finite may give an answer that is not.
        errors: classes of errors that are clear here, too.
    """

    function: Callable[[], Callable[..., Any]]
    arguments: Callable[[], dict[str, Any]]
    check: Check = finite
    opaque: tuple[str, ...] = ()
    arithmetic: bool = False
    errors: tuple[type[Exception], ...] = ()
