"""History encoders, one per file; :mod:`diffusers_rec.encoders.base` defines their contract."""

from diffusers_rec.encoders.adversarial import AdversarialEncoder
from diffusers_rec.encoders.base import CausalEncoder, EncoderSpec, HistoryEncoder, PrefixEncoder, encoder_of
from diffusers_rec.encoders.bidirectional_transformer import BidirectionalTransformerEncoder
from diffusers_rec.encoders.causal_transformer import CausalTransformerEncoder
from diffusers_rec.encoders.filter import FilterEncoder
from diffusers_rec.encoders.gru import GRUEncoder
from diffusers_rec.encoders.positional_transformer import PositionalTransformerEncoder
from diffusers_rec.encoders.single_layer import SingleLayerEncoder
from diffusers_rec.encoders.stochastic import StochasticEncoder
from diffusers_rec.encoders.variational import VariationalEncoder

__all__ = [
    "AdversarialEncoder",
    "BidirectionalTransformerEncoder",
    "CausalEncoder",
    "CausalTransformerEncoder",
    "EncoderSpec",
    "FilterEncoder",
    "GRUEncoder",
    "HistoryEncoder",
    "PositionalTransformerEncoder",
    "PrefixEncoder",
    "SingleLayerEncoder",
    "StochasticEncoder",
    "VariationalEncoder",
    "encoder_of",
]
