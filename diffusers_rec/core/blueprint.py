"""What a config would build, found out without building it: on the meta device, and no further than a file reaches.

A config from a file may name a billion layers. Built on the meta device, a model has names, shapes and dtypes, but
holds no numbers. The building ends where it takes more calls of torch than an honest model of the file's tensors does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)

MOST_CALLS = 100_000
"""Calls of torch on the meta device, besides as many as :data:`CALLS_PER_TENSOR` allows."""

CALLS_PER_TENSOR = 1000
"""The models of this library take some seven calls of torch a tensor."""
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def check_weights(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], optional: tuple[str, ...]) -> None:
    """Whether weights are those of the model that ``build`` makes.

    A floating-point tensor may have any of the four common precisions, any other tensor has the model's own dtype.

    Args:
        build: Builds the model.
        weights: Name to tensor.
        optional: Prefixes of names that older files lack.

    Raises:
        ValueError: names, shapes or dtypes differ, or the model is far larger than the weights.
    """
    try:
        with torch.device("meta"), _Calls(MOST_CALLS + CALLS_PER_TENSOR * len(weights)):
            expected = build().state_dict()
    except Exception as error:
        if "meta" in f"{error} {error.__cause__}":
            return  # a part that reads its own numbers while it is built has none on the meta device
        raise
    compare(weights, expected, optional)


def compare(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], optional: tuple[str, ...] = ()) -> None:
    """As :func:`check_weights`, with the tensors of a model that there is."""
    missing = (name for name in set(expected) - set(weights) if not name.startswith(optional))
    wrong = [f"{name} is not in the model" for name in sorted(set(weights) - set(expected))]
    wrong += [f"{name} is missing" for name in sorted(missing)]
    wrong = wrong or [
        f"{name} {_difference(weights[name], tensor)}"
        for name, tensor in expected.items()
        if name in weights and not _alike(weights[name], tensor)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"the weights do not fit the model: {', '.join(wrong[:5])}{more}")


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and (one.dtype == other.dtype or {one.dtype, other.dtype} <= _FLOATS)


def _difference(got: Tensor, expected: Tensor) -> str:
    if got.shape != expected.shape:
        return f"{tuple(got.shape)} instead of {tuple(expected.shape)}"
    return f"{got.dtype} instead of {expected.dtype}"


class _Calls(TorchFunctionMode):
    """Allows so many calls of torch that give tensors on the meta device, in this thread."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.left = most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        self.left -= isinstance(made, Tensor) and made.is_meta
        if self.left < 0:
            raise ValueError("it describes a far larger model than the weights are of")
        return made
