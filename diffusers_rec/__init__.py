"""Composable diffusion models for sequential recommendation."""

from diffusers_rec.core.deprecation import deprecated_names
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
    AddedLatentDenoiser,
    AutoregressiveDenoiser,
    BidirectionalDenoiser,
    CausalTransformerDenoiser,
    ConditionalMLPDenoiser,
    Denoiser,
    JointDenoiser,
    StateMLPDenoiser,
    TransformerDenoiser,
    VelocityMLPDenoiser,
)
from diffusers_rec.guidance import (
    AttributeGuide,
    ClassifierFreeGuide,
    FunctionGuide,
    Guide,
    NegativeGuide,
    NoiselessDenoiser,
    PosteriorDenoiser,
)
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
    BoundTerm,
    ContrastiveObjective,
    ContrastiveTerm,
    CosineTerm,
    CrossEntropyTerm,
    ItemsObjective,
    LossTerm,
    LossTerms,
    Objective,
    Pass,
    PreferenceTerm,
    SimplifiedObjective,
    SourceTerm,
    SquaredTerm,
    TrainingStep,
    WeightedObjective,
)
from diffusers_rec.processes.laws import LogitNormalTimestepSampler, ModeTimestepSampler
from diffusers_rec.processes.mask import MaskProcess, MixedProcess
from diffusers_rec.processes.noising import EveryItem, Gaps, LastK, NoisingStrategy, Queries, TargetOnly, WholeSequence
from diffusers_rec.processes.process import Corrupted, GaussianProcess, Process
from diffusers_rec.processes.schedules import (
    CosineSchedule,
    ExponentialSchedule,
    GeometricSchedule,
    LinearAlphaBarSchedule,
    LinearSchedule,
    LinearVarianceSchedule,
    NoiseSchedule,
    RectifiedSchedule,
    SigmoidSchedule,
    SqrtSchedule,
    TableSchedule,
    TruncatedLinearSchedule,
)
from diffusers_rec.processes.source import HistorySource, LastItemSource, Source, ZeroSource
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler, TimestepSampler, UniformTimestepSampler
from diffusers_rec.processes.whole_windows import WholeWindows
from diffusers_rec.recommenders.base import Recommendations, Recommender
from diffusers_rec.recommenders.calibration import Calibration
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.ensemble import Ensemble
from diffusers_rec.recommenders.generating import GAP, Completions
from diffusers_rec.recommenders.loading import load_pretrained
from diffusers_rec.recommenders.memory import Memory, NoMemory, TransitionMemory
from diffusers_rec.recommenders.ranking import Scores
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.recommenders.user_categories import CategoryVectorDiffusion
from diffusers_rec.recommenders.user_diffusion import UserVectorDiffusion
from diffusers_rec.recommenders.user_flow import UserVectorFlow
from diffusers_rec.recommenders.user_latents import UserLatentDiffusion
from diffusers_rec.samplers import (
    ChainSampler,
    DDIMSampler,
    DDPMSampler,
    DPMSolverSampler,
    EulerSampler,
    HeunSampler,
    ItemPredictor,
    OneStepSampler,
    Sampler,
    SamplerStep,
    StraightSampler,
    UnmaskSampler,
)
from diffusers_rec.sources import EncoderSource
from diffusers_rec.version import __version__

__all__ = [
    "GAP",
    "AddedLatentDenoiser",
    "AllItems",
    "AttributeBags",
    "AttributeEmbedding",
    "AttributeGuide",
    "AutoregressiveDenoiser",
    "Batch",
    "BidirectionalDenoiser",
    "BoundTerm",
    "Calibration",
    "CategoryVectorDiffusion",
    "CausalTransformerDenoiser",
    "ChainSampler",
    "ClassifierFreeGuide",
    "Completions",
    "Component",
    "ConditionalMLPDenoiser",
    "ContrastiveObjective",
    "ContrastiveTerm",
    "Corrupted",
    "CosineHead",
    "CosineSchedule",
    "CosineTerm",
    "CrossEntropyTerm",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverSampler",
    "Denoiser",
    "DiffRec",
    "EncoderSource",
    "Ensemble",
    "EulerSampler",
    "EveryItem",
    "ExponentialSchedule",
    "FeatureEmbedding",
    "FunctionGuide",
    "Gaps",
    "GaussianProcess",
    "GeometricSchedule",
    "Guide",
    "HeunSampler",
    "History",
    "HistorySource",
    "Holdout",
    "ImportanceTimestepSampler",
    "InBatchNegatives",
    "Interactions",
    "ItemEmbedding",
    "ItemHead",
    "ItemPredictor",
    "ItemsObjective",
    "JointDenoiser",
    "LastItemSource",
    "LastK",
    "LinearAlphaBarSchedule",
    "LinearHead",
    "LinearSchedule",
    "LinearVarianceSchedule",
    "LogitNormalTimestepSampler",
    "Loss",
    "LossTerm",
    "LossTerms",
    "MaskProcess",
    "Memory",
    "MixedProcess",
    "ModeTimestepSampler",
    "NegativeGuide",
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
    "PreferenceTerm",
    "Process",
    "Queries",
    "Recommendations",
    "Recommender",
    "RectifiedSchedule",
    "Sampler",
    "SamplerStep",
    "Scores",
    "Sequences",
    "SigmoidSchedule",
    "SimplifiedObjective",
    "Source",
    "SourceTerm",
    "Split",
    "SqrtSchedule",
    "SquaredTerm",
    "StateMLPDenoiser",
    "Statistics",
    "StraightSampler",
    "SummedEmbedding",
    "SyntheticWorld",
    "TableEmbedding",
    "TableSchedule",
    "TargetOnly",
    "TiedHead",
    "TimestepSampler",
    "TrainingBatches",
    "TrainingStep",
    "TransformerDenoiser",
    "TransitionMemory",
    "TruncatedLinearSchedule",
    "UniformNegatives",
    "UniformTimestepSampler",
    "UnmaskSampler",
    "UserLatentDiffusion",
    "UserVectorDiffusion",
    "UserVectorFlow",
    "VelocityMLPDenoiser",
    "Vocabulary",
    "WeightedObjective",
    "WholeSequence",
    "WholeWindows",
    "ZeroSource",
    "__version__",
    "attribute_bags",
    "chunked_cross_entropy",
    "feature_vectors",
    "from_frame",
    "load_pretrained",
    "read_interactions",
]

__getattr__ = deprecated_names(__name__, {"Questions": ("Queries", Queries)})
