"""Check a config against the weights of a file before the model is built.

A config from a file may describe a billion layers. The model is therefore built on the meta device first, where tensors
have names, shapes and dtypes but no values. Building stops when it needs many more calls of torch than a model with the
number of tensors in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from diffusers_rec.core.checkpoint import refuse_nonfinite

T = TypeVar("T")

MOST_CALLS = 100_000
"""Calls of torch on the meta device that every file may use, plus :data:`CALLS_PER_TENSOR` for each tensor."""

CALLS_PER_TENSOR = 1000
"""The models of this library need about seven calls of torch for each tensor."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def check_weights(build: Callable[[], Any], weights: Mapping[str, Tensor], optional: tuple[str, ...]) -> None:
    """Reject weights that do not match the state dict of what ``build`` returns.

    A floating-point tensor may have any of the four common precisions. Any other tensor must have the model's dtype.

    Args:
        build: Function that builds the model or the part.
        weights: Weights by name.
        optional: Prefixes of names that older files lack.

    Raises:
        ValueError: Names, shapes or dtypes differ, or the model is far larger than the weights.
    """
    try:
        with torch.device("meta"), _Calls(MOST_CALLS + CALLS_PER_TENSOR * len(weights)):
            expected = state_of(build())
    except Exception as error:
        if "meta" in f"{error} {error.__cause__}":
            return  # a part reads values while it is built, which the meta device does not have
        raise
    compare(weights, expected, optional)


def built_with(build: Callable[[], T], weights: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> T:
    """What ``build`` returns, with the weights of a file; a module is in evaluation mode.

    Args:
        build: Function that builds a model or a part.
        weights: Weights by name, kept in their precision.
        optional: Prefixes of names that older files lack.

    Raises:
        ValueError: The weights do not match, or are not finite.
    """
    check_weights(build, weights, optional)
    refuse_nonfinite(weights, "The weights cannot be used")
    built = build()
    if isinstance(built, nn.Module):
        built.load_state_dict(weights, assign=True)
        built.eval()
    elif weights:  # of a part that learns without being a module
        built.load_state_dict(weights)  # type: ignore[attr-defined]
    return built


def state_of(part: Any) -> dict[str, Tensor]:
    """The state dict of a model or a part; empty for a part that learns nothing."""
    return part.state_dict() if hasattr(part, "state_dict") else {}


def compare(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> None:
    """As :func:`check_weights`, with the tensors of an existing model."""
    missing = (name for name in set(expected) - set(weights) if not name.startswith(optional))
    wrong = [f"{name} is not in the model" for name in sorted(set(weights) - set(expected))]
    wrong += [f"{name} is missing" for name in sorted(missing)]
    wrong = wrong or [
        f"{name} {_difference(weights[name], tensor)}"
        for name, tensor in expected.items()
        if name in weights and not _same_kind(weights[name], tensor)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the weights do not fit the model: {', '.join(wrong[:5])}{more}")


def _same_kind(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.dtype == other.dtype or {one.dtype, other.dtype} <= _FLOATS)


def _difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"{tuple(got.shape)} instead of {tuple(expected.shape)}"
    return f"{got.dtype} instead of {expected.dtype}"


class _Calls(TorchFunctionMode):
    """Limits the calls of torch that return tensors on the meta device, in this thread."""

    def __init__(self, maximum: int) -> None:
        super().__init__()
        self.remaining = maximum

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.remaining -= isinstance(result, Tensor) and result.is_meta
        if self.remaining < 0:
            raise ValueError("it describes a far larger model than that of the weights")
        return result
