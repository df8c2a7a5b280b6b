"""Presets: one function a recipe, which returns the pipeline that it describes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

import torch

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


def paper(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 256,
    max_length: int = 50,
    dropout: float = 0.3,
    seed: int = 0,
) -> DiffRec:
    """DiffRec as in Du et al. 2023, Sec. 5.1.4: two layers, two heads, D 256, L 50, sqrt schedule, N 1000, ten seeds.

    Where the paper leaves the scale of Eq. 18 open, the losses are means: over the D dimensions, and over n. Where it
    leaves open how E starts, its vectors have a standard deviation of .1 in each dimension: at 1 the noised latent
    names its item at most steps, and training learns to copy.

    Args:
        items: that can be recommended.
        dim: D.
        max_length: positions in a sequence, the noised one included.
        dropout: .3 on Beauty and Toys, .2 on ML-1M.
        seed: of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "sqrt", "num_timesteps": 1000},
        noising="target",
        timesteps="importance",
        embedding={"name": "table", "scale": "learned", "init_std": 0.1},
        denoiser={"name": "transformer", "num_layers": 2, "num_heads": 2, "dropout": dropout},
        head="linear",
        objective="simplified",
        sampler="one-step",
        seeds=10,
        seed=seed,
    )


def best(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 50,
    dropout: float = 0.5,
    low_pass: float = 0.7,
    seed: int = 0,
) -> DiffRec:
    """What learns best so far: the ranking is learned where inference starts, the denoiser beside it.

    A causal history encoder, its attention beside a low-pass filter, with a small denoising perceptron; the
    cross-entropy at n = N for every target, a cosine reconstruction at a sampled step with a tenth of the weight;
    latents of unit variance, and ten times more noise for the signal than the sqrt schedule alone has, for at this
    width an item stays recognisable under milder noise. A memory of transitions has two fifths of the ranking: what is
    rare but regular is counted rather than learned.
    ``benchmarks/paper/recipes.py`` compares most of these choices with leaving them out.

    Args:
        items: that can be recommended.
        dim: D.
        max_length: positions in a sequence, the noised one included.
        dropout: of the history encoder; sparse data wants more of it.
        low_pass: share of the filter in the attention.
        seed: of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "sqrt", "num_timesteps": 1000, "log_snr_shift": -math.log(10)},
        noising="target",
        timesteps="importance",
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={"name": "conditional-mlp", "num_layers": 2, "num_heads": 2, "dropout": dropout, "low_pass": low_pass},
        head="tied",
        objective={
            "name": "simplified",
            "distance": "cosine",
            "reconstruction_weight": 0.1,
            "recommend_from": "start",
        },
        memory={"name": "transitions", "share": 0.4},
        sampler="one-step",
        seeds=10,
        seed=seed,
    )


@explained
def control(model: DiffRec) -> DiffRec:
    """A model's plain twin: the same parts and initial weights, with the noise and the reconstruction switched off.

    What the diffusion adds to a result is its distance from the twin's, trained on the same data in the same way.

    Where the model noises items of the history, the twin, which would not see them at all, has the target alone as its
    question; it ranks by the ``base`` of a ``posterior`` denoiser, and in one step.

    Args:
        model: trained or not; its weights are not taken over.
    """
    config = model.config()
    base = config["denoiser"]
    while base["name"] in ("posterior", "noiseless"):
        base = base["base"]
    denoiser = {"name": "noiseless", "base": base}
    length = torch.tensor([model.history_length])
    seen = model.noising.serving(length, model.noising.max_noised(model.max_length)).visible
    noising = config["noising"] if bool(seen == length) else "target"
    # All that draws is silent now: one draw and one step say everything.
    plain = {
        **config, "noising": noising, "denoiser": denoiser, "objective": model.objective.without_noise(),
        "timesteps": "uniform", "sampler": "one-step", "seeds": 1,
    }  # fmt: skip
    return DiffRec.from_config(model.vocabulary, plain)


PRESETS = {"best": best, "paper": paper}
