"""History encoders, one per file; :mod:`diffusers_rec.encoders.base` defines their contract."""

from diffusers_rec.encoders.base import CausalEncoder, EncoderSpec, HistoryEncoder, PrefixEncoder, encoder_of
from diffusers_rec.encoders.causal_transformer import CausalTransformerEncoder
from diffusers_rec.encoders.gru import GRUEncoder
from diffusers_rec.encoders.single_layer import SingleLayerEncoder
from diffusers_rec.encoders.stochastic import StochasticEncoder

__all__ = [
    "CausalEncoder",
    "CausalTransformerEncoder",
    "EncoderSpec",
    "GRUEncoder",
    "HistoryEncoder",
    "PrefixEncoder",
    "SingleLayerEncoder",
    "StochasticEncoder",
    "encoder_of",
]
