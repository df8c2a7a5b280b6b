"""Logs and trained models for the tests of the command line."""

from __future__ import annotations

import pytest

from diffusers_rec import SyntheticWorld

from .command import SMALL, good


@pytest.fixture(scope="session")
def logs(tmp_path_factory):
    """One log as a table with ids of letters and as sequences with ids of digits; users of one item; items not here."""
    folder = tmp_path_factory.mktemp("logs")
    log = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=12)
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    rows = [f"{user},{item},{time}" for user, item, time in zip(users, items, log.times.tolist(), strict=True)]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    (folder / "renamed.csv").write_text("\n".join(["who,what,when", *rows]) + "\n")
    (folder / "short.csv").write_text("\n".join(["user,item,time", *rows, f"one,{items[0]},0"]) + "\n")
    (folder / "untimed.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    (folder / "ragged.csv").write_text("user,item,time\nu,a,1\nu,b,2,3,4\n")
    (folder / "gap.csv").write_text("user,item,time\nu,a,1\nu,,2\n")
    sequences = [f"{user} {' '.join(map(str, row + 100))}" for user, row in enumerate(log.sequences())]
    (folder / "log.txt").write_text("\n".join(sequences) + "\n")
    (folder / "broken.txt").write_text("1 2 3\n4\n")
    (folder / "single.txt").write_text("1 5\n2 6\n")
    for name in ("empty.csv", "empty.txt", "log.xyz"):
        (folder / name).touch()
    return folder


@pytest.fixture(scope="session")
def models(logs, tmp_path_factory):
    """A model of each log."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("csv", "txt"):
        good("train", logs / f"log.{kind}", "--out", folder / kind, *SMALL, "--quiet")
    return folder
