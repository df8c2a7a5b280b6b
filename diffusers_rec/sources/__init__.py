"""Learned sources, one per file; :mod:`diffusers_rec.processes.source` defines the contract and the fixed ones."""

from diffusers_rec.sources.encoder import EncoderSource

__all__ = ["EncoderSource"]
