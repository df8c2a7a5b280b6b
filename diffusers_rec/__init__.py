"""Composable diffusion models for sequential recommendation."""

from diffusers_rec.core.registry import Component
from diffusers_rec.data import (
    Batch,
    History,
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
    TransformerDenoiser,
)
from diffusers_rec.guidance import ClassifierFreeGuide, Guide, NoiselessDenoiser, PosteriorDenoiser
from diffusers_rec.items.cross_entropy import chunked_cross_entropy
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.feature_embeddings import AttributeEmbedding, FeatureEmbedding, SummedEmbedding
from diffusers_rec.items.features import AttributeBags, attribute_bags, feature_vectors
from diffusers_rec.items.heads import CosineHead, ItemHead, LinearHead, TiedHead
from diffusers_rec.items.negatives import (
    AllItems,
    InBatchNegatives,
    Negatives,
    PopularityNegatives,
    UniformNegatives,
)
from diffusers_rec.objectives import (
    ContrastiveObjective,
    ContrastiveTerm,
    CosineTerm,
    CrossEntropyTerm,
    LossTerm,
    LossTerms,
    Objective,
    Pass,
    SimplifiedObjective,
    SquaredTerm,
    TrainingStep,
    WeightedObjective,
)
from diffusers_rec.processes.noising import LastK, NoisingStrategy, Queries, TargetOnly, WholeSequence
from diffusers_rec.processes.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, SqrtSchedule
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler, TimestepSampler, UniformTimestepSampler
from diffusers_rec.recommenders.base import Recommendations, Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.ensemble import Ensemble
from diffusers_rec.recommenders.memory import Memory, NoMemory, TransitionMemory
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.samplers import DDIMSampler, DDPMSampler, OneStepSampler, Sampler
from diffusers_rec.version import __version__

__all__ = [
    "AllItems",
    "AttributeBags",
    "AttributeEmbedding",
    "Batch",
    "CausalTransformerDenoiser",
    "ClassifierFreeGuide",
    "Component",
    "ConditionalMLPDenoiser",
    "ContrastiveObjective",
    "ContrastiveTerm",
    "CosineHead",
    "CosineSchedule",
    "CosineTerm",
    "CrossEntropyTerm",
    "DDIMSampler",
    "DDPMSampler",
    "Denoiser",
    "DiffRec",
    "Ensemble",
    "FeatureEmbedding",
    "Guide",
    "History",
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
    "LossTerm",
    "LossTerms",
    "Memory",
    "Negatives",
    "NoMemory",
    "NoiseSchedule",
    "NoiselessDenoiser",
    "NoisingStrategy",
    "Objective",
    "OneStepSampler",
    "Pass",
    "PopularityNegatives",
    "PosteriorDenoiser",
    "Queries",
    "Recommendations",
    "Recommender",
    "Sampler",
    "Sequences",
    "SimplifiedObjective",
    "Split",
    "SqrtSchedule",
    "SquaredTerm",
    "Statistics",
    "SummedEmbedding",
    "SyntheticWorld",
    "TableEmbedding",
    "TargetOnly",
    "TiedHead",
    "TimestepSampler",
    "TrainingBatches",
    "TrainingStep",
    "TransformerDenoiser",
    "TransitionMemory",
    "UniformNegatives",
    "UniformTimestepSampler",
    "Vocabulary",
    "WeightedObjective",
    "WholeSequence",
    "__version__",
    "attribute_bags",
    "chunked_cross_entropy",
    "feature_vectors",
    "from_frame",
    "read_interactions",
]
