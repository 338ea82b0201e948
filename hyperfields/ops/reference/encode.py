"""Definition of `hash_encode` and `encode_mlp`: the formulas at the head of `ops/grid.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperfields.ops.grid import PRIMES, GridSpec
from hyperfields.ops.reference import mlp
from hyperfields.ops.reference.packing import owners, pad_rows

_UINT32 = 0xFFFFFFFF


def hash_encode(x: Tensor, table: Tensor, grid: GridSpec, counts: Tensor) -> Tensor:
    """Features `[m l*f]` of points x `[m d]`; table `[s | 1, rows, f]`, counts `[s]`."""
    points, x = x.shape[0], x[: int(counts.sum())]
    scene = owners(counts) if table.shape[0] > 1 else torch.zeros_like(x[:, 0], dtype=torch.long)
    columns = []
    for level, scale in enumerate(grid.scales):
        position = x * scale + 0.5
        cell = position.detach().floor()
        weight = position - cell
        if grid.smoothstep:
            weight = weight * weight * (3.0 - 2.0 * weight)
        corner_cell = cell.long()
        rows = grid.offsets[level + 1] - grid.offsets[level]
        column = torch.zeros(())
        for corner in range(2**grid.dims):
            high = torch.tensor([corner >> d & 1 for d in range(grid.dims)], device=x.device)
            index = _row(corner_cell + high, grid, level) % rows + grid.offsets[level]
            blend = torch.where(high.bool(), weight, 1.0 - weight).prod(-1, keepdim=True)
            column = blend * table[scene, index] + column.to(x)
        columns.append(column)
    return pad_rows(torch.cat(columns, -1), points)


def _row(vertex: Tensor, grid: GridSpec, level: int) -> Tensor:
    """Row `[m]` of integer vertices `[m d]` before the modulo, with uint32 wrap-around."""
    row = torch.zeros_like(vertex[:, 0])
    stride = 1
    for d in range(grid.dims):
        coordinate = vertex[:, d] & _UINT32
        if grid.is_dense(level):
            row = (row + coordinate * stride) & _UINT32
            stride *= grid.resolutions[level]
        else:
            row = row ^ (coordinate * PRIMES[d] & _UINT32)
    return row


def encode_mlp(x: Tensor, table: Tensor, grid: GridSpec, layers: mlp.Layers, activation: str, counts: Tensor) -> Tensor:
    """Outputs `[m o]` of `batched_mlp` for the features of `hash_encode` at x `[m d]`."""
    return mlp.batched_mlp(hash_encode(x, table, grid, counts), layers, activation, counts)
