"""Training: Algorithm 1 in a loop that can be killed and goes on."""

from diffusers_rec.training.config import RECIPES, TrainingConfig
from diffusers_rec.training.loop import TrainingResult, train

__all__ = ["RECIPES", "TrainingConfig", "TrainingResult", "train"]
