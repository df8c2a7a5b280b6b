"""Valid calls of the components' methods."""

from __future__ import annotations

from typing import Any

import torch

import diffusers_rec as dr
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.objectives import Views

from . import world
from .soundness import Call, component, finite, like, of, probabilities
from .table_components import shared, sized
from .world import DIM, NUM_ITEMS, STEPS, gaussian, generator


def latents() -> dict[str, Any]:
    return {"x0": gaussian(2, DIM), "xn": gaussian(2, DIM), "timesteps": torch.tensor([1, STEPS])}


def without(given: dict[str, Any], *names: str, **more: Any) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names} | more


GUIDES = (dr.PosteriorDenoiser, dr.NoiselessDenoiser, dr.ClassifierFreeGuide)


def denoiser(cls: Any) -> Any:
    if cls in GUIDES:
        parts = shared() if cls is dr.PosteriorDenoiser else {"schedule": world.schedule()}
        return cls(world.DENOISER, dim=DIM, max_length=6, **parts).eval()
    parts = {name: part for name, part in shared().items() if name in cls.requires}
    return cls(**{name: value for name, value in sized().items() if name in cls.settings()}, **parts).eval()


def history() -> dict[str, Any]:
    return {"history": world.history().with_latents(gaussian(2, 3, DIM))}


def queries() -> dr.Queries:
    return dr.Queries.next_item(world.history().lengths)


def conditioned(cls: Any) -> dict[str, Any]:
    return {"context": denoiser(cls).encode(**history()), "queries": queries(), "null": False}


def corrupted(cls: Any) -> dict[str, Any]:
    return {
        "xn": gaussian(2, 2, 1, DIM), "timesteps": torch.full((2, 2), STEPS),
        "condition": denoiser(cls).condition(**conditioned(cls)),
    }  # fmt: skip


def hidden() -> dict[str, Any]:
    return {"queries": queries(), "generator": generator()}


def targets() -> torch.Tensor:
    return torch.tensor([1, 2, 3])


def vectors() -> torch.Tensor:
    return gaussian(NUM_ITEMS, 3)


def bags() -> torch.Tensor:
    return torch.tensor([[0, 1], [2, -1]] * (NUM_ITEMS // 2))


def summed() -> Any:
    return dr.SummedEmbedding(NUM_ITEMS, DIM, features=dr.FeatureEmbedding.from_features(vectors(), DIM))


def a_pass() -> dict[str, Any]:
    return {
        "items": targets(), "x0": gaussian(3, DIM), "xn": gaussian(3, DIM), "noise": gaussian(3, DIM),
        "timesteps": torch.tensor([1, 2, STEPS]), "output": gaussian(3, DIM), "kind": "x0",
        "schedule": world.schedule(), "centre": 0.0, "embedding": world.embedding(),
    }  # fmt: skip


def a_step() -> dict[str, Any]:
    return {
        "passes": {name: dr.Pass(**a_pass()) for name in ("sampled", "final")}, "weights": torch.ones(3),
        "head": world.head(), "negatives": NegativeSample(torch.tensor([0, 5]), torch.tensor([-0.5, -0.5])),
    }  # fmt: skip


def losses() -> dict[str, Any]:
    return {"step": dr.TrainingStep(**a_step())}


def penalised() -> dict[str, Any]:
    return {"step": dr.TrainingStep(**a_step(), penalties={"kl": torch.rand(3)}, updates=1)}


def replacement() -> dr.ReplacementProcess:
    return dr.ReplacementProcess(**shared(), blank=0.5)


def replaced_losses() -> dict[str, Any]:
    step = a_step()
    replaced = dr.Pass(**{**a_pass(), "noise": torch.rand(3, DIM, dtype=torch.float64), "process": replacement()})
    return {"step": dr.TrainingStep(**{**step, "passes": {"sampled": replaced}})}


def compared() -> dict[str, Any]:
    step = a_step()
    return {"step": dr.TrainingStep(**{**step, "passes": {**step["passes"], "negative": dr.Pass(**a_pass())}})}


def adjacent() -> dict[str, Any]:
    step = a_step()
    return {"step": dr.TrainingStep(**{**step, "passes": {**step["passes"], "adjacent": dr.Pass(**a_pass())}})}


def viewed() -> dict[str, Any]:
    states = {"augmented": (torch.ones(3, DIM), torch.rand(3, DIM))}
    return {"step": dr.TrainingStep(**{**a_step(), "views": Views(states, targets())})}


def items_step() -> dict[str, Any]:
    step = a_step()
    return {"step": dr.TrainingStep(**{**step, "passes": {**step["passes"], "next": dr.Pass(**a_pass())}})}


def unmask() -> dr.UnmaskSampler:
    return dr.UnmaskSampler(world.head(), world.embedding())


def draw() -> dict[str, Any]:
    return {"targets": targets(), "num_items": NUM_ITEMS, "generator": generator()}


def fitted(negatives: Any) -> Any:
    negatives.fit(torch.arange(NUM_ITEMS))
    return negatives


def chain() -> dict[str, Any]:
    return {
        "denoise": lambda xn, timesteps: xn / 2, "process": world.process(), "start": gaussian(2, 2, 1, DIM),
        "generator": [generator(0), generator(1)], "callback": None,
    }  # fmt: skip


def reverse_step() -> dict[str, Any]:
    return {
        "x0": gaussian(2, 2, DIM), "xn": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS),
        "previous": torch.ones(2, 2).long(), "generator": generator(), "eta": 0.5, "variance": "posterior",
    }  # fmt: skip


def centred() -> dict[str, Any]:
    given = world.history()
    return {"history": given.with_latents(gaussian(2, 3, DIM)), "queries": dr.Queries.next_item(given.lengths)}


def build(spec: Any, **settings: Any) -> Any:
    """``Component.build``, whose first parameter has no name to call it by."""
    return dr.NoiseSchedule.build(spec, **settings)


def heads() -> dict[str, Any]:
    held = world.embedding
    return {
        "LinearHead": world.head, "TiedHead": lambda: dr.TiedHead(held()),
        "CosineHead": lambda: dr.CosineHead(held()), "NormalizedHead": lambda: dr.NormalizedHead(held()),
        "WassersteinHead": lambda: dr.WassersteinHead(held()),
    }  # fmt: skip


CALLS: dict[str, Call] = {
    "Component.named": Call(lambda: dr.NoiseSchedule.named, lambda: {"name": "sqrt"}, of(type)),
    "Component.names": Call(lambda: dr.NoiseSchedule.names, dict),
    "Component.settings": Call(lambda: dr.SqrtSchedule.settings, dict),
    "Component.config": Call(lambda: dr.SqrtSchedule(3).config, dict),
    "Component.build": Call(lambda: build, lambda: {"spec": "sqrt", "num_timesteps": 5}, component),
    "Component.build_with": Call(
        lambda: dr.NoiseSchedule.build_with,
        lambda: {"defaults": {"num_timesteps": 5}, "spec": {"name": "sqrt", "log_snr_shift": 0.0}}, component,
    ),
    "NoiseSchedule.add_noise": Call(
        lambda: world.schedule().add_noise, lambda: without(latents(), "xn", noise=gaussian(2, DIM)), like("x0"),
        arithmetic=True,
    ),
    "NoiseSchedule.posterior": Call(
        lambda: world.schedule().posterior, lambda: {**latents(), "previous": torch.tensor([0, 3])}, arithmetic=True
    ),
    "NoiseSchedule.levels": Call(
        lambda: world.schedule().levels, lambda: {"like": gaussian(2, DIM), "timesteps": torch.tensor([0, STEPS])}
    ),
    "NoiseSchedule.reverse_variance": Call(
        lambda: world.schedule().reverse_variance,
        lambda: {"like": gaussian(2, DIM), "timesteps": torch.tensor([1, STEPS]), "previous": torch.tensor([0, 3])},
    ),
    "NoiseSchedule.noise_from_x0": Call(lambda: world.schedule().noise_from_x0, latents, like("x0"), arithmetic=True),
    "NoiseSchedule.x0_from_noise": Call(
        lambda: world.schedule().x0_from_noise, lambda: without(latents(), "x0", noise=gaussian(2, DIM)), like("xn"),
        arithmetic=True,
    ),
    "NoiseSchedule.velocity_from_x0": Call(
        lambda: world.schedule().velocity_from_x0, latents, like("x0"), arithmetic=True
    ),
    "NoiseSchedule.x0_from_velocity": Call(
        lambda: world.schedule().x0_from_velocity, lambda: without(latents(), "x0", velocity=gaussian(2, DIM)),
        like("xn"), arithmetic=True,
    ),
    "NoiseSchedule.level": Call(
        lambda: world.schedule().level, lambda: {"timesteps": torch.tensor([0, STEPS]), "like": gaussian(2, DIM)}
    ),
    "NoiseSchedule.from_alpha_bar": Call(
        lambda: dr.NoiseSchedule.from_alpha_bar, lambda: {"values": [0.9, 0.5, 0.1]}, component
    ),
    "NoiseSchedule.from_betas": Call(
        lambda: dr.NoiseSchedule.from_betas, lambda: {"values": [0.1, 0.5, 0.9]}, component
    ),
    "NoiseSchedule.to_diffusers": Call(lambda: world.schedule().to_diffusers, dict),
    "GaussianProcess.start": Call(
        lambda: world.process().start,
        lambda: {"shape": (2, 2, DIM), "generator": generator(), "device": torch.device("cpu"),
                 "dtype": torch.float32},
    ),
    "GaussianProcess.corrupt": Call(
        lambda: world.process().corrupt,
        lambda: {"x0": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS), "generator": generator(),
                 "noise": gaussian(2, 2, DIM)},
        arithmetic=True,
    ),
    "GaussianProcess.step": Call(lambda: world.process().step, reverse_step, like("x0"), arithmetic=True),
    "GaussianProcess.evidence": Call(
        lambda: world.process().evidence,
        lambda: {"xn": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS)}, arithmetic=True,
    ),
    "GaussianProcess.bound_weight": Call(
        lambda: world.process().bound_weight, lambda: {"timesteps": torch.tensor([1, STEPS])}, finite,
    ),
    "MaskProcess.bound_weight": Call(
        lambda: dr.MaskProcess(world.schedule()).bound_weight, lambda: {"timesteps": torch.tensor([1, STEPS])},
        probabilities,
    ),
    "ZeroSource.centre": Call(
        lambda: dr.ZeroSource().centre, centred, lambda result, _: result is None, opaque=("history", "queries")
    ),
    "NoisingStrategy.timestep_shape": Call(
        lambda: dr.TargetOnly().timestep_shape,
        lambda: {"queries": dr.TargetOnly().queries(torch.tensor([[2], [3]]), 1)},
    ),
    "TimestepSampler.probabilities": Call(lambda: dr.UniformTimestepSampler(5).probabilities, dict, probabilities),
    "TimestepSampler.sample": Call(
        lambda: dr.UniformTimestepSampler(5).sample,
        lambda: {"shape": (2, 3), "generator": generator(), "device": torch.device("cpu")},
    ),
    "TimestepSampler.load_state_dict": Call(
        lambda: dr.UniformTimestepSampler(5).load_state_dict, lambda: {"state": {}}
    ),
    "TimestepSampler.state_dict": Call(lambda: dr.UniformTimestepSampler(5).state_dict, dict),
    "TimestepSampler.update": Call(
        lambda: dr.UniformTimestepSampler(5).update, lambda: {"timesteps": targets(), "losses": torch.ones(3)}
    ),
    "ImportanceTimestepSampler.update": Call(
        lambda: dr.ImportanceTimestepSampler(5).update, lambda: {"timesteps": targets(), "losses": torch.ones(3)}
    ),
    "ImportanceTimestepSampler.state_dict": Call(lambda: dr.ImportanceTimestepSampler(5).state_dict, dict),
    "ImportanceTimestepSampler.load_state_dict": Call(
        lambda: dr.ImportanceTimestepSampler(5, history=1).load_state_dict,
        lambda: {"state": {"losses": torch.ones(5, 1, dtype=torch.float64), "seen": torch.ones(5, dtype=torch.int64)}},
    ),
    "ItemEmbedding.forward": Call(lambda: world.embedding().forward, lambda: {"items": targets()}),
    "ItemEmbedding.table": Call(lambda: world.embedding().table, dict),
    "TableEmbedding.vectors": Call(lambda: world.embedding().vectors, lambda: {"items": targets()}),
    "SummedEmbedding.vectors": Call(lambda: summed().vectors, lambda: {"items": targets()}),
    "SummedEmbedding.set_features": Call(lambda: summed().set_features, lambda: {"features": vectors(), "first": 0}),
    "FeatureEmbedding.from_features": Call(
        lambda: dr.FeatureEmbedding.from_features, lambda: {"features": vectors(), "dim": DIM}, component
    ),
    "AttributeEmbedding.from_features": Call(
        lambda: dr.AttributeEmbedding.from_features, lambda: {"features": bags(), "dim": DIM}, component
    ),
    "attribute_bags": Call(
        lambda: dr.attribute_bags,
        lambda: {"items": ["a", "b"], "attributes": {"a": ["x", "y"], "b": []}, "known": ["x", "y"],
                 "unknown": "error"},
    ),
    "feature_vectors": Call(
        lambda: dr.feature_vectors, lambda: {"items": ["a", "b"], "vectors": {"a": [1.0, 2.0], "b": [3.0, 4.0]}},
        arithmetic=True,
    ),
    "ItemHead.logits": Call(lambda: world.head().logits, lambda: {"latent": gaussian(3, DIM)}, arithmetic=True),
    "ItemHead.scoring_keys": Call(lambda: world.head().scoring_keys, lambda: {"items": targets()}),
    "ItemHead.loss": Call(
        lambda: world.head().loss,
        lambda: {"latent": gaussian(3, DIM), "target": targets(), "negatives": a_step()["negatives"],
                 "weights": torch.ones(3)},
        arithmetic=True,
    ),
    "ItemHead.pair_scores": Call(
        lambda: world.head().pair_scores,
        lambda: {"latent": gaussian(3, DIM), "target": targets(), "negatives": a_step()["negatives"]},
        arithmetic=True,
    ),
    "Negatives.fit": Call(lambda: dr.PopularityNegatives(3).fit, lambda: {"counts": torch.arange(NUM_ITEMS)}),
    "AllItems.draw": Call(lambda: dr.AllItems().draw, draw, opaque=tuple(draw())),
    "UniformNegatives.draw": Call(lambda: dr.UniformNegatives(3).draw, draw),
    "PopularityNegatives.draw": Call(lambda: fitted(dr.PopularityNegatives(3)).draw, draw),
    "InBatchNegatives.draw": Call(lambda: fitted(dr.InBatchNegatives()).draw, draw),
    "NoMemory.fit": Call(lambda: dr.NoMemory().fit, lambda: {"sequences": world.sequences()}, opaque=("sequences",)),
    "TransitionMemory.fit": Call(lambda: world.memory().fit, lambda: {"sequences": world.sequences()}),
    "NoMemory.predict": Call(lambda: dr.NoMemory().predict, lambda: {"history": world.history()}),
    "TransitionMemory.predict": Call(lambda: world.memory().predict, lambda: {"history": world.history()}),
    "SimplifiedObjective.without_noise": Call(lambda: dr.SimplifiedObjective().without_noise, dict),
    "ContrastiveObjective.without_noise": Call(lambda: dr.ContrastiveObjective().without_noise, dict),
    "WeightedObjective.without_noise": Call(lambda: dr.WeightedObjective().without_noise, dict),
    "ScoreEntropyTerm.without_noise": Call(lambda: dr.ScoreEntropyTerm().without_noise, dict),
    "CrossEntropyTerm.without_noise": Call(lambda: dr.CrossEntropyTerm().without_noise, dict),
    "PreferenceTerm.without_noise": Call(lambda: dr.PreferenceTerm().without_noise, dict),
    "BoundTerm.without_noise": Call(lambda: dr.BoundTerm().without_noise, dict),
    "BinaryTerm.without_noise": Call(lambda: dr.BinaryTerm().without_noise, dict),
    "BPRTerm.without_noise": Call(lambda: dr.BPRTerm().without_noise, dict),
    "SeparationTerm.without_noise": Call(lambda: dr.SeparationTerm().without_noise, dict),
    "SampledBCETerm.without_noise": Call(lambda: dr.SampledBCETerm().without_noise, dict),
    "InfoNCETerm.without_noise": Call(lambda: dr.InfoNCETerm().without_noise, dict),
    "PairTerm.without_noise": Call(lambda: dr.PairTerm().without_noise, dict),
    "SimplifiedObjective.__call__": Call(dr.SimplifiedObjective, losses),
    "WeightedObjective.__call__": Call(dr.WeightedObjective, losses),
    "ItemsObjective.__call__": Call(dr.ItemsObjective, items_step),
    "ItemsObjective.without_noise": Call(lambda: dr.ItemsObjective().without_noise, dict),
    "Gaps.training": Call(
        lambda: dr.Gaps(2).training,
        lambda: {"targets": torch.tensor([[2, 3], [4, -1]]), "width": 2, "generator": generator()},
    ),
    "WholeWindows.training": Call(
        lambda: dr.WholeWindows(2).training,
        lambda: {"targets": torch.tensor([[2, 3], [4, -1]]), "width": 2, "generator": generator()},
    ),
    "Queries.steps": Call(lambda: queries().steps, lambda: {"timesteps": torch.full((2, 1), STEPS)}, like("timesteps"),
                          arithmetic=True),
    "UnmaskSampler.sample": Call(lambda: unmask().sample, chain, like("start"), arithmetic=True),
    "UnmaskSampler.fill": Call(lambda: unmask().fill, chain, arithmetic=True),
    "Queries.last_visible": Call(lambda: queries().last_visible, lambda: {"states": gaussian(2, 3, DIM)}),
    "Queries.longest": Call(lambda: queries().longest, lambda: {"length": 3}, opaque=("length",)),
    "Queries.cut": Call(lambda: queries().cut, lambda: {"history": world.history()}),
    "Queries.blind": Call(lambda: queries().blind, lambda: {"null": torch.tensor([[True], [False]])}),
    "Queries.repeat": Call(lambda: queries().repeat, lambda: {"times": 2}),
    "Queries.next_item": Call(lambda: dr.Queries.next_item, lambda: {"lengths": torch.tensor([2, 3])}),
    "Queries.ending_at": Call(
        lambda: dr.Queries.ending_at, lambda: {"targets": torch.tensor([[2, -1]]), "k": 2, "width": 2}, of(dr.Queries)
    ),
    "TrainingStep.at": Call(lambda: dr.TrainingStep(**a_step()).at, lambda: {"name": "final"}),
    "ClassifierFreeGuide.hidden": Call(lambda: denoiser(dr.ClassifierFreeGuide).hidden, hidden),
    "Guide.hidden": Call(lambda: denoiser(dr.NoiselessDenoiser).hidden, hidden),
    "Guide.with_settings": Call(
        lambda: denoiser(dr.ClassifierFreeGuide).with_settings, lambda: {"scale": 2.0, "start": 0.2, "stop": 0.9},
        component,
    ),
    "ChainSampler.course": Call(
        lambda: dr.DDIMSampler(num_steps=2).course, lambda: {"num_timesteps": STEPS, "start": gaussian(2, 2, 1, DIM)}
    ),
    "StraightSampler.course": Call(
        lambda: dr.StraightSampler(num_steps=2).course,
        lambda: {"num_timesteps": STEPS, "start": gaussian(2, 2, 1, DIM)},
    ),
}  # fmt: skip

for _name, _make in heads().items():
    CALLS[f"{_name}.queries"] = Call(
        lambda make=_make: make().queries, lambda: {"latent": gaussian(3, DIM)},
        finite if _name == "WassersteinHead" else like("latent"), arithmetic=True,
    )  # fmt: skip
    CALLS[f"{_name}.keys"] = Call(lambda make=_make: make().keys, lambda: {"items": targets()})
    if _name not in ("CosineHead", "NormalizedHead"):
        CALLS[f"{_name}.bias"] = Call(lambda make=_make: make().bias, lambda: {"items": targets()})
for _name, _make in {
    "OneStepSampler": dr.OneStepSampler, "ChainSampler": dr.DDPMSampler, "DDIMSampler": dr.DDIMSampler,
    "EulerSampler": dr.EulerSampler, "StraightSampler": dr.StraightSampler,
    "HeunSampler": dr.HeunSampler, "DPMSolverSampler": dr.DPMSolverSampler,
}.items():  # fmt: skip
    CALLS[f"{_name}.sample"] = Call(lambda cls=_make: cls().sample, chain, like("start"), arithmetic=True)
for _name in ("LastItemSource", "HistorySource"):
    CALLS[f"{_name}.centre"] = Call(lambda name=_name: getattr(dr, name)().centre, centred)
CALLS["EncoderSource.centre"] = Call(lambda: dr.EncoderSource(DIM, 6, encoder="gru").eval().centre, centred)
for _cls in (dr.MaskProcess, dr.MixedProcess):
    CALLS |= {
        f"{_cls.__name__}.start": Call(
            lambda cls=_cls: cls(world.schedule()).start,
            lambda: {"shape": (2, 2, DIM), "generator": generator(), "device": torch.device("cpu"),
                     "dtype": torch.float32},
            opaque=("generator",) if _cls is dr.MaskProcess else (),
        ),
        f"{_cls.__name__}.corrupt": Call(
            lambda cls=_cls: cls(world.schedule()).corrupt,
            lambda: {"x0": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS), "generator": generator(),
                     "noise": None},
            lambda result, _: finite(result.xn, {}), arithmetic=True,
        ),
        f"{_cls.__name__}.step": Call(
            lambda cls=_cls: cls(world.schedule()).step, lambda: without(reverse_step(), "variance"),
            like("x0"), arithmetic=True,
        ),
        f"{_cls.__name__}.seen_steps": Call(
            lambda cls=_cls: cls(world.schedule()).seen_steps,
            lambda: {"xn": gaussian(2, 2, 1, DIM), "timesteps": torch.full((2, 2), STEPS)},
            opaque=("timesteps",) if _cls is dr.MaskProcess else (),
        ),
    }  # fmt: skip
CALLS |= {
    "WeibullProcess.start": Call(
        lambda: dr.WeibullProcess(world.schedule()).start,
        lambda: {"shape": (2, 2, DIM), "generator": generator(), "device": torch.device("cpu"), "dtype": torch.float32},
    ),
    "WeibullProcess.corrupt": Call(
        lambda: dr.WeibullProcess(world.schedule()).corrupt,
        lambda: {"x0": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS), "generator": generator(),
                 "noise": None},
        lambda result, _: finite(result.xn, {}), arithmetic=True,
    ),
    "WeibullProcess.step": Call(
        lambda: dr.WeibullProcess(world.schedule()).step, lambda: without(reverse_step(), "variance"), like("x0"),
        arithmetic=True,
    ),
}  # fmt: skip
CALLS["MixedProcess.evidence"] = Call(
    lambda: dr.MixedProcess(world.schedule()).evidence,
    lambda: {"xn": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS)}, arithmetic=True,
)  # fmt: skip
CALLS |= {
    "ReplacementProcess.start": Call(
        lambda: replacement().start,
        lambda: {"shape": (2, 2, DIM), "generator": generator(), "device": torch.device("cpu"),
                 "dtype": torch.float32},
    ),
    "ReplacementProcess.corrupt": Call(
        lambda: replacement().corrupt,
        lambda: {"x0": gaussian(2, 2, DIM), "timesteps": torch.full((2, 2), STEPS), "generator": generator(),
                 "noise": None},
        lambda result, _: finite(result.xn, {}), arithmetic=True,
    ),
    "ReplacementProcess.step": Call(
        lambda: replacement().step, lambda: without(reverse_step(), "variance"), like("x0"), arithmetic=True
    ),
    "ReplacementProcess.shown": Call(
        lambda: replacement().shown,
        lambda: {"items": targets(), "noise": torch.rand(3, DIM), "timesteps": torch.tensor([0, 1, STEPS])},
    ),
    "ReplacementProcess.log_probabilities": Call(
        lambda: replacement().log_probabilities,
        lambda: {"logits": gaussian(3, NUM_ITEMS), "timesteps": torch.tensor([1, 1, STEPS])}, lambda *_: True,
    ),
    "ReplacementProcess.reverse_probabilities": Call(
        lambda: replacement().reverse_probabilities,
        lambda: {"logits": gaussian(3, NUM_ITEMS), "items": targets(), "timesteps": torch.full((3,), STEPS),
                 "previous": torch.ones(3, dtype=torch.int64)},
    ),
    "ScoreEntropyTerm.__call__": Call(dr.ScoreEntropyTerm, replaced_losses),
}  # fmt: skip
for _cls in (dr.TargetOnly, dr.LastK, dr.WholeSequence, dr.Gaps):
    CALLS[f"{_cls.__name__}.max_noised"] = Call(
        lambda cls=_cls: cls().max_noised, lambda: {"max_length": 5},
        opaque=("max_length",) if _cls is dr.TargetOnly else (),
    )  # fmt: skip
    CALLS[f"{_cls.__name__}.queries"] = Call(
        lambda cls=_cls: cls().queries, lambda: {"targets": torch.tensor([[2], [3]]), "width": 4}
    )
CALLS["NoisingStrategy.serving"] = Call(
    lambda: dr.TargetOnly().serving, lambda: {"lengths": torch.tensor([2, 3]), "width": 1}
)
CALLS["Gaps.serving"] = Call(
    lambda: dr.Gaps().serving, lambda: {"lengths": torch.tensor([2, 3]), "width": 1}, opaque=("width",)
)
CALLS["LastK.serving"] = Call(
    lambda: dr.LastK(ahead=True).serving, lambda: {"lengths": torch.tensor([2, 3]), "width": 2}
)
TERMS = (
    dr.SquaredTerm, dr.CosineTerm, dr.CrossEntropyTerm, dr.BoundTerm, dr.BinaryTerm, dr.PairTerm, dr.SourceTerm,
    dr.ContrastiveTerm, dr.BPRTerm, dr.SampledBCETerm, dr.SeparationTerm,
)  # fmt: skip
for _cls in TERMS:
    CALLS[f"{_cls.__name__}.__call__"] = Call(_cls, losses)
CALLS["InfoNCETerm.__call__"] = Call(dr.InfoNCETerm, viewed)
CALLS["PenaltyTerm.__call__"] = Call(dr.KLTerm, penalised)
CALLS["LossTerm.weight_at"] = Call(lambda: dr.CosineTerm(0.5).weight_at, penalised)
CALLS["TrainingStep.penalty"] = Call(lambda: penalised()["step"].penalty, lambda: {"name": "kl"})
CALLS["KLTerm.weight_at"] = Call(lambda: dr.KLTerm(annealing_steps=3).weight_at, penalised)
CALLS["PreferenceTerm.__call__"] = Call(dr.PreferenceTerm, compared)
CALLS["ConsistencyTerm.__call__"] = Call(dr.ConsistencyTerm, adjacent)
OWN = (
    dr.TransformerDenoiser,
    dr.CausalTransformerDenoiser,
    dr.ConditionalMLPDenoiser,
    dr.JointDenoiser,
    dr.PlainDenoiser,
    dr.JudgedDenoiser,
    dr.RotaryStateDenoiser,
    dr.StateMLPDenoiser,
    dr.AddedLatentDenoiser,
    dr.AutoregressiveDenoiser,
    dr.BidirectionalDenoiser,
    dr.ClozeDenoiser,
    dr.StateDecoderDenoiser,
)
ENCODERS = (
    (dr.CausalTransformerEncoder, ""), (dr.GRUEncoder, "CausalEncoder"), (dr.VariationalEncoder, ""),
    (dr.AdversarialEncoder, ""),
)  # fmt: skip
for _cls, _name in ENCODERS:
    CALLS[f"{_name or _cls.__name__}.encode"] = Call(
        lambda cls=_cls: cls(DIM, 6).eval().encode, history, lambda *_: True
    )
    CALLS[f"{_name or _cls.__name__}.states"] = Call(
        lambda cls=_cls: cls(DIM, 6).eval().states,
        lambda cls=_cls: {"context": cls(DIM, 6).eval().encode(**history()), "visible": torch.tensor([[1, 2], [3, 1]])},
        lambda *_: True, ("context",), arithmetic=True,
    )  # fmt: skip
for _cls in (*OWN, *GUIDES):
    _own = _cls in (dr.NoiselessDenoiser, dr.ClassifierFreeGuide)  # what they inherit has the entry of Guide
    CALLS[f"{'Guide' if _own else _cls.__name__}.encode"] = Call(
        lambda cls=_cls: denoiser(cls).encode, history, lambda *_: True
    )
    CALLS[f"{'Guide' if _cls is dr.NoiselessDenoiser else _cls.__name__}.condition"] = Call(
        lambda cls=_cls: denoiser(cls).condition, lambda cls=_cls: conditioned(cls), lambda *_: True, ("context",)
    )
    CALLS[f"{_cls.__name__}.forward"] = Call(
        lambda cls=_cls: denoiser(cls).forward, lambda cls=_cls: corrupted(cls), like("xn"), ("condition",),
        arithmetic=True,
    )  # fmt: skip
