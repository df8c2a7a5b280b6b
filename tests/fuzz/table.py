"""Every public name: a valid call of it, or the reason why there is none."""

from __future__ import annotations

import inspect
from types import ModuleType

import diffusers_rec
from diffusers_rec import evaluation, presets, training
from diffusers_rec.integrations import faiss

from . import table_components, table_data, table_guides, table_methods, table_models

CALLS = {**table_data.CALLS, **table_components.CALLS, **table_methods.CALLS, **table_models.CALLS}
CALLS |= table_guides.CALLS

_ABSTRACT = "abstract: called through its subclasses"
_RECORD = "a record that the library fills"
_CALLED = "called by train with what it has made"
_FIT = "called by the pipeline, with itself"
_SOLVER = "what a chain is made of: sample looks at the arguments first"

EXEMPT = {
    **table_guides.EXEMPT,
    "Component": "a base without a constructor of its own",
    "Denoiser": _ABSTRACT,
    "Denoiser.encode": _ABSTRACT,
    "Denoiser.forward": _ABSTRACT,
    "ItemEmbedding": _ABSTRACT,
    "ItemEmbedding.set_features": _ABSTRACT,
    "ItemEmbedding.vectors": _ABSTRACT,
    "ItemHead": _ABSTRACT,
    "ItemHead.bias": _ABSTRACT,
    "ItemHead.keys": _ABSTRACT,
    "ItemHead.queries": _ABSTRACT,
    "Memory": _ABSTRACT,
    "Memory.fit": _ABSTRACT,
    "Memory.predict": _ABSTRACT,
    "Memory.recall": "a deprecated name of predict",
    "Negatives": _ABSTRACT,
    "Negatives.draw": _ABSTRACT,
    "NoiseSchedule": _ABSTRACT,
    "NoisingStrategy": _ABSTRACT,
    "NoisingStrategy.max_noised": _ABSTRACT,
    **dict.fromkeys(
        ("NoisingStrategy.queries", "Denoiser.condition", "Guide", "LossTerm", "LossTerm.__call__"), _ABSTRACT
    ),
    "NoisingStrategy.questions": "a deprecated name",
    **dict.fromkeys(
        ("BFloat16Index.shortlist", "ItemIndex.shortlist"), "called by recommend(index=), which checks the arguments"
    ),
    "Denoiser.steer": "changes nothing, whatever it is given",
    "Guide.steer": "what the base does",
    "Process.evidence": "a process without evidence says nothing, whatever it is given",
    "Process.seen_steps": "the steps that it is given",
    "NoisingStrategy.training": "the queries, which have an entry",
    "Pass.cross_entropy": "called by the objectives, which have entries",
    "Sampler.own_process": _FIT,
    "UnmaskSampler.check_fit": _FIT,
    "EveryItem.check_fit": _FIT,
    "LossTerm.check_fit": _FIT,
    "BoundTerm.check_fit": _FIT,
    "Gaps.check_fit": _FIT,
    "UniformNegatives.check_fit": _FIT,
    "UnmaskSampler.own_process": _FIT,
    "Completions": _RECORD,
    "Completions.__getitem__": "that of a list",
    "GapReport": _RECORD,
    "GAP": "an object that stands for an item",
    **{
        f"ItemPredictor{method}": "made and called by the chain of a model"
        for method in ("", ".__call__", ".decided", ".distributions", ".latents", ".nearest", ".output", ".shown")
    },
    "Denoiser.hidden": "hides nothing, whatever it is given",
    "LossTerm.without_noise": "a method without arguments",
    **dict.fromkeys(("DiffRec.given", "Denoiser.given", "JudgedDenoiser.given"), "a method without arguments"),
    "CategoryVectorDiffusion.given": "a method without arguments",
    **dict.fromkeys(
        (
            "BidirectionalTransformerEncoder.last",
            "CausalTransformerEncoder.bias",
            "FilterEncoder.last",
            "GRUEncoder.sequence",
            "HistoryEncoder.after",
            "HistoryEncoder.forward",
            "HistoryEncoder.seeded",
            "PositionalTransformerEncoder.sequence",
            "PrefixEncoder.encode",
            "PrefixEncoder.states",
            "SingleLayerEncoder.sequence",
            "StochasticEncoder.sequence",
            "HistoryEncoder.penalties",
            "VariationalEncoder.penalties",
            "AdversarialEncoder.penalties",
            "Denoiser.penalties",
            "ConditionalMLPDenoiser.penalties",
            "Guide.penalties",
            "JudgedDenoiser.penalties",
        ),
        "called by the encoder and by the denoiser that has it",
    ),
    **dict.fromkeys(("Denoiser.fit", "Guide.fit", "JudgedDenoiser.fit"), "called by prepare of the model that has it"),
    **dict.fromkeys(("HistoryEncoder", "HistoryEncoder.encode", "HistoryEncoder.states"), _ABSTRACT),
    **dict.fromkeys(("CausalEncoder", "CausalEncoder.sequence", "PrefixEncoder", "PrefixEncoder.last"), _ABSTRACT),
    "Objective": _ABSTRACT,
    "PenaltyTerm": _ABSTRACT,
    "Objective.__call__": _ABSTRACT,
    "Objective.without_noise": _ABSTRACT,
    "Recommender": _ABSTRACT,
    "Scorer": _ABSTRACT,
    "Scorer.score": _ABSTRACT,
    "ChainSampler": _ABSTRACT,
    "ChainSampler.solver": _SOLVER,
    "DDIMSampler.solver": _SOLVER,
    "DDPMSampler.solver": _SOLVER,
    "DPMSolverSampler.solver": _SOLVER,
    "EulerSampler.solver": _SOLVER,
    "StraightSampler.solver": _SOLVER,
    "HeunSampler.solver": _SOLVER,
    "Process": _ABSTRACT,
    "Process.corrupt": _ABSTRACT,
    "Process.start": _ABSTRACT,
    "Process.step": _ABSTRACT,
    "Source": _ABSTRACT,
    "Source.centre": _ABSTRACT,
    "Sampler": _ABSTRACT,
    "Sampler.check_fit": "called when a model is composed",
    "SamplerStep": _RECORD,
    "SamplerStep.stop": "a method without arguments",
    "Corrupted": _RECORD,
    "Sampler.sample": _ABSTRACT,
    "TimestepSampler": _ABSTRACT,
    "AttributeBags": _RECORD,
    **{
        f"{name}.check_fit": _FIT
        for name in (
            "ClassifierFreeGuide",
            "Component",
            "Denoiser",
            "EncoderSource",
            "Guide",
            "Process",
            "ReplacementProcess",
            "ScoreEntropyTerm",
            "WeightedObjective",
            "InBatchNegatives",
            "UniformNegatives",
            "WassersteinHead",
            "ItemEmbedding",
            "ItemHead",
            "Objective",
            "PosteriorDenoiser",
            "Sampler",
            "TimestepSampler",
            "TransitionMemory",
            "WassersteinHead",
        )
    },
    "Audit": _RECORD,
    "Loss": _RECORD,
    **dict.fromkeys(("Queries", "Pass", "TrainingStep", "LossTerms"), _RECORD),
    "Recommendations": _RECORD,
    "PairedDifference": _RECORD,
    "Report": _RECORD,
    "ProbabilityReport": _RECORD,
    "UserRanks": _RECORD,
    "TrainingResult": _RECORD,
    "TrainingRun": _RECORD,
    "TrainingRun.stop": "a method without arguments",
    "Callback": "a base without a constructor of its own",
    "Callback.on_batch": _CALLED,
    "Callback.on_end": _CALLED,
    "Callback.on_epoch": _CALLED,
    "Callback.on_start": _CALLED,
    "paper": "another name of du2023",
    "PRESETS": "a dictionary of functions that have entries",
    "RECIPES": "a dictionary of settings",
    "__version__": "a string",
    "Scorer.serving": "a context without arguments; the campaign of threads enters it",
}


def public_names() -> list[str]:
    """Every public name of the public modules, and every public method where it is defined."""
    names = []
    for module in (diffusers_rec, evaluation, training, presets, faiss):
        for name in _listed(module):
            names.append(name)
            if inspect.isclass(getattr(module, name)):
                names += [f"{name}.{method}" for method in _methods(getattr(module, name))]
    return names


def _listed(module: ModuleType) -> list[str]:
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    constants = {name for name in vars(module) if name.isupper()}
    return sorted(name for name in own | constants if not name.startswith("_"))


def _methods(cls: type) -> list[str]:
    called = ("__call__", "__getitem__", "__contains__")
    kinds = (classmethod, staticmethod)
    return [
        name
        for name, value in vars(cls).items()
        if (inspect.isfunction(value) or isinstance(value, kinds)) and (not name.startswith("_") or name in called)
    ]
