"""Presets: functions that return a complete pipeline, one paper per file."""

from diffusers_rec.presets.best import best
from diffusers_rec.presets.control import control
from diffusers_rec.presets.diffurec import diffurec
from diffusers_rec.presets.dreamrec import dreamrec
from diffusers_rec.presets.du2023 import du2023
from diffusers_rec.presets.fmrec import fmrec
from diffusers_rec.presets.joint import joint
from diffusers_rec.presets.preferdiff import preferdiff

paper = du2023
"""Alias of ``du2023``, the paper that this library started from."""

PRESETS = {
    "best": best,
    "joint": joint,
    "paper": paper,
    "diffurec": diffurec,
    "dreamrec": dreamrec,
    "preferdiff": preferdiff,
    "fmrec": fmrec,
}
"""Presets by their names on the command line and in the training recipes."""

__all__ = ["PRESETS", "best", "control", "diffurec", "dreamrec", "du2023", "fmrec", "joint", "paper", "preferdiff"]
