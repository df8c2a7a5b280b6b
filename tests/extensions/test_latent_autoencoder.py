r"""Latent diffusion: given item vectors are encoded into narrow latents, and decoded by the head.

The embedding encodes the vector w_v (F numbers) as E(w_v) (D < F numbers), on which diffusion runs. The head decodes a
latent into F numbers, which score the items by their given vectors. A term of its own keeps the autoencoder faithful:
:math:`\|w_v - \mathrm{decode}(E(w_v))\|^2`.
"""

from __future__ import annotations

import torch
from torch import nn

from diffusers_rec import DiffRec, ItemEmbedding, ItemHead, LossTerm, SyntheticWorld
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.items.embeddings import rows
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train

WIDE, DIM = 12, 8


def network(inner, outer, seed):
    with isolated_rng(seed):
        return nn.Sequential(nn.Linear(inner, 32), nn.GELU(), nn.Linear(32, outer))


class EncodedEmbedding(ItemEmbedding, name="encoded"):
    def __init__(self, num_items: int, dim: int = DIM, *, wide: int = WIDE, scale: str = "unit", seed: int = 0):
        super().__init__(num_items, dim, scale=scale)
        self.wide, self.seed = wide, seed
        self.encoder = network(wide, dim, seed)
        self.register_buffer("given", torch.zeros(num_items, wide))

    def vectors(self, items=None):
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder(self.wide_vectors(items))

    def wide_vectors(self, items=None):
        if not self.complete:
            raise ValueError("The wide vectors are not set. Call model.embedding.set_features(vectors).")
        return self.given if items is None else rows(self.given, items)

    @property
    def takes_features(self):
        return True

    @property
    def complete(self):
        return not self.given.is_meta and bool(self.given.any())

    def set_features(self, features, *, first=0):
        self.given[first:] = features
        return self


class DecodingHead(ItemHead, name="decoding"):
    requires = frozenset({"embedding"})

    def __init__(self, embedding: ItemEmbedding, *, temperature: float = 1.0, seed: int = 0):
        super().__init__()
        self._held = (embedding,)  # outside the module tree: the pipeline saves it
        self.temperature, self.seed = temperature, seed
        self.decoder = network(embedding.dim, embedding.wide, seed)

    @property
    def embedding(self):
        return self._held[0]

    def queries(self, latent):
        exact = latent.dtype  # scores are float32 at the least, whatever the weights are
        return self.decoder(latent.to(self.embedding.dtype)).to(exact) / self.temperature

    def keys(self, items=None):
        return self.embedding.wide_vectors(items)


class FaithfulTerm(LossTerm, name="faithful"):
    """The decoded latent is the given vector. It does not depend on the step, so it is one number for the batch."""

    def __call__(self, step):
        with torch.autocast(step.x0.device.type, enabled=False):
            return (step.head.queries(step.x0) - step.head.keys(step.items)).square().mean()

    def without_noise(self):
        return self.config()


def vectors(items):
    """Wide vectors that three numbers each explain."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(items, 3, generator=generator) @ torch.randn(3, WIDE, generator=generator)


def embedding(num_items=7, dim=DIM, seed=0):
    return EncodedEmbedding(num_items, dim, seed=seed).set_features(vectors(num_items))


def test_each_part_keeps_its_contract():
    check_component(embedding, waive=["config_round_trips"])  # a config holds no features
    fixed_keys = "the_loss_has_gradients_for_latents_and_items"
    check_component(lambda seed=0: DecodingHead(embedding(), seed=seed), waive=[fixed_keys])
    check_component(FaithfulTerm, waive=["gradients_reach_the_declared_passes"])  # it judges no prediction


def test_latents_decode_to_the_vectors_that_they_encode():
    sequences = SyntheticWorld(24, num_groups=2).sample(40, min_length=8, max_length=8).sequences()
    model = DiffRec(
        sequences.vocabulary,
        dim=DIM,
        max_length=8,
        schedule={"name": "sqrt", "num_timesteps": 20},
        embedding="encoded",
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 1},
        },
        head="decoding",
        objective={"name": "weighted", "terms": ["squared", "cross-entropy", {"name": "faithful", "weight": 10.0}]},
    )
    model.embedding.set_features(vectors(24))
    config = TrainingConfig(epochs=25, examples="all-positions", batch_targets=140, learning_rate=1e-2)
    history = train(model, sequences, config=config, device="cpu").history
    assert history[-1]["cross-entropy"] < 0.9 * history[0]["cross-entropy"]
    wide = model.embedding.wide_vectors()
    error = (model.head.queries(model.embedding.table()) - wide).square().sum()
    assert error < 0.2 * (wide - wide.mean(0)).square().sum()  # 1 is what a constant leaves
