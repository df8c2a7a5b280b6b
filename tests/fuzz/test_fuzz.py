"""Every campaign passes for a few seconds, and the table of calls is whole."""

from __future__ import annotations

import pytest

from .__main__ import CAMPAIGNS
from .harness import run
from .table import CALLS, EXEMPT, public_names
from .world import write_files

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_campaign_finds_nothing(name):
    failed = [trial for trial in run(CAMPAIGNS[name], seed=0, seconds=5) if trial.failed]
    assert not failed, "\n".join(f"{name} {each.number}: {each.mutation}: {each.detail}" for each in failed[:20])


def test_every_public_name_is_called_or_exempt():
    assert set(public_names()) <= set(CALLS) | set(EXEMPT)
    assert not set(CALLS) & set(EXEMPT)


def test_no_exemption_outlives_its_name():
    assert set(EXEMPT) <= set(public_names())


@pytest.mark.parametrize("name", CALLS)
def test_the_valid_call_is_sound(name, tmp_path, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = CALLS[name].arguments()
    assert CALLS[name].check(CALLS[name].function()(**given), given)
