r"""Learned filters in the frequency domain: the encoder of FMLP-Rec.

The items of a prefix stand at the end of a window of fixed length L; the places before them hold zero. Each block
filters every dimension along the window, and then mixes the dimensions at each place:

.. math:: x^0 = \mathrm{dropout}(\mathrm{LN}(e_i + p_i)), \qquad
          u = \mathrm{LN}\big( x + \mathcal F^{-1}( W \odot \mathcal F(x) ) \big), \qquad
          x' = \mathrm{LN}(u + W_2\, \mathrm{GELU}(W_1 u + b_1) + b_2)

F is the discrete Fourier transform over the L places, and W has a complex number for each frequency and dimension. By
the convolution theorem this is a circular convolution with a kernel as long as the window: every place sees all others,
so that a prefix is a sequence of its own. The state is the output at the last place. Zhou et al. 2022, *Filter-enhanced
MLP is All You Need for Sequential Recommendation* (FMLP-Rec).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.encoders.base import PrefixEncoder
from diffusers_rec.nn.attention import MAX_LAYERS
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.positional import EPS, bert_weights


class FilterEncoder(PrefixEncoder, name="filter"):
    """Filters over a window of ``max_length`` places, see the docstring of the module.

    Args:
        dim: Width D.
        max_length: Largest number of items, and length L of the window.
        num_layers: Number of blocks.
        hidden_dim: Hidden width of the feed-forward layers; 4 D if None.
        dropout: Dropout rate of the input, the filters and the feed-forward layers.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        hidden_dim: int | None = None,
        dropout: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers = check_int("num_layers", num_layers, minimum=1, maximum=MAX_LAYERS)
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        self.dropout = check_float("dropout", dropout, minimum=0, below=1)
        with self.seeded():
            self.place = nn.Embedding(max_length, dim)
            self.blocks = nn.ModuleList(
                _FilterBlock(dim, max_length, self.hidden_dim or 4 * dim, self.dropout) for _ in range(num_layers)
            )
            self.apply(bert_weights)
        self.norm = nn.LayerNorm(dim, EPS)
        self.drop = Dropout(self.dropout)

    def last(self, latents: Tensor, lengths: Tensor) -> Tensor:
        source = torch.arange(-self.max_length, 0, device=lengths.device) + lengths[:, None]
        index = source.clamp(0, latents.shape[1] - 1)[..., None].expand(-1, -1, self.dim)
        window = latents.gather(1, index).masked_fill((source < 0)[..., None], 0.0)
        x = self.drop(self.norm(window + self.place.weight))
        for block in self.blocks:
            x = block(x)
        return x[:, -1]


class _FilterBlock(nn.Module):
    """A filter of each dimension and a feed-forward, each with a residual and a layer norm."""

    def __init__(self, dim: int, length: int, hidden_dim: int, dropout: float) -> None:
        super().__init__()
        self.response = nn.Parameter(torch.randn(length // 2 + 1, dim, 2) * 0.02)  # real and imaginary parts
        self.feed_forward = nn.Sequential(nn.Linear(dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, dim))
        self.filter_norm, self.feed_forward_norm = nn.LayerNorm(dim, EPS), nn.LayerNorm(dim, EPS)
        self.dropout = Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map windows ``(N, L, D)`` to windows."""
        wide = torch.promote_types(x.dtype, torch.float32)  # there are no complex numbers of half the width
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.fft.rfft(x.to(wide), dim=1) * torch.view_as_complex(self.response.to(wide))
            filtered = torch.fft.irfft(spectrum, n=x.shape[1], dim=1).to(x.dtype)
        u = self.filter_norm(x + self.dropout(filtered))
        return self.feed_forward_norm(u + self.dropout(self.feed_forward(u)))
