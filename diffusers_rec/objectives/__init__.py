"""Objectives: what is minimised."""

from diffusers_rec.objectives.base import ContrastiveObjective, Objective, SimplifiedObjective, Terms

__all__ = ["ContrastiveObjective", "Objective", "SimplifiedObjective", "Terms"]
