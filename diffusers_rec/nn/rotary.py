r"""Rotary positions: a score of attention depends on the distance between two tokens.

Each pair of neighbouring dimensions :math:`(x_{2j}, x_{2j+1})` of a query or a key at place p is rotated by the angle
:math:`p \cdot 10000^{-2j/d}`. Su et al. 2021, *RoFormer*.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def rotated(x: Tensor, places: Tensor) -> Tensor:
    """Rotate the queries or keys of attention.

    Args:
        x: Queries or keys, ``(..., L, d)`` with an even d.
        places: Places of the tokens, broadcastable to ``(..., L)``.

    Returns:
        Rotated vectors, like ``x``.
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    pair = torch.arange(0, x.shape[-1], 2, device=x.device, dtype=wide)
    angle = places[..., None].to(wide) * 10000.0 ** (-pair / x.shape[-1])
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    even, odd = x[..., ::2], x[..., 1::2]
    pairs = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return rearrange(pairs, "... d two -> ... (d two)")
