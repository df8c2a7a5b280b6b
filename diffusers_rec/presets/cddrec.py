"""Wang et al. 2024, *Conditional Denoising Diffusion for Sequential Recommendation*: CDDRec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec

_SETTINGS = {"beauty": (30, 0.002), "toys": (25, 0.002), "office": (20, 0.04), "tools": (20, 0.08)}  # N and beta_N


@explained
def cddrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 21,
    dropout: float = 0.2,
    settings: str = "beauty",
    seed: int = 0,
) -> DiffRec:
    r"""Build CDDRec with the settings of one of its data sets: one block, four heads, D 128, histories of 20 items.

    Wang, Liu, Yang & Yu 2024, *Conditional Denoising Diffusion for Sequential Recommendation*, PAKDD; arXiv 2304.11433;
    code ``YuWang-1024/CDDRec``, commit edfe0ff, without a licence. The settings are those of its commands: N is 30 for
    Beauty, 25 for Toys, and 20 otherwise; the last beta is .002, or .04 for Office and .08 for Tools. We could not read
    the numbers of the paper's tables.

    **The noise never reaches the network.** Its decoder sees the state of the history and the step. The noised latent
    is what the loss compares the prediction with, and for Beauty, at most 3 % of its variance is noise if latents
    have unit variance. They start at a standard deviation of .02. A chain ends at the prediction of the last step,
    whatever its start: that is the one-step inference of the code.

    Given the same weights and draws, prediction, both losses and the end of the chain are those of the code for one
    user with a full history. What differs, and why:

    - **Users are independent.** The decoder of the code is given ``(batch, position, D)`` where its layer expects the
      positions first: each position attends to the same position of the other users, and a recommendation depends on
      who else is in the batch. With a single user, this attention is the linear map that it is here.
    - **There is no augmented view**, which gives the code two further losses. One weighs positions by the *number* of
      their item, the other compares the padding, too. Of its three augmentations only the reordering is ever drawn,
      because a list is compared with a number.
    - The loss takes the prediction itself. The code adds noise of the posterior to it, at a standard deviation below
      .05 for Beauty, and so it does when serving.
    - One step is drawn for each history, with the weight 1/n. The code adds up all steps with these weights. The
      contrast is therefore between pairs of different steps, and it is exact; the commands approximate it by random
      features.
    - Negatives are 128 items that a batch shares. The code draws one for each position, among items that the user does
      not have.
    - Items are ranked by the inner product of the loss. The code trains by it and ranks by the cosine. It sets the
      scores of seen items to 0, above those of all items with a negative cosine; here they are excluded.
    - Places count from the oldest item, so that a state does not depend on the length of the sequence. Dropout also
      applies to the residuals of the encoder, for which the code has a rate of 0.
    - A history may be empty. Its state is a vector that training leaves as it is.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of encoder and decoder.
        settings: Data set of the paper whose schedule to use: ``"beauty"``, ``"toys"``, ``"office"`` or ``"tools"``.
        seed: Seed of the initial weights.
    """
    num_timesteps, beta_end = _SETTINGS[check_choice("settings", settings, tuple(_SETTINGS))]
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "linear", "num_timesteps": num_timesteps, "beta_end": beta_end, "rescale": False},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.02},
        denoiser={"name": "state-decoder", "num_layers": 1, "num_heads": 4, "dropout": dropout},
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["binary", {"name": "pair-contrastive", "weight": 0.3}]},
        negatives={"name": "uniform", "count": 128},
        sampler={"name": "ddpm", "variance": "posterior"},
        seeds=1,
        seed=seed,
    )
