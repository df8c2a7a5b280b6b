"""A property that is computed once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")


class lazy(Generic[T]):
    """:class:`functools.cached_property` without a lock, which stores nothing while torch traces.

    Args:
        function: Method that computes the value.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: type[Any]) -> T:
        if instance is None:
            raise AttributeError(f"{owner.__name__}.{self.function.__name__} is a property of its objects.")
        if torch.compiler.is_compiling():
            return self.function(instance)
        value = vars(instance)[self.function.__name__] = self.function(instance)  # read instead of this from now on
        return value
