"""The strategy ``every-item``."""

from __future__ import annotations

from typing import Any

from diffusers_rec.processes.noising.target import TargetOnly


class EveryItem(TargetOnly, name="every-item"):
    """Noises the target and, in training, copies of all items of the history, each item with a step of its own.

    The denoiser sees the history both clean and noised; it must read the copies, as ``autoregressive`` does. When
    serving, they are the clean latents. Chen et al. 2025, *ADRec*; independent levels of noise under a causal mask are
    *diffusion forcing* (Chen et al. 2024).
    """

    noises_history = True

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if not model.denoiser.reads_copies:
            raise ValueError(
                f"The parts do not fit: the noising {self.registered_name!r} noises copies of the history, but the "
                f"denoiser {model.denoiser.registered_name!r} does not read them. Use the denoiser 'autoregressive', "
                "or the noising 'target'."
            )
        if model.source.registered_name != "zero":
            raise ValueError(
                f"The parts do not fit: the noising {self.registered_name!r} noises copies of the history about zero, "
                f"but the source {model.source.registered_name!r} centres the target elsewhere. Use source='zero', or "
                "the noising 'target'."
            )
