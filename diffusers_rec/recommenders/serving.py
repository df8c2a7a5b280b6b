"""A model in evaluation mode, for one call, without switching anything that another thread may see."""

from __future__ import annotations

from collections import OrderedDict
from types import MethodType
from typing import Any, TypeVar, cast

from torch import nn

from diffusers_rec.core.checkpoint import refuse_nonfinite
from diffusers_rec.core.registry import Component

M = TypeVar("M", bound=nn.Module)
Written = list[object]
"""Where each weight lies, and how often torch has written to it, in turn; in place of the count, an object that equals
no other for an inference tensor, whose writes torch does not count."""


def in_evaluation_mode(model: M) -> M:
    """The model itself where it is in evaluation mode; else a copy that is, and that shares its tensors.

    To switch a model that trains, and back, would switch it under all other threads. The copy has modules of its own
    and every other attribute of the model's, by reference, except those that ``kept_for_serving`` names. Modules that
    an attribute holds in a tuple, a list or a mapping outside the module tree, as a head holds its embedding, are its
    own as well, and so are bound methods.
    """
    return evaluating_copy(model) if any(module.training for module in _modules(model)) else model


def evaluating_copy(model: M) -> M:
    """The copy of :func:`in_evaluation_mode`, also where the model is in evaluation mode."""
    return cast(M, _copy_of(model, {}))


def check_finite(model: nn.Module, known: Written | None) -> Written:
    """Look for weights that are not finite, unless torch has counted no write to any since ``known``.

    Torch does not count what is written to ``weight.data``, nor the steps of fused optimizers.

    Returns:
        The present counts of writes, for the next call: ``known`` itself if it is equal.

    Raises:
        ValueError: weights hold NaN or infinities.
    """
    written: Written = []
    for module in _modules(model):
        for tensors in (module._parameters, module._buffers):
            for tensor in tensors.values():
                if tensor is not None:
                    written += tensor.data_ptr(), object() if tensor.is_inference() else tensor._version
    if known is not None and written == known:
        return known
    refuse_nonfinite(dict(model.named_parameters()), "The model cannot serve")
    return written


def _modules(model: nn.Module) -> list[nn.Module]:
    """The modules of a model, faster than by ``model.modules()``; one that comes twice is given twice."""
    found = [model]
    for module in found:  # grows
        found += [child for child in module._modules.values() if child is not None]
    return found


def _copy_of(module: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    module = getattr(module, "_orig_mod", module)  # what torch.compile has wrapped would call the module itself
    if id(module) not in made:
        clone = made[id(module)] = object.__new__(type(module))
        shared = {"_parameters": module._parameters, "_buffers": module._buffers, "training": False}
        left = {*shared, *getattr(type(module), "kept_for_serving", ())}
        own = {name: _copied(value, made) for name, value in vars(module).items() if name not in left}
        vars(clone).update(own, **shared)
    return made[id(module)]


def _copied(value: Any, made: dict[int, nn.Module]) -> Any:
    """The value, with copies in the place of the modules that it is, holds or is bound to."""
    if isinstance(value, nn.Module):
        return _copy_of(value, made)
    if isinstance(value, MethodType) and isinstance(value.__self__, nn.Module):
        return MethodType(value.__func__, _copy_of(value.__self__, made))
    if isinstance(value, Component) and value.requires:  # a sampler that holds the head
        clone = object.__new__(type(value))
        vars(clone).update((name, _copied(part, made)) for name, part in vars(value).items())
        return clone
    if type(value) in (dict, OrderedDict):
        return type(value)((key, _copied(each, made)) for key, each in value.items())
    if isinstance(value, tuple | list) and any(isinstance(each, nn.Module) for each in value):
        copies = [_copied(each, made) for each in value]
        return type(value)(*copies) if hasattr(value, "_fields") else type(value)(copies)
    return value
