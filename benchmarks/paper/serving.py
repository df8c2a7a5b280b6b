"""The common part of the programs that examine one trained model: its source, and two ways to serve it.

In one step a well-trained model ignores the noise draw, so seeds change little. They matter in reverse chains, where
the exact posterior on top of the model's own predictions draws items as often as these predict.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.harness import Row, at_least
from benchmarks.paper.running import train_or_resume
from benchmarks.paper.settings import base
from diffusers_rec import CosineSchedule, DDPMSampler, DiffRec, OneStepSampler, Sampler, Split
from diffusers_rec.evaluation.audit import chain_lengths


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--steps``."""
    parser.add_argument("--model", type=Path, help="folder of a trained model; the preset's trial by default")
    parser.add_argument("--steps", type=at_least(1), default=50, help="number of steps of the reverse chains")


def trained_model(dataset: str, split: Split, options: argparse.Namespace) -> tuple[DiffRec, Row]:
    """The model of ``--model``, or that of the preset's trial; and a record of its training, as far as it is known.

    Raises:
        ValueError: ``--model`` came with several data sets, or was trained on another one; or the chains have more
            steps than the model. All of it is checked before training.
    """
    if options.model is None:
        trial = base(options.preset, dataset)
        chain_lengths([options.steps], trial.model["schedule"]["num_timesteps"], name="--steps")
        model, _, record = train_or_resume(trial, split, options.seed, options)
        return model.eval(), record
    model = DiffRec.from_pretrained(options.model)
    if len(getattr(options, "datasets", [dataset])) > 1:
        raise ValueError("--model is one model: name the data set that it was trained on with --dataset.")
    if model.vocabulary != split.train.vocabulary:
        raise ValueError(f"--model {options.model} was trained on other items than those of {dataset}.")
    chain_lengths([options.steps], model.schedule.num_timesteps, name="--steps")
    return model, {"settings": json.dumps({"model": model.config()}, sort_keys=True)}


def servings(model: DiffRec, options: argparse.Namespace) -> dict[str, tuple[DiffRec, Sampler]]:
    """A model and a sampler by the name of the way of serving."""
    return {
        "one step": (model, OneStepSampler()),
        f"chains of {options.steps} steps": (
            with_exact_posterior(model),
            DDPMSampler("posterior", num_steps=options.steps),
        ),
    }


def with_exact_posterior(model: DiffRec) -> DiffRec:
    """A copy whose reverse chains draw items from what the model predicts in one step."""
    schedule = CosineSchedule(model.schedule.num_timesteps)  # almost clean at its first step
    return model.replace(schedule=schedule, denoiser="posterior").eval()
