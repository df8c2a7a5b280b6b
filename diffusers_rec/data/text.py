"""Text files: the fields of each line, from files, pipes and gzip archives, and the log that they form."""

from __future__ import annotations

import codecs
import csv
import gzip
import zlib
from array import array
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import repeat
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from diffusers_rec.data.interactions import Interactions
from diffusers_rec.data.times import TimeArray
from diffusers_rec.data.vocabulary import FirstSeen, Vocabulary


def lines(path: Path, separator: str | None) -> Iterator[tuple[int, list[str]]]:
    """Numbers, from 1, and fields of the lines that are not blank.

    Args:
        path: Path of a file or a pipe, as for :func:`opened`.
        separator: Text between two fields; any white space if None. White space around a field is dropped.
    """
    with opened(path) as file:
        for number, line in enumerate(file, 1):
            if separator is None and not line.isspace():
                yield number, line.split()
            elif separator is not None and (not line.isspace() or separator in line):
                yield number, [field.strip() for field in line.split(separator)]


def table(path: Path, separator: str, quote: str) -> Iterator[list[str]]:
    """Rows of equal width, the header first; blank lines are left out.

    Args:
        path: Path of a file or a pipe, as for :func:`opened`.
        separator: Character between two fields.
        quote: Character around a field that contains separators, line ends or (doubled) quotes; none if empty.

    Raises:
        ValueError: no header, a row of another width, or unmatched quotes; the message has the line, from 1.
    """
    with opened(path) as file:
        quoting: dict[str, Any] = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
        rows = csv.reader(file, delimiter=separator, strict=True, **quoting)
        width, before = 0, 0  # fields of the header; lines before the row
        try:
            for row in rows:
                if len(row) > 1 or "".join(row).strip():
                    width = width or len(row)
                    if len(row) != width:
                        raise ValueError(
                            f"{path}, line {before + 1}: expected rows of equal width, {width} fields as in the "
                            f"header, got {len(row)}. Check the line, or pass separator= and quote=."
                        )
                    yield row
                before = rows.line_num
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {before + 1}: expected complete fields between quotes (quote={quote!r}), but {error}. "
                f"Pass quote='' if quotes are part of the text."
            ) from None
        if not width:
            raise ValueError(f"{path}: expected a header and at least one row, but the file is empty.")


@contextmanager
def opened(path: Path) -> Iterator[TextIO]:
    """The text of a file or a pipe, in UTF-8; gzip is recognised by its first bytes.

    Raises:
        ValueError: text of another encoding, or a damaged archive, on opening or while it is read.
    """
    with path.open("rb") as file:
        compressed = file.peek(2).startswith(b"\x1f\x8b")
        try:
            yield TextIOWrapper(gzip.GzipFile(fileobj=file) if compressed else file, encoding="utf-8-sig", newline="")
        except UnicodeDecodeError as error:
            utf16 = error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
            found, name = ("the byte order mark of UTF-16", "UTF-16") if utf16 else (str(error), "ENCODING")
            raise ValueError(
                f"{path}: expected text in UTF-8, got {found}. Convert it: iconv -f {name} -t UTF-8 {path.name}."
            ) from None
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(
                f"{path}: expected a complete gzip archive, but {error}. Download or compress it again."
            ) from None


class TextLog:
    """Interactions of the lines or rows of a text file, with ids numbered by first appearance.

    Args:
        path: Name of the file, for errors.
        unit: Unit that is counted, "line" or "row", for errors.
        missing: Texts that are refused as ids.
    """

    def __init__(self, path: Path, unit: str, missing: frozenset[str]) -> None:
        self.path, self.unit, self.missing = path, unit, missing
        self.users, self.items = array("q"), array("q")
        self.user_index, self.item_index = FirstSeen(), FirstSeen()

    def add(self, number: int, user: str, items: list[str]) -> None:
        """Add the items of one line or row."""
        known = len(self.user_index) + len(self.item_index)
        self.users.extend(repeat(self.user_index[user], len(items)))
        self.items.extend(map(self.item_index.__getitem__, items))
        if len(self.user_index) + len(self.item_index) > known:
            self._check(number, user, items)

    def interactions(self, times: TimeArray) -> Interactions:
        """The log, with ids as int if that loses nothing."""
        if not self.users:
            raise ValueError(f"{self.path}: expected at least one interaction, but the file is empty.")
        users, items = np.array(self.users, np.int64), np.array(self.items, np.int64)
        return Interactions(users, items, times, _vocabulary(self.user_index), _vocabulary(self.item_index))

    def _check(self, number: int, user: str, items: list[str]) -> None:
        for name, text in (("user", user), *(("item", item) for item in items)):
            if text.strip() in self.missing:
                problem = (
                    f"is {text!r}, which means missing. Drop it, or pass missing=() if it is an id."
                    if text.strip()
                    else "is empty. Expected an id between any two separators, and at both ends."
                )
                raise ValueError(f"{self.path}: the {name} in {self.unit} {number}, counted from 1, {problem}")


def _vocabulary(ids: Iterable[Hashable]) -> Vocabulary:
    texts = list(map(str, ids))
    try:
        numbers = list(map(int, texts))
    except ValueError:
        return Vocabulary(texts)
    return Vocabulary(numbers if list(map(str, numbers)) == texts else texts)
