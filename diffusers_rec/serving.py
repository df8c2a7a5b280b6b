"""A model in evaluation mode, for one call, without switching anything that another thread may see."""

from __future__ import annotations

from typing import Any, TypeVar, cast

from torch import nn

M = TypeVar("M", bound=nn.Module)


def in_evaluation_mode(model: M) -> M:
    """The model itself where it is in evaluation mode; else a twin that is, and that shares its tensors.

    To switch a model that trains, and back, would switch it under all other threads. The twin has modules of its own
    and every other attribute of the model's, by reference. Modules that are held in a tuple or a list outside the
    module tree, as a head holds its embedding, are its own as well.
    """
    if not any(module.training for module in model.modules()):
        return model
    return cast(M, _twin(model, {}))


def _twin(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    module = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped would call the module itself
    if id(module) not in made:
        twin = made[id(module)] = object.__new__(type(module))
        own = vars(module).items()
        held = {name: _held(value, made) for name, value in own if isinstance(value, tuple | list)}
        children = {name: child and _twin(child, made) for name, child in module._modules.items()}
        vars(twin).update({**vars(module), **held, "_modules": children, "training": False})
    return made[id(module)]


def _held(values: Any, made: dict[int, nn.Module]) -> Any:
    if not any(isinstance(value, nn.Module) for value in values):
        return values
    return type(values)(_twin(value, made) if isinstance(value, nn.Module) else value for value in values)
