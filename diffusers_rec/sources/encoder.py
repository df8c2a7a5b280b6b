r"""A learned source: the centre is the state of a history encoder.

.. math:: c = \mathrm{Encoder}(x_0^{(1)}, \dots, x_0^{(v)})[v]

Li et al. 2025, *Preference Trajectory Modeling via Flow Matching for Sequential Recommendation* (FlowRec).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from diffusers_rec.core.errors import check_int, check_same
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.encoders import EncoderSpec, encoder_of
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.source import Source


class EncoderSource(nn.Module, Source, name="encoder"):
    """The state of a history encoder after the v visible items as centre.

    It learns from every loss of a corrupted latent. The term ``source`` of a weighted objective also trains it to rank
    the next item by itself.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence.
        encoder: History encoder.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = "causal-transformer",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dim = check_int("dim", dim, minimum=1)
        self.max_length = check_int("max_length", max_length, minimum=2)
        self.seed = check_int("seed", seed, minimum=0)
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, self.dim, self.max_length)
        if self.encoder.penalised:
            raise ValueError(
                f"EncoderSource: the encoder {self.encoder.registered_name!r} has the penalties "
                f"{', '.join(self.encoder.penalised)}, and no term of a loss reads those of a source. Use another "
                "encoder, or this one in the denoiser."
            )

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("dim of the source", self.dim, "dim of the embedding", model.embedding.dim)
        if self.max_length < model.max_length:
            raise ValueError(
                f"The parts do not fit: the source takes {self.max_length} positions, the model has max_length="
                f"{model.max_length}. Raise max_length of the source."
            )

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        latents = history.latent()
        weight = next(self.encoder.parameters())
        context = self.encoder(history.with_latents(latents.to(weight.dtype)))
        state = self.encoder.after(context, queries.visible, weight.new_zeros(self.dim))
        return state.to(latents.dtype)[:, :, None]
