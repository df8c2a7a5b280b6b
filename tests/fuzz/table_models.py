"""Valid calls of the pipeline, training, evaluation and what is built on them."""

from __future__ import annotations

from typing import Any

import pandas as pd
import torch

import diffusers_rec as dr
from diffusers_rec import evaluation, presets, training
from diffusers_rec.integrations.faiss import ItemIndex

from . import world
from .soundness import Call, finite, of, probabilities, serves
from .world import DIM, NUM_ITEMS, STEPS, gaussian, generator

HISTORIES = [["i0", "i3"], ["i1"]]


def served() -> dict[str, Any]:
    return {"histories": HISTORIES, "seeds": 2, "sampler": "one-step"}


def frame() -> pd.DataFrame:
    return pd.DataFrame({"user": ["u", "u", "w"], "item": ["i0", "i3", "i1"], "time": [1, 2, 3]})


def indexed() -> dict[str, Any]:
    return {"latents": gaussian(2, 3, DIM), "k": 3, "excluded": torch.tensor([[1, -1], [2, 3]]), "oversample": 2}


def jointly() -> dr.DiffRec:
    model = presets.joint(world.vocabulary(), dim=DIM, max_length=6, k=2)
    return model.replace(schedule={"num_timesteps": STEPS}).eval()


def completed(result: dr.Completions, _: Any) -> bool:
    chances = [p for row in result.marginals for gap in row for _, p in gap]
    return finite(result.log_likelihood, {}) and probabilities(chances, {}) and len(result) == len(result.items)


def members() -> dr.Ensemble:
    return dr.Ensemble([world.model(seed=1), world.model(seed=2)]).eval()


def guided() -> dr.CategoryVectorDiffusion:
    return presets.d3rec(world.vocabulary(), categories=bags(), dim=8)


def latents() -> dr.UserLatentDiffusion:
    return dr.UserLatentDiffusion(world.vocabulary(), schedule=world.schedule(), latent_dim=4, widths=[DIM])


def plain_training() -> dict[str, Any]:
    return {"epochs": 1, "batch_targets": 16, "average_decay": 0.5}


def recommended(result: dr.Recommendations, _: Any) -> bool:
    return finite(result, {}) and probabilities([result.scores, result.std], {})


def scored(result: Any, _: Any) -> bool:
    """The probabilities of a user's items sum to one."""
    sums = sum(chunk.log_probabilities.exp().sum(1) for chunk in result)
    return bool(((sums - 1).abs() < 1e-4).all())


def reported(result: evaluation.Report, _: Any) -> bool:
    return probabilities([*result.excluding_seen.values(), *result.including_seen.values()], {})


def ranked() -> dict[str, Any]:
    return {"ranks": torch.tensor([1, 4, 2]), "users": torch.tensor([0, 0, 1])}


def reports() -> tuple[evaluation.Report, evaluation.Report]:
    first = evaluation.evaluate_popularity(world.sequences(), world.holdout())
    return first, evaluation.evaluate_item_to_item(world.sequences(), world.holdout())


LISTS = torch.tensor([[0, 1, 2], [3, 1, -1]])


def listed() -> dict[str, Any]:
    return {"items": LISTS.clone(), "num_items": NUM_ITEMS}


def bags() -> dr.AttributeBags:
    return dr.attribute_bags(world.vocabulary(), [["a", "b"], ["b"]] * (NUM_ITEMS // 2))


def held_out() -> dict[str, Any]:
    return {"train": world.sequences(), "holdout": world.holdout(), "ks": [2, 5]}


CALLS: dict[str, Call] = {
    "DiffRec": Call(
        lambda: dr.DiffRec,
        lambda: {"items": world.vocabulary(), **world.SETTINGS, "noising": "target", "timesteps": "uniform",
                 "embedding": "table", "head": "linear", "objective": "simplified", "negatives": "all",
                 "sampler": "one-step", "seed": 0},
        serves,
    ),
    "DiffRec.from_config": Call(
        lambda: dr.DiffRec.from_config, lambda: {"items": world.vocabulary(), "config": world.model().config()}, serves
    ),
    "DiffRec.config": Call(lambda: world.model().config, dict),
    "DiffRec.prepare": Call(
        lambda: world.model().prepare, lambda: {"sequences": world.sequences(), "examples": "last-target"}, serves
    ),
    "DiffRec.replace": Call(
        lambda: world.model().replace,
        lambda: {"schedule": {"log_snr_shift": -1.0}, "sampler": "ddim", "seeds": 2}, serves,
    ),
    "DiffRec.calibrate": Call(
        lambda: world.model().prepare(world.sequences()).calibrate,
        lambda: {"validation": world.holdout(), "users": 2, "seed": 0},
    ),
    "Calibration": Call(
        lambda: dr.Calibration, lambda: {"temperature": 1.5, "memory": 0.1, "popularity": 0.2}
    ),
    "Calibration.of": Call(
        lambda: dr.Calibration.of, lambda: {"spec": {"temperature": 1.5, "memory": 0.1, "popularity": 0.2}}
    ),
    "Calibration.config": Call(lambda: dr.Calibration().config, dict),
    "DiffRec.extend": Call(lambda: world.model().extend, lambda: {"items": ["new", "newer"], "features": None}, serves),
    "DiffRec.check_fit": Call(lambda: world.model().check_fit, dict),
    "DiffRec.save_pretrained": Call(
        lambda: world.model().save_pretrained, lambda: {"directory": "new"},
        lambda _, given: serves(dr.DiffRec.from_pretrained(given["directory"]), {}),
    ),
    "DiffRec.from_pretrained": Call(
        lambda: dr.DiffRec.from_pretrained, lambda: {"directory": "model", "revision": None, "token": None}, serves
    ),
    "DiffRec.forward": Call(
        lambda: world.model().train().forward, lambda: {"batch": world.batch(), "generator": generator()}
    ),
    "DiffRec.loss": Call(
        lambda: world.model().train().loss, lambda: {"batch": world.batch(), "generator": generator()}
    ),
    "DiffRec.update": Call(
        lambda: world.model().update,
        lambda: {"observed": {"timesteps": torch.tensor([1, STEPS]), "per_latent": torch.tensor([0.5, 1.0])}},
    ),
    "DiffRec.sample": Call(lambda: world.model().sample, served),
    "DiffRec.complete": Call(
        lambda: jointly().complete,
        lambda: {"sequences": [["i0", dr.GAP, "i3"], ["i1"]], "samples": 2, "exclude_seen": True,
                 "candidates": [f"i{v}" for v in range(1, 7)], "exclude": ["i2"], "sampler": "unmask", "batch_size": 2},
        completed,
    ),
    "DiffRec.slate": Call(
        lambda: jointly().slate,
        lambda: {"histories": HISTORIES, "k": 2, "samples": [3, 4], "exclude_seen": True,
                 "candidates": [f"i{v}" for v in range(1, 7)], "exclude": ["i2"], "unknown": "error",
                 "sampler": "unmask", "batch_size": 2},
        completed,
    ),
    "Recommender.sample_next": Call(
        lambda: world.model().sample_next,
        lambda: {"histories": HISTORIES, "samples": 2, "exclude_seen": True, "candidates": ["i4", "i5", "i6"],
                 "exclude": ["i6"], "unknown": "error", "batch_size": 2},
        recommended,
    ),
    "evaluate_gap": Call(
        lambda: evaluation.evaluate_gap,
        lambda: {"model": jointly(), "holdout": world.holdout(), "place": 0, "known": [], "exclude_seen": False,
                 "batch_size": 2},
        of(evaluation.GapReport),
    ),
    "evaluate_joint": Call(
        lambda: evaluation.evaluate_joint,
        lambda: {"model": jointly(), "holdout": world.holdout(), "k": 1, "order": "random", "orders": 2, "join": True,
                 "exclude_seen": False, "seed": 0, "batch_size": 2},
    ),
    "GapReport.hit_rate": Call(
        lambda: evaluation.evaluate_gap(jointly(), world.holdout(), 0, exclude_seen=False).hit_rate, lambda: {"k": 2},
        probabilities,
    ),
    "joint": Call(
        lambda: presets.joint,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "k": 2, "per_row": 2, "dropout": 0.1,
                 "low_pass": 0.5, "seed": 0},
        serves,
    ),
    "DiffRec.next_item_latents": Call(
        lambda: world.model().next_item_latents,
        lambda: {"history": world.history(), "seeds": 2, "sampler": "ddim"},
    ),
    "DiffRec.one_step": Call(
        lambda: world.model().one_step,
        lambda: {"k": 3, "exclude_seen": False, "sampler": "one-step"},
        lambda module, _: finite(module(*module.example())[1], {}),
    ),
    "DiffRec.score": Call(
        lambda: lambda **given: list(world.model().score(**given)),
        lambda: {"history": world.history(), "seeds": 2, "sampler": "ddim"},
        scored,
    ),
    "DiffRec.without_memory": Call(lambda: world.model().without_memory, dict, serves),
    "Recommender.without_memory": Call(lambda: world.model(memory="none").without_memory, dict, serves),
    "Scorer.train": Call(lambda: world.model().train, dict, serves),
    "Scores": Call(
        lambda: dr.Scores,
        lambda: {"users": slice(0, 2), "items": slice(0, 3), "log_probabilities": torch.zeros(2, 3).log_softmax(1),
                 "std": None},
        lambda result, _: scored([result], {}),
    ),
    "Scores.of_logits": Call(
        lambda: dr.Scores.of_logits, lambda: {"logits": gaussian(2, 3)}, lambda result, _: scored([result], {}),
        arithmetic=True,
    ),
    "Scores.std_of": Call(
        lambda: dr.Scores.of_logits(gaussian(2, 3)).std_of, lambda: {"columns": torch.zeros(2, 1, dtype=torch.int64)}
    ),
    "Scores.reported": Call(
        lambda: dr.Scores.of_logits(gaussian(2, 3)).reported, lambda: {"columns": torch.zeros(2, 1, dtype=torch.int64)}
    ),
    "Recommender.predict_proba": Call(lambda: world.model().predict_proba, served, probabilities),
    "Recommender.recommend": Call(
        lambda: world.model().recommend,
        lambda: {**served(), "k": 2, "exclude_seen": True, "candidates": ["i4", "i5", "i6"], "batch_size": 1},
        recommended,
    ),
    "Recommender.list_overlap": Call(
        lambda: world.model().list_overlap,
        lambda: {"histories": HISTORIES, "k": 2, "unknown": "error", "seeds": 2, "sampler": "one-step",
                 "batch_size": 2},
        lambda result, _: 0 <= result <= 1,
    ),
    "recommend_frame": Call(
        lambda: dr.recommend_frame,
        lambda: {"model": world.model(), "frame": frame(), "k": 2, "candidates": ["i4", "i5", "i6"], "exclude": ["i6"],
                 "exclude_seen": True, "unknown": "error", "empty": "error", "seeds": 2, "sampler": "one-step",
                 "batch_size": 1},
        lambda result, _: probabilities(result["score"].tolist(), {}),
    ),
    "recommend_file": Call(
        lambda: dr.recommend_file,
        lambda: {"model": world.model(), "path": "log.csv", "out": "recommended.csv", "k": 2, "format": "csv",
                 "sort": False, "seeds": 2, "batch_size": 2},
        lambda result, _: result == 6,
    ),
    "Recommendations.to_frame": Call(
        lambda: world.model().recommend(HISTORIES, 2).to_frame, lambda: {"users": ["ann", "bob"], "backend": "polars"}
    ),
    "Scorer.scores": Call(lambda: world.model().scores, lambda: {"items": torch.tensor([[1, 2], [3, 0]])}),
    "Scorer.top_k": Call(
        lambda: world.model().top_k,
        lambda: {"items": torch.tensor([[1, 2], [3, 0]]), "lengths": torch.tensor([2, 1]), "k": 2},
    ),
    "Recommender.encode_histories": Call(
        lambda: world.model().encode_histories, lambda: {"histories": HISTORIES}
    ),
    "Recommendations.__getitem__": Call(
        lambda: world.model().recommend(HISTORIES, 2).__getitem__, lambda: {"row": 1}, errors=(IndexError,)
    ),
    "Ensemble": Call(lambda: dr.Ensemble, lambda: {"members": [world.model(seed=1), world.model(seed=2)]}, serves),
    "Ensemble.from_pretrained": Call(
        lambda: dr.Ensemble.from_pretrained, lambda: {"directories": ["model"]}, serves
    ),
    "Ensemble.score": Call(
        lambda: lambda **given: list(members().score(**given)),
        lambda: {"history": world.history(), "seeds": 2, "sampler": "ddim"},
        scored,
    ),
    "Ensemble.without_memory": Call(lambda: members().without_memory, dict, serves),
    "chunked_cross_entropy": Call(
        lambda: dr.chunked_cross_entropy,
        lambda: {"queries": gaussian(3, DIM), "keys": gaussian(NUM_ITEMS, DIM), "bias": torch.zeros(NUM_ITEMS),
                 "target": torch.tensor([0, 1, 2]), "gradient_dtype": torch.bfloat16, "weights": torch.ones(3),
                 "chunk_scores": 8},
        arithmetic=True,
    ),
    "audit": Call(
        lambda: evaluation.audit,
        lambda: {"model": world.model(), "holdout": world.holdout(), "users": 3, "seeds": 2, "steps": [1, STEPS],
                 "levels": 2, "seed": 0, "progress": False},
    ),
    "evaluate": Call(
        lambda: evaluation.evaluate,
        lambda: {"model": world.model(), "holdout": world.holdout(), "ks": [2, 5], "seeds": 2, "sampler": "one-step",
                 "memory": True, "batch_size": 4, "progress": False},
        reported,
    ),
    "evaluate_item_to_item": Call(lambda: evaluation.evaluate_item_to_item, held_out, reported),
    "evaluate_popularity": Call(lambda: evaluation.evaluate_popularity, held_out, reported),
    "evaluate_memory": Call(
        lambda: evaluation.evaluate_memory,
        lambda: {"memory": world.memory(), "holdout": world.holdout(), "ks": [2, 5]}, reported,
    ),
    "Report.metrics": Call(
        lambda: evaluation.evaluate(world.model(), world.holdout()).metrics,
        lambda: {"names": ["mrr", "recall@2"], "exclude_seen": False},
        lambda result, _: probabilities([*result.values()], {}),
    ),
    "UserRanks.by_user": Call(
        lambda: reports()[0].ranks.by_user, lambda: {"metric": "recall@2", "exclude_seen": False}, probabilities
    ),
    "UserRanks.metrics": Call(
        lambda: reports()[0].ranks.metrics, lambda: {"names": ["mrr", "precision@2"], "exclude_seen": False},
        lambda result, _: probabilities([*result.values()], {}),
    ),
    "UserRanks.to_frame": Call(lambda: reports()[0].ranks.to_frame, lambda: {"backend": "polars"}),
    "paired_bootstrap": Call(
        lambda: evaluation.paired_bootstrap,
        lambda: {"first": reports()[0], "second": reports()[1], "metric": "mrr", "exclude_seen": False, "samples": 20,
                 "confidence": 0.9, "seed": 0},
        lambda result, _: finite(result, {}) and probabilities(result.p_value, {}),
    ),
    "evaluate_lists": Call(
        lambda: evaluation.evaluate_lists,
        lambda: {"model": world.model(), "train": world.sequences(), "holdout": world.holdout(), "k": 3,
                 "attributes": bags(), "exclude_seen": True, "seeds": 2, "sampler": "one-step", "batch_size": 4,
                 "progress": False},
    ),
    "coverage": Call(lambda: evaluation.coverage, listed, probabilities),
    "gini": Call(lambda: evaluation.gini, listed, probabilities),
    "novelty": Call(lambda: evaluation.novelty, lambda: {"items": LISTS.clone(), "train": world.sequences()}),
    "diversity": Call(
        lambda: evaluation.diversity, lambda: {"items": LISTS.clone(), "attributes": bags()}, probabilities
    ),
    "expected_calibration_error": Call(
        lambda: evaluation.expected_calibration_error,
        lambda: {"stated": torch.tensor([0.1, 0.4, 0.9]), "true": torch.tensor([0.0, 1.0, 1.0]), "bins": 2},
        lambda result, _: 0 <= result <= 1, arithmetic=True,
    ),
    "hit_rate": Call(lambda: evaluation.hit_rate, lambda: {**ranked(), "k": 2}, probabilities),
    "mrr": Call(lambda: evaluation.mrr, lambda: {**ranked(), "k": 2}, probabilities),
    "ndcg": Call(lambda: evaluation.ndcg, lambda: {**ranked(), "k": 2}, probabilities),
    "precision": Call(lambda: evaluation.precision, lambda: {**ranked(), "k": 2}, probabilities),
    "recall": Call(lambda: evaluation.recall, lambda: {**ranked(), "k": 2}, probabilities),
    "metric_by_user": Call(
        lambda: evaluation.metric_by_user, lambda: {**ranked(), "name": "ndcg@2"}, probabilities
    ),
    "ranking_metrics": Call(
        lambda: evaluation.ranking_metrics, lambda: {**ranked(), "ks": [2, 5]},
        lambda result, _: probabilities([*result.values()], {}),
    ),
    "TrainingConfig": Call(lambda: training.TrainingConfig, training.TrainingConfig().config),
    "TrainingConfig.rate": Call(lambda: training.TrainingConfig().rate, lambda: {"epochs_done": 1.5, "initial": 0.5}),
    "TrainingConfig.config": Call(lambda: training.TrainingConfig().config, dict),
    "TrainingConfig.names": Call(lambda: training.TrainingConfig.names, dict),
    "train": Call(
        lambda: training.train,
        lambda: {"model": world.model(), "sequences": world.sequences(), "validation": world.holdout(),
                 "config": training.TrainingConfig(**plain_training()), "directory": "run", "device": "cpu",
                 "progress": False, "optimizer": torch.optim.Adagrad, "metric": lambda model, holdout: 0.5,
                 "callbacks": [training.Callback()], "on_epoch": lambda record: None, "trackers": ["tensorboard"]},
        opaque=("optimizer", "metric", "callbacks", "on_epoch"),
    ),
    "step_generator": Call(
        lambda: training.step_generator, lambda: {"seed": 0, "epoch": 1, "step": 2, "process": 0}
    ),
    "best": Call(
        lambda: presets.best,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "low_pass": 0.5, "seed": 0},
        serves,
    ),
    "du2023": Call(
        lambda: presets.du2023,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "diffurec": Call(
        lambda: presets.diffurec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "ediffurec": Call(
        lambda: presets.ediffurec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "cl4srec": Call(
        lambda: presets.cl4srec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "duorec": Call(
        lambda: presets.duorec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "dreamrec": Call(
        lambda: presets.dreamrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "zhihu",
                 "seed": 0},
        serves,
    ),
    "preferdiff": Call(
        lambda: presets.preferdiff,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "toys",
                 "seed": 0},
        serves,
    ),
    "adrec": Call(
        lambda: presets.adrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "fmrec": Call(
        lambda: presets.fmrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "flowrec": Call(
        lambda: presets.flowrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "maskgr": Call(
        lambda: presets.maskgr,
        lambda: {"items": world.vocabulary(), "dim": 16, "max_length": 6, "dropout": 0.1, "num_layers": 1,
                 "hidden_dim": 5, "seed": 0},
        serves,
    ),
    "gru4rec": Call(
        lambda: presets.gru4rec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "hidden_dim": 5, "seed": 0},
        serves,
    ),
    "sasrec": Call(
        lambda: presets.sasrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "bert4rec": Call(
        lambda: presets.bert4rec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "mask_share": 0.3,
                 "seed": 0},
        serves,
    ),
    "prefergrow": Call(
        lambda: presets.prefergrow,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "steam",
                 "seed": 0},
        serves,
    ),
    "tarec": Call(
        lambda: presets.tarec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "cddrec": Call(
        lambda: presets.cddrec,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "toys",
                 "seed": 0},
        serves,
    ),
    "stosa": Call(
        lambda: presets.stosa,
        lambda: {"items": world.vocabulary(), "dim": 8, "max_length": 6, "dropout": 0.1, "settings": "paper",
                 "seed": 0},
        serves,
    ),
    "vsan": Call(
        lambda: presets.vsan,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "acvae": Call(
        lambda: presets.acvae,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "mfgan": Call(
        lambda: presets.mfgan,
        lambda: {"items": world.vocabulary(), "categories": bags(), "dim": DIM, "max_length": 6, "dropout": 0.1,
                 "seed": 0},
        serves,
    ),
    "wang2023": Call(
        lambda: presets.wang2023,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "ml-1m",
                 "seed": 0},
        serves,
    ),
    "wang2023_temporal": Call(
        lambda: presets.wang2023_temporal,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "settings": "yelp",
                 "seed": 0},
        serves,
    ),
    "wang2023_latent": Call(
        lambda: presets.wang2023_latent,
        lambda: {"items": world.vocabulary(), "clusters": [0, 1] * (NUM_ITEMS // 2), "dim": DIM, "max_length": 6,
                 "dropout": 0.1, "settings": "yelp", "seed": 0},
        serves,
    ),
    "d3rec": Call(
        lambda: presets.d3rec,
        lambda: {"items": world.vocabulary(), "categories": bags(), "dim": DIM, "max_length": 6, "dropout": 0.1,
                 "settings": "game", "seed": 0},
        serves,
    ),
    "flowcf": Call(
        lambda: presets.flowcf,
        lambda: {"items": world.vocabulary(), "dim": DIM, "max_length": 6, "dropout": 0.1, "seed": 0}, serves,
    ),
    "UserVectorDiffusion": Call(
        lambda: dr.UserVectorDiffusion,
        lambda: {"items": world.vocabulary(), "schedule": "sqrt", "widths": [DIM], "max_length": 6,
                 "oldest_weight": 0.5, "timesteps": "uniform", "weighting": "uniform", "step_dim": 4, "dropout": 0.1,
                 "temperature": 0.5, "seed": 0},
        serves,
    ),
    "CategoryVectorDiffusion": Call(
        lambda: dr.CategoryVectorDiffusion,
        lambda: {"items": world.vocabulary(), "num_categories": 2, "schedule": "sqrt", "widths": [8], "max_length": 6,
                 "timesteps": "uniform", "weighting": "uniform", "balance": [0.5, 1.5], "scale": 0.5, "drop": 0.1,
                 "regularisation": 0.1, "rounds": 2, "step_dim": 4, "dropout": 0.1, "temperature": 0.5, "seed": 0},
        serves,
    ),
    "CategoryVectorDiffusion.set_categories": Call(
        lambda: guided().set_categories, lambda: {"categories": bags()}, serves
    ),
    "CategoryVectorDiffusion.prepare": Call(
        lambda: guided().prepare, lambda: {"sequences": world.sequences(), "examples": "last-target"}, serves,
    ),
    "CategoryVectorDiffusion.preferences": Call(
        lambda: guided().preferences, lambda: {"history": world.history()}, probabilities
    ),
    "CategoryVectorDiffusion.denoise": Call(lambda: guided().denoise, lambda: {"history": world.history()}, finite),
    "CategoryVectorDiffusion.forward": Call(
        lambda: guided().forward, lambda: {"batch": world.batch(), "generator": generator()}
    ),
    "UserLatentDiffusion": Call(
        lambda: dr.UserLatentDiffusion,
        lambda: {"items": world.vocabulary(), "schedule": "sqrt", "clusters": [0, 1] * (NUM_ITEMS // 2),
                 "latent_dim": 4, "widths": [DIM], "max_length": 6, "oldest_weight": 0.5, "timesteps": "uniform",
                 "weighting": "uniform", "bound_scale": 0.1, "divergence_scale": 0.2, "divergence_steps": 5,
                 "step_dim": 4, "dropout": 0.1, "encoder_dropout": 0.1, "temperature": 0.5, "seed": 0},
        serves,
    ),
    "UserLatentDiffusion.encode": Call(lambda: latents().encode, lambda: {"vectors": gaussian(2, NUM_ITEMS)}, finite),
    "UserLatentDiffusion.denoise": Call(lambda: latents().denoise, lambda: {"history": world.history()}, finite),
    "UserLatentDiffusion.forward": Call(
        lambda: latents().forward, lambda: {"batch": world.batch(), "generator": generator()}
    ),
    "UserLatentDiffusion.update": Call(
        lambda: latents().update,
        lambda: {"observed": {"timesteps": torch.tensor([1, 2]), "per_latent": torch.tensor([0.5, 0.1])}},
    ),
    "UserVectorFlow": Call(
        lambda: dr.UserVectorFlow,
        lambda: {"items": world.vocabulary(), "num_timesteps": 4, "num_steps": 3, "widths": [DIM, 2], "max_length": 6,
                 "timesteps": "importance", "step_dim": 4, "dropout": 0.1, "temperature": 0.5, "seed": 0},
        serves,
    ),
    "UserVectorFlow.prepare": Call(
        lambda: dr.UserVectorFlow(world.vocabulary(), widths=[DIM]).prepare,
        lambda: {"sequences": world.sequences(), "examples": "last-target"}, serves,
    ),
    "load_pretrained": Call(
        lambda: dr.load_pretrained, lambda: {"directory": "model", "revision": None, "token": None}, serves
    ),
    "control": Call(lambda: presets.control, lambda: {"model": world.model()}, serves),
    "BFloat16Index": Call(lambda: dr.BFloat16Index, lambda: {"head": world.head(), "extra": 2}),
    "BFloat16Index.check": Call(
        lambda: dr.BFloat16Index(world.head()).check, lambda: {"head": world.head()}
    ),
    "ItemIndex": Call(
        lambda: ItemIndex,
        lambda: {"head": world.head(), "factory": "IVF2,Flat", "num_tail": 4, "nprobe": 1},
        lambda result, _: finite(result.top_k(gaussian(1, 1, DIM), 2), {}),
    ),
    "ItemIndex of a graph": Call(
        lambda: ItemIndex,
        lambda: {"head": world.head(), "factory": "HNSW4", "efConstruction": 4, "efSearch": 4},
        lambda result, _: finite(result.top_k(gaussian(1, 1, DIM), 2), {}),
    ),
    "ItemIndex.save": Call(lambda: world.index().save, lambda: {"path": "new.safetensors"}),
    "ItemIndex.load": Call(
        lambda: ItemIndex.load, lambda: {"path": "index.safetensors", "head": world.head()},
        lambda result, _: finite(result.top_k(gaussian(1, 1, DIM), 2), {}),
    ),
    "ItemIndex.top_k": Call(
        lambda: world.index().top_k, lambda: {**indexed(), "verify": True},
        lambda result, _: finite(result, {}) and probabilities([result.scores], {}),
    ),
    "ItemIndex.recall": Call(lambda: world.index().recall, indexed, probabilities),
}  # fmt: skip
