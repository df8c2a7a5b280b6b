"""Presets: one paper a file, each a function that returns the pipeline it describes."""

from diffusers_rec.presets.best import best
from diffusers_rec.presets.control import control
from diffusers_rec.presets.du2023 import du2023

paper = du2023
"""The paper that this library started from."""

PRESETS = {"best": best, "paper": paper}
"""Presets by the name that the command line and the training recipes have for them."""

__all__ = ["PRESETS", "best", "control", "du2023", "paper"]
