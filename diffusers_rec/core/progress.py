"""Progress bars, from tqdm, only when asked for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from diffusers_rec.core.errors import require_extra

T = TypeVar("T")


def progress_bar(iterable: Iterable[T], *, show: bool, total: int | None = None, text: str = "") -> Iterator[T]:
    """Go through ``iterable`` with a bar, or without one.

    Raises:
        ImportError: ``show`` without tqdm, from the extra ``train``.
    """
    if show:
        iterable = require_extra("tqdm.auto", "train").tqdm(iterable, total=total, desc=text, leave=False)
    return iter(iterable)
