"""The glue on the page is as short as the page says."""

from __future__ import annotations

import re

import pytest
from page import BLOCKS, PAGE, glue

LIMIT = 8
LONGER = {"A denoiser in RecBole's SASRec"}
CLASSES = [title for title, code in BLOCKS.items() if re.search("^class ", code, re.MULTILINE)]


@pytest.mark.parametrize("title", CLASSES)
def test_a_bridge_takes_at_most_eight_lines(title):
    assert (glue(title) <= LIMIT) is (title not in LONGER)


@pytest.mark.parametrize("name", ["RecBole", "RecTools", "Lightning", "transformers"])
def test_the_page_counts_them(name):
    (said,) = re.findall(rf"^\| {name} \|.*\[([\d, and]+) lines?\]", PAGE, re.MULTILINE)
    assert [int(number) for number in re.findall(r"\d+", said)] == [
        glue(title) for title in CLASSES if f" in {name}" in title
    ]
