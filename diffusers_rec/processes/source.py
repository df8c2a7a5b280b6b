"""placeholder, replaced at the merge"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor

from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.processes.noising import Queries


class Source(Component, ABC, kind="source"):
    @abstractmethod
    def centre(self, history: History, queries: Queries) -> Tensor | None: ...


class ZeroSource(Source, name="zero"):
    def centre(self, history: History, queries: Queries) -> None:
        return None
