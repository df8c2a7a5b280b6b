"""The same model with parts changed."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from diffusers_rec.core.randomness import weight_seed
from diffusers_rec.core.registry import Component, Config, unknown_name
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.guidance import Guide, unwrapped

_SIZES = "num_items", "dim", "max_length"
"""Settings that parts have from the model."""


def replaced(model: Any, parts: Mapping[str, type[Component]], changes: Mapping[str, Any]) -> Any:
    """See :meth:`DiffRec.replace <diffusers_rec.DiffRec.replace>`.

    Args:
        model: A :class:`~diffusers_rec.DiffRec`, left as it is.
        parts: Kinds of its parts, by name.
        changes: Parts, sizes and seeds to change.
    """
    known = {*parts, "dim", "max_length", "seeds", "seed"}
    for key in changes:
        if key not in known:
            hint = " An encoder belongs to the denoiser: denoiser={'encoder': ...}." if key == "encoder" else ""
            raise ValueError(unknown_name("part of DiffRec", key, known) + hint)
    config = model.config()
    settings = {name: _without_sizes(name, config[name], model.seed) for name in parts}
    settings |= {name: _changed(settings[name], changes[name], parts[name]) for name in parts if name in changes}
    new = type(model)(
        model.vocabulary,
        dim=changes.get("dim", model.embedding.dim),
        max_length=changes.get("max_length", model.max_length),
        seeds=changes.get("seeds", model.seeds),
        seed=changes.get("seed", model.seed),
        **settings,
    )
    if "seed" not in changes:
        _carry_over(model, new, {name for name, change in changes.items() if _brings_data(change)})
    return new.train(model.training)


def _brings_data(change: Any) -> bool:
    """Whether a change has a component, with tensors of its own that the present ones must not replace."""
    if isinstance(change, Mapping):
        return any(map(_brings_data, change.values()))
    if isinstance(change, list | tuple):
        return any(map(_brings_data, change))
    return isinstance(change, Component)


def _without_sizes(part: str, config: Config, seed: int) -> Config:
    """A part's config without what it has from the model: sizes, steps of the schedule, the seed of its weights."""
    derived = {*_SIZES, *(["num_timesteps"] if part == "timesteps" else [])}
    if config.get("seed") == weight_seed(seed, part):
        derived.add("seed")
    own = {key: value for key, value in config.items() if key not in derived}
    if "base" in own:
        own["base"] = _without_sizes(part, own["base"], seed)
    if "encoder" in own:
        own["encoder"] = _without_sizes("encoder", own["encoder"], seed)
    if "features" in own:  # seeded by the embedding that holds them
        own["features"] = _without_sizes("features", own["features"], config["seed"])
    return own


def _changed(config: Config, change: Any, family: type[Component]) -> Any:
    """A part's new spec: a change is merged into the part's config; a guide without a base wraps what there is."""
    spec = {"name": change} if isinstance(change, str) else change
    if not isinstance(spec, Mapping):
        return spec
    if "base" in config and spec.get("name", config["name"]) == config["name"]:  # settings of what a guide wraps
        own = family.named(config["name"]).settings()
        of_base = {key: value for key, value in spec.items() if key not in ("name", *own)}
        if of_base and "base" not in spec:
            spec = {**{key: value for key, value in spec.items() if key not in of_base}, "base": of_base}
    for inner, kind in (("base", family), ("encoder", HistoryEncoder)):
        if inner in config and isinstance(spec.get(inner), str | Mapping):
            spec = {**spec, inner: _changed(config[inner], spec[inner], kind)}
    if spec.get("name", config["name"]) == config["name"]:
        return {**config, **spec}
    cls = family.named(spec["name"])
    if issubclass(cls, Guide):
        return {"base": config, **spec}
    return {**settings_for(cls, config), **spec}


def settings_for(cls: type[Component], config: Mapping[str, Any]) -> Config:
    """Settings of a config that another class of its kind has too, at the part itself or at its history encoder."""
    outer, inner = cls.settings(), config.get("encoder", {})
    of_encoder = {key: value for key, value in inner.items() if key not in (*_SIZES, "seed")}
    kept = {key: value for key, value in {**of_encoder, **config}.items() if key in outer}
    if "encoder" in outer and not inner:
        default = inspect.signature(cls).parameters["encoder"].default
        spec = {"name": default} if isinstance(default, str) else dict(default)
        known = HistoryEncoder.named(spec["name"]).settings()
        kept["encoder"] = {**spec, **{key: config[key] for key in known if key in config and key not in outer}}
    return kept


def _carry_over(old: Any, new: Any, given: set[str]) -> None:
    """Give the new model the weights of the old one, part by part, where class and shapes stay."""
    new.to(device=old.device, dtype=old.embedding.dtype)
    for name, module in old.named_children():
        ours: Any = _backbone(getattr(new, name))
        theirs: Any = _backbone(module)
        if name in given or ours is None:
            continue
        if type(ours) is not type(theirs):  # another denoiser may have the same history encoder
            ours, theirs = getattr(ours, "encoder", None), getattr(theirs, "encoder", None)
        if isinstance(ours, nn.Module) and type(ours) is type(theirs):
            _carry_weights(theirs, ours)
    new.popularity.copy_(old.popularity)
    if hasattr(new, "updates") and hasattr(old, "updates"):
        new.updates.copy_(old.updates)
    if new.max_length == old.max_length:
        new.examples = old.examples
    for name in ("timesteps", "negatives"):
        ours, theirs = getattr(new, name), getattr(old, name)
        if name not in given and ours.config() == theirs.config():
            setattr(new, name, copy.deepcopy(theirs))


def _carry_weights(old: nn.Module, new: nn.Module) -> None:
    """Copy the weights where all modules within have the same classes and shapes, else buffers of the same shapes."""
    same = [type(part) for part in new.modules()] == [type(part) for part in old.modules()]
    if same and _shapes(new) == _shapes(old):
        new.load_state_dict(old.state_dict())
        for mine, its in zip(new.parameters(), old.parameters(), strict=True):
            mine.requires_grad_(its.requires_grad)
    else:
        copy_buffers(old, new)


def copy_buffers(old: nn.Module, new: nn.Module) -> None:
    """Copy what a part holds beside its weights, such as the features of items, where the shapes stay."""
    found = dict(old.named_buffers())
    for name, buffer in new.named_buffers():
        if name in found and found[name].shape == buffer.shape:
            buffer.copy_(found[name])


def _backbone(module: nn.Module) -> nn.Module:
    module = getattr(module, "_orig_mod", module)  # below what torch.compile wraps
    return unwrapped(module) if isinstance(module, Denoiser) else module


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
