"""A model in evaluation mode, for one call, without switching anything that another thread may see."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, cast

from torch import nn

from diffusers_rec.checkpoint import refuse_nonfinite

M = TypeVar("M", bound=nn.Module)
Written = list[tuple[int, int]]
"""Where each weight lies, and how often torch has written to it."""


def in_evaluation_mode(model: M) -> M:
    """The model itself where it is in evaluation mode; else a twin that is, and that shares its tensors.

    To switch a model that trains, and back, would switch it under all other threads. The twin has modules of its own
    and every other attribute of the model's, by reference. Modules that are held in a tuple or a list outside the
    module tree, as a head holds its embedding, are its own as well.
    """
    if not any(module.training for module in _modules(model)):
        return model
    return cast(M, _twin(model, {}))


def check_finite(model: nn.Module, known: Written | None) -> Written:
    """Look for weights that are not finite, unless nothing has written to them since ``known``.

    Returns:
        What tells whether anything is written later.

    Raises:
        ValueError: weights hold NaN or infinities.
    """
    weights = [weight for module in _modules(model) for weight in module._parameters.values() if weight is not None]
    written = [(weight.data_ptr(), 0 if weight.is_inference() else weight._version) for weight in weights]
    if written != known:
        refuse_nonfinite(dict(model.named_parameters()), "The model cannot serve")
    return written


def _modules(model: nn.Module) -> Iterator[nn.Module]:
    """As ``model.modules()``, which takes three times as long; a module that comes twice is given twice."""
    waiting = [model]
    while waiting:
        module = waiting.pop()
        yield module
        waiting += [child for child in module._modules.values() if child is not None]


def _twin(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    module = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped would call the module itself
    if id(module) not in made:
        twin = made[id(module)] = object.__new__(type(module))
        own = vars(module).items()
        held = {name: _held(value, made) for name, value in own if isinstance(value, tuple | list)}
        children = {name: child if child is None else _twin(child, made) for name, child in module._modules.items()}
        vars(twin).update({**vars(module), **held, "_modules": children, "training": False})
    return made[id(module)]


def _held(values: Any, made: dict[int, nn.Module]) -> Any:
    if not any(isinstance(value, nn.Module) for value in values):
        return values
    return type(values)(_twin(value, made) if isinstance(value, nn.Module) else value for value in values)
