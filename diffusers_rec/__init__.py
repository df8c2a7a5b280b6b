"""Composable diffusion models for sequential recommendation."""

from diffusers_rec.cross_entropy import chunked_cross_entropy
from diffusers_rec.data import (
    Batch,
    Holdout,
    Interactions,
    Sequences,
    Split,
    Statistics,
    SyntheticWorld,
    TrainingBatches,
    Vocabulary,
    from_frame,
    read_interactions,
)
from diffusers_rec.denoisers import (
    CausalTransformerDenoiser,
    ConditionalMLPDenoiser,
    Denoiser,
    NoiselessDenoiser,
    PosteriorDenoiser,
    TransformerDenoiser,
)
from diffusers_rec.embeddings import ItemEmbedding
from diffusers_rec.ensemble import Ensemble
from diffusers_rec.heads import CosineHead, ItemHead, LinearHead, TiedHead
from diffusers_rec.memory import Memory, NoMemory, TransitionMemory
from diffusers_rec.negatives import (
    AllItems,
    InBatchNegatives,
    Negatives,
    PopularityNegatives,
    UniformNegatives,
)
from diffusers_rec.noising import LastK, NoisingStrategy, Questions, TargetOnly, WholeSequence
from diffusers_rec.objectives import ContrastiveObjective, Objective, SimplifiedObjective
from diffusers_rec.pipeline import DiffRec, Loss
from diffusers_rec.recommender import Recommendations, Recommender
from diffusers_rec.registry import Component
from diffusers_rec.samplers import DDIMSampler, DDPMSampler, OneStepSampler, Sampler
from diffusers_rec.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, SqrtSchedule
from diffusers_rec.timesteps import ImportanceTimestepSampler, TimestepSampler, UniformTimestepSampler
from diffusers_rec.version import __version__

__all__ = [
    "AllItems",
    "Batch",
    "CausalTransformerDenoiser",
    "Component",
    "ConditionalMLPDenoiser",
    "ContrastiveObjective",
    "CosineHead",
    "CosineSchedule",
    "DDIMSampler",
    "DDPMSampler",
    "Denoiser",
    "DiffRec",
    "Ensemble",
    "Holdout",
    "ImportanceTimestepSampler",
    "InBatchNegatives",
    "Interactions",
    "ItemEmbedding",
    "ItemHead",
    "LastK",
    "LinearHead",
    "LinearSchedule",
    "Loss",
    "Memory",
    "Negatives",
    "NoMemory",
    "NoiseSchedule",
    "NoiselessDenoiser",
    "NoisingStrategy",
    "Objective",
    "OneStepSampler",
    "PopularityNegatives",
    "PosteriorDenoiser",
    "Questions",
    "Recommendations",
    "Recommender",
    "Sampler",
    "Sequences",
    "SimplifiedObjective",
    "Split",
    "SqrtSchedule",
    "Statistics",
    "SyntheticWorld",
    "TargetOnly",
    "TiedHead",
    "TimestepSampler",
    "TrainingBatches",
    "TransformerDenoiser",
    "TransitionMemory",
    "UniformNegatives",
    "UniformTimestepSampler",
    "Vocabulary",
    "WholeSequence",
    "__version__",
    "chunked_cross_entropy",
    "from_frame",
    "read_interactions",
]
