"""What the figures share that look at one trained model: where it comes from, and chains whose ends are samples.

In one step a well-trained model rightly ignores the draw, so seeds change little. Where they should matter is in
reverse chains, and there the exact posterior on top of the model's own predictions is faithful to them.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

from benchmarks.harness import Row, at_least
from benchmarks.paper.trials import base, trained
from diffusers_rec import CosineSchedule, DDPMSampler, DiffRec, OneStepSampler, PosteriorDenoiser, Sampler, Split
from diffusers_rec.evaluation.audit import chain_lengths


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """``--model`` and ``--steps``."""
    parser.add_argument("--model", type=Path, help="folder of a trained model; the preset's trial when absent")
    parser.add_argument("--steps", type=at_least(1), default=50, help="of the reverse chains")


def served(dataset: str, split: Split, options: argparse.Namespace) -> tuple[DiffRec, Row]:
    """The model of ``--model``, or the preset's, trained or read; and how it was trained, as far as is known.

    Raises:
        ValueError: ``--model`` came with several data sets, or was trained on another one; or the chains have more
            steps than the model. Told before training.
    """
    if options.model is None:
        trial = base(options.preset, dataset)
        untrained = trial.build(split.train.vocabulary, options.seed)
        chain_lengths([options.steps], untrained.schedule.num_timesteps, name="--steps")
        model, _, about = trained(trial, dataset, split, options.seed, options)
        return model.eval(), about
    model = DiffRec.from_pretrained(options.model)
    if len(getattr(options, "datasets", [dataset])) > 1:
        raise ValueError("--model is one model: name the data set that it was trained on with --dataset.")
    if model.vocabulary != split.train.vocabulary:
        raise ValueError(f"--model {options.model} was trained on other items than those of {dataset}.")
    chain_lengths([options.steps], model.schedule.num_timesteps, name="--steps")
    return model, {"settings": json.dumps({"model": model.config()}, sort_keys=True)}


def ways(model: DiffRec, options: argparse.Namespace) -> dict[str, tuple[DiffRec, Sampler]]:
    """A model and a sampler for each way of serving, by name."""
    return {
        "one step": (model, OneStepSampler()),
        f"chains of {options.steps} steps": (
            with_exact_posterior(model),
            DDPMSampler("posterior", num_steps=options.steps),
        ),
    }


def with_exact_posterior(model: DiffRec) -> DiffRec:
    """A copy whose reverse chains draw items from what the model predicts in one step."""
    sampling = copy.deepcopy(model)
    sampling.schedule = CosineSchedule(model.schedule.num_timesteps)  # nearly clean at its first step
    sampling.denoiser = PosteriorDenoiser(
        sampling.denoiser, embedding=sampling.embedding, head=sampling.head, schedule=sampling.schedule
    )
    return sampling.eval()
