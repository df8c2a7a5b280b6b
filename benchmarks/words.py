"""Names of rows in the CSVs, in the words that pictures and pages show."""

from __future__ import annotations

import csv
from pathlib import Path

TABLE = Path(__file__).with_name("words.csv")

with TABLE.open(newline="", encoding="utf-8") as file:
    WORDS = {row["name"]: row["words"] for row in csv.DictReader(file)}


def words(name: str) -> str:
    """A name in words. A name is one or several phrases, separated by commas."""
    return ", ".join(WORDS.get(phrase, phrase) for phrase in name.split(", "))
