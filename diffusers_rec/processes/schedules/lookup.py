"""Tables over timesteps, in the dtype and on the device of the latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

MAX_TIMESTEPS = 1_000_000
"""Maximum N; a schedule has about ten tables of N numbers."""


class Tables:
    """Named float64 tables ``(N+1,)`` on the CPU, indexed by timesteps.

    Args:
        exact: Tables by name; they must not be changed.
    """

    def __init__(self, exact: Mapping[str, Tensor]) -> None:
        self.exact = dict(exact)
        self.num_timesteps = len(next(iter(self.exact.values()))) - 1
        self._views = {name: table.numpy() for name, table in self.exact.items()}
        self._cast: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return self.exact[name]

    def numbers(self, timestep: int, names: Sequence[str]) -> list[float]:
        """Values of the named tables at one step, as Python floats.

        Raises:
            ValueError: The step is outside 0..N.
        """
        if not 0 <= timestep <= self.num_timesteps:
            raise ValueError(f"timesteps must lie in 0..{self.num_timesteps}, got {timestep}.")
        return [float(self._views[name][timestep]) for name in names]

    def at(self, like: Tensor, timesteps: Tensor, *names: str, first: int = 0) -> list[Tensor]:
        """Values of the named tables at ``timesteps``, with axes that broadcast over ``like``.

        Args:
            like: Latents, ``(B, ..., D)``.
            timesteps: Integers whose axes are the leading axes of ``like``.
            names: Names of the tables.
            first: Smallest allowed step.

        Raises:
            ValueError: A step is outside ``first``..N (checked only on the CPU), or the axes of ``timesteps`` are not
                the leading axes of ``like``.
            TypeError: The latents are not floating-point, or the timesteps are not integers.
        """
        timesteps = torch.as_tensor(timesteps)
        shape, dtype = timesteps.shape, timesteps.dtype
        if not like.is_floating_point():
            raise TypeError(f"The latents must be floating point, got {like.dtype}. Embed the items first.")
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
            raise TypeError(f"timesteps must be integers, got {dtype}.")
        if not _leads(shape, like.shape):
            raise ValueError(
                f"timesteps must have the leading axes of the latents {tuple(like.shape)} without the last, "
                f"got {tuple(shape)}."
            )
        timesteps = unexpanded(timesteps)
        axes = (*timesteps.shape, *(1,) * (like.ndim - len(shape)))
        index = timesteps.to(like.device, torch.int64).reshape(-1)
        tables = self._cast_to(like.device, like.dtype)
        try:  # indexing fails for steps out of range; a check beforehand would wait for the GPU
            if first and readable(index) and _least(index) < first:
                raise IndexError
            return [tables[name].index_select(0, index).view(axes) for name in names]
        except (IndexError, RuntimeError) as error:
            bounds = f"{int(timesteps.min())}..{int(timesteps.max())}"
            raise ValueError(f"timesteps must lie in {first}..{self.num_timesteps}, got {bounds}.") from error

    def _cast_to(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """Cast the tables and cache the result, unless a tracer or inference mode created it."""
        tables = self._cast.get((device, dtype))
        if tables is None:
            tables = {name: table.to(device, dtype) for name, table in self.exact.items()}
            if all(_ordinary(table) for table in tables.values()):
                self._cast[device, dtype] = tables
        return tables


def unexpanded(timesteps: Tensor) -> Tensor:
    """Reduce every expanded axis to size 1, so that functions of the step are computed once."""
    for axis, stride in enumerate(timesteps.stride()):
        if stride == 0:
            timesteps = timesteps.narrow(axis, 0, min(1, timesteps.shape[axis]))
    return timesteps


def readable(tensor: Tensor) -> bool:
    """Whether the values can be read without waiting: the tensor is on the CPU and is not traced."""
    return not torch.compiler.is_compiling() and type(tensor) is Tensor and tensor.device.type == "cpu"


def _ordinary(tensor: Tensor) -> bool:
    """Whether the tensor can be used after the current mode or trace ends."""
    return not torch.compiler.is_compiling() and type(tensor) is Tensor and not tensor.is_inference()


def _least(index: Tensor) -> int:
    """Smallest value; a value that is never too small if the tensor cannot be read."""
    try:
        return int(index if index.numel() == 1 else index.min()) if index.numel() else MAX_TIMESTEPS
    except RuntimeError:  # under torch.func.vmap
        return MAX_TIMESTEPS


def _leads(shape: torch.Size, latents: torch.Size) -> bool:
    axes = len(shape)
    return axes < len(latents) and (
        shape == latents[:axes] or all(a in (1, b) for a, b in zip(shape, latents, strict=False))
    )
