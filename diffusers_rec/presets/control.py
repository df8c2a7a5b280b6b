"""The noise-free control of a model."""

from __future__ import annotations

import torch

from diffusers_rec.core.entrances import explained
from diffusers_rec.guidance import unwrapped
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.replacing import copy_buffers


@explained
def control(model: DiffRec) -> DiffRec:
    """The same parts and initial weights as a model's, without the noise and the reconstruction.

    The difference between the results of a model and of its control, trained on the same data in the same way, is what
    diffusion contributes. Guides are taken off. Where the model corrupts items of the history, which its control would
    not see at all, the control predicts the target alone.

    Args:
        model: A model, trained or not; its weights are not taken over.
    """
    config = model.config()
    length = torch.tensor([model.history_length])
    seen = model.noising.serving(length, model.noising.max_noised(model.max_length)).visible
    # Nothing is drawn any more: one draw and one step are enough.
    plain = {
        **config,
        "source": "zero",
        "noising": config["noising"] if bool(seen == length) else "target",
        "denoiser": {"name": "noiseless", "base": unwrapped(model.denoiser).config()},
        "objective": model.objective.without_noise(),
        "timesteps": "uniform",
        "sampler": "one-step",
        "seeds": 1,
    }
    plain_model = DiffRec.from_config(model.vocabulary, plain)
    copy_buffers(model.embedding, plain_model.embedding)  # features of the items, which are data
    return plain_model
