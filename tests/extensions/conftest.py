"""Each file here extends the library as another package would; what it registers is known to that file alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from diffusers_rec.core import registry

Families = dict[str, dict[str, type[registry.Component]]]
FAMILIES = pytest.StashKey[Families]()


def copied() -> Families:
    return {kind: dict(family) for kind, family in registry._FAMILIES.items()}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector):
    before = copied()
    report = yield
    collector.stash[FAMILIES], registry._FAMILIES = registry._FAMILIES, before
    return report


@pytest.fixture(scope="module", autouse=True)
def _own_names(request: pytest.FixtureRequest) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_FAMILIES", request.node.stash[FAMILIES])
        yield
