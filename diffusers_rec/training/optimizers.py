"""Construction, identity and state of optimizers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from diffusers_rec.core.errors import check_class
from diffusers_rec.training.config import TrainingConfig

_NUMBERS = bool, int, float


class OptimizerFactory(Protocol):
    """Function from the parameters of a model to an optimizer, such as the class :class:`torch.optim.Adagrad`."""

    def __call__(self, parameters: Iterator[nn.Parameter], /) -> Optimizer: ...


def build_optimizer(factory: OptimizerFactory | None, model: nn.Module, config: TrainingConfig) -> Optimizer:
    """Build the optimizer of a model's parameters.

    Args:
        factory: Function that builds the optimizer; AdamW with the learning rate and weight decay of ``config`` if
            None.
        model: Model on its training device.
        config: Settings of the training.

    Raises:
        TypeError: The factory is not a function, or does not return an optimizer.
        ValueError: The optimizer has parameters that are not the model's, a group without learning rate, or a step that
            needs a closure.
    """
    if factory is None:
        return AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    if not callable(factory):
        raise TypeError(
            f"optimizer must be a function from parameters to an optimizer, got {type(factory).__name__}. "
            "Write optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1)."
        )
    optimizer = check_class("optimizer(parameters)", factory(model.parameters()), Optimizer)
    name = type(optimizer).__name__
    own = {id(parameter) for parameter in model.parameters()}
    for number, group in enumerate(optimizer.param_groups):
        if "lr" not in group:
            raise ValueError(
                f"optimizer: group {number} of {name} has no 'lr' for the learning-rate schedule. Set one."
            )
        if any(id(parameter) not in own for parameter in group["params"]):
            raise ValueError(
                f"optimizer: group {number} of {name} holds a parameter that is not the model's and would not be "
                "saved. Make it an attribute of the model."
            )
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise ValueError(f"optimizer: {name} needs a closure at each step, but train() computes each loss once.")
    return optimizer


def optimizer_settings(optimizer: Optimizer, model: nn.Module) -> dict[str, Any]:
    """Identity of an optimizer before its first step, as JSON values: its class and the settings of each group."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = [
        {
            **{key: _plain(value) for key, value in group.items() if key != "params"},
            "params": [names[id(parameter)] for parameter in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    return {"class": _class_name(optimizer), "groups": groups}


def pack_optimizer(optimizer: Optimizer) -> tuple[dict[str, Tensor], str]:
    """Convert the state of an optimizer to tensors and JSON.

    Returns:
        Tensors, named by the number of the parameter and their own name, such as ``"0.exp_avg"``; and JSON with the
        form of each tensor, the numbers of the state and the numbers of the groups.

    Raises:
        ValueError: The state contains other values than tensors, numbers and None, or is not kept by parameter.
    """
    tensors: dict[str, Tensor] = {}
    state: dict[str, dict[str, Any]] = {}
    for number, entries in optimizer.state_dict()["state"].items():
        if not isinstance(number, int) or not isinstance(entries, Mapping):
            raise _cannot_be_saved(optimizer, f"{number!r} in its state is not the number of a parameter")
        packed = state[str(number)] = {}
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{number}.{name}"] = value
                packed[name] = _form(value)
            elif value is None or isinstance(value, _NUMBERS):
                packed[name] = value
            else:
                raise _cannot_be_saved(optimizer, f"{name!r} in its state is a {type(value).__name__}")
    return tensors, json.dumps({"state": state, "groups": _group_numbers(optimizer)})


def unpack_optimizer(tensors: Mapping[str, Tensor], text: str, optimizer: Optimizer) -> dict[str, Any]:
    """Convert a result of :func:`pack_optimizer` to the argument of :func:`restore_optimizer`.

    Args:
        tensors: Tensors by the number of the parameter and their own name.
        text: JSON of the state.
        optimizer: Optimizer that was built like the saved one; it is not changed.

    Raises:
        ValueError: The state does not fit the optimizer.
    """
    saved = json.loads(text)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    forms: dict[str, Any] = {}
    state: dict[int, dict[str, Any]] = {}
    for number, entries in saved["state"].items():
        if not 0 <= int(number) < count:
            raise ValueError(f"the optimizer has no parameter {number}")
        state[int(number)] = {}
        for name, value in entries.items():
            if isinstance(value, list):
                forms[f"{number}.{name}"] = value
                state[int(number)][name] = tensors.get(f"{number}.{name}")
            elif value is None or isinstance(value, _NUMBERS):
                state[int(number)][name] = value
            else:
                raise ValueError(f"{name!r} in the optimizer's state is neither a tensor nor a number")
    if {name: _form(tensor) for name, tensor in tensors.items()} != forms:
        raise ValueError("the tensors of the optimizer's state are not those that were saved")
    return {"state": state, "param_groups": _with_numbers(optimizer, saved["groups"])}


def restore_optimizer(optimizer: Optimizer, unpacked: dict[str, Any]) -> None:
    """Restore the state that :func:`unpack_optimizer` returned, in the saved dtypes."""
    optimizer.load_state_dict(unpacked)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, entries in unpacked["state"].items():
        loaded = optimizer.state[parameters[number]]
        for name, value in entries.items():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:  # PyTorch casts it
                loaded[name] = value.to(loaded[name].device, copy=True)


def _group_numbers(optimizer: Optimizer) -> list[dict[str, Any]]:
    """Numbers of each group, which some optimizers adapt."""
    return [
        {key: value for key, value in group.items() if isinstance(value, _NUMBERS)} for group in optimizer.param_groups
    ]


def _with_numbers(optimizer: Optimizer, saved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Groups of the state dict of ``optimizer``, with saved numbers."""
    forms = [[{key: type(value) for key, value in group.items()} for group in groups]
             for groups in (saved, _group_numbers(optimizer))]  # fmt: skip
    if forms[0] != forms[1]:
        raise ValueError("the groups of the optimizer are not those that were saved")
    groups = optimizer.state_dict()["param_groups"]
    return [{**group, **numbers} for group, numbers in zip(groups, saved, strict=True)]


def _form(tensor: Tensor) -> list[Any]:
    return [str(tensor.dtype), list(tensor.shape)]


def _plain(value: Any) -> Any:
    """A setting as a JSON value; the name of its class for an object."""
    if value is None or isinstance(value, (*_NUMBERS, str)):
        return value
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, tuple | list):
        return [_plain(each) for each in value]
    return _class_name(value)


def _class_name(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _cannot_be_saved(optimizer: Optimizer, why: str) -> ValueError:
    return ValueError(
        f"The state of {type(optimizer).__name__} cannot be saved: {why}. Train with directory=None, or with an "
        "optimizer whose state consists of tensors and numbers for each parameter."
    )
