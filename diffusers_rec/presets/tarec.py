"""Mao et al. 2025, *On Efficiency-Effectiveness Trade-off of Diffusion-based Recommenders*: TA-Rec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def tarec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 11,
    dropout: float = 0.1,
    seed: int = 0,
) -> DiffRec:
    r"""Build TA-Rec as we read its text: DreamRec's network, made consistent along a chain, which serves in one step.

    Mao, Wu, Hu, Yang, Ji & Wang 2025, *On Efficiency-Effectiveness Trade-off of Diffusion-based Recommenders*, NeurIPS,
    arXiv 2510.17245. **We could read the text of the paper and its Algorithm 2, but no numbered equation, and not its
    code**, ``maowenyu-11/TA-Rec``. Nothing here was compared with that code.

    What was read:

    - Pretraining minimises :math:`\mathcal L_{\text{diff}} + \lambda_c \mathcal L_{\text{TCR}}`, the reconstruction of
      the next item and the consistency of predictions at adjacent steps. :math:`\lambda_c` is best in .4 to .8.
    - Finetuning minimises a preference loss, as Diffusion-DPO (Wallace et al. 2024), of the next item against one
      random item with the same noise (Algorithm 2). The history encoder is frozen, and the reference is the pretrained
      network. The strength is :math:`\frac12 \big( (1 - \frac nN) + (1 - \cos(x_0^+, x_0^-)) \big)`.
    - Serving is one step from noise, without guidance. Items are scored by inner products.
    - D is 64, or 256 for Zhihu, N is one of 500, 1000 and 2000, and histories have 10 items.

    =========  =====  =======
    Table 1    HR@20  NDCG@20
    =========  =====  =======
    YooChoose  .0615  .0406
    KuaiRec    .0540  .0442
    Zhihu      .0243  .0091
    =========  =====  =======

    Sequences of these data are split 8:1:1 by time. No table of this library has them.

    Our reading, and what differs on purpose:

    - **One stage instead of two.** All three losses are trained together, the consistency with :math:`\lambda_c` = .5
      and the preference with weight 1. The encoder is not frozen.
    - **No reference network.** The preference is :math:`-\log \sigma(\gamma (d^- - d^+))` with the mean squared errors
      :math:`d^\pm` of both items (:class:`~diffusers_rec.PreferenceTerm`). A reference would subtract its own errors.
    - **Consistency** is the mean squared difference of two predictions with the same noise, without a gradient through
      the earlier one (:class:`~diffusers_rec.ConsistencyTerm`). The text leaves these three open.
    - The random item is any other item. The text draws it from the batch in Sec. 4.3, and among items that the user has
      not interacted with in Sec. 4.4.
    - The network, its one layer and the initial vectors are those of :func:`dreamrec`. No history is hidden in
      training, because serving is not guided.
    - The schedule is DDPM's linear one with N = 1000. The text does not name it.
    - The recipe is that of ``dreamrec``. The text gives the range of the learning rate alone, 5e-5 to 1e-2.

    The paper's second stage is a second training, with weights that carry over::

        second = model.replace(objective={"terms": [preference]})
        second.denoiser.encoder.requires_grad_(False)

    where ``preference`` is the last term of ``model.objective.config()["terms"]``.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the history encoder.
        seed: Seed of the initial weights.
    """
    preference = {"name": "preference", "distance": "squared", "scale": 0.5, "at": "paired", "adaptive": True}
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "linear", "num_timesteps": 1000, "rescale": False},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={"name": "state-mlp", "encoder": {"name": "single-layer", "dropout": dropout}, "mlp_layers": 1},
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["squared", {"name": "consistency", "weight": 0.5}, preference]},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
