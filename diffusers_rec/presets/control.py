"""The noise-free control of a model."""

from __future__ import annotations

import torch

from diffusers_rec.core.entrances import explained
from diffusers_rec.guidance import unwrapped
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.replacing import copy_buffers


@explained
def control(model: Recommender) -> DiffRec:
    """Build the noise-free control: the same parts and initial weights, without noise and reconstruction.

    The difference between a model and its control, trained on the same data in the same way, is the effect of the
    diffusion: of the noise, and of the terms, weights of steps and guides that are defined only with it. The control's
    loss is the terms that are defined without noise: the cross-entropy, or those of ``cddrec`` with the clean latent of
    the item and one weight. Distances beside a cross-entropy are dropped. A model without such a term keeps its
    distances, and its preferences between them at a constant scale: ``dreamrec``, ``preferdiff`` and ``tarec``. The
    control has no guides. If the model corrupts items of the history, the control predicts only the target, and its
    history is clean.

    Args:
        model: A model, trained or not; its weights are not copied.

    Raises:
        ValueError: The denoiser predicts items, or another quantity than the clean latent.
        TypeError: The model is no DiffRec, such as one of user vectors.
    """
    if not isinstance(model, DiffRec):
        raise TypeError(
            f"control: a {type(model).__name__} has no noise-free control; expected a DiffRec. Compare the model with "
            "popularity and item-to-item, or with control(best(items))."
        )
    if model.denoiser.prediction in ("noise", "velocity"):
        raise ValueError(
            f"control: the denoiser {unwrapped(model.denoiser).registered_name!r} predicts "
            f"{model.denoiser.prediction}, which is not defined without noise. Use the control of a model that "
            "predicts x0, such as control(best(items))."
        )
    config = model.config()
    length = torch.tensor([model.history_length])
    seen = model.noising.serving(length, model.noising.max_noised(model.max_length)).visible
    if model.denoiser.prediction == "items":
        trained = (
            ", and trains the next one without noise already"
            if "next" in model.objective.passes
            else " at corrupted positions alone, which a control does not have"
        )
        raise ValueError(
            f"control: the denoiser {model.denoiser.registered_name!r} predicts items{trained}. Use the control of a "
            "model that ranks, such as control(best(items))."
        )
    # One draw and one step are enough, because nothing is random.
    plain = {
        **config,
        "source": "zero",
        "noising": config["noising"] if bool(seen == length) and not model.noising.noises_history else "target",
        "denoiser": {"name": "noiseless", "base": unwrapped(model.denoiser).config()},
        "objective": model.objective.without_noise(),
        "timesteps": "uniform",
        "sampler": "one-step",
        "seeds": 1,
    }
    plain_model = DiffRec.from_config(model.vocabulary, plain)
    copy_buffers(model.embedding, plain_model.embedding)  # features of the items are data, and so are their factors
    copy_buffers(unwrapped(model.denoiser), unwrapped(plain_model.denoiser))
    return plain_model
