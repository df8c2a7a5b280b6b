"""Clauses of all kinds: a registered name, a complete config, and random numbers from seeds only."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from diffusers_rec.core.registry import Component
from diffusers_rec.testing.contract import SIZES, Case, Maker, Suite, expect, expect_equal, run
from diffusers_rec.testing.inputs import global_state_from, global_states, moved_states, perturbed


def check(
    suite: Suite, make: Callable[..., Any], waive: Collection[str] = (), settings: Mapping[str, Any] | None = None
) -> None:
    """Run the clauses of all kinds and of the suite, except waived ones.

    Raises:
        ContractError: A clause is violated; only the first one is reported.
        ValueError: A waived name is not a clause.
    """
    common, own = ([clause for clause in part if clause.__name__ not in waive] for part in (CLAUSES, suite.clauses))
    known = {clause.__name__ for clause in (*CLAUSES, *suite.clauses)}
    if unknown := sorted({waive} if isinstance(waive, str) else set(waive) - known):
        raise ValueError(f"waive must hold names of clauses, got {unknown}. Known: {', '.join(sorted(known))}.")
    maker = Maker(suite.family, make, settings or {})
    run(common, Case("", (suite, maker)), maker)
    for case in suite.cases(maker):
        run(own, case, maker)


def can_be_constructed(suite: Suite, maker: Maker) -> None:
    """The component can be built from the parts that the pipeline supplies and the given settings."""
    maker()


def has_a_registered_name(suite: Suite, maker: Maker) -> None:
    """The family finds the class by its name."""
    cls = type(maker())
    declare = f"class {cls.__name__}({suite.family.__name__}, name=...)"
    expect(cls.registered_name is not None, f"a registered name, as in `{declare}`", "none")
    found = suite.family.named(str(cls.registered_name))
    expect(found is cls, f"{cls} under the name {cls.registered_name!r}", found)


def config_round_trips(suite: Suite, maker: Maker) -> None:
    """A config survives JSON, with the given settings and with each number and flag changed."""
    if type(maker()).registered_name is not None:
        for given in _variants(maker):
            expect_config_round_trip(suite, maker(**given), {**maker.settings, **given})


def keeps_its_settings(suite: Suite, maker: Maker) -> None:
    """Each constructor parameter is an attribute of the same name, as the registry requires."""
    component = maker()
    for key in [*component.settings(), *component.requires]:
        expect(hasattr(component, key), f"an attribute {key!r} that holds the constructor's parameter", "none")


def can_be_called(suite: Suite, maker: Maker) -> None:
    """The component can be called with inputs of its kind."""
    suite.outputs(maker())


def leaves_the_global_random_state_alone(suite: Suite, maker: Maker) -> None:
    """Neither the constructor nor a call changes the state of Python, NumPy or torch."""
    with global_state_from(1):
        before = global_states()
        component = maker()
        moved = moved_states(before)
        expect(not moved, "a constructor that draws from its seed alone", f"one that moves the state of {moved}")
        suite.outputs(component)
        moved = moved_states(before)
        expect(not moved, "random numbers from the given generator alone", f"some that move the state of {moved}")


def the_same_seed_gives_the_same_bits(suite: Suite, maker: Maker) -> None:
    """The same seeds give the same outputs, for any global random state."""
    found = []
    for state in (1, 2):
        with global_state_from(state):
            component = maker()
            found += [suite.outputs(component), suite.outputs(component)]
    for again in found[1:]:
        _expect_same("an output for the same input and seed", again, found[0])


def another_seed_gives_other_weights(suite: Suite, maker: Maker) -> None:
    """If the constructor has a seed, another seed gives other weights."""
    if maker.leaves_open("seed"):
        ours, theirs = ([p.detach() for p in _weights(maker(seed=seed))] for seed in (3, 4))
        same = all(bool((one == other).all()) for one, other in zip(ours, theirs, strict=True))
        expect(not ours or not same, "initial weights that depend on the seed", "the same from two seeds")


def state_dict_round_trips(suite: Suite, maker: Maker) -> None:
    """A new component that loads the state dict gives the same outputs, bit for bit."""
    component = maker()
    if isinstance(component, nn.Module):
        state = perturbed(component).state_dict()
        fresh = maker()
        fresh.load_state_dict(state)
        _expect_same("an output after loading the state", suite.outputs(fresh), suite.outputs(component))


CLAUSES = (
    can_be_constructed,
    has_a_registered_name,
    can_be_called,
    leaves_the_global_random_state_alone,
    the_same_seed_gives_the_same_bits,
    keeps_its_settings,
    config_round_trips,
    another_seed_gives_other_weights,
    state_dict_round_trips,
)


def expect_config_round_trip(suite: Suite, component: Component, given: Mapping[str, Any]) -> None:
    """Require that a config contains the ``given`` settings, and builds an equal component from JSON."""
    config = json.loads(json.dumps(component.config()))
    plain = json.loads(json.dumps({key: value for key, value in given.items() if _is_plain(value)}))
    for key in set(component.settings()) & set(plain):
        if isinstance(getattr(component, key), Component):
            continue  # given by its name
        expect(config.get(key) == plain[key], f"{key} = {plain[key]!r} in the config", config.get(key))
    again = suite.family.build(config, **{key: getattr(component, key) for key in component.requires})
    expect(type(again) is type(component), f"a {type(component)} from its config", type(again))
    expect(again.config() == component.config(), f"the config {component.config()} again", again.config())
    for each in (component, again):
        if isinstance(each, nn.Module):
            each.eval()
    _expect_same("an output of the component built from the config", suite.outputs(again), suite.outputs(component))


def changed_settings(make: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Default and another value of each numeric or boolean setting."""
    defaults = {name: each.default for name, each in inspect.signature(make).parameters.items()}
    return {
        name: (default, changed)
        for name, default in defaults.items()
        if name not in SIZES and (changed := _changed(default)) is not None
    }


def _changed(default: object) -> Any:
    if isinstance(default, bool):
        return not default
    if isinstance(default, int):
        return default + 2 if default <= 10 else 24
    if isinstance(default, float):
        return default / 2 or 0.25
    return None


def _variants(maker: Maker) -> Iterator[dict[str, Any]]:
    yield {}
    for name, (_, changed) in changed_settings(maker.make).items():
        if maker.leaves_open(name):
            try:
                maker(**{name: changed})
            except ValueError:
                continue  # the value may not fit the other settings
            yield {name: changed}


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))


def _weights(component: Any) -> list[Tensor]:
    return list(component.parameters()) if isinstance(component, nn.Module) else []


def _expect_same(what: str, got: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(got, expected, strict=True):
        expect_equal(what, one, other)
