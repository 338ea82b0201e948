"""Rows of a large table in any order: reads that wait for memory, on all threads."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor

from hyperfields.ops._cpu.threads import parallel


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(table, rows, out, lo, hi):
    """out[i] = table[rows[i]]; returns how many rows there are not."""
    missing = 0
    for i in range(lo, hi):
        row = rows[i]
        if row < 0 or row >= table.shape[0]:
            missing += 1
            continue
        for j in range(table.shape[1]):
            out[i, j] = table[row, j]
    return missing


def gather_rows_cpu(table: Tensor, rows: Tensor) -> Tensor:
    """table `[n c]`, rows `[k]` int64 -> `[k c]`.

    Raises:
        IndexError: a row that the table has not.
    """
    out = torch.empty(len(rows), table.shape[1], dtype=table.dtype)
    source, order, target = table.detach().numpy(), rows.numpy(), out.numpy()
    missing: list[int] = []

    def task(lo: int, hi: int) -> None:
        missing.append(_gather(source, order, target, lo, hi))

    parallel(task, len(order), 4 * int(np.prod(target.shape)))  # a read from anywhere takes as long as several
    if any(missing):
        raise IndexError(f"rows: {sum(missing)} of {len(order)} are not among the {len(source)} of the table")
    return out
