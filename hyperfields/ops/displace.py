"""`displace`: points moved by a displacement field of each scene's own, before a grid is read."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from hyperfields.ops.dispatch import Backend
from hyperfields.ops.encode import hash_encode
from hyperfields.ops.reference import displace as reference
from hyperfields.ops.reference.displace import displacement_grid as displacement_grid


class Displacement(NamedTuple):
    """A displacement field of each scene: its table, cells along a side of it, and a bound as a share of the box."""

    table: Tensor  # [s | 1, rows, d], rows of `displacement_grid`
    cells: int
    reach: float


def displace(
    x: Tensor,  # [s n d], or [m d] with counts
    field: Displacement,
    *,
    counts: Tensor | None = None,  # [s]
    backend: Backend = "auto",
) -> Tensor:  # as x
    """Points of [0, 1]^d moved by `reach tanh(gain d(x))`, with d interpolated between the vertices of the cells.

    Points that would leave the box stop at its side. Differentiable as `hash_encode` is, in x and in the table.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, or a backend that cannot run.
    """
    grid = displacement_grid(x.shape[-1], field.cells)
    raw = hash_encode(reference.place(x, field.cells), field.table, grid, counts=counts, backend=backend)
    return reference.bounded(x, raw, field.reach)
