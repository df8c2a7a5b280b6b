"""Li et al. 2025, *Preference Trajectory Modeling via Flow Matching for Sequential Recommendation*: FlowRec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def flowrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 51,
    dropout: float = 0.3,
    seed: int = 0,
) -> DiffRec:
    r"""Build FlowRec as we read its summaries: a flow from the state of the history to the next item.

    Li, Cheng, Ye, Liu & Chen 2025, *Preference Trajectory Modeling via Flow Matching for Sequential Recommendation*,
    arXiv 2508.17618. No public code was found. **We could read the abstract and a third party's summary of the method,
    not the paper.** Settings and printed numbers are therefore not the paper's, and nothing here was compared with it.

    What was read:

    - The start of the flow is not Gaussian noise but a *behavior-based prior*: the last output of a Transformer over
      the vectors of the history. A cross-entropy over all items trains this output to rank the next item.
    - A learned vector field leads from the start to the vector of the next item.
    - A *single-step alignment loss* with positive and negative samples is added, so that few steps are enough.

    Our reading of it, by parts:

    - The source ``encoder`` is the prior, and the term ``source`` its cross-entropy.
    - The path is :math:`x_n = (1 - t)\, x_0 + t\, (c + \epsilon)` with centre c, t = n / N and standard Gaussian
      :math:`\epsilon`. The summary mentions no noise. Without it, x_n would be a function of the history and the
      target, and a vector field that reads the history would compute the target from it at every t < 1.
    - The vector field ``velocity-mlp`` also reads the history, by an encoder of its own. Its loss is the squared error
      of the velocity :math:`c + \epsilon - x_0`, at uniform t.
    - The alignment loss is the cross-entropy of :math:`\hat x_0 = x_N - v_\theta(x_N, N)`, a single Euler step from the
      start, for the next item against all others.
    - Serving takes one step, as the alignment loss trains it. ``sampler={"name": "euler", "num_steps": 5}`` takes more.
    - All weights of losses are 1. Width, layers, dropout and recipe are choices of this library. Seen items are kept in
      validation.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of both history encoders.
        seed: Seed of the initial weights.
    """
    encoder = {"name": "causal-transformer", "dropout": dropout}
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "rectified", "num_timesteps": 1000},
        source={"name": "encoder", "encoder": encoder},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={"name": "velocity-mlp", "encoder": encoder},
        head="tied",
        objective={
            "name": "weighted",
            "terms": [{"name": "squared", "of": "output"}, {"name": "cross-entropy", "at": "final"}, "source"],
        },
        sampler="one-step",
        seeds=10,
        seed=seed,
    )
