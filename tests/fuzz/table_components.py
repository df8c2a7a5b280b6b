"""Valid constructions of every component."""

from __future__ import annotations

from typing import Any

import diffusers_rec as dr

from . import world
from .soundness import Call, component
from .world import DIM, NUM_ITEMS, STEPS


def sized(**more: Any) -> dict[str, Any]:
    return {"dim": DIM, "max_length": 6, "num_layers": 1, "num_heads": 1, "dropout": 0.1, "seed": 0, **more}


def with_encoder(**more: Any) -> dict[str, Any]:
    return {"dim": DIM, "max_length": 6, "encoder": {"name": "gru", "dropout": 0.1}, "seed": 0, **more}


def shared() -> dict[str, Any]:
    embedding = world.embedding()
    return {"embedding": embedding, "head": world.head(), "schedule": world.schedule()}


CALLS: dict[str, Call] = {
    "Component.save_pretrained": Call(
        lambda: world.head().save_pretrained, lambda: {"directory": "new"},
        lambda _, given: component(dr.ItemHead.from_pretrained(given["directory"]), {}),
    ),
    "Component.from_pretrained": Call(
        lambda: dr.ItemEmbedding.from_pretrained, lambda: {"directory": "part", "revision": None, "token": None},
        component,
    ),
    "SqrtSchedule": Call(lambda: dr.SqrtSchedule, lambda: {"num_timesteps": 9, "log_snr_shift": -1.0}, component),
    "CosineSchedule": Call(lambda: dr.CosineSchedule, lambda: {"num_timesteps": 9, "log_snr_shift": -1.0}, component),
    "LinearSchedule": Call(
        lambda: dr.LinearSchedule,
        lambda: {"num_timesteps": 90, "beta_start": 1e-4, "beta_end": 0.02, "rescale": True, "log_snr_shift": 0.0},
        component,
    ),
    "TruncatedLinearSchedule": Call(
        lambda: dr.TruncatedLinearSchedule,
        lambda: {"num_timesteps": 90, "beta_start": 1e-4, "beta_end": 0.02, "offset": 0.01, "rescale": True,
                 "log_snr_shift": 0.0},
        component,
    ),
    "LinearVarianceSchedule": Call(
        lambda: dr.LinearVarianceSchedule,
        lambda: {"num_timesteps": 9, "scale": 0.5, "minimum": 1e-3, "maximum": 0.9, "first_beta": 1e-4,
                 "log_snr_shift": -1.0},
        component,
    ),
    "ExponentialSchedule": Call(
        lambda: dr.ExponentialSchedule,
        lambda: {"num_timesteps": 9, "beta_min": 0.1, "beta_max": 20.0, "log_snr_shift": -1.0}, component,
    ),
    "GeometricSchedule": Call(
        lambda: dr.GeometricSchedule,
        lambda: {"num_timesteps": 9, "sigma_min": 0.01, "sigma_max": 100.0, "log_snr_shift": -1.0}, component,
    ),
    "SigmoidSchedule": Call(
        lambda: dr.SigmoidSchedule,
        lambda: {"num_timesteps": 9, "start": -3.0, "end": 3.0, "tau": 1.0, "clip_min": 1e-9, "log_snr_shift": -1.0},
        component,
    ),
    "RectifiedSchedule": Call(
        lambda: dr.RectifiedSchedule, lambda: {"num_timesteps": 9, "log_snr_shift": -1.0}, component
    ),
    "LinearAlphaBarSchedule": Call(
        lambda: dr.LinearAlphaBarSchedule, lambda: {"num_timesteps": 9, "log_snr_shift": -1.0}, component
    ),
    "TableSchedule": Call(
        lambda: dr.TableSchedule, lambda: {"values": [0.9, 0.5, 0.1], "log_snr_shift": -1.0}, component
    ),
    "GaussianProcess": Call(lambda: dr.GaussianProcess, lambda: {"schedule": world.schedule()}, component),
    "MaskProcess": Call(lambda: dr.MaskProcess, lambda: {"schedule": world.schedule()}, component),
    "WeibullProcess": Call(
        lambda: dr.WeibullProcess, lambda: {"schedule": world.schedule(), "shape": 0.7, "scale": 1.5, "offset": -0.5},
        component,
    ),
    "MixedProcess": Call(lambda: dr.MixedProcess, lambda: {"schedule": world.schedule(), "blank": 0.5}, component),
    "ReplacementProcess": Call(lambda: dr.ReplacementProcess, lambda: {**shared(), "blank": 0.5}, component),
    "ZeroSource": Call(lambda: dr.ZeroSource, dict, component),
    "LastItemSource": Call(lambda: dr.LastItemSource, dict, component),
    "HistorySource": Call(lambda: dr.HistorySource, lambda: {"decay": 0.5}, component),
    "EncoderSource": Call(
        lambda: dr.EncoderSource,
        with_encoder, component,
    ),
    "TargetOnly": Call(lambda: dr.TargetOnly, dict, component),
    "LastK": Call(lambda: dr.LastK, lambda: {"k": 2, "ahead": False, "independent_steps": False}, component),
    "Gaps": Call(lambda: dr.Gaps, lambda: {"k": 2, "per_row": 3, "independent_steps": False}, component),
    "EveryItem": Call(lambda: dr.EveryItem, dict, component),
    "WholeWindows": Call(
        lambda: dr.WholeWindows,
        lambda: {"k": 2, "gaps": "share", "share": 0.5, "last_share": 0.1, "independent_steps": False}, component,
    ),
    "WholeSequence": Call(lambda: dr.WholeSequence, lambda: {"independent_steps": False}, component),
    "UniformTimestepSampler": Call(
        lambda: dr.UniformTimestepSampler,
        lambda: {"num_timesteps": STEPS, "estimate": "mean", "start_share": 0.1}, component,
    ),
    "ImportanceTimestepSampler": Call(
        lambda: dr.ImportanceTimestepSampler,
        lambda: {"num_timesteps": STEPS, "history": 2, "uniform_share": 0.1, "estimate": "sum", "start_share": 0.1},
        component,
    ),
    "ModeTimestepSampler": Call(
        lambda: dr.ModeTimestepSampler,
        lambda: {"num_timesteps": STEPS, "heaviness": 0.5, "estimate": "drawn", "start_share": 0.1}, component,
    ),
    "LogitNormalTimestepSampler": Call(
        lambda: dr.LogitNormalTimestepSampler,
        lambda: {"num_timesteps": STEPS, "mean": -1.0, "std": 0.6, "estimate": "drawn", "start_share": 0.1}, component,
    ),
    "TableEmbedding": Call(
        lambda: dr.TableEmbedding,
        lambda: {"num_items": NUM_ITEMS, "dim": DIM, "scale": "unit", "init_std": 0.1, "seed": 0}, component,
    ),
    "FeatureEmbedding": Call(
        lambda: dr.FeatureEmbedding,
        lambda: {"num_items": NUM_ITEMS, "dim": DIM, "num_features": 3, "hidden": 2, "scale": "unit", "init_std": 0.1,
                 "seed": 0}, component,
    ),
    "AttributeEmbedding": Call(
        lambda: dr.AttributeEmbedding,
        lambda: {"num_items": NUM_ITEMS, "dim": DIM, "num_attributes": 3, "max_attributes": 2, "scale": "unit",
                 "init_std": 0.1, "seed": 0}, component,
    ),
    "SummedEmbedding": Call(
        lambda: dr.SummedEmbedding,
        lambda: {"num_items": NUM_ITEMS, "dim": DIM, "features": {"name": "attributes", "num_attributes": 3},
                 "scale": "unit", "init_std": 0.1, "seed": 0}, component,
    ),
    "TransformerDenoiser": Call(lambda: dr.TransformerDenoiser, sized, component),
    "CausalTransformerDenoiser": Call(lambda: dr.CausalTransformerDenoiser, sized, component),
    "ConditionalMLPDenoiser": Call(
        lambda: dr.ConditionalMLPDenoiser, lambda: with_encoder(mlp_layers=1), component
    ),
    "VelocityMLPDenoiser": Call(
        lambda: dr.VelocityMLPDenoiser, lambda: with_encoder(mlp_layers=1), component
    ),
    "JointDenoiser": Call(
        lambda: dr.JointDenoiser, lambda: with_encoder(joint_layers=1, joint_heads=1, joint_dropout=0.1), component
    ),
    "RotaryStateDenoiser": Call(
        lambda: dr.RotaryStateDenoiser,
        lambda: with_encoder(schedule=world.schedule()),
        component,
    ),
    "StateMLPDenoiser": Call(
        lambda: dr.StateMLPDenoiser,
        lambda: with_encoder(mlp_layers=2),
        component,
    ),
    "PlainDenoiser": Call(lambda: dr.PlainDenoiser, with_encoder, component),
    "JudgedDenoiser": Call(
        lambda: dr.JudgedDenoiser,
        lambda: with_encoder(
            embedding=world.embedding(), head=world.head(), factors=["table"], classes=3, fakes=2, judge_heads=1,
            judge_dropout=0.1, judge_decay=0.2,
        ),
        component,
    ),
    "CausalTransformerEncoder": Call(lambda: dr.CausalTransformerEncoder, lambda: sized(low_pass=0.5), component),
    "SingleLayerEncoder": Call(
        lambda: dr.SingleLayerEncoder,
        lambda: {"dim": DIM, "max_length": 6, "num_heads": 2, "skip": True, "rotary": True, "dropout": 0.1, "seed": 0},
        component,
    ),
    "StochasticEncoder": Call(
        lambda: dr.StochasticEncoder,
        lambda: {"dim": DIM, "max_length": 6, "num_layers": 1, "num_heads": 2, "attend_means": False, "dropout": 0.1,
                 "seed": 0}, component,
    ),
    "GRUEncoder": Call(
        lambda: dr.GRUEncoder,
        lambda: {"dim": DIM, "max_length": 6, "hidden_dim": 5, "num_layers": 1, "dropout": 0.1, "seed": 0}, component,
    ),
    "PositionalTransformerEncoder": Call(
        lambda: dr.PositionalTransformerEncoder, lambda: sized(hidden_dim=5), component
    ),
    "BidirectionalTransformerEncoder": Call(
        lambda: dr.BidirectionalTransformerEncoder, lambda: sized(hidden_dim=5), component
    ),
    "FilterEncoder": Call(
        lambda: dr.FilterEncoder,
        lambda: {"dim": DIM, "max_length": 6, "num_layers": 1, "hidden_dim": 5, "dropout": 0.1, "seed": 0}, component,
    ),
    "VariationalEncoder": Call(lambda: dr.VariationalEncoder, lambda: sized(generation_layers=1), component),
    "AdversarialEncoder": Call(
        lambda: dr.AdversarialEncoder,
        lambda: {"dim": DIM, "max_length": 6, "hidden_dim": 5, "latent_dim": 3, "judge_dim": 4, "dropout": 0.1,
                 "judge_dropout": 0.1, "seed": 0},
        component,
    ),
    "AddedLatentDenoiser": Call(
        lambda: dr.AddedLatentDenoiser, lambda: sized(embedding_dropout=0.1, uncertainty=0.1, step_scale=2.0), component
    ),
    "MacaronDenoiser": Call(
        lambda: dr.MacaronDenoiser,
        lambda: sized(embedding_dropout=0.1, uncertainty=0.1, step_scale=2.0, shape=0.7, scale=1.5, offset=-0.5),
        component,
    ),
    "AutoregressiveDenoiser": Call(
        lambda: dr.AutoregressiveDenoiser,
        lambda: sized(denoiser_layers=1, embedding_dropout=0.1, uncertainty=0.1, step_scale=2.0), component,
    ),
    "ClozeDenoiser": Call(lambda: dr.ClozeDenoiser, lambda: sized(hidden_dim=5), component),
    "BidirectionalDenoiser": Call(
        lambda: dr.BidirectionalDenoiser, lambda: sized(hidden_dim=5), component
    ),
    "StateDecoderDenoiser": Call(
        lambda: dr.StateDecoderDenoiser, lambda: sized(schedule=world.schedule()), component
    ),
    "PosteriorDenoiser": Call(
        lambda: dr.PosteriorDenoiser,
        lambda: {"base": world.DENOISER, **shared(), "num_candidates": 3, "dim": DIM, "max_length": 6, "seed": 0},
        component,
    ),
    "NoiselessDenoiser": Call(
        lambda: dr.NoiselessDenoiser,
        lambda: {"base": world.DENOISER, "schedule": world.schedule(), "dim": DIM, "max_length": 6, "seed": 0},
        component,
    ),
    "ClassifierFreeGuide": Call(
        lambda: dr.ClassifierFreeGuide,
        lambda: {"base": world.DENOISER, "drop": 0.2, "scale": 2.0, "start": 0.1, "stop": 0.9,
                 "schedule": world.schedule(), "dim": DIM, "max_length": 6, "seed": 0},
        component,
    ),
    "SquaredTerm": Call(lambda: dr.SquaredTerm, lambda: {"weight": 0.5, "reduction": "sum", "of": "output"}, component),
    "CosineTerm": Call(lambda: dr.CosineTerm, lambda: {"weight": 0.5, "power": 2.0}, component),
    "SourceTerm": Call(lambda: dr.SourceTerm, lambda: {"weight": 0.5}, component),
    "KLTerm": Call(lambda: dr.KLTerm, lambda: {"weight": 0.5, "annealing_steps": 3}, component),
    "DiscriminatorTerm": Call(lambda: dr.DiscriminatorTerm, lambda: {"weight": 0.5}, component),
    "InformationTerm": Call(lambda: dr.InformationTerm, lambda: {"weight": 0.5}, component),
    "ConsistencyTerm": Call(lambda: dr.ConsistencyTerm, lambda: {"weight": 0.5}, component),
    "CrossEntropyTerm": Call(lambda: dr.CrossEntropyTerm, lambda: {"weight": 0.5, "at": "final"}, component),
    "BinaryTerm": Call(lambda: dr.BinaryTerm, lambda: {"weight": 0.5}, component),
    "BPRTerm": Call(lambda: dr.BPRTerm, lambda: {"weight": 0.5}, component),
    "SeparationTerm": Call(lambda: dr.SeparationTerm, lambda: {"weight": 0.5}, component),
    "SampledBCETerm": Call(lambda: dr.SampledBCETerm, lambda: {"weight": 0.5, "calibration": 0.7}, component),
    "RewardedBCETerm": Call(lambda: dr.RewardedBCETerm, lambda: {"weight": 0.5}, component),
    "PairTerm": Call(lambda: dr.PairTerm, lambda: {"weight": 0.5, "temperature": 0.2}, component),
    "InfoNCETerm": Call(
        lambda: dr.InfoNCETerm,
        lambda: {"weight": 0.5, "views": ["dropout", "same-target"], "temperature": 0.2, "similarity": "cosine",
                 "false_negatives": False, "crop": 0.5, "mask": 0.2, "reorder": 0.4},
        component,
    ),
    "BoundTerm": Call(lambda: dr.BoundTerm, lambda: {"weight": 0.5}, component),
    "ScoreEntropyTerm": Call(lambda: dr.ScoreEntropyTerm, lambda: {"weight": 0.5}, component),
    "ContrastiveTerm": Call(lambda: dr.ContrastiveTerm, lambda: {"weight": 0.5, "temperature": 0.2}, component),
    "PreferenceTerm": Call(
        lambda: dr.PreferenceTerm,
        lambda: {"weight": 0.5, "distance": "cosine", "scale": 2.0, "at": "paired", "over": "latent",
                 "adaptive": True},
        component,
    ),
    "WeightedObjective": Call(lambda: dr.WeightedObjective, lambda: {"terms": ["cosine", "cross-entropy"]}, component),
    "LinearHead": Call(lambda: dr.LinearHead, lambda: {"num_items": NUM_ITEMS, "dim": DIM, "seed": 0}, component),
    "TiedHead": Call(lambda: dr.TiedHead, lambda: {"embedding": world.embedding(), "use_bias": True}, component),
    "CosineHead": Call(lambda: dr.CosineHead, lambda: {"embedding": world.embedding(), "temperature": 0.1}, component),
    "NormalizedHead": Call(lambda: dr.NormalizedHead, lambda: {"embedding": world.embedding()}, component),
    "WassersteinHead": Call(lambda: dr.WassersteinHead, lambda: {"embedding": world.embedding()}, component),
    "SimplifiedObjective": Call(
        lambda: dr.SimplifiedObjective,
        lambda: {"reconstruction_weight": 1.0, "recommendation_weight": 1.0, "distance": "cosine", "reduction": "sum",
                 "recommend_from": "final"}, component,
    ),
    "ContrastiveObjective": Call(
        lambda: dr.ContrastiveObjective,
        lambda: {"contrastive_weight": 0.1, "temperature": 0.1, "reconstruction_weight": 1.0,
                 "recommendation_weight": 1.0, "distance": "cosine", "reduction": "sum", "recommend_from": "final"},
        component,
    ),
    "ItemsObjective": Call(
        lambda: dr.ItemsObjective, lambda: {"sampled_weight": 1.0, "next_weight": 0.5}, component
    ),
    "AllItems": Call(lambda: dr.AllItems, dict, component),
    "InBatchNegatives": Call(lambda: dr.InBatchNegatives, dict, component),
    "UniformNegatives": Call(lambda: dr.UniformNegatives, lambda: {"count": 3}, component),
    "PopularityNegatives": Call(lambda: dr.PopularityNegatives, lambda: {"count": 3, "power": 0.5}, component),
    "NoMemory": Call(lambda: dr.NoMemory, dict, component),
    "TransitionMemory": Call(
        lambda: dr.TransitionMemory,
        lambda: {"num_items": NUM_ITEMS, "share": 0.4, "window": 3, "decay": 0.5, "backward": 0.5, "neighbours": 4},
        component,
    ),
    "OneStepSampler": Call(lambda: dr.OneStepSampler, dict, component),
    "DDPMSampler": Call(lambda: dr.DDPMSampler, lambda: {"variance": "beta", "num_steps": 3, "stagger": 1},
                        component),
    "DDIMSampler": Call(lambda: dr.DDIMSampler, lambda: {"num_steps": 3, "eta": 0.5, "stagger": 1}, component),
    "UnmaskSampler": Call(
        lambda: dr.UnmaskSampler,
        lambda: {"head": world.head(), "embedding": world.embedding(), "num_steps": 2, "order": "confidence",
                 "temperature": 0.5, "top_p": 0.9, "remask": 1, "distinct": True},
        component,
    ),
    "EulerSampler": Call(lambda: dr.EulerSampler, lambda: {"num_steps": 3}, component),
    "StraightSampler": Call(lambda: dr.StraightSampler, lambda: {"num_steps": 3}, component),
    "HeunSampler": Call(lambda: dr.HeunSampler, lambda: {"num_steps": 3}, component),
    "DPMSolverSampler": Call(lambda: dr.DPMSolverSampler, lambda: {"num_steps": 3}, component),
}  # fmt: skip
