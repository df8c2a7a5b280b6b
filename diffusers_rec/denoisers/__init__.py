"""Denoisers, one backbone per file; :mod:`diffusers_rec.denoisers.base` defines their contract."""

from diffusers_rec.denoisers.added_latent import AddedLatentDenoiser
from diffusers_rec.denoisers.autoregressive import AutoregressiveDenoiser
from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.denoisers.bidirectional import BidirectionalDenoiser
from diffusers_rec.denoisers.causal_transformer import CausalTransformerDenoiser
from diffusers_rec.denoisers.cloze import ClozeDenoiser
from diffusers_rec.denoisers.conditional_mlp import ConditionalMLPDenoiser
from diffusers_rec.denoisers.joint import JointDenoiser
from diffusers_rec.denoisers.judged import JudgedDenoiser
from diffusers_rec.denoisers.macaron import MacaronDenoiser
from diffusers_rec.denoisers.plain import PlainDenoiser
from diffusers_rec.denoisers.rotary_state import RotaryStateDenoiser
from diffusers_rec.denoisers.state_decoder import StateDecoderDenoiser
from diffusers_rec.denoisers.state_mlp import StateMLPDenoiser
from diffusers_rec.denoisers.transformer import TransformerDenoiser
from diffusers_rec.denoisers.velocity_mlp import VelocityMLPDenoiser

__all__ = [
    "AddedLatentDenoiser",
    "AutoregressiveDenoiser",
    "BidirectionalDenoiser",
    "CausalTransformerDenoiser",
    "ClozeDenoiser",
    "ConditionalMLPDenoiser",
    "Denoiser",
    "JointDenoiser",
    "JudgedDenoiser",
    "MacaronDenoiser",
    "PlainDenoiser",
    "RotaryStateDenoiser",
    "StateDecoderDenoiser",
    "StateMLPDenoiser",
    "TransformerDenoiser",
    "VelocityMLPDenoiser",
]
