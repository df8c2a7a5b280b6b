"""Checks give back what they were given, or say what was expected and what came."""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import typing
import warnings
from collections.abc import Callable, Iterable
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import diffusers_rec
from diffusers_rec import LinearHead
from diffusers_rec.core import entrances
from diffusers_rec.core.entrances import checked, explained
from diffusers_rec.core.errors import (
    check_bool,
    check_choice,
    check_class,
    check_float,
    check_int,
    check_path,
    require_extra,
    warn_caller,
)

finite = st.floats(allow_nan=False, allow_infinity=False)


@given(value=st.integers(-(2**63), 2**63 - 1), minimum=st.integers())
def test_an_integer_passes_exactly_when_it_reaches_the_minimum(value, minimum):
    if value >= minimum:
        assert check_int("k", value, minimum=minimum) == value
    else:
        with pytest.raises(ValueError, match=rf"k must be an integer >= {minimum}, got {value}"):
            check_int("k", value, minimum=minimum)


def test_an_integer_above_the_maximum_is_refused():
    assert check_int("k", 3, minimum=1, maximum=3) == 3
    with pytest.raises(ValueError, match="k must be an integer >= 1 and <= 3, got 4"):
        check_int("k", 4, minimum=1, maximum=3)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), np.array(3)])
def test_a_numpy_integer_becomes_a_python_one(value):
    assert type(check_int("k", value)) is int


@pytest.mark.parametrize("value", [True, 3.0, "3", None, [3]])
def test_what_merely_looks_like_an_integer_is_a_type_error_that_names_its_type(value):
    with pytest.raises(TypeError, match=rf"k must be an integer, got .*{type(value).__name__}"):
        check_int("k", value)


@given(value=finite, above=finite, minimum=finite, maximum=finite)
def test_a_float_passes_exactly_when_it_lies_within_all_bounds(value, above, minimum, maximum):
    bounds = {"above": above, "minimum": minimum, "maximum": maximum}
    if value > above and minimum <= value <= maximum:
        assert check_float("rate", value, **bounds) == value
    else:
        with pytest.raises(
            ValueError, match=r"rate must be a finite number above .* and at least .* and at most .*, got"
        ):
            check_float("rate", value, **bounds)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_float_is_finite(value):
    with pytest.raises(ValueError, match="rate must be a finite number, got"):
        check_float("rate", value)


@pytest.mark.parametrize("value", ["0.1", True, None, [0.1], 1j])
def test_what_merely_looks_like_a_float_is_a_type_error(value):
    with pytest.raises(TypeError, match="rate must be a finite number, got"):
        check_float("rate", value)


@pytest.mark.parametrize("value", [1, np.int64(1), np.float32(1)])
def test_any_real_number_becomes_a_python_float(value):
    assert type(check_float("rate", value)) is float


def test_a_choice_outside_the_list_is_told_the_list():
    assert check_choice("mode", "sum", ("sum", "mean")) == "sum"
    with pytest.raises(ValueError, match="mode must be one of 'sum', 'mean', got 'median'"):
        check_choice("mode", "median", ("sum", "mean"))


@pytest.mark.parametrize("value", [0, 1, "false", None])
def test_only_true_and_false_are_booleans(value):
    assert check_bool("flag", True) is True
    assert check_bool("flag", False) is False
    with pytest.raises(TypeError, match="flag must be True or False, got"):
        check_bool("flag", value)


def test_an_extra_that_is_there_is_imported():
    assert require_extra("json.decoder", "none").JSONDecoder


@pytest.mark.parametrize("module", ["surely_not_installed", "surely_not_installed.part"])
def test_a_missing_extra_names_the_line_that_installs_it(module):
    with pytest.raises(ImportError, match=r"needs surely_not_installed.*pip install 'diffusers-rec\[plot\]'"):
        require_extra(module, "plot")


@pytest.mark.parametrize("missing", ["surely_not_installed", "half", "halfway_not_there"])
def test_an_installed_extra_with_a_broken_dependency_keeps_its_own_error(missing, tmp_path, monkeypatch):
    (tmp_path / "halfway.py").write_text(f"import {missing}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=f"No module named '{missing}'"):
        require_extra("halfway", "plot")


class Tea:
    made_by = "kettle.boil()"

    @checked
    def __init__(self, leaves: str = "green"):
        self.leaves = leaves


@checked
def serve(
    tea: Tea,
    place: str | PathLike[str] | None = None,
    cups: int = 1,
    after: Callable[[], None] | None = None,
    *,
    names: Iterable[str] = (),
    sugar: Any = None,
):
    return tea


def test_arguments_of_the_annotated_class_pass():
    tea = Tea()
    assert serve(tea) is tea
    assert serve(tea=tea, place=Path("here"), cups=np.int64(2), names={"a": 1}, sugar=3) is tea


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("coffee",), r"serve: tea must be Tea, got str\. Use kettle\.boil\(\)\."),
        ((Tea(), "here", 2, "sugar"), "serve: after must be Callable or None, got str"),
    ],
)
def test_an_argument_of_another_class_is_refused_by_name(arguments, message):
    with pytest.raises(TypeError, match=message):
        serve(*arguments)


def test_a_constructor_is_called_by_its_class():
    with pytest.raises(TypeError, match=r"^Tea: leaves must be str, got int\.$"):
        Tea(5)


def test_a_value_of_the_class_comes_back():
    tea = Tea()
    assert check_class("tea", tea, Tea, str) is tea
    with pytest.raises(TypeError, match=r"^tea must be Tea or None, got int\. Use kettle\.boil\(\)\.$"):
        check_class("tea", 5, Tea, type(None))


@pytest.mark.parametrize("value", [2**63, -(2**64), 10**5000], ids=["2**63", "-2**64", "10**5000"])
def test_an_integer_beyond_64_bits_is_refused(value):
    with pytest.raises(ValueError, match="k must be an integer >= 1 of 64 bits, got "):
        check_int("k", value, minimum=1)


@pytest.mark.parametrize("value", [np.zeros(2), torch.zeros(2), int, b"1", object(), [1.0]])
def test_what_is_no_number_is_a_type_error_whatever_it_is(value):
    for check in (check_float, check_int):
        with pytest.raises(TypeError, match=r"rate must be an? (finite number|integer), got"):
            check("rate", value)
    with pytest.raises(ValueError, match="rate must be one of 'a', None, got"):
        check_choice("rate", value, ("a", None))


def test_a_number_too_large_for_a_float_is_refused():
    with pytest.raises(ValueError, match="rate must be a finite number, got"):
        check_float("rate", 10**400)


@explained
def mix(x: torch.Tensor, weight: torch.Tensor, share: float = 0.5):
    if share > 1:
        raise RuntimeError("on purpose")
    return (x @ weight) * share


def test_where_a_computation_fails_the_error_says_what_came():
    x = torch.ones(2, 3)
    assert torch.equal(mix(x, x.T), x @ x.T / 2)
    assert torch.equal(mix(x, weight=x.T, share=torch.tensor(0.5)), x @ x.T / 2)
    with pytest.raises(ValueError, match=r"ItemHead.logits: the arguments do not fit .*Got latent \(2, 3\) of float32"):
        LinearHead(4, 5).logits(x)
    with pytest.raises(TypeError, match="mix: weight must be Tensor, got list"):
        mix(x, [1.0])


def test_an_error_that_somebody_raises_on_purpose_is_left_as_it_is():
    with pytest.raises(RuntimeError, match="on purpose"):
        mix(torch.ones(2, 3), torch.ones(3, 2), 2.0)


def test_an_empty_path_is_refused_and_the_working_folder_named():
    assert check_path("out", "here") == Path("here")
    with pytest.raises(ValueError, match=r"out must be a path, got ''.*'\.'"):
        check_path("out", "")
    with pytest.raises(TypeError, match="out must be a path, got 3"):
        check_path("out", 3)


def test_a_warning_names_the_line_that_called_the_library():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_caller("look here")
    assert caught[0].filename == __file__


def guarded_functions():
    """Every function of the package behind an entrance."""
    for info in pkgutil.walk_packages(diffusers_rec.__path__, "diffusers_rec."):
        if info.name.endswith("__main__"):
            continue
        try:
            module = importlib.import_module(info.name)
        except ImportError as error:
            if "pip install 'diffusers-rec[" not in str(error):
                raise
            continue  # a bridge to a library that is not installed
        for owner in (module, *(member for member in vars(module).values() if isinstance(member, type))):
            for member in vars(owner).values():
                function = getattr(member, "__func__", member)
                if inspect.isfunction(function) and function.__code__.co_filename == entrances.__file__:
                    yield function


def test_the_annotations_behind_every_entrance_can_be_resolved():
    functions = list(guarded_functions())
    assert len(functions) > 150
    for function in functions:
        typing.get_type_hints(inspect.unwrap(function))


def test_memory_that_ran_out_is_not_the_arguments_fault():
    @explained
    def fill(x: torch.Tensor):
        return torch.empty(2**50) + x

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        fill(torch.ones(1))
