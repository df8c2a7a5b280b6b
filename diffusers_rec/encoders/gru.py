r"""A recurrent network over the items.

.. math:: s_i = W\, \mathrm{GRU}(e_1, \dots, e_i) + b

Cho et al. 2014 for the unit; Hidasi et al. 2016, *Session-based Recommendations with Recurrent Neural Networks*
(GRU4Rec), in the form of RecBole: no biases in the unit, dropout of the items, and a linear layer behind.
"""

from __future__ import annotations

from torch import Tensor, nn

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.encoders.base import CausalEncoder
from diffusers_rec.nn.attention import MAX_LAYERS
from diffusers_rec.nn.dropout import Dropout


class GRUEncoder(CausalEncoder, name="gru"):
    """Gated recurrent units.

    Args:
        dim: Width D.
        max_length: Largest number of items.
        hidden_dim: Width of the recurrent state; D if None.
        num_layers: Number of layers of units.
        dropout: Dropout rate of the items.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    any_length = False

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        hidden_dim: int | None = None,
        num_layers: int = 1,
        dropout: float = 0.3,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        self.num_layers = check_int("num_layers", num_layers, minimum=1, maximum=MAX_LAYERS)
        self.dropout = check_float("dropout", dropout, minimum=0, below=1)
        hidden = self.hidden_dim or dim
        with self.seeded():
            self.units = nn.GRU(dim, hidden, num_layers, bias=False, batch_first=True)
            for weight in self.units.parameters():
                nn.init.xavier_uniform_(weight)
            self.out = nn.Linear(hidden, dim)
        self.drop = Dropout(self.dropout)

    def sequence(self, latents: Tensor) -> Tensor:
        states: Tensor = self.out(self.units(self.drop(latents))[0])
        return states
