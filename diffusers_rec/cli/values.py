"""Parsing of the values of options."""

from __future__ import annotations

import json
from typing import Any

from diffusers_rec.cli.errors import naming_options
from diffusers_rec.data import Vocabulary
from diffusers_rec.recommenders.generating import GAP

GAP_MARK = "?"
"""A gap in a sequence of ids."""

MAX_SHOWN = 200
"""Maximum number of characters of a text in an error."""


def drop_none(**values: Any) -> dict[str, Any]:
    """Options that were given, by name."""
    return {name: value for name, value in values.items() if value is not None}


def parse_value(option: str, text: str) -> Any:
    """Parse a JSON text; return the text unchanged if it does not look like JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith(("{", "[", '"')):
            shown = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
            raise ValueError(
                f'{option}: {shown} is not valid JSON ({error}). A valid value is, for example, {{"name": "ddim"}}.'
            ) from None
        return text


def parse_ids(option: str, text: str, vocabulary: Vocabulary, *, strict: bool) -> list[int | str]:
    """Parse item ids from a JSON list or a text with commas; integers are ints if the vocabulary has ints."""
    listed = _json_list(option, text)
    if listed is not None:
        return listed
    ids = [_parse_id(option, text, token.strip(), vocabulary) for token in text.split(",")]
    if len(ids) > 1 and strict:
        with naming_options(f"""{option} '["salt, fine"]', a JSON list, for ids with commas"""):
            vocabulary.encode(ids)
    return ids


def parse_sequence(option: str, text: str, vocabulary: Vocabulary) -> list[Any]:
    """Parse item ids and gaps: ``?`` between commas, or null in a JSON list. An item whose id is ``?`` needs JSON."""
    listed = _json_list(option, text, gaps=True)
    if listed is not None:
        return [GAP if each is None else each for each in listed]
    tokens = [token.strip() for token in text.split(",")]
    return [GAP if token == GAP_MARK else _parse_id(option, text, token, vocabulary) for token in tokens]


def _parse_id(option: str, text: str, token: str, vocabulary: Vocabulary) -> int | str:
    """One id of a text with commas."""
    if not token and token not in vocabulary:
        raise ValueError(f"{option} {text!r} contains an empty item id. Give one or more ids, separated by commas.")
    number = int(token) if token.removeprefix("-").isdecimal() else None
    return number if number is not None and token not in vocabulary and number in vocabulary else token


def _json_list(option: str, text: str, *, gaps: bool = False) -> list[Any] | None:
    """Parse the ids of a JSON list; None for any other text, including other texts that start with a bracket."""
    try:
        ids = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return None
    if ids is not None and not all(
        isinstance(each, str) or type(each) is int or (gaps and each is None) for each in ids
    ):
        also = ", or null for a gap" if gaps else ""
        raise ValueError(f"{option} {text}: expected a JSON list of ids, each a text or a whole number{also}.")
    return ids


def parse_choice(
    candidates: str | None, exclude: str | None, vocabulary: Vocabulary, *, strict: bool
) -> tuple[list[int | str] | None, list[int | str] | None]:
    """The ids of ``--candidates`` and ``--exclude``; None for an option that is not given."""
    options = ("--candidates", candidates), ("--exclude", exclude)
    among, without = (
        None if text is None else parse_ids(option, text, vocabulary, strict=strict) for option, text in options
    )
    return among, without
