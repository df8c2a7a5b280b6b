"""History encoders, one per file; :mod:`diffusers_rec.encoders.base` defines their contract."""

from diffusers_rec.encoders.base import CausalEncoder, EncoderSpec, HistoryEncoder, PrefixEncoder, encoder_of
from diffusers_rec.encoders.causal_transformer import CausalTransformerEncoder
from diffusers_rec.encoders.gru import GRUEncoder
from diffusers_rec.encoders.single_layer import SingleLayerEncoder

__all__ = [
    "CausalEncoder",
    "CausalTransformerEncoder",
    "EncoderSpec",
    "GRUEncoder",
    "HistoryEncoder",
    "PrefixEncoder",
    "SingleLayerEncoder",
    "encoder_of",
]
