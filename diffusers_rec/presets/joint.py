"""A model that proposes several items together and fills gaps, beside ranking the next item."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_class, check_int, check_same
from diffusers_rec.core.registry import Config
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers import ConditionalMLPDenoiser, JointDenoiser, PlainDenoiser
from diffusers_rec.guidance import unwrapped
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def joint(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 50,
    k: int | None = None,
    per_row: int = 12,
    dropout: float = 0.5,
    low_pass: float = 0.7,
    ranker: DiffRec | None = None,
    seed: int = 0,
) -> DiffRec:
    """Build the model for :meth:`DiffRec.complete <diffusers_rec.DiffRec.complete>` and
    :meth:`DiffRec.slate <diffusers_rec.DiffRec.slate>`.

    The history encoder, the head and the memory are those of :func:`best`. A small bidirectional network over up to k
    positions predicts items, from Gaussian noise in half of the queries and from blanks in the other half, with any
    number of gaps among them. The next item is trained at every position, as in ``best``, so that ``recommend`` ranks
    as well.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted ones.
        k: Largest number of positions that are filled in together; 5, or as many as leave room for a history, if None.
        per_row: Number of queries that a row of a training batch gives.
        dropout: Dropout rate of the history encoder; sparse data need a higher rate.
        low_pass: Share of the low-pass filter in the attention of the history encoder.
        ranker: Trained model to start from, such as one of :func:`best` or its control, with the same vocabulary, sizes
            and history encoder. Item vectors, head and history encoder are copied; so is an embedding of features.
        seed: Seed of the initial weights.

    Raises:
        ValueError: k items leave no room for a history, or the ranker has another vocabulary, other sizes or another
            history encoder.
    """
    if k is None:
        k = max(1, min(5, check_int("max_length", max_length, minimum=1) - 1))
    model = DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "cosine", "num_timesteps": 1000, "log_snr_shift": -1.0},
        process={"name": "mixed", "blank": 0.5},
        noising={"name": "gaps", "k": k, "per_row": per_row},
        timesteps={"name": "uniform", "start_share": 0.25},
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={
            "name": "joint",
            "encoder": {"name": "causal-transformer", "dropout": dropout, "low_pass": low_pass},
        },
        head="tied",
        objective="items",
        memory={"name": "transitions", "share": 0.4},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
    return model if ranker is None else _started_from(model, ranker)


def _started_from(model: DiffRec, ranker: DiffRec) -> DiffRec:
    """The model with the item vectors, head and history encoder of a ranker."""
    check_class("ranker", ranker, DiffRec)
    mine, theirs = unwrapped(model.denoiser), unwrapped(ranker.denoiser)
    if not isinstance(theirs, ConditionalMLPDenoiser | JointDenoiser | PlainDenoiser):
        raise ValueError(
            "ranker: expected the denoiser 'conditional-mlp', 'joint' or 'plain', got "
            f"{theirs.registered_name!r}, whose history encoder is another one. Use a model of best() or its control."
        )
    if ranker.vocabulary != model.vocabulary:
        raise ValueError("ranker: its vocabulary is another one. Build the model with items=ranker.vocabulary.")
    own, its = (_settings(each.encoder, "dropout") for each in (mine, theirs))
    for name in own:  # the class first
        check_same(f"{name} of the model", own[name], f"{name} of the ranker", its.get(name))
    if ranker.embedding.takes_features:
        model = model.replace(embedding=ranker.embedding.config())
    for name in ("embedding", "head"):
        part, given = getattr(model, name), getattr(ranker, name)
        check_same(f"{name} of the model", _settings(part), f"{name} of the ranker", _settings(given))
        part.load_state_dict(given.state_dict())
    encoder = {name: value for name, value in theirs.state_dict().items() if name.startswith(("encoder.", "empty"))}
    model.denoiser.load_state_dict(encoder, strict=False)
    return model


def _settings(part: Any, *without: str) -> Config:
    """Settings of a part, whatever its initial weights."""
    return {name: value for name, value in part.config().items() if name not in ("seed", *without)}
