"""Noising strategies, one per file: which positions of a sequence carry noise."""

from diffusers_rec.processes.noising.base import NoisingStrategy
from diffusers_rec.processes.noising.every_item import EveryItem
from diffusers_rec.processes.noising.gaps import Gaps
from diffusers_rec.processes.noising.last_k import LastK
from diffusers_rec.processes.noising.queries import Queries
from diffusers_rec.processes.noising.target import TargetOnly
from diffusers_rec.processes.noising.whole import WholeSequence
from diffusers_rec.processes.noising.whole_windows import WholeWindows

__all__ = ["EveryItem", "Gaps", "LastK", "NoisingStrategy", "Queries", "TargetOnly", "WholeSequence", "WholeWindows"]
