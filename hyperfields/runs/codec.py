"""Numbers in files: 16 bits each for what a run is made of. Reading gives 32 bits back."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def encode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as they are stored: floating point at 16 bits, whole numbers as they are."""
    return {name: _stored(value.detach()).contiguous() for name, value in tensors.items()}


def decode(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Stored tensors as they are computed with."""
    return {name: value.float() if value.is_floating_point() else value for name, value in tensors.items()}


def round_trip(value: Tensor) -> Tensor:
    """A tensor as it comes back from a file."""
    return _stored(value).to(value.dtype)


def _stored(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value
