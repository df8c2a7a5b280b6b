"""Objectives: the losses that training minimises."""

from diffusers_rec.core.deprecation import deprecated_names
from diffusers_rec.objectives.base import LossTerms, Objective, Pass, TrainingStep
from diffusers_rec.objectives.consistency import ConsistencyTerm
from diffusers_rec.objectives.contrastive import ContrastiveObjective
from diffusers_rec.objectives.info_nce import InfoNCETerm
from diffusers_rec.objectives.items import ItemsObjective
from diffusers_rec.objectives.pairs import BinaryTerm, PairTerm
from diffusers_rec.objectives.penalties import DiscriminatorTerm, InformationTerm, KLTerm, PenaltyTerm
from diffusers_rec.objectives.preference import PreferenceTerm
from diffusers_rec.objectives.sampled import BPRTerm, RewardedBCETerm, SampledBCETerm, SeparationTerm
from diffusers_rec.objectives.score_entropy import ScoreEntropyTerm
from diffusers_rec.objectives.simplified import SimplifiedObjective
from diffusers_rec.objectives.terms import (
    BoundTerm,
    ContrastiveTerm,
    CosineTerm,
    CrossEntropyTerm,
    LossTerm,
    SourceTerm,
    SquaredTerm,
)
from diffusers_rec.objectives.views import Views
from diffusers_rec.objectives.weighted import WeightedObjective

__all__ = [
    "BPRTerm",
    "BinaryTerm",
    "BoundTerm",
    "ConsistencyTerm",
    "ContrastiveObjective",
    "ContrastiveTerm",
    "CosineTerm",
    "CrossEntropyTerm",
    "DiscriminatorTerm",
    "InfoNCETerm",
    "InformationTerm",
    "ItemsObjective",
    "KLTerm",
    "LossTerm",
    "LossTerms",
    "Objective",
    "PairTerm",
    "Pass",
    "PenaltyTerm",
    "PreferenceTerm",
    "RewardedBCETerm",
    "SampledBCETerm",
    "ScoreEntropyTerm",
    "SeparationTerm",
    "SimplifiedObjective",
    "SourceTerm",
    "SquaredTerm",
    "TrainingStep",
    "Views",
    "WeightedObjective",
]

__getattr__ = deprecated_names(__name__, {"Terms": ("LossTerms", LossTerms)})
