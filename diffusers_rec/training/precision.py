"""The precision of the matrix products of a training, where the settings leave it to the machine."""

from __future__ import annotations

import torch


def has_fast_bf16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bf16 faster than in fp32.

    CPUs without a unit for it emulate bf16, at a tenth of the speed of fp32. GPUs have one from compute capability 8.0.
    Of other devices nothing is known.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    units = "_is_avx512_bf16_supported", "_is_amx_tile_supported"  # not in every version of PyTorch
    return device.type == "cpu" and any(getattr(torch.cpu, unit, bool)() for unit in units)


def resolved(precision: str, device: torch.device) -> str:
    """``"fp32"`` or ``"bf16"``, also for ``"auto"``."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_bf16(device) else "fp32"
