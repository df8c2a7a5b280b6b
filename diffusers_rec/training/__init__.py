"""Training: Algorithm 1, in a loop that can resume."""

from diffusers_rec.training.callbacks import Callback, TrainingRun
from diffusers_rec.training.config import RECIPES, TrainingConfig
from diffusers_rec.training.loop import TrainingResult, step_generator, train

__all__ = ["RECIPES", "Callback", "TrainingConfig", "TrainingResult", "TrainingRun", "step_generator", "train"]
