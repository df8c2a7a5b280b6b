"""Progress bars, from tqdm, on request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from diffusers_rec.core.errors import require_extra

T = TypeVar("T")


def progress_bar(iterable: Iterable[T], *, show: bool, total: int | None = None, text: str = "") -> Iterator[T]:
    """Iterate over ``iterable``, with a bar if ``show``.

    Raises:
        ImportError: ``show`` is set and tqdm, of the extra ``train``, is not installed.
    """
    if show:
        iterable = require_extra("tqdm.auto", "train").tqdm(iterable, total=total, desc=text, leave=False)
    return iter(iterable)


@contextmanager
def counted(total: int | None, done: int, unit: str, *, show: bool) -> Iterator[Callable[[int], object]]:
    """A function that adds to the count of a bar, of which ``done`` are done already; it does nothing without ``show``.

    The length of the bar is not known if ``total`` is None.

    Raises:
        ImportError: ``show`` is set and tqdm, of the extra ``train``, is not installed.
    """
    if not show:
        yield lambda count: None
        return
    with require_extra("tqdm.auto", "train").tqdm(total=total, initial=done, unit=f" {unit}", leave=False) as bar:
        yield bar.update
