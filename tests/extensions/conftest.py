"""Components that an example registers exist while its own tests run, not in other modules' tests of all components."""

from __future__ import annotations

import pytest

from diffusers_rec.core import registry

REGISTERED = {}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Keep apart what the import of a module registers."""
    before = {kind: dict(family) for kind, family in registry._FAMILIES.items()}
    report = yield
    if isinstance(collector, pytest.Module):
        REGISTERED[str(collector.path)] = {
            kind: {name: cls for name, cls in family.items() if name not in before.get(kind, {})}
            for kind, family in registry._FAMILIES.items()
        }
        for kind, family in before.items():
            registry._FAMILIES[kind] = family
    return report


@pytest.fixture(scope="module", autouse=True)
def _own_components(request):
    """What the module registered, for as long as its tests run."""
    own = REGISTERED[str(request.path)]
    for kind, family in own.items():
        registry._FAMILIES[kind].update(family)
    yield
    for kind, family in own.items():
        for name in family:
            del registry._FAMILIES[kind][name]
