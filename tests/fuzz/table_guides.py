"""Valid calls of the guides that steer one call, and why their methods have none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers_rec as dr

from . import world
from .soundness import Call, component
from .world import DIM, NUM_ITEMS


def of_items(**settings: Any) -> Callable[[], dict[str, Any]]:
    """Arguments of a guide around a denoiser that predicts items."""
    return lambda: {"base": "joint", "schedule": world.schedule(), "dim": DIM, "max_length": 6, "seed": 0, **settings}


CALLS = {
    "AttributeGuide": Call(
        lambda: dr.AttributeGuide,
        of_items(values=[0.5] * NUM_ITEMS, scale=-1.0, start=0.1, stop=0.9),
        component,
    ),
    "FunctionGuide": Call(lambda: dr.FunctionGuide, of_items(scale=2.0, start=0.1, stop=0.9), component),
    "NegativeGuide": Call(
        lambda: dr.NegativeGuide,
        lambda: {"base": world.DENOISER, "history": [1, 2], "scale": 2.0, "start": 0.1, "stop": 0.9,
                 "embedding": world.embedding(), "schedule": world.schedule(), "dim": DIM, "max_length": 6, "seed": 0},
        component,
    ),
}  # fmt: skip

_CHAIN = "called by the chain of a model, with what it has made"

EXEMPT = {
    "AttributeGuide.check_fit": "called by the pipeline, with itself",
    "FunctionGuide.config": "a method without arguments",
    "NegativeGuide.check_fit": "called by the pipeline, with itself",
    **dict.fromkeys(
        (
            "AttributeGuide.check_request",
            "AttributeGuide.of_call",
            "AttributeGuide.steer",
            "FunctionGuide.steer",
            "Guide.check_request",
            "Guide.forward",
            "Guide.of_call",
            "NegativeGuide.condition",
            "NegativeGuide.encode",
            "NegativeGuide.forward",
            "NegativeGuide.of_call",
        ),
        _CHAIN,
    ),
}
