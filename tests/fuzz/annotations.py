"""What an annotation forbids: a value of another kind must not be taken without a word, however sound the answer."""

from __future__ import annotations

import inspect
import operator
import types
from collections.abc import Callable
from typing import Any, Union, get_args, get_origin, get_type_hints

PACKAGE = "diffusers_rec."


def forbidden(function: Callable[..., Any], argument: str, value: Any) -> bool:
    """Whether a value is of a kind that the argument's annotation names nowhere.

    Truth values, integers, text and the library's own classes are judged; numbers, tensors and collections, which may
    be converted, are not.
    """
    callee = function.__init__ if inspect.isclass(function) else function
    callee = callee if inspect.isroutine(callee) else type(function).__call__
    try:
        hint = get_type_hints(callee).get(argument)
    except NameError:  # a name that is there for type checkers alone
        return False
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return all(_forbids(part, value) for part in parts)


def _forbids(hint: Any, value: Any) -> bool:
    if hint is bool:
        return not isinstance(value, bool)
    if hint is int:
        return isinstance(value, bool) or not _is_whole(value)
    if hint in (str, types.NoneType) or str(getattr(hint, "__module__", "")).startswith(PACKAGE):
        return isinstance(hint, type) and not isinstance(value, hint)
    return False


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return True
