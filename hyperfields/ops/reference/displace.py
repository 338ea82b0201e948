"""Definition of `displace`: a grid of displacements with one dense level, read by `hash_encode`."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

from hyperfields.ops.grid import GridSpec
from hyperfields.ops.reference import encode

GAIN = 0.2  # displacement over reach that a 1 in a table stands for, so that all grids can have one learning rate


@functools.cache
def displacement_grid(dims: int, cells: int) -> GridSpec:
    """Layout of a table of displacements: a row for each vertex of `cells` a side, and a layer before them.

    Positions of `hash_encode` are shifted by half a cell and would wrap around at the sides.
    """
    vertices = cells + 2
    log2_table = max(math.ceil(math.log2(vertices**dims + 8)), 3)
    return GridSpec.make(dims, 1, dims, log2_table, vertices, 1.0)


def place(x: Tensor, cells: int) -> Tensor:
    """Points of [0, 1]^d where the table has them: vertex i of the cells is vertex i + 1 of the table."""
    return (x * cells + 0.5) / (cells + 1)


def bounded(x: Tensor, raw: Tensor, reach: float) -> Tensor:
    """Points moved by what the table has for them, each coordinate by less than `reach`; those that leave stop."""
    return (x + reach * torch.tanh(GAIN * raw)).clamp(0.0, 1.0)


def displace(x: Tensor, table: Tensor, cells: int, reach: float, counts: Tensor) -> Tensor:
    """Points x `[m d]` of [0, 1]^d, moved; table `[s | 1, rows, d]`, counts `[s]`."""
    grid = displacement_grid(x.shape[1], cells)
    return bounded(x, encode.hash_encode(place(x, cells), table, grid, counts), reach)
